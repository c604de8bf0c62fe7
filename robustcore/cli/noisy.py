"""robustcore noisy: how far noisy copies of each image are from errors, beside the bound."""

from __future__ import annotations

import argparse

from robustcore.cli.common import (
    classes,
    example,
    number,
    print_cost,
    print_table,
    write,
)
from robustcore.concentration import noisy_distance
from robustcore.concentration.noisy_points import METHODS
from robustcore.runs import leads

ABOUT = "how far noisy copies of each image are from errors, beside the isoperimetric bound"


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    noise = parser.add_mutually_exclusive_group()
    noise.add_argument("--sigma", type=float, help="of the noise")
    noise.add_argument("--rate", type=float, help="find the sigma of this error rate first")
    add("--points", type=int, default=200, help="noisy copies whose distance is sought")
    add("--samples", type=int, default=2000, help="noisy copies that the error rate counts")
    add("--confidence", type=float, default=0.95, help="of the interval of each image")
    add("--method", default="search", choices=METHODS, help="pgd is the paper's")


def run(args: argparse.Namespace) -> int:
    engine, x, y = example(args)
    found = noisy_distance(
        engine,
        x,
        y,
        sigma=args.sigma,
        error_rate=0.01 if args.sigma is None and args.rate is None else args.rate,
        points=args.points,
        samples=args.samples,
        confidence=args.confidence,
        method=args.method,
        run=args.kept,
        seed=args.seed,
    )
    if not leads():
        return 0
    names = classes(args)
    ends = zip(found.distance_low, found.distance_high, strict=True)
    print_table(
        {
            "image": [str(i) for i in found.ids],
            "label": [names[k] for k in found.labels],
            "sigma": [number(v, 4) for v in found.sigma],
            "error rate": [number(v, 4) for v in found.error_rate],
            "distance": [number(v, 4) for v in found.distance],
            f"{100 * found.confidence:g} % interval": [f"{a:.4f} to {b:.4f}" for a, b in ends],
            "bound": [number(v, 4) for v in found.bound],
            "ratio": [number(v, 2) for v in found.ratio],
            "status": [str(each) for each in found.status],
        }
    )
    print(f"\n{found}")
    print_cost(found)
    write(found, args.out, "noisy")
    print(f"wrote noisy.csv and noisy.npz in {args.out}")
    return 0
