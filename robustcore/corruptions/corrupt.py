"""One image corruption: what a user passes, checked, to the functions that make it."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from robustcore import inputs
from robustcore.corruptions import blur, digital, noise, weather
from robustcore.corruptions.batch import Batch
from robustcore.corruptions.kernels import Kernels, select
from robustcore.corruptions.parameters import (
    CIFAR_UP_TO,
    COLOUR_ONLY,
    NAMES,
    PARAMETERS,
    SMALLEST,
)

CHUNK = 1 << 20  # values corrupted at a time: bounds memory, changes no result

FUNCTIONS: dict[str, Callable[[Batch, Any], Tensor]] = {
    each: getattr(room, each)
    for room in (noise, blur, weather, digital)
    for each in NAMES
    if hasattr(room, each)
}


def corrupt(
    x: Tensor,  # (B, C, H, W) or (C, H, W)
    name: str,
    severity: int = 1,
    *,
    seed: int = 0,
    ids: Any = None,
    parameters: str | None = None,
    backend: str | None = None,
) -> Tensor:
    """Images with one of the corruptions of Hendrycks and Dietterich, as their code defines it.

    x: floating-point images in [0, 1], finite, of 1 or 3 channels and at least 32 pixels a side.
    name: one of `robustcore.corruptions.NAMES`: the 15 of the benchmark, or speckle_noise,
        gaussian_blur, spatter or saturate (colours only).
    severity: 1 to 5.
    seed, ids: random corruptions are a function of (seed, id, name, severity) and of the image's
        size: an image corrupts alike in any batch, order or run. ids are distinct integers in
        [0, 2^32), positions by default.
    parameters: "cifar" or "imagenet", the published sets for 32 and for 224 pixels. None takes
        "cifar" where the shorter side is at most 64. Lengths are not scaled with the image, except
        elastic_transform's.
    backend: "native" (C++, CPU only), "triton" (CUDA only), "torch" (any device) or "reference"
        (the same, slower); None takes the first of these that runs.

    Returns images of x's shape, type and device in [0, 1], never rounded to 8 bits at the end:
    `storage` of `corruption_benchmark` does that. Between devices and backends values agree within
    float32 rounding, but a shot noise count, or a value cut to 8 bits inside glass_blur or
    spatter, may fall on the other side of a step in rare pixels. jpeg_compression is Pillow's, on
    the CPU; frost uses four photographs (see NOTICE). Deterministic ones (defocus_blur, zoom_blur,
    gaussian_blur, brightness, contrast, saturate, pixelate, jpeg_compression) ignore seed and ids.

    Raises ValueError or TypeError naming the argument, RuntimeError for a backend that cannot run.

    Source: Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions
    and Perturbations, ICLR 2019, and the parameters of their released code.
    """
    single = getattr(x, "ndim", 4) == 3
    name = known_name("name", name)
    severity = inputs.integer("severity", severity, 1, 5)
    batch = pixels(x, (name,))
    names = inputs.identifiers(ids, len(batch), batch.device)
    seed = inputs.integer("seed", seed, 0, 2**63 - 1)
    chosen = parameter_set(parameters, batch.shape[2:])
    bodies = select(backend, batch.device)
    with torch.no_grad():
        out = corrupted(batch, name, severity, seed, names, chosen, bodies)
    return out[0] if single else out


def corrupted(
    x: Tensor, name: str, severity: int, seed: int, ids: Tensor, parameters: str, bodies: Kernels
) -> Tensor:
    """As `corrupt`, for arguments that were checked."""
    c = PARAMETERS[parameters][name][severity - 1]
    if name == "frost":
        c = (*c, parameters == "cifar")
    out = torch.empty_like(x, dtype=torch.float32)
    step = max(1, CHUNK // x[0].numel())
    for first in range(0, len(x), step):
        part = slice(first, first + step)
        batch = Batch(x[part].float(), ids[part], name, severity, seed, bodies)
        torch.clamp(FUNCTIONS[name](batch, c), 0, 1, out=out[part])
    return out.to(x.dtype)


def known_name(argument: str, name: Any) -> str:
    if not isinstance(name, str) or name not in NAMES:
        near = difflib.get_close_matches(str(name), NAMES, 1, 0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"{argument} must be one of {', '.join(NAMES)}, was {inputs.shown(name)}{hint}"
        )
    return str(name)


def parameter_set(parameters: Any, size: Any) -> str:
    if parameters is None:
        return "cifar" if min(size) <= CIFAR_UP_TO else "imagenet"
    return inputs.choice("parameters", parameters, tuple(PARAMETERS))


def pixels(x: Any, names: tuple[str, ...]) -> Tensor:
    """Images to a contiguous batch (B, C, H, W), which the corruptions `names` can take."""
    if not isinstance(x, Tensor) or x.dtype not in inputs.FLOATS:
        return inputs.images(x)  # which refuses it
    if x.layout != torch.strided or x.device.type == "meta":
        return inputs.images(x)
    batch = inputs.as_images(x)
    if batch.numel() == 0:
        return inputs.images(batch)
    channels, height, width = batch.shape[1:]
    if min(height, width) < SMALLEST:
        raise ValueError(
            f"x must be at least {SMALLEST} pixels high and wide, was {height} x {width}"
        )
    if channels not in (1, 3):
        raise ValueError(f"x must have 1 or 3 channels, had {channels}")
    need = [name for name in names if name in COLOUR_ONLY]
    if channels == 1 and need:
        able = ", ".join(name for name in NAMES if name not in COLOUR_ONLY)
        raise ValueError(
            f"x must have 3 channels for {', '.join(need)}, had 1: one channel can have {able}"
        )
    low, high = (float(end) for end in torch.aminmax(batch))  # one pass: it is NaN if any is
    if not (low >= 0 and high <= 1):
        inputs.images(batch)  # refuses what is not finite
        raise ValueError(f"x must lie in [0, 1], ranged from {low:g} to {high:g}")
    return batch.detach().contiguous()
