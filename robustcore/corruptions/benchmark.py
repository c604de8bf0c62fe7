"""A model's accuracy in every condition: images are corrupted while the model judges others."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from robustcore import inputs
from robustcore.batches import out_of_memory
from robustcore.corruptions.batch import NUDGE, levels
from robustcore.corruptions.corrupt import corrupted, known_name, parameter_set, pixels
from robustcore.corruptions.digital import through_jpeg
from robustcore.corruptions.kernels import Kernels, select
from robustcore.corruptions.parameters import COMMON
from robustcore.engine import Engine
from robustcore.evaluator import (
    PROBE,
    Evaluator,
    given_answers,
    logits_and_classes,
    predicted_answers,
    recorded_labels,
)
from robustcore.network import Model
from robustcore.provenance import bar, provenance
from robustcore.results import CorruptionResult, Provenance
from robustcore.runs import by_blocks

STORAGE = ("memory", "uint8", "jpeg")
SMALLEST = 32  # images in a block: a batch holds no more


class Images(Protocol):
    """Images that are read when they are wanted: a tensor is one, `ImageFiles` another."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> Tensor: ...


@dataclass(frozen=True)
class Condition:
    """make(part) gives the images of a slice, on the model's device."""

    corruption: str
    severity: int
    make: Callable[[slice], Tensor]


@by_blocks(smallest=SMALLEST, per_batch=1)
def corruption_benchmark(
    model: Model | Engine,
    x: Any,  # (B, C, H, W)
    y: Any = None,  # (B,)
    *,
    corruptions: Sequence[str] = COMMON,
    severities: Sequence[int] = (1, 2, 3, 4, 5),
    storage: str = "memory",
    quality: int = 85,
    confidence: float = 0.95,
    seed: int = 0,
    ids: Any = None,
    parameters: str | None = None,
    run: str | os.PathLike[str] | None = None,
) -> CorruptionResult:
    """Accuracy under each corruption at each severity, the 15 by 5 of the benchmark by default.

    model: any callable from (S, C, H, W) pixels in [0, 1] to (S, K) logits.
    x: images in [0, 1], as `corrupt` takes them, in any form that `error_rate` takes; what is not a
        tensor, such as `ImageFiles`, is read a block of images at a time.
    y: true class of each image; None takes those that x brings, or else the model's own answers on
        the clean images.
    corruptions, severities: names as in `corrupt`, severities of 1 to 5, none twice.
    storage: what a file would have done to the corrupted images. "memory" leaves them as floats,
        as the paper measures; "uint8" cuts to 8 bits, as CIFAR-10-C is stored; "jpeg" compresses
        that at `quality` (1 to 95), as ImageNet-C is stored at 85. Clean images are left alone.
    seed, ids, parameters: as in `corrupt`; no result depends on the batch size.
    confidence, run: as in `error_rate`. The corruptions are made by the backend of the `Engine`.

    A tie or a NaN among the logits is an error. Cost: B * (1 + conditions) evaluations of the model
    and a few more on the first images. Raises ValueError, TypeError or RuntimeError naming the
    argument.

    Source: Hendrycks and Dietterich (2019); Ford et al. (2019), section 6.
    """
    start = time.perf_counter()
    engine = Engine.of(model)
    wanted = asked(corruptions, severities)
    storage = inputs.choice("storage", storage, STORAGE)
    quality = inputs.integer("quality", quality, 1, 95)
    seed = inputs.integer("seed", seed, 0, 2**63 - 1)
    confidence = inputs.fraction("confidence", confidence)
    images = pixels(x, tuple(name for name, _ in wanted)).to(engine.device or x.device)
    n = len(images)
    names = inputs.identifiers(ids, n, images.device)
    bodies = select(engine.backend, images.device)
    chosen = parameter_set(parameters, images.shape[2:])

    def condition(name: str, severity: int) -> Condition:
        def make(part: slice) -> Tensor:
            made = corrupted(images[part], name, severity, seed, names[part], chosen, bodies)
            return stored(bodies, made, storage, quality)

        return Condition(name, severity, make)

    settings = {"storage": storage, "quality": quality, "parameters": chosen}

    def finish(evaluator: Evaluator) -> Provenance:
        measured = (images, names)
        made = provenance(evaluator, "corruption", None, start, settings, images=measured)
        return replace(made, backend=bodies.name)  # of the corruptions, not of the margins

    return measure(
        engine,
        images[:PROBE],
        [Condition("clean", 0, images.__getitem__), *(condition(*each) for each in wanted)],
        y,
        n,
        names,
        confidence=confidence,
        seed=seed,
        finish=finish,
    )


def stored(bodies: Kernels, x: Tensor, storage: str, quality: int) -> Tensor:
    """Images as they come back from storage, of the same type and device."""
    if storage == "memory":
        return x
    if storage == "uint8":
        return (levels(x.float()) / 255).to(x.dtype)
    return through_jpeg(bodies, x.float(), quality, NUDGE).to(x.dtype)


