"""robustcore sigma: the noise at which the error rate of each image reaches a rate."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

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
from robustcore.distance import distance_to_error
from robustcore.noise import Gaussian, Laplace, SaltAndPepper, Speckle, Uniform
from robustcore.precision import PRECISIONS
from robustcore.results import SigmaResult, compare
from robustcore.runs import leads
from robustcore.sigma import METHODS, scale_at_error_rate

NOISE = {
    "gaussian": Gaussian(),
    "uniform-linf": Uniform("Linf"),
    "uniform-l2": Uniform("L2"),
    "laplace": Laplace(),
    "salt-and-pepper": SaltAndPepper(),
    "speckle": Speckle(),
}
ABOUT = "the noise at which the error rate of each image reaches a rate"


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--rate", type=float, default=0.01, help="the error rate")
    add("--samples", type=int, default=1000, help="noisy draws of each image")
    add("--rtol", type=float, help="stop at this relative half-width of the interval")
    add("--confidence", type=float, default=0.95, help="of the interval of each image")
    add("--noise", choices=NOISE, default="gaussian", help="its law; sigma is its scale")
    add("--sigma-max", type=float, help="where the search ends (default: 1)")
    how = "quantile, or splitting below 1/samples by default; bisection is the paper's"
    add("--method", choices=METHODS, help=how)
    add("--precision", choices=PRECISIONS, help="judged first in it (default: the model's own)")
    add("--with-distance", action="store_true", help="find the nearest error (l2) as well")


def run(args: argparse.Namespace) -> int:
    noise = NOISE[args.noise]
    if args.with_distance and not isinstance(noise, Gaussian):
        raise ValueError(f"--with-distance must be left out with --noise {args.noise}")
    engine, x, y = example(args)
    found = scale_at_error_rate(
        engine,
        x,
        args.rate,
        y,
        samples=args.samples,
        rtol=args.rtol,
        confidence=args.confidence,
        scale_max=args.sigma_max,
        noise=noise,
        method=args.method,
        run=args.kept,
        seed=args.seed,
    )
    near = None
    if args.with_distance:
        near = distance_to_error(engine, x, y, seed=args.seed, run=args.kept)
    if not leads():
        return 0
    columns = _sigma_columns(found, classes(args))
    if near is not None:
        both = compare(found, near)
        columns["distance"] = [number(v, 3) for v in near.distance]
        columns["ratio"] = [number(v, 2) for v in both.ratio]
    print_table(columns)
    print(f"\n{found}")
    if found.gaussian:
        linear = np.median(found.half_space_distance)
        print(f"median distance if errors were a half-space, -sigma * Phi^-1(rate): {linear:.3f}")
    print_cost(found)
    if near is not None:
        print(f"\n{near}")
        print(f"median ratio of the nearest error found to that distance: {both.median_ratio:.2f}")
        print_cost(near)
        write(near, args.out, "distance")
    write(found, args.out, "sigma")
    figure = Figure(figsize=(6.4, 4.0), dpi=150, layout="constrained")
    plot.sigma_histogram(found, figure.add_subplot())
    write_figure(figure, args.out / "sigma.png")
    print(f"wrote {', '.join(sorted(path.name for path in args.out.iterdir()))} in {args.out}")
    return 0


def _sigma_columns(found: SigmaResult, names: Sequence[str]) -> dict[str, list[str]]:
    ends = zip(found.sigma_low, found.sigma_high, strict=True)
    columns = {
        "image": [str(i) for i in found.ids],
        "label": [names[k] for k in found.labels],
        "sigma": [
            f"{s:.4f}" if status == "found" else str(status)
            for s, status in zip(found.sigma, found.status, strict=True)
        ],
        f"{100 * found.confidence:g} % interval": [f"{a:.4f} to {b:.4f}" for a, b in ends],
    }
    if found.gaussian:
        columns["-s*Phi^-1(mu)"] = [number(v, 3) for v in found.half_space_distance]
    return columns | {"evaluations": [f"{n:,}" for n in found.n_forward]}
