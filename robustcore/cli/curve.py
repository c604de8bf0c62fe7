"""robustcore curve: the noise of each error rate, down to one in a billion and below."""

from __future__ import annotations

import argparse

import numpy as np
from matplotlib.figure import Figure

from robustcore import plot
from robustcore.cli.common import (
    classes,
    example,
    number,
    print_cost,
    print_table,
    write,
    write_figure,
)
from robustcore.rare import RATES, error_curve
from robustcore.runs import leads

ABOUT = "the noise of each error rate, down to one in a billion"


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--rates", type=float, nargs="+", default=list(RATES), help="error rates, 1e-15 to 0.25")
    add("--samples", type=int, default=1000, help="first draws of each image")
    add("--moves", type=int, default=4, help="of each particle at each level")
    add("--confidence", type=float, default=0.95, help="of the interval of each rate")
    add("--sigma-max", type=float, default=1.0, help="the largest noise looked at")


def run(args: argparse.Namespace) -> int:
    engine, x, y = example(args)
    found = error_curve(
        engine,
        x,
        y,
        args.rates,
        samples=args.samples,
        moves=args.moves,
        confidence=args.confidence,
        sigma_max=args.sigma_max,
        run=args.kept,
        seed=args.seed,
    )
    if not leads():
        return 0
    names = classes(args)
    columns = {
        "image": [str(i) for i in found.ids],
        "label": [names[k] for k in found.labels],
    }
    for at, rate in enumerate(found.rates):
        columns[f"{rate:g}"] = [
            f"{s:.4f}" if status == "found" else str(status)
            for s, status in zip(found.sigma[:, at], found.status[:, at], strict=True)
        ]
    last = int(np.argmin(found.rates))
    for name, bound in (("low", found.sigma_low), ("high", found.sigma_high)):
        columns[f"{name} at {found.rates[last]:g}"] = [f"{each:.4f}" for each in bound[:, last]]
    columns["evaluations"] = [f"{n:,}" for n in found.n_forward]
    columns["warning"] = found.warning.tolist()
    print_table(columns)
    print(f"\n{found}")
    least, through = found.rates.min(), found.nearest_rate()
    ratio = found.ratio()[:, last]
    if least < through and np.isfinite(ratio).any():  # at `through` itself the ratio is 1
        middle = number(float(np.nanmedian(ratio)), 2)
        print(
            f"sigma at {least:g} over that of the half-space through sigma at {through:g}: "
            f"{middle} in the median image"
        )
    print_cost(found)
    write(found, args.out, "curve")
    figure = Figure(figsize=(6.4, 8.4), dpi=150, layout="constrained", facecolor="white")
    upper, lower = figure.subplots(2, 1)
    plot.sigma_against_rate(found, upper)
    plot.ratio_to_half_space(found, lower)
    write_figure(figure, args.out / "curve.png")
    print(f"wrote curve.csv, curve.npz and curve.png in {args.out}")
    return 0
