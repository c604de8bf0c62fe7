"""Figure 4: how far noisy images are from errors, beside the isoperimetric bound.

    python examples/figure4.py [--quick] [--model NAME ...] [--images 10] [--out out/figure4]

Above: the error rate at sigma = 0.1 against eps*, the median distance of noisy images to errors.
Below: sigma(x, 0.01) against eps* there. Claim 3: the median over images of eps* / bound at
sigma(x, 0.01) is between 1/2 and 1 on every network (close: within a factor of 2). Exits with 1
unless all intervals (verdict.py) lie inside; writes the numbers to figure4.json.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from verdict import LEVEL, judge, median_interval, save, together

import robustcore as rc
from robustcore import plot, zoo

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
known = [name for name in zoo.names() if name.startswith("cifar10-")]
parser.add_argument("--model", nargs="+", default=known, help="networks of the zoo")
parser.add_argument("--images", type=int, help="of each (default: 10; 6 with --quick)")
parser.add_argument("--points", type=int, default=60, help="noisy copies of each (default: 60)")
parser.add_argument("--out", type=Path, default=Path("out/figure4"))
parser.add_argument("--quick", action="store_true", help="fewer images and draws")
parser.add_argument("--device", default="cpu", help="such as cuda (default: cpu)")
args = parser.parse_args()
images = args.images or (6 if args.quick else 10)
options = {"points": args.points, "samples": 500 if args.quick else 2000}
args.out.mkdir(parents=True, exist_ok=True)
at_sigma, at_rate, rows = {}, {}, {}
for name in args.model:
    model, x, y = rc.load_example(name, images, args.device)
    engine = rc.Engine(model, progress=True)
    at_sigma[name] = rc.noisy_distance(engine, x, y, sigma=0.1, **options)
    at_rate[name] = rc.noisy_distance(engine, x, y, error_rate=0.01, **options)
    for title, record in (("sigma0.1", at_sigma[name]), ("rate0.01", at_rate[name])):
        record.save(args.out / f"{name}.{title}.npz")
        record.to_csv(args.out / f"{name}.{title}.csv")
        # both limits of an image hold together with 95 %, so of many images a few may be above
        above = int(np.sum(record.distance_low > record.bound_high))
        ratios = record.ratio[np.isfinite(record.ratio)]
        interval = median_interval(ratios, LEVEL / len(args.model))
        outcome = judge(interval, 1 / 2, 1)
        row = record.median_ratio, *interval, max(ratios, default=np.nan), len(ratios), above
        rows[f"{name} at {title}"] = [*map(float, row), outcome]
        print("{} at {}: median ratio {:.3f} ({:.3f} to {:.3f}), largest {:.3f}, of {} images; {} "
              "above the bound at both limits: {}".format(name, title, *row, outcome))  # fmt: skip
figure = Figure(figsize=(6.4, 8.4), dpi=150, layout="constrained")
upper, lower = figure.subplots(2, 1)
plot.noisy_distance_at_sigma(at_sigma, upper)
plot.noisy_distance_at_rate(at_rate, 0.01, lower)
figure.savefig(args.out / "figure4.png")
outcome = together([row[-1] for key, row in rows.items() if key.endswith("rate0.01")])
save(args.out / "figure4.json", rows=rows, outcome=outcome)
print(f"claim 3, below the bound and close to it: {outcome}")
raise SystemExit(0 if outcome == "holds" else 1)
