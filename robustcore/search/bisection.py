"""The paper's search for sigma(x0, mu): the error rate of the same draws at every guess."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robustcore.search.radii import Floats, Plan
from robustcore.stats import order_ranks, target_rank

FIRST_GUESS = 0.1  # of sigma_max
RESOLUTION = 0.001  # of sigma_max
FINE = 0.01  # of sigma, where that is below the resolution


def step(
    low: Floats, high: Floats, guess: Floats, over: NDArray[np.bool_], sigma_max: float
) -> tuple[Floats, Floats, Floats]:
    """(low, high, next guess): where the rate at `guess` is over the target it bounds from above.

    The next guess then halves towards the lower end; else it is the smaller of twice itself and
    the midpoint.
    """
    low, high = np.where(over, low, guess), np.where(over, guess, high)
    middle = (low + np.minimum(high, sigma_max)) / 2
    return low, high, np.where(over, middle, np.minimum(2 * guess, middle))


class Bisection:
    """The paper's procedure: all N draws at every guess, until the bracket is narrow.

    First guess 0.1 sigma_max; a guess is over where more than mu N draws err; stop at a bracket of
    0.001 sigma_max.

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
        sigma, over = self.sigma[rows], errors > self.allowed
        self.error_rate[rows] = np.where(over, self.error_rate[rows], errors / self.samples)
        first, last = self.bounds[:, rows]
        self.bounds[0, rows] = np.where(errors < self.ranks[0], np.maximum(first, sigma), first)
        self.bounds[1, rows] = np.where(errors >= self.ranks[1], np.minimum(last, sigma), last)
        low, high = self.bracket[:, rows]
        low, high, guess = step(low, high, sigma, over, self.sigma_max)
        self.bracket[:, rows], self.sigma[rows] = (low, high), guess
        self.round += 1
        narrow = np.minimum(high, self.sigma_max) - low <= self._resolution(high)
        self.active[rows[narrow | (self.fresh and self.round == self.most_rounds)]] = False

    def _resolution(self, high: Floats) -> Floats:
        """Width of a bracket to stop at: below a usual one, which would hold 0, a share of it."""
        usual = RESOLUTION * self.sigma_max
        return np.where(high > usual, usual, FINE * high)
