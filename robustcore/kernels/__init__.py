"""Kernels: one signature each, several bodies, the same bits from all.

Letters: B images, S slots, K classes; an image has shape (C, H, W). All tensors of a call lie on
one device. Arguments are checked at the package's public door; a body repeats only the checks that
keep it inside its memory. Every kernel is deterministic: its results depend on neither the number
of threads, nor the device, nor how slots are ordered or grouped.

philox(counter, key) -> words
    Philox4x32-10. counter: (n, 4) int64 holding 32-bit words; key: two integers in [0, 2^32).
    Returns (n, 4) int64. For known-answer tests.

perturb(x, rows, sigma, samples, ids, out, *, seed, stream=0, law="gaussian", levels=None,
        clip=None, mean=None, inv_std=None) -> out
    Slot s becomes image rows[s] with noise of scale sigma[s], by the draw of the law that is named
    (seed, stream, ids[rows[s]], samples[s]); then min(max(value, low), high) if clip=(low, high)
    is given; then (value - mean[c]) * inv_std[c] if both are given.
    law: one of LAWS, below. levels: (low, high) of salt_and_pepper, None of the others.
    x: (B, C, H, W) float32 contiguous, fewer than 2^34 elements an image. rows: (S,) int64 in
    [0, B). sigma: (S,) float32. samples: (S,) int64 in [0, 2^32). ids: (B,) int64 in [0, 2^32).
    out: (S, C, H, W) float32, contiguous or channels_last, written wholly, sharing no memory with
    x. seed: in [0, 2^64). stream: in [0, 2^32). mean, inv_std: (C,) float32.
    One pass over memory: the noise itself is never stored there.

    The words: the key is the seed, low word first. Element e counts in C order whatever the memory
    format. Elements come in groups of 64, made by 16 counters: element e is word slot (e >> 4) & 3
    of counter (16 * (e >> 6) + (e & 15), sample, id, stream).

    The laws, each with one number of an element, whatever the scale. `reference.py` fixes every
    rounding.
    gaussian: x + sigma * z. Words (0, 1) make normals (0, 1) by Box and Muller's method, words
    (2, 3) normals (2, 3): the first word of a pair gives the radius from all its 32 bits, the
    second the angle, its top two bits the quarter turn and the next 24 a signed fraction of one.
    |z| is at most 6.77.
    uniform: x + sigma * u with |u| < 1, of density 1/2, from the top 24 bits of the element's own
    word. The offset is that of random_start (norm=inf) at the same names.
    laplace: x + sigma * t, of density exp(-|t|)/2, hence of standard deviation sqrt(2). Of the
    element's own word the lowest bit is the sign; |t| is -ln((word | 1) * 2^-32), at most 22.19.
    salt_and_pepper: levels[b] where u < sigma, else x: b is the lowest bit of the element's own
    word, u in [0, 1) its top 24. What is replaced at one sigma has the same value at every larger
    one; at 0 nothing is, at 1 everything.
    speckle: x + (x * sigma) * z with z of gaussian.

margins(logits, labels, rows) -> (margin, runner_up)
    margin[s] = logits[s, y] - max over j != y of logits[s, j], where y = labels[rows[s]];
    runner_up[s] is the lowest j != y that attains the maximum. A NaN among the others is the
    maximum, and the first NaN the runner-up; any NaN makes the margin NaN, as does inf - inf.
    logits: (S, K >= 2), float32 or float64 (narrower types are upcast to float32 first), rows
    strided, each contiguous. labels: (B,) int64 in [0, K). rows: (S,) int64 in [0, B).
    Returns (S,) of the dtype of the (upcast) logits and (S,) int64.

count_errors(logits, labels, rows, counts) -> None
    counts[rows[s]] += 1 for each slot in error: one whose margin is not > 0, so that ties and NaN
    are errors. A slot with rows[s] < 0 is padding and is skipped. counts: (B,) int64. Never waits
    for the device; sums are integers, so exact.

The next four are steps of attacks. An image is here a row of D elements in memory order, the same
for all tensors of a call: x (B, D), the others (S, D), float32, contiguous. rows: (S,) int64 in
[0, B). norm: 2.0 or inf. box: None or (low, high). Sums over a row are made in float64 in one fixed
order: element e goes to lane e % 256 in turn, then lane i is added to lane i - 128, and so on by
halves. So these, too, give the same bits on every backend and in every batch.

random_start(radius, restarts, ids, out, *, norm, seed, stream=1) -> out
    out[s] is uniform in the ball of radius[s], a function of (seed, stream, ids[s], restarts[s]).
    l2: the first D of D + 2 normals, made as in `perturb`, over the norm of all D + 2 (uniform in
    the ball: Harman and Lacko, 2010). linf: each element from the top 24 bits of the word that
    would make its normal. radius: (S,) float32. restarts, ids: (S,) int64 in [0, 2^32).

ball_step(x, rows, offset, gradient, scale, step, radius, points, *, norm, box=None, sphere=False)
    -> usable
    Moves each slot: offset * scale + step * direction, the gradient over its l2 norm or its sign;
    then into the ball of its radius (l2 and sphere=True: onto its surface). points becomes
    x[rows] + offset, clipped to the box; offset the displacement after the box, or before it with
    sphere=True. A slot whose gradient is zero or not finite does not step, but is scaled and
    projected; usable[s] is False there. scale, step, radius: (S,) float32. Returns (S,) bool. One
    reduction and one pass; l2 lengths are exact to float32 rounding.

ball_slope(x, rows, offset, gradient, *, norm, box=None) -> (S, 2) float64
    The dual norm of each gradient (l2, or l1 for inf), and the derivative along the offset's
    growth: gradient . offset over the elements that x[rows] + offset leaves inside the box.

update_best(x, rows, points, margin, distance, best, *, norm) -> (S,) float64
    The distance of each point from x[rows], in float64. Where margin[s] is not > 0 and the distance
    is below distance[s] (S,) float64, both distance[s] and best[s] (S, D) are replaced. A point
    with a NaN is at distance NaN, which is below none.
"""

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from robustcore.warning import warn

