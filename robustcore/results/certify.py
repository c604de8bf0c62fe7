"""What randomised smoothing found: the records of `certify` and `predict`."""

# ruff: noqa: RUF009 (per_image and shared make dataclass fields)

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from robustcore.arguments import not_negative
from robustcore.geometry import isoperimetric_bound
from robustcore.results.record import Record, StatusRecord, per_image

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, repr=False, eq=False, kw_only=True)
class CertifyResult(StatusRecord):
    """Two readings of one count, for B images: n_top of n_samples draws were given the class top.

    share_low and share_high bound the probability p of top, each wrong with a probability of at
    most alpha, at whichever look the counting stopped.

    - Of the smoothed classifier, which answers with the likeliest class in noise: label is top, and
      stays so within the l2 radius sigma * Phi^-1(share_low), where share_low is above 1/2 (Cohen
      et al., 2019); label is -1 and radius 0 elsewhere.
    - Of the model itself: whatever it does, half of all draws have a point of another class within
      bound = -sigma * Phi^-1(1 - share_high) (the isoperimetric inequality).

    status: "certified" or "abstained"; where a radius was asked for, "holds", "fails" (p is below
    what the radius takes, with at most alpha) or "undecided" after all draws. n_forward counts
    evaluations of the model. labels: those given, or the model's own at the images.
    """

    label: Ints = per_image(np.int64)
    radius: Floats = per_image(np.float64)
    top: Ints = per_image(np.int64)
    n_top: Ints = per_image(np.int64)
    n_samples: Ints = per_image(np.int64)
    share_low: Floats = per_image(np.float64)
    share_high: Floats = per_image(np.float64)
    n_forward: Ints = per_image(np.int64)
    sigma: float
    alpha: float
    asked: float | None

    derived: ClassVar[tuple[str, ...]] = ("bound",)
    statuses: ClassVar[tuple[str, ...]] = ("certified", "abstained", "holds", "fails", "undecided")

    @property
    def bound(self) -> Floats:
        """Within which half of all draws have a point that the model does not call top, (B,)."""
        return np.asarray(isoperimetric_bound(self.sigma, 1 - self.share_high))

    def accuracy(self, radius: float = 0.0) -> float:
        """Share of images whose label is right and certified within `radius`; nan for no images.

        Raises ValueError or TypeError for a radius that is not a finite number of at least 0.
        """
        radius = not_negative("radius", radius)
        held = (self.label == self.labels) & (self.radius >= radius)
        return float(np.mean(held)) if len(self) else float("nan")

    def _summary(self) -> str:
        head = f"{super()._summary()}, sigma {self.sigma:g}"
        if not len(self):
            return head
        asked = "" if self.asked is None else f" radius {self.asked:g}:"
        return f"{head}:{asked} {self._counts()}; median radius {np.median(self.radius):.3g}"


@dataclass(frozen=True, repr=False, eq=False, kw_only=True)
class PredictResult(Record):
    """What the smoothed classifier answers for B images: label, or -1 where it abstains.

    counts (B, K): draws given each class; the rest of n_samples had a NaN among their logits or a
    tie for the largest, and were given none. The label is -1 too where these are commonest. A label
    is wrong, in that another class is likelier in noise, with a probability of at most alpha.
    labels: those given, or the model's own.
    """

    label: Ints = per_image(np.int64)
    counts: Ints = per_image(np.int64, "K")
    n_samples: Ints = per_image(np.int64)
    n_forward: Ints = per_image(np.int64)
    sigma: float
    alpha: float

    @property
    def accuracy(self) -> float:
        """Share of images whose label is right; an abstention is not; nan for no images."""
        return float(np.mean(self.label == self.labels)) if len(self) else float("nan")

    def _summary(self) -> str:
        head = f"{super()._summary()}, sigma {self.sigma:g}"
        return f"{head}; {int(np.sum(self.label < 0))} abstained" if len(self) else head


def certified_radius(sigma: float, share_low: Floats) -> Floats:
    """sigma * Phi^-1(share_low) where share_low is above 1/2, else 0."""
    return np.where(share_low > 0.5, sigma * ndtri(np.maximum(share_low, 0.5)), 0.0)
