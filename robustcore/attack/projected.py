"""Projected gradient descent inside balls: (image, restart) pairs as slots of a batch kept full.

With a step size it is the attack of Madry et al. (2018), its last iterate judged too. Without one,
the step starts at the radius and halves whenever PATIENCE steps have brought no progress; a slot
whose step has fallen below LAST of its radius is done, as is one whose gradient vanished.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from robustcore.attack.found import Found
from robustcore.gradients import Gradients

PATIENCE, LAST = 3, 0.05
ROUNDS, WIDEST = 24, 64.0  # of a search for the smallest radius


@dataclass(frozen=True)
class Steps:
    """How a projected attack moves. step_size: a number, or None to adapt it."""

    steps: int
    restarts: int
    loss: str
    step_size: float | None
    random_start: bool  # else only restarts after the first start at random points
    box: tuple[float, float] | None
    seed: int
    ids: Tensor
    nearest: bool = False  # the nearest over all restarts, else the first restart that succeeds


class _Window:
    """The slots that live: image, position of its radius, restart, step, and the moving parts."""

    def __init__(self, gradients: Gradients) -> None:
        x = gradients.x
        none = torch.zeros(0, dtype=torch.int64, device=x.device)
        self.rows, self.place, self.restart, self.age = none, none, none, none
        self.offset, self.points, self.gradient = x[:0], x[:0], x[:0]
        self.size, self.radius = x.new_zeros(0), x.new_zeros(0)
        self.gain = x.new_zeros(0, dtype=torch.float64)
        self.since = none  # steps without progress
        self.stuck = none.bool()  # the last gradient gave no direction

    def take(self, index: Tensor) -> None:
        for name, value in vars(self).items():
            setattr(self, name, value[index])

    def append(self, **columns: Tensor) -> None:
        for name, value in columns.items():
            setattr(self, name, torch.cat([getattr(self, name), value]))


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
    device, images = rows.device, len(rows)
    total, next_, left = images * how.restarts, 0, images
    won = torch.full((images,), how.restarts, dtype=torch.int64, device=device)
    live = _Window(gradients)
    while True:
        room = gradients.engine.batch_size - len(live.rows)
        while room > 0 and next_ < total:  # restart by restart, so that easy images leave early
            pair = torch.arange(next_, min(next_ + room, total), device=device)
            next_ += len(pair)
            pair = pair[pair // images < won[pair % images]]
            _enter(gradients, live, rows, radius, pair % images, pair // images, how)
            room = gradients.engine.batch_size - len(live.rows)
        if not len(live.rows):
            progress(left)
            return
        stay = _judge(gradients, found, live, won, how).nonzero().flatten()
        now = int((won == how.restarts).sum()) if not how.nearest else left
        progress(left - now)
        left = now
        if len(stay) < len(live.rows):
            live.take(stay)
        _move(gradients, live, how)


def _enter(
    gradients: Gradients,
    live: _Window,
    rows: Tensor,
    radius: Tensor,
    place: Tensor,
    restart: Tensor,
    how: Steps,
) -> None:
    row, reach = rows[place], radius[place].float()
    offset = torch.empty_like(gradients.x[row])
    if len(row):
        random = reach if how.random_start else torch.where(restart > 0, reach, 0.0)
        gradients.kernels.random_start(
            random, restart, how.ids[row], offset, norm=gradients.norm, seed=how.seed
        )
    points = gradients.x[row] + offset
    points = gradients.rounded(points if how.box is None else points.clamp(*how.box))
    zero = torch.zeros_like(row)
    size = reach if how.step_size is None else torch.full_like(reach, how.step_size)
    live.append(
        rows=row,
        place=place,
        restart=restart,
        age=zero,
        since=zero,
        stuck=zero.bool(),
        offset=points - gradients.x[row],
        points=points,
        gradient=torch.zeros_like(points),
        size=size,
        radius=reach,
        gain=torch.full_like(reach, -torch.inf, dtype=torch.float64),
    )


def _judge(gradients: Gradients, found: Found, live: _Window, won: Tensor, how: Steps) -> Tensor:
    """Evaluate all live slots, keep what is found; which of them go on, (S,) bool."""
    margin, gain, label = gradients(live.rows, live.points, live.gradient, how.loss, None)
    wrong = ~(margin > 0)
    distance = torch.full_like(live.gain, torch.inf)
    gradients.kernels.update_best(
        gradients.x, live.rows, live.points, margin, distance, torch.empty_like(live.points),
        norm=gradients.norm,
    )  # fmt: skip
    if not how.nearest:
        first = won.scatter_reduce(
            0, live.place, torch.where(wrong, live.restart, how.restarts), "amin"
        )
        wins = wrong & (live.restart == first[live.place]) & (live.restart < won[live.place])
        found.distance[live.rows[wins]] = torch.inf  # an earlier restart replaces a later one
        distance = torch.where(wins, distance, torch.inf)
        won.copy_(first)
    found.keep(live.rows, distance, live.points, label, live.restart, live.age)
    stay = ~wrong & ~live.stuck & (live.age < how.steps)
    if not how.nearest:
        stay &= live.restart < won[live.place]
    if how.step_size is None:
        better = gain.double() > live.gain
        live.gain = torch.where(better, gain.double(), live.gain)
        live.since = torch.where(better, 0, live.since + 1)
        halve = live.since >= PATIENCE
        live.size = torch.where(halve, live.size / 2, live.size)
        live.since = torch.where(halve, 0, live.since)
        stay &= live.size >= LAST * live.radius
    return stay


def _move(gradients: Gradients, live: _Window, how: Steps) -> None:
    if not len(live.rows):
        return
    usable = gradients.kernels.ball_step(
        gradients.x, live.rows, live.offset, live.gradient, torch.ones_like(live.size),
        live.size, live.radius, live.points, norm=gradients.norm, box=how.box,
    )  # fmt: skip
    if gradients.engine.dtype not in (torch.float32, torch.float64):
        live.points = gradients.rounded(live.points)
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
