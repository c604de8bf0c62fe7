"""The arguments of `train`, checked, and what of them is kept with a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from robustcore import inputs
from robustcore.arguments import integers, reals
from robustcore.training.data import Data
from robustcore.training.recipes import Recipe
from robustcore.training.schedule import SCHEDULES, rate

PRECISIONS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
MAX_SEED = 2**32 - 1


@dataclass(frozen=True)
class Settings:
    epochs: tuple[int, ...]
    lr: tuple[float, ...]
    schedule: str
    batch_size: int
    weight_decay: float
    seed: int
    precision: str
    average: bool = False

    @property
    def total(self) -> int:
        return sum(self.epochs)

    @property
    def ends(self) -> list[int]:
        """Epochs done at the end of each cycle."""
        return [sum(self.epochs[: k + 1]) for k in range(len(self.epochs))]

    def rate(self, epoch: int, step: int, steps: int) -> float:
        """Learning rate of a step of an epoch of the whole run."""
        for length, peak in zip(self.epochs, self.lr, strict=True):
            if epoch < length:
                return rate(self.schedule, epoch * steps + step, length * steps, peak)
            epoch -= length
        raise IndexError(epoch)


def settings(
    data: Data,
    epochs: int | Sequence[int],
    lr: float | Sequence[float],
    schedule: str,
    batch_size: int,
    weight_decay: float,
    seed: int,
    precision: str | None,
    average: bool,
    device: torch.device,
    processes: int,
) -> Settings:
    lengths = tuple(np.atleast_1d(integers("epochs", epochs)).ravel().tolist())
    peaks = tuple(np.atleast_1d(reals("lr", lr, "a number or a list of numbers")).ravel().tolist())
    if len(lengths) != len(peaks) or not lengths:
        raise ValueError(
            f"epochs and lr must have one number for each cycle, were {lengths} and {peaks}"
        )
    decay = inputs.number("weight_decay", weight_decay)
    if not 0 <= decay < 1:
        raise ValueError(f"weight_decay must be in [0, 1), was {decay}")
    size = inputs.integer("batch_size", batch_size, 1, len(data.x))
    if size % processes:
        raise ValueError(f"batch_size must be a multiple of the {processes} processes, was {size}")
    if precision is None:
        half = device.type == "cuda" and torch.cuda.is_bf16_supported()
        precision = "bfloat16" if half else "float32"
    inputs.choice("precision", precision, list(PRECISIONS))
    if precision == "float16" and device.type != "cuda":
        raise ValueError(f"precision must be float32 or bfloat16 on {device.type}, was 'float16'")
    return Settings(
        epochs=tuple(inputs.integer("epochs", length, 1) for length in lengths),
        lr=tuple(inputs.positive("lr", peak) for peak in peaks),
        schedule=inputs.choice("schedule", schedule, SCHEDULES),
        batch_size=size,
        weight_decay=decay,
        seed=inputs.integer("seed", seed, 0, MAX_SEED),
        precision=precision,
        average=inputs.flag("average", average),
    )


def identity(settings: Settings, network: str, data: Data, recipe: Recipe) -> dict[str, Any]:
    """What a checkpoint must share with the run that goes on from it."""
    return {
        "network": network,
        "data": f"{data.name}, {len(data.x):,} images",
        "recipe": recipe.settings(),
        "augmentation": {"pad": data.pad, "mirror": data.mirror},
        "epochs": list(settings.epochs),
        "lr": list(settings.lr),
        "schedule": settings.schedule,
        "batch_size": settings.batch_size,
        "weight_decay": settings.weight_decay,
        "seed": settings.seed,
        "precision": settings.precision,
    }


def differing(mine: dict[str, Any], held: dict[str, Any]) -> str | None:
    """The first setting in which two runs differ. Cycles may have been added to the held ones."""
    for name, value in mine.items():
        other = held.get(name)
        longer = name in ("epochs", "lr") and other == value[: len(other or [])]
        if value != other and not longer:
            return name
    return None
