"""The device that the benchmarks of a GPU run on, and how a call is timed there."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from robustcore.kernels import unavailable

WARM = 2.0  # seconds of warming up that are enough


@dataclass(frozen=True)
class Run:
    """A device, and sizes that fill it, or tiny ones."""

    dry: bool
    keep: Callable[[dict], object] = lambda found: None  # called with what a part has so far
    data: Path | None = None  # folder of CIFAR-10

    @property
    def device(self):
        return "cpu" if self.dry else "cuda"

    def size(self, full, tiny):
        return tiny if self.dry else full

    @property
    def backends(self):
        named = ("native", "reference") if self.dry else ("triton", "cuda", "reference")
        return [each for each in named if unavailable(each, self.device) is None]

    def seconds(self, call, rounds=9):
        """Median of single calls, after some to warm up; on a GPU by its own clock."""
        rounds, times, began = self.size(rounds, 1), [], time.perf_counter()
        for _ in range(self.size(3, 1)):
            call()
            if not self.dry:
                torch.cuda.synchronize()
            if time.perf_counter() - began > WARM:
                break
        for _ in range(rounds):
            if self.dry:
                start = time.perf_counter()
                call()
                times.append(time.perf_counter() - start)
                continue
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            call()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) / 1e3)
        return statistics.median(times)
