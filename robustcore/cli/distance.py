"""robustcore distance: the nearest error of each image."""

from __future__ import annotations

import argparse

from robustcore.cli.common import (
    classes,
    example,
    fraction,
    number,
    print_cost,
    print_table,
    write,
)
from robustcore.distance import EFFORT, METHODS, UNUSED, distance_to_error
from robustcore.gradients import LOSSES
from robustcore.runs import leads

ABOUT = "the nearest error of each image"


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--norm", default="2", help="2 or inf")
    add("--method", default="minimum", choices=METHODS, help="pgd is the paper's")
    add("--restarts", type=int, default=1, help="the nearest error of all is kept")
    add("--box", type=float, nargs=2, metavar=("LOW", "HIGH"), help="keep errors in this range")
    minimum = parser.add_argument_group("--method minimum")
    help = f"gradients for each image and start (default: {EFFORT})"
    minimum.add_argument("--effort", type=int, help=help)
    pgd = parser.add_argument_group("--method pgd")
    pgd.add_argument(
        "--eps",
        type=_radius,
        metavar="RADIUS",
        help="in pixel units of [0, 1], also as 8/255; or search: the least of each image at which "
        "the attack succeeds (default: 1, with --norm inf 0.1)",
    )
    pgd.add_argument("--steps", type=int, help="default: 200, with --eps search 100")
    help = "default: eps/150; with --eps search it adapts"
    pgd.add_argument("--step-size", type=fraction, help=help)
    pgd.add_argument("--loss", choices=LOSSES, help="what the steps raise (default: ce)")
    help = "bisect towards the image, which takes off what the last step overshot"
    pgd.add_argument("--refine", action="store_true", help=help)


def run(args: argparse.Namespace) -> int:
    for option in UNUSED[args.method]:
        if getattr(args, option) not in (None, False):
            flag = option.replace("_", "-")
            raise ValueError(f"--{flag} must be left out with --method {args.method}")
    engine, x, y = example(args)
    near = distance_to_error(
        engine,
        x,
        y,
        norm=args.norm,
        method=args.method,
        effort=args.effort,
        restarts=args.restarts,
        box=args.box,
        eps=args.eps,
        steps=args.steps,
        step_size=args.step_size,
        loss=args.loss,
        refine=args.refine,
        run=args.kept,
        seed=args.seed,
    )
    if not leads():
        return 0
    names = classes(args)
    print_table(
        {
            "image": [str(i) for i in near.ids],
            "label": [names[k] for k in near.labels],
            "distance": [number(v, 4) for v in near.distance],
            "error": [names[k] if k >= 0 else "-" for k in near.label_adv],
            "status": [str(each) for each in near.status],
            "gradients": [f"{n:,}" for n in near.n_backward],
        }
    )
    print(f"\n{near}")
    print_cost(near)
    write(near, args.out, "distance")
    print(f"wrote distance.csv and distance.npz in {args.out}")
    return 0


def _radius(text: str) -> float | str:
    return text if text == "search" else fraction(text, "or search, ")
