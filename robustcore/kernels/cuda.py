"""Kernels in CUDA C++ (csrc/cuda), on CUDA devices. Contracts are in `robustcore.kernels`.

From the same headers as the C++ kernels, so of the same bits. Built where nvcc is; the module is
imported without a driver. Nothing here waits for the device.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robustcore import _cuda
from robustcore.kernels import LAWS, checks

DEVICE = "cuda"


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
    law: str = "gaussian",
    levels: tuple[float, float] | None = None,
    clip: tuple[float, float] | None = None,
    mean: Tensor | None = None,
    inv_std: Tensor | None = None,
) -> Tensor:
    interleaved = checks.perturbed(x, rows, sigma, samples, ids, out, mean, inv_std, DEVICE)
    slots, channels, pixels = len(rows), x.shape[1], x.shape[2] * x.shape[3]
    if slots and channels * pixels:
        tensors = addresses(x, rows, sigma, samples, ids, out)
        sizes = (slots, channels, pixels)
        names, chosen = (seed, stream), (LAWS.index(law), levels)
        normalise = addresses(mean, inv_std)
        call(_cuda.perturb, x, tensors, sizes, interleaved, names, *chosen, clip, normalise)
    return out


def _logits(
    logits: Tensor, labels: Tensor, rows: Tensor
) -> tuple[Tensor, tuple[int, ...], tuple[int, int, int]]:
    logits = checks.judged(logits, labels, rows, DEVICE)
    return logits, addresses(logits, labels, rows), (*logits.shape, logits.stride(0))


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
    checks.tensor("counts", counts, torch.int64, (len(labels),), DEVICE)
    single = logits.dtype == torch.float32
    body = _cuda.count_errors_float32 if single else _cuda.count_errors_float64
    if len(rows):
        call(body, logits, tensors, sizes, counts.data_ptr())


def _ball(
    x: Tensor, rows: Tensor, norm: float, points: Tensor, **more: Tensor
) -> tuple[int, int, tuple[int, int], bool, int]:
    """The arguments that steps in balls share."""
    checks.balls(x, rows, DEVICE, points=points, **more)
    return x.data_ptr(), rows.data_ptr(), (len(rows), x.shape[1]), norm == 2, points.data_ptr()


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
    checks.slots(len(rows), DEVICE, scale=scale, step=step, radius=radius)
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
    for name, each in (("margin", margin), ("distance", distance)):
        checks.tensor(name, each, torch.float64, (len(rows),), DEVICE)
    if len(rows):
        call(_cuda.update_best, x, *shared, addresses(margin, distance, best, away))
    return away
