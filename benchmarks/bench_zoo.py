"""What each way of training did: noise and distances of the networks of the zoo, ratios, targets.

    python benchmarks/bench_zoo.py --images 100 --folder DIR

Writes benchmarks/results/zoo.json. For each data set, the first test images: accuracy, in noise
also; the median of sigma(x0, 0.01) over 1,000 draws and of the nearest error found (l2, and linf),
a misclassified image counting as 0; and the ratios of these medians to the natural network's, with
95 % intervals from 10,000 resamples of the images, the same for both. With --folder, the folder of
the whole of CIFAR-10, also the accuracy in noise on training images. No number here is a time.
"""

import argparse
import json
import platform
from pathlib import Path

import numpy as np
import torch

import robustcore as rc
from robustcore import training, zoo

RESAMPLES, TRAINED, TRAINING_NOISE = 10_000, 1000, 0.15
TARGETS = {  # quantity, network: least ratio to the natural network
    ("sigma", "cifar10-gauss0.4"): 4.0,
    ("sigma", "cifar10-adv"): 2.0,
}


def ratio(value, natural, rng):
    """Ratio of medians (B,), with a 95 % interval."""
    rows = rng.integers(0, len(value), (RESAMPLES, len(value)))
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = np.median(value[rows], 1) / np.median(natural[rows], 1)
        found = np.median(value) / np.median(natural)
    low, high = np.quantile(np.nan_to_num(drawn, nan=np.inf), [0.025, 0.975])
    return {"ratio": float(found), "low": float(low), "high": float(high)}


def measured(name, images):
    model, x, y = rc.load_example(name, images)
    rates = rc.error_rate(model, x, [0, 0.05, 0.1, 0.2, 0.4], y, samples=20)
    noise = rc.sigma_at_error_rate(model, x, 0.01, y, samples=1000)
    near = {norm: rc.distance_to_error(model, x, y, norm=norm) for norm in ("L2", "Linf")}
    eps = zoo.card(name).get("robust_accuracy", {"eps": 0.3 if "mnist" in name else 8 / 255})["eps"]
    attacked = rc.pgd(model, x, y, eps=eps, steps=20)
    per_image = {"sigma": noise.sigma, "l2": near["L2"].distance, "linf": near["Linf"].distance}
    about = {
        "card_accuracy": zoo.card(name)["test_accuracy"],
        "accuracy_in_noise": dict(
            zip(map(str, rates.sigma.tolist()), (1 - rates.rate.mean(0)).tolist(), strict=True)
        ),
        "medians": {key: float(np.median(value)) for key, value in per_image.items()},
        "statuses": {each: noise.count(each) for each in noise.statuses},
        "median_distance_over_linear": rc.compare(noise, near["L2"]).median_ratio,
        "pgd20": {"eps": eps, "accuracy": 1 - float(attacked.fooled[:, 0].mean())},
    }
    return about, per_image


def training_gap(name, data):
    """Accuracy in noise of training images, and of as many test images."""
    model, found = rc.load_model(name), {}
    for part, x, y in (("training", data.x, data.y), ("test", data.x_test, data.y_test)):
        images = x[:TRAINED].float() / 255
        rate = rc.error_rate(model, images, [0, TRAINING_NOISE], y[:TRAINED], samples=1).rate
        found[part] = dict(
            zip(("clean", f"sigma {TRAINING_NOISE}"), (1 - rate.mean(0)).tolist(), strict=True)
        )
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--folder", type=Path, help="the whole of CIFAR-10, for training images")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/zoo.json")
    args = parser.parse_args()
    data = training.load_cifar10(args.folder) if args.folder else None
    rng = np.random.default_rng(0)
    networks, per_image = {}, {}
    for name in sorted(zoo.names(), key=lambda name: not name.endswith("-natural")):
        networks[name], per_image[name] = measured(name, args.images)
        natural = per_image[f"{name.partition('-')[0]}-natural"]
        if not name.endswith("-natural"):
            networks[name]["over_natural"] = {
                key: ratio(value, natural[key], rng) for key, value in per_image[name].items()
            }
        if data is not None and name.startswith("cifar10"):
            networks[name]["in_noise_trained_and_not"] = training_gap(name, data)
        print(json.dumps({name: networks[name]}, indent=1), flush=True)

    targets = {}
    for (key, name), least in TARGETS.items():
        if name in networks:
            found = networks[name]["over_natural"][key]["ratio"]
            targets[f"{key} of {name} over natural >= {least:g}"] = [found, found >= least]
    medians = {n: v["medians"]["l2"] for n, v in networks.items() if n.startswith("cifar10")}
    highest = max(medians, key=medians.get)
    if "cifar10-adv" in networks:
        targets["median l2 distance is highest of"] = [highest, highest == "cifar10-adv"]
    result = {
        "command": f"python benchmarks/bench_zoo.py --images {args.images}"
        + (" --folder DIR" if args.folder else ""),
        "machine": {"processor": platform.machine(), "threads": torch.get_num_threads()},
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "images": args.images,
        "targets": targets,
        "networks": networks,
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(targets, indent=1))


if __name__ == "__main__":
    main()
