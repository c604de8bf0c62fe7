"""The forms in which images come, each opened as a source."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
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


def open_source(x: Any, y: Any, model: Any, shape: Sequence[int] | None = None) -> Source:
    """x, in any form, as a source; `y` may be the CSV file of a folder, and is else left alone.

    shape: of one input, where it is known.

    What is not a tensor goes to the model's device and floating type, as it is read; bytes are
    divided by 255. Raises TypeError or ValueError naming x.
    """
    if isinstance(x, Source):
        return x
    put = _placement(model)
    if isinstance(x, Tensor):
        return _of_tensor(x, put, model, shape)
    if is_path(x):
        try:
            x = LabelledFolder(x, y if is_path(y) else None)
        except (OSError, ValueError) as error:
            kind = type(error) if isinstance(error, OSError) else ValueError
            raise kind(f"x must be a folder of images with their labels: {error}") from error
    if isinstance(x, LabelledFolder):
        return _of_folder(x, put)
    if isinstance(x, np.ndarray):
        return _of_array(x, put, model, shape)
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
    # labels that the caller gives are taken, and those of x not looked at
    read = _items(x, put, y is None or is_path(y)) if by_item else _slices(x, put)
    return _sampled(len(x), read, type(x).__name__, "")


# -- the forms ---------------------------------------------------------------------------------


def _behind(loader: DataLoader[Any]) -> Any:
    """The loader's data set, where it holds what the loader gives, in its order."""
    if type(loader).__iter__ is not DataLoader.__iter__:
        raise ValueError(
            "x must be a DataLoader whose images are those of its data set, "
            f"{type(loader).__name__} has an order of its own: pass loader.dataset"
        )
    if isinstance(loader.dataset, IterableDataset):
        return loader.dataset
    # a loader with a batch_sampler has an idle SequentialSampler beside it
    batches: Any = loader.batch_sampler
    plain = batches is None or type(batches) is BatchSampler
    by = loader.sampler if batches is None else batches.sampler if plain else batches
    if type(by) is not SequentialSampler:
        raise ValueError(
            "x must be a DataLoader that keeps the order of its data set, its sampler was "
            f"{type(by).__name__}: leave out shuffle=True, or pass loader.dataset"
        )
    data: Any = loader.dataset
    n = len(data)
    given = len(by)
    if batches is not None and batches.drop_last:
        given -= given % batches.batch_size
    if given != n:
        raise ValueError(
            f"x must be a DataLoader that gives every image of its data set, it gives {given} of "
            f"{n}: leave out drop_last=True, or pass a Subset or loader.dataset"
        )
    if loader.collate_fn not in (default_collate, default_convert):
        raise ValueError(
            "x must be a DataLoader whose images are those of its data set, it had a collate_fn of "
            "its own: do what that does in the data set, or pass loader.dataset"
        )
    return loader.dataset


def _of_tensor(
    x: Tensor, put: Callable[[Tensor], Tensor], model: Any, shape: Sequence[int] | None
) -> Source:
    if x.dtype == torch.uint8:
        return _of_array(x.numpy(force=True), put, model, shape)
    batch = inputs.images(x, model, shape)
    about = digest(batch)
    return Source(len(batch), tuple(batch.shape[1:]), lambda a, b: (batch[a:b], None), about)


def _of_array(
    x: np.ndarray, put: Callable[[Tensor], Tensor], model: Any, shape: Sequence[int] | None
) -> Source:
    x = inputs.as_batch(x, model, shape)
    if x.size == 0:
        raise ValueError(f"x must hold at least one pixel, had shape {x.shape}")
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


def _items(x: Any, put: Callable[[Tensor], Tensor], labelled: bool) -> Read:
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
        return torch.stack(images), _labels(given, first) if labelled else None

    return read


def _labels(given: list[Any], first: int) -> Tensor | None:
    """Labels (n,) int64, of images from `first` on; None where no image has one."""
    missing = [label is None for label in given]
    if all(missing):
        return None
    if any(missing):
        raise ValueError(
            "x must hold a label for each image or for none, "
            f"image {first + missing.index(True)} had none"
        )
    return torch.tensor([_label(label, first + i) for i, label in enumerate(given)], device="cpu")


def _label(given: Any, i: int) -> int:
    one = isinstance(given, (Tensor, np.ndarray, np.generic)) and math.prod(given.shape) == 1
    value = given.item() if one else given
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(
            f"x must hold labels that are integer class indices, image {i} had {given!r}"
        )
    if not 0 <= value < 2**63:
        raise ValueError(f"x must hold labels from 0 to 2^63 - 1, image {i} had {value}")
    return value


def _slices(x: Slices, put: Callable[[Tensor], Tensor]) -> Read:
    return lambda first, last: (put(inputs.tensor(x[first:last])), None)


def _takes_slices(x: Any) -> bool:
    try:
        part = x[0:1]
    except (TypeError, KeyError, IndexError, ValueError):
        return False
    return isinstance(part, (Tensor, np.ndarray)) and part.ndim >= 2


def _image(image: Any, i: int) -> Tensor:
    if isinstance(image, Image.Image):
        image = of_bytes(image, f"image {i}")
        array = np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
        return torch.from_numpy(array.copy()).view(*array.shape[:2], -1).permute(2, 0, 1)
    if isinstance(image, np.ndarray):
        image = torch.from_numpy(image.copy())
    if not isinstance(image, Tensor) or image.ndim == 0:
        was = f"had shape {tuple(image.shape)}" if isinstance(image, Tensor) else type(image)
        raise TypeError(f"x must hold inputs as tensors, arrays or Pillow images, image {i} {was}")
    return image


def _sampled(n: int, read: Read, kind: str, more: str, all_of: bool = False) -> Source:
    """A source known by its images, all or an even sample of them, and by `more`."""
    x, _ = read(0, 1)
    step = max(1, CHUNK // max(1, x.numel() * x.element_size()))
    source = Source(n, tuple(x.shape[1:]), read, "")
    sample = np.unique(np.linspace(0, n - 1, SAMPLED).round()).astype(int).tolist()
    if all_of:
        spans = [(first, min(n, first + step)) for first in range(0, n, step)]
    else:
        spans = [(i, i + 1) for i in sample]
    for span in spans:
        source.block(*span)
    source.block(0, 1)  # random augmentation is known before anything is measured
    about = digest(kind, n, more, tuple(source.shape), *sorted(source.seen.items()))
    return replace(source, about=about)


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
