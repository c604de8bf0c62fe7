"""Dense networks fused with their noise in Triton. Contracts are in `robustcore.fused`.

A program takes 16 slots. Before a first layer of up to 32 units noise stays in registers, as the
left operand of `tl.dot`; before a wider one, and between layers, numbers pass through a piece of
memory that no other program touches, so they stay in the cache. Products are those of three TF32
parts: float32 up to a few units of rounding.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from robustcore.fused.body import Call
from robustcore.fused.dense import DenseNet
from robustcore.kernels.triton import _launch, _normals, _philox, _signed

SLOTS, COLUMNS = 16, 32
PRECISION = tl.constexpr("tf32x3")  # three products of 10 bits each: float32, to a few units
# With fewer registers, or loads ahead of their use, the assembler would rather spill a little than
# run fewer programs at a time.
REGISTERS = {"maxnreg": 255, "num_stages": 1}
PROGRAMS, FLOATS = 1024, 2**28  # at once: each has memory for its layers; of all of them together


@triton.jit
def _product(acc, z, weight, e, column, elements, width):
    """acc + z W for the rows e of W."""
    inside = (e < elements)[:, None] & (column < width)[None, :]
    w = tl.load(weight + e[:, None] * width + column[None, :], mask=inside, other=0.0)
    return tl.dot(tl.where((e < elements)[None, :], z, 0.0), w, acc, input_precision=PRECISION)


@triton.jit
def _group(group, sample, image, stream, k0, k1, SLOTS: tl.constexpr):
    """Normals of sixteen counters of each slot's draw: elements 64 group + 16 i + (0 to 15)."""
    none = tl.zeros((SLOTS, 16), tl.uint32)
    block = (16 * group + tl.arange(0, 16)).to(tl.uint32)
    w0, w1, w2, w3 = _philox(
        none + block[None, :], none + sample[:, None], none + image[:, None], none + stream, k0, k1
    )
    z0, z1 = _normals(w0, w1)
    z2, z3 = _normals(w2, w3)
    return z0, z1, z2, z3


