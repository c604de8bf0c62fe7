"""Figure 5 and the table of appendix B: models under corruptions and under attack.

    python examples/figure5.py [--quick] [--out DIR] [--model NAME ...] [--images 250]

Accuracy on clean images, under 15 corruptions at five severities, and under PGD of 100 steps.
"""

import argparse
import csv
from pathlib import Path

from matplotlib.figure import Figure

import robustcore as rc
from robustcore.plot.figure5 import corruption_accuracy, corruption_groups
from robustcore.results.corruptions import better_and_worse, side_by_side

PAPER = ["cifar10-natural", "cifar10-adv", "cifar10-gauss0.1", "cifar10-gauss0.4"]
EPS = {"Linf": [2 / 255, 8 / 255], "L2": [0.5]}

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--quick", action="store_true", help="50 images, severities 1, 3 and 5")
parser.add_argument("--out", type=Path, default=Path("out/figure5"))
parser.add_argument("--model", nargs="+", default=[m for m in PAPER if m in rc.zoo.names()])
parser.add_argument("--images", type=int, default=250)
parser.add_argument("--attacked", type=int, default=50, help="of these")
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)
images, severities = (50, (1, 3, 5)) if args.quick else (args.images, (1, 2, 3, 4, 5))

tables, robust = {}, {}
for name in args.model:
    model, x, y = rc.load_example(name, images)
    tables[name] = rc.corruption_benchmark(model, x, y, severities=severities)
    some, steps = slice(args.attacked), 20 if args.quick else 100
    robust[name] = [
        rc.pgd(model, x[some], y[some], eps=eps, norm=norm, steps=steps)
        for norm, eps in EPS.items()
    ]
    tables[name].save(args.out / f"{name}.npz")
    print(name, tables[name], *robust[name], sep="\n  ")

columns = side_by_side(tables, robust)
with (args.out / "figure5.csv").open("w", newline="") as file:
    csv.writer(file).writerows([columns, *zip(*columns.values(), strict=True)])
first, *others = tables.values()
if others:
    for words, group in zip(("gain", "do not"), better_and_worse(first, *others), strict=True):
        names = ", ".join(f"{name} {gain:+.3f}" for name, gain in group.items())
        print(f"over {args.model[0]}, the others {words} under: {names}")
    figure = Figure(figsize=(12, 5.6), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2)
    corruption_accuracy(tables, left)
    corruption_groups(tables, robust, right)
    figure.savefig(args.out / "figure5.png")
    print(f"wrote figure5.png and figure5.csv in {args.out}")
