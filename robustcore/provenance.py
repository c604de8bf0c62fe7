"""How a measurement was made, and the bar that shows how far it is."""

from __future__ import annotations

import platform
import time
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from robustcore.evaluator import Evaluator
from robustcore.results import Provenance


def provenance(
    evaluator: Evaluator, method: str, samples: int | None, start: float, settings: dict[str, Any]
) -> Provenance:
    """Of a record made with `evaluator` since time.perf_counter() was `start`."""
    return Provenance(
        method=method,
        seed=evaluator.seed,
        samples=samples,
        backend=evaluator.kernels.name,
        device=str(evaluator.device),
        dtype=str(evaluator.dtype).removeprefix("torch."),
        batch_size=evaluator.batch_size,
        compiled=evaluator.network.compiled,
        compile_seconds=evaluator.network.compile_seconds,
        randomized=evaluator.randomized,
        versions={
            "robustcore": version("robustcore"),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        seconds=time.perf_counter() - start,
        settings=settings,
        notes=tuple(evaluator.notes),
    )


def bar(total: int, unit: str, progress: bool | None) -> Any:
    return tqdm(total=total, unit=f" {unit}", disable=None if progress is None else not progress)
