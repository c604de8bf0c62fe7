"""A set of images that is read block by block."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from robustcore import inputs

CHUNK = 2**26  # bytes that are hashed at once

Read = Callable[[int, int], tuple[Tensor, Any]]  # first, last to images and their labels or None


@dataclass(frozen=True)
class Source:
    """A set of n images: `read(first, last)` gives float images (C, H, W) and labels, or None.

    Only what is read is held. `shape` is (C, H, W); `about` tells this set from another. `seen`
    holds a digest and the label of each image that was read, to know a set that gives others when
    it is asked again.
    """

    n: int
    shape: tuple[int, ...]
    read: Read
    about: str
    seen: dict[int, tuple[str, int | None]] = field(default_factory=dict)

    def among(self, rows: Sequence[int]) -> Source:
        """The set of some of the images, in this order, which are read one by one."""

        def read(first: int, last: int) -> tuple[Tensor, Any]:
            images, labels = zip(*(self.block(i, i + 1) for i in rows[first:last]), strict=True)
            return torch.cat(images), None if labels[0] is None else torch.cat(labels)

        rows = [int(i) for i in rows]
        return Source(len(rows), self.shape, read, digest(self.about, rows))

    def block(self, first: int, last: int) -> tuple[Tensor, Any]:
        """Checked images and labels. Raises ValueError naming an image.

        Each image must be finite, of the shape of all, the same at every reading, and labelled if
        and only if the others are.
        """
        x, y = self.read(first, last)
        if len(x) != last - first:
            raise ValueError(
                f"x must give the images that are asked for, images {first} to {last - 1} were "
                f"{len(x)} images"
            )
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(
                f"x must hold images of one size, image {first} had shape "
                f"{tuple(x.shape[1:])}, image 0 {self.shape}"
            )
        finite = torch.isfinite(x).flatten(1).all(1)
        if not bool(finite.all()):
            bad = first + int((~finite).nonzero()[0])
            raise ValueError(f"x must be finite, input {bad} holds NaN or inf")
        labels = [None] * len(x) if y is None else y.tolist()
        for i, (image, label) in enumerate(zip(x.cpu(), labels, strict=True), first):
            self._remember(i, digest(image), label)
        return x, y

    def _remember(self, i: int, image: str, label: int | None) -> None:
        before = self.seen.setdefault(i, (image, label))
        if before[0] != image:
            raise ValueError(
                f"x must give the same image each time it is read, image {i} was another when read "
                "again: leave out random augmentation"
            )
        if before[1] != label:
            raise ValueError(
                f"x must give the same label each time it is read, that of image {i} was "
                f"{before[1]}, then {label}"
            )
        read, (_, other) = next(iter(self.seen.items()))
        if (label is None) != (other is None):
            raise ValueError(
                "x must hold a label for each image or for none, "
                f"image {i if label is None else read} had none"
            )


def is_path(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike))


def labels_of(source: Source, y: Any) -> Tensor | None:
    """Labels of all images, checked, where they are known without reading any."""
    if y is None or is_path(y):
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
