"""Defocus, glass, motion, zoom and Gaussian blur."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from robustcore.corruptions import matrices
from robustcore.corruptions.batch import Batch, levels


def gaussian_blur(batch: Batch, c: Any) -> Tensor:
    return matrices.gaussian(batch.bodies, batch.x, c)


def glass_blur(batch: Batch, c: Any) -> Tensor:
    """Blurred, cut to 8 bits, shuffled within reach, blurred again."""
    sigma, reach, passes = c
    bodies = batch.bodies
    x = levels(matrices.gaussian(bodies, batch.x, sigma)) / 255
    order = bodies.shuffle_order(batch.ids, batch.size, reach, passes, batch.draw())
    flat = x.flatten(2)
    shuffled = flat.gather(2, order[:, None].expand_as(flat)).view_as(x)
    return matrices.gaussian(bodies, shuffled, sigma)


def defocus_blur(batch: Batch, c: Any) -> Tensor:
    dy, dx, weight = (
        torch.from_numpy(part).to(batch.x.device).expand(len(batch.x), -1) for part in _disk(*c)
    )
    return batch.bodies.taps(batch.x, dy, dx, weight, "mirror")


@lru_cache(16)
def _disk(radius: float, smooth: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(dy, dx, weight) of a disk whose edge is smoothed by a Gaussian of 3 or 5 pixels."""
    reach, half = (8, 1) if radius <= 8 else (int(radius), 2)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = (x**2 + y**2 <= radius**2).astype(float)
    disk /= disk.sum()
    line = np.exp(-0.5 * (np.arange(-half, half + 1) / smooth) ** 2)
    line /= line.sum()
    for axis in (0, 1):
        disk = ndimage.correlate1d(disk, line, axis, mode="mirror")
    held = disk > 1e-9
    return y[held], x[held], disk[held].astype(np.float32)


def motion_blur(batch: Batch, c: Any) -> Tensor:
    radius, sigma = c
    angle = batch.uniforms(1).double() * 90 - 45
    return moved(batch, batch.x, radius, sigma, angle)


def moved(batch: Batch, x: Tensor, radius: int, sigma: float, angle: Tensor) -> Tensor:
    """Blurred along a line: half a Gaussian over 2 radius + 1 pixels.

    angle: (B, 1) float64 in degrees. A step that leaves the image ends the line there, and the
    weights left are not made up for (as published).
    """
    step = torch.arange(2 * radius + 1, dtype=torch.float64, device=x.device)
    weight = torch.exp(-0.5 * (step / sigma) ** 2)
    weight = weight / weight.sum()
    turn = torch.deg2rad(angle)
    dy = torch.ceil(step * torch.sin(turn) - 0.5).long()
    dx = torch.ceil(step * torch.cos(turn) - 0.5).long()
    inside = ((dy.abs() < x.shape[2]) & (dx.abs() < x.shape[3])).cummin(1).values
    return batch.bodies.taps(x, dy, dx, (weight * inside).float(), "edge")


def zoom_blur(batch: Batch, c: Any) -> Tensor:
    """The mean of the image and of its zooms, of which the first is the image again."""
    weights = (2.0, *(1.0 for _ in c[1:]))
    return matrices.zoomed(batch.bodies, batch.x, c, [w / sum(weights) for w in weights])
