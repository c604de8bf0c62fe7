"""Rounds: a flat table of slots (row, sigma, sample), cut into full batches that a model judges.

How a round is cut changes no draw. The host waits for the device once, at the end of a round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustcore.batches import Graph, Slots, out_of_memory
from robustcore.engine import Engine
from robustcore.fused import Fused
from robustcore.kernels import Backend
from robustcore.network import Network
from robustcore.noise import Noise
from robustcore.precision import MEASURED, Coarse

# Batches perturbed and reduced at once on a CPU: between two of them the work of the model empties
# the caches, and to fill them again costs as much as the noise. Of usual batches: larger ones are
# fewer, so that noisy images take no more memory than so many usual batches, or than one.
TOGETHER = 8
GRAPH_BATCHES = 8  # recording a CUDA graph pays from about this many batches on
FUSED_BATCH = 8192  # slots of a fused network: it stores no image
PART = 2**22  # slots of a round after which those in doubt are looked at again: bounds the memory
ROUND = 2**20  # slots named at a time by who asks for many draws: bounds the memory

Make = Callable[[Tensor], Slots]  # slots by their place in the round
Reduce = Callable[[Tensor, Slots], object]  # what becomes of logits (S, K)


def in_rounds(rows: np.ndarray, first: int, last: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(row, draw) of slots: all rows at draws first to last - 1, at most about ROUND at a time."""
    width = max(1, ROUND // max(1, len(rows)))
    for start in range(first, last, width):
        draws = np.arange(start, min(start + width, last))
        yield np.repeat(rows, len(draws)), np.tile(draws, len(rows))


def _ignore(logits: Tensor, slots: Slots) -> None:
    pass


class Rounds:
    """Images x (B, C, H, W) float32 with labels y (B,), and the model that judges their draws.

    Inputs of another shape are (B, 1, 1, D) here.
    """

    x: Tensor
    y: Tensor
    ids: Tensor
    device: torch.device
    dtype: torch.dtype
    seed: int
    stream: int
    noise: Noise
    usual_batch: int
    engine: Engine
    compiled: bool
    answers: Tensor | None
    n_forward: np.ndarray
    kernels: Backend
    network: Network
    fused: Fused | None
    coarse: Coarse | None
    notes: list[str]
    _graph: Graph | None
    _images: Tensor | None

    @property
    def batch_size(self) -> int:
        return self.engine.setup.batch_size

    def logits(self, images: Tensor, rows: Tensor) -> Tensor:
        """Logits (S, K) of images (S, C, H, W), noisy copies of images rows (S,); counts nothing.

        By the model or its compiled form. For a criterion other than "top1" they are its margin
        and 0.
        """
        outputs = self.outputs(images)
        if self.answers is None or self.engine.error is None:
            return outputs
        return self.engine.error.logits(outputs, self.answers[rows])

    def outputs(self, images: Tensor) -> Tensor:
        """Outputs (S, ...) of the model, or of its compiled form, for images (S, C, H, W)."""
        outputs = self.network(images, self.compiled)
        self._charge_comparisons()
        return outputs

    def compare(self, images: Tensor, logits: Tensor) -> None:
        """ValueError where a batch larger than any before gave other logits than few images do."""
        self.network.compare(images, logits, False)
        self._charge_comparisons()

    def _charge_comparisons(self) -> None:
        """Of images that nobody names: on account of the first. Not within a set, as for set-up."""
        spent = self.network.compared_since()
        if not self.engine.within_set:
            self.n_forward[0] += spent

    def table(self, rows: np.ndarray, sigma: np.ndarray, samples: np.ndarray) -> tuple[int, Make]:
        """A round of these slots."""
        columns = (
            torch.as_tensor(rows, device=self.device).long(),
            torch.as_tensor(sigma, device=self.device).float(),
            torch.as_tensor(samples, device=self.device).long(),
        )
        return len(rows), lambda at: Slots(at, *(column[at] for column in columns))

    def run(
        self,
        round_: tuple[int, Make],
        reduce: Reduce,
        progress: Callable[[int], object] = lambda evaluations: None,
    ) -> None:
        """Judge a round. In lower precision, `reduce` sees a draw in doubt twice: as one that the
        model gets right, and then as it is."""
        total, make = round_
        if self.coarse is not None and total and not self.coarse.measured:
            spread = torch.arange(MEASURED, device=self.device) * total // MEASURED
            doubtful = self._pass(spread, make, _ignore, coarse=self.coarse)
            self._look(self.coarse, doubtful, make, _ignore)
        for start in range(0, total, PART):
            index = torch.arange(start, min(start + PART, total), device=self.device)
            doubtful = self._pass(index, make, reduce, progress, self.coarse)
            if self.coarse is not None and len(doubtful[0]):
                self._look(self.coarse, doubtful, make, reduce)

    def _look(self, coarse: Coarse, doubtful: list[Tensor], make: Make, reduce: Reduce) -> None:
        """Judge draws in doubt as they are, and learn how far their leads were off."""
        index, lead, named = doubtful
        seen: list[Tensor] = []

        def exact(logits: Tensor, slots: Slots) -> None:
            seen.append(logits.clone())
            reduce(logits, slots)

        self._pass(index, make, exact)
        coarse.learn(lead, named, torch.cat(seen))

    def _pass(
        self,
        index: Tensor,
        make: Make,
        reduce: Reduce,
        progress: Callable[[int], object] = lambda evaluations: None,
        coarse: Coarse | None = None,
    ) -> list[Tensor]:
        """Judge the slots at these places; returns those in doubt, their leads and classes."""
        start = 0
        doubtful: list[tuple[Tensor, ...]] = []
        while start < len(index):
            size = self._together() * self.batch_size if self.fused is None else FUSED_BATCH
            slots = make(index[start : start + size])
            try:
                logits = self._logits(slots, (len(index) - start) // self.batch_size, coarse)
            except RuntimeError as error:
                if self.batch_size == 1 or not out_of_memory(error):
                    raise
                self.halve()
                continue
            if coarse is not None:
                doubtful.append(coarse.doubtful(logits))
                right = torch.zeros_like(logits).scatter(1, self.y[slots.rows, None], 1.0)
                logits = torch.where(doubtful[-1][0][:, None], right, logits)
            reduce(logits, slots)
            progress(len(slots.rows))
            start += len(slots.rows)
        if coarse is None:
            return []
        doubt, *known = (torch.cat(each) for each in zip(*doubtful, strict=True))
        return [each[doubt] for each in (index, *known)]

    def _together(self) -> int:
        """Batches to perturb at once."""
        if self.device.type != "cpu":
            return 1
        return min(TOGETHER, max(1, TOGETHER * self.usual_batch // self.batch_size))

    def _logits(self, slots: Slots, batches: int, coarse: Coarse | None) -> Tensor:
        if self.fused is not None:
            return self.fused.logits(
                self.x, slots.rows, slots.sigma, slots.samples, self.ids,
                seed=self.seed, stream=self.stream, clip=self.noise.clip,
            )  # fmt: skip
        recorded = coarse is self.coarse and self.device.type == "cuda"
        if recorded and len(slots.rows) == self.batch_size:
            if self._graph is None and batches >= GRAPH_BATCHES:
                self._graph = Graph(lambda slots: self._perturbed(slots, coarse), slots, self.notes)
            if self._graph is not None:
                return self._graph(slots)
        return self._perturbed(slots, coarse)

    def _perturbed(self, slots: Slots, coarse: Coarse | None) -> Tensor:
        n = len(slots.rows)
        if self._images is None or len(self._images) < n:
            self._images = self.formatted(self.x.new_empty((n, *self.x.shape[1:])))
        out = self.noise.perturb(
            self.kernels,
            self.x,
            slots.rows,
            slots.sigma,
            slots.samples,
            self.ids,
            self._images[:n],
            shape=self.network.shape,
            seed=self.seed,
            stream=self.stream,
        )
        if self.coarse is None:
            context: Any = nullcontext()
        else:
            context = self.coarse.context(coarse is not None)
        with context:
            size = self.batch_size
            parts = zip(out.split(size), slots.rows.split(size), strict=True)
            logits = [self.logits(*part) for part in parts]
        return logits[0] if len(logits) == 1 else torch.cat(logits)

    def formatted(self, images: Tensor) -> Tensor:
        """In the memory format that the model likes best."""
        return images.contiguous(memory_format=self.network.layout)

    def halve(self) -> None:
        note = self.engine.halve_batch()
        self._images = self._graph = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.notes.append(note)
