"""Small networks fused with their noise: from the name of a draw to an error count in one kernel.

logits(x, rows, sigma, samples, ids, *, seed, stream=0, clip=None) -> (S, K) float32
    The logits of slot s: those of image rows[s] with the noise that `kernels.perturb` would add,
    named (seed, stream, ids[rows[s]], samples[s]), times sigma[s]. Arguments as there. The noise
    has perturb's bits; sums over units are ordered otherwise than torch's, so logits differ by
    rounding. A slot's logits depend neither on the other slots nor on the number of threads.

count_errors(x, labels, sigma, ids, draws, counts, *, seed, stream=0, clip=None) -> None
    counts[b, g] (B, G) int64 += errors of image b at sigma[g] over samples [first, first + n) for
    draws = (first, n): those whose margin is not > 0. In compiled kernels nothing but counts leaves
    the cache, and the draws, with a linear first layer its product too, are made once for all
    sigmas. The reference, and what begins with a convolution on a GPU, makes them for each.

differentiate(points, rows, goal, gradient, *, loss, targeted=False, wanted=None,
              channels_last=False) -> (margin, gain, found)
    At points (S, D), rows of elements in C order or in that of channels_last, for images rows (S,)
    of classes goal (B,): the margin (S,), the gain that `loss` raises (S,), the class found (S,),
    and the gradient of the gain, to gradient (S, D). All as robustcore.gradients has them.

descend(x, points, rows, goal, radius, size, *, norm, steps, adapts, loss, targeted=False,
        box=None, channels_last=False) -> (margin, found, age, usable)
    Projected descent within radius (S,) of the images x (B, D), from points (S, D): at most `steps`
    steps of size (S,), halved when `adapts`, until an error. All steps are made in one call, each
    as `kernels.ball_step` makes it up to the order of its sums. points become the last; margin,
    class found, steps taken and whether a gradient was of use, (S,) each, belong to it.
    Cost: age + 1 gradient evaluations of each slot.

A linear first layer is applied to the noise alone: W (x + sigma z) + b is (W x + b) + sigma (W z),
the bracket being made once for each image. With clip, and before a convolution, noise is added to
the image as `perturb` does, with the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustcore.agreement import difference
from robustcore.fused.ascent import Ascents
from robustcore.fused.chain import NotPackable
from robustcore.fused.convolved import MOST, ConvolvedNet, units
from robustcore.fused.pack import pack
from robustcore.fused.packed import Packed
from robustcore.fused.reference import ReferenceNet

__all__ = ["Fused", "NotPackable", "Packed", "agrees", "fuse", "pack"]

# Backends that fuse an ordinary module unasked: those measured to be faster so. The others have
# not been measured yet; benchmarks/gpu.sh does it.
UNASKED = ("native",)

# Slots to a call: after it progress is shown, and an interrupt is heard. More on a CUDA device, for
# it is waited for; its memory sets no limit: no body keeps any for each slot.
AT_ONCE, AT_ONCE_CUDA = 2**16, 2**20
AGREE = 1e-4  # relative to a logit's size and range: rounding alone separates the two
TF32 = 2e-2  # the same where torch makes one of them from numbers of 10 bits


class Fused:
    """A packed network and the body that runs it, as the engine uses them."""

    def __init__(self, packed: Packed, backend: str, device: torch.device, clip: Any) -> None:
        self.body = _body(packed, backend, device, clip)
        self.packed, self.logits = packed, self.body.logits

    @property
    def ascent(self) -> Any:
        """The body, where it differentiates; the others leave that to torch."""
        return self.body if isinstance(self.body, Ascents) else None

    @property
    def note(self) -> str:
        """What a record says of it."""
        to = "its first convolution" if isinstance(self.body, ConvolvedNet) else "counts"
        said = f"fused from noise to {to}: {self.packed}"
        if self.packed.draws == "features":
            said += "; noise drawn in the image of the first layer, so not the draws of pixels"
        return said

    def counts(
        self,
        x: Tensor,
        labels: Tensor,
        sigma: Tensor,
        ids: Tensor,
        samples: int,
        progress: Callable[[int], object],
        **names: Any,
    ) -> np.ndarray:
        """Errors (B, G) of each image at each sigma over samples 0 to `samples` - 1."""
        counts = np.zeros((len(x), len(sigma)), np.int64)
        most = AT_ONCE_CUDA if x.is_cuda else AT_ONCE
        draws = min(samples, most)
        for start in range(0, len(x), most // draws):
            at = slice(start, start + most // draws)
            images, part = x[at], torch.empty(counts[at].shape, dtype=torch.int64, device=x.device)
            for first in range(0, samples, draws):
                number = min(draws, samples - first)
                self.body.count_errors(
                    images, labels[at], sigma, ids[at], (first, number), part.zero_(), **names
                )
                counts[at] += part.cpu().numpy()  # waits for the device
                progress(number * counts[at].size)
        return counts


def _body(packed: Packed, backend: str, device: torch.device, clip: Any) -> Any:
    """The body of a backend, imported only here; plain torch where it has none."""
    if backend == "native":
        from robustcore.fused.native import NativeNet

        return NativeNet(packed)
    if backend in ("cuda", "triton") and (clip is None if packed.dense else units(packed) <= MOST):
        if backend == "cuda":
            from robustcore.fused.cuda import CudaConvolvedNet, CudaNet, memory

            if not packed.dense:
                return CudaConvolvedNet(packed, device)
            need, most = memory(packed, device)
            return CudaNet(packed, device) if need <= most else ReferenceNet(packed)
        from robustcore.fused.triton_ascent import TritonAscents
        from robustcore.fused.triton_convolved import TritonConvolvedNet

        if not packed.dense:
            return TritonConvolvedNet(packed, device)
        if packed.elements * max(len(layer.bias) for layer in packed.layers) >= 2**31:
            return ReferenceNet(packed)  # a kernel's places in its weights are 32-bit numbers
        return TritonAscents(packed, device)
    return ReferenceNet(packed)


def fuse(
    model: Any,
    shape: tuple[int, ...],
    device: torch.device,
    dtype: torch.dtype,
    backend: str,
    clip: Any,
) -> Fused | None:
    """`model` in one kernel with its noise, or None where it must be called as it is.

    That is so for anything but a network that `pack` takes, on a backend that is UNASKED, for
    float32 images of this shape (C, H, W). On the other backends a network is fused when it is
    Packed by the user; on a GPU one that begins with a convolution up to that layer's answers.
    Draws in the features are the user's wish: ValueError where they cannot be made. Whether the
    fused network says what the model says is for `agrees` to see.
    """
    packed = model if isinstance(model, Packed) else None
    how = (backend, device, clip)
    if packed is not None and packed.draws == "features":
        if dtype != torch.float32:
            raise ValueError(f"x must be torch.float32 for draws='features', was {dtype}")
        if clip is not None:
            raise ValueError(f"clip must be None for draws='features', was {clip}")
        return Fused(packed, *how)
    if dtype != torch.float32:
        return None
    if packed is None:
        if backend not in UNASKED or not isinstance(model, nn.Module):
            return None
        try:
            packed = pack(model, shape)
        except NotPackable:
            return None
    fused = Fused(packed, *how)
    if isinstance(fused.body, ReferenceNet):
        return None
    return fused


def agrees(fused: Fused, x: Tensor, logits: Tensor, ranges: Tensor) -> bool:
    """Whether the packed network says of images x what the model says, which are `logits` (B, K).

    `ranges` (K,) are those of its logits over images. A network packed to draw in its features is
    the user's wish, and is not held against anything.
    """
    if fused.packed.draws == "features":
        return True
    rows = torch.arange(len(x), device=x.device)
    if logits.dtype != torch.float32 or not bool(logits.isfinite().any()):
        return False
    mine = fused.logits(x, rows, torch.zeros_like(x[:, 0, 0, 0]), rows, rows, seed=0)
    coarse = x.is_cuda and not fused.packed.dense and torch.backends.cudnn.allow_tf32
    return bool(difference(mine, logits, ranges).amax() <= (TF32 if coarse else AGREE))
