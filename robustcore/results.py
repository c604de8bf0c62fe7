"""What each measurement finds, as frozen records with their provenance.

What all records can do (indexing, tables, saving, loading) is in records.py.
"""

# ruff: noqa: RUF009 (per_image and shared make dataclass fields)

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from robustcore.geometry import half_space_distance, half_space_ratio
from robustcore.records import Provenance, Record, counted, per_image, shared

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

Bools = npt.NDArray[np.bool_]

__all__ = [
    "DistanceResult",
    "ErrorRate",
    "NoiseAndDistance",
    "PGDResult",
    "Provenance",
    "Record",
    "SigmaResult",
    "compare",
]


@dataclass(frozen=True, repr=False, eq=False, kw_only=True)
class SigmaResult(Record):
    """sigma(x0, rate) of B images: the noise at which the error rate of each is `rate`.

    sigma, and its bounds at `confidence`, are in pixel units of [0, 1]. By status:

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
    status: npt.NDArray[np.str_] = per_image(np.str_)
    n_samples: Ints = per_image(np.int64)
    n_forward: Ints = per_image(np.int64)
    n_backward: Ints = per_image(np.int64)
    rate: float
    confidence: float

    derived: ClassVar[tuple[str, ...]] = ("half_space_distance",)
    statuses: ClassVar[tuple[str, ...]] = ("found", "misclassified", "censored")

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = ~np.isin(self.status, self.statuses)
        if unknown.any():
            worst = str(self.status[unknown][0])
            raise ValueError(f"status must be one of {self.statuses}, but was {worst!r}")
        # decided by sigma alone, so that no status can stand beside a number that belies it
        implied = np.where(self.sigma == 0, "misclassified", "found")
        implied = np.where(np.isposinf(self.sigma), "censored", implied)
        wrong = (implied != self.status) | ~(self.sigma >= 0)
        if wrong.any():
            raise ValueError(
                "sigma must be 0 where misclassified, inf where censored and between where found, "
                f"but was {self.sigma[wrong][0]} where {self.status[wrong][0]}"
            )

    @property
    def half_space_distance(self) -> Floats:
        """Distance to the nearest error if errors were a half-space, shape (B,): equation 1."""
        return np.asarray(half_space_distance(self.sigma, self.rate), dtype=np.float64)

    @property
    def median_sigma(self) -> float:
        """Median over all images, misclassified ones counting as 0 and censored ones as inf."""
        return float(np.median(self.sigma)) if len(self) else float("nan")

    def count(self, status: str) -> int:
        """How many images have this status."""
        return int(np.sum(self.status == status))

    def _summary(self) -> str:
        counts = ", ".join(f"{n} {each}" for each in self.statuses if (n := self.count(each)))
        images = super()._summary()
        return f"{images}: {counts}; median sigma {self.median_sigma:.3g}" if len(self) else images


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
        parts = f"{super()._summary()}, {counted(self.sigma.size, 'sigma')}"
        if not self.rate.size:
            return parts
        return f"{parts}; mean rate {', '.join(f'{rate:.3g}' for rate in self.rate.mean(0)[:6])}"


@dataclass(frozen=True, repr=False, eq=False, kw_only=True)
class DistanceResult(Record):
    """The nearest error found for each of B images: an upper bound of the distance to the nearest.

    distance is that of x_adv from the image, in the norm ("L2" or "Linf") and in pixel units,
    computed in float64 from the two as the caller holds them. By status:

    - "found": the model was seen to give x_adv the class label_adv;
    - "misclassified": the image itself is an error; distance 0, x_adv is the image;
    - "not_found": no error was found; distance inf, x_adv is the image, label_adv -1;
    - "masked": the same, and every gradient was zero or not finite: this says nothing about
      robustness. The error rate in noise needs no gradient.

    targets: the class wanted, -1 for any wrong one. restart and step: which start of the search
    found it, and after how many steps; -1 where none did. n_forward, n_backward: evaluations and
    gradients of the model spent on each image.
    """

    distance: Floats = per_image(np.float64)
    label_adv: Ints = per_image(np.int64)
    targets: Ints = per_image(np.int64)
    status: npt.NDArray[np.str_] = per_image(np.str_)
    restart: Ints = per_image(np.int64)
    step: Ints = per_image(np.int64)
    n_forward: Ints = per_image(np.int64)
    n_backward: Ints = per_image(np.int64)
    x_adv: Any = per_image(None, "C", "H", "W")
    norm: str

    derived: ClassVar[tuple[str, ...]] = ("found", "masked")
    statuses: ClassVar[tuple[str, ...]] = ("found", "misclassified", "not_found", "masked")

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = ~np.isin(self.status, self.statuses)
        if unknown.any():
            worst = str(self.status[unknown][0])
            raise ValueError(f"status must be one of {self.statuses}, but was {worst!r}")
        wrong = (np.isinf(self.distance) == self.found) | ~(self.distance >= 0)
        if wrong.any():
            raise ValueError(
                "distance must be inf where nothing was found and at least 0 elsewhere, but was "
                f"{self.distance[wrong][0]} where {self.status[wrong][0]}"
            )

    @property
    def found(self) -> Bools:
        """Whether an error is known, the image itself included, shape (B,)."""
        return np.isin(self.status, ("found", "misclassified"))

    @property
    def masked(self) -> Bools:
        """Whether no gradient of the image was of any use, shape (B,)."""
        return self.status == "masked"

    @property
    def median_distance(self) -> float:
        """Median over all images: 0 for misclassified ones, inf where nothing was found."""
        return float(np.median(self.distance)) if len(self) else float("nan")

    def count(self, status: str) -> int:
        """How many images have this status."""
        return int(np.sum(self.status == status))

    def _summary(self) -> str:
        counts = ", ".join(f"{n} {each}" for each in self.statuses if (n := self.count(each)))
        images = f"{super()._summary()}, {self.norm}"
        if not len(self):
            return images
        return f"{images}: {counts}; median distance {self.median_distance:.3g}"


@dataclass(frozen=True, repr=False, eq=False, kw_only=True)
class PGDResult(Record):
    """Which of B images an attack made errors of within G radii eps, ascending.

    An error within one radius is one within every larger radius, so fooled never falls along a
    row; a misclassified image is fooled at every eps. masked: correct, not fooled, and no gradient
    was of any use, so not known to be robust. distance, label_adv, restart, step, x_adv: of the
    error found at the least eps that fooled, as in DistanceResult.
    """

    eps: Floats = shared(np.float64, "G")
    fooled: Bools = per_image(np.bool_, "G")
    masked: Bools = per_image(np.bool_)
    distance: Floats = per_image(np.float64)
    label_adv: Ints = per_image(np.int64)
    restart: Ints = per_image(np.int64)
    step: Ints = per_image(np.int64)
    n_forward: Ints = per_image(np.int64)
    n_backward: Ints = per_image(np.int64)
    x_adv: Any = per_image(None, "C", "H", "W")
    norm: str

    @property
    def robust_accuracy(self) -> Floats:
        """Share of images that are right and stayed right, at each eps (G,).

        Masked images count as right: look at `masked` before believing it.
        """
        return 1 - self.fooled.mean(0) if len(self) else np.full(self.eps.shape, np.nan)

    def _summary(self) -> str:
        rates = ", ".join(
            f"{rate:.3g} at eps {eps:.3g}"
            for eps, rate in zip(self.eps[:6], self.robust_accuracy[:6], strict=True)
        )
        note = f"; {n} masked" if (n := int(self.masked.sum())) else ""
        return f"{super()._summary()}, {self.norm}: robust accuracy {rates}{note}"


@dataclass(frozen=True, repr=False, eq=False, kw_only=True)
class NoiseAndDistance(Record):
    """Both views of the error set side by side: sigma(x0, rate) and the nearest error found (l2).

    half_space_distance is what sigma says the distance would be if errors were a half-space, and
    ratio is distance over it: 1 for a linear model, nan where both are 0 or both infinite.
    Provenance is that of the distances.
    """

    sigma: Floats = per_image(np.float64)
    half_space_distance: Floats = per_image(np.float64)
    distance: Floats = per_image(np.float64)
    ratio: Floats = per_image(np.float64)
    rate: float

    @property
    def median_ratio(self) -> float:
        """Median over the images whose ratio is a number; nan where there are none."""
        known = self.ratio[~np.isnan(self.ratio)]
        return float(np.median(known)) if known.size else float("nan")

    def _summary(self) -> str:
        return f"{super()._summary()}; median ratio {self.median_ratio:.3g}"


def compare(noise: SigmaResult, near: DistanceResult) -> NoiseAndDistance:
    """Join sigma and distance on the ids that both records hold, in the order of `noise`.

    Raises ValueError for a norm other than L2, for targeted distances, for a rate of 1/2 or more,
    where no id is in both, and where the labels of an image differ.
    """
    if near.norm != "L2":
        raise ValueError(f"near must hold L2 distances to compare with sigma, held {near.norm}")
    if (near.targets >= 0).any():
        raise ValueError("near must hold distances to any wrong class, but had targets")
    _, at, other = np.intersect1d(noise.ids, near.ids, return_indices=True)
    if not at.size:
        raise ValueError("noise and near must share images, but no id was in both")
    order = np.argsort(at)
    left, right = noise[at[order]], near[other[order]]
    if (left.labels != right.labels).any():
        worst = left.ids[left.labels != right.labels][0]
        raise ValueError(f"noise and near must have the same labels, but differ at id {worst}")
    return NoiseAndDistance(
        ids=left.ids,
        labels=left.labels,
        sigma=left.sigma,
        half_space_distance=left.half_space_distance,
        distance=right.distance,
        ratio=np.asarray(half_space_ratio(right.distance, left.sigma, left.rate)),
        rate=left.rate,
        provenance=right.provenance,
    )
