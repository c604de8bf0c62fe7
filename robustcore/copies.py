"""Noisy copies of images, to look at or to store: the draws that the measurements count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustcore import inputs
from robustcore import noise as laws
from robustcore.kernels import select
from robustcore.noise import Noise
from robustcore.streams import Stream


def noisy_copies(
    x: Tensor,  # (B, *shape)
    sigma: float | Sequence[float] | np.ndarray,  # G values
    *,
    sample: int = 0,
    seed: int = 0,
    ids: Any = None,
    pixels: tuple[float, float] | None = (0.0, 1.0),
    noise: Noise | None = None,
    backend: str | None = None,
) -> Tensor:
    """Draw number `sample` of the noise at each scale sigma: (B, G, *shape), of x's type.

    The very draws that `error_rate` counts with the same seed, ids and noise; one draw at all G
    values of sigma. x, sigma, seed, ids, noise: as there; pixels, backend: as in `Engine`.
    Deterministic, bit for bit, on every backend. Raises ValueError, TypeError or RuntimeError
    naming the argument.
    """
    ranges = inputs.Ranges(pixels)
    batch = inputs.images(x)
    x = inputs.as_pictures(batch.float())
    ranges.see_images(batch)
    grid = inputs.sigmas(sigma, ranges)
    sample = inputs.integer("sample", sample, 0, 2**32 - 1)
    seed = inputs.integer("seed", seed, 0, 2**63 - 1)
    n, device = len(batch), batch.device
    rows = torch.arange(n, device=device).repeat_interleave(len(grid))
    out = torch.empty((len(rows), *x.shape[1:]), dtype=torch.float32, device=device)
    law = laws.of(noise)
    law.check_clip(x)
    law.perturb(
        select(backend, device),
        x,
        rows,
        torch.as_tensor(grid, device=device).float().repeat(n),
        torch.full_like(rows, sample),
        inputs.identifiers(ids, n, device),
        out,
        shape=batch.shape[1:],
        seed=seed,
        stream=Stream.NOISE,
    )
    return out.to(batch.dtype).view(n, len(grid), *batch.shape[1:])
