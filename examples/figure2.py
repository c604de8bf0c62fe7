"""Figure 2: the nearest error against the noise in which 1 % of copies are errors.

    python examples/figure2.py --model cifar10-natural --images 80 --out out/figure2 [--quick]

Exits with 1 where claim 1 does not hold: on each network that was trained without attacks, the
median over images of (nearest error found) / (-sigma Phi^-1(0.01)) is between 1/2 and 2. Says
whether claim 2 holds where its networks are here: Gaussian and adversarial training raise both
medians, the first sigma more, the second the distance more.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import robustcore as rc
from robustcore import plot, zoo

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
    noise[name] = rc.sigma_at_error_rate(model, x, 0.01, y, samples=samples, progress=True)
    near = rc.distance_to_error(model, x, y, effort=25 if args.quick else 60, progress=True)
    both[name] = rc.compare(noise[name], near)
    noise[name].save(args.out / f"{name}.sigma.npz")
    near.save(args.out / f"{name}.distance.npz")
figure = Figure(figsize=(6.4, 7.2), dpi=150, layout="constrained")
above, below = figure.subplots(2, 1, height_ratios=[2, 1])
plot.sigma_against_distance(both, above)
plot.sigma_histograms(noise, below)
figure.savefig(args.out / "figure2.png")
holds, medians = True, {}
for name, record in both.items():
    medians[name] = np.median([record.sigma, record.distance], axis=1)
    attacked = "-adv" in name
    holds &= attacked or 0.5 <= record.median_ratio <= 2
    sigma, distance = medians[name]
    print(f"{name}: median sigma {sigma:.4f}, median distance {distance:.4f}, median ratio "
          f"{record.median_ratio:.3f}{' (attacked in training)' * attacked}")  # fmt: skip
natural, gauss, adversarial = (medians.get(f"cifar10-{n}") for n in ("natural", "gauss0.4", "adv"))
if not any(each is None for each in (natural, gauss, adversarial)):
    raised = (gauss > natural).all() and (adversarial > natural).all()
    second = raised and gauss[0] > adversarial[0] and adversarial[1] > gauss[1]
    print(f"claim 2, training raises both: {'holds' if second else 'does not hold'}")
print(f"claim 1, distance as noise predicts: {'holds' if holds else 'does not hold'}")
raise SystemExit(0 if holds else 1)
