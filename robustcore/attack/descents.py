"""Projected descent on a fused network: all steps of a start in one call."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from robustcore.attack.found import Found
from robustcore.attack.starts import Steps, sizes, starts
from robustcore.gradients import Gradients

DESCENTS = 4096  # starts in one call: bounds the memory


def descended(
    gradients: Gradients,
    found: Found,
    rows: Tensor,
    radius: Tensor,
    how: Steps,
    progress: Callable[[int], object],
) -> None:
    """What `projected` does, with a fused network.

    Restarts come in groups of 1, 2, 4, ..., whatever images are left: few fill no tile.
    """
    right = torch.ones_like(rows, dtype=torch.bool)
    first, size = 0, 1
    while first < how.restarts and bool(right.any()):
        group = torch.arange(first, min(first + size, how.restarts), device=rows.device)
        for at in right.nonzero().flatten().split(max(1, DESCENTS // len(group))):
            wrong = _descend(gradients, found, rows[at], radius[at].float(), group, how)
            if not how.nearest:
                right[at] = ~wrong
                progress(int(wrong.sum()))
        first, size = first + size, 2 * size
    progress(int(right.sum()))


def _descend(
    gradients: Gradients, found: Found, rows: Tensor, radius: Tensor, group: Tensor, how: Steps
) -> Tensor:
    """Which images rows (I,) are fooled by a group of restarts; what fools them is in `found`."""
    assert gradients.fused is not None
    images = len(rows)
    place = torch.arange(images, device=rows.device).repeat(len(group))
    restart = group.repeat_interleave(images)
    row, reach = rows[place], radius[place]
    _, points = starts(gradients, row, reach, restart, how)
    goal = gradients.y if gradients.targets is None else gradients.targets
    margin, label, age, usable = gradients.fused.descend(
        gradients.x, points, row, goal, reach, sizes(gradients, row, reach, how).contiguous(),
        norm=gradients.norm, steps=how.steps, adapts=how.step_size is None, loss=how.loss,
        targeted=gradients.targets is not None, wanted=gradients.rival(row, how.loss), box=how.box,
        channels_last=gradients.channels_last,
    )  # fmt: skip
    gradients.n_forward.index_add_(0, row, age + 1)
    gradients.n_backward.index_add_(0, row, age + 1)
    gradients.usable[row[usable]] = True
    wrong = ~(margin > 0)
    distance = torch.full_like(row, torch.inf, dtype=torch.float64)
    gradients.kernels.update_best(
        gradients.x, row, points, margin, distance, torch.empty_like(points), norm=gradients.norm
    )
    won = torch.full_like(rows, how.restarts)
    won.scatter_reduce_(0, place[wrong], restart[wrong], "amin")
    if not how.nearest:  # the first restart that succeeded
        distance = torch.where(restart == won[place], distance, torch.inf)
    found.keep(row, distance, points, label, restart, age)
    return won < how.restarts
