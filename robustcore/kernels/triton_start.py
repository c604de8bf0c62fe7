"""Random starts in Triton, one program for each slot. Contract: `robustcore.kernels`.

Same bits as the reference: float64 sums in its order of lanes and halves, nothing contracted.
"""

import triton
import triton.language as tl
from torch import Tensor

from robustcore.kernels.triton import _launch, _normals, _philox, _signed, _signed_uniform
from robustcore.kernels.triton_ball import _half, _sum_of_16


@triton.jit
def _words(tile, sample, image, stream, k0, k1):
    """Words of 64 counters, hence of 256 elements: word k of counter n is element e + 16 k."""
    n = tile * 64 + tl.arange(0, 64)
    block = n.to(tl.uint32)
    none = block & 0
    key0, key1, c3 = k0.to(tl.uint32), k1.to(tl.uint32), none + stream.to(tl.uint32)
    w0, w1, w2, w3 = _philox(block, none + sample, none + image, c3, key0, key1)
    return (n // 16) * 64 + n % 16, w0, w1, w2, w3


@triton.jit
def _square(z, e, drawn):
    z = tl.where(e < drawn, z, 0.0).to(tl.float64)
    return z * z


@triton.jit
def _scaled(z, length):
    return (z.to(tl.float64) * length).to(tl.float32)


@triton.jit(do_not_specialize=["k0", "k1", "stream"])
def random_start_kernel(radius, restarts, ids, out, elements, stream, k0, k1, L2: tl.constexpr):
    slot = tl.program_id(0).to(tl.int64)
    sample = tl.load(restarts + slot).to(tl.uint32)
    image = tl.load(ids + slot).to(tl.uint32)
    reach = tl.load(radius + slot)
    out += slot * elements
    drawn = elements + 2
    length = reach.to(tl.float64)
    if L2:
        s0 = tl.zeros((64,), tl.float64)
        s1 = tl.zeros((64,), tl.float64)
        s2 = tl.zeros((64,), tl.float64)
        s3 = tl.zeros((64,), tl.float64)
        for tile in range(0, (drawn + 255) // 256):
            e, w0, w1, w2, w3 = _words(tile, sample, image, stream, k0, k1)
            z0, z1 = _normals(w0, w1)
            z2, z3 = _normals(w2, w3)
            s0 += _square(z0, e, drawn)
            s1 += _square(z1, e + 16, drawn)
            s2 += _square(z2, e + 32, drawn)
            s3 += _square(z3, e + 48, drawn)
        # lane 64 (n // 16) + 16 k + n % 16: the halves of n // 16 first, then those of k
        even = _half(_half(s0, 32), 16) + _half(_half(s2, 32), 16)
        odd = _half(_half(s1, 32), 16) + _half(_half(s3, 32), 16)
        length = length / tl.sqrt(_sum_of_16(even + odd))
    for tile in range(0, (elements + 255) // 256):
        e, w0, w1, w2, w3 = _words(tile, sample, image, stream, k0, k1)
        if L2:
            z0, z1 = _normals(w0, w1)
            z2, z3 = _normals(w2, w3)
            v0, v1 = _scaled(z0, length), _scaled(z1, length)
            v2, v3 = _scaled(z2, length), _scaled(z3, length)
        else:
            v0, v1 = reach * _signed_uniform(w0), reach * _signed_uniform(w1)
            v2, v3 = reach * _signed_uniform(w2), reach * _signed_uniform(w3)
        tl.store(out + e, v0, mask=e < elements)
        tl.store(out + e + 16, v1, mask=e + 16 < elements)
        tl.store(out + e + 32, v2, mask=e + 32 < elements)
        tl.store(out + e + 48, v3, mask=e + 48 < elements)


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
    _launch(
        random_start_kernel, len(out), out.device, radius, restarts, ids, out, out.shape[1],
        _signed(stream), _signed(seed), _signed(seed >> 32), L2=norm == 2,
    )  # fmt: skip
    return out
