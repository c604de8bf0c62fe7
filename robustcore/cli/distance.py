"""robustcore distance: the nearest error of each image."""

from __future__ import annotations

import argparse

from robustcore.cli.common import (
    classes,
    engine,
    example,
    leads,
    number,
    print_cost,
    print_table,
    write,
)
from robustcore.distance import METHODS, distance_to_error

ABOUT = "the nearest error of each image"


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--norm", default="2", help="2 or inf")
    add("--method", default="minimum", choices=METHODS, help="pgd is the paper's")
    add("--effort", type=int, default=60, help="gradients for each image and start (minimum)")
    add("--restarts", type=int, default=1, help="the nearest error of all is kept")
    add("--box", type=float, nargs=2, metavar=("LOW", "HIGH"), help="keep errors in this range")


def run(args: argparse.Namespace) -> int:
    model, x, y = example(args)
    near = distance_to_error(
        model,
        x,
        y,
        norm=args.norm,
        method=args.method,
        effort=args.effort,
        restarts=args.restarts,
        box=args.box,
        progress=True,
        run=args.kept,
        **engine(args),
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
