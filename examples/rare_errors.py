"""One error in a million: the noise of each error rate, down to where no plain draw ever errs.

    python examples/rare_errors.py [--quick] [--model NAME] [--images 12] [--out out/rare]

Above: sigma against the error rate for single images, with the line of the half-space that fits
common errors. Below: the ratio of the two over all images. The paper's linear picture says 1.
Writes the numbers to rare_errors.json; it judges no claim.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from verdict import save

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
curve = rc.error_curve(rc.Engine(model, progress=True), x, y, samples=samples)
rows = {}
for at, rate in enumerate(curve.rates):
    found = curve.status[:, at] == "found"
    if not found.any():
        print(f"rate {rate:7.0e}: found for no image")
        continue
    sigma, ratio = curve.sigma[found, at], curve.ratio()[found, at]
    known = ratio[np.isfinite(ratio)]
    half = (curve.sigma_high - curve.sigma_low)[found, at] / 2 / sigma
    row = {"images": len(sigma), "sigma": np.median(sigma), "half_width": np.median(half)}
    told = "rate {:7.0e}: median sigma {sigma:.4f}, half-width {half_width:.1%}".format(rate, **row)
    if len(known):
        row |= {"ratio": np.median(known), "least_ratio": known.min(), "largest_ratio": known.max()}
        told += f", {row['ratio']:.2f} of the half-space's"
    rows[f"{rate:g}"] = {key: float(value) for key, value in row.items()}
    print(told)
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
evaluations = float(np.median(right)) if len(right) else None
told = {"evaluations": evaluations, "warnings": curve.warnings()}
save(args.out / "rare_errors.json", rates=rows, **told)
print(f"wrote rare_errors.png, rare_errors.json, curve.npz and curve.csv in {args.out}")
