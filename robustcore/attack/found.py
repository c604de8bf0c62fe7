"""The nearest error seen for each image, and how it is drawn nearer and made sure of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustcore.gradients import Gradients

OUTWARD = (1.001, 1.003, 1.01, 1.03, 1.1, 1.3, 2.0, 4.0, 10.0, 30.0)
NUDGES = 12  # of doubling size, from one part in 10^6
CLEAR = 16


@dataclass
class Found:
    """For each of B images: distance (float64, inf where none), point (B, D), and its history."""

    distance: Tensor
    point: Tensor
    label: Tensor  # the class found, -1 where none
    restart: Tensor  # -1 where none
    step: Tensor  # -1 where none

    @staticmethod
    def nothing(gradients: Gradients) -> Found:
        count, device = len(gradients.x), gradients.x.device
        none = torch.full((count,), -1, dtype=torch.int64, device=device)
        far = torch.full((count,), torch.inf, dtype=torch.float64, device=device)
        return Found(far, gradients.x.clone(), none, none.clone(), none.clone())

    def keep(
        self,
        rows: Tensor,  # (S,), an image may occur many times
        distance: Tensor,  # inf: no error
        points: Tensor,
        label: Tensor,
        restart: Tensor,
        step: Tensor,
    ) -> None:
        """Take what is nearer than before; of equals, the lowest restart's, then the first slot's.

        So the order in which slots come does not matter.
        """
        nearest = self.distance.scatter_reduce(0, rows, distance, "amin")
        sooner = (distance < self.distance[rows]) | (restart < self.restart[rows])
        wins = sooner & (distance == nearest[rows]) & torch.isfinite(distance)
        count = len(rows)
        last = torch.iinfo(torch.int64).max
        rank = torch.where(wins, restart * count + torch.arange(count, device=rows.device), last)
        first = torch.full_like(self.label, last).scatter_reduce(0, rows, rank, "amin")
        image = (first < last).nonzero().flatten()
        slot = first[image] % count
        self.distance[image], self.point[image] = distance[slot], points[slot]
        self.label[image], self.restart[image] = label[slot], restart[slot]
        self.step[image] = step[slot]

    def forget(self, rows: Tensor) -> None:
        self.distance[rows] = torch.inf
        for field in (self.label, self.restart, self.step):
            field[rows] = -1


def refine(gradients: Gradients, found: Found, rows: Tensor, low: float, rounds: int) -> None:
    """Bisect the segments from images rows (S,) to their errors, from the share `low` of each.

    The answer is an error that was seen, so nearer or the same. Cost: `rounds` forward passes.
    """
    rows = rows[torch.isfinite(found.distance[rows]) & (found.distance[rows] > 0)]
    if not len(rows):
        return
    away = found.point[rows] - gradients.x[rows]
    below = torch.full((len(rows),), low, dtype=torch.float32, device=rows.device)
    above = torch.ones_like(below)
    for _ in range(rounds):
        share = (below + above) / 2
        wrong = _look(gradients, found, rows, away * share[:, None])
        below, above = torch.where(wrong, below, share), torch.where(wrong, share, above)


def push(gradients: Gradients, found: Found, rows: Tensor, away: Tensor, box: object) -> None:
    """Look farther along displacements (S, D) of images where nothing was found."""
    for factor in OUTWARD:
        left = torch.isinf(found.distance[rows]).nonzero().flatten()
        if not len(left):
            return
        _look(gradients, found, rows[left], away[left] * factor, box)


def _look(
    gradients: Gradients, found: Found, rows: Tensor, away: Tensor, box: object = None
) -> Tensor:
    """Judge images rows (S,), distinct, displaced by away (S, D); whether each is an error."""
    points = gradients.x[rows] + away
    points = gradients.rounded(points if box is None else points.clamp(*box))  # type: ignore[misc]
    margin, label = gradients.judged(rows, gradients.logits(rows, points))
    distance, best = found.distance[rows], found.point[rows]
    before = distance.clone()
    update = gradients.kernels.update_best
    update(gradients.x, rows, points, margin, distance, best, norm=gradients.norm)
    found.distance[rows], found.point[rows] = distance, best
    found.label[rows] = torch.where(distance < before, label, found.label[rows])
    return ~(margin > 0)


def verify(
    gradients: Gradients, found: Found, box: tuple[float, float] | None, outward: bool = True
) -> None:
    """Judge every found point once more as it will be handed over.

    A point on the boundary may be wrong in one batch and right in another by rounding alone: with
    `outward` it is nudged, by 0.4 % at most, until it is wrong by more than CLEAR units of rounding
    of its logits. Where it never is, the first point seen to be wrong is kept; what stays right is
    no longer found.
    """
    rows = (torch.isfinite(found.distance) & (found.distance > 0)).nonzero().flatten()
    away = found.point[rows] - gradients.x[rows]
    wrong_before = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    for nudge in range(NUDGES + 1 if outward else 1):
        if not len(rows):
            return
        points = gradients.x[rows] + away * (1 + (2.0**nudge * 1e-6 if nudge else 0.0))
        points = gradients.rounded(points if box is None else points.clamp(*box))
        logits = gradients.logits(rows, points)
        margin, label = gradients.judged(rows, logits)
        wrong = ~(margin > 0)
        unit = CLEAR * torch.finfo(logits.dtype).eps * logits.abs().amax(1)
        clear = ~(margin > -unit)
        take = wrong & (clear | ~wrong_before)
        sure = rows[take]
        found.point[sure], found.label[sure] = points[take], label[take]
        rows, away = rows[~clear], away[~clear]
        wrong_before = (wrong_before | wrong)[~clear]
    found.forget(rows[~wrong_before])
