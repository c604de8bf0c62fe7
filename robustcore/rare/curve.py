"""An error rate along a descent in sigma, and how sure it is: numbers alone, in log space.

Between levels, the normal quantile h = -Phi^-1(rate) is taken to be linear in 1/sigma, as it is
exactly where errors are a half-space. Rates are natural logarithms throughout: 1e-50 is no 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, ndtri_exp, stdtrit

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MOST = 0.98  # relative variance of a rate that one family bears alone
SURE = 4.0  # standard deviations
FLATTEST = 0.3  # least h that a line through the origin is drawn from


def height(log_rate: Floats) -> Floats:
    """-Phi^-1(exp(log_rate))."""
    return np.asarray(-ndtri_exp(log_rate))


def log_rate_of(h: Floats) -> Floats:
    return np.asarray(log_ndtr(-h))


def family_variance(shares: Floats) -> tuple[Floats, Floats]:
    """(variance of the log rate, effective number of families) of shares (R, F) of F families.

    A rate estimated by splitting is the mean, over its first draws, of what the family of each
    contributes; families are independent but for their competition. shares: of the last survivors,
    by family, each row summing to 1. Source: Lee and Whiteley, Biometrika 105 (2018), whose
    estimate is unbiased for E[(estimate - rate)^2]: a share of E[estimate^2], not of rate^2.
    """
    first = shares.shape[1]
    squares = np.square(shares).sum(1)
    relative = (squares - 1 / first) * first / (first - 1)
    return -np.log1p(-np.clip(relative, 0.0, MOST)), 1 / np.maximum(squares, 1e-300)


def quantile(confidence: float, families: Floats) -> Floats:
    """Of Student's t, with a degree for each family."""
    return np.asarray(stdtrit(np.maximum(families, 1.0), 0.5 + confidence / 2))


