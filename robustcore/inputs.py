"""Checks at the public door: each names the argument, what it must be and what it was."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
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
    "as_images",
    "as_pictures",
    "box_around",
    "choice",
    "clip_range",
    "device",
    "flag",
    "float64",
    "folder",
    "fraction",
    "function",
    "group_numbers",
    "identifiers",
    "images",
    "input_shape",
    "integer",
    "label_sets",
    "labels",
    "labels_within",
    "left_out",
    "norm",
    "number",
    "optional_flag",
    "orthonormal",
    "path",
    "positive",
    "radii",
    "rate_for",
    "right_outputs",
    "shown",
    "sigma_of_all",
    "sigmas",
    "string",
    "strings",
    "takes_pictures",
    "takes_signals",
    "targets",
    "tensor",
    "tensors_of",
    "type_of",
]

MAX_ID = 2**32 - 1
ALONE = (1, 3)  # channels of an image without its batch dimension
CHECKED = 2**22  # elements looked at together
WITHOUT_FLOAT64 = ("mps",)  # devices
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Of the range of pixels: beyond the rounding of any floating type, far below any other convention.
OVERSHOOT = 0.01
ORTHONORMAL = 1e-4  # float32 directions of a hundred thousand elements come closer


class Ranges:
    """Where pixels should lie; warns once a call of images, and of noise, that do not."""

    def __init__(self, pixels: Any) -> None:
        self.pixels = None if pixels is None else pair("pixels", pixels)
        self._warned: set[str] = set()

    def begin(self) -> None:
        """A new call."""
        self._warned.clear()

    def see_images(self, x: Tensor) -> None:
        if self.pixels is None or "x" in self._warned:
            return
        low, high = self.pixels
        least, most = (float(end) for end in torch.aminmax(x))
        room = OVERSHOOT * (high - low)
        if low - room <= least and most <= high + room:
            return
        self._warned.add("x")
        warn(
            f"x should lie in [{low:g}, {high:g}], as the model takes pixels, ranged from "
            f"{least:g} to {most:g}: divide bytes by 255 and let the model normalise "
            "(robustcore.wrap), or give pixels=(low, high), or pixels=None for any range",
            PixelRangeWarning,
        )

    def see_amount(self, name: str, most: float) -> None:
        if self.pixels is None or name in self._warned:
            return
        low, high = self.pixels
        if most <= high - low:
            return
        self._warned.add(name)
        warn(
            f"{name} should be at most {high - low:g}, the span of pixels in [{low:g}, {high:g}], "
            f"one was {most:g}: divide 255ths by 255, or give pixels=(low, high), or pixels=None "
            "for any range",
            PixelRangeWarning,
        )


# -- images and what names them ----------------------------------------------------------------


def images(x: Any, model: Any = None, shape: Sequence[int] | None = None) -> Tensor:
    """One input or a batch of them to a contiguous batch (B, *shape), as `as_batch` says.

    The batch is in the type of the model's parameters, where they share one; else in that of x.
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
    x = as_batch(x, model, shape)
    if x.numel() == 0:
        raise ValueError(f"x must hold at least one element, had shape {tuple(x.shape)}")
    x = x.detach().to(type_of(model) or x.dtype).contiguous()
    bad = _not_finite(x).nonzero().flatten().tolist()
    if bad:
        raise ValueError(
            f"x must be finite, input {bad[0]} holds NaN or inf in {x.dtype} ({len(bad)} such)"
        )
    return x.clone() if x.is_inference() else x  # else autograd refuses what is computed from it


