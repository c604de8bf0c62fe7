"""The forms in which images come, each opened as a source."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    SequentialSampler,
    default_collate,
    default_convert,
)

from robustcore import inputs
from robustcore.sources.folder import LabelledFolder, of_bytes
from robustcore.sources.source import CHUNK, Read, Source, digest, is_path

SAMPLED = 32  # images that stand for a set too large to be read twice


class Slices(Protocol):
    """Images that are read by slices: x[first:last] is a batch (n, C, H, W)."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> Any: ...


def open_source(x: Any, y: Any, model: Any) -> Source:
    """x, in any form, as a source; `y` may be the CSV file of a folder, and is else left alone.

    What is not a tensor goes to the model's device and floating type, as it is read; bytes are
    divided by 255. Raises TypeError or ValueError naming x.
    """
    if isinstance(x, Source):
        return x
    put = _placement(model)
    if isinstance(x, Tensor):
        return _of_tensor(x, put)
    if is_path(x):
        x = LabelledFolder(x, y if is_path(y) else None)
    if isinstance(x, LabelledFolder):
        return _of_folder(x, put)
    if isinstance(x, np.ndarray):
        return _of_array(x, put)
    if isinstance(x, DataLoader):
        x = _behind(x)
    numbered = hasattr(x, "__len__") and hasattr(x, "__getitem__")
    if isinstance(x, (IterableDataset, Mapping)) or not numbered:
        raise TypeError(
            "x must be a torch.Tensor, a numpy array, a Dataset or DataLoader with images by "
            f"number, or a folder, was {type(x).__name__}"
        )
    if len(x) == 0:
        raise ValueError(f"x must hold at least one image, the {type(x).__name__} held none")
    by_item = isinstance(x, (Dataset, Sequence)) or not _takes_slices(x)
    return _sampled(len(x), _items(x, put) if by_item else _slices(x, put), type(x).__name__, "")


# -- the forms ---------------------------------------------------------------------------------


def _behind(loader: DataLoader[Any]) -> Any:
    """The loader's data set, where it holds what the loader gives, in its order."""
    # a loader with a batch_sampler has an idle SequentialSampler beside it
    batches = loader.batch_sampler
    by = loader.sampler if batches is None else getattr(batches, "sampler", batches)
    if type(by) is not SequentialSampler and not isinstance(loader.dataset, IterableDataset):
        raise ValueError(
            "x must be a DataLoader that keeps the order of its data set, its sampler was "
            f"{type(by).__name__}: leave out shuffle=True, or pass loader.dataset"
        )
    if loader.collate_fn not in (default_collate, default_convert):
        raise ValueError(
            "x must be a DataLoader whose images are those of its data set, it had a collate_fn of "
            "its own: do what that does in the data set, or pass loader.dataset"
        )
    return loader.dataset


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
    # torch knows neither other byte orders nor long doubles
    known = x.dtype.newbyteorder("=") if x.dtype.itemsize <= 8 else np.dtype(np.float64)

    def read(first: int, last: int) -> tuple[Tensor, None]:
        return put(torch.from_numpy(x[first:last].astype(known, order="C"))), None

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
        return torch.stack(images), _labels(given, first)

    return read


def _labels(given: list[Any], first: int) -> Tensor | None:
    if any(label is None for label in given):
        return None
    for i, label in enumerate(given):
        size = label.numel() if isinstance(label, Tensor) else np.size(label)
        if isinstance(label, str) or size != 1:
            raise TypeError(
                "x must hold labels that are integer class indices, "
                f"image {first + i} had {label!r}"
            )
    return torch.as_tensor(given, device="cpu")


def _slices(x: Slices, put: Callable[[Tensor], Tensor]) -> Read:
    return lambda first, last: (put(inputs.tensor(x[first:last])), None)


def _takes_slices(x: Any) -> bool:
    try:
        part = x[0:1]
    except (TypeError, KeyError, IndexError, ValueError):
        return False
    return isinstance(part, (Tensor, np.ndarray)) and part.ndim == 4


def _image(image: Any, i: int) -> Tensor:
    if isinstance(image, Image.Image):
        image = of_bytes(image, f"image {i}")
        array = np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
        return torch.from_numpy(array.copy()).view(*array.shape[:2], -1).permute(2, 0, 1)
    if isinstance(image, np.ndarray):
        image = torch.from_numpy(image.copy())
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
    like = next(
        (t for t in tensors if t.is_floating_point()),
        torch.empty(0, dtype=torch.float32, device="cpu"),
    )

    def put(x: Tensor) -> Tensor:
        scale = 255 if x.dtype == torch.uint8 else 1
        if scale == 1 and not x.is_floating_point():
            raise TypeError(f"x must be floating point in [0, 1], or uint8, was {x.dtype}")
        return (x.to(like.device).float() / scale).to(like.dtype)

    return put
