"""From errors seen to nearer ones along the boundary, for models that are silent elsewhere.

A head that saturates gives no gradient where the model is sure. On the segment from an image to an
error bisection needs none, and where it ends the model is not sure: the gradient there is the
normal of the boundary. The displacement turns towards that normal by as much as still leads to an
error no farther away, and the new segment is bisected in turn.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustcore.attack.found import Found
from robustcore.gradients import Gradients

TURNS = 24  # at most
ALL, KEPT = 6, 2  # after so many turns the errors of an image that are nearest go on, so many
HALVINGS = 12  # of a segment
TRIES = 5  # ways to turn, each half as far as the one before
FARTHEST = 4.0  # a turn, as eta in robustcore.attack.minimum_norm
GAIN = 1e-3  # the share of a distance by which a turn that is worth another brings it down


class Walk:
    """Errors (S, D) of images rows (S,), an image may have several, and how they come nearer."""

    def __init__(
        self,
        gradients: Gradients,
        rows: Tensor,
        points: Tensor,
        box: tuple[float, float] | None,
    ) -> None:
        self.gradients, self.box = gradients, box
        self.rows = rows
        self.best = points.clone()
        self.distance = torch.full_like(rows, torch.inf, dtype=torch.float64)
        self.label = torch.full_like(rows, -1)
        self.within = points  # the last point of a segment that the model gets right
        self.eta = torch.full_like(self.distance, FARTHEST)

    def run(self, found: Found, step: int) -> None:
        """Take turns until they bring too little; keep what is nearest in `found`."""
        every = torch.arange(len(self.rows), device=self.rows.device)
        self._look(every, self.best)
        self._bisect(every)
        going = every[torch.isfinite(self.distance)]
        for turn in range(TURNS):
            if turn == ALL:
                going = self._nearest(going)
            if not len(going):
                break
            going = self._turn(going)
        found.keep(
            self.rows,
            self.distance,
            self.best,
            self.label,
            torch.zeros_like(self.rows),
            torch.full_like(self.rows, step),
        )

    def _look(self, slots: Tensor, points: Tensor) -> Tensor:
        """Judge points of some slots, keep nearer errors; whether each is an error."""
        gradients, rows = self.gradients, self.rows[slots]
        margin, label = gradients.judged(rows, gradients.logits(rows, points))
        distance, best = self.distance[slots], self.best[slots]
        before = distance.clone()
        gradients.kernels.update_best(
            gradients.x, rows, points, margin, distance, best, norm=gradients.norm
        )
        self.distance[slots], self.best[slots] = distance, best
        self.label[slots] = torch.where(distance < before, label, self.label[slots])
        return ~(margin > 0)

    def _bisect(self, slots: Tensor) -> None:
        """Draw errors nearer along the segments to their images."""
        x = self.gradients.x[self.rows[slots]]
        away = self.best[slots] - x
        below = torch.zeros(len(slots), dtype=torch.float32, device=slots.device)
        above = torch.ones_like(below)
        for _ in range(HALVINGS):
            share = (below + above) / 2
            wrong = self._look(slots, self.gradients.rounded(x + away * share[:, None]))
            below, above = torch.where(wrong, below, share), torch.where(wrong, share, above)
        self.within[slots] = self.gradients.rounded(x + away * below[:, None])

    def _nearest(self, slots: Tensor) -> Tensor:
        """KEPT of each image, of equals the first."""
        order = slots[self.distance[slots].argsort(stable=True)]
        order = order[self.rows[order].argsort(stable=True)]
        _, count = self.rows[order].unique_consecutive(return_counts=True)
        first = (count.cumsum(0) - count).repeat_interleave(count)
        rank = torch.arange(len(order), device=slots.device) - first
        return order[rank < KEPT].sort().values

    def _normals(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """(gradients (S, D), whether any is known (S,)): just before the boundary, else beyond."""
        gradients, rows = self.gradients, self.rows[slots]
        normal = torch.zeros_like(self.best[slots])
        known = torch.zeros(len(slots), dtype=torch.bool, device=slots.device)
        for points in (self.within, self.best):
            left = (~known).nonzero().flatten()
            if not len(left):
                break
            fresh = torch.empty_like(normal[left])
            gradients(rows[left], points[slots[left]], fresh, "margin", None)
            normal[left] = fresh
            size = fresh.abs().amax(1)
            known[left] = (size > 0) & torch.isfinite(size)
        gradients.usable[rows[known]] = True
        return normal, known

    def _turn(self, slots: Tensor) -> Tensor:
        """Turn displacements towards the normals; the slots whose distance fell."""
        gradients, norm = self.gradients, self.gradients.norm
        normal, known = self._normals(slots)
        slots, normal = slots[known], normal[known]
        before = self.distance[slots].clone()
        open_ = torch.arange(len(slots), device=slots.device)
        for attempt in range(TRIES):
            if not len(open_):
                break
            at = slots[open_]
            rows = self.rows[at]
            offset = self.best[at] - gradients.x[rows]
            radius = self.distance[at] * (1 - GAIN)
            points = torch.empty_like(offset)
            gradients.kernels.ball_step(
                gradients.x, rows, offset, normal[open_], torch.ones_like(radius).float(),
                (self.eta[at] * radius).float(), radius.float(), points,
                norm=norm, box=self.box, sphere=norm == 2,
            )  # fmt: skip
            points = gradients.rounded(points)
            wrong = self._look(at, points)
            grown = 2.0 if attempt == 0 else 1.0
            self.eta[at] *= torch.where(wrong, grown, 0.5)
            open_ = open_[~wrong]
        self.eta.clamp_(max=FARTHEST)
        nearer = self.distance[slots] < before
        slots = slots[nearer]
        if len(slots):
            self._bisect(slots)
        return slots
