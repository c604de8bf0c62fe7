"""Fused networks against plain torch, and PGD against foolbox and torchattacks.

    pip install foolbox && pip install --no-deps torchattacks
    OMP_WAIT_POLICY=passive python benchmarks/bench_fused.py

Noise: `x + sigma * torch.randn`, forward, argmax, count, in batches of 1,000, against the engine's
counts, taking turns in one process; medians. Counts are first compared with the plain path's.
The limit is what noise and multiply-adds take one after the other, at the best rates measured here
on networks that the first cache holds; beside the rate of normals stands that of `perturb`.
PGD: see pgd_peers.py. With one thread times are processor time, else wall time.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from limits import SHAPE, SIGMA, dense, in_turns, perturb_rate, rates
from machine import machine
from pgd_peers import pgd_table
from torch import nn

from robustcore.evaluator import Evaluator
from robustcore.fused import pack
from robustcore.zoo.mnist import MnistNet

BATCH = 1000


def strided():
    """The convolutional network of the verification literature (Wong and Kolter, 2018)."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(32 * 49, 100), nn.ReLU(), nn.Linear(100, 10)),
    ).eval()


# name: network, multiply-adds of an image, draws, the ratio to reach
NETWORKS = {
    "linear 784-10": (lambda: dense(784, 10), 784 * 10, 40_000, 10.0),
    "MLP 784-256-10": (lambda: dense(784, 256, 10), 784 * 256 + 2560, 20_000, 2.5),
    "MNIST, 2 convolutions and maxima": (
        lambda: MnistNet().eval(),
        25 * 16 * 784 + 25 * 16 * 32 * 196 + 1568 * 128 + 1280,
        4_000,
        1.5,
    ),
    "MNIST, 2 strided convolutions": (
        strided,
        16 * 16 * 196 + 256 * 32 * 49 + 1568 * 100 + 1000,
        8_000,
        1.5,
    ),
    "MLP 784-1024-1024-10": (
        lambda: dense(784, 1024, 1024, 10),
        784 * 1024 + 1024 * 1024 + 10240,
        4_000,
        None,
    ),
}


def plain_count(model, x, label, draws):
    wrong = 0
    with torch.no_grad():
        for _ in range(draws // BATCH):
            noisy = x + SIGMA * torch.randn(BATCH, *SHAPE)
            wrong += int((model(noisy).argmax(1) != label).sum())
    return wrong


def noise_table(rounds):
    normals, madds = rates()
    rows = {}
    for name, (make, work, draws, wanted) in NETWORKS.items():
        torch.manual_seed(0)
        model, x = make(), torch.rand(1, *SHAPE)
        engine, unfused = Evaluator(model, x), Evaluator(lambda z, m=model: m(z), x)
        assert engine.fused is not None
        assert unfused.fused is None
        grid, label, few = np.array([SIGMA]), int(engine.y), 2000
        counts = [each.counts(grid, few, lambda n: None).item() for each in (engine, unfused)]
        assert abs(counts[0] - counts[1]) <= 2, counts  # of 2,000 draws, those in the rounding
        calls = {
            "plain": lambda: plain_count(model, x, label, draws),  # noqa: B023
            "unfused": lambda: unfused.counts(grid, draws, lambda n: None),  # noqa: B023
            "fused": lambda: engine.counts(grid, draws, lambda n: None),  # noqa: B023
        }
        more = {"8 sigmas": lambda: engine.counts(np.linspace(0.1, 0.8, 8), draws, lambda n: None)}  # noqa: B023
        if engine.fused.packed.dense:
            other = Evaluator(pack(model, SHAPE, draws="features"), x)
            more["features"] = lambda: other.counts(grid, draws, lambda n: None)  # noqa: B023
        took = in_turns({**calls, **more}, rounds)
        each = {key: 1e6 * value / draws for key, value in took.items()}
        limit = 1e6 * (784 / normals + work / madds)
        rows[name] = {
            "microseconds": {key: round(value, 3) for key, value in each.items()},
            "limit_microseconds": round(limit, 3),
            "share_of_limit": round(limit / each["fused"], 2),
            "ratio_to_plain": round(each["plain"] / each["fused"], 2),
            "ratio_to_unfused": round(each["unfused"] / each["fused"], 2),
            "wanted_ratio": wanted,
        }
        print(f"{name}: {json.dumps(rows[name])}", flush=True)
    return {
        "million_normals_per_second": round(normals / 1e6),
        "million_normals_per_second_of_perturb": round(perturb_rate() / 1e6),
        "giga_multiply_adds_per_second": round(madds / 1e9, 1),
        "networks": rows,
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("noise", "pgd"))
    out = Path(__file__).parent / "results" / "fused.json"
    parser.add_argument("--out", type=Path, default=out)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    given = parser.parse_args()
    result = json.loads(given.out.read_text()) if given.out.exists() else {}
    for threads in given.threads:
        torch.set_num_threads(threads)
        for name, table in (("noise", noise_table), ("pgd", pgd_table)):
            if given.only in (None, name):
                key = f"{name}, {threads} thread{'s' * (threads > 1)}"
                about = {"command": " ".join(["python", *sys.argv]), "machine": machine()}
                result[key] = {**about, **table(given.rounds)}
                given.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
