"""Gaussian, shot, impulse and speckle noise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robustcore.corruptions.batch import Batch


def gaussian_noise(batch: Batch, c: Any) -> Tensor:
    return batch.noisy(batch.x, c, clip=(0.0, 1.0))


def shot_noise(batch: Batch, c: Any) -> Tensor:
    """Each value as a Poisson count of photons, c of them for white."""
    counts = batch.bodies.poisson((batch.x * c).flatten(1), batch.ids, batch.draw())
    return counts.view_as(batch.x).div_(c)


def impulse_noise(batch: Batch, c: Any) -> Tensor:
    """A share c of the values (not of the pixels) becomes 0 or 1, either alike."""
    u = batch.uniforms(*batch.x.shape[1:])
    x = torch.where(u < c, 0.0, batch.x)
    return torch.where(u < c / 2, 1.0, x)


def speckle_noise(batch: Batch, c: Any) -> Tensor:
    return batch.x + batch.x * batch.normals(batch.x.shape[1]) * c
