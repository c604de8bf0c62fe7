"""Total-variance minimisation (Guo et al., 2018, arXiv:1711.00117, section 3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from robustcore import inputs
from robustcore.defenses.base import Draws, Opaque

STEP = (
    8**-0.5
)  # of both variables; their product times the squared norm of the differences, 8, is 1


class TotalVariation(Opaque):
    """A random half of the values is dropped, and a smooth image fitted to the rest.

    drop: chance of each value (pixel and channel) to be dropped, 0.5 as published. weight: of the
    total variation against half the squared distance, 0.03 as in the authors' code. iterations: of
    the solver, the same for every image. Pixels may lie outside [0, 1]. The draws differ from call
    to call and from image to image; `draws.restart()` begins again. gradient: see `Opaque`.
    """

    def __init__(
        self,
        model: Callable[[Tensor], Any],
        drop: float = 0.5,
        weight: float = 0.03,
        iterations: int = 100,
        *,
        seed: int = 0,
        gradient: str = "straight-through",
    ) -> None:
        super().__init__(model, gradient)
        self.drop = inputs.number("drop", drop)
        if not 0 <= self.drop < 1:
            raise ValueError(f"drop must be in [0, 1), was {self.drop}")
        self.weight = inputs.positive("weight", weight)
        self.iterations = inputs.integer("iterations", iterations, 1)
        self.draws = Draws(seed)

    def changed(self, x: Tensor) -> Tensor:
        kept = (
            torch.rand(x.shape, generator=self.draws.next(), dtype=torch.float32, device="cpu")
            >= self.drop
        )
        return minimize(x, kept.to(x.device), self.weight, self.iterations)


def minimize(x: Tensor, kept: Tensor, weight: float, iterations: int) -> Tensor:
    """argmin over z of 1/2 |kept (z - x)|^2 + weight TV(z), for each channel of (S, C, H, W).

    TV is isotropic: the sum of lengths of (down, right) differences, which are 0 at the last row
    and column. Solved by the primal-dual method of Chambolle and Pock (2011, algorithm 1).
    """
    mask = kept.to(x.dtype)
    count = mask.sum((2, 3), keepdim=True)
    mean = (x * mask).sum((2, 3), keepdim=True) / count.clamp(min=1)
    z = torch.where(kept, x, mean)
    ahead = z
    down, right = torch.zeros_like(x), torch.zeros_like(x)
    pulled, scale = STEP * mask * x, 1 / (1 + STEP * mask)
    for _ in range(iterations):
        down[..., :-1, :] += STEP * (ahead[..., 1:, :] - ahead[..., :-1, :])
        right[..., :-1] += STEP * (ahead[..., 1:] - ahead[..., :-1])
        shrink = weight / torch.hypot(down, right).clamp_(min=weight)
        down *= shrink
        right *= shrink
        new = (z + STEP * _divergence(down, right) + pulled) * scale
        ahead, z = 2 * new - z, new
    return z


def _divergence(down: Tensor, right: Tensor) -> Tensor:
    """Minus the adjoint of the differences; the last row of down and column of right are 0."""
    out = down + right
    out[..., 1:, :] -= down[..., :-1, :]
    out[..., 1:] -= right[..., :-1]
    return out


def variation(z: Tensor) -> Tensor:
    """TV of each image (S, C, H, W), summed over channels: (S,)."""
    down, right = torch.zeros_like(z), torch.zeros_like(z)
    down[..., :-1, :] = z[..., 1:, :] - z[..., :-1, :]
    right[..., :-1] = z[..., 1:] - z[..., :-1]
    return torch.hypot(down, right).flatten(1).sum(1)
