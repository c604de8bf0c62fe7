"""What all defences share: a model behind a change of its images, and what gradients are told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from robustcore import inputs

GRADIENTS = ("straight-through", "hidden")
MAX_SEED = 2**32 - 1
CALL_STRIDE = 1_000_003  # draws of one seed do not meet those of the next in as many calls


class _Passed(torch.autograd.Function):
    """`changed` in place of x; its gradient goes to x as it is, or as zeros."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, changed: Tensor, shown: bool) -> Tensor:
        ctx.shown = shown
        return changed.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        return gradient if ctx.shown else torch.zeros_like(gradient), None, None


class Defense(nn.Module):
    """model(change(x)) for pixels x (S, C, H, W), by rights in [0, 1].

    model: any callable to logits (S, K); the mode of a module is kept.
    """

    def __init__(self, model: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.model = inputs.function("model", model)
        if isinstance(model, nn.Module):
            self.training = model.training

    def change(self, x: Tensor) -> Tensor:
        """The images that the model sees."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Any:
        return self.model(self.change(x))


class Opaque(Defense):
    """A defence whose change has no useful gradient: rounding, a codec, a search.

    gradient: "straight-through" takes the change for the identity in backward passes, as the
    attack that broke such defences does (BPDA: Athalye et al., 2018); "hidden" is the defence as
    published, whose gradient is zero, so that an attack by gradients learns nothing from it.
    """

    def __init__(self, model: Callable[[Tensor], Any], gradient: str) -> None:
        super().__init__(model)
        self.gradient = inputs.choice("gradient", gradient, GRADIENTS)

    def changed(self, x: Tensor) -> Tensor:
        """The change itself, of float32 x, without gradients."""
        raise NotImplementedError

    @torch.compiler.disable
    def change(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            changed = self.changed(x.detach().float()).to(x.dtype)
        return _Passed.apply(x, changed, self.gradient == "straight-through")


class Draws:
    """Draws of a randomised defence: a function of (seed, number of the call), on every device."""

    def __init__(self, seed: int) -> None:
        self.seed = inputs.integer("seed", seed, 0, MAX_SEED)
        self.calls = 0

    def next(self) -> torch.Generator:
        """The generator of the next call, on the CPU."""
        generator = torch.Generator().manual_seed(self.seed * CALL_STRIDE + self.calls)
        self.calls += 1
        return generator

    def restart(self) -> None:
        """Make the same draws again from here."""
        self.calls = 0
