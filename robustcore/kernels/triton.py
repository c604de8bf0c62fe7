"""The kernels in Triton, on CUDA (on CPU in Triton's interpreter). Contracts: `robustcore.kernels`.

Same bits as the reference: launched with enable_fp_fusion=False, so that no multiply and add are
contracted, with tl.sqrt_rn, and with none of Triton's own log, sin, cos or randn.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _philox(c0, c1, c2, c3, k0, k1):
    """Philox4x32-10 on uint32 words."""
    for _ in tl.static_range(10):
        hi0 = tl.umulhi(c0, 0xD2511F53)
        lo0 = c0 * 0xD2511F53
        hi1 = tl.umulhi(c2, 0xCD9E8D57)
        lo1 = c2 * 0xCD9E8D57
        c0 = hi1 ^ c1 ^ k0
        c1 = lo1
        c2 = hi0 ^ c3 ^ k1
        c3 = lo0
        k0 = k0 + 0x9E3779B9
        k1 = k1 + 0xBB67AE85
    return c0, c1, c2, c3


@triton.jit
def _minus_twice_log(v):
    """-2 ln(v * 2^-32) for v in [1/2, 2^32]; exactly 0 where v is 2^32, never below."""
    # v = m * 2^e with m in [sqrt(1/2), sqrt(2)); then -ln(v * 2^-32) = (32 - e) ln 2 - ln m.
    shifted = v.to(tl.int32, bitcast=True) + (0x3F800000 - 0x3F3504F3)
    n = (127 + 32 - (shifted >> 23)).to(tl.float32)
    f = ((shifted & 0x007FFFFF) + 0x3F3504F3).to(tl.float32, bitcast=True) - 1.0
    log = f * -0.17444713 + 0.2873369
    log = log * f + -0.29904532
    log = log * f + 0.33124787
    log = log * f + -0.39913666
    log = log * f + 0.5000415
    log = log * f + -0.66668373
    log = log * f + 0.99999976
    log = log * f + -2.0
    log = log * f  # -2 ln m
    return n * 1.3862944 + log


@triton.jit
def _radius(word):
    """sqrt(-2 ln u) for u = (word + 0.5) * 2^-32; exactly 0 where u rounds to 1, never NaN."""
    return tl.sqrt_rn(_minus_twice_log(word.to(tl.float32) + 0.5))


@triton.jit
def _normals(radius_word, angle_word):
    # The angle is q + h quarter turns: q the top two bits, |h| < 1/2 the next 24, exact.
    fraction = (angle_word << 2).to(tl.int32, bitcast=True) >> 8
    h = (fraction.to(tl.float32) + 0.5) * 5.9604644775390625e-08
    h2 = h * h
    sin = h2 * -0.0046016593 + 0.07968003
    sin = sin * h2 + -0.6459635
    sin = sin * h2 + 1.5707964
    sin = sin * h
    cos = h2 * -0.020417282 + 0.25360322
    cos = cos * h2 + -1.2336977
    cos = cos * h2 + 1.0
    doubled = angle_word << 1
    odd = doubled.to(tl.int32, bitcast=True) < 0
    flip_cos = (angle_word ^ doubled) & 0x80000000
    flip_sin = angle_word & 0x80000000
    swapped_cos = tl.where(odd, sin, cos).to(tl.uint32, bitcast=True) ^ flip_cos
    swapped_sin = tl.where(odd, cos, sin).to(tl.uint32, bitcast=True) ^ flip_sin
    radius = _radius(radius_word)
    z0 = radius * swapped_cos.to(tl.float32, bitcast=True)
    z1 = radius * swapped_sin.to(tl.float32, bitcast=True)
    return z0, z1


@triton.jit
def _signed_uniform(word):
    """Strictly between -1 and 1: the word's top 24 bits, exactly."""
    return ((word.to(tl.int32, bitcast=True) >> 8).to(tl.float32) + 0.5) * 1.1920928955078125e-07


@triton.jit
def _with_lowest_bit(size, word):
    """A size that is not negative, with the word's lowest bit as its sign."""
    return (size.to(tl.uint32, bitcast=True) | (word << 31)).to(tl.float32, bitcast=True)


