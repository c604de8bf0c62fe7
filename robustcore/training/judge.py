"""The network in evaluation mode, for attacks and accuracies, while it learns.

A copy whose parameters and buffers are the same memory as those of the network that learns: no mode
is ever switched, and gradients are of images alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustcore.kernels import select
from robustcore.network import class_of
from robustcore.training.recipes import Tools, attacked
from robustcore.training.settings import PRECISIONS, Settings
from robustcore.training.world import World

JUDGED = 1000  # images of one evaluation


def logits_of(answer: Any) -> Tensor:
    """The logits of what a model returns: a tensor, or an object with .logits."""
    return answer if isinstance(answer, Tensor) else answer.logits


def autocast(settings: Settings, device: torch.device) -> torch.autocast:
    dtype = PRECISIONS[settings.precision]
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


class Judge:
    """Cross-entropies for attacks, accuracies, and the tools of recipes.

    `losses` may be replaced by its compiled form; it is used on batches of `compiled_size`.
    """

    def __init__(self, model: nn.Module, settings: Settings, world: World) -> None:
        self.settings, self.world, self.device = settings, world, world.device
        self.model = _same_memory(model)
        self.losses: Callable[[Tensor, Tensor], Tensor] = self.eager_losses
        self.compiled_size = settings.batch_size // world.size
        kernels = select(None, self.device)
        self.tools = Tools(kernels, self._losses, settings.seed)

    def check(self, x: Tensor, n_classes: int) -> None:
        """Raise TypeError or ValueError unless the model maps images x to logits of the classes."""
        with torch.no_grad():
            answer = self.model(x[:2].to(self.device).float() / 255)
        logits = getattr(answer, "logits", answer)
        if not isinstance(logits, Tensor):
            raise TypeError(f"network must return logits, returned {type(answer).__name__}")
        if logits.ndim != 2 or len(logits) != len(x[:2]) or logits.shape[1] < n_classes:
            raise ValueError(
                f"network must return logits (S, K) with K at least the {n_classes} classes of "
                f"data, returned {tuple(logits.shape)} for {len(x[:2])} images"
            )

    def eager_losses(self, images: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of each image (n, C, H, W), (n,) float32."""
        with autocast(self.settings, self.device):
            logits = logits_of(self.model(images))
        return F.cross_entropy(logits.float(), labels, reduction="none")

    def _losses(self, images: Tensor, labels: Tensor) -> Tensor:
        losses = self.losses if len(images) == self.compiled_size else self.eager_losses
        return losses(images.permute(0, 3, 1, 2), labels)

    def accuracy(self, x: Tensor, y: Tensor) -> float:
        """Share of uint8 images (N, C, H, W) that are classified right, over all processes."""
        return self._share_right(x, y, lambda images, labels, at: images)

    def robust_accuracy(self, x: Tensor, y: Tensor, eps: float, steps: int) -> float:
        """The same after linf PGD of `steps` steps of 2.5 eps / steps, one random start."""

        def attack(images: Tensor, labels: Tensor, at: slice) -> Tensor:
            ids = torch.arange(at.start, at.stop, device=self.device)
            step = 2.5 * eps / steps
            return attacked(self.tools, images, labels, ids, eps=eps, step=step, steps=steps)

        return self._share_right(x, y, attack)

    def _share_right(
        self, x: Tensor, y: Tensor, change: Callable[[Tensor, Tensor, slice], Tensor]
    ) -> float:
        right = torch.zeros((), dtype=torch.int64, device=self.device)
        for start in range(0, len(x), JUDGED)[self.world.rank :: self.world.size]:
            at = slice(start, min(start + JUDGED, len(x)))
            pixels = x[at].to(self.device).permute(0, 2, 3, 1).contiguous()
            labels = y[at].to(self.device)
            images = change(pixels.float().div(255), labels, at).permute(0, 3, 1, 2)
            with torch.no_grad(), autocast(self.settings, self.device):
                logits = logits_of(self.model(images))
            right += (class_of(logits) == labels).sum()
        return int(self.world.total(right)) / len(x)

    def flops(self, x: Tensor) -> int:
        """Operations of one evaluation of one image."""
        from torch.utils.flop_counter import FlopCounterMode  # imports triton where there is one

        with FlopCounterMode(display=False) as counter, torch.no_grad():
            self.model(x[:1].to(self.device).float() / 255)
        return counter.get_total_flops()


def _same_memory(model: nn.Module) -> nn.Module:
    judge = copy.deepcopy(model).eval().requires_grad_(False)
    for mine, its in zip(judge.parameters(), model.parameters(), strict=True):
        mine.data = its.data
    for name, buffer in model.named_buffers(remove_duplicate=False):
        holder, _, last = name.rpartition(".")
        judge.get_submodule(holder)._buffers[last] = buffer
    return judge
