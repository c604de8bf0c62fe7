"""Noise and nearest errors side by side: two records joined on their images."""

# ruff: noqa: RUF009 (per_image and shared make dataclass fields)

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from robustcore.geometry import half_space_ratio
from robustcore.results.distance import DistanceResult
from robustcore.results.noise import SigmaResult
from robustcore.results.provenance import refuse_other_images
from robustcore.results.record import Record, known_median, per_image

Floats = npt.NDArray[np.float64]


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
        return known_median(self.ratio)

    def _summary(self) -> str:
        return f"{super()._summary()}; median ratio {self.median_ratio:.3g}"


def compare(noise: SigmaResult, near: DistanceResult) -> NoiseAndDistance:
    """Join sigma and distance on the ids that both records hold, in the order of `noise`.

    Both must be of one model: records hold no name of it, so only their images and labels are
    compared.

    Raises TypeError for other records, and ValueError for noise other than Gaussian, for a norm
    other than L2, for targeted distances, for a rate of 1/2 or more, where no id is in both, and
    where the labels or the pixels of an image differ.
    """
    for name, value, kind, makers in (
        ("noise", noise, SigmaResult, "sigma_at_error_rate"),
        ("near", near, DistanceResult, "distance_to_error"),
    ):
        if not isinstance(value, kind):
            raise TypeError(
                f"{name} must be a {kind.__name__}, as `{makers}` gives, was "
                f"{type(value).__name__}: compare(sigma, distance)"
            )
    if not noise.gaussian:
        raise ValueError(f"noise must be a record in Gaussian noise, was in {noise.noise}")
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
    refuse_other_images("noise and near", noise.provenance, near.provenance, left.ids.tolist())
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
