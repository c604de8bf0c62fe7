"""Figure 2: the nearest error against the noise in which 1 % of copies are errors.

    python examples/figure2.py --model cifar10-natural --images 80 --out out/figure2 [--quick]

Claim 1: on every network the median over images of (nearest error found) / (-sigma Phi^-1(0.01)) is
between 4/5 and 5/4. Claim 2, where its networks are here: Gaussian and adversarial training raise
sigma and the distance of most images, the first sigma of most more, the second the distance.
Exits with 1 unless all intervals (verdict.py) lie inside; writes the numbers to figure2.json.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from verdict import LEVEL, judge, median_interval, save, share_interval, together

import robustcore as rc
from robustcore import plot, zoo

AXES = ("sigma", "distance")
parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
known = [name for name in zoo.names() if name.startswith("cifar10-")]
parser.add_argument("--model", nargs="+", default=known, help="networks of the zoo")
parser.add_argument("--images", type=int, help="of each (default: 80; 20 with --quick)")
parser.add_argument("--out", type=Path, default=Path("out/figure2"))
parser.add_argument("--quick", action="store_true", help="fewer images and draws")
parser.add_argument("--device", default="cpu", help="such as cuda (default: cpu)")
args = parser.parse_args()
images, samples = args.images or (20 if args.quick else 80), 400 if args.quick else 1000
args.out.mkdir(parents=True, exist_ok=True)
noise, both = {}, {}
for name in args.model:
    model, x, y = rc.load_example(name, images, args.device)
    engine = rc.Engine(model, progress=True)
    noise[name] = rc.sigma_at_error_rate(engine, x, 0.01, y, samples=samples)
    near = rc.distance_to_error(engine, x, y, effort=25 if args.quick else 60)
    both[name] = rc.compare(noise[name], near)
    noise[name].save(args.out / f"{name}.sigma.npz")
    near.save(args.out / f"{name}.distance.npz")
figure = Figure(figsize=(6.4, 7.2), dpi=150, layout="constrained")
above, below = figure.subplots(2, 1, height_ratios=[2, 1])
plot.sigma_against_distance(both, above)
plot.sigma_histograms(noise, below)
figure.savefig(args.out / "figure2.png")
medians, ratios, values = {}, {}, {}
for name, record in both.items():
    values[name] = np.stack([record.sigma, record.distance])
    medians[name] = np.median(values[name], axis=1).tolist()
    interval = median_interval(record.ratio[np.isfinite(record.ratio)], LEVEL / len(both))
    ratios[name] = [record.median_ratio, *interval, judge(interval, 4 / 5, 5 / 4)]
    print(name, "median sigma {:.4f}, distance {:.4f},".format(*medians[name]),
          "ratio {:.3f} ({:.3f} to {:.3f}): {}".format(*ratios[name]))  # fmt: skip
outcomes = {"1, distance as noise predicts": together([row[-1] for row in ratios.values()])}
natural, gauss, adversarial = (values.get(f"cifar10-{n}") for n in ("natural", "gauss0.4", "adv"))
parts = {}
if not any(array is None for array in (natural, gauss, adversarial)):
    pairs = {"gauss0.4 raises": (gauss, natural), "adv raises": (adversarial, natural)}
    more = {f"{k} {v}": (a[i], b[i]) for k, (a, b) in pairs.items() for i, v in enumerate(AXES)}
    more |= {"gauss0.4 raises sigma more": (gauss[0], adversarial[0])}
    more |= {"adv raises distance more": (adversarial[1], gauss[1])}
    for part, (a, b) in more.items():
        counts = int((a > b).sum()), int((a != b).sum())
        interval = share_interval(*counts, LEVEL / len(more))
        parts[part] = [*counts, *interval, judge(interval, least=0.5)]
        print("{}: {} of {} images, share {:.2f} to {:.2f}: {}".format(part, *parts[part]))
    outcomes["2, training raises both"] = together([row[-1] for row in parts.values()])
for claim, outcome in outcomes.items():
    print(f"claim {claim}: {outcome}")
save(args.out / "figure2.json", medians=medians, ratios=ratios, parts=parts, outcomes=outcomes)
raise SystemExit(0 if together([*outcomes.values()]) == "holds" else 1)
