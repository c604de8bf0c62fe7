"""A batch of slots: what names it, its recording on a GPU, and whether it was too large."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
        side, own = torch.cuda.Stream(), torch.cuda.current_stream()
        side.wait_stream(own)
        try:
            with torch.cuda.stream(side):
                step(self.slots)
                with refusing_waits():  # a recording that one breaks off leaves torch half in it
                    step(self.slots)
            own.wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                recorded = torch.cuda.current_stream()
                try:
                    self.logits = step(self.slots)
                finally:  # a recording is ended where it began, and nowhere else
                    torch.cuda.set_stream(recorded)
            self.graph = graph
        except RuntimeError as error:
            if out_of_memory(error):
                raise
            notes.append(f"no CUDA graph, as recording failed: {error}")
        finally:
            torch.cuda.set_stream(own)  # a recording that fails at its end leaves its own
            own.wait_stream(side)

    def __call__(self, slots: Slots) -> Tensor:
        if self.graph is None:
            return self.step(slots)
        for mine, new in zip(vars(self.slots).values(), vars(slots).values(), strict=True):
            mine.copy_(new)
        self.graph.replay()
        return self.logits


@contextmanager
def refusing_waits() -> Iterator[None]:
    """RuntimeError where the host waits for the device."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that it may not see all of them
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


# What else says so: CPUs; a graph or a kernel on a GPU; cuBLAS and cuDNN, which find no memory for
# themselves; and torch, when no algorithm of cuDNN has room for its work.
SHORT = "can't allocate memory", "out of memory", "ALLOC_FAILED", "unable to find an engine"


def out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or any(each in str(error) for each in SHORT)
