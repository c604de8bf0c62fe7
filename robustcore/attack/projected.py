"""Projected gradient descent inside balls: (image, restart) pairs as slots of a batch kept full.

With a step size it is the attack of Madry et al. (2018), its last iterate judged too. Without one,
the step starts at the radius and halves whenever PATIENCE steps have brought no progress; a slot
whose step has fallen below LAST of its radius is done, as is one whose gradient vanished.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from robustcore.attack.descents import descended
from robustcore.attack.found import Found
from robustcore.attack.starts import Steps, rounded_within, sizes, starts
from robustcore.gradients import Gradients

PATIENCE, LAST = 2, 0.05
ROUNDS, WIDEST = 24, 64.0  # of a search for the smallest radius


class _Window:
    """Slots that live, each a start of an image; one that is done gives its place to another."""

    def __init__(self, gradients: Gradients, size: int) -> None:
        x = gradients.x
        none = torch.zeros(size, dtype=torch.int64, device=x.device)
        self.rows, self.place = none, none.clone()  # the image; its position among those attacked
        self.restart, self.age = none.clone(), none.clone()
        self.since = none.clone()  # steps without progress
        self.stuck = none.bool()  # the last gradient gave no direction
        self.size, self.radius = x.new_zeros(size), x.new_zeros(size)
        self.gain = x.new_zeros(size, dtype=torch.float64)
        self.offset = x.new_zeros(size, x.shape[1])
        self.points, self.gradient = self.offset.clone(), self.offset.clone()

    def take(self, index: Tensor) -> None:
        for name, value in vars(self).items():
            setattr(self, name, value[: len(index)] if name == "gradient" else value[index])

    def put(self, index: Tensor, **columns: Tensor) -> None:
        for name, value in columns.items():
            getattr(self, name).index_copy_(0, index, value)


def projected(
    gradients: Gradients,
    found: Found,
    rows: Tensor,  # (I,), distinct
    radius: Tensor,  # (I,)
    how: Steps,
    progress: Callable[[int], object] = lambda n: None,
) -> None:
    """Look for errors within each image's radius, and keep in `found` one for each image.

    Cost: at most restarts * (steps + 1) gradient evaluations of an image that stays right.
    """
    if gradients.fused is not None:
        descended(gradients, found, rows, radius, how, progress)
        return
    device, images = rows.device, len(rows)
    total, next_, left = images * how.restarts, 0, images
    won = torch.full((images,), how.restarts, dtype=torch.int64, device=device)
    live = _Window(gradients, min(total, gradients.evaluator.batch_size))
    free = torch.arange(len(live.rows), device=device)
    while True:
        while len(free) and next_ < total:  # restart by restart, so that easy images leave early
            pair = torch.arange(next_, min(next_ + len(free), total), device=device)
            next_ += len(pair)
            pair = pair[pair // images < won[pair % images]]
            taken, free = free[: len(pair)], free[len(pair) :]
            _enter(gradients, live, taken, rows, radius, pair % images, pair // images, how)
        if len(free):
            kept = torch.ones_like(live.stuck).index_fill_(0, free, False)
            live.take(kept.nonzero().flatten())
        if not len(live.rows):
            progress(left)
            return
        done = _judge(gradients, found, live, won, how)
        now = int((won == how.restarts).sum()) if not how.nearest else left
        progress(left - now)
        left = now
        _move(gradients, live, how)
        free = done.nonzero().flatten()


def _enter(
    gradients: Gradients,
    live: _Window,
    at: Tensor,
    rows: Tensor,
    radius: Tensor,
    place: Tensor,
    restart: Tensor,
    how: Steps,
) -> None:
    if not len(at):
        return
    row, reach = rows[place], radius[place].float()
    clean, points = starts(gradients, row, reach, restart, how)
    zero = torch.zeros_like(row)
    live.put(
        at,
        rows=row,
        place=place,
        restart=restart,
        age=zero,
        since=zero,
        stuck=zero.bool(),
        offset=points - clean,
        points=points,
        size=sizes(gradients, row, reach, how),
        radius=reach,
        gain=torch.full_like(reach, -torch.inf, dtype=torch.float64),
    )


def _judge(gradients: Gradients, found: Found, live: _Window, won: Tensor, how: Steps) -> Tensor:
    """Evaluate all live slots and keep what is found; which of them are done, (S,) bool."""
    margin, gain, label = gradients(live.rows, live.points, live.gradient, how.loss, None)
    done = ~(margin > 0)
    hits = done.nonzero().flatten()
    if len(hits):
        _hit(gradients, found, live, won, how, hits, margin[hits], label[hits])
    done |= live.stuck | (live.age >= how.steps)
    if not how.nearest:
        done |= live.restart >= won[live.place]
    if how.step_size is None:
        better = gain > live.gain
        live.gain = torch.where(better, gain.double(), live.gain)
        live.since = torch.where(better, 0, live.since + 1)
        halve = live.since >= PATIENCE
        live.size = torch.where(halve, live.size / 2, live.size)
        live.since.masked_fill_(halve, 0)
        done |= live.size < LAST * live.radius
    return done


def _hit(
    gradients: Gradients,
    found: Found,
    live: _Window,
    won: Tensor,
    how: Steps,
    hits: Tensor,  # slots that are errors
    margin: Tensor,
    label: Tensor,
) -> None:
    rows, points, restart = live.rows[hits], live.points[hits], live.restart[hits]
    distance = torch.full_like(hits, torch.inf, dtype=torch.float64)
    gradients.kernels.update_best(
        gradients.x, rows, points, margin, distance, torch.empty_like(points), norm=gradients.norm
    )
    if not how.nearest:
        place = live.place[hits]
        first = won.scatter_reduce(0, place, restart, "amin")
        wins = (restart == first[place]) & (restart < won[place])
        found.distance[rows[wins]] = torch.inf  # an earlier restart replaces a later one
        distance = torch.where(wins, distance, torch.inf)
        won.copy_(first)
    found.keep(rows, distance, points, label, restart, live.age[hits])


def _move(gradients: Gradients, live: _Window, how: Steps) -> None:
    usable = gradients.kernels.ball_step(
        gradients.x, live.rows, live.offset, live.gradient, torch.ones_like(live.size),
        live.size, live.radius, live.points, norm=gradients.norm, box=how.box,
    )  # fmt: skip
    if gradients.evaluator.dtype not in (torch.float32, torch.float64):
        live.points = rounded_within(gradients, live.rows, live.points, live.radius)
        live.offset = live.points - gradients.x[live.rows]
    live.age, live.stuck = live.age + 1, ~usable
    gradients.usable[live.rows[usable]] = True


def smallest_radius(
    gradients: Gradients,
    found: Found,
    rows: Tensor,
    start: float,
    rtol: float,
    how: Steps,
    progress: Callable[[int], object],
) -> None:
    """Bisect each image's radius, from `start`, to the smallest at which the attack succeeds.

    The upper end is always the distance of an error seen; a radius at which the attack failed is
    the lower end. Ends when they are within `rtol`, or nothing was found at WIDEST * start.
    """
    low = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
    guess = torch.full_like(low, start)
    open_ = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    for _ in range(ROUNDS):
        index = open_.nonzero().flatten()
        if not len(index):
            break
        at = rows[index]
        seen = Found.nothing(gradients)
        projected(gradients, seen, at, guess[index], how)
        missed = torch.isinf(seen.distance[at])
        found.keep(
            at, seen.distance[at], seen.point[at], seen.label[at], seen.restart[at], seen.step[at]
        )
        low[index] = torch.where(missed, guess[index], low[index])
        high = found.distance[rows]
        middle = torch.where(low > 0, (low * high).sqrt(), high / 2)
        guess = torch.where(torch.isinf(high), guess * 2, middle)
        narrow = torch.where(torch.isinf(high), guess > WIDEST * start, high <= low * (1 + rtol))
        progress(int((narrow & open_).sum()))
        open_ &= ~narrow
    progress(int(open_.sum()))
