"""A batch of slots: what names it, its recording on a GPU, and whether it was too large."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Slots:
    """A part of a round, on the device."""

    index: Tensor  # (S,) int64, places in the round
    rows: Tensor  # (S,) int64, image of each slot
    sigma: Tensor  # (S,) float32
    samples: Tensor  # (S,) int64, index of the draw


class Graph:
    """One full batch recorded in a CUDA graph: a launch for the batch, not for each kernel."""

    def __init__(self, step: Callable[[Slots], Tensor], slots: Slots, notes: list[str]) -> None:
        self.slots = Slots(*(each.clone() for each in vars(slots).values()))
        self.step, self.graph = step, None
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(side):
                for _ in range(2):
                    step(self.slots)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self.logits = step(self.slots)
            self.graph = graph
        except RuntimeError as error:
            if out_of_memory(error):
                raise
            notes.append(f"no CUDA graph, as recording failed: {error}")

    def __call__(self, slots: Slots) -> Tensor:
        if self.graph is None:
            return self.step(slots)
        for mine, new in zip(vars(self.slots).values(), vars(slots).values(), strict=True):
            mine.copy_(new)
        self.graph.replay()
        return self.logits


def out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
