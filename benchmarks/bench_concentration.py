"""noisy_distance against the paper's protocol in plain torch; audit_attack on half-spaces.

    OMP_WAIT_POLICY=passive python benchmarks/bench_concentration.py distance
    OMP_WAIT_POLICY=passive python benchmarks/bench_concentration.py audit

distance: 20 images x 200 points at sigma(x, 0.01), found beforehand. The baseline is the paper's
protocol as one would write it well in torch, eager: for each image the correct ones of the same
draws, cross-entropy, radius max(1, 2 * the 99.999th percentile of the noise), 200 steps of a 225th
of it, each point leaving at its first error. Its draws are made beforehand and not timed. A model
is a network of the zoo, or one of networks.py, read from --data.

audit: 1,000 half-spaces of random dimension, distance and direction, one call each at the default
settings, attacked by the exact projection and by one 30 % farther.

Every ratio is of one run on one machine. Results go to benchmarks/results/concentration.json.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from scipy.stats import binomtest
from torch.nn import functional as F

import robustcore as rc
from robustcore import zoo
from robustcore.concentration.noisy_points import PAPER_TAIL
from robustcore.evaluator import Evaluator
from robustcore.streams import Stream

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import networks
from machine import machine
from models import HalfSpace


class Counted(torch.nn.Module):
    """The model, and how many images went forward through it, and how many gradients back."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.forwards, self.gradients = inner, 0, 0

    def forward(self, x):
        self.forwards += len(x)
        self.gradients += len(x) * x.requires_grad
        return self.inner(x)


def plain(model, points, y, sigma, steps=200):
    """Distances of the paper's PGD from the points (N, C, H, W) of one image; 0 for errors."""
    eps = max(1.0, PAPER_TAIL * sigma)
    points = points.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        live = (model(points).argmax(1) == y).nonzero().flatten()
    distance = torch.zeros(len(points))
    distance[live] = torch.inf
    away = torch.zeros_like(points[live])
    for step in range(steps + 1):
        if not len(live):
            break
        at = (points[live] + away).requires_grad_(True)
        logits = model(at)
        loss = F.cross_entropy(logits, torch.full((len(live),), y), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, at)
        wrong = logits.argmax(1) != y
        distance[live[wrong]] = away[wrong].flatten(1).norm(dim=1)
        live, away, gradient = live[~wrong], away[~wrong], gradient[~wrong]
        if step < steps and len(live):
            length = gradient.flatten(1).norm(dim=1).clamp(min=1e-30).view(-1, 1, 1, 1)
            away = away + eps / 225 * gradient / length
            length = away.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            away = away * (eps / length).clamp(max=1)
    return distance.numpy()


def load(name, data, count):
    if name in zoo.names():
        model, x, y = rc.load_example(name, 4 * count)
    else:
        model, (x, y) = networks.load(name, data), networks.images(data, 4 * count)
    with torch.no_grad():
        right = (model(x).argmax(1) == y).nonzero().flatten()[:count]
    return model, x[right], y[right]


