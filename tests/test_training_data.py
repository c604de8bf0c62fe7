"""Loading CIFAR-10 and MNIST: from folders, from archives, and never other pixels."""

import gzip
import hashlib
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from robustcore import training
from robustcore.training import data

SHARED = Path(__file__).parents[1] / "../shared/data"


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def archive(path, count=20):
    """A CIFAR-10 archive of `count` random images a batch, in the authors' format."""
    rng = np.random.default_rng(0)
    folder = path.parent / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    held = {}
    for name in [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]:
        pixels = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
        held[name] = pixels, rng.integers(0, 10, count).tolist()
        batch = {b"data": pixels, b"labels": held[name][1]}
        (folder / name).write_bytes(pickle.dumps(batch))
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, folder.name)
    return held


def known(monkeypatch, name, arrays):
    """Take these arrays for the data set."""
    pairs = {
        split: (sha256(x.astype(np.uint8).tobytes()), sha256(np.asarray(y, np.uint8).tobytes()))
        for split, (x, y) in arrays.items()
    }
    monkeypatch.setitem(data.SHA256, name, pairs)


def test_cifar10_from_its_archive_downloaded(tmp_path, monkeypatch):
    path = tmp_path / "source" / "cifar-10-python.tar.gz"
    path.parent.mkdir()
    held = archive(path)
    train = [held[f"data_batch_{k}"] for k in range(1, 6)]
    x, y = np.concatenate([a for a, _ in train]), [one for _, b in train for one in b]
    known(monkeypatch, "CIFAR-10", {"train": (x, y), "test": held["test_batch"]})
    monkeypatch.setattr(data, "CIFAR10_ARCHIVE", sha256(path.read_bytes()))
    monkeypatch.setattr(data, "CIFAR10_URL", path.as_uri())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = training.load_cifar10()
    assert np.array_equal(found.x.numpy(), x.reshape(-1, 3, 32, 32))
    assert found.y.tolist() == y
    assert found.y_test.tolist() == held["test_batch"][1]
    assert (found.pad, found.mirror) == (4, True)
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_an_archive_that_is_not_the_authors_is_not_unpickled(tmp_path, monkeypatch):
    archive(tmp_path / "cifar-10-python.tar.gz")
    monkeypatch.setattr(pickle, "load", lambda *a, **k: pytest.fail("unpickled"))
    with pytest.raises(ValueError, match="not the authors' archive"):
        training.load_cifar10(tmp_path)


def idx(array):
    """The format of the MNIST files."""
    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return gzip.compress(head + array.tobytes())


@pytest.mark.parametrize("form", ["idx", "npz"])
def test_mnist(tmp_path, monkeypatch, form):
    rng, arrays = np.random.default_rng(1), {}
    for split, count in (("train", 30), ("test", 10)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = rng.integers(0, 10, count, dtype=np.uint8)
        arrays[split] = images, labels
        if form == "npz":
            np.savez(tmp_path / f"{split}.npz", images=images, labels=labels)
        else:
            for file, array in zip(data.MNIST_FILES[split], (images, labels), strict=True):
                (tmp_path / file).write_bytes(idx(array))
    known(monkeypatch, "MNIST", arrays)
    found = training.load_mnist(tmp_path)
    assert found.x.shape == (30, 1, 28, 28)
    assert np.array_equal(found.x_test[:, 0].numpy(), arrays["test"][0])
    assert found.y.dtype == torch.int64
    changed = arrays["train"][0].copy()
    changed[3, 4, 5] ^= 1
    known(monkeypatch, "MNIST", arrays | {"train": (changed, arrays["train"][1])})
    with pytest.raises(ValueError, match="folder must hold MNIST, the train images in"):
        training.load_mnist(tmp_path)


def test_what_cannot_be_had_is_named(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="folder must be a folder that exists"):
        training.load_cifar10(tmp_path / "none")
    monkeypatch.setattr(data, "MNIST_URL", (tmp_path / "absent").as_uri() + "/")
    with pytest.raises(OSError, match=r"is not in .* and could not be downloaded from"):
        training.load_mnist(tmp_path)


@pytest.mark.skipif(not (SHARED / "mnist").is_dir(), reason="the data are not at ../shared/data")
def test_the_whole_of_mnist():
    found = training.load_mnist(SHARED / "mnist")
    assert float(found.x.float().mean() / 255) == pytest.approx(0.13066, abs=1e-5)
    assert len(found.y_test) == 10_000


@pytest.mark.skipif(not (SHARED / "cifar10").is_dir(), reason="the data are not at ../shared/data")
def test_the_whole_of_cifar10():
    found = training.load_cifar10(SHARED / "cifar10")
    mean = found.x.float().mean((0, 2, 3))
    torch.testing.assert_close(
        mean, torch.tensor([125.3069, 122.9504, 113.8654]), rtol=0, atol=1e-2
    )
    assert found.x.is_contiguous()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(4, 3, 8, 8)}, TypeError, r"x must be uint8 images \(N, C, H, W\)"),
        ({"y": torch.zeros(3, dtype=torch.int64)}, ValueError, "y must hold one class"),
        ({"y_test": torch.zeros(2)}, TypeError, "y_test must be a tensor of integer classes"),
        (
            {"x_test": torch.zeros(2, 3, 9, 8, dtype=torch.uint8)},
            ValueError,
            "x_test must hold images like those of x",
        ),
        ({"pad": -1}, ValueError, "pad must be at least 0"),
    ],
)
def test_bad_data_are_named(change, error, message):
    good = {
        "name": "data",
        "x": torch.zeros(4, 3, 8, 8, dtype=torch.uint8),
        "y": torch.zeros(4, dtype=torch.int64),
        "x_test": torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
        "y_test": torch.zeros(2, dtype=torch.int64),
    }
    training.Data(**good)
    with pytest.raises(error, match=message):
        training.Data(**(good | change))
