"""How near noisy points are to errors: the record of `noisy_distance`."""

# ruff: noqa: RUF009 (per_image and shared make dataclass fields)

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from robustcore.geometry import isoperimetric_bound
from robustcore.results.record import StatusRecord, counted, known_median, per_image
from robustcore.stats import order_ranks

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def ratio(distance: Any, bound: Any) -> Floats:
    """distance over bound; nan where both are 0, or where there is no bound."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.isinf(bound), np.nan, np.divide(distance, bound))


@dataclass(frozen=True, repr=False, eq=False, kw_only=True)
class NoisyDistance(StatusRecord):
    """How far noisy copies of B images are from their nearest errors, beside the theorem's bound.

    distances (B, N): of each of N draws of N(x, sigma^2 I), l2, in pixel units of [0, 1], from the
    nearest error seen: 0 for a draw that is an error itself, inf where none was needed or found.
    They are upper bounds of the true distances; only those near the median are made small.

    distance: their median, the paper's eps*. By status:

    - "found": distance is a number;
    - "misclassified": the image itself is an error (with error_rate=, sigma and distance are 0);
    - "censored": the image withstands sigma_max, where it was measured;
    - "not_found": for half of the draws no error was found; distance is inf;
    - "masked": the same, and every gradient was zero or not finite.

    error_rate: n_errors / n_samples at sigma, the draws above among them, with Clopper-Pearson
    bounds rate_low and rate_high. distance_low and distance_high: order statistics of the
    distances, which hold the median of what the search finds; distance_high bounds the true median
    too, from above. Each interval is at `confidence`, by itself.
    """

    sigma: Floats = per_image(np.float64)
    distance: Floats = per_image(np.float64)
    distance_low: Floats = per_image(np.float64)
    distance_high: Floats = per_image(np.float64)
    error_rate: Floats = per_image(np.float64)
    rate_low: Floats = per_image(np.float64)
    rate_high: Floats = per_image(np.float64)
    n_errors: Ints = per_image(np.int64)
    n_samples: Ints = per_image(np.int64)
    n_forward: Ints = per_image(np.int64)
    n_backward: Ints = per_image(np.int64)
    distances: Floats = per_image(np.float64, "N")
    confidence: float

    derived: ClassVar[tuple[str, ...]] = ("bound", "bound_high", "ratio")
    statuses: ClassVar[tuple[str, ...]] = (
        "found", "misclassified", "censored", "not_found", "masked",
    )  # fmt: skip

    @property
    def bound(self) -> Floats:
        """The Gaussian isoperimetric bound of the median at error_rate (B,): inf without errors."""
        return np.asarray(isoperimetric_bound(self.sigma, self.error_rate))

    @property
    def bound_high(self) -> Floats:
        """The bound at rate_low: it holds for any model, with at least `confidence`."""
        return np.asarray(isoperimetric_bound(self.sigma, self.rate_low))

    @property
    def ratio(self) -> Floats:
        """distance / bound: at most 1, but for sampling, if every nearest error was found."""
        return ratio(self.distance, self.bound)

    @property
    def median_ratio(self) -> float:
        """Median over the images whose ratio is a number; nan where there are none."""
        return known_median(self.ratio)

    def _summary(self) -> str:
        head = f"{super()._summary()}, {counted(self.distances.shape[1], 'point')} each"
        if not len(self):
            return head
        return (
            f"{head}: {self._counts()}; median distance {np.median(self.distance):.3g}, "
            f"of the bound {self.median_ratio:.2f}"
        )


def median_interval(distances: Floats, confidence: float) -> tuple[Floats, Floats, Floats]:
    """Medians of rows (..., N) with the two order statistics that hold the true one."""
    ordered = np.sort(distances, -1)
    n = ordered.shape[-1]
    low, high = (int(each) for each in order_ranks(n, 0.5, confidence))
    middle = (ordered[..., (n - 1) // 2] + ordered[..., n // 2]) / 2
    return middle, ordered[..., low - 1], ordered[..., high - 1]
