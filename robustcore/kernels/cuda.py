"""Kernels in CUDA C++ (csrc/cuda), on CUDA devices. Contracts are in `robustcore.kernels`.

From the same headers as the C++ kernels, so of the same bits. Built where nvcc is; the module is
imported without a driver. Nothing here waits for the device.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robustcore import _cuda

DEVICE = "cuda"


def check(name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    right = tensor.dtype == dtype and tuple(tensor.shape) == shape
    if not (right and tensor.device.type == DEVICE and tensor.is_contiguous()):
        raise ValueError(
            f"{name} must be {dtype} of shape {shape}, contiguous on {DEVICE}; got {tensor.dtype} "
            f"of shape {tuple(tensor.shape)}, strides {tensor.stride()}, on {tensor.device}"
        )


def call(body: Any, on: Tensor, *arguments: Any) -> None:
    """Start a kernel on the device of a tensor, on torch's current stream there."""
    if not on.is_cuda:
        body(*arguments, 0)
        return
    with torch.cuda.device(on.device):
        body(*arguments, torch.cuda.current_stream().cuda_stream)


def addresses(*tensors: Tensor | None) -> tuple[int, ...]:
    return tuple(0 if each is None else each.data_ptr() for each in tensors)


def perturb(
    x: Tensor,
    rows: Tensor,
    sigma: Tensor,
    samples: Tensor,
    ids: Tensor,
    out: Tensor,
    *,
    seed: int,
    stream: int = 0,
    clip: tuple[float, float] | None = None,
    mean: Tensor | None = None,
    inv_std: Tensor | None = None,
) -> Tensor:
    batch, channels, height, width = x.shape
    slots = len(rows)
    check("x", x, torch.float32, tuple(x.shape))
    for name, tensor, dtype, size in (
        ("rows", rows, torch.int64, slots),
        ("sigma", sigma, torch.float32, slots),
        ("samples", samples, torch.int64, slots),
        ("ids", ids, torch.int64, batch),
    ):
        check(name, tensor, dtype, (size,))
    interleaved = not out.is_contiguous()
    if interleaved and not out.is_contiguous(memory_format=torch.channels_last):
        raise ValueError(f"out must be contiguous or channels_last; got strides {out.stride()}")
    flat = out.permute(0, 2, 3, 1) if interleaved else out
    shape = (slots, height, width, channels) if interleaved else (slots, *x.shape[1:])
    check("out", flat, torch.float32, shape)
    if (mean is None) != (inv_std is None):
        raise ValueError("mean and inv_std must be given together")
    if mean is not None and inv_std is not None:
        check("mean", mean, torch.float32, (channels,))
        check("inv_std", inv_std, torch.float32, (channels,))
    if slots and x[0].numel():
        tensors = addresses(x, rows, sigma, samples, ids, out)
        sizes = (slots, channels, height * width)
        names, scale = (seed, stream), addresses(mean, inv_std)
        call(_cuda.perturb, x, tensors, sizes, interleaved, names, clip, scale)
    return out


def _logits(
    logits: Tensor, labels: Tensor, rows: Tensor
) -> tuple[Tensor, tuple[int, ...], tuple[int, int, int]]:
    if logits.dtype not in (torch.float32, torch.float64):
        logits = logits.float()
    slots, classes = logits.shape
    if classes < 2 or logits.device.type != DEVICE:
        raise ValueError(
            f"logits must be (S, K >= 2) on {DEVICE}; got {tuple(logits.shape)} on {logits.device}"
        )
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    check("labels", labels, torch.int64, (len(labels),))
    check("rows", rows, torch.int64, (slots,))
    return logits, addresses(logits, labels, rows), (slots, classes, logits.stride(0))


def margins(logits: Tensor, labels: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    logits, tensors, sizes = _logits(logits, labels, rows)
    margin = torch.empty(len(rows), dtype=logits.dtype, device=logits.device)
    runner_up = torch.empty(len(rows), dtype=torch.int64, device=logits.device)
    body = _cuda.margins_float32 if logits.dtype == torch.float32 else _cuda.margins_float64
    if len(rows):
        call(body, logits, tensors, sizes, *addresses(margin, runner_up))
    return margin, runner_up


def count_errors(logits: Tensor, labels: Tensor, rows: Tensor, counts: Tensor) -> None:
    logits, tensors, sizes = _logits(logits, labels, rows)
    check("counts", counts, torch.int64, (len(labels),))
    single = logits.dtype == torch.float32
    body = _cuda.count_errors_float32 if single else _cuda.count_errors_float64
    if len(rows):
        call(body, logits, tensors, sizes, counts.data_ptr())


def _ball(
    x: Tensor, rows: Tensor, norm: float, points: Tensor, **slots: Tensor
) -> tuple[int, int, tuple[int, int], bool, int]:
    """The arguments that steps in balls share; each of `slots` is a row of floats for each slot."""
    batch, elements = x.shape
    check("x", x, torch.float32, (batch, elements))
    check("rows", rows, torch.int64, (len(rows),))
    for name, tensor in {"points": points, **slots}.items():
        check(name, tensor, torch.float32, (len(rows), elements))
    return x.data_ptr(), rows.data_ptr(), (len(rows), elements), norm == 2, points.data_ptr()


def ball_step(
    x: Tensor,
    rows: Tensor,
    offset: Tensor,
    gradient: Tensor,
    scale: Tensor,
    step: Tensor,
    radius: Tensor,
    points: Tensor,
    *,
    norm: float,
    box: tuple[float, float] | None = None,
    sphere: bool = False,
) -> Tensor:
    shared = _ball(x, rows, norm, points, offset=offset, gradient=gradient)
    for name, tensor in (("scale", scale), ("step", step), ("radius", radius)):
        check(name, tensor, torch.float32, (len(rows),))
    usable = torch.empty(len(rows), dtype=torch.bool, device=x.device)
    if len(rows):
        tensors = addresses(offset, gradient, scale, step, radius, usable)
        call(_cuda.ball_step, x, *shared, tensors, box, sphere)
    return usable


def update_best(
    x: Tensor,
    rows: Tensor,
    points: Tensor,
    margin: Tensor,
    distance: Tensor,
    best: Tensor,
    *,
    norm: float,
) -> Tensor:
    shared = _ball(x, rows, norm, points, best=best)
    margin, away = margin.double(), torch.empty_like(distance)
    check("margin", margin, torch.float64, (len(rows),))
    check("distance", distance, torch.float64, (len(rows),))
    if len(rows):
        call(_cuda.update_best, x, *shared, addresses(margin, distance, best, away))
    return away
