"""The mean of the weights at the ends of cycles (Izmailov et al., 2018, arXiv:1803.05407)."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def average(model: nn.Module, ends: list[dict[str, Tensor]], batches: Iterable[Tensor]) -> None:
    """Give the model the mean of the weights in `ends`, and batch norms that fit it.

    model: in training mode. The statistics of its batch norms are taken anew, with equal weight,
    over all batches of images (n, C, H, W).
    """
    mean = {k: torch.stack([end[k].double() for end in ends]).mean(0) for k in ends[0]}
    model.load_state_dict({k: v.to(ends[0][k].dtype) for k, v in mean.items()})
    fresh = copy.deepcopy(model)  # what the batches are made with keeps its statistics
    found = dict(_norms(fresh))
    if not found:
        return
    for module in found.values():
        module.reset_running_stats()
        module.momentum = None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for images in batches:  # made with gradients where they are attacks
            with torch.no_grad():
                fresh(images)
    for name, module in _norms(model):
        module.load_state_dict(found[name].state_dict())


def _norms(model: nn.Module) -> list[tuple[str, Any]]:
    kind = nn.modules.batchnorm._BatchNorm
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, kind) and module.training and module.track_running_stats
    ]
