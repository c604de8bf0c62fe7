"""Figure 5 and the table of appendix B: models under corruptions and under attack.

    python examples/figure5.py --images 250 --out out/figure5 [--quick] [--model NAME ...]

Accuracy on clean images, under 15 corruptions at five severities, and under PGD of 100 steps. Claim
5: of four families of corruptions each model after the first gains most over it under noise (not
counting Gaussian noise), and loses under fog and contrast. Exits with 1 unless the intervals over
images (verdict.py) of all these gains and their differences say so; writes figure5.json.
"""

import argparse
import csv
from pathlib import Path

from matplotlib.figure import Figure
from scipy.stats import norm
from verdict import LEVEL, judge, save, together

import robustcore as rc
from robustcore import plot
from robustcore.results.corruptions import FAMILIES, gain, side_by_side

PAPER = [f"cifar10-{name}" for name in ("natural", "adv", "gauss0.1", "gauss0.4")]
parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--model", nargs="+", default=PAPER, help="of the zoo, the natural one first")
parser.add_argument("--images", type=int, help="of each (default: 250; 50 with --quick)")
parser.add_argument("--attacked", type=int, default=50, help="of these")
parser.add_argument("--out", type=Path, default=Path("out/figure5"))
parser.add_argument("--quick", action="store_true", help="fewer images, severities and steps")
args = parser.parse_args()
images, severities = args.images or (50 if args.quick else 250), range(1, 6, 1 + args.quick)
args.out.mkdir(parents=True, exist_ok=True)
tables, robust = {}, {}
for name in args.model:
    model, x, y = rc.load_example(name, images)
    engine = rc.Engine(model, progress=True)
    tables[name] = rc.corruption_benchmark(engine, x, y, severities=severities)
    few, steps = slice(args.attacked), 20 if args.quick else 100
    radii = {"Linf": [2 / 255, 8 / 255], "L2": [0.5]}
    robust[name] = [
        rc.pgd(engine, x[few], y[few], eps=eps, norm=norm, steps=steps)
        for norm, eps in radii.items()
    ]
    tables[name].save(args.out / f"{name}.npz")
    print(name, tables[name], *robust[name], sep="\n  ")
columns = side_by_side(tables, robust)
with (args.out / "figure5.csv").open("w", newline="") as file:
    csv.writer(file).writerows([columns, *zip(*columns.values(), strict=True)])
first, *others = args.model
figure = Figure(figsize=(12.8, 5.6), dpi=150, layout="constrained")
left, *right = figure.subplots(1, 2 if others else 1, squeeze=False)[0]
plot.corruption_accuracy(tables, left)
if others:
    plot.corruption_groups(tables, robust, *right)
figure.savefig(args.out / "figure5.png")
wider = norm.ppf(1 - LEVEL / 2 / 5 / max(len(others), 1)) / norm.ppf(0.975)
singles = {name: [name] for name in tables[first].names}
outcomes, rows = [], {}
for name in others:
    parts = singles | FAMILIES
    gains = {part: gain(tables[first], tables[name], which) for part, which in parts.items()}
    rows[name] = gains
    ends = {
        part: (mean - wider * half, mean + wider * half) for part, (mean, half) in gains.items()
    }
    low, high = ends["noise"]
    rest = [ends[family] for family in FAMILIES if family != "noise"]
    outcomes += [judge((low - most, high - least), least=0) for least, most in rest]
    outcomes += [judge(ends[part], most=0) for part in ("fog", "contrast")]
    shown = [(part, *gains[part]) for part in (*FAMILIES, "fog", "contrast")]
    words = ", ".join(f"{part} {mean:+.3f} +- {half:.3f}" for part, mean, half in shown)
    print(f"{name} over {first}: {words}")
verdict = together(outcomes) if others else "takes two models"
means = {name: table.mean_accuracy() for name, table in tables.items()}
accuracy = {title: column.tolist() for title, column in columns.items()}
save(args.out / "figure5.json", gains=rows, mean_accuracy=means, outcome=verdict, table=accuracy)
print(f"claim 5, noise gains most, fog and contrast lose: {verdict}")
raise SystemExit(0 if verdict == "holds" else 1)
