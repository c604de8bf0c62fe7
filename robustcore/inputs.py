"""Checks at the public door: each names the argument, what it must be and what it was."""

from __future__ import annotations

import math
import operator
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

MAX_ID = 2**32 - 1
ALONE = (1, 3)  # channels of an image without its batch dimension
CHECKED = 2**22  # elements looked at together
WITHOUT_FLOAT64 = ("mps",)  # devices


def images(x: Any) -> Tensor:
    """One image (C, H, W) or a batch (B, C, H, W) to a contiguous batch (B, C, H, W).

    As `as_batch` says, an image that comes alone is grey or of 3 colours.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch.Tensor, was {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(
            f"x must be floating point with pixels in [0, 1], was {x.dtype}: use x.float() / 255"
        )
    x = as_batch(x)
    if x.numel() == 0:
        raise ValueError(f"x must hold at least one pixel, had shape {tuple(x.shape)}")
    bad = _not_finite(x).nonzero().flatten().tolist()
    if bad:
        raise ValueError(f"x must be finite, image {bad[0]} holds NaN or inf ({len(bad)} such)")
    x = x.detach().contiguous()
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
    y = tensor(y)
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise TypeError(f"y must be integer class indices, was {y.dtype}")
    if y.ndim == 0 and n == 1:
        y = y[None]
    if y.shape != (n,):
        raise ValueError(f"y must have one label for each of {n} images, had {tuple(y.shape)}")
    if int(y.min()) < 0:
        raise ValueError(f"y must not be negative, its least label was {int(y.min())}")
    return y.to(device, torch.int64).contiguous()


def labels_within(y: Tensor, n_classes: int) -> None:
    if int(y.max()) >= n_classes:
        raise ValueError(
            f"y must be below the model's {n_classes} classes, its largest label was {int(y.max())}"
        )


def identifiers(ids: Any, n: int, device: torch.device) -> Tensor:
    """Distinct names of n images, integers in [0, 2^32), to int64 (n,); None means 0 to n - 1."""
    if ids is None:
        return torch.arange(n, device=device)
    ids = tensor(ids)
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise TypeError(f"ids must be integers, was {ids.dtype}")
    if ids.ndim == 0 and n == 1:
        ids = ids[None]
    if ids.shape != (n,):
        raise ValueError(f"ids must name each of {n} images, had shape {tuple(ids.shape)}")
    ids = ids.to("cpu", torch.int64)
    if int(ids.min()) < 0 or int(ids.max()) > MAX_ID:
        raise ValueError(
            f"ids must lie in [0, 2^32), ranged from {int(ids.min())} to {int(ids.max())}"
        )
    values, times = ids.unique(return_counts=True)
    if len(values) < n:
        raise ValueError(f"ids must not repeat, {int(values[times > 1][0])} occurred twice or more")
    return ids.to(device)


def folder(name: str, where: str | os.PathLike[str]) -> Path:
    """Made if need be, and seen to be writable. Raises OSError."""
    found = Path(where)
    try:
        found.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=found, prefix=".robustcore-"):
            pass  # a new file of a name that nobody knows: follows no link, meets no other process
    except OSError as error:
        message = f"{name} must be a folder that can be written, was {where}: {error}"
        raise OSError(message) from None
    return found


def integer(name: str, value: Any, low: int, high: int | None = None) -> int:
    try:
        value = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, was {value!r}") from None
    if value < low or (high is not None and value > high):
        span = f"at least {low}" if high is None else f"in [{low}, {high}]"
        raise ValueError(f"{name} must be {span}, was {value}")
    return int(value)


def number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be a number, was {value!r}") from None


def positive(name: str, value: Any) -> float:
    value = number(name, value)
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name} must be positive and finite, was {value}")
    return value


def fraction(name: str, value: Any) -> float:
    value = number(name, value)
    if not 0 < value < 1:
        raise ValueError(f"{name} must lie strictly between 0 and 1, was {value}")
    return value


def rate_for(samples: int, error_rate: Any) -> float:
    rate = fraction("error_rate", error_rate)
    if rate * samples < 1 - 1e-9:
        raise ValueError(
            f"error_rate must be at least 1/samples = {1 / samples:g}, was {rate:g}: "
            f"give samples={math.ceil(1 / rate)} or more"
        )
    return rate


def sigmas(sigma: Any) -> np.ndarray:
    """A number or a one-dimensional grid to float64 (G,)."""
    if isinstance(sigma, Tensor):
        sigma = sigma.detach().cpu().numpy()
    try:
        grid = np.atleast_1d(np.asarray(sigma, dtype=np.float64))
    except (TypeError, ValueError):
        raise TypeError(f"sigma must be a number or a list of numbers, was {sigma!r}") from None
    if grid.ndim != 1 or grid.size == 0:
        raise ValueError(f"sigma must be a number or a flat grid, had shape {grid.shape}")
    if not (np.isfinite(grid).all() and (grid >= 0).all()):
        bad = grid[~(np.isfinite(grid) & (grid >= 0))][0]
        raise ValueError(f"sigma must be finite and not negative, one was {bad}")
    return grid


def clip_range(clip: Sequence[float] | None) -> tuple[float, float] | None:
    if clip is None:
        return None
    try:
        low, high = (float(v) for v in clip)
    except (TypeError, ValueError):
        raise TypeError(f"clip must be None or (low, high), was {clip!r}") from None
    if not low < high:
        raise ValueError(f"clip must be (low, high) with low < high, was {(low, high)}")
    return low, high


def left_out(name: str, value: Any, where: str) -> None:
    if value is not None:
        raise ValueError(f"{name} must be left out {where}, was {value!r}")


def choice(name: str, value: Any, known: Sequence[str]) -> str:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, was {value!r}")
    return str(value)


def norm(value: Any) -> float:
    """2 or inf, or their names, to 2.0 or inf."""
    known = {"2": 2.0, "2.0": 2.0, "l2": 2.0, "inf": math.inf, "linf": math.inf}
    found = known.get(str(value).lower())
    if found is None:
        raise ValueError(f"norm must be 2 or inf (or 'L2', 'Linf'), was {value!r}")
    return found


def radii(eps: Any) -> np.ndarray:
    """A radius or a grid of them to float64 (G,), ascending."""
    if isinstance(eps, Tensor):
        eps = eps.detach().cpu().numpy()
    try:
        grid = np.atleast_1d(np.asarray(eps, dtype=np.float64))
    except (TypeError, ValueError):
        raise TypeError(f"eps must be a number or a list of numbers, was {eps!r}") from None
    if grid.ndim != 1 or grid.size == 0:
        raise ValueError(f"eps must be a number or a flat grid, had shape {grid.shape}")
    if not (np.isfinite(grid).all() and (grid > 0).all()):
        bad = grid[~(np.isfinite(grid) & (grid > 0))][0]
        raise ValueError(f"eps must be positive and finite, one was {bad}")
    return np.unique(grid)


def box_around(box: Any, x: Tensor) -> tuple[float, float] | None:
    """None or (low, high), within which all of x must lie."""
    if box is None:
        return None
    try:
        low, high = clip_range(box) or (0.0, 0.0)
    except (TypeError, ValueError) as error:
        raise type(error)(str(error).replace("clip", "box", 1)) from None
    least, most = float(x.min()), float(x.max())
    if least < low or most > high:
        raise ValueError(
            f"x must lie in the box [{low:g}, {high:g}], ranged from {least:g} to {most:g}"
        )
    return low, high


def targets(wanted: Any, y: Tensor, n_classes: int) -> Tensor:
    """Classes to reach, one for each image or one for all, to int64 (n,) on the device of y."""
    wanted = tensor(wanted)
    if wanted.is_floating_point() or wanted.is_complex() or wanted.dtype == torch.bool:
        raise TypeError(f"targets must be integer class indices, was {wanted.dtype}")
    if wanted.ndim == 0:
        wanted = wanted.repeat(len(y))
    if wanted.shape != y.shape:
        raise ValueError(
            f"targets must have one class for each of {len(y)} images, had {tuple(wanted.shape)}"
        )
    wanted = wanted.to(y.device, torch.int64)
    if int(wanted.min()) < 0 or int(wanted.max()) >= n_classes:
        raise ValueError(
            f"targets must lie in [0, {n_classes}), "
            f"ranged from {int(wanted.min())} to {int(wanted.max())}"
        )
    if bool((wanted == y).any()):
        image = int((wanted == y).nonzero()[0])
        raise ValueError(f"targets must differ from the labels, that of image {image} did not")
    return wanted
