"""The kernels in plain torch: the definition of correct, for any device.

Contracts are in `robustcore.kernels`. Each step is one IEEE float32 operation of its own, so that
nothing is contracted; words are held in int64, where a 32-bit product wraps without loss.
"""

import numpy as np
import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_CHUNK = 1 << 20  # normals made at a time: bounds memory, changes no result


def _rounds(c: tuple[Tensor, ...], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Philox4x32-10 (Salmon et al., 2011) on four int64 tensors of 32-bit words."""
    c0, c1, c2, c3 = c
    k0, k1 = key
    for _ in range(10):
        p0 = c0 * 0xD2511F53
        p1 = c2 * 0xCD9E8D57
        c0 = ((p1 >> 32) ^ c1 ^ k0) & _MASK
        c2 = ((p0 >> 32) ^ c3 ^ k1) & _MASK
        c1 = p1 & _MASK
        c3 = p0 & _MASK
        k0 = (k0 + 0x9E3779B9) & _MASK
        k1 = (k1 + 0xBB67AE85) & _MASK
    return c0, c1, c2, c3


def philox(counter: Tensor, key: tuple[int, int]) -> Tensor:
    words = _rounds(counter.unbind(1), key)
    return torch.stack(words, 1)


def _as_float(bits: Tensor) -> Tensor:
    return bits.to(torch.int32).view(torch.float32)


def _as_bits(value: Tensor) -> Tensor:
    return value.view(torch.int32).to(torch.int64)


def _polynomial(x: Tensor, *coefficients: float) -> Tensor:
    """Horner's rule, highest power first."""
    value = torch.full_like(x, coefficients[0])
    for c in coefficients[1:]:
        value = value * x
        value = value + c
    return value


def _to_float(word: Tensor) -> Tensor:
    """Rounded once: both halves are exact."""
    return (word >> 16).to(torch.float32) * 65536.0 + (word & 0xFFFF).to(torch.float32)


def _minus_twice_log(v: Tensor) -> Tensor:
    """-2 ln(v * 2^-32) for v in [1/2, 2^32]; exactly 0 where v is 2^32, never below."""
    # v = m * 2^e with m in [sqrt(1/2), sqrt(2)); then -ln(v * 2^-32) = (32 - e) ln 2 - ln m.
    shifted = _as_bits(v) + (0x3F800000 - 0x3F3504F3)
    n = (127 + 32 - (shifted >> 23)).to(torch.float32)
    f = _as_float((shifted & 0x007FFFFF) + 0x3F3504F3) - 1.0
    log = _polynomial(
        f,
        -0.17444713,
        0.2873369,
        -0.29904532,
        0.33124787,
        -0.39913666,
        0.5000415,
        -0.66668373,
        0.99999976,
        -2.0,
    )
    log = log * f  # -2 ln m
    return n * 1.3862944 + log


def _radius(word: Tensor) -> Tensor:
    """sqrt(-2 ln u) for u = (word + 0.5) * 2^-32; exactly 0 where u rounds to 1, never NaN."""
    squared = _minus_twice_log(_to_float(word) + 0.5)
    # torch's own float32 square root may be an ulp off; by way of float64 it rounds correctly.
    return squared.double().sqrt().float()


def _cos_sin(word: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of q + h quarter turns: q the top two bits, |h| < 1/2 the next 24."""
    fraction = (word << 2) & _MASK
    fraction = ((fraction ^ 0x80000000) - 0x80000000) >> 8  # signed, 24 bits
    h = (fraction.to(torch.float32) + 0.5) * 2.0**-24  # exact
    h2 = h * h
    sin = _polynomial(h2, -0.0046016593, 0.07968003, -0.6459635, 1.5707964) * h
    cos = _polynomial(h2, -0.020417282, 0.25360322, -1.2336977, 1.0)
    odd = (word & 0x40000000) != 0
    flip_cos = (word ^ (word << 1)) & 0x80000000
    flip_sin = word & 0x80000000
    swapped_cos, swapped_sin = torch.where(odd, sin, cos), torch.where(odd, cos, sin)
    # Signs are flipped as bits: -0.0 and +0.0 stay apart on every device alike.
    return _flip(swapped_cos, flip_cos), _flip(swapped_sin, flip_sin)


def _flip(value: Tensor, sign: Tensor) -> Tensor:
    sign = (sign ^ 0x80000000) - 0x80000000  # as a signed 32-bit number
    return _as_float(_as_bits(value) ^ sign)


def _draw(n: int, sample: Tensor, image: Tensor, seed: int, stream: int) -> tuple[Tensor, ...]:
    """Four words (S, groups, 16) of the counters that make n elements of S draws."""
    groups = -(-n // 64)
    block = torch.arange(16 * groups, device=sample.device).expand(len(sample), -1)
    counter = (
        block,
        sample[:, None].expand_as(block),
        image[:, None].expand_as(block),
        torch.full_like(block, stream),
    )
    words = _rounds(counter, (seed & _MASK, (seed >> 32) & _MASK))
    return tuple(word.view(-1, groups, 16) for word in words)


def _elements(slots: list[Tensor], n: int) -> Tensor:
    """(S, n): word slot k of the 16 counters of a group makes its elements 16 k to 16 k + 15."""
    return torch.stack(slots, 2).flatten(1)[:, :n]


def _normals(n: int, sample: Tensor, image: Tensor, seed: int, stream: int) -> Tensor:
    """(S, n) standard normals for S draws named by sample (S,) and image id (S,)."""
    w0, w1, w2, w3 = _draw(n, sample, image, seed, stream)
    pairs = []
    for radius_word, angle_word in ((w0, w1), (w2, w3)):
        radius = _radius(radius_word)
        cos, sin = _cos_sin(angle_word)
        pairs += [radius * cos, radius * sin]
    return _elements(pairs, n)


def _signed_uniform(word: Tensor) -> Tensor:
    """Strictly between -1 and 1: the word's top 24 bits, exactly."""
    signed = ((word ^ 0x80000000) - 0x80000000) >> 8
    return (signed.to(torch.float32) + 0.5) * 2.0**-23


def _with_lowest_bit(size: Tensor, word: Tensor) -> Tensor:
    """A size that is not negative, with the word's lowest bit as its sign."""
    return _flip(size, (word << 31) & _MASK)


def _laplace(word: Tensor) -> Tensor:
    """-ln v for v = (word with its lowest bit set) * 2^-32; 0 where v rounds to 1."""
    return _with_lowest_bit(_minus_twice_log(_to_float(word | 1)) * 0.5, word)


def _salt_and_pepper(word: Tensor) -> Tensor:
    """The scale at which an element is replaced, exactly; negative where by the upper level."""
    return _with_lowest_bit((word >> 8).to(torch.float32) * 2.0**-24, word)


_OF_ONE_WORD = {
    "uniform": _signed_uniform,
    "laplace": _laplace,
    "salt_and_pepper": _salt_and_pepper,
}


def _numbers(law: str, n: int, sample: Tensor, image: Tensor, seed: int, stream: int) -> Tensor:
    """(S, n) numbers of the law for S draws."""
    if law not in _OF_ONE_WORD:
        return _normals(n, sample, image, seed, stream)
    words = _elements(list(_draw(n, sample, image, seed, stream)), n)
    return _OF_ONE_WORD[law](words)


def _noisy(
    law: str, x: Tensor, scale: Tensor, z: Tensor, levels: tuple[float, float] | None
) -> Tensor:
    """Elements with the noise of their numbers z."""
    if law == "salt_and_pepper":
        low, high = levels or (0.0, 0.0)
        level = torch.where(z.signbit(), high, torch.full_like(z, low))
        return torch.where(z.abs() < scale, level, x)
    size = x * scale if law == "speckle" else scale
    offset = size * z
    return x + offset


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
    shape = x.shape[1:]
    step = max(1, _CHUNK // shape.numel())
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        row = rows[part]
        z = _numbers(law, shape.numel(), samples[part], ids[row], seed, stream).view(-1, *shape)
        value = _noisy(law, x[row], sigma[part].view(-1, 1, 1, 1), z, levels)
        if clip is not None:
            low, high = clip
            value = torch.where(value < low, low, value)
            value = torch.where(value > high, high, value)
        if mean is not None and inv_std is not None:
            value = (value - mean.view(-1, 1, 1)) * inv_std.view(-1, 1, 1)
        out[part] = value
    return out


def margins(logits: Tensor, labels: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    if logits.dtype not in (torch.float32, torch.float64):
        logits = logits.float()
    label = labels[rows].unsqueeze(1)
    own = logits.gather(1, label)
    classes = torch.arange(logits.shape[1], device=logits.device)
    other = logits.masked_fill(classes == label, -torch.inf)
    best = other.amax(1, keepdim=True)  # NaN counts as the largest
    attains = torch.where(best.isnan(), other.isnan(), other == best) & (classes != label)
    runner_up = attains.to(torch.int8).argmax(1)  # the first of equals
    return (own - best).squeeze(1), runner_up


def count_errors(logits: Tensor, labels: Tensor, rows: Tensor, counts: Tensor) -> None:
    slot = rows.clamp(min=0)  # padding slots are computed and not counted: no host sync
    margin, _ = margins(logits, labels, slot)
    error = ~(margin > 0) & (rows >= 0)
    counts.index_add_(0, slot, error.to(torch.int64))


def _sum(terms: Tensor) -> Tensor:
    """(S, D) float64 to (S,), in the one order of all backends: 256 lanes, then halves."""
    lanes = terms.new_zeros(len(terms), 256)
    for part in terms.split(256, 1):
        lanes[:, : part.shape[1]] += part
    while lanes.shape[1] > 1:
        low, high = lanes.chunk(2, 1)
        lanes = low + high
    return lanes[:, 0]


def _root(value: Tensor) -> Tensor:
    """Square roots (S,) rounded correctly: on a CPU torch's own may be an ulp off."""
    return value.sqrt() if value.is_cuda else torch.from_numpy(np.sqrt(value.numpy()))


def random_start(
    radius: Tensor,
    restarts: Tensor,
    ids: Tensor,
    out: Tensor,
    *,
    norm: float,
    seed: int,
    stream: int = 1,
) -> Tensor:
    n = out.shape[1]
    for slot in torch.arange(len(out), device=out.device).split(max(1, _CHUNK // n)):
        names = restarts[slot], ids[slot], seed, stream
        if norm == 2:
            z = _normals(n + 2, *names).double()
            length = radius[slot].double() / _root(_sum(z * z))
            out[slot] = (z[:, :n] * length[:, None]).float()
        else:
            out[slot] = radius[slot, None] * _numbers("uniform", n, *names)
    return out


def ball_step(
    x: Tensor,
    rows: Tensor,
    offset: Tensor,
    gradient: Tensor,
    scale: Tensor,
    step: Tensor,
    radius: Tensor,
    points: Tensor,
    *,
    norm: float,
    box: tuple[float, float] | None = None,
    sphere: bool = False,
) -> Tensor:
    clean = x[rows]
    wide = gradient.double()
    squared = _sum(wide * wide)
    usable = (squared > 0) & (squared < torch.inf)
    if norm == 2:
        old, reach, factor = offset.double(), radius.double(), scale.double()
        along = torch.where(usable, step.double() / _root(squared), 0.0)
        product = torch.where(usable, _sum(old * wide), 0.0)
        grown = factor * factor * _sum(old * old) + 2.0 * (factor * (along * product))
        grown = grown + torch.where(usable, along * along * squared, 0.0)
        length = _root(grown.clamp(min=0.0))
        beyond = length > (0.0 if sphere else reach)
        shrink = torch.where(beyond, reach / length, 1.0)
        move = torch.where(usable[:, None], wide * (along * shrink)[:, None], 0.0)
        moved = (old * (factor * shrink)[:, None] + move).float()
    else:
        sign = torch.where(usable[:, None], gradient.sign(), 0.0)
        moved = scale[:, None] * offset + step[:, None] * sign
        reach = radius[:, None]
        moved = torch.where(moved > reach, reach, torch.where(moved < -reach, -reach, moved))
    point = clean + moved
    if box is not None:
        low, high = box
        point = torch.where(point < low, low, point)
        point = torch.where(point > high, high, point)
    points.copy_(point)
    offset.copy_(moved if sphere else point - clean)
    return usable


def ball_slope(
    x: Tensor,
    rows: Tensor,
    offset: Tensor,
    gradient: Tensor,
    *,
    norm: float,
    box: tuple[float, float] | None = None,
) -> Tensor:
    wide = gradient.double()
    terms = wide * offset.double()
    if box is not None:
        value = x[rows] + offset
        terms = torch.where((value > box[0]) & (value < box[1]), terms, 0.0)
    dual = _root(_sum(wide * wide)) if norm == 2 else _sum(wide.abs())
    return torch.stack([dual, _sum(terms)], 1)


def update_best(
    x: Tensor,
    rows: Tensor,
    points: Tensor,
    margin: Tensor,
    distance: Tensor,
    best: Tensor,
    *,
    norm: float,
) -> Tensor:
    away = points.double() - x[rows].double()
    found = _root(_sum(away * away)) if norm == 2 else away.abs().amax(1)
    nearer = ~(margin > 0) & (found < distance)
    distance[nearer] = found[nearer]
    best[nearer] = points[nearer]
    return found
