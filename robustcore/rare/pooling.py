"""One curve from all that is known of it: splitting from above, and bridges at some of its levels.

Splitting tells how the log rate falls from level to level, a bridge what it is at one. What either
says of another level is less sure by what splitting is unsure of between the two. All of it is
pooled by inverse variances, forward from the first level and back from the last.

Sources: Graybill and Deal, Biometrics 15 (1959); Meier, Biometrics 9 (1953), for what weights that
are estimated add to the variance.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from robustcore.rare.curve import Curve, height

Floats = NDArray[np.float64]

UNKNOWN = 1e6  # variance of a log rate that nothing is known of
EXACT = 1e-12


@dataclass(frozen=True)
class Guess:
    """Of R images: what to add to a log rate of splitting, its variance, degrees of freedom."""

    shift: Floats
    variance: Floats
    degrees: Floats

    def loosened(self, variance: Floats, degrees: Floats) -> Guess:
        """With an independent error more."""
        total = np.maximum(self.variance + variance, EXACT)
        square = self.variance**2 / self.degrees + variance**2 / degrees
        return Guess(self.shift, total, total**2 / np.maximum(square, EXACT**2))

    def pooled(self, other: Guess) -> Guess:
        total = self.variance + other.variance
        share, rest = other.variance / total, self.variance / total
        square = share**2 / self.degrees + rest**2 / other.degrees
        doubt = 4 * share * rest * (1 / self.degrees + 1 / other.degrees)
        return Guess(
            share * self.shift + rest * other.shift,
            self.variance * share * (1 + doubt),
            1 / np.maximum(square, EXACT),
        )

    def where(self, chosen: NDArray[np.bool_], other: Guess) -> Guess:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Guess(*(np.where(chosen, mine, its) for mine, its in pairs))


def pooled(curve: Curve, log_rate: Floats, variance: Floats, terms: Floats) -> Curve:
    """The curve of splitting with bridges (R, L) at some of its levels, nan at the others.

    terms (R, L): effective number that a bridge's variance rests on.
    """
    count, levels = curve.sigma.shape
    known = np.isfinite(curve.sigma)
    has = known & np.isfinite(log_rate) & np.isfinite(variance)
    bridges = [
        Guess(
            np.where(has, log_rate - curve.log_rate, 0.0)[:, k],
            np.where(has, np.maximum(variance, EXACT), UNKNOWN)[:, k],
            np.where(has, np.maximum(terms - 1, 1.0), 1.0)[:, k],
        )
        for k in range(levels)
    ]
    own = np.where(known, curve.variance, 0.0)
    left = np.where(known, np.maximum(curve.families, 1.0), 1.0)
    _, least = curve.steps()
    way = np.cumsum(least, 1) - least  # from the first level: 0 there

    def swept(guess: Guess, order: range, start: int | None) -> list[Guess]:
        """What the levels before each in this order tell of it, its own bridge left out."""
        told = []
        at = np.zeros((3, count)) if start is None else np.stack([own, way, left])[..., start]
        for k in order:
            step = np.maximum(np.abs(own[:, k] - at[0]), np.abs(way[:, k] - at[1]))
            degrees = left[:, k] if start is None else at[2]  # those of the lower of both levels
            told.append(guess.loosened(step, degrees))
            guess = told[-1].pooled(bridges[k]).where(has[:, k], guess)
            at = np.where(has[:, k], np.stack([own, way, left])[..., k], at)
        return told

    sure = Guess(np.zeros(count), np.zeros(count), np.full(count, 1 / EXACT))
    blank = Guess(np.zeros(count), np.full(count, UNKNOWN), np.ones(count))
    forward = swept(sure, range(levels), None)
    back = swept(blank, range(levels)[::-1], levels - 1)[::-1]
    found = [a.pooled(b).pooled(c) for a, b, c in zip(forward, bridges, back, strict=True)]
    shift, total, degrees = (
        np.stack([getattr(each, name) for each in found], 1)
        for name in ("shift", "variance", "degrees")
    )
    log_rate = np.where(known, np.minimum(curve.log_rate + shift, np.log(0.9)), np.nan)
    return replace(
        curve,
        slope=_slope(curve, log_rate),
        log_rate=log_rate,
        variance=np.where(known, total, np.nan),
        families=np.where(known, degrees, np.nan),
    )


def _slope(curve: Curve, log_rate: Floats) -> Floats:
    """Of h in 1/sigma over the last two steps: one alone is half as sure."""
    rows, last = np.arange(len(log_rate)), np.isfinite(log_rate).sum(1) - 1
    first = np.maximum(last - 2, 0)
    rise = height(log_rate[rows, last]) - height(log_rate[rows, first])
    run = 1 / curve.sigma[rows, last] - 1 / curve.sigma[rows, first]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where((last >= 2) & (rise > 0), rise / run, curve.slope)
