"""One error in a million: the noise of each error rate, down to where no plain draw ever errs.

    python examples/rare_errors.py [--quick] [--model NAME] [--images 12] [--out out/rare]

Above: sigma against the error rate for single images, with the line of the half-space that fits
common errors. Below: the ratio of the two over all images. The paper's linear picture says 1.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import robustcore as rc
from robustcore import plot

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--model", default="cifar10-natural", help="a network of the zoo")
parser.add_argument("--images", type=int, help="how many (default: 12; 4 with --quick)")
parser.add_argument("--samples", type=int, help="first draws of each (default: 1000; 400)")
parser.add_argument("--out", type=Path, default=Path("out/rare"))
parser.add_argument("--quick", action="store_true", help="fewer images and draws")
args = parser.parse_args()
images, samples = args.images or (12, 4)[args.quick], args.samples or (1000, 400)[args.quick]

model, x, y = rc.load_example(args.model, images)
curve = rc.error_curve(model, x, y, samples=samples, progress=True)
for at, rate in enumerate(curve.rates):
    found = curve.status[:, at] == "found"
    if not found.any():
        print(f"rate {rate:7.0e}: found for no image")
        continue
    sigma, ratio = curve.sigma[found, at], curve.ratio()[found, at]
    known = ratio[np.isfinite(ratio)]
    half = (curve.sigma_high - curve.sigma_low)[found, at] / 2 / sigma
    told = (
        f"rate {rate:7.0e}: median sigma {np.median(sigma):.4f}, half-width {np.median(half):.1%}"
    )
    print(told + (f", {np.median(known):.2f} of the half-space's" if len(known) else ""))
right = curve.n_forward[curve.sigma[:, 0] > 0]
print(f"{np.median(right):,.0f} evaluations of an image that the model gets right")
print("\n".join(curve.warnings()) or "no warning")
args.out.mkdir(parents=True, exist_ok=True)
curve.save(args.out / "curve.npz")
curve.to_csv(args.out / "curve.csv")
figure = Figure(figsize=(6.4, 8.4), dpi=150, layout="constrained", facecolor="white")
upper, lower = figure.subplots(2, 1)
plot.sigma_against_rate(curve, upper)
plot.ratio_to_half_space(curve, lower)
figure.savefig(args.out / "rare_errors.png")
print(f"wrote rare_errors.png, curve.npz and curve.csv in {args.out}")
