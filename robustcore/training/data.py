"""CIFAR-10 and MNIST as training reads them: from a folder, or downloaded; the pixels are checked.

Known files in a folder, of which one set is enough:

- CIFAR-10: test.npz, train_batch_1..5.webp and train_labels.npy (lossless copies), or the authors'
  cifar-10-python.tar.gz;
- MNIST: train.npz and test.npz, or the authors' four *-ubyte.gz.

Whatever the source, images and labels must have the sha256 of the original data.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import pickle
import shutil
import tarfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from robustcore import inputs
from robustcore.results.files import write_whole

CLASSES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)  # types of labels
Arrays = dict[str, tuple[np.ndarray, np.ndarray]]

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
CIFAR10_ARCHIVE = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
MNIST_FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
SHA256 = {  # of the pixels, channel first, and of the labels, as bytes
    "CIFAR-10": {
        "train": (
            "9d5c2eddadb0deff02c14c350c0385aab7b1d5ff1edfeb4997c8dc8644960111",
            "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
        ),
        "test": (
            "177777c33ba79825320efa646ad04a94bdc3c80e4ebe3bd21724f8cdfd4b9d56",
            "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
        ),
    },
    "MNIST": {
        "train": (
            "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
            "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
        ),
        "test": (
            "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
            "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
        ),
    },
}


@dataclass(frozen=True, eq=False)
class Data:
    """Images to train on and to test on, with their augmentation.

    x (N, C, H, W) and x_test: uint8. y (N,) and y_test: integer classes. pad: random crops are
    taken from images with this many black pixels added on every side. mirror: half are mirrored.
    Raises TypeError or ValueError that names the part at fault.
    """

    name: str
    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    pad: int = 0
    mirror: bool = False

    def __post_init__(self) -> None:
        inputs.string("name", self.name)
        inputs.integer("pad", self.pad, 0)
        inputs.flag("mirror", self.mirror)
        for part in ("x", "x_test"):
            images, labels = getattr(self, part), getattr(self, part.replace("x", "y"))
            if not isinstance(images, Tensor) or images.dtype != torch.uint8 or images.ndim != 4:
                was = inputs.shown(images)
                if isinstance(images, Tensor):
                    was = f"{images.dtype} {tuple(images.shape)}"
                raise TypeError(f"{part} must be uint8 images (N, C, H, W), was {was}")
            if not isinstance(labels, Tensor) or labels.dtype not in CLASSES:
                raise TypeError(
                    f"{part.replace('x', 'y')} must be a tensor of integer classes, was "
                    f"{getattr(labels, 'dtype', type(labels).__name__)}"
                )
            if len(images) == 0 or labels.shape != (len(images),) or int(labels.min()) < 0:
                raise ValueError(
                    f"{part.replace('x', 'y')} must hold one class, 0 or above, for each of "
                    f"{len(images)} images, had shape {tuple(labels.shape)}"
                )
        if self.x.shape[1:] != self.x_test.shape[1:]:
            raise ValueError(
                f"x_test must hold images like those of x, {tuple(self.x.shape[1:])}, "
                f"held {tuple(self.x_test.shape[1:])}"
            )


def load_cifar10(folder: str | Path | None = None) -> Data:
    """CIFAR-10: 50,000 and 10,000 images (3, 32, 32), crops with 4 pixels of padding, mirrored.

    folder: where the files are, or where the archive (170 MB) is downloaded to; None is a folder of
    the user's cache. Raises ValueError for a folder that does not exist or holds other pixels,
    OSError when nothing can be downloaded.
    """
    root = _folder(folder, "cifar10")
    if (root / "test.npz").is_file():
        arrays = _cifar10_images(root)
    else:
        archive = root / "cifar-10-python.tar.gz"
        _download(CIFAR10_URL, archive)
        arrays = _cifar10_archive(archive)
    return _checked("CIFAR-10", arrays, root, pad=4, mirror=True)


def load_mnist(folder: str | Path | None = None) -> Data:
    """MNIST: 60,000 and 10,000 images (1, 28, 28), not augmented.

    folder and errors as for `load_cifar10`; the download is 12 MB.
    """
    root = _folder(folder, "mnist")
    arrays: Arrays = {}
    for split, files in MNIST_FILES.items():
        if (root / f"{split}.npz").is_file():
            with np.load(root / f"{split}.npz") as held:
                arrays[split] = held["images"][:, None], held["labels"]
            continue
        for file in files:
            _download(MNIST_URL + file, root / file)
        pixels, labels = (gzip.decompress((root / file).read_bytes()) for file in files)
        images = np.frombuffer(pixels, np.uint8, offset=16).reshape(-1, 1, 28, 28)
        arrays[split] = images, np.frombuffer(labels, np.uint8, offset=8)
    return _checked("MNIST", arrays, root)


def _folder(folder: str | Path | None, name: str) -> Path:
    if folder is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        root = cache / "robustcore" / name
        root.mkdir(parents=True, exist_ok=True)
        return root
    root = inputs.path("folder", folder)
    if not root.is_dir():
        raise ValueError(f"folder must be a folder that exists, was {folder}")
    return root


def _download(url: str, path: Path) -> None:
    if path.is_file():
        return
    try:
        with urllib.request.urlopen(url) as answer:
            write_whole(path, lambda file: _copy(answer, file))
    except OSError as error:
        raise OSError(
            f"{path.name} is not in {path.parent} and could not be downloaded from {url}: {error}"
        ) from error


def _copy(answer: Any, file: IO[bytes]) -> None:
    shutil.copyfileobj(answer, file)
    length = answer.headers.get("Content-Length")
    if length is not None and file.tell() != int(length):
        raise OSError(None, f"{file.tell()} of {length} bytes came")


def _cifar10_images(root: Path) -> Arrays:
    tiles = []
    for k in range(1, 6):
        with Image.open(root / f"train_batch_{k}.webp") as sheet:
            grid = np.asarray(sheet).reshape(100, 32, 100, 32, 3)
        tiles.append(grid.transpose(0, 2, 4, 1, 3).reshape(-1, 3, 32, 32))
    with np.load(root / "test.npz") as test:
        images, labels = test["images"].transpose(0, 3, 1, 2), test["labels"]
    return {
        "train": (np.concatenate(tiles), np.load(root / "train_labels.npy")),
        "test": (images, labels),
    }


def _cifar10_archive(path: Path) -> Arrays:
    # it holds pickles, which can run code: nothing but the authors' own file is opened
    if hashlib.sha256(path.read_bytes()).hexdigest() != CIFAR10_ARCHIVE:
        raise ValueError(f"{path.name} is not the authors' archive: delete it and try again")
    names = {"train": [f"data_batch_{k}" for k in range(1, 6)], "test": ["test_batch"]}
    arrays: Arrays = {}
    with tarfile.open(path) as tar:
        for split, files in names.items():
            parts = []
            for file in files:
                member = tar.extractfile(f"cifar-10-batches-py/{file}")
                assert member is not None  # regular files of an archive that was checked
                parts.append(pickle.load(member, encoding="bytes"))
            pixels = np.concatenate([part[b"data"] for part in parts]).reshape(-1, 3, 32, 32)
            arrays[split] = pixels, np.concatenate([part[b"labels"] for part in parts])
    return arrays


def _checked(name: str, arrays: Arrays, root: Path, pad: int = 0, mirror: bool = False) -> Data:
    parts: list[Tensor] = []
    for split in ("train", "test"):
        pixels, labels = arrays[split]
        found = (_sha256(pixels), _sha256(labels))
        if found != SHA256[name][split]:
            what = "images" if found[0] != SHA256[name][split][0] else "labels"
            raise ValueError(f"folder must hold {name}, the {split} {what} in {root} are others")
        parts.append(torch.from_numpy(np.array(pixels, order="C")))
        parts.append(torch.from_numpy(np.array(labels, dtype=np.int64)))
    x, y, x_test, y_test = parts
    return Data(name, x, y, x_test, y_test, pad=pad, mirror=mirror)


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array, dtype=np.uint8).tobytes()).hexdigest()
