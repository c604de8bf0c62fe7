"""Train a network of the zoo as the shipped one was, and write it with its card.

    python examples/train_zoo.py cifar10-adv --folder DIR --out runs/cifar10-adv

DIR holds the data set (robustcore/training/data.py names the files); without it the data come from
their own address. Their pixels are checked either way. An interrupted run goes on from its last
finished epoch when the same command is given again. `--ship robustcore/zoo` copies the result into
the zoo. Other networks and recipes: `robustcore train --help`.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from robustcore.training import Adversarial, Gaussian, Natural, load_cifar10, load_mnist, train

CIFAR10 = {"network": "resnet20", "batch_size": 256, "compile": True}
TUNED = CIFAR10 | {"start": "cifar10-natural"}  # fewer epochs, from what the natural one knows
MNIST = {"network": "mnist-cnn", "batch_size": 64}
ZOO = {
    "cifar10-natural": (Natural(), CIFAR10 | {"epochs": (45, 12), "lr": (0.3, 0.1)}),
    "cifar10-gauss0.1": (Gaussian(0.1), TUNED | {"epochs": 12, "lr": 0.1}),
    "cifar10-gauss0.4": (Gaussian(0.4), TUNED | {"epochs": 12, "lr": 0.1}),
    "cifar10-adv": (Adversarial(steps=1), TUNED | {"epochs": 20, "lr": 0.2}),
    "mnist-natural": (Natural(), MNIST | {"epochs": 6, "lr": 0.1}),
    "mnist-adv": (Adversarial(0.3, steps=10, ramp=4), MNIST | {"epochs": 15, "lr": 0.05}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=ZOO)
    parser.add_argument("--folder", type=Path, help="where the data lie (default: download)")
    parser.add_argument("--out", type=Path, help="default: runs/NAME")
    parser.add_argument("--ship", type=Path, help="copy weights and card to this folder")
    parser.add_argument("--device", default="cpu", help="such as cuda, then in bfloat16")
    args = parser.parse_args()
    recipe, settings = ZOO[args.name]
    load = load_mnist if args.name.startswith("mnist") else load_cifar10
    out = args.out or Path("runs") / args.name
    found = train(data=load(args.folder), recipe=recipe, out=out, device=args.device, **settings)
    print(f"{args.name}: test accuracy {found.card['test_accuracy']:.4f}")
    if args.ship:
        shutil.copy(out / "weights.safetensors", args.ship / f"{args.name}.safetensors")
        shutil.copy(out / "card.json", args.ship / f"{args.name}.json")


if __name__ == "__main__":
    main()
