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
from robustcore.fused.packed import Packed
from robustcore.fused.plan import Plan, forward_plan, gradient_plan
from robustcore.kernels import checks

DEVICE = "cpu"
LOSSES = ("ce", "margin", "dlr")  # as csrc/core/loss.h counts them
ISAS: tuple[str, ...] = tuple(_fused.isas())
Clip = tuple[float, float]


class NativeNet:
    """The fused kernels of one packed network."""

    name = "native"

    def __init__(self, packed: Packed, isa: str = "") -> None:
        self.packed, self.isa = packed, isa
        self._based: tuple[Tensor, Tensor] | None = None
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

    def base(self, x: Tensor, clip: Clip | None) -> Tensor | None:
        """What a linear first layer answers to the images, (B, N): noise is then added to it.

        None where noise must be added to the images: before a convolution, and with a clip.
        """
        if not self.packed.dense or (clip is not None and self.packed.draws == "pixels"):
            return None
        if self._based is None or self._based[0] is not x:
            self._based = x, self.packed.base(x)
        return self._based[1]

    def logits(
        self,
        x: Tensor,
        rows: Tensor,
        sigma: Tensor,
        samples: Tensor,
        ids: Tensor,
        *,
        seed: int,
        stream: int = 0,
        clip: Clip | None = None,
    ) -> Tensor:
        batch, slots = len(x), len(rows)
        checks.tensor("x", x, torch.float32, (batch, *self.packed.shape), DEVICE)
        checks.slots(slots, DEVICE, rows=rows, sigma=sigma, samples=samples)
        checks.slots(batch, DEVICE, ids=ids)
        base, out = self.base(x, clip), torch.empty(slots, self.packed.n_classes)
        self._forward.logits(
            (rows.data_ptr(), sigma.data_ptr(), samples.data_ptr(), ids.data_ptr()),
            x.data_ptr(),
            0 if base is None else base.data_ptr(),
            out.data_ptr(),
            (slots, batch),
            (seed, stream),
            clip,
            torch.get_num_threads(),
        )
        return out

    def count_errors(
        self,
        x: Tensor,
        labels: Tensor,
        sigma: Tensor,
        ids: Tensor,
        draws: tuple[int, int],
        counts: Tensor,
        *,
        seed: int,
        stream: int = 0,
        clip: Clip | None = None,
    ) -> None:
        batch, grid = len(x), len(sigma)
        checks.tensor("x", x, torch.float32, (batch, *self.packed.shape), DEVICE)
        checks.slots(batch, DEVICE, labels=labels, ids=ids)
        checks.slots(grid, DEVICE, sigma=sigma)
        checks.tensor("counts", counts, torch.int64, (batch, grid), DEVICE)
        base = self.base(x, clip)
        self._forward.count_errors(
            x.data_ptr(),
            0 if base is None else base.data_ptr(),
            ids.data_ptr(),
            labels.data_ptr(),
            sigma.data_ptr(),
            counts.data_ptr(),
            (batch, grid, *draws),
            (seed, stream),
            clip,
            torch.get_num_threads(),
        )

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
