"""Separable blurs and resamplings as matrices over one axis, in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from robustcore.corruptions.kernels import Bands, Kernels


def _gaussian(n: int, sigma: float, truncate: float, reflect: bool) -> np.ndarray:
    """(n, n): cut at truncate * sigma; the border repeats the edge pixel, or reflects about it."""
    radius = int(truncate * sigma + 0.5)
    step = np.arange(-radius, radius + 1)
    weight = np.exp(-0.5 * (step / max(sigma, 1e-12)) ** 2)
    weight /= weight.sum()
    source = np.arange(n)[:, None] + step
    if reflect:
        source %= 2 * n
        source = np.where(source < n, source, 2 * n - 1 - source)
    else:
        source = source.clip(0, n - 1)
    matrix = np.zeros((n, n))
    np.add.at(matrix, (np.arange(n)[:, None], source), weight)
    return matrix


def _zoom(n: int, factor: float) -> np.ndarray:
    """(n, n): the middle enlarged to the whole, linearly between pixel centres."""
    held = math.ceil(n / factor)
    first = (n - held) // 2
    made = round(held * factor)
    at = (np.arange(n) + (made - n) // 2) * (held - 1) / max(made - 1, 1)
    low = np.minimum(at.astype(int), held - 1)
    high = np.minimum(low + 1, held - 1)
    matrix = np.zeros((n, n))
    np.add.at(matrix, (np.arange(n), first + low), 1 - (at - low))
    np.add.at(matrix, (np.arange(n), first + high), at - low)
    return matrix


def _boxes(n: int, large: int) -> np.ndarray:
    """(large, n): the mean of the pixels whose centres lie in a large pixel's extent."""
    scale = n / large
    offset = (np.arange(n) + 0.5 - (np.arange(large)[:, None] + 0.5) * scale) / scale
    down = ((offset > -0.5) & (offset <= 0.5)).astype(float)
    return np.asarray(down / down.sum(1, keepdims=True))


@lru_cache(64)
def gaussian_bands(n: int, sigma: float, truncate: float, reflect: bool) -> Bands:
    return Bands(_gaussian(n, sigma, truncate, reflect)[None])


@lru_cache(64)
def zoom_bands(n: int, factors: tuple[float, ...], weights: tuple[float, ...]) -> Bands:
    """One matrix for each factor, times its weight."""
    pairs = zip(factors, weights, strict=True)
    return Bands(np.stack([weight * _zoom(n, factor) for factor, weight in pairs]))


@lru_cache(64)
def _box_bands(n: int, large: int) -> Bands:
    return Bands(_boxes(n, large)[None])


def apply(bodies: Kernels, x: Tensor, rows: Bands, columns: Bands) -> Tensor:
    """Every plane of x (B, C, H, W) through `separable`."""
    return bodies.separable(x.flatten(0, 1), rows, columns).view(x.shape)


def gaussian(
    bodies: Kernels, x: Tensor, sigma: float, truncate: float = 4.0, reflect: bool = False
) -> Tensor:
    rows, columns = (gaussian_bands(n, float(sigma), truncate, reflect) for n in x.shape[2:])
    return apply(bodies, x, rows, columns)


def zoomed(
    bodies: Kernels, x: Tensor, factors: Sequence[float], weights: Sequence[float] = (1.0,)
) -> Tensor:
    """The sum of the zooms of x, each times its weight."""
    rows = zoom_bands(x.shape[2], tuple(factors), tuple(weights))
    columns = zoom_bands(x.shape[3], tuple(factors), (1.0,) * len(factors))
    return apply(bodies, x, rows, columns)


def shrunk(bodies: Kernels, x: Tensor, share: float) -> Tensor:
    """(B, C, H', W'): averages over large pixels."""
    sizes = [(n, int(n * share)) for n in x.shape[2:]]
    rows, columns = (_box_bands(*size) for size in sizes)
    return bodies.separable(x.flatten(0, 1), rows, columns).unflatten(0, x.shape[:2])


def spread(bodies: Kernels, x: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, *size): each pixel over its extent."""
    rows, columns = (
        torch.from_numpy(((np.arange(n) + 0.5) / (n / large)).astype(np.int32)).to(x.device)
        for n, large in zip(size, x.shape[2:], strict=True)
    )
    return bodies.spread(x.flatten(0, 1), rows, columns).unflatten(0, x.shape[:2])
