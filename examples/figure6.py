"""Figure 6: accuracy in Gaussian noise of the models, and of defences that are known to fail.

    python examples/figure6.py --model cifar10-natural --images 150 --out out/figure6

Left the zoo's networks, right defences around --model, or with --photos DIR around the network of
imagenet.py. Ten trials, each with noise of its own, the same for all. Claim 6, no defence improves
accuracy in noise: a paired t-test over images, each one's gain its mean over trials, for every
defence and sigma. It does not hold where an interval (verdict.py) lies above 0, holds where all lie
below MARGIN, and is undecided otherwise. Exits with 1 unless it holds; writes figure6.json.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
from imagenet import network, photos
from matplotlib.figure import Figure
from scipy.stats import ttest_1samp
from tqdm import tqdm
from verdict import LEVEL, judge, mean_interval, save, together

import robustcore as rc
from robustcore import defenses, plot, zoo

MARGIN = 0.02
parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--model", default="cifar10-natural", help="a network of the zoo")
parser.add_argument("--photos", type=Path, help="folder of photos for the right panel")
parser.add_argument("--images", type=int, help="in each panel (default: 150; 20 with --quick)")
parser.add_argument("--out", type=Path, default=Path("out/figure6"))
parser.add_argument("--quick", action="store_true", help="fewer images, the same trials")
args = parser.parse_args()
warnings.simplefilter("ignore", rc.RandomizedModelWarning)
sigma = np.array([0, 0.05, 0.1, 0.2, 0.4])
model, x, y = rc.load_example(args.model, args.images or (20 if args.quick else 150))
panels = [({n: rc.load_model(n) for n in zoo.names() if n[:5] == args.model[:5]}, x, y)]
denoiser = defenses.load_denoiser(args.model) if args.model in defenses.denoisers() else None
if args.photos:
    model, (x, y), denoiser = network(), photos(args.photos, len(x)), None
panels.append(({"no defence": model} | defenses.published(model, *x.shape[2:], denoiser), x, y))
found = [{name: [] for name in models} for models, _, _ in panels]
jobs = [(i, name, seed) for i in (0, 1) for name in found[i] for seed in range(10)]
for i, name, seed in tqdm(jobs, unit=" trials"):
    models, x, y = panels[i]
    engine = rc.Engine(models[name], progress=False)
    found[i][name].append(rc.error_rate(engine, x, sigma, y, samples=1, seed=seed))
args.out.mkdir(parents=True, exist_ok=True)
figure = Figure(figsize=(9.6, 4.0), dpi=150, layout="constrained")
titles = "networks", f"defences of {'an ImageNet network' if args.photos else args.model}"
for ax, records, title in zip(figure.subplots(1, 2), found, titles, strict=True):
    plot.accuracy_over_trials(records, ax).set_title(title, fontsize="medium")
figure.savefig(args.out / "figure6.png")
right = {k: np.mean([r.rate for r in v], axis=0)[:, 1:] for k, v in found[1].items()}
plain, rows = right.pop("no defence"), {}
for name, rates in right.items():
    for k, gains in enumerate((plain - rates).T):
        low, high = mean_interval(gains, LEVEL / plain.shape[1] / len(right))
        outcome = "does not hold" if low > 0 else judge((low, high), most=MARGIN)
        row = gains.mean(), low, high, ttest_1samp(gains, 0).pvalue
        rows[f"{name} at {sigma[1 + k]:g}"] = [*map(float, row), outcome]
for part, row in rows.items():
    print("{:<26}{:+.3f} ({:+.3f} to {:+.3f}), p = {:.2g}: {}".format(part, *row))
outcome = together([row[-1] for row in rows.values()])
means = [
    {k: np.mean([1 - r.rate for r in v], (0, 1)).tolist() for k, v in f.items()} for f in found
]
save(args.out / "figure6.json", rows=rows, outcome=outcome, accuracy=means, sigma=sigma.tolist())
print(f"claim 6, no defence improves accuracy in noise: {outcome}")
raise SystemExit(0 if outcome == "holds" else 1)
