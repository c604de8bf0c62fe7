"""Checks at the public door: each names the argument, what it must be and what it was."""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustcore.arguments import (
    choice,
    flag,
    fraction,
    function,
    grid,
    integer,
    integers,
    left_out,
    number,
    optional_flag,
    pair,
    positive,
    shown,
    string,
    strings,
)
from robustcore.warning import PixelRangeWarning, warn

__all__ = [
    "Ranges",
    "as_batch",
    "box_around",
    "choice",
    "clip_range",
    "device",
    "flag",
    "float64",
    "folder",
    "fraction",
    "function",
    "identifiers",
    "images",
    "integer",
    "labels",
    "labels_within",
    "left_out",
    "norm",
    "number",
    "optional_flag",
    "path",
    "positive",
    "radii",
    "rate_for",
    "shown",
    "sigma_of_all",
    "sigmas",
    "string",
    "strings",
    "targets",
    "tensor",
    "type_of",
]

MAX_ID = 2**32 - 1
ALONE = (1, 3)  # channels of an image without its batch dimension
CHECKED = 2**22  # elements looked at together
WITHOUT_FLOAT64 = ("mps",)  # devices
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Of the range of pixels: beyond the rounding of any floating type, far below any other convention.
OVERSHOOT = 0.01


class Ranges:
    """Where pixels should lie; tells once a call of images, and of noise, that do not."""

    def __init__(self, pixels: Any) -> None:
        self.pixels = None if pixels is None else pair("pixels", pixels)
        self._told: set[str] = set()

    def begin(self) -> None:
        """A new call."""
        self._told.clear()

    def see_images(self, x: Tensor) -> None:
        if self.pixels is None or "x" in self._told:
            return
        low, high = self.pixels
        least, most = (float(end) for end in torch.aminmax(x))
        room = OVERSHOOT * (high - low)
        if low - room <= least and most <= high + room:
            return
        self._told.add("x")
        warn(
            f"x should lie in [{low:g}, {high:g}], as the model takes pixels, ranged from "
            f"{least:g} to {most:g}: divide bytes by 255 and let the model normalise "
            "(robustcore.wrap), or give pixels=(low, high), or pixels=None for any range",
            PixelRangeWarning,
        )

    def see_amount(self, name: str, most: float) -> None:
        if self.pixels is None or name in self._told:
            return
        low, high = self.pixels
        if most <= high - low:
            return
        self._told.add(name)
        warn(
            f"{name} should be at most {high - low:g}, the span of pixels in [{low:g}, {high:g}], "
            f"one was {most:g}: divide 255ths by 255, or give pixels=(low, high), or pixels=None "
            "for any range",
            PixelRangeWarning,
        )


# -- images and what names them ----------------------------------------------------------------


