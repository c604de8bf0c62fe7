"""robustcore train: a network trained by a recipe, written with its card."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from robustcore import inputs, training, zoo
from robustcore.cli.common import fraction
from robustcore.training.recipes import ON_OVERFITTING
from robustcore.training.schedule import SCHEDULES
from robustcore.training.settings import PRECISIONS

ABOUT = "train a network: natural, with Gaussian noise, or adversarially"
RECIPES: dict[str, tuple[Any, tuple[str, ...]]] = {  # each with the options that are its own
    "natural": (training.Natural, ()),
    "gaussian": (training.Gaussian, ("sigma_max", "half")),
    "adversarial": (
        training.Adversarial,
        ("eps", "steps", "step_size", "restarts", "ramp", "on_overfitting"),
    ),
}
DATA: dict[str, tuple[Any, dict[str, Any]]] = {  # each with what it is trained with by default
    "cifar10": (
        training.load_cifar10,
        {"network": "resnet20", "epochs": (45, 12), "lr": (0.3, 0.1), "batch_size": 256},
    ),
    "mnist": (
        training.load_mnist,
        {"network": "mnist-cnn", "epochs": (6,), "lr": (0.1,), "batch_size": 64},
    ),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.HelpFormatter  # defaults depend on --data
    parser.epilog = (
        "An interrupted run goes on from its last finished epoch when the same command is given "
        "again. Several processes: torchrun --nproc-per-node N -m robustcore train ..."
    )
    add = parser.add_argument
    add("--data", choices=DATA, default="cifar10", help="default: cifar10")
    add("--folder", type=Path, help="where the data lie (default: downloaded, and checked)")
    add("--network", help=f"one of {', '.join(zoo.NETWORKS)} (default: by --data)")
    add("--recipe", choices=RECIPES, default="natural", help="default: natural")
    add("--out", type=Path, required=True, help="folder for checkpoint, weights and card")
    add("--start", help="weights to begin from: a network of the zoo or a .safetensors file")
    add("--epochs", type=int, nargs="+", help="of each cycle (default: 45 12; mnist 6)")
    add("--lr", type=float, nargs="+", help="peak of each cycle (default: 0.3 0.1; mnist 0.1)")
    add("--schedule", choices=SCHEDULES, help="default: one-cycle")
    add("--batch-size", type=int, help="default: 256; mnist 64")
    add("--weight-decay", type=float, help="default: 0.0005")
    add("--seed", type=int, help="default: 0")
    add("--device", help="default: a GPU where there is one")
    add("--precision", choices=PRECISIONS, help="default: bfloat16 on a GPU that has it")
    add("--compile", action=argparse.BooleanOptionalAction, help="default: where it pays")
    add("--average", action=argparse.BooleanOptionalAction, help="of cycles (default: yes)")
    noise = parser.add_argument_group("--recipe gaussian")
    noise.add_argument("--sigma-max", type=float, help="noise is uniform up to this")
    noise.add_argument("--half", action="store_true", default=None, help="half stay clean")
    attack = parser.add_argument_group("--recipe adversarial")
    attack.add_argument("--eps", type=fraction, help="linf radius (default: 8/255)")
    attack.add_argument("--steps", type=int, help="of PGD (default: 7; 1 is the fast variant)")
    attack.add_argument("--step-size", type=fraction, help="default: 2.5 eps / steps")
    attack.add_argument("--restarts", type=int, help="default: 1")
    attack.add_argument("--ramp", type=float, help="epochs in which eps grows (default: 0)")
    attack.add_argument(
        "--on-overfitting",
        choices=ON_OVERFITTING,
        help="of one step (default: fall back to 3 steps)",
    )


def run(args: argparse.Namespace) -> int:
    recipe = _recipe(args)
    if args.device is not None:
        inputs.device("--device", args.device)
    load, defaults = DATA[args.data]
    names = ("start", "epochs", "lr", "schedule", "batch_size", "weight_decay", "seed", "device")
    given = _given(args, (*names, "network", "precision", "compile", "average"))
    if args.epochs and not args.lr:  # the first cycle's peak, then the second's
        first, *_, other = 2 * defaults["lr"]
        given["lr"] = (first, *[other] * (len(args.epochs) - 1))
    try:
        found = training.train(
            data=load(args.folder), recipe=recipe, out=args.out, **(defaults | given)
        )
    except KeyboardInterrupt:
        message = "interrupted: the same command goes on from the last finished epoch"
        print(f"robustcore: {message}", file=sys.stderr)
        return 130
    card = found.card
    print(f"test accuracy {card['test_accuracy']:.4f} on {card['test_images']:,} images")
    if "robust_accuracy" in card:
        robust = card["robust_accuracy"]
        print(
            f"under {robust['attack']}, {robust['steps']} steps of radius {robust['eps']:.4g}: "
            f"{robust['accuracy']:.4f} on {robust['test_images']:,}"
        )
    for note in card["notes"]:
        print(f"note: {note}")
    print(f"wrote weights.safetensors and card.json in {args.out}")
    return 0


def _recipe(args: argparse.Namespace) -> training.Recipe:
    make, own = RECIPES[args.recipe]
    for name, (_, options) in RECIPES.items():
        for option in _given(args, options):
            if option not in own:
                flag = option.replace("_", "-")
                raise ValueError(f"--{flag} must be given with --recipe {name} alone")
    if args.recipe == "gaussian" and args.sigma_max is None:
        raise ValueError("--sigma-max must be given with --recipe gaussian")
    recipe: training.Recipe = make(**_given(args, own))
    return recipe


def _given(args: argparse.Namespace, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}
