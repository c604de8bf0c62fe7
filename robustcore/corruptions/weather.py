"""Snow, frost, fog and spatter.

Frost lays pictures of frost over the image: four of those that Hendrycks and Dietterich chose, as
the package imagecorruptions ships them (Apache-2.0; see NOTICE). The published code draws from
five files, of which two hold the same picture, so that one counts twice here.
"""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from robustcore.corruptions import matrices
from robustcore.corruptions.batch import Batch, coloured, grey, levels
from robustcore.corruptions.blur import moved

FROST = ("frost1", "frost2", "frost2", "frost4", "frost5")
WATER = (175 / 255, 238 / 255, 238 / 255)
MUD = (63 / 255, 42 / 255, 20 / 255)


def snow(batch: Batch, c: Any) -> Tensor:
    """Flakes of thresholded noise, blown along a line, twice: the second layer upside down."""
    mean, deviation, zoom, threshold, radius, sigma, share = c
    layer = matrices.zoomed(batch.bodies, batch.normals(1) * deviation + mean, (zoom,))
    layer = torch.where(layer < threshold, 0.0, layer).clamp(0, 1)
    angle = batch.uniforms(1, part=1).double() * 90 - 135
    layer = moved(batch, layer, radius, sigma, angle)
    x = batch.x
    x = share * x + (1 - share) * torch.maximum(x, grey(x) * 1.5 + 0.5)
    return x + layer + layer.flip(2, 3)


@lru_cache(8)
def _frost(name: str, small: bool, size: tuple[int, int]) -> Tensor:
    """(3, h, w) in [0, 1], at least as large as size."""
    with Image.open(Path(__file__).parent / "frost" / f"{name}.jpg") as picture:
        pixels = torch.from_numpy(np.asarray(picture.convert("RGB")).copy())
    pixels = pixels.permute(2, 0, 1).float() / 255
    if small:
        pixels = pixels[:, 2::5, 2::5]
    scale = max(side / have for side, have in zip(size, pixels.shape[1:], strict=True))
    if scale > 1:
        larger = [math.ceil(1.1 * scale * have) for have in pixels.shape[1:]]
        pixels = functional.interpolate(pixels[None], larger, mode="bicubic")[0].clamp(0, 1)
    return pixels.contiguous()


def frost(batch: Batch, c: Any) -> Tensor:
    """A window of a picture of frost; the pictures at a fifth of their size for the cifar set.

    A picture smaller than the image is enlarged to 1.1 times what is needed.
    """
    ours, theirs, small = c
    height, width = batch.size
    out = batch.x * ours
    where = batch.uniforms(3).double().cpu().numpy()
    for i, (which, down, across) in enumerate(where):
        picture = _frost(FROST[int(which * len(FROST))], small, batch.size)
        y = int(down * (picture.shape[1] - height))
        x = int(across * (picture.shape[2] - width))
        window = picture[:, y : y + height, x : x + width].to(out.device)
        if out.shape[1] == 1:
            window = grey(window[None])[0]
        out[i].add_(window, alpha=theirs)
    return out


def fog(batch: Batch, c: Any) -> Tensor:
    amount, decay = c
    height, width = batch.size
    x = batch.x + amount * _plasma(batch, decay)[:, None, :height, :width]
    top = batch.x.amax((1, 2, 3), keepdim=True)
    return x * (top / (top + amount))


def _plasma(batch: Batch, decay: float) -> Tensor:
    """(B, M, M) in [0, 1]: a landscape by diamonds and squares on a torus, M a power of two."""
    side = 1 << (max(batch.size) - 1).bit_length()
    noise = batch.uniforms(side, side) * 2 - 1
    field = torch.zeros_like(noise)
    step, height = side, 100.0
    while step >= 2:
        half = step // 2
        corners = field[:, ::step, ::step]
        centres = _around(corners, -1, -1) / 4 + height**2 * noise[:, half::step, half::step]
        field[:, half::step, half::step] = centres
        for y, x, dim in ((0, half, 2), (half, 0, 1)):
            ends = corners + corners.roll(-1, dim)
            sides = centres + centres.roll(1, 3 - dim)
            level = (ends + sides) / 4
            field[:, y::step, x::step] = level + height**2 * noise[:, y::step, x::step]
        step, height = half, height / decay
    field -= field.amin((1, 2), keepdim=True)
    return field / field.amax((1, 2), keepdim=True)


def _around(field: Tensor, dy: int, dx: int) -> Tensor:
    """Each value with its three neighbours, added."""
    pair = field + field.roll(dy, 1)
    return pair + pair.roll(dx, 2)


def spatter(batch: Batch, c: Any) -> Tensor:
    """Drops of water with bright edges, or of mud."""
    mean, deviation, sigma, threshold, strength, mud = c
    x, bodies = batch.x, batch.bodies
    layer = matrices.gaussian(bodies, batch.normals(1) * deviation + mean, sigma)
    if mud:
        covered = matrices.gaussian(bodies, (layer > threshold).float(), strength)
        covered = torch.where(covered < 0.8, 0.0, covered)
        return x * (1 - covered) + coloured(x, MUD) * covered
    drops = levels(torch.where(layer < threshold, 0.0, layer).clamp(0, 1))
    wet = drops * bodies.wet_edges(drops[:, 0].byte())[:, None]
    wet = wet / wet.amax((1, 2, 3), keepdim=True).clamp(min=1e-9)
    return x + wet * strength * coloured(x, WATER)