def measure(
    engine: Engine,
    first: Tensor,
    conditions: list[Condition],
    y: Any,
    n: int,
    ids: Tensor,
    *,
    confidence: float,
    seed: int,
    finish: Callable[[Evaluator], Any],
) -> CorruptionResult:
    """Run every condition; conditions[0] holds the clean images, `first` a few of them."""
    confidence = inputs.fraction("confidence", confidence)
    error, device = engine.error, first.device
    given = given_answers(error, y, n, device)
    evaluator = Evaluator(
        engine,
        first,
        None if given is None else given[: len(first)],
        seed=seed,
        box=(0.0, 1.0),
        exact=True,
        planned=n * len(conditions),
    )
    correct = torch.zeros(n, len(conditions), dtype=torch.bool, device=first.device)
    predicted: dict[int, Tensor] = {}  # by the first image of a part
    with torch.no_grad(), bar(n * len(conditions), "evaluations", engine.progress) as shown:
        for column, part, images in _ahead(conditions, n, evaluator.batch_size):
            outputs = _outputs(evaluator, images)
            if given is None and column == 0:
                predicted[part.start] = predicted_answers(error, outputs)
            answers = predicted[part.start] if given is None else given[part]
            logits, right = logits_and_classes(error, outputs, answers)
            rows = torch.arange(len(right), device=device)
            correct[part, column] = evaluator.kernels.margins(logits, right, rows)[0] > 0
            shown.update(len(images))
    answers = torch.cat(list(predicted.values())) if given is None else given
    forward = np.full(n, len(conditions), np.int64)
    forward[: len(first)] += evaluator.n_forward
    found = correct.cpu().numpy()
    return CorruptionResult(
        ids=ids.cpu().numpy(),
        labels=recorded_labels(answers).cpu().numpy(),
        correct=found[:, 1:],
        clean_correct=found[:, 0],
        corruption=np.array([each.corruption for each in conditions[1:]], dtype=np.str_),
        severity=np.array([each.severity for each in conditions[1:]], dtype=np.int64),
        n_forward=forward,
        confidence=confidence,
        provenance=finish(evaluator),
    )


def _ahead(conditions: list[Condition], n: int, size: int) -> Iterator[tuple[int, slice, Tensor]]:
    """(condition, slice, images), the next batch being made while this one is judged."""
    tasks = (
        (column, slice(low, min(low + size, n)))
        for column in range(len(conditions))
        for low in range(0, n, size)
    )

    def make(column: int, part: slice) -> Tensor:
        with torch.no_grad():
            return conditions[column].make(part)

    with ThreadPoolExecutor(1) as worker:
        waiting: tuple[int, slice, Future[Tensor]] | None = None
        for task in tasks:
            following = (*task, worker.submit(make, *task))
            if waiting is not None:
                yield waiting[0], waiting[1], waiting[2].result()
            waiting = following
        if waiting is not None:
            yield waiting[0], waiting[1], waiting[2].result()


def _outputs(evaluator: Evaluator, images: Tensor) -> Tensor:
    """(S, ...), in smaller pieces where the memory does not hold the whole."""
    parts, low = [], 0
    while low < len(images):
        piece = images[low : low + evaluator.batch_size].float()
        try:
            outputs = evaluator.outputs(evaluator.formatted(piece))
        except RuntimeError as error:
            if evaluator.batch_size == 1 or not out_of_memory(error):
                raise
            evaluator.halve()
            continue
        parts.append(outputs)
        low += len(piece)
    return torch.cat(parts)


def asked(corruptions: Any, severities: Any) -> list[tuple[str, int]]:
    """Conditions, (name, severity), grouped by corruption."""
    names = [known_name("corruptions", each) for each in _listed("corruptions", corruptions)]
    chosen = [
        inputs.integer("severities", each, 1, 5) for each in _listed("severities", severities)
    ]
    for name, values in (("corruptions", names), ("severities", chosen)):
        if not values or len(set(values)) < len(values):
            raise ValueError(f"{name} must hold at least one and none twice, was {values!r}")
    return [(name, each) for name in names for each in chosen]


def _listed(name: str, values: Any) -> list[Any]:
    if isinstance(values, (str, int)):
        return [values]
    if not isinstance(values, (Sequence, np.ndarray, Tensor)):
        raise TypeError(f"{name} must be a list, was {inputs.shown(values)}")
    return [values] if getattr(values, "ndim", 1) == 0 else list(values)


def device_of(engine: Engine, x: Any) -> torch.device:
    """Where images are measured: as was asked; where they lie; if they are read, by the model."""
    model = engine.model
    if isinstance(x, Tensor):
        return engine.device or x.device
    listed = hasattr(x, "__len__") and hasattr(x, "__getitem__") and not np.isscalar(x)
    if not listed or getattr(x, "ndim", 1) == 0:
        raise TypeError(f"x must be a torch.Tensor or images to slice, was {type(x).__name__}")
    if engine.device is None and isinstance(model, nn.Module):
        for parameter in model.parameters():
            return parameter.device
    return engine.device or torch.device("cpu")
