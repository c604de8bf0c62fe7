"""Noisy images and their first convolution in Triton. Contracts are in `robustcore.fused`.

Triton has no shared memory that is written at computed places, and to make the noise of each input
again at every position would cost as many normals as the convolution has multiply-adds for one
channel. So a program keeps its noisy image in a piece of memory that no other program touches,
small enough to stay in the cache. Products are those of three TF32 parts: float32 up to a few
units of rounding; the noise has the bits of `perturb`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from robustcore.fused.body import Call
from robustcore.fused.convolved import CHANNELS, POSITIONS, ConvolvedNet
from robustcore.fused.triton import PRECISION, REGISTERS, programs_for
from robustcore.kernels import triton as kernels
from robustcore.kernels.triton import _launch, _normals, _philox, _signed

COUNTERS, COLUMNS, UNITS, TAPS = 256, 64, 16, 16  # of a program, at once


@triton.jit
def _place(
    x, image, place, z, e, elements, scale, low, high, CLIP: tl.constexpr,
):  # fmt: skip
    """The noisy elements e, where the convolution looks for them."""
    mask = e < elements
    value = tl.load(x + e, mask=mask) + scale * z
    if CLIP:
        value = tl.where(value < low, low, value)
        value = tl.where(value > high, high, value)
    tl.store(image + tl.load(place + e, mask=mask), value, mask=mask)


@triton.jit
def _answers(
    image, tap, start, weight, bias, column, channel, taps, columns, channels, RELU: tl.constexpr,
    TAPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """(columns, channels): the answers at one position of each column."""
    at = tl.load(start + column, mask=column < columns, other=0)[:, None]
    acc = tl.zeros((column.shape[0], channel.shape[0]), tl.float32)
    acc += tl.load(bias + channel, mask=channel < channels, other=0.0)[None, :]
    rows = weight + channel // BLOCK * taps * BLOCK + channel % BLOCK
    for first in range(0, taps, TAPS):
        t = first + tl.arange(0, TAPS)
        inside = t < taps
        offset = tl.load(tap + t, mask=inside, other=0)
        x = tl.load(image + at + offset[None, :], mask=inside[None, :], other=0.0)
        known = inside[:, None] & (channel < channels)[None, :]
        w = tl.load(rows[None, :] + t[:, None] * BLOCK, mask=known, other=0.0)
        acc = tl.dot(x, w, acc, input_precision=PRECISION)
    if RELU:
        acc = tl.where(acc < 0.0, 0.0, acc)
    return acc


@triton.jit(do_not_specialize=["k0", "k1", "stream"])
def convolution_kernel(
    x, rows, sigma, samples, ids, out, scratch, place, tap, start, weight, bias, slots, elements,
    units, taps, columns, channels, answers, k0, k1, stream, low, high, CLIP: tl.constexpr,
    RELU: tl.constexpr, MAXIMUM: tl.constexpr, COUNTERS: tl.constexpr, COLUMNS: tl.constexpr,
    UNITS: tl.constexpr, TAPS: tl.constexpr, BLOCK: tl.constexpr, POSITIONS: tl.constexpr,
):  # fmt: skip
    image = scratch + tl.program_id(0).to(tl.int64) * units
    key0, key1 = k0.to(tl.uint32), k1.to(tl.uint32)
    for slot in range(tl.program_id(0), slots, tl.num_programs(0)):
        row = tl.load(rows + slot)
        scale = tl.load(sigma + slot)
        clean = x + row * elements
        tl.debug_barrier()  # all have read the last image
        for first in range(0, (elements + 63) // 64 * 16, COUNTERS):
            n = first + tl.arange(0, COUNTERS)
            none = tl.zeros((COUNTERS,), tl.uint32)
            w0, w1, w2, w3 = _philox(
                n.to(tl.uint32), none + tl.load(samples + slot).to(tl.uint32),
                none + tl.load(ids + row).to(tl.uint32), none + stream.to(tl.uint32), key0, key1,
            )  # fmt: skip
            z0, z1 = _normals(w0, w1)
            z2, z3 = _normals(w2, w3)
            e = n // 16 * 64 + n % 16
            _place(clean, image, place, z0, e, elements, scale, low, high, CLIP)
            _place(clean, image, place, z1, e + 16, elements, scale, low, high, CLIP)
            _place(clean, image, place, z2, e + 32, elements, scale, low, high, CLIP)
            _place(clean, image, place, z3, e + 48, elements, scale, low, high, CLIP)
        tl.debug_barrier()  # what other threads wrote
        own = out + tl.cast(slot, tl.int64) * channels * answers
        for group in range(0, channels, UNITS):
            channel = group + tl.arange(0, UNITS)
            for piece in range(0, columns, COLUMNS):
                column = piece + tl.arange(0, COLUMNS)
                most = tl.zeros((COLUMNS, UNITS), tl.float32)
                for p in range(0, POSITIONS):
                    value = _answers(
                        image, tap, start + p * columns, weight, bias, column, channel, taps,
                        columns, channels, RELU, TAPS, BLOCK,
                    )  # fmt: skip
                    if MAXIMUM:
                        larger = (p == 0) | (value > most) | (value != value)
                        most = tl.where(larger, value, most)
                    else:
                        at = (p * columns + column)[:, None]
                        known = (column < columns)[:, None] & (at < answers)
                        known = known & (channel < channels)[None, :]
                        tl.store(own + channel[None, :] * answers + at, value, mask=known)
                if MAXIMUM:
                    known = (column < columns)[:, None] & (channel < channels)[None, :]
                    at = own + channel[None, :] * answers + column[:, None]
                    tl.store(at, most, mask=known)


class TritonConvolvedNet(ConvolvedNet):
    """The fused kernels of one packed convolutional network, on one device."""

    name = "triton"

    def _count(self, logits: Tensor, labels: Tensor, rows: Tensor, counts: Tensor) -> None:
        kernels.count_errors(logits, labels, rows, counts)

    def _convolve(
        self, call: Call, rows: Tensor, sigma: Tensor, samples: Tensor, out: Tensor
    ) -> None:
        programs, (seed, stream) = programs_for(len(rows), self.units), call.names
        if self.fill is None:
            scratch = torch.empty(programs * self.units, dtype=torch.float32, device=out.device)
        else:
            scratch = self.fill.repeat(programs)
        low, high = (0.0, 0.0) if call.clip is None else call.clip
        _launch(
            convolution_kernel, programs, out.device, call.x, rows, sigma, samples, call.ids, out,
            scratch, self.place, self.tap, self.start, self.weight, self.bias, len(rows),
            call.x[0].numel(), self.units, self.taps, self.columns, self.shape[0],
            self.shape[1] * self.shape[2], _signed(seed), _signed(seed >> 32), _signed(stream),
            float(low), float(high), CLIP=call.clip is not None, RELU=self.relu,
            MAXIMUM=self.maximum, COUNTERS=COUNTERS, COLUMNS=COLUMNS, UNITS=UNITS, TAPS=TAPS,
            BLOCK=CHANNELS, POSITIONS=POSITIONS, **REGISTERS,
        )  # fmt: skip
