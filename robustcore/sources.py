"""Images as they come: a tensor, an array, a data set or its loader, a folder. Read when wanted."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, SequentialSampler

from robustcore import inputs

SAMPLED = 32  # images that stand for a set too large to be read twice
CHUNK = 2**26  # bytes that are checked or hashed at once
COLUMNS = {
    "file": ("file", "filename", "path", "image"),
    "label": ("label", "class", "target", "y"),
}

Read = Callable[[int, int], tuple[Tensor, Any]]  # first, last to images and their labels or None


@dataclass(frozen=True)
class Source:
    """A set of n images: `read(first, last)` gives float images (C, H, W) and labels, or None.

    Only what is read is held. `shape` is (C, H, W); `about` tells this set from another.
    """

    n: int
    shape: tuple[int, ...]
    read: Read
    about: str

    def block(self, first: int, last: int) -> tuple[Tensor, Any]:
        """Checked images and labels. Raises ValueError naming an image that is not finite."""
        x, y = self.read(first, last)
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(
                f"x must hold images of one size, image {first} had shape "
                f"{tuple(x.shape[1:])}, image 0 {self.shape}"
            )
        finite = torch.isfinite(x).flatten(1).all(1)
        if not bool(finite.all()):
            bad = first + int((~finite).nonzero()[0])
            raise ValueError(f"x must be finite, image {bad} holds NaN or inf")
        return x, y


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


class Slices(Protocol):
    """Images that are read by slices: x[first:last] is a batch (n, C, H, W)."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> Any: ...


def open_source(x: Any, y: Any, model: Any) -> Source:
    """x, in any form, as a source; `y` may be the CSV file of a folder, and is else left alone.

    What is not a tensor goes to the model's device and floating type, as it is read; bytes are
    divided by 255. Raises TypeError or ValueError naming x.
    """
    put = _placement(model)
    if isinstance(x, Tensor):
        return _of_tensor(x, put)
    if isinstance(x, (str, os.PathLike)):
        x = LabelledFolder(x, y if isinstance(y, (str, os.PathLike)) else None)
    if isinstance(x, LabelledFolder):
        return _of_folder(x, put)
    if isinstance(x, np.ndarray):
        return _of_array(x, put)
    if isinstance(x, DataLoader):
        if not isinstance(x.sampler, SequentialSampler) and not isinstance(
            x.dataset, IterableDataset
        ):
            raise ValueError(
                "x must be a DataLoader that keeps the order of its data set, its sampler was "
                f"{type(x.sampler).__name__}: leave out shuffle=True, or pass loader.dataset"
            )
        x = x.dataset
    if isinstance(x, IterableDataset) or not (hasattr(x, "__len__") and hasattr(x, "__getitem__")):
        raise TypeError(
            "x must be a torch.Tensor, a numpy array, a Dataset or DataLoader with images by "
            f"number, or a folder, was {type(x).__name__}"
        )
    if len(x) == 0:
        raise ValueError(f"x must hold at least one image, the {type(x).__name__} held none")
    by_item = isinstance(x, (Dataset, Sequence)) or not _takes_slices(x)
    return _sampled(len(x), _items(x, put) if by_item else _slices(x, put), type(x).__name__, "")


def labels_of(source: Source, y: Any) -> Tensor | None:
    """Labels of all images, checked, where they are known without reading any."""
    if y is None or isinstance(y, (str, os.PathLike)):
        return None
    return inputs.labels(y, source.n, torch.device("cpu"))


