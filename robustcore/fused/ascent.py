"""Gradients and descents of fused networks: arguments checked once, and records of a launch.

Contracts are in `robustcore.fused`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from robustcore.fused.body import Body, Clip
from robustcore.kernels import checks

LOSSES = ("ce", "margin", "dlr")  # as csrc/core/loss.h counts them


class Ascent(NamedTuple):
    """Points, what is raised there, and what was found."""

    points: Tensor
    rows: Tensor
    goal: Tensor
    wanted: Tensor | None
    targeted: bool
    loss: int
    channels_last: bool
    margin: Tensor
    gain: Tensor
    found: Tensor


class Descent(NamedTuple):
    """The ball of a descent and its steps."""

    x: Tensor
    radius: Tensor
    size: Tensor
    l2: bool
    steps: int
    adapts: bool
    box: Clip | None
    age: Tensor
    usable: Tensor


class Ascents(Body):
    """A body that differentiates and descends."""

    def _differentiate(self, ascent: Ascent, gradient: Tensor) -> None:
        raise NotImplementedError

    def _descend(self, ascent: Ascent, descent: Descent) -> None:
        raise NotImplementedError

    def _ascent(
        self,
        points: Tensor,
        rows: Tensor,
        goal: Tensor,
        wanted: Tensor | None,
        how: tuple[str, bool, bool],
    ) -> Ascent:
        (loss, targeted, channels_last), slots = how, len(rows)
        on = (points.device if self.device is None else self.device).type
        elements = self.packed.elements
        checks.tensor("points", points, torch.float32, (slots, elements), on)
        checks.slots(slots, on, rows=rows)
        checks.slots(len(goal), on, labels=goal)
        if wanted is not None:
            checks.tensor("wanted", wanted, torch.int64, (slots,), on)
        margin, gain = points.new_empty(slots), points.new_empty(slots)
        given = (wanted, targeted, LOSSES.index(loss), channels_last)
        return Ascent(points, rows, goal, *given, margin, gain, torch.empty_like(rows))

    def differentiate(
        self,
        points: Tensor,
        rows: Tensor,
        goal: Tensor,
        gradient: Tensor,
        *,
        loss: str,
        targeted: bool = False,
        wanted: Tensor | None = None,
        channels_last: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ascent = self._ascent(points, rows, goal, wanted, (loss, targeted, channels_last))
        shape, on = tuple(points.shape), points.device.type
        checks.tensor("gradient", gradient, torch.float32, shape, on)
        self._differentiate(ascent, gradient)
        return ascent.margin, ascent.gain, ascent.found

    def descend(
        self,
        x: Tensor,
        points: Tensor,
        rows: Tensor,
        goal: Tensor,
        radius: Tensor,
        size: Tensor,
        *,
        norm: float,
        steps: int,
        adapts: bool,
        loss: str,
        targeted: bool = False,
        wanted: Tensor | None = None,
        box: Clip | None = None,
        channels_last: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        ascent = self._ascent(points, rows, goal, wanted, (loss, targeted, channels_last))
        slots, on = len(rows), points.device.type
        checks.tensor("x", x, torch.float32, (len(goal), points.shape[1]), on)
        checks.slots(slots, on, radius=radius, size=size)
        age, usable = torch.empty_like(rows), torch.empty_like(rows, dtype=torch.bool)
        ball = Descent(x, radius, size, norm == 2, steps, adapts, box, age, usable)
        self._descend(ascent, ball)
        return ascent.margin, ascent.found, age, usable
