"""Where bridges stand: one at the last level, others near rates that are asked for on the way."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robustcore.rare.bridge import Bridge
from robustcore.rare.path import LEVELS, Path
from robustcore.rare.pooling import pooled
from robustcore.rare.splitting import Splitting

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

APART = float(np.log(99))  # in the log rate, at least, from the next bridge below
LATEST = 0.5  # of a level: so far above a rate its bridge may stand
KINDS = ("log_rate", "variance", "terms", "share")


class Crossings:
    """The bridges of one descent, `settled` being called at its levels.

    found (R, LEVELS) by name: as bridge.Crossing, nan at levels without a bridge.
    """

    def __init__(self, bridge: Bridge, down: Splitting, log_rates: Floats) -> None:
        self.bridge, self.down = bridge, down
        self.wanted = wanted(log_rates)
        count = len(down.sigma)
        self.next = np.zeros(count, np.int64)  # of those wanted
        self.before = np.zeros(count, np.int64)  # levels when the last bridge was built
        self.found = {kind: np.full((count, LEVELS), np.nan) for kind in KINDS}

    def settled(self, at: Ints) -> None:
        """Bridges at the level of images `at`, whose particles have moved, where one is wanted."""
        log_rate = self.down.log_rate[at]
        passed = (log_rate[:, None] - LATEST * self.down.depth < self.wanted).sum(1)
        due = passed > self.next[at]
        self.next[at] = np.maximum(self.next[at], passed)
        self._cross(at[due])

    def ended(self, path: Path) -> Path:
        """The path with bridges at the last levels too, and its curve told by all of them."""
        reached = np.isfinite(path.curve.sigma).any(1) & ~path.dead
        self._cross(np.flatnonzero(reached & (self.before < self.down.number)))
        known = [self.down.errors(self.found[kind]) for kind in KINDS[:3]]
        last = np.maximum(self.down.number - 1, 0)
        end = {kind: value[np.arange(len(last)), last] for kind, value in self.found.items()}
        return path.bridged(pooled(path.curve, *known), end)

    def _cross(self, at: Ints) -> None:
        if not len(at):
            return
        down = self.down
        levels = down.number[at] - self.before[at]
        spent = levels * (down.moves + 1) * down.particles.n  # as many as splitting
        crossing = self.bridge.cross(
            at, down.sigma[at], down.log_rate[at], down.families[at], spent
        )
        for kind in KINDS:
            self.found[kind][at, down.number[at] - 1] = getattr(crossing, kind)
        self.before[at] = down.number[at]


def wanted(log_rates: Floats) -> Floats:
    """Of the log rates asked for those to build bridges near on the way down, from above."""
    chosen: list[float] = []
    below = float(np.min(log_rates, initial=0.0))
    for each in np.sort(log_rates):
        if each - below >= APART and each <= -APART:
            chosen.append(float(each))
            below = float(each)
    return np.array(chosen[::-1])
