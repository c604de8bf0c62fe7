"""A folder of pictures, with their labels in a CSV file."""

from __future__ import annotations

import csv
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from robustcore import inputs

COLUMNS = {
    "file": ("file", "filename", "path", "image"),
    "label": ("label", "class", "target", "y"),
}


class LabelledFolder:
    """Pictures in a folder, named with their classes by a CSV file.

    labels: CSV file with a header and the columns `file` (relative to the folder) and `label` (an
        integer); `labels.csv` in the folder by default. Its order is that of the images.
    size: pictures are scaled so that the shorter side is 8/7 of it (256 for 224), and the middle
        size x size is cut out. None keeps them whole; they must then be of one size.
    images: how many, from the first; all by default.

    len(folder); folder[first:last] is a float batch (n, C, H, W) in [0, 1], C 1 where the first
    picture is grey, else 3; `y` (N,) int64. Raises OSError or ValueError naming the file.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        labels: str | os.PathLike[str] | None = None,
        size: int | None = None,
        images: int | None = None,
    ) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise FileNotFoundError(f"x must be a folder of images, there is none at {folder}")
        self.size = None if size is None else inputs.integer("size", size, 1)
        table = self.folder / "labels.csv" if labels is None else Path(labels)
        files, self.y = _labels_from(table)
        if images is not None:
            images = inputs.integer("images", images, 1, len(files))
            files, self.y = files[:images], self.y[:images]
        self.paths = [self.folder / name for name in files]
        self.bytes = [_size_of(path, table) for path in self.paths]
        with _opened(self.paths[0]) as picture:
            self.mode = "L" if picture.mode in ("1", "L") else "RGB"

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, part: slice, /) -> Tensor:
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            arrays = list(pool.map(self._pixels, self.paths[part]))
        for path, array in zip(self.paths[part], arrays, strict=True):
            if array.shape != arrays[0].shape:
                raise ValueError(
                    f"x must hold images of one size, or size be given: {path} had shape "
                    f"{array.shape}, one beside it {arrays[0].shape}"
                )
        return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255

    def _pixels(self, path: Path) -> np.ndarray:
        with _opened(path) as picture:
            try:
                pixels = picture.convert(self.mode)
            except OSError as error:
                raise OSError(
                    f"x must hold images that Pillow reads, not {path}: {error}"
                ) from None
        if self.size is not None:
            width, height = pixels.size
            scale = 8 / 7 * self.size / min(width, height)
            across, down = (max(self.size, round(v * scale)) for v in (width, height))
            pixels = pixels.resize((across, down), Image.Resampling.BILINEAR)
            left, top = (across - self.size) // 2, (down - self.size) // 2
            pixels = pixels.crop((left, top, left + self.size, top + self.size))
        array = np.asarray(pixels)
        return array[..., None] if array.ndim == 2 else array


def _labels_from(table: Path) -> tuple[list[str], np.ndarray]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:  # Excel begins with a mark
            rows = list(csv.DictReader(file, skipinitialspace=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise OSError(f"labels must be a CSV file that can be read, was {table}: {error}") from None
    if not rows:
        raise ValueError(f"labels must have a header and a row for each image, {table} had none")
    names = {str(name).strip().lower(): name for name in rows[0]}
    wanted = {
        column: next((names[each] for each in known if each in names), None)
        for column, known in COLUMNS.items()
    }
    if None in wanted.values():
        raise ValueError(
            f"labels must have the columns file and label, {table} had {', '.join(names)}"
        )
    labels = np.zeros(len(rows), np.int64)
    for i, row in enumerate(rows):
        try:
            labels[i] = int(row[wanted["label"]])
        except (TypeError, ValueError, OverflowError):
            raise ValueError(
                f"labels must be integer classes, line {i + 2} of {table} had "
                f"{row[wanted['label']]!r}"
            ) from None
        if not row[wanted["file"]]:
            raise ValueError(
                f"labels must name a file in each line, line {i + 2} of {table} did not"
            )
        if labels[i] < 0:
            raise ValueError(
                f"labels must not be negative, line {i + 2} of {table} had {labels[i]}"
            )
    return [row[wanted["file"]] for row in rows], labels


def _size_of(path: Path, table: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        reason = error.strerror
        raise FileNotFoundError(
            f"x must hold every file that {table} names, but {path}: {reason}"
        ) from None


def _opened(path: Path) -> Image.Image:
    try:
        picture = Image.open(path)
    except OSError as error:
        raise OSError(f"x must hold images that Pillow reads, not {path}: {error}") from None
    return of_bytes(picture, str(path))


def of_bytes(picture: Image.Image, name: str) -> Image.Image:
    """The picture. Raises ValueError for one of more bits, which Pillow would cut off at 255."""
    if picture.mode[0] in "IF":
        raise ValueError(f"x must hold images of 8 bits a channel, {name} was {picture.mode}")
    return picture
