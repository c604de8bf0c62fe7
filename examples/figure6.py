"""Figure 6: accuracy in Gaussian noise of the models, and of defences that are known to fail.

    python examples/figure6.py --model cifar10-natural --images 150 --out out/figure6

Left the zoo's networks, right defences around --model, or with --photos DIR around the network of
imagenet.py. Ten trials, each with noise of its own, the same for all. A defence improves where its
mean gain is above two standard deviations over trials, which chance does with probability 7e-5.
Exits with 1 where one improves: the paper finds that none does.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
from imagenet import network, photos
from matplotlib.figure import Figure
from tqdm import tqdm

import robustcore as rc
from robustcore import defenses, plot, zoo

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
    (models, x, y), one = panels[i], {"samples": 1, "seed": seed, "progress": False}
    found[i][name].append(rc.error_rate(models[name], x, sigma, y, **one))
args.out.mkdir(parents=True, exist_ok=True)
figure = Figure(figsize=(9.6, 4.0), dpi=150, layout="constrained")
titles = "networks", f"defences of {'an ImageNet network' if args.photos else args.model}"
for ax, records, title in zip(figure.subplots(1, 2), found, titles, strict=True):
    plot.accuracy_over_trials(records, ax).set_title(title, fontsize="medium")
figure.savefig(args.out / "figure6.png")
right = {k: 1 - np.stack([r.rate.mean(0) for r in v])[:, 1:] for k, v in found[1].items()}
improving = 0
for name in list(right)[1:]:
    gains = right[name] - right["no defence"]  # (10, sigma above 0)
    gain, spread = gains.mean(0), gains.std(0, ddof=1)
    k, beyond = np.argmax(gain - 2 * spread), (gain > 2 * spread).any()
    improving += beyond
    verdict = f"{name:<18}{'improves accuracy' if beyond else 'does not improve':<18}"
    print(f"{verdict}{gain[k]:+.3f} at sigma {sigma[1 + k]:g}, spread {spread[k]:.3f}")
print(f"no defence improves accuracy in noise: {'does not hold' if improving else 'holds'}")
raise SystemExit(int(improving > 0))