__all__ = ["BACKENDS", "KERNELS", "LAWS", "Backend", "select", "unavailable"]

# Of perturb, in the order of csrc/core/laws.h.
LAWS = ("gaussian", "uniform", "laplace", "salt_and_pepper", "speckle")

KERNELS = (
    "philox",
    "perturb",
    "margins",
    "count_errors",
    "random_start",
    "ball_step",
    "ball_slope",
    "update_best",
)

# The table kernel x backend: each entry is the module that holds the body.
_TABLE = {
    "reference": {
        "philox": "robustcore.kernels.reference",
        "perturb": "robustcore.kernels.reference",
        "margins": "robustcore.kernels.reference",
        "count_errors": "robustcore.kernels.reference",
        "random_start": "robustcore.kernels.reference",
        "ball_step": "robustcore.kernels.reference",
        "ball_slope": "robustcore.kernels.reference",
        "update_best": "robustcore.kernels.reference",
    },
    "native": {
        "philox": "robustcore.kernels.native",
        "perturb": "robustcore.kernels.native",
        "margins": "robustcore.kernels.native",
        "count_errors": "robustcore.kernels.native",
        "random_start": "robustcore.kernels.native",
        "ball_step": "robustcore.kernels.native",
        "ball_slope": "robustcore.kernels.native",
        "update_best": "robustcore.kernels.native",
    },
    "triton": {
        "philox": "robustcore.kernels.triton",
        "perturb": "robustcore.kernels.triton",
        "margins": "robustcore.kernels.triton",
        "count_errors": "robustcore.kernels.triton",
        "random_start": "robustcore.kernels.triton_start",
        "ball_step": "robustcore.kernels.triton_ball",
        "ball_slope": "robustcore.kernels.triton_ball",
        "update_best": "robustcore.kernels.triton_ball",
    },
    "cuda": {
        "philox": "robustcore.kernels.reference",
        "perturb": "robustcore.kernels.cuda",
        "margins": "robustcore.kernels.cuda",
        "count_errors": "robustcore.kernels.cuda",
        "random_start": "robustcore.kernels.reference",
        "ball_step": "robustcore.kernels.cuda",
        "ball_slope": "robustcore.kernels.reference",
        "update_best": "robustcore.kernels.cuda",
    },
}
BACKENDS = tuple(_TABLE)