def images(x: Any, model: Any = None) -> Tensor:
    """One image (C, H, W) or a batch (B, C, H, W) to a contiguous batch (B, C, H, W).

    As `as_batch` says, an image that comes alone is grey or of 3 colours. The batch is in the type
    of the model's parameters, where they share one; else in that of x.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch.Tensor, was {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(
            f"x must be floating point with pixels in [0, 1], was {x.dtype}: use x.float() / 255"
        )
    if x.dtype not in FLOATS or x.layout != torch.strided or x.device.type == "meta":
        raise TypeError(
            "x must be a dense tensor of float16, bfloat16, float32 or float64 with values, was "
            f"{x.dtype}, {x.layout}, on {x.device}"
        )
    x = as_batch(x)
    if x.numel() == 0:
        raise ValueError(f"x must hold at least one pixel, had shape {tuple(x.shape)}")
    x = x.detach().to(type_of(model) or x.dtype).contiguous()
    bad = _not_finite(x).nonzero().flatten().tolist()
    if bad:
        raise ValueError(
            f"x must be finite, image {bad[0]} holds NaN or inf in {x.dtype} ({len(bad)} such)"
        )
    return x.clone() if x.is_inference() else x  # else autograd refuses what is computed from it


def _not_finite(x: Tensor) -> Tensor:
    """(B,) bool: which images hold NaN or inf; in parts, as torch copies what it looks at."""
    parts = x.split(max(1, CHECKED // x[0].numel()))
    return torch.cat([~torch.isfinite(part).flatten(1).all(1) for part in parts])


def as_batch(x: Any) -> Any:
    """A tensor or an array with the batch dimension that an image alone lacks.

    Only (1, H, W) and (3, H, W) are taken for an image alone: (N, H, W) may as well be N grey
    images, and (H, W, 3) an image whose channels stand last.
    """
    shape = tuple(x.shape)
    if len(shape) == 3 and shape[0] in ALONE:
        return x[None]
    if len(shape) == 3 and shape[2] in ALONE:
        raise ValueError(
            f"x must be one image (C, H, W) or a batch (B, C, H, W), had shape {shape}, whose "
            "channels may stand last: move them first"
        )
    if len(shape) == 3:
        raise ValueError(
            f"x must be one image (C, H, W) of 1 or 3 channels or a batch (B, C, H, W), had shape "
            f"{shape}: give x[None] for one image, x[:, None] for {shape[0]} grey images"
        )
    if len(shape) != 4:
        raise ValueError(
            f"x must be one image (C, H, W) or a batch (B, C, H, W), had shape {shape}"
        )
    return x


def type_of(model: Any) -> torch.dtype | None:
    """The floating type that all parameters of a module share; None where there is none."""
    if not isinstance(model, nn.Module):
        return None
    types = {each.dtype for each in model.parameters() if each.dtype in FLOATS}
    return types.pop() if len(types) == 1 else None


def tensor(value: Any) -> Tensor:
    """On the CPU, whatever torch's default device, if it is no tensor yet."""
    return value if isinstance(value, Tensor) else torch.as_tensor(value, device="cpu")


def float64(device: torch.device) -> torch.device:
    """Margins, distances and sums are float64."""
    if device.type in WITHOUT_FLOAT64:
        raise ValueError(
            f"x must be on a device that knows float64, was on {device}: move both to the CPU"
        )
    return device


def labels(y: Any, n: int, device: torch.device) -> Tensor:
    """Class indices, one for each of n images, to int64 (n,) on the device."""
    found = integers("y", y, "integer class indices")
    if found.ndim == 0 and n == 1:
        found = found[None]
    if found.shape != (n,):
        raise ValueError(f"y must have one label for each of {n} images, had {found.shape}")
    if found.min() < 0:
        raise ValueError(f"y must not be negative, its least label was {found.min()}")
    return torch.from_numpy(found).to(device)


def labels_within(y: Tensor, n_classes: int) -> None:
    if int(y.max()) >= n_classes:
        raise ValueError(
            f"y must be below the model's {n_classes} classes, its largest label was {int(y.max())}"
        )


def identifiers(ids: Any, n: int, device: torch.device) -> Tensor:
    """Distinct names of n images, integers in [0, 2^32), to int64 (n,); None means 0 to n - 1."""
    if ids is None:
        return torch.arange(n, device=device)
    found = integers("ids", ids)
    if found.ndim == 0 and n == 1:
        found = found[None]
    if found.shape != (n,):
        raise ValueError(f"ids must name each of {n} images, had shape {found.shape}")
    if found.min() < 0 or found.max() > MAX_ID:
        raise ValueError(f"ids must lie in [0, 2^32), ranged from {found.min()} to {found.max()}")
    values, times = np.unique(found, return_counts=True)
    if len(values) < n:
        raise ValueError(f"ids must not repeat, {values[times > 1][0]} occurred twice or more")
    return torch.from_numpy(found).to(device)


def targets(wanted: Any, y: Tensor, n_classes: int) -> Tensor:
    """Classes to reach, one for each image or one for all, to int64 (n,) on the device of y."""
    found = integers("targets", wanted, "integer class indices")
    if found.ndim == 0:
        found = found.repeat(len(y))
    if found.shape != tuple(y.shape):
        raise ValueError(
            f"targets must have one class for each of {len(y)} images, had {found.shape}"
        )
    if found.min() < 0 or found.max() >= n_classes:
        raise ValueError(
            f"targets must lie in [0, {n_classes}), ranged from {found.min()} to {found.max()}"
        )
    chosen = torch.from_numpy(found).to(y.device)
    if bool((chosen == y).any()):
        image = int((chosen == y).nonzero()[0])
        raise ValueError(f"targets must differ from the labels, that of image {image} did not")
    return chosen


