"""The kernels of the corruptions in Triton, on CUDA (on CPU in Triton's interpreter).

Contracts are in `kernels.py`. Matrix products and copies are not here: torch's serve.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from robustcore.corruptions.kernels import Draw
from robustcore.kernels.triton import _budget, _launch, _philox, _signed


@triton.jit
def _words(block, sample, image, stream, k0, k1):
    none = block & 0
    return _philox(
        block,
        none + sample,
        none + image,
        none + stream.to(tl.uint32),
        k0.to(tl.uint32),
        k1.to(tl.uint32),
    )


@triton.jit(do_not_specialize=["sample", "stream", "k0", "k1"])
def uniforms_kernel(ids, out, tiles, elements, sample, stream, k0, k1, BLOCK: tl.constexpr):
    """One program makes BLOCK counters, hence 4 BLOCK elements, of one image."""
    row = tl.program_id(0) // tiles
    n = (tl.program_id(0) % tiles) * BLOCK + tl.arange(0, BLOCK)
    image = tl.load(ids + row).to(tl.uint32)
    out += row.to(tl.int64) * elements
    w0, w1, w2, w3 = _words(n.to(tl.uint32), sample.to(tl.uint32), image, stream, k0, k1)
    e = n * 4
    tl.store(out + e, _uniform(w0), mask=e < elements)
    tl.store(out + e + 1, _uniform(w1), mask=e + 1 < elements)
    tl.store(out + e + 2, _uniform(w2), mask=e + 2 < elements)
    tl.store(out + e + 3, _uniform(w3), mask=e + 3 < elements)


@triton.jit
def _uniform(word):
    return ((word >> 9).to(tl.float32) + 0.5) * 1.1920928955078125e-07


@triton.jit
def _fraction(word):
    return (word.to(tl.float64) + 0.5) * 2.3283064365386963e-10


@triton.jit
def _log_factorial(k):
    """ln k! for whole k >= 0 in float64, from Stirling's series for ln (k + 8)!."""
    product = k + 1
    for i in tl.static_range(2, 9):
        product = product * (k + i)
    z = k + 9
    r = 1 / (z * z)
    series = (((r * -5.952380952380953e-04 + 7.936507936507937e-04) * r - 2.777777777777778e-03) * r
              + 8.333333333333333e-02) / z  # fmt: skip
    return (z - 0.5) * tl.log(z) - z + 0.9189385332046727 + series - tl.log(product)


@triton.jit
def _attempt(mean, log_mean, a, b, inverse_alpha, squeeze, first, second):
    """One attempt of PTRS: counts, and which of them are accepted."""
    u = first - 0.5
    us = 0.5 - tl.abs(u)
    k = tl.floor((2 * a / us + b) * u + mean + 0.43)
    at_once = (us >= 0.07) & (second <= squeeze)
    never = (k < 0) | ((us < 0.013) & (second > us))
    score = tl.log(second * inverse_alpha / (a / (us * us) + b))
    limit = k * log_mean - mean - _log_factorial(tl.maximum(k, 0.0))
    return k, at_once | ((never == 0) & (score <= limit))


@triton.jit(do_not_specialize=["sample", "stream", "k0", "k1"])
def poisson_kernel(
    means, ids, out, tiles, elements, sample, stream, k0, k1, BLOCK: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0) // tiles
    e = (tl.program_id(0) % tiles) * BLOCK + tl.arange(0, BLOCK)
    inside = e < elements
    image = tl.load(ids + row).to(tl.uint32)
    base = row.to(tl.int64) * elements
    mean = tl.load(means + base + e, mask=inside, other=0.0).to(tl.float64)
    block, first_sample = e.to(tl.uint32), sample.to(tl.uint32)

    w0, w1, w2, w3 = _words(block, first_sample, image, stream, k0, k1)
    u = _fraction(w0)
    p = tl.exp(-mean)
    count = mean * 0
    more = inside & (mean < 10) & (u > p)
    k = 0
    while (tl.max(more.to(tl.int32), 0) > 0) & (k < 100):
        k += 1
        count = tl.where(more, count + 1, count)
        u = u - p
        p = p * (mean / k)
        more = more & (u > p)

    law = tl.maximum(mean, 10.0)
    b = 0.931 + 2.53 * tl.sqrt(law)
    a = -0.059 + 0.02483 * b
    inverse_alpha = 1.1239 + 1.1328 / (b - 3.4)
    squeeze = 0.9277 - 3.6224 / (b - 2)
    log_mean = tl.log(law)
    left = inside & (mean >= 10)
    at = first_sample
    while tl.max(left.to(tl.int32), 0) > 0:
        w0, w1, w2, w3 = _words(block, at, image, stream, k0, k1)
        found, good = _attempt(
            law, log_mean, a, b, inverse_alpha, squeeze, _fraction(w0), _fraction(w1)
        )
        count = tl.where(left & good, found, count)
        left = left & (good == 0)
        found, good = _attempt(
            law, log_mean, a, b, inverse_alpha, squeeze, _fraction(w2), _fraction(w3)
        )
        count = tl.where(left & good, found, count)
        left = left & (good == 0)
        at = at + 256
    tl.store(out + base + e, count.to(tl.float32), mask=inside)


