"""Any classifier as one of pixels in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustcore.arguments import LARGEST, function, reals, shown
from robustcore.zoo.resnet import Normalize

HALVES = (torch.float16, torch.bfloat16)


class Wrapped(nn.Module):
    """Normalises pixels and gives them to a model; its answer's .logits, where it has them."""

    def __init__(
        self, model: Callable[[Tensor], Any], mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        self.normalize = Normalize(mean, std)
        self.model = model
        if isinstance(model, nn.Module):  # its mode is left as it is
            self.training = model.training
            first = next(model.parameters(), torch.empty(0, dtype=torch.float32, device="cpu"))
            # half precision throughout, as its weights are: a float32 mean would widen its input
            self.normalize.to(first.device, first.dtype if first.dtype in HALVES else None)

    def forward(self, x: Tensor) -> Any:
        answer = self.model(self.normalize(x))
        return getattr(answer, "logits", answer)


def wrap(
    model: Callable[[Tensor], Any], mean: Sequence[float] | float, std: Sequence[float] | float
) -> Wrapped:
    """A model of normalised images as a model of pixels in [0, 1]: model((x - mean) / std).

    model: any callable (S, C, H, W) to logits (S, K), or to an object with .logits; the weights of
    a module are shared, its mode, device and type are kept.
    mean, std: one number for each channel, in pixel units of [0, 1], as its makers state them:
    ImageNet's are often (0.485, 0.456, 0.406) and (0.229, 0.224, 0.225); a model of pixels in
    [-1, 1] has 0.5 and 0.5.
    Raises TypeError or ValueError that names the argument.
    """
    function("model", model)
    center, scale = _numbers("mean", mean), _numbers("std", std)
    if len(center) != len(scale):
        raise ValueError(
            f"mean and std must have one number for each channel, had {len(center)} and "
            f"{len(scale)}"
        )
    if min(scale) <= 0:
        raise ValueError(f"std must be positive, was {shown(std)}")
    return Wrapped(model, center, scale)


def _numbers(name: str, value: Any) -> list[float]:
    numbers = reals(name, value, "a number for each channel").reshape(-1)
    if not numbers.size or not (np.abs(numbers) <= LARGEST).all():
        raise ValueError(f"{name} must be finite numbers, was {shown(value)}")
    return numbers.tolist()
