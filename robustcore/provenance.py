"""How a measurement was made, and the bar that shows how far it is."""

from __future__ import annotations

import hashlib
import platform
import time
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from robustcore.evaluator import Evaluator
from robustcore.results import Provenance

STEPS = 16 * 255

installed = cache(version)  # reads a file


def provenance(
    evaluator: Evaluator,
    method: str,
    samples: int | None,
    start: float,
    settings: dict[str, Any],
    images: tuple[Tensor, Tensor] | None = None,
) -> Provenance:
    """Of a record made with `evaluator` since time.perf_counter() was `start`.

    images: those measured and their ids, where they are not the evaluator's.
    """
    return Provenance(
        method=method,
        seed=evaluator.seed,
        samples=samples,
        backend=evaluator.kernels.name,
        device=str(evaluator.device),
        dtype=str(evaluator.dtype).removeprefix("torch."),
        batch_size=evaluator.batch_size,
        compiled=evaluator.compiled,
        compile_seconds=evaluator.compile_seconds,
        randomized=evaluator.randomized,
        versions={
            "robustcore": installed("robustcore"),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        seconds=time.perf_counter() - start,
        settings=settings,
        notes=tuple(evaluator.notes),
        images=hashes(*(images or (evaluator.x, evaluator.ids))),
    )


def hashes(x: Tensor, ids: Tensor) -> dict[str, str]:
    """A hash of each image by its id.

    Pixels are rounded to steps of a 16th of those of 8 bits, so that devices that divide bytes by
    255 with another last bit agree.
    """
    found = {}
    for name, image in zip(ids.tolist(), x, strict=True):  # one by one: x may fill the memory
        steps = (image.float() * STEPS).round() + 0.0  # no -0
        found[str(name)] = hashlib.sha256(steps.cpu().numpy().tobytes()).hexdigest()[:12]
    return found


def bar(total: int, unit: str, progress: bool | None) -> Any:
    return tqdm(total=total, unit=f" {unit}", disable=None if progress is None else not progress)
