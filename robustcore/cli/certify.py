"""robustcore certify: randomised smoothing, the answer in noise and the radius where it holds."""

from __future__ import annotations

import argparse

from robustcore.certify import certify
from robustcore.cli.common import (
    classes,
    example,
    number,
    print_cost,
    print_table,
    write,
)
from robustcore.precision import PRECISIONS
from robustcore.runs import leads

ABOUT = "randomised smoothing: the answer in noise, and the radius within which it cannot change"


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--sigma", type=float, required=True, help="of the noise")
    add("--n0", type=int, default=100, help="draws that choose the class")
    add("--n", type=int, default=100_000, help="draws that count it")
    add("--alpha", type=float, default=0.001, help="probability that a radius is wrong")
    add("--radius", type=float, help="ask only whether this radius holds")
    add("--precision", choices=PRECISIONS, help="judged first in it (default: the model's own)")


def run(args: argparse.Namespace) -> int:
    engine, x, y = example(args)
    found = certify(
        engine,
        x,
        y,
        sigma=args.sigma,
        n0=args.n0,
        n=args.n,
        alpha=args.alpha,
        radius=args.radius,
        run=args.kept,
        seed=args.seed,
    )
    if not leads():
        return 0
    names = classes(args)
    print_table(
        {
            "image": [str(i) for i in found.ids],
            "label": [names[k] for k in found.labels],
            "answer": [names[k] if k >= 0 else "-" for k in found.label],
            "radius": [number(v, 4) for v in found.radius],
            "bound": [number(v, 4) for v in found.bound],
            "share": [f"{k / n:.4f}" for k, n in zip(found.n_top, found.n_samples, strict=True)],
            "draws": [f"{n:,}" for n in found.n_samples],
            "status": [str(each) for each in found.status],
        }
    )
    print(f"\n{found}")
    radii = sorted({0.0, *((args.radius,) if args.radius else (0.25, 0.5, 1.0))})
    shares = ", ".join(f"{found.accuracy(r):.3f} within {r:g}" for r in radii)
    print(f"right and certified: {shares}")
    print_cost(found)
    write(found, args.out, "certify")
    print(f"wrote certify.csv and certify.npz in {args.out}")
    return 0
