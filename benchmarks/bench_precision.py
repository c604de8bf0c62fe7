"""Errors counted in bfloat16 with a second look, against float32: the same counts, and how fast.

    OMP_WAIT_POLICY=passive python benchmarks/bench_precision.py

Each network of the zoo on its first images: errors in noise at four sigmas, sigma(x, 0.01), and
certification, each in both precisions in turn, neither compiled. `counts_differ` is the number of
cells (image, sigma) whose count of errors is not that of float32, `draws` how many draws they hold.
Goes to benchmarks/results/precision.json.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from machine import machine

import robustcore as rc

NETWORKS = [name for name in rc.zoo.names() if name.startswith("cifar10-")]
SIGMAS = (0.02, 0.05, 0.1, 0.2)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Counted(torch.nn.Module):
    """The network, and how many images it judged in full precision."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.full = inner, 0

    def forward(self, x):
        if not torch.is_autocast_enabled(x.device.type):
            self.full += len(x)
        return self.inner(x)


def timed(call):
    start = time.perf_counter(), time.process_time()
    found = call()
    return found, time.perf_counter() - start[0], time.process_time() - start[1]


def table(name, images, samples):
    inner, x, y = rc.load_example(name, images, device=DEVICE)
    model = Counted(inner).eval()
    calls = {
        "error_rate": lambda engine: rc.error_rate(engine, x, SIGMAS, y, samples=samples),
        "sigma_at_error_rate": lambda engine: rc.sigma_at_error_rate(engine, x, 0.01, y),
        "certify": lambda engine: rc.certify(engine, x[:4], y[:4], sigma=0.1, n=4 * samples),
    }
    engines = [
        rc.Engine(model, compile=False, precision=name, progress=False)
        for name in (None, "bfloat16")
    ]
    result = {}
    for title, call in calls.items():
        full, *slow = timed(lambda call=call: call(engines[0]))
        model.full = 0
        lower, *quick = timed(lambda call=call: call(engines[1]))
        draws = int(full.n_forward.sum())
        row = {
            "draws": draws,
            "second_looks": model.full / int(lower.n_forward.sum()),
            "times_as_fast": slow[0] / quick[0],
            "times_as_fast_processor": slow[1] / quick[1],
            "seconds": [slow[0], quick[0]],
        }
        if title == "error_rate":
            row["counts_differ"] = int((full.n_errors != lower.n_errors).sum())
        elif title == "certify":
            row["counts_differ"] = int((full.n_top != lower.n_top).sum())
        else:
            found = full.status == "found"
            off = np.abs(lower.sigma[found] / full.sigma[found] - 1)
            apart = (lower.bracket_low > full.bracket_high) | (
                full.bracket_low > lower.bracket_high
            )
            row |= {"largest_difference": float(off.max()), "brackets_apart": int(apart.sum())}
        result[title] = row
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--models", nargs="+", default=[n for n in rc.zoo.names() if "cifar10" in n]
    )
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/precision.json"))
    args = parser.parse_args()
    command = " ".join(["python", *sys.argv])
    result = {"command": command, "machine": machine() | {"device": DEVICE}, "tables": {}}
    for name in args.models:
        result["tables"][name] = table(name, args.images, args.samples)
        print(name, json.dumps(result["tables"][name], indent=1), flush=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
