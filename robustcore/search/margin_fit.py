"""A quantile of the radii from a fit to all of them, where they look normal enough.

Margins of a network in Gaussian noise are close to normal, so the reciprocal radii inferred from
them are too, and a fit uses every draw where order statistics use the few in the tail. What
departs from the normal is allowed for: skewness enters the quantile (Cornish and Fisher, 1938),
shrunk towards 0 by what was seen on networks, with its uncertainty in the interval; and draws
whose skewness or kurtosis is beyond that are refused, so that order statistics decide.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from robustcore.search.radii import Floats, Ints

SKEWNESS = 0.1  # standard deviation over images of ResNet-20s, near sigma(x0, 0.01)
SLOPE_ERROR = 0.3  # relative standard error of the slope along which radii are inferred
BELL = 1.5  # largest skewness of margins that radii are inferred from
TWO_VALUES = 0.5  # least of kurtosis - skewness^2 - 1: 0 of two values (Pearson), 2 of a normal
REFUSED = 2.5  # standard errors of skewness, of kurtosis, of the number of errors at sigma


class MarginFit:
    """sigma(x0, rate) of images from the reciprocal radii of their draws."""

    def __init__(self, rate: float, confidence: float) -> None:
        self.rate, self.z = rate, -float(ndtri(rate))
        self.quantile = float(ndtri((1 + confidence) / 2))
        self.skew_weight = (self.z**2 - 1) / 6

    def half_width(self, n: Floats, steep: Floats) -> Floats:
        """Relative half-width of the interval for sigma from n draws.

        steep: 1 / (sigma * deviation of the reciprocal radii), the fall of mean / deviation of the
        margins per log sigma.
        """
        skew_variance = 1 / (n / 6 + SKEWNESS**-2)
        variance = (1 + self.z**2 / 2) / n + self.skew_weight**2 * skew_variance
        return self.quantile * np.sqrt(variance) / steep

    def draws_needed(self, steep: Floats, rtol: float, most: int) -> NDArray[np.int64]:
        """Draws for a half-width of rtol, `most` + 1 where that many do not suffice."""
        n = np.arange(32, most + 32, 32)
        wide = self.half_width(n[None].astype(float), np.asarray(steep)[:, None]) > rtol
        return np.where(wide.all(1), most + 1, np.minimum(n[np.argmin(wide, 1)], most))

    def __call__(
        self, reciprocal: Floats, at: Floats
    ) -> tuple[Floats, Floats, Floats, Floats, NDArray[np.bool_]]:
        """(sigma, low, high, steep, normal), each (I,), of 1 / r (I, N), NaN where unseen.

        at (I, N): where they were evaluated. How far that is from sigma enters the interval, as the
        slope along which the radii were inferred is not known well.
        """
        n = (~np.isnan(reciprocal)).sum(1).astype(float)
        with np.errstate(all="ignore"):
            mean = np.nansum(reciprocal, 1) / n
            centred = reciprocal - mean[:, None]
            m2, m3, m4 = (np.nansum(centred**k, 1) / n for k in (2, 3, 4))
            deviation = np.sqrt(m2 * n / (n - 1))
            skew, kurtosis = m3 / m2**1.5, m4 / m2**2 - 3
            shrunk = skew * (n / 6) / (n / 6 + SKEWNESS**-2)
            middle = mean + deviation * (self.z + self.skew_weight * shrunk)
            half = self.half_width(n, 1 / deviation)
            centre = np.nanmean(np.where(np.isnan(reciprocal), np.nan, at), 1)
            away = np.abs(np.log(centre * middle))
            half = np.hypot(half, self.quantile * SLOPE_ERROR * away * middle)
            normal = np.abs(skew) <= REFUSED * np.sqrt(6 / n + SKEWNESS**2)
            normal &= np.abs(kurtosis) <= REFUSED * np.sqrt(24 / n)
            normal &= middle - half > 0
            errors, expected = (reciprocal >= middle[:, None]).sum(1), self.rate * n
            normal &= np.abs(errors - expected) <= REFUSED * np.sqrt(expected) + 1
            ends = 1 / np.stack([middle, middle + half, middle - half])
            return *ends, middle / deviation, normal


def bell_shaped(rows: Ints, margins: Floats) -> NDArray[np.bool_]:
    """Whether the margins of each image in `rows` are spread at all like a bell.

    Where they are not, as of one-hot answers or saturated probabilities, a margin says little of
    how far away an error is.
    """
    _, index, n = np.unique(rows, return_inverse=True, return_counts=True)
    with np.errstate(all="ignore"):
        centred = margins - (np.bincount(index, margins) / n)[index]
        square = centred * centred
        powers = square, square * centred, square * square
        m2, m3, m4 = (np.bincount(index, power) / n for power in powers)
        skew, kurtosis = m3 / m2**1.5, m4 / m2**2
        # half a bell has a skewness of 1
        few = kurtosis - skew**2 - 1 < TWO_VALUES
        return (np.abs(skew) < BELL) & (kurtosis < 3 + 2 * BELL**2) & ~few


def moments(rows: Ints, margins: Floats) -> tuple[Ints, Floats, Floats]:
    """(images, z = mean / deviation, deviation) of the margins of each image in `rows`."""
    images, index, n = np.unique(rows, return_inverse=True, return_counts=True)
    with np.errstate(all="ignore"):
        mean = np.bincount(index, margins) / n
        spread = np.bincount(index, (margins - mean[index]) ** 2) / np.maximum(n - 1, 1)
        z = mean / np.sqrt(spread)
    errors = np.bincount(index, ~(margins > 0))
    counted = -ndtri((errors + 0.5) / (n + 1))
    return images, np.where(np.isfinite(z), np.clip(z, -6, 6), counted), np.sqrt(spread)
