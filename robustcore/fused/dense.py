"""What the fused kernels of dense networks on GPUs share. Contracts are in `robustcore.fused`.

Gradients and convolutions are left to torch; noise with a clip, too.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from robustcore.fused.packed import Packed
from robustcore.kernels import checks


class Call(NamedTuple):
    """One launch: a table of slots and their logits, or a range of draws and their counts."""

    base: Tensor  # (B, N) the first layer's answer to each image
    ids: Tensor
    sigma: Tensor  # of each slot of a table, else the grid
    rows: Tensor | None  # of a table
    samples: Tensor | None
    labels: Tensor | None  # of counts
    out: Tensor  # logits (S, K), or counts (B, G)
    slots: int
    first: int  # of the draws
    draws: int  # of each image
    names: tuple[int, int]  # seed, stream


class DenseNet:
    """A packed dense network on one device; a body says how it is launched."""

    language: str

    def __init__(self, packed: Packed, device: torch.device | str) -> None:
        if not packed.dense:
            raise ValueError(f"packed must begin with a linear layer, was {packed}")
        self.packed, self.device = packed, torch.device(device)
        weights = [layer.weight for layer in packed.layers]
        if packed.draws == "features":
            weights[0] = packed.factor().float()
        self.weights = [each.T.contiguous().to(device) for each in weights]
        self.biases = [layer.bias.to(device) for layer in packed.layers]
        self._based: tuple[Tensor, Tensor] | None = None

    def _launch(self, call: Call) -> None:
        raise NotImplementedError

    def _base(self, x: Tensor, clip: tuple[float, float] | None) -> Tensor:
        checks.tensor("x", x, torch.float32, (len(x), *self.packed.shape), self.device.type)
        if clip is not None:
            raise ValueError(
                f"clip must be None for a fused network in {self.language}, was {clip}"
            )
        if self._based is None or self._based[0] is not x:
            self._based = x, self.packed.base(x)
        return self._based[1]

    def logits(
        self,
        x: Tensor,
        rows: Tensor,
        sigma: Tensor,
        samples: Tensor,
        ids: Tensor,
        *,
        seed: int,
        stream: int = 0,
        clip: tuple[float, float] | None = None,
    ) -> Tensor:
        slots, base = len(rows), self._base(x, clip)
        checks.slots(slots, self.device.type, rows=rows, sigma=sigma, samples=samples)
        checks.slots(len(x), self.device.type, ids=ids)
        out = torch.empty(slots, self.packed.n_classes, device=x.device)
        if slots:
            names = seed, stream
            self._launch(Call(base, ids, sigma, rows, samples, None, out, slots, 0, 0, names))
        return out

    def count_errors(
        self,
        x: Tensor,
        labels: Tensor,
        sigma: Tensor,
        ids: Tensor,
        draws: tuple[int, int],
        counts: Tensor,
        *,
        seed: int,
        stream: int = 0,
        clip: tuple[float, float] | None = None,
    ) -> None:
        base, slots = self._base(x, clip), len(x) * draws[1]
        checks.slots(len(x), self.device.type, labels=labels, ids=ids)
        checks.slots(len(sigma), self.device.type, sigma=sigma)
        checks.tensor("counts", counts, torch.int64, (len(x), len(sigma)), self.device.type)
        if slots:
            names = seed, stream
            self._launch(Call(base, ids, sigma, None, None, labels, counts, slots, *draws, names))