@triton.jit
def _laplace(word):
    """-ln v for v = (word with its lowest bit set) * 2^-32; 0 where v rounds to 1."""
    return _with_lowest_bit(_minus_twice_log((word | 1).to(tl.float32)) * 0.5, word)


@triton.jit
def _salt_and_pepper(word):
    """The scale at which an element is replaced, exactly; negative where by the upper level."""
    return _with_lowest_bit((word >> 8).to(tl.float32) * 5.9604644775390625e-08, word)


@triton.jit
def _numbers(first, second, LAW: tl.constexpr):
    """Two of a counter's words to two numbers of the law."""
    if LAW == "uniform":
        z0, z1 = _signed_uniform(first), _signed_uniform(second)
    elif LAW == "laplace":
        z0, z1 = _laplace(first), _laplace(second)
    elif LAW == "salt_and_pepper":
        z0, z1 = _salt_and_pepper(first), _salt_and_pepper(second)
    else:
        z0, z1 = _normals(first, second)
    return z0, z1


@triton.jit(do_not_specialize=["k0", "k1"])
def philox_kernel(counter, words, n, k0, k1, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < n
    c0 = tl.load(counter + 4 * i, mask=mask).to(tl.uint32)
    c1 = tl.load(counter + 4 * i + 1, mask=mask).to(tl.uint32)
    c2 = tl.load(counter + 4 * i + 2, mask=mask).to(tl.uint32)
    c3 = tl.load(counter + 4 * i + 3, mask=mask).to(tl.uint32)
    w0, w1, w2, w3 = _philox(c0, c1, c2, c3, k0.to(tl.uint32), k1.to(tl.uint32))
    tl.store(words + 4 * i, w0.to(tl.int64), mask=mask)
    tl.store(words + 4 * i + 1, w1.to(tl.int64), mask=mask)
    tl.store(words + 4 * i + 2, w2.to(tl.int64), mask=mask)
    tl.store(words + 4 * i + 3, w3.to(tl.int64), mask=mask)


@triton.jit
def _noisy(x, scale, z, pepper, salt, LAW: tl.constexpr):
    """Elements with the noise of their numbers z."""
    if LAW == "salt_and_pepper":
        bits = z.to(tl.int32, bitcast=True)
        size = (bits & 0x7FFFFFFF).to(tl.float32, bitcast=True)
        value = tl.where(size < scale, tl.where(bits < 0, salt, pepper), x)
    elif LAW == "speckle":
        value = x + (x * scale) * z
    else:
        value = x + scale * z
    return value


@triton.jit
def _finish(
    x, out, z, e, sigma, elements, channels, pixels, pepper, salt, low, high, mean, inv_std,
    LAW: tl.constexpr, CLIP: tl.constexpr, NORMALISE: tl.constexpr, CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    """Add noise to the elements e of one slot, clip, normalise and store them."""
    mask = e < elements
    value = _noisy(tl.load(x + e, mask=mask), sigma, z, pepper, salt, LAW)
    if CLIP:
        value = tl.where(value < low, low, value)
        value = tl.where(value > high, high, value)
    channel = e // pixels
    if NORMALISE:
        value = value - tl.load(mean + channel, mask=mask)
        value = value * tl.load(inv_std + channel, mask=mask)
    if CHANNELS_LAST:
        e = (e - channel * pixels) * channels + channel
    tl.store(out + e, value, mask=mask)


@triton.jit(do_not_specialize=["k0", "k1", "stream"])
def perturb_kernel(
    x, rows, sigma, samples, ids, out, tiles, elements, channels, pixels, k0, k1, stream, pepper,
    salt, low, high, mean, inv_std, LAW: tl.constexpr, CLIP: tl.constexpr, NORMALISE: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program makes BLOCK counters, hence 4 BLOCK elements, of one slot."""
    slot = tl.program_id(0) // tiles
    tile = tl.program_id(0) % tiles
    if WIDE:  # the image has 2^31 elements or more
        tile = tile.to(tl.int64)
    row = tl.load(rows + slot)
    sample = tl.load(samples + slot).to(tl.uint32)
    image = tl.load(ids + row).to(tl.uint32)
    scale = tl.load(sigma + slot)
    n = tile * BLOCK + tl.arange(0, BLOCK)
    block = n.to(tl.uint32)
    none = block & 0
    key0, key1, c3 = k0.to(tl.uint32), k1.to(tl.uint32), none + stream.to(tl.uint32)
    w0, w1, w2, w3 = _philox(block, none + sample, none + image, c3, key0, key1)
    z0, z1 = _numbers(w0, w1, LAW)
    z2, z3 = _numbers(w2, w3, LAW)
    # Offsets from the base are 64 bits wide; those within an image as wide as they need be.
    x += row * elements
    out += slot.to(tl.int64) * elements
    e = (n // 16) * 64 + n % 16
    _finish(x, out, z0, e, scale, elements, channels, pixels, pepper, salt, low, high,
            mean, inv_std, LAW, CLIP, NORMALISE, CHANNELS_LAST)  # fmt: skip
    _finish(x, out, z1, e + 16, scale, elements, channels, pixels, pepper, salt, low, high,
            mean, inv_std, LAW, CLIP, NORMALISE, CHANNELS_LAST)  # fmt: skip
    _finish(x, out, z2, e + 32, scale, elements, channels, pixels, pepper, salt, low, high,
            mean, inv_std, LAW, CLIP, NORMALISE, CHANNELS_LAST)  # fmt: skip
    _finish(x, out, z3, e + 48, scale, elements, channels, pixels, pepper, salt, low, high,
            mean, inv_std, LAW, CLIP, NORMALISE, CHANNELS_LAST)  # fmt: skip


@triton.jit
def _order(v):
    """Integers in the order of the floats; zeros are equal, NaN is the largest."""
    v = tl.where(v == 0, 0.0, v)
    if v.dtype == tl.float64:
        bits = v.to(tl.int64, bitcast=True)
        key = bits ^ ((bits >> 63) & 0x7FFFFFFFFFFFFFFF)
        largest = tl.full(v.shape, 0x7FFFFFFFFFFFFFFF, tl.int64)
    else:
        bits = v.to(tl.int32, bitcast=True)
        key = bits ^ ((bits >> 31) & 0x7FFFFFFF)
        largest = tl.full(v.shape, 0x7FFFFFFF, tl.int32)
    return tl.where(v != v, largest, key)


@triton.jit
def _load_logits(pointers, mask):
    v = tl.load(pointers, mask=mask, other=float("nan"))
    if v.dtype != tl.float64:
        v = v.to(tl.float32)
    return v


@triton.jit
def _margin(logits, label, inside, classes, BLOCK: tl.constexpr):
    """Margins and runners-up of the rows that start at the pointers `logits`."""
    runner_up = tl.where(label == 0, 1, 0)
    best = _order(_load_logits(logits + runner_up, inside))
    for start in range(0, classes, BLOCK):
        column = (start + tl.arange(0, BLOCK))[None, :]
        other = inside[:, None] & (column < classes) & (column != label[:, None])
        key = _order(_load_logits(logits[:, None] + column, other))
        key = tl.where(other, key, best[:, None])
        largest = tl.max(key, 1)
        # The lowest of the columns that attain it.
        first = tl.min(tl.where(other & (key == largest[:, None]), column, classes), 1)
        runner_up = tl.where(largest > best, first, runner_up)
        best = tl.where(largest > best, largest, best)
    own = _load_logits(logits + label, inside & (label >= 0) & (label < classes))
    return own - _load_logits(logits + runner_up, inside), runner_up


@triton.jit(do_not_specialize=["slots"])  # which a last batch has of any number
def margins_kernel(
    logits, labels, rows, margin, runner_up, slots, classes, stride, ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    slot = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = slot < slots
    row = tl.load(rows + slot, mask=inside, other=0)
    label = tl.load(labels + row, mask=inside, other=0)
    value, other = _margin(logits + slot * stride, label, inside, classes, BLOCK)
    tl.store(margin + slot, value, mask=inside)
    tl.store(runner_up + slot, other.to(tl.int64), mask=inside)


@triton.jit(do_not_specialize=["slots"])
def count_errors_kernel(
    logits, labels, rows, counts, slots, classes, stride, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    slot = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = slot < slots
    row = tl.load(rows + slot, mask=inside, other=-1)
    inside = row >= 0  # a negative row is padding
    label = tl.load(labels + row, mask=inside, other=0)
    value, _ = _margin(logits + slot * stride, label, inside, classes, BLOCK)
    correct = value > 0  # false for ties and NaN
    error = tl.where(correct, 0, 1).to(tl.int64)
    tl.atomic_add(counts + row, error, mask=inside & (error == 1))


def _signed(word: int) -> int:
    """A 32-bit word as a signed number: one type of argument, so one compilation."""
    return (word & 0xFFFFFFFF ^ 0x80000000) - 0x80000000


def _launch(kernel: Any, programs: int, device: torch.device, *args: Any, **meta: Any) -> None:
    if programs:
        with torch.cuda.device_of(torch.empty(0, device=device)):
            kernel[(programs,)](*args, **{"num_warps": 4, **meta}, enable_fp_fusion=False)


def _budget(device: torch.device) -> int:
    """Numbers a program holds: few a thread on a GPU, many in the interpreter, slow to start."""
    return 1 << 16 if device.type == "cpu" else 1 << 10


def philox(counter: Tensor, key: tuple[int, int]) -> Tensor:
    words = torch.empty_like(counter)
    k0, k1, n = *map(_signed, key), len(counter)
    _launch(philox_kernel, -(-n // 256), counter.device, counter, words, n, k0, k1, BLOCK=256)
    return words


def perturb(
    x: Tensor,
    rows: Tensor,
    sigma: Tensor,
    samples: Tensor,
    ids: Tensor,
    out: Tensor,
    *,
    seed: int,
    stream: int = 0,
    law: str = "gaussian",
    levels: tuple[float, float] | None = None,
    clip: tuple[float, float] | None = None,
    mean: Tensor | None = None,
    inv_std: Tensor | None = None,
) -> Tensor:
    _, channels, height, width = x.shape
    slots, elements = len(rows), channels * height * width
    counters = 16 * triton.cdiv(elements, 64)
    block = min(triton.next_power_of_2(counters), _budget(x.device) // 4)
    tiles = triton.cdiv(counters, block)
    low, high = (0.0, 0.0) if clip is None else map(float, clip)
    pepper, salt = (0.0, 0.0) if levels is None else map(float, levels)
    _launch(
        perturb_kernel, slots * tiles, x.device, x, rows, sigma, samples, ids, out, tiles,
        elements, channels, height * width, _signed(seed), _signed(seed >> 32), _signed(stream),
        pepper, salt, low, high, x if mean is None else mean, x if inv_std is None else inv_std,
        LAW=law, CLIP=clip is not None, NORMALISE=mean is not None and inv_std is not None,
        CHANNELS_LAST=not out.is_contiguous(),
        WIDE=elements + 4 * block >= 2**31, BLOCK=block,
    )  # fmt: skip
    return out


def _plan(logits: Tensor) -> tuple[Tensor, int, int]:
    """Logits with contiguous rows, the rows a program takes, the columns it takes at a time."""
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    block = min(triton.next_power_of_2(logits.shape[1]), 1 << 10)
    return logits, max(1, _budget(logits.device) // block), block


def margins(logits: Tensor, labels: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    slots, classes = logits.shape
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    margin = torch.empty(slots, dtype=dtype, device=logits.device)
    runner_up = torch.empty(slots, dtype=torch.int64, device=logits.device)
    logits, each, block = _plan(logits)
    _launch(
        margins_kernel, triton.cdiv(slots, each), logits.device, logits, labels, rows, margin,
        runner_up, slots, classes, logits.stride(0), ROWS=each, BLOCK=block,
    )  # fmt: skip
    return margin, runner_up


def count_errors(logits: Tensor, labels: Tensor, rows: Tensor, counts: Tensor) -> None:
    slots, classes = logits.shape
    logits, each, block = _plan(logits)
    _launch(
        count_errors_kernel, triton.cdiv(slots, each), logits.device, logits, labels, rows,
        counts, slots, classes, logits.stride(0), ROWS=each, BLOCK=block,
    )  # fmt: skip
