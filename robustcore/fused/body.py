"""What the bodies of fused networks share: arguments checked once, and a record of each launch.

Contracts are in `robustcore.fused`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from robustcore.fused.packed import Packed
from robustcore.kernels import checks

Clip = tuple[float, float]


class Call(NamedTuple):
    """One launch: a table of slots and their logits, or a range of draws and their counts."""

    x: Tensor
    ids: Tensor
    sigma: Tensor  # of each slot of a table, else the grid
    rows: Tensor | None  # of a table
    samples: Tensor | None
    labels: Tensor | None  # of counts
    out: Tensor  # logits (S, K), or counts (B, G)
    slots: int
    draws: tuple[int, int]  # the first, and how many of each image
    names: tuple[int, int]  # seed, stream
    clip: Clip | None

    def addresses(self, base: Tensor | None) -> tuple[int, ...]:
        """As csrc/fused/round.h takes them; base: the first layer's answers to the images."""
        tensors = (self.x, base, self.ids, self.sigma, self.rows, self.samples, self.labels)
        return tuple(0 if each is None else each.data_ptr() for each in (*tensors, self.out))

    @property
    def sizes(self) -> tuple[int, ...]:
        grid = 0 if self.labels is None else len(self.sigma)
        return self.slots, len(self.x), grid, *self.draws


class Body:
    """A packed network on one device, or on that of its images; `_launch` is a body's own."""

    name: str
    dtype = torch.float32  # of logits

    def __init__(self, packed: Packed, device: torch.device | str | None = None) -> None:
        self.packed = packed
        self.device = None if device is None else torch.device(device)
        self._based: tuple[Tensor, Tensor] | None = None

    def _launch(self, call: Call) -> None:
        raise NotImplementedError

    def base(self, x: Tensor, clip: Clip | None) -> Tensor | None:
        """What a linear first layer answers to the images, (B, N): noise is then added to it.

        None where noise must be added to the images: before a convolution, and with a clip.
        """
        if not self.packed.dense or (clip is not None and self.packed.draws == "pixels"):
            return None
        based = self._based
        if based is None or based[0] is not x:
            based = self._based = x, self.packed.base(x)
        return based[1]

    def _on(self, x: Tensor) -> str:
        on = (x.device if self.device is None else self.device).type
        checks.tensor("x", x, torch.float32, (len(x), *self.packed.shape), on)
        return on

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
        clip: Clip | None = None,
    ) -> Tensor:
        slots, on = len(rows), self._on(x)
        checks.slots(slots, on, rows=rows, sigma=sigma, samples=samples)
        checks.slots(len(x), on, ids=ids)
        out = torch.empty(slots, self.packed.n_classes, dtype=self.dtype, device=x.device)
        names = seed, stream
        self._launch(Call(x, ids, sigma, rows, samples, None, out, slots, (0, 0), names, clip))
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
        clip: Clip | None = None,
    ) -> None:
        on = self._on(x)
        checks.slots(len(x), on, labels=labels, ids=ids)
        checks.slots(len(sigma), on, sigma=sigma)
        checks.tensor("counts", counts, torch.int64, (len(x), len(sigma)), on)
        slots, names = len(x) * draws[1], (seed, stream)
        self._launch(Call(x, ids, sigma, None, None, labels, counts, slots, draws, names, clip))


class Stepwise(Body):
    """A body that makes the logits of some slots at a time, and counts them by a kernel."""

    at_once: int  # slots: bounds memory

    def _answers(self, call: Call, rows: Tensor, sigma: Tensor, samples: Tensor) -> Tensor:
        """Logits (S, K) of slots."""
        raise NotImplementedError

    def _count(self, logits: Tensor, labels: Tensor, rows: Tensor, counts: Tensor) -> None:
        """As `kernels.count_errors`."""
        raise NotImplementedError

    def _launch(self, call: Call) -> None:
        for start in range(0, call.slots, self.at_once):
            at = slice(start, min(start + self.at_once, call.slots))
            if call.rows is not None and call.samples is not None:
                table = (call.rows[at], call.sigma[at], call.samples[at])
                call.out[at] = self._answers(call, *table)
            elif call.labels is not None:
                slot = torch.arange(at.start, at.stop, device=call.x.device)
                first, draws = call.draws
                rows, samples = slot // draws, first + slot % draws
                for g, sigma in enumerate(call.sigma):
                    scale = sigma.expand(len(slot)).contiguous()
                    logits = self._answers(call, rows, scale, samples)
                    column = call.out[:, g].contiguous()
                    self._count(logits, call.labels, rows, column)
                    call.out[:, g] = column
