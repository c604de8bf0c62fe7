"""The fused kernels in C++ (csrc/fused), on CPU. Contracts are in `robustcore.fused`.

As in robustcore/kernels/native.py: addresses are passed, the number of threads is torch's and
changes no result, and `isa` names an instruction set for tests.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from robustcore import _fused
from robustcore.fused.ascent import Ascent, Ascents, Descent
from robustcore.fused.body import Call
from robustcore.fused.packed import Packed
from robustcore.fused.plan import Plan, forward_plan, gradient_plan

DEVICE = "cpu"
ISAS: tuple[str, ...] = tuple(_fused.isas())


class NativeNet(Ascents):
    """The fused kernels of one packed network."""

    name = "native"

    def __init__(self, packed: Packed, isa: str = "") -> None:
        super().__init__(packed, DEVICE)
        self.isa = isa
        self._backwards: dict[bool, _fused.Net] = {}

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

    def _backward(self, channels_last: bool) -> _fused.Net:
        if channels_last not in self._backwards:
            self._backwards[channels_last] = self._made(gradient_plan(self.packed, channels_last))
        return self._backwards[channels_last]

    def _launch(self, call: Call) -> None:
        pointers = call.addresses(self.base(call.x, call.clip))
        threads = torch.get_num_threads()
        self._forward.evaluate(pointers, call.sizes, call.names, call.clip, threads)

    def _differentiate(self, ascent: Ascent, gradient: Tensor) -> None:
        self._backward(ascent.channels_last).differentiate(
            *_shared(ascent, gradient), torch.get_num_threads()
        )

    def _descend(self, ascent: Ascent, descent: Descent) -> None:
        order = ascent.rows.argsort(stable=True)  # starts of an image side by side: much alike
        self._backward(ascent.channels_last).descend(
            *_shared(ascent, descent.age),
            _addresses(descent.x, descent.radius, descent.size, order),
            descent.usable.data_ptr(),
            descent.steps,
            descent.adapts,
            descent.l2,
            descent.box,
            torch.get_num_threads(),
        )


Four = tuple[int, int, int, int]


def _addresses(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Four:
    return a.data_ptr(), b.data_ptr(), c.data_ptr(), d.data_ptr()


def _shared(a: Ascent, last: Tensor) -> tuple[Four, Four, tuple[int, int], bool, int]:
    """What both take: slots, results with `last` among them, sizes and the loss."""
    wanted = 0 if a.wanted is None else a.wanted.data_ptr()
    slots = (a.rows.data_ptr(), a.goal.data_ptr(), wanted, a.points.data_ptr())
    results = _addresses(a.margin, a.gain, a.found, last)
    return slots, results, (len(a.rows), len(a.goal)), a.targeted, a.loss
