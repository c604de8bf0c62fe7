"""Noisy copies of images, to look at or to store: the draws that the measurements count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustcore import inputs
from robustcore.kernels import select


def noisy_copies(
    x: Tensor,  # (B, C, H, W) or (C, H, W)
    sigma: float | Sequence[float] | np.ndarray,  # G values
    *,
    sample: int = 0,
    seed: int = 0,
    ids: Any = None,
    pixels: tuple[float, float] | None = (0.0, 1.0),
    clip: tuple[float, float] | None = None,
    backend: str | None = None,
) -> Tensor:
    """Draw number `sample` of N(x, sigma^2 I) at each sigma: (B, G, C, H, W), of x's type.

    The very draws that `error_rate` counts with the same seed, ids and clip; one draw at all G
    values of sigma. x, sigma, seed, ids, clip: as there; pixels, backend: as in `Engine`.
    Deterministic, bit for bit, on every backend. Raises ValueError, TypeError or RuntimeError
    naming the argument.
    """
    ranges = inputs.Ranges(pixels)
    batch = inputs.images(x)
    ranges.see_images(batch)
    grid = inputs.sigmas(sigma, ranges)
    sample = inputs.integer("sample", sample, 0, 2**32 - 1)
    seed = inputs.integer("seed", seed, 0, 2**63 - 1)
    n, device = len(batch), batch.device
    rows = torch.arange(n, device=device).repeat_interleave(len(grid))
    out = torch.empty((len(rows), *batch.shape[1:]), dtype=torch.float32, device=device)
    select(backend, device).perturb(
        batch.float(),
        rows,
        torch.as_tensor(grid, device=device).float().repeat(n),
        torch.full_like(rows, sample),
        inputs.identifiers(ids, n, device),
        out,
        seed=seed,
        clip=inputs.clip_range(clip, batch),
    )
    return out.to(batch.dtype).view(n, len(grid), *batch.shape[1:])
