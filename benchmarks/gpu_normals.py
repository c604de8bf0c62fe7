"""Normals that nobody writes down: what the integer instructions of the noise allow."""

import torch
import triton
import triton.language as tl

from robustcore.kernels.triton import _launch, _normals, _philox

PROGRAMS, EACH, BLOCK = 2**14, 64, 256


@triton.jit(do_not_specialize=["stream", "key"])
def folded_kernel(out, stream, key, EACH: tl.constexpr, BLOCK: tl.constexpr):
    """The bits of the normals of EACH times BLOCK counters, folded to BLOCK words."""
    program = tl.program_id(0)
    total = tl.zeros((BLOCK,), tl.uint32)
    none = tl.zeros((BLOCK,), tl.uint32)
    for i in range(EACH):
        n = ((program * EACH + i) * BLOCK + tl.arange(0, BLOCK)).to(tl.uint32)
        w0, w1, w2, w3 = _philox(
            n, none, none, none + stream.to(tl.uint32), key.to(tl.uint32), key.to(tl.uint32)
        )
        z0, z1 = _normals(w0, w1)
        z2, z3 = _normals(w2, w3)
        total ^= z0.to(tl.uint32, bitcast=True) ^ z1.to(tl.uint32, bitcast=True)
        total ^= z2.to(tl.uint32, bitcast=True) ^ z3.to(tl.uint32, bitcast=True)
    tl.store(out + program * BLOCK + tl.arange(0, BLOCK), total.to(tl.int32, bitcast=True))


def normals_a_second(run):
    out = torch.empty(PROGRAMS * BLOCK, dtype=torch.int32, device=run.device)
    took = run.seconds(
        lambda: _launch(folded_kernel, PROGRAMS, out.device, out, 1, 2, EACH=EACH, BLOCK=BLOCK)
    )
    return PROGRAMS * EACH * BLOCK * 4 / took
