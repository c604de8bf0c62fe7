"""Numbers of draws at which a search may stop, and the ranks that bound its quantile there."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri

from robustcore.search.radii import Floats, Ints
from robustcore.stats import group_ranks, order_ranks, target_rank

FEWEST = 256  # draws, and errors expected among them, at the first look
FEWEST_ERRORS = 8


class Looks:
    """`draws` (J,), increasing to `samples`; `ranks` (J, 3): l, k, u of sigma and its interval.

    Without rtol there is one look. With it halves of `samples` are looks too, and the interval
    holds at all of them at once, so that a search may stop at any.
    """

    def __init__(self, samples: int, rate: float, confidence: float, rtol: float | None) -> None:
        draws = [samples]
        while rtol is not None and draws[0] // 2 >= max(FEWEST, FEWEST_ERRORS / rate):
            draws.insert(0, draws[0] // 2)
        self.draws = np.array(draws)
        bounds = group_ranks if len(draws) > 1 else order_ranks
        low, high = bounds(self.draws, rate, confidence)
        self.ranks: Ints = np.stack([low, target_rank(self.draws, rate), high], 1)
        ends = np.clip((self.ranks[:, ::2] - 0.5) / self.draws[:, None], 0, 1)
        self.z_width = ndtri(ends[:, 1]) - ndtri(ends[:, 0])

    def first_narrow(self, steep: Floats, seen: Ints, rtol: float) -> Ints:
        """The first look not yet passed whose interval should be narrow enough, else the last."""
        wide = self.z_width / (2 * steep[:, None]) > rtol
        wide |= self.draws < seen[:, None]
        return np.where(wide.all(1), len(self.draws) - 1, wide.argmin(1))
