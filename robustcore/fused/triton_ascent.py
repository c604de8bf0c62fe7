"""Gradients and descents of dense networks in Triton. Contracts are in `robustcore.fused`.

A program takes 16 slots through all steps of their descents; points, layers and gradients lie in a
piece of memory that no other program touches, so they stay in the cache. A tile is done when its
last slot is. Products are those of three TF32 parts, lengths are summed in float64.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from robustcore.fused.ascent import Ascent, Ascents, Descent
from robustcore.fused.triton import COLUMNS, REGISTERS, SLOTS, TritonNet, _layer, programs_for
from robustcore.fused.triton_step import _gain, _step
from robustcore.kernels.triton import _launch
from robustcore.kernels.triton_ball import _box

ELEMENTS = 32  # of each slot, at once in a step
WARPS = {"num_warps": 8}
PATIENCE = tl.constexpr(2)  # as robustcore/attack/projected.py has them
LAST = tl.constexpr(0.05)


@triton.jit
def _copy(
    own, rows, slot, inside, elements, OUT: tl.constexpr, SLOTS: tl.constexpr,
    ELEMENTS: tl.constexpr,
):  # fmt: skip
    """Rows of slots to a program's own memory, zeros where there is no slot; or back."""
    at = tl.arange(0, SLOTS)[:, None] * elements
    there = rows + slot[:, None] * elements
    tl.debug_barrier()
    for start in range(0, elements, ELEMENTS):
        e = (start + tl.arange(0, ELEMENTS))[None, :]
        known = inside[:, None] & (e < elements)
        if OUT:
            tl.store(there + e, tl.load(own + at + e, mask=known), mask=known)
        else:
            value = tl.load(there + e, mask=known, other=0.0)
            tl.store(own + at + e, value, mask=e < elements)
    tl.debug_barrier()


