"""Errors in noise: the records of `sigma_at_error_rate` and `error_rate`."""

# ruff: noqa: RUF009 (per_image and shared make dataclass fields)

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from robustcore.geometry import half_space_distance
from robustcore.results.record import Record, StatusRecord, counted, per_image, shared

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, repr=False, eq=False, kw_only=True)
class SigmaResult(StatusRecord):
    """sigma(x0, rate) of B images: the noise at which the error rate of each is `rate`.

    sigma, and its bounds at `confidence`, are in the units of the inputs; for noise other than
    Gaussian sigma is the scale of its law. By status:

    - "found": sigma is above 0 and finite; sigma_high is inf where the draws give no upper bound;
    - "misclassified": the clean image is an error; sigma and both bounds are 0;
    - "censored": the rate is not reached by sigma_max; sigma and sigma_high are inf, and sigma_low
      is the bound that was found.

    bracket_low and bracket_high are the ends of the search around the sigma of these draws;
    error_rate is the one measured at sigma (at sigma_max where censored). n_samples counts draws,
    n_forward and n_backward the model's evaluations and gradients spent on each image.
    """

    sigma: Floats = per_image(np.float64)
    sigma_low: Floats = per_image(np.float64)
    sigma_high: Floats = per_image(np.float64)
    bracket_low: Floats = per_image(np.float64)
    bracket_high: Floats = per_image(np.float64)
    error_rate: Floats = per_image(np.float64)
    n_samples: Ints = per_image(np.int64)
    n_forward: Ints = per_image(np.int64)
    n_backward: Ints = per_image(np.int64)
    rate: float
    confidence: float

    derived: ClassVar[tuple[str, ...]] = ("half_space_distance",)
    statuses: ClassVar[tuple[str, ...]] = ("found", "misclassified", "censored")

    def __post_init__(self) -> None:
        super().__post_init__()
        # decided by sigma alone, so that no status can stand beside a number that belies it
        implied = np.where(self.sigma == 0, "misclassified", "found")
        nothing = (self.status == "undecided") & (self.sigma_low == 0)
        largest = np.where(nothing & ("undecided" in self.statuses), "undecided", "censored")
        implied = np.where(np.isposinf(self.sigma), largest, implied)
        wrong = (implied != self.status) | ~(self.sigma >= 0)
        if wrong.any():
            raise ValueError(
                "sigma must be 0 where misclassified, inf where censored and between where found, "
                f"but was {self.sigma[wrong][0]} where {self.status[wrong][0]}"
            )

    @property
    def half_space_distance(self) -> Floats:
        """Distance to the nearest error if errors were a half-space, shape (B,): equation 1.

        nan for noise other than Gaussian.
        """
        if not self.gaussian:
            return np.full(len(self), np.nan)
        return np.asarray(half_space_distance(self.sigma, self.rate), dtype=np.float64)

    @property
    def median_sigma(self) -> float:
        """Median over all images, misclassified ones counting as 0 and censored ones as inf."""
        return float(np.median(self.sigma)) if len(self) else float("nan")

    def _summary(self) -> str:
        images = super()._summary()
        if not len(self):
            return images
        median = f"median {self.scale_name} {self.median_sigma:.3g}"
        return f"{images}: {self._counts()}; {median}"


@dataclass(frozen=True, repr=False, eq=False, kw_only=True)
class ErrorRate(Record):
    """Error rate of B images in noise at G values of sigma. Always two-dimensional, also at G = 1.

    rate is n_errors / n_samples, with Clopper-Pearson bounds at `confidence` for each entry alone.
    """

    sigma: Floats = shared(np.float64, "G")
    rate: Floats = per_image(np.float64, "G")
    rate_low: Floats = per_image(np.float64, "G")
    rate_high: Floats = per_image(np.float64, "G")
    n_errors: Ints = per_image(np.int64, "G")
    n_samples: Ints = per_image(np.int64, "G")
    n_forward: Ints = per_image(np.int64)
    n_backward: Ints = per_image(np.int64)
    confidence: float

    def _summary(self) -> str:
        scales = counted(self.sigma.size, "sigma" if self.gaussian else "scale")
        parts = f"{super()._summary()}, {scales}{'' if self.gaussian else f' of {self.noise}'}"
        if not self.rate.size:
            return parts
        return f"{parts}; mean rate {', '.join(f'{rate:.3g}' for rate in self.rate.mean(0)[:6])}"
