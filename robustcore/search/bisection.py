"""The paper's search for sigma(x0, mu): the error rate of the same draws at every guess."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robustcore.search.radii import Floats, Plan
from robustcore.stats import order_ranks, target_rank

FIRST_GUESS = 0.1  # of sigma_max
RESOLUTION = 0.001  # of sigma_max


class Bisection:
    """The paper's procedure: all N draws at every guess, until the bracket is narrow.

    First guess 0.1 sigma_max; where more than mu N draws err the guess becomes the upper end and
    halves towards the lower one, else it becomes the lower end and the next guess is the smaller
    of twice itself and the midpoint; stop at a bracket of 0.001 sigma_max.

    `fresh` takes new draws at every guess, as randomised models need; the bounds then hold at all
    guesses at once.
    """

    most_rounds = 16

    def __init__(
        self,
        clean: Floats,
        rate: float,
        samples: int,
        sigma_max: float,
        confidence: float,
        fresh: bool,
    ) -> None:
        n = len(clean)
        self.samples, self.sigma_max, self.fresh = samples, sigma_max, fresh
        self.allowed = int(target_rank(samples, rate)) - 1
        if fresh:
            confidence = 1 - (1 - confidence) / self.most_rounds
        self.ranks = [int(v) for v in order_ranks(samples, rate, confidence)]
        self.bracket = np.stack([np.zeros(n), np.full(n, np.inf)])
        self.bounds = self.bracket.copy()
        self.sigma = np.full(n, FIRST_GUESS * sigma_max)
        self.error_rate = np.zeros(n)
        self.seen = np.full(n, samples)
        self.active = clean > 0
        self.round = 0

    @property
    def finished(self) -> NDArray[np.bool_]:
        return ~self.active

    def plan(self) -> Plan:
        rows = np.flatnonzero(self.active)
        samples = np.tile(np.arange(self.samples), len(rows))
        if self.fresh:
            samples += self.round * self.samples
        rows = rows.repeat(self.samples)
        return rows, self.sigma[rows], samples

    def update(self, margins: Floats) -> None:
        rows = np.flatnonzero(self.active)
        errors = (~(margins.reshape(len(rows), self.samples) > 0)).sum(1)
        sigma, above = self.sigma[rows], errors > self.allowed
        low, high = self.bracket[:, rows]
        low, high = np.where(above, low, sigma), np.where(above, sigma, high)
        self.error_rate[rows] = np.where(above, self.error_rate[rows], errors / self.samples)
        self.bracket[:, rows] = low, high
        first, last = self.bounds[:, rows]
        self.bounds[0, rows] = np.where(errors < self.ranks[0], np.maximum(first, sigma), first)
        self.bounds[1, rows] = np.where(errors >= self.ranks[1], np.minimum(last, sigma), last)
        top = np.minimum(high, self.sigma_max)
        middle = (low + top) / 2
        self.sigma[rows] = np.where(above, middle, np.minimum(2 * sigma, middle))
        self.round += 1
        narrow = top - low <= RESOLUTION * self.sigma_max
        self.active[rows[narrow | (self.fresh and self.round == self.most_rounds)]] = False