def distance_table(name, data, count, wanted, points=200):
    model, x, y = load(name, data, count)
    noise = rc.sigma_at_error_rate(rc.Engine(model, progress=False), x, 0.01, y)
    sigma = np.minimum(noise.sigma, 1.0)
    rows = torch.arange(count).repeat_interleave(points)
    draws = torch.arange(points).repeat(count)
    noisy = Evaluator(model, x, y, stream=Stream.NOISY_POINTS).noisy(
        rows, torch.as_tensor(sigma)[rows], draws
    )
    noisy = noisy.view(count, points, *x.shape[1:])
    how = {"points": points, "samples": points}
    runs = {}
    for run in wanted:
        engine = rc.Engine(model, compile=run == "compiled", progress=False)
        start = time.perf_counter()  # memory is warm and the model compiled after two images
        rc.noisy_distance(engine, x[:2], y[:2], sigma=sigma[:2], **how)
        first = time.perf_counter() - start
        start = time.perf_counter()
        record = rc.noisy_distance(engine, x, y, sigma=sigma, **how)
        runs[run] = {"seconds": time.perf_counter() - start, "seconds_first": first}
        print(run, runs[run], flush=True)
    counted = Counted(model)
    start = time.perf_counter()
    paper = np.stack([plain(counted, noisy[i], int(y[i]), sigma[i]) for i in range(count)])
    seconds = time.perf_counter() - start
    theirs = np.median(paper, 1)
    ratio = record.distance / theirs
    return {
        "model": name,
        "images": count,
        "points": points,
        "sigma": sigma.round(4).tolist(),
        "median": record.distance.round(5).tolist(),
        "median_plain": theirs.astype(float).round(5).tolist(),
        "share_at_most_plain": float(np.mean(ratio <= 1)),
        "largest_ratio_of_medians": float(ratio.max()),
        "median_ratio_of_medians": float(np.median(ratio)),
        "gradients_a_point": float(record.n_backward.sum() / paper.size),
        "gradients_a_point_plain": counted.gradients / paper.size,
        "gradients_ratio": counted.gradients / float(record.n_backward.sum()),
        "evaluations_a_point": float(record.n_forward.sum() / paper.size),
        "seconds_plain": seconds,
        **{f"{key}_{run}": value for run, each in runs.items() for key, value in each.items()},
        **{f"speed_{run}": seconds / each["seconds"] for run, each in runs.items()},
        "ratio_to_bound": record.ratio.round(3).tolist(),
    }


def audit_table(models=1000, inflated=1.3):
    generator = np.random.default_rng(0)
    verdicts = {1.0: [], inflated: []}
    start = time.perf_counter()
    for i in range(models):
        side = int(generator.integers(2, 7))
        distance = float(generator.uniform(0.05, 0.5))
        model = HalfSpace(3 * side * side, distance)
        w = torch.from_numpy(generator.standard_normal(3 * side * side))
        model.w = (w / w.norm()).float()
        wide = model.w.double()
        engine = rc.Engine(model, progress=False)
        x, y = torch.full((1, 3, side, side), 0.5), torch.zeros(1, dtype=torch.int64)
        sigma = None
        for factor in verdicts:

            def attack(_, x, y, factor=factor, wide=wide, distance=distance):
                height = (x.double().flatten(1) - 0.5) @ wide + distance
                away = factor * (1 + 1e-6) * height[:, None] * wide
                return (x.double() - away.view(x.shape)).float()

            found = rc.audit_attack(engine, x, y, attack, sigma_max=2.0, seed=i, sigma=sigma)
            sigma = found.sigma  # the default's, found once for both
            verdicts[factor].append(str(found.verdict[0]))
    seconds = time.perf_counter() - start
    table = {"models": models, "seconds": seconds, "settings": "default", "confidence": 0.95}
    for factor, each in verdicts.items():
        hits = each.count("missed errors")
        table[f"inflated {factor:g}"] = {
            "missed errors": hits,
            "consistent": each.count("consistent"),
            "undecided": each.count("undecided"),
            "share": hits / models,
            "interval": list(binomtest(hits, models).proportion_ci()),
        }
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("distance", "audit"))
    parser.add_argument("--models", nargs="+", default=["cifar10-natural", "resnet4b"])
    parser.add_argument("--data", default="../shared/data", help="folder of networks.py's models")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--runs", nargs="+", default=["eager"], choices=("eager", "compiled"))
    parser.add_argument("--simulated", type=int, default=1000)
    parser.add_argument("--out", default="benchmarks/results/concentration.json")
    args = parser.parse_args()
    torch.manual_seed(0)
    (torch.randn(64, 64) @ torch.randn(64, 64)).sum()  # threads are up before the first timing
    out = Path(args.out)
    result = json.loads(out.read_text()) if out.exists() else {"commands": {}, "tables": {}}
    if args.part == "audit":
        tables = {"audit of half-spaces": lambda: audit_table(args.simulated)}
    else:
        tables = {
            f"distance {name}": lambda name=name: distance_table(
                name, args.data, args.images, args.runs
            )
            for name in args.models
        }
    for title, table in tables.items():
        result["tables"][title] = {**table(), "machine": machine()}
        result["commands"][title] = " ".join(["python", *sys.argv])
        print(title, json.dumps(result["tables"][title], indent=1), flush=True)
        out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