def _not_finite(x: Tensor) -> Tensor:
    """(B,) bool: which images hold NaN or inf; in parts, as torch copies what it looks at."""
    parts = x.split(max(1, CHECKED // x[0].numel()))
    return torch.cat([~torch.isfinite(part).flatten(1).all(1) for part in parts])


def as_batch(x: Any, model: Any = None, shape: Sequence[int] | None = None) -> Any:
    """A tensor or an array with the batch dimension that one input alone lacks.

    shape: of one input, where it is known; it distinguishes one input from several. Without it x is
    a batch, except that (C, H, W) of 1 or 3 channels is one picture for a module with 2-D
    convolutions. What may be one picture or a batch of signals raises ValueError, unless the module
    has 1-D convolutions or is recurrent.
    """
    given = tuple(x.shape)
    if shape is not None:
        known = tuple(shape)
        if given == known:
            return x[None]
        if given[1:] != known:
            raise ValueError(
                f"x must be inputs of shape {known}, as its engine is for, had shape {given}: "
                "make another Engine for others"
            )
        return x
    if len(given) < 2:
        raise ValueError(
            f"x must be a batch (B, *shape), had shape {given}: give x[None] for one input"
        )
    if len(given) != 3:
        return x
    if takes_pictures(model):
        return as_images(x)
    if given[0] in ALONE and min(given[1:]) > 1 and not takes_signals(model):
        raise ValueError(
            f"x must be a batch (B, *shape), had shape {given}, which may be one picture or "
            f"{given[0]} signals: give x[None] for one input, or Engine(model, shape=...)"
        )
    return x


def as_images(x: Any) -> Any:
    """A batch (B, C, H, W) of one picture (C, H, W) of 1 or 3 channels, or of several."""
    given = tuple(x.shape)
    if len(given) == 4:
        return x
    if len(given) == 3 and given[0] in ALONE:
        return x[None]
    hint = ""
    if len(given) == 3 and given[2] in ALONE:
        hint = ": the channels may stand last: move them first"
    elif len(given) == 3:
        hint = f": give x[None] for one image, x[:, None] for {given[0]} grey images"
    raise ValueError(
        "x must be one image (C, H, W) of 1 or 3 channels or a batch (B, C, H, W), had shape "
        f"{given}{hint}"
    )


def takes_pictures(model: Any) -> bool:
    """Whether a module has 2-D convolutions, so that its inputs are pictures (C, H, W)."""
    return _has(model, nn.Conv2d)


def takes_signals(model: Any) -> bool:
    """Whether a module has 1-D convolutions or is recurrent, so that its inputs are no pictures."""
    return _has(model, nn.Conv1d, nn.RNNBase)


def _has(model: Any, *kinds: type[nn.Module]) -> bool:
    return isinstance(model, nn.Module) and any(isinstance(m, kinds) for m in model.modules())


def as_pictures(x: Tensor) -> Tensor:
    """Inputs (B, *shape) as kernels take them: pictures as they are, others as (B, 1, 1, D)."""
    return x if x.ndim == 4 else x.reshape(len(x), 1, 1, -1)


def input_shape(shape: Any) -> tuple[int, ...]:
    """The shape of one input."""
    sizes = integers("shape", shape, "the shape of one input")
    if sizes.ndim != 1 or not sizes.size or sizes.min() < 1:
        raise ValueError(f"shape must be the shape of one input, was {shown(shape)}")
    return tuple(int(size) for size in sizes)


def tensors_of(module: nn.Module) -> tuple[list[nn.Module], list[Tensor], list[Tensor]]:
    """Its modules, their parameters and their buffers, in one pass: a call does it a few times."""
    modules = list(module.modules())
    held = ([*part._parameters.values()] for part in modules)
    buffers = ([*part._buffers.values()] for part in modules)
    return (
        modules,
        [each for values in held for each in values if each is not None],
        [each for values in buffers for each in values if each is not None],
    )


def type_of(model: Any) -> torch.dtype | None:
    """The floating type that all parameters of a module share; None where there is none."""
    if not isinstance(model, nn.Module):
        return None
    types = {each.dtype for each in tensors_of(model)[1] if each.dtype in FLOATS}
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
        raise ValueError(f"y must have one label for each of {n} inputs, had {found.shape}")
    if found.min() < 0:
        raise ValueError(f"y must not be negative, its least label was {found.min()}")
    return torch.from_numpy(found).to(device)


def label_sets(y: Any, n: int, device: torch.device) -> Tensor:
    """Right classes of each of n inputs: (n, M) int64, filled with -1; or (n, K) bool."""
    given = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if given.dtype == bool:
        if given.ndim != 2 or len(given) != n:
            raise ValueError(f"y must be (B, K) for {n} inputs, had shape {given.shape}")
        sets = given
        named = sets.any(1)
    else:
        sets = integers("y", y, "right classes (B, M)")
        if sets.ndim == 1:
            sets = sets[:, None]
        if sets.ndim != 2 or len(sets) != n:
            raise ValueError(f"y must be (B, M) for {n} inputs, had shape {sets.shape}")
        if sets.size and sets.min() < -1:
            raise ValueError(f"y must hold classes, or -1 for none, its least was {sets.min()}")
        named = (sets >= 0).any(1)
    if not named.all():
        raise ValueError(f"y must name a right class of each input, none of input {named.argmin()}")
    return torch.from_numpy(np.ascontiguousarray(sets)).to(device)


def right_outputs(y: Any, n: int, device: torch.device) -> Tensor:
    """Right answers of any form, one for each of n inputs, (n, ...)."""
    answers = y if isinstance(y, Tensor) else torch.from_numpy(np.array(y))
    if answers.ndim == 0 or len(answers) != n:
        raise ValueError(
            f"y must have one answer for each of {n} inputs, had shape {tuple(answers.shape)}"
        )
    if answers.is_floating_point() and not bool(torch.isfinite(answers).all()):
        raise ValueError("y must be finite, held NaN or inf")
    return answers.detach().to(device)


def group_numbers(groups: Any) -> Tensor:
    """The group of each class, from 0, to int64 (K,)."""
    found = integers("groups", groups, "the group of each class")
    if found.ndim != 1 or len(found) < 2 or found.min() < 0:
        raise ValueError(
            f"groups must hold a group from 0 for each of at least two classes, was {shown(groups)}"
        )
    return torch.from_numpy(found)


def labels_within(y: Tensor, n_classes: int) -> None:
    """Raises ValueError for a label that the model has no class for."""
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
        raise ValueError(f"ids must name each of {n} inputs, had shape {found.shape}")
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
            f"targets must have one class for each of {len(y)} inputs, had {found.shape}"
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


def orthonormal(name: str, value: Any) -> Tensor:
    """Directions (k, *shape), orthonormal up to rounding, to (k, D) float32."""
    if not isinstance(value, Tensor) or value.dtype not in FLOATS or value.layout != torch.strided:
        raise TypeError(f"{name} must be a dense floating-point tensor, was {shown(value)}")
    if value.ndim < 2:
        raise ValueError(f"{name} must be directions (k, ...), had shape {tuple(value.shape)}")
    basis = value.detach().flatten(1).float()
    count, size = basis.shape
    if not 1 <= count <= size:
        raise ValueError(
            f"{name} must hold 1 to {size} directions of {size} elements, held {count}"
        )
    wide = basis.double()
    off = (wide @ wide.T - torch.eye(count, dtype=torch.float64, device=basis.device)).abs().max()
    if not float(off) <= ORTHONORMAL:
        raise ValueError(
            f"{name} must be orthonormal, products were off by {float(off):.2g}: take "
            "torch.linalg.qr(basis.T).Q.T"
        )
    return basis.contiguous()


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
