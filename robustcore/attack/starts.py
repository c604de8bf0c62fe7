"""How a projected attack moves, and where its starts set out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustcore.gradients import Gradients

ROUNDING = 1e-6  # of a radius, for float32


@dataclass(frozen=True)
class Steps:
    """How a projected attack moves. step_size: one for all, or for each image; None adapts it."""

    steps: int
    restarts: int
    loss: str
    step_size: float | Tensor | None
    random_start: bool  # else only restarts after the first start at random points
    box: tuple[float, float] | None
    seed: int
    ids: Tensor
    nearest: bool = False  # the nearest over all restarts, else the first restart that succeeds


def starts(
    gradients: Gradients, row: Tensor, reach: Tensor, restart: Tensor, how: Steps
) -> tuple[Tensor, Tensor]:
    """Clean images and the points from which starts of images row (S,) set out."""
    clean = gradients.x[row]
    offset = torch.empty_like(clean)
    random = reach if how.random_start else torch.where(restart > 0, reach, 0.0)
    gradients.kernels.random_start(
        random, restart, how.ids[row], offset, norm=gradients.norm, seed=how.seed
    )
    points = offset.add_(clean)
    points = points if how.box is None else points.clamp_(*how.box)
    return clean, rounded_within(gradients, row, points, reach)


def rounded_within(gradients: Gradients, rows: Tensor, points: Tensor, radius: Tensor) -> Tensor:
    """Points (S, D) as the model sees them, none outside its image's radius (S,).

    Types of few digits have little between two neighbours: where rounding to the nearest leaves the
    ball, it goes towards the image, which leaves neither ball nor box.
    """
    near = gradients.rounded(points)
    if gradients.evaluator.dtype in (torch.float32, torch.float64):
        return near
    x, away = gradients.x[rows], near - gradients.x[rows]
    length = away.norm(dim=1) if gradients.norm == 2 else away.abs().amax(1)
    outside = length > radius * (1 + ROUNDING)
    beyond = outside[:, None] & (away.abs() > (points - x).abs())
    unit = torch.finfo(gradients.evaluator.dtype).eps * near.abs()
    inner = gradients.rounded(near - 0.75 * unit * away.sign())  # the next one towards the image
    passed = (inner - x) * away <= 0
    still = (inner - x).abs() > (points - x).abs()
    return torch.where(beyond, torch.where(passed | still, x, inner), near)


def sizes(gradients: Gradients, row: Tensor, reach: Tensor, how: Steps) -> Tensor:
    """The first step of each start."""
    size = how.step_size
    if size is None:
        return reach
    if not isinstance(size, Tensor):
        return torch.full_like(reach, size)
    return size.to(reach).expand(len(gradients.x))[row]
