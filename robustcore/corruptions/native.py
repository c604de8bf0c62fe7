"""The kernels in C++ (csrc/corruptions), on CPU. Contracts are in `kernels.py`.

Tensors are passed as addresses, so what would reach outside their memory is refused here. The
number of threads is torch's; it changes no result.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustcore import _corruptions
from robustcore.corruptions.kernels import Bands, Draw


def _check(name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    if tensor.dtype != dtype or tuple(tensor.shape) != shape or tensor.device.type != "cpu":
        raise ValueError(
            f"{name} must be {dtype} of shape {shape} on cpu; "
            f"got {tensor.dtype} of shape {tuple(tensor.shape)} on {tensor.device}"
        )
    return tensor.contiguous()


def _names(ids: Tensor, draw: Draw) -> tuple[int, int, int, int, int]:
    ids = _check("ids", ids, torch.int64, (len(ids),))
    return ids.data_ptr(), len(ids), draw.sample, draw.stream, draw.seed


def uniforms(ids: Tensor, n: int, draw: Draw) -> Tensor:
    ids = ids.contiguous()
    out = torch.empty(len(ids), n, dtype=torch.float32, device="cpu")
    _corruptions.uniforms(_names(ids, draw), n, out.data_ptr(), torch.get_num_threads())
    return out


def poisson(mean: Tensor, ids: Tensor, draw: Draw) -> Tensor:
    ids = ids.contiguous()
    mean = _check("mean", mean, torch.float32, (len(ids), mean[0].numel()))
    out = torch.empty_like(mean)
    _corruptions.poisson(
        _names(ids, draw),
        mean.shape[1],
        mean.data_ptr(),
        out.data_ptr(),
        torch.get_num_threads(),
    )
    return out


def shuffle_order(
    ids: Tensor, size: tuple[int, int], reach: int, passes: int, draw: Draw
) -> Tensor:
    ids = ids.contiguous()
    if not 0 < 2 * reach < min(size):
        raise ValueError(f"reach must be positive and below half of {min(size)}; got {reach}")
    out = torch.empty(len(ids), size[0] * size[1], dtype=torch.int64, device="cpu")
    _corruptions.shuffle_order(
        _names(ids, draw), size, reach, passes, out.data_ptr(), torch.get_num_threads()
    )
    return out


def taps(x: Tensor, dy: Tensor, dx: Tensor, weight: Tensor, border: str) -> Tensor:
    batch, channels, height, width = x.shape
    x = _check("x", x, torch.float32, (batch, channels, height, width))
    dy = _check("dy", dy, torch.int64, (batch, dy.shape[1]))
    dx = _check("dx", dx, torch.int64, tuple(dy.shape))
    weight = _check("weight", weight, torch.float32, tuple(dy.shape))
    out = torch.empty_like(x)
    _corruptions.taps(
        x.data_ptr(),
        (batch, channels, height, width, dy.shape[1]),
        dy.data_ptr(),
        dx.data_ptr(),
        weight.data_ptr(),
        border == "mirror",
        out.data_ptr(),
        torch.get_num_threads(),
    )
    return out


def separable(x: Tensor, rows: Bands, columns: Bands) -> Tensor:
    planes, height, width = x.shape
    terms = rows.shape[0]
    x = _check("x", x, torch.float32, (planes, height, width))
    if (rows.shape[2], columns.shape[2]) != (height, width) or columns.shape[0] != terms:
        raise ValueError(
            f"rows and columns must be as many matrices over {(height, width)}; "
            f"got {rows.shape} and {columns.shape}"
        )
    out = torch.empty(planes, rows.shape[1], columns.shape[1], dtype=torch.float32, device="cpu")
    _corruptions.separable(
        x.data_ptr(),
        (
            planes,
            height,
            width,
            terms,
            rows.shape[1],
            rows.weight.shape[2],
            columns.shape[1],
            columns.weight.shape[2],
        ),
        rows.low.data_ptr(),
        rows.weight.data_ptr(),
        columns.low.data_ptr(),
        columns.weight.data_ptr(),
        out.data_ptr(),
        torch.get_num_threads(),
    )
    return out


def spread(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    planes, height, width = x.shape
    x = _check("x", x, torch.float32, (planes, height, width))
    rows = _check("rows", rows, torch.int32, (len(rows),))
    columns = _check("columns", columns, torch.int32, (len(columns),))
    out = torch.empty(planes, len(rows), len(columns), dtype=torch.float32, device="cpu")
    _corruptions.spread(
        x.data_ptr(),
        (planes, height, width, len(rows), len(columns)),
        rows.data_ptr(),
        columns.data_ptr(),
        out.data_ptr(),
        torch.get_num_threads(),
    )
    return out


def wet_edges(layer: Tensor) -> Tensor:
    batch, height, width = layer.shape
    layer = _check("layer", layer, torch.uint8, (batch, height, width))
    out = torch.empty(batch, height, width, dtype=torch.float32, device="cpu")
    _corruptions.wet_edges(
        layer.data_ptr(), (batch, height, width), out.data_ptr(), torch.get_num_threads()
    )
    return out


def jpeg(x: Tensor, quality: int, add: float) -> Tensor:
    batch, _, height, width = x.shape
    x = _check("x", x, torch.float32, (batch, 3, height, width))
    if not 1 <= quality <= 100:
        raise ValueError(f"quality must lie in [1, 100]; got {quality}")
    out = torch.empty_like(x)
    sizes = (batch, height, width)
    _corruptions.jpeg(x.data_ptr(), sizes, quality, add, out.data_ptr(), torch.get_num_threads())
    return out
