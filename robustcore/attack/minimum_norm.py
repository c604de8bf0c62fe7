"""The nearest error by descent on the distance to the boundary, as a function of direction.

Along a direction u from an image x0 errors begin at a distance rho(u). A step takes the gradient g
of the lead of a wrong class at x0 + r u, near the boundary; corrects r by Newton's rule on that
same gradient, since the lead grows at the rate g . u along u; and turns u towards the normal:
u + eta * g / |g|, made a unit vector again (l2), or u + eta * sign(g), clipped to [-1, 1] (linf).
eta -> inf is the iteration that structural reliability calls HLRF (Hasofer and Lind, 1974;
Rackwitz and Fiessler, 1978) and, on the clean image, a step of DeepFool. Nothing has a scale of its
own: radii and steps are shares of r, so natural and robust models are searched alike.

An image starts once for each of its likeliest wrong classes; the starts whose boundary turns out
to be nearest go on, the last ones against every class, with eta falling to ETA_LAST. There the
gradient is taken in Gaussian noise, in proportion to r and falling to none: one draw a step smooths
the boundary at that scale, and so steps over its small dents.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from robustcore.attack.boundary import Walk
from robustcore.attack.found import Found, push, refine
from robustcore.gradients import Gradients
from robustcore.streams import Stream

ETA_LAST = 0.02
# Length of the noise as a share of the displacement's l2 length: restart by restart, in turn.
NOISE = {2: (2.0, 1.0, 4.0), math.inf: (1.0, 0.0)}
NOISE_FROM = {2: 8, math.inf: 40}  # steps of the last stage; in fewer it only costs
NOISY = 0.6  # the share of the last stage after which there is none
OVERSHOOT = 1e-4  # beyond the linearised boundary, so that rounding leaves half of the looks wrong
LEAST, MOST = 0.5, 1.5  # what one step may make of a radius
REFINE_FROM, REFINE_ROUNDS = 0.98, 4
LARGE, RANDOM = 150, 3  # from this effort on, some of it goes to random starts, so many
OVERHEAD = 3  # forward passes outside the stages, as gradient evaluations
# A model saturates where a first step expects an error farther than so many times the distance
# found: on other networks it is 0.6 to 2.6 times.
DOUBT = 4
SILENT = (
    "where gradients were silent at an image its errors were searched along the boundary, from "
    "random points: these distances may be larger than those of a model that does not saturate"
)
SCATTER = [2.0**k for k in range(-10, 2)]  # how far random points lie, in widths of the image
SCATTERED, FIRST = 4, 2**21  # random points at each; the number of the first start among them
PATIENCE, SETTLED = 8, 3e-4  # a slot is done that so often expects no more than this share

Stage = tuple[int, int]  # slots an image keeps, steps of each


def stages(effort: int, classes: int) -> list[Stage]:
    """How `effort` gradient evaluations of an image are spent."""
    rest = max(1, effort - OVERHEAD)
    if effort >= LARGE:
        plan = [(9, 2), (3, (rest - 18) // (3 + RANDOM))]
    elif effort >= 40:
        plan = [(9, 1), (3, 4), (1, rest - 21)]
    elif effort >= 18:
        plan = [(5, 1), (2, 4), (1, rest - 13)]
    else:
        plan = [(3, 1), (1, max(1, rest - 3))]
    return [(min(slots, classes - 1), steps) for slots, steps in plan]


class _Slots:
    """Starts of images: which image, which class (-1 for all), how far, in which direction."""

    def __init__(self, gradients: Gradients, rows: Tensor, classes: Tensor, restart: int):
        self.rows, self.classes, self.restart = rows, classes, restart
        self.points = gradients.x[rows]
        self.offset = torch.zeros_like(self.points)
        self.gradient = torch.empty_like(self.points)
        self.radius = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
        self.expected = torch.full_like(self.radius, torch.inf)  # distance, by Newton's rule
        self.distance = torch.full_like(self.radius, torch.inf)  # of the nearest error seen
        self.best = self.points.clone()
        self.label = torch.full_like(rows, -1)
        self.step = torch.full_like(rows, -1)
        self.quiet = torch.zeros_like(rows)  # steps in which little was to be expected
        # while gradients are silent: radii between which errors begin along the direction
        self.below = torch.zeros_like(self.radius)
        self.above = torch.full_like(self.radius, torch.inf)

    def bisected(self, lead: Tensor, silent: Tensor) -> Tensor:
        """Radii nearer to where errors begin, by the sign of the lead alone.

        A model that saturates gives no gradient, and the direction stays as it was.
        """
        right = lead > 0
        self.below = torch.where(silent, torch.where(right, self.radius, self.below), 0.0)
        self.above = torch.where(silent, torch.where(right, self.above, self.radius), torch.inf)
        between = (self.below * self.above).sqrt()
        beyond = self.radius * torch.where(right, MOST, LEAST)
        return torch.where((between > 0) & torch.isfinite(between), between, beyond)

    def take(self, index: Tensor) -> None:
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value[index])

    def store(self, found: Found) -> None:
        restart = torch.full_like(self.rows, self.restart)
        found.keep(self.rows, self.distance, self.best, self.label, restart, self.step)


def minimum_norm(
    gradients: Gradients,
    found: Found,
    rows: Tensor,
    logits: Tensor,
    *,
    effort: int,
    restarts: int,
    box: tuple[float, float] | None,
    seed: int,
    ids: Tensor,
) -> None:
    """Search for the nearest error of images rows (I,), distinct, and keep it in `found`.

    logits: (I, K) of the images themselves; ids (B,) and seed name the random draws.

    Each restart beyond the first is one more start of the last stage, from a random point in the
    ball whose radius is the distance found so far; a large effort brings RANDOM such starts of its
    own. Cost: about `effort` gradient evaluations an image, and for each further restart those of
    the last stage. Where the model saturates, a walk along its boundary more, of any effort.
    """
    search = _Search(gradients, found, box, seed, ids)
    plan = stages(effort, logits.shape[1])
    slots = _begin(gradients, rows, logits, plan[0][0])
    done = 0
    for index, (kept, steps) in enumerate(plan):
        last = index == len(plan) - 1
        if index:
            slots.take(_nearest(slots.expected.view(len(rows), -1), kept))
        if last:
            slots.classes = torch.full_like(slots.rows, -1)
        search.run(slots, steps, done, last)
        done += steps
    # a slot that never crossed the boundary may stand just before it
    lone = torch.isinf(found.distance[slots.rows]).nonzero().flatten()
    if len(lone):
        rank = torch.arange(len(lone), device=rows.device)
        first = torch.full_like(found.label, len(lone))
        first.scatter_reduce_(0, slots.rows[lone], rank, "amin")
        one = lone[first[slots.rows[lone]] == rank]
        push(gradients, found, slots.rows[one], slots.offset[one], box)
    for restart in range(1, restarts + (RANDOM if effort >= LARGE else 0)):
        again = search.restart(rows, restart)
        search.run(again, plan[-1][1], 0, True)
    search.again(rows, done)
    refine(gradients, found, rows, REFINE_FROM, REFINE_ROUNDS)


def _begin(gradients: Gradients, rows: Tensor, logits: Tensor, starts: int) -> _Slots:
    """Starts at the image, one for each of the likeliest classes."""
    if gradients.targets is not None:
        return _Slots(gradients, rows, torch.full_like(rows, -1), 0)
    others = logits.float().scatter(1, gradients.y[rows, None], -torch.inf)
    order = others.sort(dim=1, descending=True, stable=True).indices[:, :starts]
    return _Slots(gradients, rows.repeat_interleave(starts), order.flatten().contiguous(), 0)


def _length(offset: Tensor, norm: float) -> Tensor:
    wide = offset.double()
    return wide.norm(dim=1) if norm == 2 else wide.abs().amax(1)


def _nearest(expected: Tensor, kept: int) -> Tensor:
    """Slots, image by image, that expect the least distances (I, starts); of equals the first."""
    order = expected.sort(dim=1, stable=True).indices[:, : min(kept, expected.shape[1])]
    start = torch.arange(len(expected), device=expected.device)[:, None] * expected.shape[1]
    return (start + order).flatten()


@dataclass
class _Search:
    """What all slots of a search share."""

    gradients: Gradients
    found: Found
    box: tuple[float, float] | None
    seed: int
    ids: Tensor  # (B,)

    def __post_init__(self) -> None:
        x = self.gradients.x.double()
        side = (x.amax(1) - x.amin(1)).clamp(min=1.0)
        # (B,): across a cube that holds the image, the farthest that a first step goes
        self.widest = side * (math.sqrt(x.shape[1]) if self.gradients.norm == 2 else 1.0)
        # (B,): the least distance that was expected from an image itself
        self.first = torch.full_like(self.widest, torch.inf)

    def restart(self, rows: Tensor, number: int) -> _Slots:
        """Starts at random points as far as the errors found."""
        gradients = self.gradients
        rows = rows[torch.isfinite(self.found.distance[rows])]
        slots = _Slots(gradients, rows, torch.full_like(rows, -1), number)
        gradients.kernels.random_start(
            self.found.distance[rows].float(), torch.full_like(rows, number), self.ids[rows],
            slots.offset, norm=gradients.norm, seed=self.seed,
        )  # fmt: skip
        slots.radius = _length(slots.offset, gradients.norm)
        points = gradients.x[rows] + slots.offset
        slots.points = gradients.rounded(points if self.box is None else points.clamp(*self.box))
        return slots

    def again(self, rows: Tensor, step: int) -> None:
        """Search along the boundary where a model saturates.

        There it gives an image a weak gradient or none, so that the first step expects errors far
        beyond those seen. The starts are the nearest error seen and random points.
        """
        found = self.found
        before = found.distance[rows]
        rows = rows[(self.first[rows] > DOUBT * before) | torch.isinf(before)]
        if not len(rows):
            return
        seen = rows[torch.isfinite(found.distance[rows])]
        drawn, points = self._scatter(rows)
        starts = torch.cat([seen, drawn])
        if not len(starts):
            return
        points = torch.cat([found.point[seen], points])
        Walk(self.gradients, starts, points, self.box).run(found, step)
        # random points alone are no search: without any gradient the image stays masked
        usable = self.gradients.usable[rows]
        found.forget(rows[~usable])
        if bool(usable.any()) and SILENT not in self.gradients.evaluator.notes:
            self.gradients.evaluator.notes.append(SILENT)

    def _scatter(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Errors among random points, ever farther from images: (rows (S,), points (S, D))."""
        gradients = self.gradients
        count = torch.zeros_like(gradients.y)
        images, errors = [rows[:0]], [gradients.x[:0]]
        for turn, width in enumerate(SCATTER):
            rows = rows[count[rows] < SCATTERED]
            if not len(rows):
                break
            slots = rows.repeat_interleave(SCATTERED)
            draw = torch.arange(len(slots), device=rows.device) % SCATTERED
            offset = torch.empty_like(gradients.x[slots])
            gradients.kernels.random_start(
                (width * self.widest[slots]).float(),
                FIRST + turn * SCATTERED + draw,
                self.ids[slots],
                offset,
                norm=gradients.norm,
                seed=self.seed,
            )
            points = gradients.x[slots] + offset
            points = gradients.rounded(points if self.box is None else points.clamp(*self.box))
            margin, _ = gradients.judged(slots, gradients.logits(slots, points))
            wrong = ~(margin > 0)
            images.append(slots[wrong])
            errors.append(points[wrong])
            count.index_add_(0, images[-1], torch.ones_like(images[-1]))
        return torch.cat(images), torch.cat(errors)

    def run(self, slots: _Slots, steps: int, done: int, last: bool) -> None:
        """Some steps of all slots; in the last stage those that have settled leave first."""
        levels, few = NOISE[self.gradients.norm], steps < NOISE_FROM[self.gradients.norm]
        noise = levels[slots.restart % len(levels)] if last and not few else 0.0
        for t in range(steps):
            if not len(slots.rows):
                return
            wave = (1 + math.cos(math.pi * t / max(1, steps - 1))) / 2
            eta = ETA_LAST + (1 - ETA_LAST) * wave if last else 1.0
            self._step(slots, eta, max(0.0, noise * (1 - t / (NOISY * steps))), done + t)
            settled = slots.quiet >= PATIENCE
            if last and bool(settled.any()):
                slots.store(self.found)
                slots.take((~settled).nonzero().flatten())
        if last and len(slots.rows):
            margin, label = self.gradients.judged(
                slots.rows, self.gradients.logits(slots.rows, slots.points)
            )
            self._see(slots, slots.points, margin, label, done + steps)
        slots.store(self.found)

    def _see(
        self, slots: _Slots, points: Tensor, margin: Tensor, label: Tensor, step: int
    ) -> Tensor:
        """Keep points that are nearer errors; returns how far away all are."""
        before = slots.distance.clone()
        away = self.gradients.kernels.update_best(
            self.gradients.x, slots.rows, points, margin, slots.distance, slots.best,
            norm=self.gradients.norm,
        )  # fmt: skip
        nearer = slots.distance < before
        slots.label = torch.where(nearer, label, slots.label)
        slots.step = torch.where(nearer, step, slots.step)
        return away

    def _noisy(self, slots: _Slots, level: float, step: int) -> Tensor:
        """The points in noise of `level` times the l2 length of their displacement."""
        gradients, points = self.gradients, slots.points
        wide = (points - gradients.x[slots.rows]).norm(dim=1) / math.sqrt(points.shape[1])
        draw = torch.full_like(slots.rows, (slots.restart << 20) + step)
        noisy = torch.empty_like(points)
        gradients.kernels.perturb(
            gradients.images(points).contiguous(), torch.arange(len(points), device=draw.device),
            level * wide, draw, self.ids[slots.rows], gradients.images(noisy),
            seed=self.seed, stream=Stream.NEAREST_ERROR, clip=self.box,
        )  # fmt: skip
        return gradients.rounded(noisy)

    def _step(self, slots: _Slots, eta: float, noise: float, step: int) -> None:
        gradients, kernels, norm = self.gradients, self.gradients.kernels, self.gradients.norm
        x, fresh = gradients.x, slots.radius == 0
        points = self._noisy(slots, noise, step) if noise else slots.points
        margin, gain, label = gradients(slots.rows, points, slots.gradient, "margin", slots.classes)
        away = self._see(slots, points, margin, label, step)
        slope = kernels.ball_slope(
            x, slots.rows, slots.offset, slots.gradient, norm=norm, box=self.box
        )
        dual, along = slope.unbind(1)
        lead = -gain.double()
        end = torch.where(lead > 0, torch.full_like(lead, MOST), LEAST)
        ratio = torch.where(along > 0, 1 + lead / along, end).clamp(LEAST, MOST)
        ok = (dual > 0) & torch.isfinite(dual) & torch.isfinite(lead)
        linear = lead / dual  # how far errors are if the lead is linear
        plane = linear.minimum(self.widest[slots.rows])
        radius = torch.where(fresh, plane, slots.radius * ratio) * (1 + OVERSHOOT)
        radius = torch.where(ok, radius, slots.bisected(lead, ~ok)).clamp(min=0.0, max=1e30)
        expected = torch.where(fresh, radius, away * ratio)
        slots.expected = torch.where(ok & (radius > 0), expected, torch.inf)
        first = torch.where(fresh & ok, linear, torch.inf)
        self.first.scatter_reduce_(0, slots.rows, first, "amin")
        settled = (slots.expected / slots.distance - 1).abs() < SETTLED
        slots.quiet = torch.where(settled, slots.quiet + 1, 0)
        scale = torch.where(fresh, 0.0, radius / slots.radius)
        # in l2 what the box cuts off is kept for later; in linf it would only blunt the direction
        kernels.ball_step(
            x, slots.rows, slots.offset, slots.gradient, scale.float(), (eta * radius).float(),
            radius.float(), slots.points, norm=norm, box=self.box, sphere=norm == 2,
        )  # fmt: skip
        if gradients.evaluator.dtype not in (torch.float32, torch.float64):
            slots.points = gradients.rounded(slots.points)
        slots.radius = radius
        gradients.usable[slots.rows[ok]] = True
