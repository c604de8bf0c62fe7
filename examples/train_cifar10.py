"""Train the ResNet-20 that robustcore ships as `cifar10-natural`, and write it with its card.

    python examples/train_cifar10.py --data DIR --out runs/cifar10-natural

DIR holds test.npz, train_batch_1..5.webp and train_labels.npy (lossless copies of CIFAR-10) or
cifar-10-python.tar.gz. Without --data the archive comes from the data set's own address.
Whatever the source, the pixels are checked against their known sha256.
An interrupted run goes on from its last finished epoch when the same command is given again.
Other recipes, networks and data: `robustcore.training.train`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from robustcore.training import load_cifar10, train


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
    train(
        "resnet20",
        load_cifar10(args.data),
        out=args.out,
        epochs=args.epochs,
        lr=args.lr,
        batch_size=args.batch_size,
        weight_decay=args.weight_decay,
        seed=args.seed,
        device=args.device,
        compile=True,
        precision="float32",
    )


if __name__ == "__main__":
    main()