@triton.jit(do_not_specialize=["sample", "stream", "k0", "k1"])
def shuffle_order_kernel(
    ids, order, tiles, height, width, reach, passes, sample, stream, k0, k1, BLOCK: tl.constexpr
):  # fmt: skip
    """Each pixel is traced back alone: from its last copy to that one's source before, and so on.

    Copies are numbered in the order of the shuffle, `sites` of them in a pass. The value at (y, x)
    before copy `time` was put there by the last copy to it of a lower number, if any.
    """
    row = tl.program_id(0) // tiles
    pixel = (tl.program_id(0) % tiles) * BLOCK + tl.arange(0, BLOCK)
    image = tl.load(ids + row).to(tl.uint32)
    y, x = pixel // width, pixel % width
    down, across = height - 2 * reach, width - 2 * reach
    sites = down * across
    time = (pixel & 0) + sites * passes
    left = pixel < height * width
    while tl.max(left.to(tl.int32), 0) > 0:
        i, j = height - reach - y, width - reach - x
        site = i * across + j
        left = left & (i >= 0) & (i < down) & (j >= 0) & (j < across) & (time > site)
        last = site + tl.maximum(time - 1 - site, 0) // sites * sites
        block = tl.where(left, last // 4, 0).to(tl.uint32)
        w0, w1, w2, w3 = _words(block, sample.to(tl.uint32), image, stream, k0, k1)
        word = tl.where(last % 2 == 0, tl.where(last % 4 == 0, w0, w2),
                        tl.where(last % 4 == 1, w1, w3))  # fmt: skip
        dx = (((word & 0xFFFF).to(tl.int32) * 2 * reach) >> 16) - reach
        dy = (((word >> 16).to(tl.int32) * 2 * reach) >> 16) - reach
        y = tl.where(left, y + dy, y)
        x = tl.where(left, x + dx, x)
        time = tl.where(left, last, time)
    base = row.to(tl.int64) * (height * width)
    tl.store(order + base + pixel, (y * width + x).to(tl.int64), mask=pixel < height * width)


@triton.jit
def _inside(i, n, MIRROR: tl.constexpr):
    if MIRROR:
        period = 2 * n - 2
        i = i % period  # has the sign of i
        i = tl.where(i < 0, i + period, i)
        i = tl.where(i < n, i, period - i)
    else:
        i = tl.minimum(tl.maximum(i, 0), n - 1)
    return i


@triton.jit
def taps_kernel(
    x, dy, dx, weight, out, tiles, channels, height, width, taps, MIRROR: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """One program makes BLOCK pixels of one plane, its terms added one after another."""
    plane = tl.program_id(0) // tiles
    pixel = (tl.program_id(0) % tiles) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < height * width
    first = (plane // channels).to(tl.int64) * taps
    base = plane.to(tl.int64) * (height * width)
    row, column = pixel // width, pixel % width
    total = tl.zeros((BLOCK,), tl.float32)
    for t in range(taps):
        v = _inside(row + tl.load(dy + first + t).to(tl.int32), height, MIRROR)
        u = _inside(column + tl.load(dx + first + t).to(tl.int32), width, MIRROR)
        value = tl.load(x + base + v * width + u, mask=inside, other=0.0)
        total += value * tl.load(weight + first + t)
    tl.store(out + base + pixel, total, mask=inside)


def _key(draw: Draw) -> tuple[int, int, int, int]:
    return draw.sample, _signed(draw.stream), _signed(draw.seed), _signed(draw.seed >> 32)


def _block(n: int, device: torch.device, each: int) -> tuple[int, int]:
    """(items of a program, programs for n of them), `each` numbers an item."""
    block = min(triton.next_power_of_2(n), _budget(device) // each)
    return block, triton.cdiv(n, block)


def uniforms(ids: Tensor, n: int, draw: Draw) -> Tensor:
    out = torch.empty(len(ids), n, dtype=torch.float32, device=ids.device)
    block, tiles = _block(triton.cdiv(n, 4), ids.device, 4)
    _launch(
        uniforms_kernel, len(ids) * tiles, ids.device, ids.contiguous(), out, tiles, n, *_key(draw),
        BLOCK=block,
    )  # fmt: skip
    return out


def poisson(mean: Tensor, ids: Tensor, draw: Draw) -> Tensor:
    mean, out = mean.contiguous(), torch.empty_like(mean, memory_format=torch.contiguous_format)
    block, tiles = _block(mean.shape[1], ids.device, 4)
    _launch(
        poisson_kernel, len(ids) * tiles, ids.device, mean, ids.contiguous(), out, tiles,
        mean.shape[1], *_key(draw), BLOCK=block,
    )  # fmt: skip
    return out


def shuffle_order(
    ids: Tensor, size: tuple[int, int], reach: int, passes: int, draw: Draw
) -> Tensor:
    out = torch.empty(len(ids), size[0] * size[1], dtype=torch.int64, device=ids.device)
    block, tiles = _block(size[0] * size[1], ids.device, 4)
    _launch(
        shuffle_order_kernel, len(ids) * tiles, ids.device, ids.contiguous(), out, tiles, *size,
        reach, passes, *_key(draw), BLOCK=block,
    )  # fmt: skip
    return out


def taps(x: Tensor, dy: Tensor, dx: Tensor, weight: Tensor, border: str) -> Tensor:
    batch, channels, height, width = x.shape
    x, out = x.contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format)
    block, tiles = _block(height * width, x.device, 2)
    _launch(
        taps_kernel, batch * channels * tiles, x.device, x, dy.contiguous(), dx.contiguous(),
        weight.contiguous(), out, tiles, channels, height, width, dy.shape[1],
        MIRROR=border == "mirror", BLOCK=block,
    )  # fmt: skip
    return out