# -- places ------------------------------------------------------------------------------------


def path(name: str, value: Any, must_be: str = "a folder") -> Path:
    """A path that is not empty, which would be the current folder."""
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{name} must be {must_be}, was {shown(value)}")
    text = os.fspath(value)
    if not isinstance(text, str) or not text or "\0" in text:
        raise ValueError(f"{name} must be {must_be}, was {shown(value)}")
    return Path(text)


def folder(name: str, where: str | os.PathLike[str]) -> Path:
    """Made if need be, and seen to be writable. Raises OSError."""
    found = path(name, where)
    try:
        found.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=found, prefix=".robustcore-"):
            pass  # a new file of a name that nobody knows: follows no link, meets no other process
    except OSError as error:
        message = f"{name} must be a folder that can be written, was {where}: {error}"
        raise OSError(message) from None
    return found


def device(name: str, value: Any) -> torch.device:
    """A device that torch can use here. Nothing is put on a GPU that may be another rank's."""
    try:
        found = torch.device(value)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{name} must name a torch device, was {shown(value)}") from error
    reason = _unusable(found)
    if reason is not None:
        message = f"{name} must be one that torch can use here, was {shown(value)}: {reason}"
        raise ValueError(message)
    return found


def _unusable(found: torch.device) -> str | None:
    if found.type == "cuda":
        count = torch.cuda.device_count()
        return None if (found.index or 0) < count else f"torch sees {count} CUDA devices"
    try:
        torch.zeros(1, device=found).item()
    except Exception as error:  # of any type: torch's backends have their own
        return str(error).partition("\n")[0]
    return None


# -- amounts -----------------------------------------------------------------------------------


def rate_for(samples: int, error_rate: Any, name: str = "error_rate") -> float:
    rate = fraction(name, error_rate)
    if rate * samples < 1 - 1e-9:
        raise ValueError(
            f"{name} must be at least 1/samples = {1 / samples:g}, was {rate:g}: "
            f"give samples={math.ceil(1 / rate)} or more"
        )
    return rate


def sigmas(sigma: Any, ranges: Ranges | None = None) -> np.ndarray:
    """A number or a one-dimensional grid to float64 (G,)."""
    values = grid("sigma", sigma, zero=True)
    if ranges is not None:
        ranges.see_amount("sigma", float(values.max()))
    return values


def sigma_of_all(sigma: Any, ranges: Ranges) -> float:
    """One sigma, above 0."""
    value = positive("sigma", sigma)
    ranges.see_amount("sigma", value)
    return value


def radii(eps: Any, norm: float, ranges: Ranges) -> np.ndarray:
    """A radius or a grid of them to float64 (G,), ascending."""
    values = np.unique(grid("eps", eps))
    if math.isinf(norm):
        ranges.see_amount("eps", float(values.max()))
    return values


def clip_range(clip: Any, x: Tensor | None = None) -> tuple[float, float] | None:
    """None or (low, high), within which x must lie, up to rounding."""
    if clip is None:
        return None
    low, high = pair("clip", clip)
    if x is not None:
        _inside("clip", x, low, high, OVERSHOOT * (high - low))
    return low, high


def box_around(box: Any, x: Tensor) -> tuple[float, float] | None:
    """None or (low, high), within which all of x must lie."""
    if box is None:
        return None
    low, high = pair("box", box)
    _inside("box", x, low, high)
    return low, high


def _inside(name: str, x: Tensor, low: float, high: float, room: float = 0.0) -> None:
    least, most = (float(end) for end in torch.aminmax(x))
    if least < low - room or most > high + room:
        raise ValueError(
            f"x must lie in the {name} [{low:g}, {high:g}], ranged from {least:g} to {most:g}"
        )


def norm(value: Any) -> float:
    """2 or inf, or their names, to 2.0 or inf."""
    known = {"2": 2.0, "2.0": 2.0, "l2": 2.0, "inf": math.inf, "linf": math.inf}
    name = value if isinstance(value, str) else f"{number('norm', value)}"
    found = known.get(name.lower())
    if found is None:
        raise ValueError(f"norm must be 2 or inf (or 'L2', 'Linf'), was {shown(value)}")
    return found
