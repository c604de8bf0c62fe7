"""Brightness, contrast, saturation, elastic transform, pixelation and JPEG."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from robustcore.corruptions import matrices
from robustcore.corruptions.batch import Batch, grey, levels
from robustcore.corruptions.kernels import Kernels


def brightness(batch: Batch, c: Any) -> Tensor:
    """The value of HSV, the largest channel, raised by c: hue and saturation stay.

    So channels grow in proportion; black, which has no hue, becomes grey.
    """
    x = batch.x
    top = x.amax(1, keepdim=True)
    raised = (top + c).clamp(max=1)
    if x.shape[1] == 1:
        return raised
    return torch.where(top > 0, x * (raised / top.clamp(min=1e-12)), raised)


def saturate(batch: Batch, c: Any) -> Tensor:
    """The saturation of HSV times c[0], plus c[1]: channels move away from the largest one.

    A grey pixel has hue 0, so that it turns red where c[1] is positive (as published).
    """
    times, plus = c
    x = batch.x
    top = x.amax(1, keepdim=True)
    range_ = top - x.amin(1, keepdim=True)
    saturation = range_ / top.clamp(min=1e-12)
    wanted = (saturation * times + plus).clamp(0, 1)
    grown = top - (top - x) * (top * wanted / range_.clamp(min=1e-12))
    red = x.new_tensor([0.0, 1.0, 1.0]).view(1, 3, 1, 1)
    return torch.where(range_ > 0, grown, top * (1 - wanted * red))


def contrast(batch: Batch, c: Any) -> Tensor:
    mean = batch.x.mean((2, 3), keepdim=True)
    return (batch.x - mean) * c + mean


def pixelate(batch: Batch, c: Any) -> Tensor:
    """Averages over large pixels, rounded to 8 bits as the published ones are."""
    large = matrices.shrunk(batch.bodies, batch.x, c)
    return matrices.spread(batch.bodies, levels(large + 0.5 / 255) / 255, batch.size)


def jpeg_compression(batch: Batch, c: Any) -> Tensor:
    return through_jpeg(batch.bodies, batch.x, c, 0.5)


def through_jpeg(bodies: Kernels, x: Tensor, quality: int, add: float) -> Tensor:
    """x: (B, C, H, W) float32 in [0, 1], to 8 bits, to JPEG files and back.

    add: 1/2 rounds to the nearest of 255 steps, 0 cuts down. One channel is stored as three equal
    ones, of whose luma a file may hold another step.
    """
    back = bodies.jpeg(x.expand(-1, 3, -1, -1).contiguous(), quality, add)
    return back if x.shape[1] == 3 else torch.round(grey(back) * 255) / 255


def elastic_transform(batch: Batch, c: Any) -> Tensor:
    """A random affine map of three points, then smoothed random displacements."""
    side = min(batch.size)
    amount, sigma, corners = (part * side for part in c)
    x = _affine(batch, corners)
    if amount == 0:
        return x
    height, width = batch.size
    noise = batch.uniforms(2, height, width, part=1) * 2 - 1
    shift = matrices.gaussian(batch.bodies, noise, sigma, 3.0, reflect=True) * amount
    down = torch.arange(height, device=x.device)[:, None] + shift[:, 0]
    across = torch.arange(width, device=x.device) + shift[:, 1]
    grid = torch.stack(((2 * across + 1) / width - 1, (2 * down + 1) / height - 1), -1)
    return functional.grid_sample(x, grid, "bilinear", "reflection", align_corners=False)


def _affine(batch: Batch, reach: float) -> Tensor:
    """Three points around the middle move by up to `reach` along each axis, the image with them.

    The border is mirrored about the centre of the outermost pixels.
    """
    x = batch.x
    height, width = batch.size
    third = min(height, width) // 3
    middle = torch.tensor([width // 2, height // 2], dtype=torch.float64, device=x.device)
    arms = torch.tensor([[1, 1], [1, -1], [-1, -1]], dtype=torch.float64, device=x.device)
    points = middle + third * arms
    moved = points + (batch.uniforms(3, 2).double() * 2 - 1) * reach
    ones = torch.ones_like(moved[..., :1])
    # (B, 3, 2): columns of [x, y, 1] in the result to (x, y) in the source
    back = torch.linalg.solve(torch.cat((moved, ones), 2), points.expand_as(moved))
    scale = x.new_tensor([2 / (width - 1), 2 / (height - 1)], dtype=torch.float64)
    back = back * scale
    across = torch.arange(width, device=x.device)[None, None, :, None]
    down = torch.arange(height, device=x.device)[None, :, None, None]
    u, v, w = (back[:, None, None, i] for i in range(3))
    grid = (across * u + down * v + (w - 1)).float()
    return functional.grid_sample(x, grid, "bilinear", "reflection", align_corners=True)
