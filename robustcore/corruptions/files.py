"""Images on disk, read a batch at a time: pictures, and the published benchmark files."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from robustcore import inputs
from robustcore.corruptions.benchmark import Condition, Images, asked, device_of, measure
from robustcore.corruptions.parameters import COMMON
from robustcore.engine import Engine
from robustcore.evaluator import PROBE
from robustcore.network import Model
from robustcore.provenance import provenance
from robustcore.results import CorruptionResult

SUFFIXES = (".jpeg", ".jpg", ".png", ".webp", ".bmp")


class ImageFiles:
    """Pictures on disk as images: len(files), and files[first:last] (n, 3, H, W) in [0, 1].

    paths: files that Pillow reads. size: (height, width) of the window that is cut from the middle
    of each; None keeps pictures whole, and those of one batch must then be of one size. Raises
    ValueError naming a file that has another size or is too small, OSError for one that is none.
    """

    def __init__(
        self, paths: Sequence[str | os.PathLike[str]], size: tuple[int, int] | None = None
    ) -> None:
        if isinstance(paths, (str, os.PathLike)) or not isinstance(paths, Sequence):
            raise TypeError(f"paths must be a list of files, was {inputs.shown(paths)}")
        self.paths = [inputs.path("paths", path, "files") for path in paths]
        if size is not None:
            try:
                height, width = size
            except (TypeError, ValueError):
                raise TypeError(
                    f"size must be (height, width) or None, was {inputs.shown(size)}"
                ) from None
            size = inputs.integer("size", height, 1), inputs.integer("size", width, 1)
        self.size = size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, part: slice, /) -> Tensor:
        paths = self.paths[part]
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            arrays = list(pool.map(self._read, paths))
        for path, array in zip(paths, arrays, strict=True):
            if array.shape != arrays[0].shape:
                raise ValueError(
                    f"paths must be pictures of one size, or size be given: {path} was "
                    f"{array.shape[:2]}, {paths[0]} {arrays[0].shape[:2]}"
                )
        return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255

    def _read(self, path: Path) -> np.ndarray:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        if self.size is None:
            return pixels
        top, left = (
            (have - want) // 2 for have, want in zip(pixels.shape, self.size, strict=False)
        )
        if min(top, left) < 0:
            raise ValueError(f"size must be at most that of {path}, {pixels.shape[:2]}")
        return pixels[top : top + self.size[0], left : left + self.size[1]]


class ArrayFile:
    """Rows first to last of an npy file (N, H, W, C) uint8, mapped, not read, as images."""

    def __init__(
        self, path: str | os.PathLike[str], first: int = 0, last: int | None = None
    ) -> None:
        file = inputs.path("path", path, "an npy file")
        first = inputs.integer("first", first, 0)
        last = None if last is None else inputs.integer("last", last, first)
        rows = _loaded(file, "path")
        if rows.ndim != 4 or rows.dtype != np.uint8:
            raise ValueError(
                f"path must hold uint8 images (N, H, W, C), {path} held {rows.dtype} {rows.shape}"
            )
        self.rows = rows[first:last]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, part: slice, /) -> Tensor:
        return torch.from_numpy(self.rows[part].copy()).permute(0, 3, 1, 2).float() / 255


def corruption_benchmark_files(
    model: Model | Engine,
    folder: str | os.PathLike[str],
    x: Any,
    y: Any = None,
    *,
    corruptions: Sequence[str] = COMMON,
    severities: Sequence[int] = (1, 2, 3, 4, 5),
    confidence: float = 0.95,
) -> CorruptionResult:
    """As `corruption_benchmark`, on the published files that a user has.

    folder: CIFAR-10-C or CIFAR-100-C, with NAME.npy of (50000, 32, 32, 3), severity by severity,
        and labels.npy; or ImageNet-C, with NAME/SEVERITY/CLASS/*.JPEG. NAME is as in `corrupt`.
    x: the clean images, in the order of the files: for ImageNet-C sorted by class folder, then by
        name. y: true classes; None takes those of the files: labels.npy, or the position of the
        class folder among the sorted ones, which are the usual order only if all 1,000 are there.

    Files are read in a stream. Raises FileNotFoundError for a missing file, ValueError naming what
    does not fit, and otherwise as `corruption_benchmark`.
    """
    start = time.perf_counter()
    wanted = asked(corruptions, severities)
    root = inputs.path("folder", folder)
    confidence = inputs.fraction("confidence", confidence)
    engine = Engine.of(model)
    clean = inputs.images(x) if isinstance(x, Tensor) else x
    device, n = device_of(engine, x), len(clean)
    try:
        arrays = any(root.glob("*.npy"))
    except OSError as error:
        raise type(error)(f"folder must be one that can be read, was {root}: {error}") from None
    if y is None:
        y = _labels(root, n) if arrays else _classes(_files(root, *wanted[0]))

    @lru_cache(2)  # the names of all conditions' files would take more than a gigabyte
    def held(name: str, severity: int) -> Images:
        if arrays:
            return _array(root, name, severity, n)
        return ImageFiles(_files(root, name, severity))

    def condition(name: str, severity: int) -> Condition:
        if len(held(name, severity)) != n:
            count = len(held(name, severity))
            raise ValueError(f"x must be the {count} images of {name}, was {n}")
        return Condition(name, severity, lambda part: held(name, severity)[part].to(device))

    conditions = [condition(*each) for each in wanted]
    clean_images = Condition("clean", 0, lambda part: inputs.images(clean[part]).to(device))
    with engine.used():
        return measure(
            engine,
            inputs.images(clean[:PROBE]).to(device),
            [clean_images, *conditions],
            y,
            n,
            torch.arange(n, device="cpu"),
            confidence=confidence,
            seed=0,
            finish=lambda evaluator: provenance(
                evaluator, "corruption files", None, start, {"folder": root.name}
            ),
        )


def _loaded(file: Path, name: str) -> np.ndarray:
    """An npy file, mapped, not read."""
    try:
        return np.load(file, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        kind = type(error) if isinstance(error, OSError) else ValueError
        raise kind(f"{name} must hold arrays in npy files, {file} does not: {error}") from None


def _labels(root: Path, n: int) -> np.ndarray:
    labels = _loaded(root / "labels.npy", "folder")
    if labels.ndim != 1 or len(labels) < n:
        raise ValueError(f"folder must hold {n} labels in labels.npy, had shape {labels.shape}")
    return labels[:n].astype(np.int64)


def _array(root: Path, name: str, severity: int, n: int) -> ArrayFile:
    """The first n images of one severity, of which a file holds five, one after another."""
    each = len(_loaded(root / f"{name}.npy", "folder")) // 5
    first = (severity - 1) * each
    return ArrayFile(root / f"{name}.npy", first, first + min(n, each))


def _files(root: Path, name: str, severity: int) -> list[Path]:
    folder = root / name / str(severity)
    found = sorted(path for path in folder.glob("*/*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise FileNotFoundError(f"folder must hold pictures by class, {folder} held none")
    return found


def _classes(paths: list[Path]) -> np.ndarray:
    order = {name: i for i, name in enumerate(sorted({path.parent.name for path in paths}))}
    return np.array([order[path.parent.name] for path in paths])
