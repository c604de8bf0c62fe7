"""Digests of twelve calls: does a change of the code leave every number as it was?

    python benchmarks/digests.py --write    # before a change: results/digests.json
    python benchmarks/digests.py            # after it: exits with 1 where a number differs

A digest is that of the bytes of every array of a record, so equal digests are equal bits; the
number of evaluations is printed beside it and may change. A model's own arithmetic differs
from processor to processor: compare on the machine that wrote the file. Takes about two minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine

import robustcore as rc

FILE = Path(__file__).parent / "results" / "digests.json"


def calls() -> dict[str, Callable[[], Any]]:
    natural, x, y = rc.load_example("cifar10-natural", images=6)
    trained, *_ = rc.load_example("cifar10-gauss0.4", images=6)
    small, sevens, digits = rc.load_example("mnist-natural", images=6)
    natural, trained, small = (
        rc.Engine(each, progress=False) for each in (natural, trained, small)
    )
    return {
        "error_rate": lambda: rc.error_rate(natural, x, [0.05, 0.1], y, samples=500),
        "error_rate, mnist": lambda: rc.error_rate(small, sevens, 0.5, digits, seed=3),
        "sigma": lambda: rc.sigma_at_error_rate(natural, x, 0.01, y),
        "sigma, bisection": lambda: rc.sigma_at_error_rate(
            natural, x, 0.05, y, samples=200, method="bisection", noise=rc.Gaussian((0, 1))
        ),
        "sigma, rtol": lambda: rc.sigma_at_error_rate(trained, x, 0.01, y, rtol=0.05),
        "curve": lambda: rc.error_curve(small, sevens[:3], digits[:3], rates=(0.01, 1e-5)),
        "distance": lambda: rc.distance_to_error(natural, x, y),
        "distance, linf": lambda: rc.distance_to_error(natural, x, y, norm="Linf"),
        "pgd": lambda: rc.pgd(natural, x, y, eps=1 / 255, norm="Linf", steps=10, restarts=2),
        "noisy": lambda: rc.noisy_distance(natural, x[:3], y[:3], sigma=0.03, points=30),
        "certify": lambda: rc.certify(trained, x, y, sigma=0.25, n0=100, n=1000),
        "corruptions": lambda: rc.corruption_benchmark(natural, x, y, severities=(2,)),
    }


def digest(record: Any) -> str:
    """Of every array of a record but what it cost, in the order of its fields."""
    whole = hashlib.sha256()
    for field in fields(record):
        if field.name in ("n_forward", "n_backward"):
            continue
        value = getattr(record, field.name)
        if isinstance(value, torch.Tensor):
            value = value.cpu().numpy()
        if isinstance(value, np.ndarray):
            whole.update(f"{field.name} {value.shape}".encode())
            whole.update(np.ascontiguousarray(value).tobytes())
    return whole.hexdigest()[:16]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="keep them in results/digests.json")
    write = parser.parse_args().write
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    digests, evaluations = {}, {}
    for name, call in calls().items():
        record = call()
        digests[name] = digest(record)
        evaluations[name] = int(record.n_forward.sum())
        print(f"{name:20} {digests[name]} {evaluations[name]:10,} evaluations", flush=True)
    if write:
        about = {"command": "python benchmarks/digests.py --write", "machine": machine()}
        FILE.write_text(
            json.dumps({**about, "digests": digests, "evaluations": evaluations}, indent=2) + "\n"
        )
        return 0
    before = json.loads(FILE.read_text())["digests"]
    changed = [name for name in digests if digests[name] != before.get(name)]
    print(f"changed: {', '.join(changed)}" if changed else "no number has changed")
    return bool(changed)


if __name__ == "__main__":
    sys.exit(main())
