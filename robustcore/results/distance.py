"""The nearest errors found: the records of `distance_to_error` and `pgd`."""

# ruff: noqa: RUF009 (per_image and shared make dataclass fields)

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from robustcore.results.record import ANY, Record, StatusRecord, per_image, shared

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, repr=False, eq=False, kw_only=True)
class DistanceResult(StatusRecord):
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
    restart: Ints = per_image(np.int64)
    step: Ints = per_image(np.int64)
    n_forward: Ints = per_image(np.int64)
    n_backward: Ints = per_image(np.int64)
    x_adv: Any = per_image(None, ANY)
    norm: str

    derived: ClassVar[tuple[str, ...]] = ("found", "masked")
    statuses: ClassVar[tuple[str, ...]] = ("found", "misclassified", "not_found", "masked")

    def __post_init__(self) -> None:
        super().__post_init__()
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

    def _summary(self) -> str:
        images = f"{super()._summary()}, {self.norm}"
        if not len(self):
            return images
        return f"{images}: {self._counts()}; median distance {self.median_distance:.3g}"


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
    x_adv: Any = per_image(None, ANY)
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
