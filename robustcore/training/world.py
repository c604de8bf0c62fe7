"""The processes that train together under torchrun; one alone is a world of 1."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from robustcore import inputs
from robustcore.runs.ranks import together


@dataclass(frozen=True)
class World:
    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process prints and writes."""
        return self.rank == 0

    def total(self, value: Tensor) -> Tensor:
        """Sum over all processes."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def agree(self, model: nn.Module) -> None:
        """Give every process the buffers of the first: each has seen other images."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def wait(self) -> None:
        if self.size > 1:
            dist.barrier()


@contextmanager
def world(device: torch.device | str | None) -> Iterator[World]:
    """Join the processes that torchrun started, if any: as `robustcore.runs.together`.

    device None is a GPU where there is one, under torchrun that of LOCAL_RANK.
    """
    usual = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = inputs.device("device", usual if device is None else device)
    with together(chosen) as device:
        grouped = dist.is_available() and dist.is_initialized()
        yield World(*((dist.get_rank(), dist.get_world_size()) if grouped else (0, 1)), device)