@dataclass(frozen=True)
class Backend:
    """One column of the table; the contracts are in this module's docstring."""

    name: str
    philox: Callable[..., Tensor]
    perturb: Callable[..., Tensor]
    margins: Callable[..., tuple[Tensor, Tensor]]
    count_errors: Callable[..., None]
    random_start: Callable[..., Tensor]
    ball_step: Callable[..., Tensor]
    ball_slope: Callable[..., Tensor]
    update_best: Callable[..., Tensor]


@cache
def _load(module: str) -> ModuleType | str:
    """The module, or why it cannot be imported."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        return str(error)


def unavailable(backend: str, device: torch.device | str) -> str | None:
    """Why `backend` cannot run on `device`, in a sentence, or None if it can."""
    kind = torch.device(device).type
    if backend == "native":
        if kind != "cpu":
            return f"the native backend runs on cpu only, not on {kind}"
        loaded = _load("robustcore._native")
        if isinstance(loaded, str):
            return f"the compiled extension cannot be imported: {loaded}"
    if backend == "triton":
        interpreted = os.environ.get("TRITON_INTERPRET") == "1"
        if kind not in ("cuda", "cpu"):
            return f"the triton backend runs on cuda, not on {kind}"
        if kind == "cpu" and not interpreted:
            return "triton runs on cpu only in its interpreter: set TRITON_INTERPRET=1 at the start"
        loaded = _load("triton")
        if isinstance(loaded, str):
            return f"triton cannot be imported: {loaded}"
    if backend == "cuda":
        if kind != "cuda":
            return f"the cuda backend runs on cuda only, not on {kind}"
        loaded = _load("robustcore._cuda")
        if isinstance(loaded, str):
            return f"the CUDA extension cannot be imported, it is built where nvcc is: {loaded}"
    return None


# The fastest first. Triton and CUDA C++ have not been measured against each other yet, so theirs is
# a guess; benchmarks/gpu.sh does it.
_PREFERRED = {"cpu": ("native",), "cuda": ("triton", "cuda")}


def select(backend: str | None, device: torch.device | str) -> Backend:
    """The kernels of `backend` for `device`; None picks the fastest that runs there.

    Warns where that is the reference, though there are compiled kernels for such a device.
    Raises ValueError for a name that is not in BACKENDS and RuntimeError, with the reason, for a
    backend that cannot run on `device`.
    """
    if backend is None:
        known = _PREFERRED.get(torch.device(device).type, ())
        reasons = {each: unavailable(each, device) for each in known}
        backend = next((each for each in known if reasons[each] is None), "reference")
        if known and backend == "reference":
            warn(
                "the reference kernels are used, with the same results but slower: "
                + "; ".join(str(each) for each in reasons.values()),
                RuntimeWarning,
            )
    if not isinstance(backend, str) or backend not in _TABLE:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)} or None, was {backend!r}")
    reason = unavailable(backend, device)
    if reason is not None:
        raise RuntimeError(
            f"backend must be able to run on device {str(device)!r}; got {backend!r}, but {reason}"
        )
    bodies = {
        kernel: getattr(importlib.import_module(_TABLE[backend][kernel]), kernel)
        for kernel in KERNELS
    }
    return Backend(backend, **bodies)
