"""Brackets of order statistics of the radii, by evaluating the draws that can change them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from robustcore.search.bisection import FIRST_GUESS, RESOLUTION, step
from robustcore.search.radii import Bools, Floats, Ints, Radii

FINE, COARSE = 0.01, 0.006  # width as a share of sigma: of the quantile's bracket, of its bounds'
WELL_BELOW = 0.8  # of sigma: such guesses are looked at by themselves
AT_ONCE, FEW = 24, 2  # the least sure draws of an end, in each of the first rounds
BOUND_ROUNDS = 6
BOUND_SURE = 2.0  # a bound is taken to be sure so much sooner


class Brackets:
    """`found` (B, 3, 2): brackets of ranks l, k, u of each image.

    A bracket is where the paper's bisection would end, and narrower: fewer than k draws err at its
    lower end, k or more at its upper one. Draws whose side of an end is not sure are evaluated
    there, until what is sure suffices.
    """

    def __init__(self, radii: Radii) -> None:
        self.radii = radii
        self.found = np.zeros((len(radii.slope), 3, 2))

    def plan(self, images: Ints, ranks: Ints, rounds: Ints) -> tuple[Floats, Bools]:
        """Sigma at which to evaluate each draw (I, N), inf for none, of ranks (I, 3).

        Second, which images are done (I,). `rounds` (I,): how many each has had.
        """
        radius = self.radii.infer(images)
        width = np.repeat([COARSE, FINE, COARSE], len(images))
        found = bracket_of(_ranked(radius, ranks).ravel(), self.radii.sigma_max, width)
        self.found[images] = found.reshape(2, 3, -1).transpose(2, 1, 0)
        plan, done = np.full(radius.shape, np.inf), np.ones(len(images), bool)
        for j in (1, 2, 0):
            rank, (low, high) = ranks[:, j], self.found[images, j].T
            # of a bound, only the outer end need be sure
            ends = ((high, True),) * (j > 0) + ((low, False),) * (j < 2)
            for end, upper in ends:
                open_ = np.flatnonzero((end > 0) & np.isfinite(end))
                sure = self.radii.certainty(images[open_], end[open_])
                sure *= 1 if j == 1 else BOUND_SURE
                conflict = (radius[open_] <= end[open_, None]) != (sure <= 0)
                ask = _doubtful(
                    sure, conflict, rank[open_], upper, (rounds[open_] < FEW) | (j != 1)
                )
                patient = rounds[open_] < (np.inf if j == 1 else BOUND_ROUNDS)
                ask &= np.logical_or(patient, self.radii.blind[images[open_]])[:, None]
                done[open_[ask.any(1)]] = False
                plan[open_] = np.where(ask & np.isinf(plan[open_]), end[open_, None], plan[open_])
        return plan, done


def _doubtful(sure: Floats, conflict: Bools, rank: Ints, upper: bool, few: Bools) -> Bools:
    """Draws (I, N) to evaluate at an end, none where it is sure to be one.

    At an upper end at least `rank` draws must err, at a lower one fewer: what counts are draws that
    should err there and may not, or should not and may.
    """
    unsure = np.abs(sure) < 1
    err, may = (sure <= -1).sum(1), (sure < 1).sum(1)
    proven: Bools = err >= rank if upper else may < rank
    doubt = unsure & (sure <= 0 if upper else sure >= 0)
    for more in (unsure, conflict):
        doubt = np.where(doubt.any(1, keepdims=True), doubt, more)
    least = np.where(doubt & ~proven[:, None], np.abs(sure), np.inf)
    last = min(AT_ONCE, least.shape[1] - 1)
    most = np.partition(least, last, 1)[:, last]
    most = np.where(few, most, np.inf)
    return np.isfinite(least) & (least <= most[:, None])


def bracket_of(radius: Floats, sigma_max: float, width: Floats | float) -> Floats:
    """(2, I): where the paper's bisection ends, on a rate that passes its target at `radius`.

    It goes on until the bracket is narrower than `width`, a share of the radius, too.
    """
    low = np.zeros(len(radius))
    high = np.where(radius > 0, np.inf, 0.0)
    for _, ends in _walk(radius, sigma_max, width):
        low, high = ends
    high = np.where(np.isinf(high) & (radius <= sigma_max), sigma_max, high)
    return np.stack([np.where(np.isinf(high), sigma_max, low), high])


def passed_below(radius: Floats, sigma_max: float, count: int) -> Floats:
    """(I, count): the last guesses of the paper's bisection well below `radius`, NaN for none."""
    passed = np.full((len(radius), count), np.nan)
    for guess, _ in _walk(radius, sigma_max, np.inf):
        new = guess < WELL_BELOW * radius
        passed = np.where(new[:, None], np.column_stack([passed[:, 1:], guess]), passed)
    return passed


def _walk(
    radius: Floats, sigma_max: float, width: Floats | float
) -> Iterator[tuple[Floats, Floats]]:
    """Each step of the paper's bisection: the guess (I,), NaN when at the end, and the bracket."""
    low, high = np.zeros(len(radius)), np.where(radius > 0, np.inf, 0.0)
    guess = np.full(len(radius), FIRST_GUESS * sigma_max)
    narrow = np.minimum(width * radius, RESOLUTION * sigma_max)
    while (active := np.minimum(high, sigma_max) - low > narrow).any():
        over = radius <= guess
        ends = step(low, high, guess, over, sigma_max)
        now = np.where(active, guess, np.nan)
        low, high, guess = (
            np.where(active, v, old) for v, old in zip(ends, (low, high, guess), strict=True)
        )
        yield now, np.stack([low, high])


def _ranked(radius: Floats, ranks: Ints) -> Floats:
    """(3, I): entries of 1-based ranks (I, 3) of each row; 0 for rank 0, inf beyond the last."""
    n = radius.shape[1]
    at = np.clip(ranks - 1, 0, n - 1)
    value = np.take_along_axis(np.partition(radius, np.unique(at), 1), at, 1)
    return np.where(ranks < 1, 0.0, np.where(ranks > n, np.inf, value)).T
