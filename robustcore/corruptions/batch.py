"""A batch to corrupt: images, their names, and the draws that follow from them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustcore import kernels
from robustcore.corruptions.kernels import Draw, Kernels
from robustcore.corruptions.parameters import NAMES
from robustcore.streams import Stream

PARTS = 8  # draws of one corruption at one severity
GREY = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Batch:
    """x: (B, C, H, W) float32 in [0, 1]. ids: (B,) int64, on the same device."""

    x: Tensor
    ids: Tensor
    name: str
    severity: int
    seed: int
    bodies: Kernels

    @property
    def size(self) -> tuple[int, int]:
        return self.x.shape[2], self.x.shape[3]

    @property
    def noise_backend(self) -> str | None:
        return None if self.bodies.name == "torch" else self.bodies.name

    def draw(self, part: int = 0) -> Draw:
        sample = PARTS * self.severity + part
        return Draw(self.seed, Stream.CORRUPTIONS + NAMES.index(self.name), sample)

    def uniforms(self, *shape: int, part: int = 0) -> Tensor:
        """(B, *shape) float32, uniform in (0, 1)."""
        n = torch.Size(shape).numel()
        return self.bodies.uniforms(self.ids, n, self.draw(part)).view(-1, *shape)

    def noisy(self, x: Tensor, sigma: float, clip: tuple[float, float] | None = None) -> Tensor:
        """x (B, C, H, W) plus Gaussian noise."""
        draw, n = self.draw(), len(x)
        bodies = kernels.select(self.noise_backend, x.device)
        rows = torch.arange(n, device=x.device)
        return bodies.perturb(
            x.contiguous(),
            rows,
            torch.full((n,), sigma, dtype=torch.float32, device=x.device),
            torch.full_like(rows, draw.sample),
            self.ids,
            torch.empty_like(x, memory_format=torch.contiguous_format),
            seed=draw.seed,
            stream=draw.stream,
            clip=clip,
        )

    def normals(self, channels: int) -> Tensor:
        """(B, channels, H, W) standard normals."""
        return self.noisy(self.x.new_zeros(len(self.x), channels, *self.size), 1.0)


NUDGE = 1e-3  # a value that lies a rounding below a level is that level, so that devices agree


def levels(x: Tensor, step: float = 255.0) -> Tensor:
    """Cut down to a whole number of steps, as a cast to 8 bits does."""
    return torch.floor(x * step + NUDGE)


def grey(x: Tensor) -> Tensor:
    """(B, 1, H, W): the luma of colours, or the one channel there is."""
    if x.shape[1] == 1:
        return x
    return (x * x.new_tensor(GREY).view(1, 3, 1, 1)).sum(1, keepdim=True)


def coloured(x: Tensor, colour: tuple[float, float, float]) -> Tensor:
    """A colour as (1, C, 1, 1), for the channels of x."""
    values = x.new_tensor(colour).view(1, 3, 1, 1)
    return values if x.shape[1] == 3 else grey(values)
