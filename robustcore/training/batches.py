"""The batches of one epoch: order, crops and levels are a function of (seed, epoch) alone.

So a run that was interrupted makes the same batches again, and W processes share the batches that
one would make: each takes its part of every batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from robustcore.training.data import Data

SEED_STRIDE = 100_003  # epochs of one seed do not meet those of the next
IN_ORDER, IN_ORDER_SEED = 500, 123  # batches of a pass in order, and the seed of its crops


@dataclass(frozen=True)
class Batch:
    """A batch, or one process's part of it, before its recipe."""

    images: Tensor  # (n, H, W, C) float32 in [0, 1], contiguous
    labels: Tensor  # (n,) int64
    ids: Tensor  # (n,) int64, place of each image in the data
    level: Tensor  # (n,) float32, uniform in [0, 1)
    place: Tensor  # (n,) int64, place in the whole batch
    epoch: int  # from 0
    done: float  # epochs done before this batch, with their fraction


class Batches:
    """Data on the device, cut into batches of `size`, of which this is process `rank` of `world`.

    Images lie there padded, as bytes, channels last: N (H + 2 pad) (W + 2 pad) C bytes.
    """

    def __init__(
        self, data: Data, size: int, seed: int, device: torch.device, rank: int = 0, world: int = 1
    ) -> None:
        self.data, self.size, self.seed, self.device = data, size, seed, device
        share = size // world
        self.part = slice(rank * share, (rank + 1) * share)
        self.steps = len(data.x) // size
        pad = data.pad
        padded = F.pad(data.x, (pad, pad, pad, pad)).permute(0, 2, 3, 1).contiguous().to(device)
        count, height, width, channels = padded.shape
        self.height, self.width, self.channels = data.x.shape[2], data.x.shape[3], channels
        # each run of W pixels in a row as one element, so that a crop copies H runs
        self.runs = padded.view(count, height, width * channels).as_strided(
            (count, height, 2 * pad + 1, self.width * channels),
            (height * width * channels, width * channels, channels, 1),
        )
        self.labels = data.y.to(device, torch.int64)

    def epoch(self, epoch: int) -> Epoch:
        return Epoch(self, epoch)

    def in_order(self, epoch: int) -> Iterator[Batch]:
        """All images once, in their order, in batches of 500, the same in every process."""
        crops = torch.Generator().manual_seed(IN_ORDER_SEED)
        levels = torch.Generator().manual_seed(self.seed * SEED_STRIDE + epoch)
        for index in torch.arange(len(self.data.x), device="cpu").split(IN_ORDER):
            top, left, mirrored = (d.to(self.device) for d in _crops(self.data, len(index), crops))
            level = torch.rand(len(index), generator=levels, dtype=torch.float32, device="cpu").to(
                self.device
            )
            place, index = torch.arange(len(index), device=self.device), index.to(self.device)
            images = self.crop(index, top, left, mirrored)
            yield Batch(images, self.labels[index], index, level, place, epoch, float(epoch))

    def crop(self, index: Tensor, top: Tensor, left: Tensor, mirrored: Tensor) -> Tensor:
        """Images (n, H, W, C) in [0, 1], cut at (top, left) of the padded ones."""
        rows = top[:, None] + torch.arange(self.height, device=self.device)
        crops = self.runs[index[:, None], rows, left[:, None]]
        crops = crops.view(len(index), self.height, self.width, self.channels)
        if self.data.mirror:
            crops = torch.where(mirrored[:, None, None, None], crops.flip(2), crops)
        return crops.float().div_(255)


class Epoch:
    """The draws of one epoch, made in one order whatever the recipe; iterate for its batches."""

    def __init__(self, batches: Batches, epoch: int) -> None:
        self.batches, self.number = batches, epoch
        size, steps, data = batches.size, batches.steps, batches.data
        generator = torch.Generator().manual_seed(batches.seed * SEED_STRIDE + epoch)
        order = torch.randperm(len(data.x), generator=generator, device="cpu")[: steps * size].view(
            steps, size
        )
        crops = [_crops(data, size, generator) for _ in range(steps)]
        top, left, mirrored = (torch.stack(draw) for draw in zip(*crops, strict=True))
        level = torch.rand(steps, size, generator=generator, dtype=torch.float32, device="cpu")
        draws = (order, top, left, mirrored, level)
        self.draws = [draw[:, batches.part].to(batches.device) for draw in draws]
        self.place = torch.arange(size, device=batches.device)[batches.part]

    def __len__(self) -> int:
        return self.batches.steps

    def __getitem__(self, step: int) -> Batch:
        if not 0 <= step < len(self):
            raise IndexError(step)
        index, top, left, mirrored, level = (draw[step] for draw in self.draws)
        return Batch(
            images=self.batches.crop(index, top, left, mirrored),
            labels=self.batches.labels[index],
            ids=index,
            level=level,
            place=self.place,
            epoch=self.number,
            done=self.number + step / len(self),
        )


def _crops(data: Data, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """(top, left, mirrored) of n crops, each (n,)."""
    top = left = torch.zeros(n, dtype=torch.int64, device="cpu")
    if data.pad:
        top, left = torch.randint(
            0, 2 * data.pad + 1, (2, n, 1), generator=generator, device="cpu"
        )[..., 0]
    mirrored = torch.zeros(n, dtype=torch.bool, device="cpu")
    if data.mirror:
        mirrored = torch.rand(n, generator=generator, dtype=torch.float32, device="cpu") < 0.5
    return top, left, mirrored
