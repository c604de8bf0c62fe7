"""The kernels of the corruptions: one signature each, up to three bodies, a table to choose by.

Letters: B images, P planes, T taps, K terms; an image has shape (C, H, W). Tensors of a call lie on
one device. Every kernel is deterministic, and no result depends on threads or on how images are
batched. `reference.py` is plain torch, on any device, and the definition of correct; `native.py` is
C++ (csrc/corruptions), on CPU; `triton.py` is for CUDA. Random numbers, orders and `wet_edges` have
the same bits from all; sums agree up to float32 rounding, as matrix products on a GPU add in their
own order.

A draw is named by `Draw(seed, stream, sample)` and the image's id. Words come from Philox4x32-10
with the seed as key, low word first, at counters (block, sample, id, stream).

uniforms(ids, n, draw) -> (B, n) float32
    In (0, 1): (w >> 9 + 1/2) * 2^-23, where w is word e & 3 of block e >> 2 for element e.

poisson(mean, ids, draw) -> (B, n) float32
    Counts with the given means, mean: (B, n) float32 in [0, 2^20). Element e uses block e; attempt
    t of a rejection the words 2 (t & 1), 2 (t & 1) + 1 of sample + 256 (t >> 1). Inversion below a
    mean of 10 (the first word), Hoermann's PTRS (1993) from there on. A count may differ between
    bodies by the rounding of a logarithm: in fewer than one element of a million.

shuffle_order(ids, size, reach, passes, draw) -> (B, H * W) int64
    Where each pixel comes from after glass blur's shuffle: from the lower right, `passes` times,
    pixel (y, x) takes the place of (y + dy, x + dx), both uniform in [-reach, reach), for y in
    (reach, H - reach], x likewise. The published code means to swap, but its rows are views, so it
    copies: the other pixel stays. Site i uses word i & 3 of block i >> 2, its low half for dx.

taps(x, dy, dx, weight, border) -> like x
    out[b, c, y, x] = sum of weight[b, t] * x[b, c, y + dy[b, t], x + dx[b, t]]. x: (B, C, H, W)
    float32. dy, dx: (B, T) int64. weight: (B, T) float32. border: "edge" repeats the outermost
    pixel, "mirror" reflects about its centre.

separable(x, rows, columns) -> (P, H', W')
    sum over k of rows[k] @ x @ columns[k].T: every separable blur and resampling. x: (P, H, W)
    float32. rows: Bands of K matrices (H', H), columns: of K matrices (W', W). On a GPU as precise
    as matrix products are: with allow_tf32 set, to three digits.

spread(x, rows, columns) -> (P, H', W')
    out[p, i, j] = x[p, rows[i], columns[j]]. rows: (H',), columns: (W',) int32, inside x.

jpeg(x, quality, add) -> like x
    x: (B, 3, H, W) float32 to bytes, 255 x + add cut to a whole number in [0, 255], through a JPEG
    file and back, over 255. quality: 1 to 100. The reference is Pillow's file with colour at half
    the resolution, as libjpeg-turbo, which Pillow's wheels hold, writes and reads it; the native
    body makes the same bits, without a file.

wet_edges(layer) -> (B, H, W) float32
    Spatter's drops of water: layer (B, H, W) uint8 to edges (Canny, thresholds 50 and 150), their
    distance (chamfer 5 x 5, cut at 20), equalised, embossed and smoothed, in whole numbers to 255.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from robustcore.kernels import unavailable

# The table kernel x backend: each entry is the module that holds the body; "host" is "native" on
# the CPU, with the tensors carried there and back, for what has no body on a GPU.
_TABLE = {
    "reference": {
        "uniforms": "reference",
        "poisson": "reference",
        "shuffle_order": "reference",
        "taps": "reference",
        "separable": "reference",
        "spread": "reference",
        "jpeg": "reference",
        "wet_edges": "reference",
    },
    "native": {
        "uniforms": "native",
        "poisson": "native",
        "shuffle_order": "native",
        "taps": "native",
        "separable": "native",
        "spread": "native",
        "jpeg": "native",
        "wet_edges": "native",
    },
    "triton": {
        "uniforms": "triton",
        "poisson": "triton",
        "shuffle_order": "triton",
        "taps": "triton",
        "separable": "reference",
        "spread": "reference",
        "jpeg": "host",
        "wet_edges": "host",
    },
    "torch": {
        "uniforms": "reference",
        "poisson": "reference",
        "shuffle_order": "host",
        "taps": "reference",
        "separable": "reference",
        "spread": "reference",
        "jpeg": "host",
        "wet_edges": "host",
    },
}
BACKENDS = tuple(_TABLE)


@dataclass(frozen=True)
class Draw:
    """seed in [0, 2^63), stream in [0, 2^32), sample in [0, 256)."""

    seed: int
    stream: int
    sample: int


class Bands:
    """K matrices (M, N), float32, as bands: row i holds `weight[k, i]` at columns low[k, i] on."""

    def __init__(self, matrices: np.ndarray) -> None:
        k, m, n = matrices.shape
        held = matrices != 0
        first = np.where(held.any(2), held.argmax(2), 0)
        last = np.where(held.any(2), n - 1 - held[..., ::-1].argmax(2), 0)
        band = int((last - first).max()) + 1
        first = np.minimum(first, n - band)
        columns = first[..., None] + np.arange(band)
        values = np.take_along_axis(matrices, columns, 2).astype(np.float32)
        self.shape = (k, m, n)
        self.low = torch.from_numpy(first.astype(np.int64))  # (K, M)
        self.weight = torch.from_numpy(values)  # (K, M, L)
        self._dense: dict[torch.device, Tensor] = {}

    def dense(self, device: torch.device) -> Tensor:
        if device not in self._dense:
            full = torch.zeros(self.shape, dtype=self.weight.dtype, device=self.weight.device)
            columns = self.low[..., None] + torch.arange(
                self.weight.shape[2], device=self.low.device
            )
            self._dense[device] = full.scatter_(2, columns, self.weight).to(device)
        return self._dense[device]


@dataclass(frozen=True)
class Kernels:
    """One body of each; the contracts are in this module's docstring."""

    name: str
    uniforms: Callable[[Tensor, int, Draw], Tensor]
    poisson: Callable[[Tensor, Tensor, Draw], Tensor]
    shuffle_order: Callable[[Tensor, tuple[int, int], int, int, Draw], Tensor]
    taps: Callable[[Tensor, Tensor, Tensor, Tensor, str], Tensor]
    separable: Callable[[Tensor, Bands, Bands], Tensor]
    spread: Callable[[Tensor, Tensor, Tensor], Tensor]
    jpeg: Callable[[Tensor, int, float], Tensor]
    wet_edges: Callable[[Tensor], Tensor]


@cache
def _bodies(backend: str) -> Kernels:
    return Kernels(backend, **{each: _body(each, room) for each, room in _TABLE[backend].items()})


def _body(kernel: str, room: str) -> Callable[..., Tensor]:
    if room != "host":
        module = importlib.import_module(f"robustcore.corruptions.{room}")
        body: Callable[..., Tensor] = getattr(module, kernel)
        return body
    native = _body(kernel, "native")

    def carried(x: Tensor, *more: object) -> Tensor:
        return native(x.cpu(), *more).to(x.device)

    return carried


def select(backend: str | None, device: torch.device) -> Kernels:
    """The bodies of `backend`; None takes "native" on a CPU, elsewhere "triton" or else "torch".

    Raises ValueError for an unknown name, RuntimeError with the reason for one that cannot run.
    """
    if backend is None:
        order = ("native", "torch") if device.type == "cpu" else ("triton", "torch")
        backend = next(each for each in order if unavailable(each, device) is None)
    if not isinstance(backend, str) or backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)} or None, was {backend!r}")
    reason = unavailable(backend, device)
    if reason is not None:
        raise RuntimeError(f"backend must run on {device}, was {backend!r}: {reason}")
    return _bodies(backend)
