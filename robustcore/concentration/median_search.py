"""The median distance from many noisy points to their nearest errors, image by image.

A slot is one noisy point. Along its direction u errors begin at about the distance that the
linearised boundary has there; each gradient turns u towards the normal of that boundary, as in
`robustcore.attack.minimum_norm`, and tells how far the nearest error is to be expected. Only slots
whose expectation is still near their image's median take another gradient: how near depends on how
far such an expectation may err after so many gradients (NEAR). A slot expected far above needs no
error, as whatever it has lies above; one far below needs a single look at a point that is.

What counts is seen: the median is that of distances of errors seen, of 0 for draws that are errors
themselves, and of infinity elsewhere. So it never lies below the median of the true distances.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustcore.gradients import Gradients

# How far outside the interval of the median (relatively; from WITHIN gradients on: from the median
# itself) a slot may be expected and still take another gradient, by how many it had. A slot whose
# expectation is still moving may be CHANGE times as far as it moved.
NEAR = (torch.inf, 0.3, 0.15, 0.08, 0.04, 0.03, 0.06, 0.05, 0.04, 0.04, 0.04)
WITHIN, CHANGE = 6, 2.0
LOOKS, SHORT = 6, 1.03  # at a point this much beyond the expected distance
TURN = (torch.inf, 4.0, 1.5, 1.0, 0.6, 0.4, 0.3, 0.2, 0.15, 0.1, 0.06)  # eta, likewise
OVERSHOOT = 5e-4  # beyond the linearised boundary
LEAST, MOST = 0.5, 1.5  # what one step may make of a distance
PROBES, CLASSES = 4, 9  # draws of an image, and classes of each, whose gradients are compared
REFINE_NEAR, REFINE_ROUNDS = 0.06, 4
EXACT = 5e-4  # an error this near to where it is expected is not bisected


class MedianSearch:
    """Slots of images: N for each of B, image by image, (S,) with S = B * N.

    points: gradients whose images are the noisy points (S, D). logits: of them (S, K).
    After `run`: seen (S,) float64, the distance of the nearest error seen; inf where none was.
    """

    def __init__(self, points: Gradients, n: int, ranks: tuple[int, int], logits: Tensor) -> None:
        self.points, self.n, self.ranks = points, n, ranks
        margin, _ = points.judged(torch.arange(len(logits), device=logits.device), logits)
        self.right = margin > 0
        self.seen = torch.where(self.right, torch.inf, 0.0).double()
        self.best = points.x.clone()
        self.expected = torch.where(self.right, torch.inf, 0.0).double()
        self.change = torch.zeros_like(self.seen)
        self.spent = torch.zeros_like(points.y)
        self.looks = torch.zeros_like(points.y)
        self.offset = torch.zeros_like(points.x)
        self.radius = torch.zeros_like(self.seen)
        self.classes = self._likeliest(logits)

    def run(self) -> None:
        turns, near = (self.seen.new_tensor(each) for each in (TURN, NEAR))
        last = len(NEAR)
        while True:
            key = torch.minimum(self.seen, self.expected)
            low, middle, high = self._ordered(key)
            width = torch.maximum(near[self.spent.clamp(max=last - 1)], CHANGE * self.change)
            late = self.spent >= WITHIN
            close = key >= torch.where(late, middle, low) * (1 - width)
            close &= key <= torch.where(late, middle, high) * (1 + width)
            wanted = self.right & (self.spent < last) & (close | (self.spent == 0))
            slots = wanted.nonzero().flatten()
            if len(slots):
                self._step(slots, turns[self.spent[slots]])
                continue
            # whatever is expected below the upper end must be seen below it, and about there
            goal = torch.where(key < low, (key * low).sqrt(), key * SHORT ** (1 + self.looks))
            unseen = self.right & (key <= high) & (self.seen > torch.maximum(goal, low))
            slots = (unseen & (self.looks < LOOKS)).nonzero().flatten()
            if not len(slots):
                break
            self._look(slots, goal[slots])
        close = (key >= low * (1 - REFINE_NEAR)) & (key <= high * (1 + REFINE_NEAR))
        self._refine((close & self.right).nonzero().flatten())

    def _ordered(self, key: Tensor) -> list[Tensor]:
        """The median of each slot's image, (S,), between the ends of its interval."""
        ordered = key.view(-1, self.n).sort(dim=1).values
        low, high = (ordered[:, rank - 1] for rank in self.ranks)
        middle = (ordered[:, (self.n - 1) // 2] + ordered[:, self.n // 2]) / 2
        return [each.repeat_interleave(self.n) for each in (low, middle, high)]

    def _likeliest(self, logits: Tensor) -> Tensor:
        """The class whose boundary is nearest by logits and each image's lengths of gradients."""
        points, labels = self.points, self.points.y
        images, count = len(labels) // self.n, logits.shape[1]
        number = self.right.view(images, self.n).cumsum(1).flatten()
        probes = (self.right & (number <= min(PROBES, 1 + self.n // 50))).nonzero().flatten()
        if not len(probes):
            return torch.full_like(labels, -1)
        others = logits.double().scatter(1, labels[:, None], -torch.inf)
        tried = others[probes].topk(min(CLASSES, count - 1), 1).indices
        rows = probes.repeat_interleave(tried.shape[1])
        gradient = torch.empty_like(points.x[rows])
        points(rows, points.x[rows], gradient, "margin", tried.flatten())
        dual = self._slope(rows, torch.zeros_like(gradient), gradient)[0]
        cell = (rows // self.n) * count + tried.flatten()
        total = dual.new_zeros(images * count).index_add_(0, cell, dual.nan_to_num(0, 0, 0))
        times = torch.zeros_like(total).index_add_(0, cell, torch.ones_like(dual))
        length = (total / times).view(images, count)  # nan for classes not tried
        own = logits.double().gather(1, labels[:, None])
        far = (own - others) / length.repeat_interleave(self.n, 0)
        far = torch.where(far.isnan(), torch.inf, far)
        known = torch.isfinite(far).any(1)
        return torch.where(known, far.argmin(1), -1)

    def _slope(self, slots: Tensor, offset: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        points = self.points
        slope = points.kernels.ball_slope(points.x, slots, offset, gradient, norm=2.0)
        return slope[:, 0], slope[:, 1]

    def _see(self, slots: Tensor, points: Tensor, margin: Tensor) -> Tensor:
        seen, best = self.seen[slots], self.best[slots]
        update = self.points.kernels.update_best
        update(self.points.x, slots, points, margin, seen, best, norm=2.0)
        self.seen[slots], self.best[slots] = seen, best
        return ~(margin > 0)

    def _step(self, slots: Tensor, turn: Tensor) -> None:
        points, offset, radius = self.points, self.offset[slots], self.radius[slots]
        at = points.rounded(points.x[slots] + offset)
        gradient = torch.empty_like(offset)
        margin, gain, _ = points(slots, at, gradient, "margin", self.classes[slots])
        self._see(slots, at, margin)
        dual, along = self._slope(slots, offset, gradient)
        plane = (along - gain.double()) / dual  # distance of the linearised boundary
        usable = (dual > 0) & torch.isfinite(plane) & (plane > 0)
        cosine = torch.where(radius > 0, along / (radius * dual), 0.0)
        length = (1 + turn * turn + 2 * turn * cosine).sqrt() / (cosine + turn)  # of plane, along u
        fresh = radius == 0
        reach = torch.where(fresh, plane, (plane * length).clamp(LEAST * radius, MOST * radius))
        reach = torch.where(usable, reach * (1 + OVERSHOOT), radius)
        step = torch.where(fresh, 1.0, turn * radius)
        points.kernels.ball_step(
            points.x, slots, offset, gradient, torch.ones_like(step).float(), step.float(),
            reach.float(), at, norm=2.0, sphere=True,
        )  # fmt: skip
        self.offset[slots], self.radius[slots] = offset, reach
        before = self.expected[slots]
        moved = torch.where(torch.isfinite(before), (plane / before - 1).abs(), 0.0)
        self.change[slots] = torch.where(usable, moved, 0.0)
        self.expected[slots] = torch.where(usable, plane, before)
        self.spent[slots] += 1
        if len(slots):
            self.classes[slots] = torch.where(self.spent[slots] >= 2, -1, self.classes[slots])
        points.usable[slots[usable]] = True

    def _look(self, slots: Tensor, distance: Tensor) -> None:
        points = self.points
        share = (distance / self.radius[slots]).nan_to_num(0.0, 0.0, 0.0)
        at = points.rounded(points.x[slots] + self.offset[slots] * share[:, None].float())
        margin, _ = points.judged(slots, points.logits(slots, at))
        wrong = self._see(slots, at, margin)
        self.looks[slots] += 1
        self.expected[slots] = torch.where(wrong, self.expected[slots], distance * SHORT)

    def _refine(self, slots: Tensor) -> None:
        """Look at the last step of each slot, then bisect its segment to the nearest error."""
        if not len(slots):
            return
        points = self.points
        at = points.rounded(points.x[slots] + self.offset[slots])
        self._see(slots, at, points.judged(slots, points.logits(slots, at))[0])
        short = self.seen[slots] > self.expected[slots] * (1 + EXACT)
        slots = slots[short & torch.isfinite(self.seen[slots])]
        away = self.best[slots] - points.x[slots]
        high = torch.ones(len(slots), device=slots.device)
        low = (self.expected[slots] / self.seen[slots]).float().clamp(min=0.9) * (1 - EXACT)
        for _ in range(REFINE_ROUNDS):
            share = (low + high) / 2
            at = points.rounded(points.x[slots] + away * share[:, None])
            margin, _ = points.judged(slots, points.logits(slots, at))
            wrong = self._see(slots, at, margin)
            low, high = torch.where(wrong, low, share), torch.where(wrong, share, high)