@triton.jit(do_not_specialize=["steps"])
def ascent_kernel(
    points, rows, goal, wanted, margins, gains, founds, gradient, x, radii, sizes, ages, usables,
    scratch, w0, w1, w2, w3, b0, b1, b2, b3, v0, v1, v2, v3, n0, n1, n2, classes, slots, elements,
    widest, hidden, memory, tiles, steps, low, high, LOSS: tl.constexpr, TARGETED: tl.constexpr,
    WANTED: tl.constexpr, DESCEND: tl.constexpr, ADAPTS: tl.constexpr, L2: tl.constexpr,
    BOX: tl.constexpr, LAYERS: tl.constexpr, RELU0: tl.constexpr, RELU1: tl.constexpr,
    RELU2: tl.constexpr, SLOTS: tl.constexpr, COLUMNS: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    point = scratch + tl.program_id(0).to(tl.int64) * memory
    slope = point + SLOTS * elements
    one = slope + SLOTS * elements  # layers, then two gradients of layers by turns
    two = one + SLOTS * n0
    three = two + SLOTS * n1
    even = one + SLOTS * hidden
    odd = even + SLOTS * widest
    logits = odd + SLOTS * widest
    lane = tl.arange(0, SLOTS)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        slot = lane.to(tl.int64) + tile * SLOTS
        inside = slot < slots
        row = tl.load(rows + slot, mask=inside, other=0)
        label = tl.load(goal + row)
        want = label
        if WANTED:
            want = tl.load(wanted + slot, mask=inside, other=-1)
        size = tl.zeros((SLOTS,), tl.float32)
        radius = tl.zeros((SLOTS,), tl.float32)
        if DESCEND:
            size = tl.load(sizes + slot, mask=inside, other=0.0)
            radius = tl.load(radii + slot, mask=inside, other=0.0)
        best = tl.full((SLOTS,), float("-inf"), tl.float32)
        since = tl.zeros((SLOTS,), tl.int32)
        age = tl.zeros((SLOTS,), tl.int32)
        stuck = tl.zeros((SLOTS,), tl.int32)
        useful = tl.zeros((SLOTS,), tl.int32)
        live = tl.where(inside, 1, 0)
        _copy(point, points, slot, inside, elements, False, SLOTS, ELEMENTS)
        while tl.max(live, 0) > 0:
            if LAYERS > 1:
                _layer(point, one, w0, b0, b0, elements, n0, SLOTS, COLUMNS, True, RELU0, False)
                if LAYERS > 2:
                    _layer(one, two, w1, b1, b1, n0, n1, SLOTS, COLUMNS, True, RELU1, False)
                    if LAYERS > 3:
                        _layer(two, three, w2, b2, b2, n1, n2, SLOTS, COLUMNS, True, RELU2, False)
                        _layer(
                            three, logits, w3, b3, b3, n2, classes, SLOTS, COLUMNS, True, False,
                            False,
                        )  # fmt: skip
                    else:
                        _layer(
                            two, logits, w2, b2, b2, n1, classes, SLOTS, COLUMNS, True, False,
                            False,
                        )  # fmt: skip
                else:
                    _layer(one, logits, w1, b1, b1, n0, classes, SLOTS, COLUMNS, True, False, False)
            else:
                _layer(
                    point, logits, w0, b0, b0, elements, classes, SLOTS, COLUMNS, True, False, False
                )
            margin, gain, found = _gain(
                logits, even, label, want, classes, LOSS, TARGETED, WANTED, SLOTS, COLUMNS
            )
            done = live > 0
            if DESCEND:
                done = ((margin > 0) == 0) | (stuck > 0) | (age >= steps)
                if ADAPTS:
                    better = gain > best
                    best = tl.where(better, gain, best)
                    since = tl.where(better, 0, since + 1)
                    halve = since >= PATIENCE
                    size = tl.where(halve, size * 0.5, size)
                    since = tl.where(halve, 0, since)
                    done = done | (size < radius * LAST)
            ends = (live > 0) & done
            tl.store(margins + slot, margin, mask=ends)
            tl.store(gains + slot, gain, mask=ends)
            tl.store(founds + slot, found, mask=ends)
            if DESCEND:
                tl.store(ages + slot, age.to(tl.int64), mask=ends)
                tl.store(usables + slot, useful.to(tl.int8), mask=ends)
            live = tl.where(done, 0, live)
            if LAYERS > 3:
                _layer(even, odd, v3, v3, three, classes, n2, SLOTS, COLUMNS, False, False, RELU2)
                _layer(odd, even, v2, v2, two, n2, n1, SLOTS, COLUMNS, False, False, RELU1)
                _layer(even, odd, v1, v1, one, n1, n0, SLOTS, COLUMNS, False, False, RELU0)
                _layer(odd, slope, v0, v0, v0, n0, elements, SLOTS, COLUMNS, False, False, False)
            elif LAYERS > 2:
                _layer(even, odd, v2, v2, two, classes, n1, SLOTS, COLUMNS, False, False, RELU1)
                _layer(odd, even, v1, v1, one, n1, n0, SLOTS, COLUMNS, False, False, RELU0)
                _layer(even, slope, v0, v0, v0, n0, elements, SLOTS, COLUMNS, False, False, False)
            elif LAYERS > 1:
                _layer(even, odd, v1, v1, one, classes, n0, SLOTS, COLUMNS, False, False, RELU0)
                _layer(odd, slope, v0, v0, v0, n0, elements, SLOTS, COLUMNS, False, False, False)
            else:
                _layer(
                    even, slope, v0, v0, v0, classes, elements, SLOTS, COLUMNS, False, False, False
                )
            if DESCEND:
                usable = _step(
                    point, slope, x, row, live, size, radius, elements, low, high, L2, BOX, SLOTS,
                    ELEMENTS,
                )  # fmt: skip
                moves = tl.where(usable, live, 0)
                age += live
                stuck = live - moves
                useful = tl.maximum(useful, moves)
        if DESCEND:
            _copy(point, points, slot, inside, elements, True, SLOTS, ELEMENTS)
        else:
            _copy(slope, gradient, slot, inside, elements, True, SLOTS, ELEMENTS)


class TritonAscents(TritonNet, Ascents):
    """A dense network with its gradients and descents."""

    def _differentiate(self, ascent: Ascent, gradient: Tensor) -> None:
        self._start(ascent, gradient, None)

    def _descend(self, ascent: Ascent, descent: Descent) -> None:
        self._start(ascent, ascent.points, descent)

    def _start(self, a: Ascent, gradient: Tensor, d: Descent | None) -> None:
        layers, slots, elements = self.packed.layers, len(a.rows), self.packed.elements
        fill = 4 - len(layers)
        weights, wide = ([*each, *each[:1] * fill] for each in self.both(a.channels_last))
        biases = [*self.biases, *self.biases[:1] * fill]
        widths = [len(layer.bias) for layer in layers[:-1]]
        relu = [layer.relu for layer in layers[:-1]] + [False] * 3
        classes, widest = self.packed.n_classes, max(len(layer.bias) for layer in layers)
        memory = SLOTS * (2 * elements + sum(widths) + 2 * widest + classes)
        tiles = triton.cdiv(slots, SLOTS)
        programs = programs_for(tiles, memory)
        scratch = torch.empty(programs * memory, dtype=torch.float32, device=gradient.device)
        none = a.margin
        ball = (none,) * 5 if d is None else (d.x, d.radius, d.size, d.age, d.usable)
        box = None if d is None else d.box
        _launch(
            ascent_kernel, programs, gradient.device, a.points, a.rows, a.goal,
            a.rows if a.wanted is None else a.wanted, a.margin, a.gain, a.found, gradient, *ball,
            scratch, *weights, *biases, *wide, *(widths + [0] * 3)[:3], classes, slots, elements,
            widest, sum(widths), memory, tiles, 0 if d is None else d.steps, *_box(box),
            LOSS=a.loss, TARGETED=a.targeted, WANTED=a.wanted is not None, DESCEND=d is not None,
            ADAPTS=d is not None and d.adapts, L2=d is not None and d.l2, BOX=box is not None,
            LAYERS=len(layers), RELU0=relu[0], RELU1=relu[1], RELU2=relu[2], SLOTS=SLOTS,
            COLUMNS=COLUMNS, ELEMENTS=ELEMENTS, **REGISTERS, **WARPS,
        )  # fmt: skip
