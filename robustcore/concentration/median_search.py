"""The median distance from many noisy points to their nearest errors, image by image.

A slot is one noisy point. Along its direction u errors begin at about the distance that the
linearised boundary has there; each gradient turns u towards the normal of that boundary, as in
`robustcore.attack.minimum_norm`, and tells how far the nearest error is to be expected. Only slots
whose expectation is still near their image's median, or an end of its interval, take another
gradient: as near as the same image's slots were moved by their next gradient (`_near`). A slot
expected far above needs no error, as whatever it has lies above; one far below needs a single look
at a point that is.

What counts is seen: the median is that of distances of errors seen, of 0 for draws that are errors
themselves, and of infinity elsewhere. So it never lies below the median of the true distances.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from robustcore.attack import Found, minimum_norm
from robustcore.attack.minimum_norm import DOUBT
from robustcore.gradients import Classes, Gradients

# A slot is near, after so many gradients, within LOOSE times what their next gradient moved all but
# a tenth of its image's slots; where fewer than KNOWN had it: FIRST, and FADE times that of the
# gradient before.
LOOSE, MOVED, KNOWN, FIRST, FADE, LEAST_NEAR = 1.5, 0.9, 8, 0.05, 0.6, 0.004
MOST_GRADIENTS = 11
LOOKS, SHORT = 6, 1.03  # at a point this much beyond the expected distance
TURN = (torch.inf, 4.0, 1.5, 1.0, 0.6, 0.4, 0.3, 0.2, 0.15, 0.1, 0.06)  # eta, likewise
OVERSHOOT = 5e-4  # beyond the linearised boundary
LEAST, MOST = 0.5, 1.5  # what one step may make of a distance
PROBES, CLASSES = 4, 9  # draws of an image, and classes of each, whose gradients are compared
REFINE_NEAR, REFINE_ROUNDS = 0.06, 4
AGAIN = 40  # gradients of a point that is searched from anew, where the model saturates
BLOCK_ELEMENTS = 2**25  # pixels of all starts of such points together: bounds the memory
EXACT = 5e-4  # an error this near to where it is expected is not bisected


class MedianSearch:
    """Slots of images: N for each of B, image by image, (S,) with S = B * N.

    points: gradients whose images are the noisy points (S, D).
    After `run`: seen (S,) float64, the distance of the nearest error seen; 0 for points that are
    errors themselves, inf where none was seen.
    """

    def __init__(self, points: Gradients, n: int, ranks: tuple[int, int]) -> None:
        self.points, self.n, self.ranks = points, n, ranks
        self.seen = torch.full(
            points.y.shape, torch.inf, dtype=torch.float64, device=points.x.device
        )
        self.best = points.x.clone()
        self.expected = self.seen.clone()
        self.first = self.seen.clone()  # expected from the point itself
        self.moved = self.seen.new_full((MOST_GRADIENTS, len(self.seen)), torch.inf)
        self.spent = torch.zeros_like(points.y)
        self.looks = torch.zeros_like(points.y)
        self.doubt = torch.zeros_like(self.seen, dtype=torch.bool)
        self.offset = torch.zeros_like(points.x)
        self.radius = torch.zeros_like(self.seen)
        self.classes = torch.full_like(points.y, -1)

    def run(self) -> None:
        turns = self.seen.new_tensor(TURN)
        slots = torch.arange(len(self.seen), device=self.seen.device)
        self._step(slots, turns[self.spent], self._likeliest())
        while True:
            key = torch.minimum(self.seen, self.expected)
            low, middle, high = self._ordered(key)
            width = self._near().gather(0, self.spent[None])[0]
            close = (key / middle).log().abs() < width
            ends = torch.minimum((key / low).log().abs(), (key / high).log().abs())
            wanted = close | (ends < width) | self.doubt
            wanted &= (self.seen > 0) & (self.spent < MOST_GRADIENTS)
            slots = wanted.nonzero().flatten()
            if len(slots):
                self._step(slots, turns[self.spent[slots]], self.classes[slots])
                continue
            # whatever is expected below the upper end must be seen below it, and about there
            goal = torch.where(
                key < low, (key * low).sqrt(), key * SHORT ** (1 + self.looks).float()
            )
            unseen = (key <= high) & (self.seen > torch.maximum(goal, low))
            slots = (unseen & (self.looks < LOOKS)).nonzero().flatten()
            if not len(slots):
                break
            self._look(slots, goal[slots])
        close = (key >= low * (1 - REFINE_NEAR)) & (key <= high * (1 + REFINE_NEAR))
        self._refine((close & (self.seen > 0)).nonzero().flatten())
        self._again()

    def _near(self) -> Tensor:
        """How near a slot of n gradients must be to take another, (1 + MOST_GRADIENTS, S)."""
        ordered = self.moved.view(MOST_GRADIENTS, -1, self.n).sort(dim=2).values
        had = torch.isfinite(ordered).sum(2)
        at = (MOVED * (had - 1).float()).long().clamp(min=0)
        moved = LOOSE * ordered.gather(2, at[:, :, None])[:, :, 0]
        near = [torch.full_like(moved[0], FIRST / FADE)]
        for n in range(1, MOST_GRADIENTS):
            width = torch.where(had[n] < KNOWN, FADE * near[-1], moved[n])
            near.append(width.clamp(min=LEAST_NEAR))
        return torch.stack([*near, near[-1]]).repeat_interleave(self.n, 1)

    def _ordered(self, key: Tensor) -> list[Tensor]:
        """The median of each slot's image, (S,), between the ends of its interval."""
        ordered = key.view(-1, self.n).sort(dim=1).values
        low, high = (ordered[:, rank - 1] for rank in self.ranks)
        middle = (ordered[:, (self.n - 1) // 2] + ordered[:, self.n // 2]) / 2
        return [each.repeat_interleave(self.n) for each in (low, middle, high)]

    def _likeliest(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Of slots and their logits: the class whose boundary is nearest by the lead over it and
        the length of its gradient, which is averaged over a few draws of each image."""
        points, labels = self.points, self.points.y
        images = len(labels) // self.n
        number = torch.arange(len(labels), device=labels.device) % self.n
        probes = (number < min(PROBES, 1 + self.n // 50)).nonzero().flatten()
        logits = points.logits(probes, points.x[probes])
        count = logits.shape[1]
        others = logits.scatter(1, labels[probes, None], -torch.inf)
        tried = others.topk(min(CLASSES, count - 1), 1).indices
        rows = probes.repeat_interleave(tried.shape[1])
        gradient = torch.empty_like(points.x[rows])
        points(rows, points.x[rows], gradient, "margin", tried.flatten())
        dual = self._slope(rows, torch.zeros_like(gradient), gradient)[0]
        cell = (rows // self.n) * count + tried.flatten()
        total = dual.new_zeros(images * count).index_add_(0, cell, dual.nan_to_num(0, 0, 0))
        times = torch.zeros_like(total).index_add_(0, cell, torch.ones_like(dual))
        length = (total / times).view(images, count)  # nan for classes not tried

        def nearest(slots: Tensor, logits: Tensor) -> Tensor:
            wide, own = logits.double(), labels[slots, None]
            far = (wide.gather(1, own) - wide) / length[slots // self.n]
            far = far.scatter(1, own, torch.inf).nan_to_num(torch.inf, torch.inf)
            known = torch.isfinite(far).any(1)
            self.classes[slots] = torch.where(known, far.argmin(1), -1)
            return self.classes[slots]

        return nearest

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

    def _step(self, slots: Tensor, turn: Tensor, classes: Classes) -> None:
        points, offset, radius = self.points, self.offset[slots], self.radius[slots]
        at = points.rounded(points.x[slots] + offset)
        gradient = torch.empty_like(offset)
        margin, gain, _ = points(slots, at, gradient, "margin", classes)
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
        self.first[slots] = torch.where(fresh & usable, plane, self.first[slots])
        before = self.expected[slots]
        moved = torch.where(
            usable & torch.isfinite(before), (plane / before).log().abs(), torch.inf
        )
        self.moved[self.spent[slots], slots] = moved
        self.expected[slots] = torch.where(usable, plane, before)
        self.spent[slots] += 1
        self.doubt[slots] = False
        self.classes[slots] = torch.where(self.spent[slots] >= 2, -1, self.classes[slots])
        points.usable[slots[usable]] = True

    def _again(self) -> None:
        """Search in full where an image's points had no gradient, or one that led far beyond."""
        points, n = self.points, self.n
        right = self.seen > 0
        led = torch.isfinite(self.first) & (self.first <= DOUBT * self.seen)
        lost = (right & ~led).view(-1, n)
        images = 2 * lost.sum(1) > right.view(-1, n).sum(1)
        rows = (lost & images[:, None]).flatten().nonzero().flatten()
        found = Found.nothing(points)
        block = max(1, BLOCK_ELEMENTS // (CLASSES * points.x.shape[1]))
        for some in rows.split(block) if len(rows) else ():
            minimum_norm(
                points,
                found,
                some,
                points.logits(some, points.x[some]),
                effort=AGAIN,
                restarts=1,
                box=None,
                seed=points.evaluator.seed,
                ids=points.evaluator.ids,
            )
        self.seen = torch.minimum(self.seen, found.distance)

    def _look(self, slots: Tensor, distance: Tensor) -> None:
        points = self.points
        share = (distance / self.radius[slots]).nan_to_num(0.0, 0.0, 0.0)
        at = points.rounded(points.x[slots] + self.offset[slots] * share[:, None].float())
        margin, _ = points.judged(slots, points.logits(slots, at))
        wrong = self._see(slots, at, margin)
        self.looks[slots] += 1
        self.doubt[slots] = ~wrong
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
        high = torch.ones(len(slots), dtype=torch.float32, device=slots.device)
        low = (self.expected[slots] / self.seen[slots]).float().clamp(min=0.9) * (1 - EXACT)
        for _ in range(REFINE_ROUNDS):
            share = (low + high) / 2
            at = points.rounded(points.x[slots] + away * share[:, None])
            margin, _ = points.judged(slots, points.logits(slots, at))
            wrong = self._see(slots, at, margin)
            low, high = torch.where(wrong, low, share), torch.where(wrong, share, high)