def digest(*parts: Any) -> str:
    """A short hash of tensors, arrays and texts."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            part = part.detach().cpu().contiguous()
            found.update(f"{part.dtype} {tuple(part.shape)}".encode())
            flat = part.reshape(-1)
            step = max(1, CHUNK // max(1, flat.element_size()))
            for first in range(0, len(flat), step):
                found.update(flat[first : first + step].view(torch.uint8).numpy().data)
        else:
            found.update(str(part).encode() + b"\0")
    return found.hexdigest()[:16]


# -- the forms ---------------------------------------------------------------------------------


def _of_tensor(x: Tensor, put: Callable[[Tensor], Tensor]) -> Source:
    if x.dtype == torch.uint8:
        return _of_array(x.numpy(force=True), put)
    batch = inputs.images(x)
    about = digest(batch)
    return Source(len(batch), tuple(batch.shape[1:]), lambda a, b: (batch[a:b], None), about)


def _of_array(x: np.ndarray, put: Callable[[Tensor], Tensor]) -> Source:
    x = x[None] if x.ndim == 3 else x
    if x.ndim != 4 or x.size == 0:
        raise ValueError(
            f"x must be one image (C, H, W) or a batch (B, C, H, W), had shape {x.shape}"
        )
    if x.dtype != np.uint8 and x.dtype.kind != "f":
        raise TypeError(f"x must be floating point in [0, 1], or uint8, was {x.dtype}")

    def read(first: int, last: int) -> tuple[Tensor, None]:
        return put(torch.from_numpy(np.ascontiguousarray(x[first:last]))), None

    # a mapped file is left to be read when it is wanted
    return _sampled(len(x), read, "array", x.dtype.str, all_of=not isinstance(x, np.memmap))


def _of_folder(x: LabelledFolder, put: Callable[[Tensor], Tensor]) -> Source:
    def read(first: int, last: int) -> tuple[Tensor, Tensor]:
        return put(x[first:last]), torch.from_numpy(x.y[first:last])

    names = [path.name for path in x.paths]
    return _sampled(len(x), read, "folder", digest(names, x.bytes, x.y.tolist(), x.size))


def _items(x: Any, put: Callable[[Tensor], Tensor]) -> Read:
    def read(first: int, last: int) -> tuple[Tensor, Tensor | None]:
        items = [x[i] for i in range(first, last)]
        parts = [each if isinstance(each, (tuple, list)) else (each,) for each in items]
        if odd := [len(each) for each in parts if len(each) not in (1, 2)]:
            raise ValueError(
                f"x must hold images, or pairs (image, label), an item had {odd[0]} parts"
            )
        pairs = [(*each, None)[:2] for each in parts]
        images = [put(_image(image, first + i)) for i, (image, _) in enumerate(pairs)]
        for i, image in enumerate(images):
            if image.shape != images[0].shape:
                raise ValueError(
                    f"x must hold images of one size, image {first + i} had shape "
                    f"{tuple(image.shape)}, image {first} {tuple(images[0].shape)}"
                )
        given = [label for _, label in pairs]
        labels = None if any(label is None for label in given) else torch.as_tensor(given)
        return torch.stack(images), labels

    return read


def _slices(x: Slices, put: Callable[[Tensor], Tensor]) -> Read:
    return lambda first, last: (put(torch.as_tensor(x[first:last])), None)


def _takes_slices(x: Any) -> bool:
    try:
        part = x[0:1]
    except (TypeError, KeyError, IndexError, ValueError):
        return False
    return isinstance(part, (Tensor, np.ndarray)) and part.ndim == 4


def _image(image: Any, i: int) -> Tensor:
    if isinstance(image, Image.Image):
        array = np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
        return torch.from_numpy(array.copy()).view(*array.shape[:2], -1).permute(2, 0, 1)
    if isinstance(image, np.ndarray):
        image = torch.from_numpy(image)
    if not isinstance(image, Tensor) or image.ndim != 3:
        was = f"had shape {tuple(image.shape)}" if isinstance(image, Tensor) else type(image)
        raise TypeError(
            f"x must hold images (C, H, W) as tensors, arrays or Pillow images, image {i} {was}"
        )
    return image


def _sampled(n: int, read: Read, kind: str, more: str, all_of: bool = False) -> Source:
    """A source known by its images, all or an even sample of them, and by `more`."""
    x, _ = read(0, 1)
    step = max(1, CHUNK // max(1, x.numel() * x.element_size()))
    shape = tuple(x.shape[1:])
    source = Source(n, shape, read, "")
    if all_of:
        spans = [(first, min(n, first + step)) for first in range(0, n, step)]
    else:
        spans = [(int(i), int(i) + 1) for i in np.unique(np.linspace(0, n - 1, SAMPLED).round())]
    parts = [digest(*(part for part in source.block(*span))) for span in spans]
    return Source(n, shape, read, digest(kind, n, more, *parts))


def _placement(model: Any) -> Callable[[Tensor], Tensor]:
    """Images to the model's device and floating type, bytes to [0, 1]."""
    tensors = [*model.parameters(), *model.buffers()] if isinstance(model, nn.Module) else []
    like = next((t for t in tensors if t.is_floating_point()), torch.empty(0))

    def put(x: Tensor) -> Tensor:
        scale = 255 if x.dtype == torch.uint8 else 1
        if scale == 1 and not x.is_floating_point():
            raise TypeError(f"x must be floating point in [0, 1], or uint8, was {x.dtype}")
        return (x.to(like.device).float() / scale).to(like.dtype)

    return put


# -- folders -----------------------------------------------------------------------------------


def _labels_from(table: Path) -> tuple[list[str], np.ndarray]:
    try:
        with table.open(newline="", encoding="utf-8") as file:
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
        except (TypeError, ValueError):
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
        return Image.open(path)
    except OSError as error:
        raise OSError(f"x must hold images that Pillow reads, not {path}: {error}") from None
