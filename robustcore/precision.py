"""Forward passes in lower precision, whose errors are nevertheless those of the model as it is.

A lower precision changes an answer only where the lead of the class it names is smaller than its
rounding. How large that is, is measured: draws whose lead lies within SAFE times the largest
difference seen so far are in doubt and looked at again in full precision, which measures more of
them. The first such difference is that of MEASURED draws from all over the first round. This is no
proof: a rounding beyond SAFE times all that were seen, at a draw that it decides, would go unseen.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor

PRECISIONS = ("bfloat16", "tf32")
MEASURED = 256
SAFE = 2.0


class Coarse:
    """A lower precision, and how far its leads were from those of full precision."""

    def __init__(self, name: str, device: torch.device) -> None:
        self.name, self.device = name, device
        self.band = torch.full((), torch.inf, dtype=torch.float64, device=device)
        self.largest = torch.zeros_like(self.band)
        self.note = (
            f"{name}: draws whose lead is within {SAFE:g} times its rounding were evaluated again "
            "in full precision, and count once"
        )

    @property
    def measured(self) -> bool:
        return bool(torch.isfinite(self.band))

    def context(self, coarse: bool) -> AbstractContextManager[Any]:
        """Within it the model computes coarsely, or not."""
        if self.name == "tf32":
            return tf32(coarse)
        return torch.autocast(self.device.type, torch.bfloat16, enabled=coarse)

    def doubtful(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(in doubt, lead, class named), each (S,), of coarse logits (S, K)."""
        top = logits.double().topk(2, 1)
        lead = top.values[:, 0] - top.values[:, 1]
        return ~(lead >= self.band), lead, top.indices[:, 0]

    def learn(self, lead: Tensor, named: Tensor, logits: Tensor) -> None:
        """Of draws whose coarse lead is known: the logits (S, K) of full precision."""
        wide, named = logits.double(), named[:, None]
        rest = wide.scatter(1, named, -torch.inf).amax(1)
        off = (wide.gather(1, named)[:, 0] - rest - lead).abs().nan_to_num(0, 0, 0)
        self.largest = torch.maximum(self.largest, off.amax())
        self.band = SAFE * self.largest


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Products and convolutions of a GPU with or without TF32."""
    kept = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = kept


def checked(name: str | None, device: torch.device, dtype: torch.dtype) -> str | None:
    """A lower precision, or None. Raises ValueError where images or device do not take it."""
    if name is None:
        return None
    if dtype != torch.float32:
        raise ValueError(f"precision must be left out for images in {dtype}, was {name!r}")
    if name == "tf32" and device.type != "cuda":
        raise ValueError(f"precision must be 'bfloat16' or None on {device.type}, was 'tf32'")
    return name
