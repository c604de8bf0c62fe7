"""What is done to a batch before the network learns from it: nothing, noise, or an attack."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from robustcore import inputs
from robustcore.kernels import Backend
from robustcore.streams import Stream
from robustcore.training.batches import Batch

ON_OVERFITTING = ("fall back", "stop", "ignore")


def _keep(recipe: Any, name: str, value: Any) -> None:
    """Set a field of a frozen recipe to what was checked: a plain number, as cards hold it."""
    object.__setattr__(recipe, name, value)


@dataclass(frozen=True)
class Tools:
    """What a recipe works with."""

    kernels: Backend
    losses: Callable[[Tensor, Tensor], Tensor]  # images (n, H, W, C), labels: (n,) cross-entropies
    seed: int


class Recipe(Protocol):
    """A way to train. `settings()` goes into the card and must tell two recipes apart."""

    def __call__(self, batch: Batch, tools: Tools) -> Tensor:
        """Images (n, H, W, C) to learn from."""

    def targets(self, batch: Batch) -> Tensor:
        """What the answers to them are compared with, (n, ...)."""

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """One number, of float32 logits (n, K)."""

    def settings(self) -> dict[str, Any]: ...

    def text(self) -> str: ...


class CrossEntropy:
    """The loss of most recipes: cross-entropy with the labels."""

    def targets(self, batch: Batch) -> Tensor:
        return batch.labels

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets)


@dataclass(frozen=True)
class Natural(CrossEntropy):
    """Images as they are."""

    def __call__(self, batch: Batch, tools: Tools) -> Tensor:
        return batch.images

    def settings(self) -> dict[str, Any]:
        return {"kind": "natural"}

    def text(self) -> str:
        return "natural: cross-entropy"


@dataclass(frozen=True)
class Gaussian(CrossEntropy):
    """Gaussian augmentation (Ford et al., 2019): sigma of each example is uniform in
    [0, sigma_max), then noise of N(0, sigma^2) is added; it is not clipped.

    sigma_max: in pixel units of [0, 1], above 0. half: every other example of a batch stays clean,
    which keeps a network from learning that all images are noisy. Noise is a function of (seed,
    epoch, place in the data).
    """

    sigma_max: float
    half: bool = False

    def __post_init__(self) -> None:
        _keep(self, "sigma_max", inputs.positive("sigma_max", self.sigma_max))
        _keep(self, "half", inputs.flag("half", self.half))

    def sigma(self, batch: Batch) -> Tensor:
        """(n,) float32: the noise of each example."""
        sigma = batch.level * self.sigma_max
        return sigma * (batch.place % 2 == 0) if self.half else sigma

    def __call__(self, batch: Batch, tools: Tools) -> Tensor:
        n = len(batch.images)
        rows = torch.arange(n, device=batch.images.device)
        return tools.kernels.perturb(
            batch.images,
            rows,
            self.sigma(batch),
            torch.full_like(rows, batch.epoch),
            batch.ids,
            torch.empty_like(batch.images),
            seed=tools.seed,
            stream=Stream.TRAINING,
        )

    def settings(self) -> dict[str, Any]:
        return {"kind": "gaussian", "sigma_max": self.sigma_max, "half": self.half}

    def text(self) -> str:
        part = "every other example" if self.half else "each example"
        return (
            f"Gaussian augmentation: cross-entropy, noise of sigma uniform in "
            f"[0, {self.sigma_max:g}) added to {part}"
        )


@dataclass(frozen=True)
class Adversarial(CrossEntropy):
    """Adversarial training (Madry et al., 2018): learn from linf PGD of each batch alone.

    eps: radius, in pixel units of [0, 1]. steps: 1 is the fast variant (Wong et al., 2020).
    step_size: None is 1.25 eps for one step, else 2.5 eps / steps. restarts: the one with the
    largest loss is learnt from. Each starts at a point uniform in the ball, a function of (seed,
    epoch, restart, place in the data). ramp: epochs in which eps grows from 0 to its full size.
    The network is attacked in evaluation mode, so no example's attack depends on another.

    One-step training can break down within an epoch: accuracy under many steps falls to 0 while the
    one-step loss looks well. With steps=1 it is watched after each epoch; on_overfitting: "fall
    back" does the epoch again, and all others, with 3 steps; "stop" ends with the weights before
    that epoch; "ignore" does not watch. What happened is in the card.
    """

    eps: float = 8 / 255
    steps: int = 7
    step_size: float | None = None
    restarts: int = 1
    ramp: float = 0.0
    on_overfitting: str = "fall back"

    def __post_init__(self) -> None:
        _keep(self, "eps", inputs.positive("eps", self.eps))
        _keep(self, "steps", inputs.integer("steps", self.steps, 1))
        _keep(self, "restarts", inputs.integer("restarts", self.restarts, 1))
        if self.step_size is not None:
            _keep(self, "step_size", inputs.positive("step_size", self.step_size))
        ramp = inputs.number("ramp", self.ramp)
        if not 0 <= ramp < math.inf:
            raise ValueError(f"ramp must be 0 or more epochs, was {ramp}")
        _keep(self, "ramp", ramp)
        inputs.choice("on_overfitting", self.on_overfitting, ON_OVERFITTING)

    @property
    def relative_step(self) -> float:
        if self.step_size is not None:
            return self.step_size / self.eps
        return 1.25 if self.steps == 1 else 2.5 / self.steps

    def __call__(self, batch: Batch, tools: Tools) -> Tensor:
        grown = min(1.0, batch.done / self.ramp) if self.ramp else 1.0
        return attacked(
            tools,
            batch.images,
            batch.labels,
            batch.ids,
            eps=self.eps * grown,
            step=self.eps * grown * self.relative_step,
            steps=self.steps,
            restarts=self.restarts,
            first=batch.epoch * self.restarts,
        )

    def settings(self) -> dict[str, Any]:
        return {
            "kind": "adversarial",
            "norm": "inf",
            "eps": self.eps,
            "steps": self.steps,
            "step_size": self.eps * self.relative_step,
            "restarts": self.restarts,
            "ramp": self.ramp,
            "on_overfitting": self.on_overfitting,
        }

    def text(self) -> str:
        steps = "1 step" if self.steps == 1 else f"{self.steps} steps"
        again = f", {self.restarts} restarts" if self.restarts > 1 else ""
        return (
            f"adversarial: cross-entropy on linf PGD of radius {self.eps:.4g} "
            f"({steps} of {self.eps * self.relative_step:.4g}{again}, random start)"
        )


def attacked(
    tools: Tools,
    images: Tensor,
    labels: Tensor,
    ids: Tensor,
    *,
    eps: float | Tensor,
    step: float | Tensor,
    steps: int,
    restarts: int = 1,
    first: int = 0,
) -> Tensor:
    """Images (n, H, W, C) after `steps` steps up the loss inside [0, 1] and the linf ball of eps.

    eps, step: one number, or one for each image (n,). first: number of the first restart, which
    names its random start. The last point of each restart is kept, and of these the one with the
    largest loss.
    """
    n, ball = len(images), {"norm": math.inf, "box": (0.0, 1.0)}
    x = images.reshape(n, -1)
    rows = torch.arange(n, device=x.device)
    ones = torch.ones(n, dtype=torch.float32, device=x.device)
    radius, size, still = ones * eps, ones * step, ones * 0
    found, highest = x, torch.full((n,), -math.inf, dtype=torch.float32, device=x.device)
    for restart in range(first, first + restarts):
        offset, points = torch.empty_like(x), torch.empty_like(x)
        number = torch.full_like(rows, restart)
        tools.kernels.random_start(
            radius, number, ids, offset, norm=math.inf, seed=tools.seed, stream=Stream.TRAINING
        )
        tools.kernels.ball_step(x, rows, offset, x, ones, still, radius, points, **ball)
        for _ in range(steps):
            leaf = points.view(images.shape).requires_grad_(True)
            (gradient,) = torch.autograd.grad(tools.losses(leaf, labels).sum(), leaf)
            gradient, points = gradient.contiguous().view(n, -1), torch.empty_like(x)
            tools.kernels.ball_step(x, rows, offset, gradient, ones, size, radius, points, **ball)
        if restarts == 1:
            return points.view(images.shape)
        with torch.no_grad():
            loss = tools.losses(points.view(images.shape), labels)
        higher = loss > highest
        found = torch.where(higher[:, None], points, found)
        highest = torch.where(higher, loss, highest)
    return found.view(images.shape)
