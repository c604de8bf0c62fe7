"""What a descent leaves behind: its levels, their curve, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from robustcore.rare.curve import Curve

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

LEVELS = 64  # of a record; 1e-15 takes 33 at a level probability of 0.35
LOWEST = float(np.log(1e-15))  # rates below are not told apart from 0
FIELDS = (
    *(f"level_{each}" for each in ("sigma", "log_rate", "margin", "variance", "lineages")),
    *("acceptance", "correlation", "nested"),
)  # of results.rare.Descent, level by level


@dataclass(frozen=True)
class Path:
    """What a descent found: Descent's arrays by name, the curve of its levels of error, warnings.

    The curve begins at level `first` (R,): those before it are levels of the margin. Where a
    descent ended early: dead (R,), for want of errors; short (R,), for want of levels.
    """

    levels: dict[str, Floats]
    curve: Curve
    first: Ints
    slow: Bools
    dead: Bools
    short: Bools
    bridge: dict[str, Floats] = field(default_factory=dict)

    def by_level(self, value: Floats) -> Floats:
        """What is said of the curve's levels (R, LEVELS), at their places among all levels."""
        place = np.arange(LEVELS) - self.first[:, None]
        moved = np.take_along_axis(value, np.maximum(place, 0), 1)
        return np.where(place >= 0, moved, np.nan)

    def bridged(self, curve: Curve, bridge: dict[str, Floats]) -> Path:
        return replace(self, curve=curve, bridge=bridge)
