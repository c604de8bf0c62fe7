"""The fused kernels in C++ (csrc/fused), on CPU. Contracts are in `robustcore.fused`.

As in robustcore/kernels/native.py: addresses are passed, the number of threads is torch's and
changes no result, and `isa` names an instruction set for tests.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from robustcore import _fused
from robustcore.fused.body import Body, Call, Clip
from robustcore.fused.packed import Packed
from robustcore.fused.plan import Plan, forward_plan, gradient_plan
from robustcore.kernels import checks

DEVICE = "cpu"
LOSSES = ("ce", "margin", "dlr")  # as csrc/core/loss.h counts them
ISAS: tuple[str, ...] = tuple(_fused.isas())


class NativeNet(Body):
    """The fused kernels of one packed network."""

    name = "native"

    def __init__(self, packed: Packed, isa: str = "") -> None:
        super().__init__(packed, DEVICE)
        self.isa = isa
        self._ascents: dict[bool, _fused.Net] = {}

    @cached_property
    def _forward(self) -> _fused.Net:
        plan = forward_plan(self.packed)
        if self.packed.draws == "features":
            factor = self.packed.factor().float().numpy()
            plan = plan.with_first(factor)
        return self._made(plan)

    def _made(self, plan: Plan) -> _fused.Net:
        stages = [
            (s.kind, s.relu, list(s.buffers), s.window, list(s.tables), s.weight, s.bias)
            for s in plan.stages
        ]
        places = [plan.place, plan.memory]
        sizes = (plan.sizes(), stages, plan.forward, self.packed.n_classes, list(plan.ends))
        return _fused.Net(self.isa, places, plan.fills(), *sizes, self.packed.dense)

    def _ascent(self, channels_last: bool) -> _fused.Net:
        if channels_last not in self._ascents:
            self._ascents[channels_last] = self._made(gradient_plan(self.packed, channels_last))
        return self._ascents[channels_last]

    def _launch(self, call: Call) -> None:
        pointers = call.addresses(self.base(call.x, call.clip))
        threads = torch.get_num_threads()
        self._forward.evaluate(pointers, call.sizes, call.names, call.clip, threads)

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
        slots = _points(points, rows, goal, wanted)
        checks.tensor("gradient", gradient, torch.float32, tuple(points.shape), DEVICE)
        results = _Results.of(len(rows))
        self._ascent(channels_last).differentiate(
            slots,
            (*results.addresses, gradient.data_ptr()),
            (len(rows), len(goal)),
            targeted,
            LOSSES.index(loss),
            torch.get_num_threads(),
        )
        return results.margin, results.gain, results.found

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
        box: Clip | None = None,
        channels_last: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        slots = _points(points, rows, goal, None)
        checks.tensor("x", x, torch.float32, (len(goal), points.shape[1]), DEVICE)
        checks.slots(len(rows), DEVICE, radius=radius, size=size)
        results = _Results.of(len(rows))
        age, usable = torch.empty_like(results.found), torch.empty(len(rows), dtype=torch.bool)
        order = rows.argsort(stable=True)  # starts of an image side by side: much alike
        self._ascent(channels_last).descend(
            slots,
            (*results.addresses, age.data_ptr()),
            (len(rows), len(goal)),
            targeted,
            LOSSES.index(loss),
            (x.data_ptr(), radius.data_ptr(), size.data_ptr(), order.data_ptr()),
            usable.data_ptr(),
            steps,
            adapts,
            norm == 2,
            box,
            torch.get_num_threads(),
        )
        return results.margin, results.found, age, usable


class _Results(NamedTuple):
    margin: Tensor
    gain: Tensor
    found: Tensor

    @staticmethod
    def of(slots: int) -> _Results:
        empty = torch.empty(slots)
        return _Results(empty, torch.empty(slots), torch.empty(slots, dtype=torch.int64))

    @property
    def addresses(self) -> tuple[int, int, int]:
        return self.margin.data_ptr(), self.gain.data_ptr(), self.found.data_ptr()


def _points(
    points: Tensor, rows: Tensor, goal: Tensor, wanted: Tensor | None
) -> tuple[int, int, int, int]:
    checks.tensor("points", points, torch.float32, tuple(points.shape), DEVICE)
    checks.slots(len(points), DEVICE, rows=rows)
    checks.slots(len(goal), DEVICE, labels=goal)
    if wanted is not None:
        checks.tensor("wanted", wanted, torch.int64, (len(points),), DEVICE)
    address = 0 if wanted is None else wanted.data_ptr()
    return rows.data_ptr(), goal.data_ptr(), address, points.data_ptr()
