"""A folder of pictures, with their labels in a CSV file."""

from __future__ import annotations

import csv
import os
import re
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePath

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from robustcore import inputs

COLUMNS = {
    "file": ("file", "filename", "path", "image"),
    "label": ("label", "class", "target", "y"),
}
SCALED = 2**24  # pixels of a scaled picture before its middle is cut out
MARGIN = 4  # longer side over the shorter one, of a picture that would be scaled to more


class LabelledFolder:
    """Pictures in a folder, named with their classes by a CSV file.

    labels: CSV file with a header and the columns `file` (relative to the folder, and within it)
        and `label` (an integer); `labels.csv` in the folder by default. Its order is that of the
        images. A symbolic link in the folder is followed, wherever it leads, as data stores use
        them.
    size: pictures are scaled so that the shorter side is 8/7 of it (256 for 224), and the middle
        size x size is cut out. None keeps them whole; they must then be of one size. A picture of
        more pixels than Pillow's MAX_IMAGE_PIXELS allows is refused.
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
        self.folder = inputs.path("folder", folder)
        try:
            there = self.folder.is_dir()
        except OSError:  # of a name that no folder can have
            there = False
        if not there:
            raise FileNotFoundError(f"x must be a folder of images, there is none at {folder}")
        self.size = None if size is None else inputs.integer("size", size, 1)
        table = (
            self.folder / "labels.csv"
            if labels is None
            else inputs.path("labels", labels, "a CSV file")
        )
        files, self.y = _labels_from(table)
        if images is not None:
            images = inputs.integer("images", images, 1, len(files))
            files, self.y = files[:images], self.y[:images]
        self.paths = [self.folder / _inside(name, table) for name in files]
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
        with _opened(path) as picture, _naming(path):
            pixels = picture.convert(self.mode)
        if self.size is not None:
            pixels = _cut(pixels, self.size)
        array = np.asarray(pixels)
        return array[..., None] if array.ndim == 2 else array


def _cut(pixels: Image.Image, size: int) -> Image.Image:
    """The middle size x size, once the shorter side is 8/7 of that."""
    width, height = pixels.size
    scale = 8 / 7 * size / min(width, height)
    if scale**2 * width * height > SCALED:  # first cut to what is left of it, and some more
        longest = MARGIN * min(width, height)
        left, top = (max(0, (side - longest) // 2) for side in (width, height))
        pixels = pixels.crop((left, top, width - left, height - top))
        width, height = pixels.size
    across, down = (max(size, round(v * scale)) for v in (width, height))
    pixels = pixels.resize((across, down), Image.Resampling.BILINEAR)
    left, top = (across - size) // 2, (down - size) // 2
    return pixels.crop((left, top, left + size, top + size))


def _labels_from(table: Path) -> tuple[list[str], np.ndarray]:
    try:
        if not stat.S_ISREG(table.stat().st_mode):  # a pipe would be waited for
            raise OSError("it is no regular file")
        with table.open(newline="", encoding="utf-8-sig") as file:  # Excel begins with a mark
            reader = csv.DictReader(file, skipinitialspace=True)
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise OSError(f"labels must be a CSV file that can be read, was {table}: {error}") from None
    if not rows:
        raise ValueError(f"labels must have a header and a row for each image, {table} had none")
    heads = [str(name) for name in reader.fieldnames or ()]
    wanted = {column: _column(heads, known, table) for column, known in COLUMNS.items()}
    for line, row in rows:
        if None in row:
            raise ValueError(
                f"labels must have a cell for each column, line {line} of {table} had more"
            )
        if not row[wanted["file"]]:
            raise ValueError(
                f"labels must name a file in each line, line {line} of {table} did not"
            )
    labels = [_class(row[wanted["label"]], line, table) for line, row in rows]
    return [row[wanted["file"]] for _, row in rows], np.array(labels, np.int64)


def _column(heads: list[str], known: tuple[str, ...], table: Path) -> str:
    """The column that goes by one of the known names; the first of them that occurs."""
    names = [name.strip().lower() for name in heads]
    called = next((each for each in known if each in names), None)
    if called is None:
        raise ValueError(
            f"labels must have the columns file and label, {table} had {', '.join(names)}"
        )
    if names.count(called) > 1:
        raise ValueError(f"labels must have one column {called}, {table} had several")
    return heads[names.index(called)]


def _class(text: str | None, line: int, table: Path) -> int:
    if text is None or not re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", text):
        raise ValueError(f"labels must be integer classes, line {line} of {table} had {text!r}")
    if int(text) < 0:
        raise ValueError(f"labels must not be negative, line {line} of {table} had {int(text)}")
    return int(text)


def _inside(name: str, table: Path) -> str:
    """The name of a file in the folder. Raises ValueError for one that leads out of it."""
    if PurePath(name).anchor or ".." in PurePath(name).parts or "\0" in name:
        raise ValueError(
            f"labels must name files within the folder, relative to it, {table} named {name!r}"
        )
    return name


def _size_of(path: Path, table: Path) -> int:
    try:
        about = path.stat()
    except OSError as error:
        reason = error.strerror
        raise FileNotFoundError(
            f"x must hold every file that {table} names, but {path}: {reason}"
        ) from None
    if not stat.S_ISREG(about.st_mode):
        raise OSError(f"x must hold regular files alone, {table} names {path}")
    return about.st_size


def _opened(path: Path) -> Image.Image:
    with _naming(path):
        picture = Image.open(path)
    return of_bytes(picture, str(path))


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Whatever Pillow and its plugins say of a file that is damaged or too large, with its name."""
    try:
        yield
    except Exception as error:
        raise OSError(f"x must hold images that Pillow reads, not {path}: {error}") from None


def of_bytes(picture: Image.Image, name: str) -> Image.Image:
    """The picture. Raises ValueError for one of more bits, which Pillow would cut off at 255."""
    if picture.mode[0] in "IF":
        raise ValueError(f"x must hold images of 8 bits a channel, {name} was {picture.mode}")
    return picture