@triton.jit
def _narrow(
    sums, weight, elements, width, sample, image, stream, k0, k1, SLOTS: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    """sums = z W for at most COLUMNS units; the draws z stay in registers."""
    slot, column = tl.arange(0, SLOTS), tl.arange(0, COLUMNS)
    acc = tl.zeros((SLOTS, COLUMNS), tl.float32)
    for group in range(0, (elements + 63) // 64):
        z0, z1, z2, z3 = _group(group, sample, image, stream, k0, k1, SLOTS)
        e = 64 * group + tl.arange(0, 16)
        acc = _product(acc, z0, weight, e, column, elements, width)
        acc = _product(acc, z1, weight, e + 16, column, elements, width)
        acc = _product(acc, z2, weight, e + 32, column, elements, width)
        acc = _product(acc, z3, weight, e + 48, column, elements, width)
    tl.store(sums + slot[:, None] * width + column[None, :], acc, mask=(column < width)[None, :])


@triton.jit
def _make(noise, elements, sample, image, stream, k0, k1, SLOTS: tl.constexpr):
    """noise (SLOTS, elements) = the slots' draws."""
    own = noise + tl.arange(0, SLOTS)[:, None] * elements
    for group in range(0, (elements + 63) // 64):
        z0, z1, z2, z3 = _group(group, sample, image, stream, k0, k1, SLOTS)
        e = (64 * group + tl.arange(0, 16))[None, :]
        tl.store(own + e, z0, mask=e < elements)
        tl.store(own + e + 16, z1, mask=e + 16 < elements)
        tl.store(own + e + 32, z2, mask=e + 32 < elements)
        tl.store(own + e + 48, z3, mask=e + 48 < elements)


@triton.jit
def _layer(
    before, after, weight, bias, mask, inputs, width, SLOTS: tl.constexpr, COLUMNS: tl.constexpr,
    BIAS: tl.constexpr, RELU: tl.constexpr, MASK: tl.constexpr,
):  # fmt: skip
    """after (SLOTS, width) = act(before (SLOTS, inputs) W + bias), some columns at a time.

    MASK: only where mask (SLOTS, width) is positive.
    """
    slot = tl.arange(0, SLOTS)[:, None]
    tl.debug_barrier()  # what other threads wrote
    for start in range(0, width, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        acc = tl.zeros((SLOTS, COLUMNS), tl.float32)
        if BIAS:
            acc += tl.load(bias + column, mask=column < width, other=0.0)[None, :]
        for k in range(0, inputs, 16):
            unit = k + tl.arange(0, 16)
            x = tl.load(before + slot * inputs + unit[None, :], mask=(unit < inputs)[None, :])
            acc = _product(acc, x, weight, unit, column, inputs, width)
        if RELU:
            acc = tl.where(acc < 0.0, 0.0, acc)
        if MASK:
            by = mask + slot * width + column[None, :]
            known = (column < width)[None, :]
            acc = tl.where(tl.load(by, mask=known, other=0.0) > 0.0, acc, 0.0)
        tl.store(after + slot * width + column[None, :], acc, mask=(column < width)[None, :])
    tl.debug_barrier()


@triton.jit
def _scale(
    after, base, sums, scale, row, width, SLOTS: tl.constexpr, COLUMNS: tl.constexpr,
    RELU: tl.constexpr,
):  # fmt: skip
    """after = act(base + scale * sums): the first layer's answers."""
    slot = tl.arange(0, SLOTS)[:, None]
    tl.debug_barrier()
    for start in range(0, width, COLUMNS):
        column = (start + tl.arange(0, COLUMNS))[None, :]
        inside = column < width
        value = tl.load(base + row[:, None] * width + column, mask=inside)
        value += scale[:, None] * tl.load(sums + slot * width + column, mask=inside)
        if RELU:
            value = tl.where(value < 0.0, 0.0, value)
        tl.store(after + slot * width + column, value, mask=inside)
    tl.debug_barrier()


@triton.jit
def _right(logits, label, classes, SLOTS: tl.constexpr, COLUMNS: tl.constexpr):
    """Whether the label's logit is above all others; a NaN is above any number."""
    own = logits + tl.arange(0, SLOTS) * classes
    most = tl.full((SLOTS,), float("-inf"), tl.float32)
    for start in range(0, classes, COLUMNS):
        column = (start + tl.arange(0, COLUMNS))[None, :]
        other = (column < classes) & (column != label[:, None])
        value = tl.load(own[:, None] + column, mask=column < classes, other=0.0)
        value = tl.where(value != value, float("inf"), value)
        most = tl.maximum(most, tl.max(tl.where(other, value, float("-inf")), 1))
    return tl.load(own + label) > most


@triton.jit(do_not_specialize=["k0", "k1", "stream", "first"])
def dense_kernel(
    base, rows, samples, ids, sigma, labels, out, scratch, w0, w1, w2, w3, b1, b2, b3, n0, n1, n2,
    n3, classes, slots, elements, grid, first, draws, k0, k1, stream, tiles, memory, widest,
    TABLE: tl.constexpr, LAYERS: tl.constexpr, RELU0: tl.constexpr, RELU1: tl.constexpr,
    RELU2: tl.constexpr, NARROW: tl.constexpr, SLOTS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    sums = scratch + tl.program_id(0).to(tl.int64) * memory
    one = sums + SLOTS * n0
    two = one + SLOTS * widest
    noise = two + SLOTS * widest
    key0, key1, name = k0.to(tl.uint32), k1.to(tl.uint32), stream.to(tl.uint32)
    lane = tl.arange(0, SLOTS)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        slot = lane.to(tl.int64) + tile * SLOTS
        inside = slot < slots
        if TABLE:
            row = tl.load(rows + slot, mask=inside, other=0)
            sample = tl.load(samples + slot, mask=inside, other=0).to(tl.uint32)
        else:
            row = tl.where(inside, slot // draws, 0)
            sample = (slot % draws + first).to(tl.uint32)
        image = tl.load(ids + row).to(tl.uint32)
        if NARROW:
            _narrow(sums, w0, elements, n0, sample, image, name, key0, key1, SLOTS, COLUMNS)
        else:
            _make(noise, elements, sample, image, name, key0, key1, SLOTS)
            _layer(noise, sums, w0, w0, w0, elements, n0, SLOTS, COLUMNS, False, False, False)
        for g in range(0, grid):
            if TABLE:
                scale = tl.load(sigma + slot, mask=inside, other=0.0)
            else:
                scale = tl.zeros((SLOTS,), tl.float32) + tl.load(sigma + g)
            _scale(one, base, sums, scale, row, n0, SLOTS, COLUMNS, RELU0)
            logits = one
            if LAYERS > 1:
                _layer(one, two, w1, b1, b1, n0, n1, SLOTS, COLUMNS, True, RELU1, False)
                logits = two
            if LAYERS > 2:
                _layer(two, one, w2, b2, b2, n1, n2, SLOTS, COLUMNS, True, RELU2, False)
                logits = one
            if LAYERS > 3:
                _layer(one, two, w3, b3, b3, n2, n3, SLOTS, COLUMNS, True, False, False)
                logits = two
            if TABLE:
                for start in range(0, classes, COLUMNS):
                    column = (start + tl.arange(0, COLUMNS))[None, :]
                    known = inside[:, None] & (column < classes)
                    value = tl.load(logits + lane[:, None] * classes + column, mask=known)
                    tl.store(out + slot[:, None] * classes + column, value, mask=known)
            else:
                right = _right(logits, tl.load(labels + row), classes, SLOTS, COLUMNS)
                error = tl.where(right, 0, 1).to(tl.int64)
                tl.atomic_add(out + row * grid + g, error, mask=inside & (error == 1))


def programs_for(tiles: int, memory: int) -> int:
    """How many take the tiles, each with so many floats of memory."""
    return min(tiles, PROGRAMS, max(1, FLOATS // memory))


class TritonNet(DenseNet):
    """The fused kernels of one packed dense network, on one device."""

    name, language = "triton", "Triton"

    def _launch(self, call: Call) -> None:
        layers, unused, base = self.packed.layers, call.ids, self.base(call.x, call.clip)
        widths = [len(layer.bias) for layer in layers]
        fill = 4 - len(layers)
        weights = self.weights + self.weights[:1] * fill
        biases = self.biases + self.biases[:1] * fill
        relu = [layer.relu for layer in layers] + [False] * fill
        elements, narrow = len(weights[0]), widths[0] <= COLUMNS
        tiles = triton.cdiv(call.slots, SLOTS)
        memory = SLOTS * (widths[0] + 2 * max(widths) + (0 if narrow else elements))
        programs = programs_for(tiles, memory)
        scratch = torch.empty(programs * memory, dtype=torch.float32, device=call.out.device)
        table = call.rows is not None
        rows, samples, labels = (
            unused if each is None else each for each in (call.rows, call.samples, call.labels)
        )
        seed, stream = call.names
        _launch(
            dense_kernel, programs, call.out.device, base, rows, samples, call.ids,
            call.sigma, labels, call.out, scratch, *weights, *biases[1:], *(widths + [1] * fill),
            widths[-1], call.slots, elements, 1 if table else len(call.sigma), call.draws[0],
            max(1, call.draws[1]), _signed(seed), _signed(seed >> 32), _signed(stream), tiles,
            memory, max(widths), TABLE=table, LAYERS=len(layers), RELU0=relu[0], RELU1=relu[1],
            RELU2=relu[2], NARROW=narrow, SLOTS=SLOTS, COLUMNS=COLUMNS, **REGISTERS,
        )  # fmt: skip