@dataclass(frozen=True)
class Curve:
    """Levels of R images: (R, L) arrays, nan beyond an image's last; sigma falls along a row.

    slope (R,): of h in 1/sigma beyond the last level. particles: of a level.
    """

    sigma: Floats
    log_rate: Floats
    variance: Floats
    families: Floats
    slope: Floats
    particles: int = 1

    def steps(self) -> tuple[Floats, Floats]:
        """(fall of the log rate, least variance of it) from each level (R, L) to the next."""
        fall = np.maximum(-np.diff(self.log_rate, axis=1, append=np.nan), 1e-9)
        return fall, np.nan_to_num(np.expm1(fall) / self.particles)

    def _beyond(self, gap: Floats) -> Floats:
        """Variance that the last slope adds when the log rate falls by gap (R, G) below the end."""
        count = self._count()
        if self.sigma.shape[1] < 2:
            return np.zeros_like(gap)
        before = np.clip(count - 2, 0, None)
        fall, least = (np.take_along_axis(each, before, 1) for each in self.steps())
        rise = np.take_along_axis(np.diff(self.variance, axis=1, append=np.nan), before, 1)
        known = (count > 1) & np.isfinite(fall)
        share = np.where(known, np.maximum(gap, 0.0) / np.where(known, fall, 1.0), 0.0)
        return np.asarray(share**2 * np.fmax(np.where(known, rise, 0.0), least))

    def at_sigma(self, sigma: Floats) -> tuple[Floats, Floats, Floats]:
        """(log rate, its variance, families) at sigma (R, G)."""
        known = np.isfinite(self.sigma)[:, None]
        above = (known & (self.sigma[:, None] >= sigma[..., None])).sum(2)
        x, y = 1 / self.sigma, height(self.log_rate)
        h, variance, families = self._between(above, 1 / sigma, x, y, self._slopes())
        found = log_rate_of(h)
        return found, variance + self._beyond(self._end() - found), families

    def at_rate(self, log_rate: Floats) -> tuple[Floats, Floats, Floats]:
        """(sigma, variance of the log rate there, families) at log rates (R, G).

        The first place, from above, where the rate falls to it.
        """
        h = np.where(np.isfinite(self.sigma), height(self.log_rate), -np.inf)
        reached = h[:, None] > height(log_rate)[..., None]
        above = np.where(reached.any(2), reached.argmax(2), self._count())
        slopes = 1 / self._slopes()
        found = self._between(above, height(log_rate), h, 1 / self.sigma, slopes)
        inverse, variance, families = found
        variance = variance + self._beyond(self._end() - log_rate)
        return 1 / np.maximum(inverse, 1e-300), variance, families

    def _end(self) -> Floats:
        """(R, 1): log rate of the last level."""
        return np.take_along_axis(self.log_rate, np.maximum(self._count() - 1, 0), 1)

    def _count(self) -> Ints:
        return np.isfinite(self.sigma).sum(1)[:, None]

    def _slopes(self) -> Floats:
        """(2, R, 1): of h in 1/sigma above the first level and below the last."""
        first = self.sigma[:, 0] * np.maximum(height(self.log_rate[:, 0]), FLATTEST)
        return np.stack([first, self.slope])[..., None]

    def _between(
        self, above: Ints, at: Floats, x: Floats, y: Floats, slopes: Floats
    ) -> tuple[Floats, Floats, Floats]:
        """y at x = `at`, linear between levels above - 1 and above; straight on beyond both ends.

        Variance and families are those between too, and those of the end beyond it.
        """
        count = self._count()
        first, second = np.clip(above - 1, 0, count - 1), np.clip(above, 0, count - 1)
        x0, x1, y0, y1 = (np.take_along_axis(a, i, 1) for a in (x, y) for i in (first, second))
        known = count > 0  # of others nothing is
        x0, x1 = np.where(known, x0, 0.0), np.where(known, x1, 0.0)
        step = np.where(x1 > x0, x1 - x0, np.inf)
        share = np.clip((at - x0) / step, 0.0, 1.0)
        beyond = np.where(above == 0, slopes[0], slopes[1]) * (at - x0)
        found = np.where((above == 0) | (above == count), y0 + beyond, y0 + share * (y1 - y0))
        (v0, v1), (f0, f1) = (
            [np.take_along_axis(each, i, 1) for i in (first, second)]
            for each in (self.variance, self.families)
        )
        # what a step adds is independent of what came before: it grows with the square of the way
        way = np.where(v1 >= v0, share, 1 - share)
        variance = np.minimum(v0, v1) + way**2 * np.abs(v1 - v0)
        families = (1 - share) * f0 + share * f1
        return found, variance, families

    def rate_interval(self, sigma: Floats, confidence: float) -> tuple[Floats, Floats, Floats]:
        """(log rate, low, high) at sigma (R, G)."""
        log_rate, variance, families = self.at_sigma(sigma)
        half = quantile(confidence, families) * np.sqrt(variance)
        middle = log_rate + variance / 2  # the mean of a lognormal is above its median
        return log_rate, np.minimum(middle - half, log_rate), np.minimum(middle + half, 0.0)

    def sigma_interval(self, log_rate: Floats, confidence: float) -> tuple[Floats, Floats, Floats]:
        """(sigma, low, high) at log rates (R, G)."""
        _, variance, families = self.at_rate(log_rate)
        half = quantile(confidence, families) * np.sqrt(variance)
        middle = log_rate - variance / 2
        least = np.log(0.75)
        sigma, low, high = (
            self.at_rate(np.minimum(each, least))[0]
            for each in (middle, middle - half, middle + half)
        )
        # where the first level's rate is surely above, no higher sigma has this rate again
        first = self.log_rate[:, :1] - SURE * np.sqrt(self.variance[:, :1])
        start = np.where(log_rate < first, self.sigma[:, :1], np.inf)
        return sigma, np.fmin(low, start), np.fmin(high, start)

    def support(self) -> Floats:
        """(R,): families, or terms, that the log rate of the last level rests on."""
        last = np.maximum(self._count() - 1, 0)
        return np.asarray(np.take_along_axis(self.families, last, 1)[:, 0])
