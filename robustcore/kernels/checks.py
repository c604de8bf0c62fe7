"""What keeps compiled bodies inside their memory: tensors arrive there as addresses."""

from __future__ import annotations

import torch
from torch import Tensor


def tensor(name: str, value: Tensor, dtype: torch.dtype, shape: tuple[int, ...], on: str) -> None:
    """ValueError for what is not a contiguous tensor of that type and shape on that device."""
    right = value.dtype == dtype and tuple(value.shape) == shape
    if not (right and value.device.type == on and value.is_contiguous()):
        raise ValueError(
            f"{name} must be {dtype} of shape {shape}, contiguous on {on}; got {value.dtype} of "
            f"shape {tuple(value.shape)}, strides {value.stride()}, on {value.device}"
        )


def slots(count: int, on: str, **columns: Tensor) -> None:
    """A number for each slot, or each image: float32, or int64 for names, rows and labels."""
    for name, column in columns.items():
        whole = name in ("rows", "samples", "ids", "labels", "restarts")
        tensor(name, column, torch.int64 if whole else torch.float32, (count,), on)


def perturbed(
    x: Tensor,
    rows: Tensor,
    sigma: Tensor,
    samples: Tensor,
    ids: Tensor,
    out: Tensor,
    mean: Tensor | None,
    inv_std: Tensor | None,
    on: str,
) -> bool:
    """The arguments of `perturb`; whether out is channels_last."""
    batch, channels, height, width = x.shape
    tensor("x", x, torch.float32, (batch, channels, height, width), on)
    slots(len(rows), on, rows=rows, sigma=sigma, samples=samples)
    slots(batch, on, ids=ids)
    interleaved = not out.is_contiguous()
    if interleaved and not out.is_contiguous(memory_format=torch.channels_last):
        raise ValueError(f"out must be contiguous or channels_last; got strides {out.stride()}")
    flat = out.permute(0, 2, 3, 1) if interleaved else out
    shape = (height, width, channels) if interleaved else (channels, height, width)
    tensor("out", flat, torch.float32, (len(rows), *shape), on)
    if (mean is None) != (inv_std is None):
        raise ValueError("mean and inv_std must be given together")
    if mean is not None and inv_std is not None:
        slots(channels, on, mean=mean, inv_std=inv_std)
    return interleaved


def judged(logits: Tensor, labels: Tensor, rows: Tensor, on: str) -> Tensor:
    """The arguments of `margins` and `count_errors`; logits (S, K) with contiguous rows."""
    if logits.dtype not in (torch.float32, torch.float64):
        logits = logits.float()
    if logits.shape[1] < 2 or logits.device.type != on:
        raise ValueError(
            f"logits must be (S, K >= 2) on {on}; got {tuple(logits.shape)} on {logits.device}"
        )
    slots(len(labels), on, labels=labels)
    slots(len(logits), on, rows=rows)
    return logits if logits.stride(1) == 1 else logits.contiguous()


def balls(x: Tensor, rows: Tensor, on: str, **points: Tensor) -> None:
    """Steps in balls; each of `points` is a row of floats for each slot."""
    tensor("x", x, torch.float32, tuple(x.shape), on)
    slots(len(rows), on, rows=rows)
    for name, value in points.items():
        tensor(name, value, torch.float32, (len(rows), x.shape[1]), on)
