"""Train the ResNet-20 that robustcore ships as `cifar10-natural`, and write it with its card.

    python examples/train_cifar10.py --data DIR --out runs/cifar10-natural

DIR holds test.npz, train_batch_1..5.webp and train_labels.npy (lossless copies of CIFAR-10) or
cifar-10-python.tar.gz. Without --data the archive comes from the data set's own address.
Whatever the source, the pixels are checked against their known sha256.
An interrupted run goes on from its last finished epoch when the same command is given again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import pickle
import tarfile
import time
import urllib.request
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from robustcore.zoo.resnet import ResNet

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
SHA256 = {
    "train": "9d5c2eddadb0deff02c14c350c0385aab7b1d5ff1edfeb4997c8dc8644960111",
    "test": "177777c33ba79825320efa646ad04a94bdc3c80e4ebe3bd21724f8cdfd4b9d56",
}


def from_archive(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    names = {"train": [f"data_batch_{k}" for k in range(1, 6)], "test": ["test_batch"]}
    out = {}
    with tarfile.open(path) as tar:
        for split, files in names.items():
            parts = [
                pickle.load(tar.extractfile(f"cifar-10-batches-py/{f}"), encoding="bytes")
                for f in files
            ]
            pixels = np.concatenate([p[b"data"] for p in parts]).reshape(-1, 3, 32, 32)
            out[split] = pixels, np.concatenate([p[b"labels"] for p in parts])
    return out


def from_folder(root: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    tiles = []
    for k in range(1, 6):
        a = np.asarray(Image.open(root / f"train_batch_{k}.webp"))
        tiles.append(a.reshape(100, 32, 100, 32, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 3, 32, 32))
    test = np.load(root / "test.npz")
    return {
        "train": (np.concatenate(tiles), np.load(root / "train_labels.npy")),
        "test": (test["images"].transpose(0, 3, 1, 2), test["labels"]),
    }


def load_cifar10(data: Path | None, cache: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """uint8 images (N, 3, 32, 32) and int64 labels (N,) for "train" and "test"."""
    if data is not None and (data / "test.npz").is_file():
        arrays = from_folder(data)
    else:
        archive = (data or cache) / "cifar-10-python.tar.gz"
        if not archive.is_file():
            archive.parent.mkdir(parents=True, exist_ok=True)
            partial = archive.with_suffix(".part")
            urllib.request.urlretrieve(URL, partial)
            partial.rename(archive)
        arrays = from_archive(archive)
    out = {}
    for split, (pixels, labels) in arrays.items():
        pixels = np.ascontiguousarray(pixels)
        if hashlib.sha256(pixels.tobytes()).hexdigest() != SHA256[split]:
            raise SystemExit(f"the {split} pixels are not those of CIFAR-10: delete and try again")
        out[split] = torch.from_numpy(pixels), torch.from_numpy(labels.astype(np.int64))
    return out


def augment(padded: Tensor, index: Tensor, generator: torch.Generator) -> Tensor:
    """Random 32 x 32 crops of (N, 3, 40, 40) uint8 images, half of them mirrored, in [0, 1]."""
    n = len(index)
    top, left = torch.randint(0, 9, (2, n, 1), generator=generator)
    span = torch.arange(32)
    cols = left + span
    mirrored = torch.rand(n, generator=generator) < 0.5
    cols[mirrored] = cols[mirrored].flip(1)
    rows = top + span
    crops = padded[
        index[:, None, None, None],
        torch.arange(3)[None, :, None, None],
        rows[:, None, :, None],
        cols[:, None, None, :],
    ]
    return crops.float().div_(255)


@torch.no_grad()
def accuracy(model: torch.nn.Module, x: Tensor, y: Tensor, device: torch.device) -> float:
    model.eval()
    right = 0
    for a, b in zip(x.split(1000), y.split(1000), strict=True):
        logits = model(a.to(device).float().div(255).to(memory_format=torch.channels_last))
        right += int((logits.argmax(1).cpu() == b).sum())
    return right / len(x)


def average(model: torch.nn.Module, ends: list[dict[str, Tensor]], padded: Tensor) -> None:
    """Give the model the mean of the weights at the ends of the cycles, and fresh batch norms.

    Stochastic weight averaging (Izmailov et al., 2018): the statistics of batch norm are taken
    anew, with equal weight, over the whole augmented training set.
    """
    device = next(model.parameters()).device
    mean = {k: torch.stack([end[k].double() for end in ends]).mean(0) for k in ends[0]}
    model.load_state_dict({k: v.to(ends[0][k].dtype) for k, v in mean.items()})
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    generator = torch.Generator().manual_seed(123)
    model.train()
    with torch.no_grad():
        for index in torch.arange(len(padded)).split(500):
            images = augment(padded, index, generator)
            model(images.to(device, memory_format=torch.channels_last))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with CIFAR-10 (default: download)")
    parser.add_argument("--out", type=Path, default=Path("runs/cifar10-natural"))
    parser.add_argument("--epochs", type=int, nargs="+", default=[45, 12], help="of each cycle")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--lr", type=float, nargs="+", default=[0.3, 0.1], help="peak of each")
    parser.add_argument("--weight-decay", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    device = torch.device(args.device)

    data = load_cifar10(args.data, args.out.parent)
    x, y = data["train"]
    padded = F.pad(x, (4, 4, 4, 4))
    torch.manual_seed(args.seed)
    model = ResNet(20).to(device, memory_format=torch.channels_last)
    decay = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.SGD(
        [{"params": decay, "weight_decay": args.weight_decay}, {"params": plain}],
        lr=args.lr[0],
        momentum=0.9,
        nesterov=True,
    )
    steps = len(x) // args.batch_size
    checkpoint, first, state, ends = args.out / "checkpoint.pt", 0, {}, []
    if checkpoint.is_file():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first, ends = state["epoch"], state["ends"]

    step = torch.compile(lambda a, b: F.cross_entropy(model(a), b))
    start, last = time.perf_counter(), 0
    for epochs, lr in zip(args.epochs, args.lr, strict=True):
        begin, last = last, last + epochs
        if first >= last:
            continue
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            lr,
            total_steps=epochs * steps,
            pct_start=0.15,
            cycle_momentum=False,
            div_factor=10,
            final_div_factor=1e4,
        )
        if first > begin:
            schedule.load_state_dict(state["schedule"])
        for epoch in range(max(begin, first), last):
            model.train()
            generator = torch.Generator().manual_seed(args.seed * 100_003 + epoch)
            order = torch.randperm(len(x), generator=generator)
            total = torch.zeros((), device=device)
            for i in range(steps):
                index = order[i * args.batch_size : (i + 1) * args.batch_size]
                images = augment(padded, index, generator)
                images = images.to(device, memory_format=torch.channels_last)
                loss = step(images, y[index].to(device))
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
                total += loss.detach()
            test = accuracy(model, *data["test"], device)
            print(
                f"epoch {epoch + 1:3d}/{sum(args.epochs)}  loss {float(total) / steps:.4f}  "
                f"test accuracy {test:.4f}  {time.perf_counter() - start:.0f} s",
                flush=True,
            )
            parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
            state = {name: part.state_dict() for name, part in parts.items()}
            state |= {"epoch": epoch + 1, "ends": ends}
            if epoch + 1 == last:
                ends.append({k: v.cpu().clone() for k, v in model.state_dict().items()})
            torch.save(state, checkpoint.with_suffix(".part"))
            checkpoint.with_suffix(".part").replace(checkpoint)

    if len(ends) > 1:
        average(model, ends, padded)
    weights = args.out / "weights.safetensors"
    save_file({k: v.contiguous().cpu() for k, v in model.state_dict().items()}, weights)
    card = {
        "network": "resnet20",
        "data": "CIFAR-10 train, 50,000 images",
        "recipe": "natural: cross-entropy, random crop (pad 4) and mirror, SGD with Nesterov "
        "momentum 0.9, one-cycle schedules of the learning rate, mean of the weights at their ends",
        "epochs": args.epochs,
        "batch_size": args.batch_size,
        "lr": args.lr,
        "weight_decay": args.weight_decay,
        "seed": args.seed,
        "torch": torch.__version__.split("+")[0],
        "test_accuracy": accuracy(model, *data["test"], device),
        "test_images": len(data["test"][0]),
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
    }
    (args.out / "card.json").write_text(json.dumps(card, indent=2) + "\n")


if __name__ == "__main__":
    main()
