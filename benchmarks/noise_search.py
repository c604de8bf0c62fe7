"""What the search for the scale of uniform and of salt-and-pepper noise costs beside bisection.

    python benchmarks/noise_search.py

Evaluations of the images that a network gets right, at an error rate of 0.01 from 1,000 draws, by
the search of quantiles and by bisection of the same draws; and how many of these draws, 10 are
asked for, err at the scale that each found. Writes results/noise_search.json.
"""

import json
from pathlib import Path

import numpy as np
from machine import machine

import robustcore as rc

NETWORKS = ("mnist-natural", "mnist-adv", "cifar10-natural")
NOISES = {"uniform": rc.Uniform("Linf"), "salt and pepper": rc.SaltAndPepper()}
IMAGES = 3
RESULT = Path(__file__).parent / "results" / "noise_search.json"


def errors(engine, x, y, noise, record, at):
    """Errors of 1,000 draws of an image at the scale found."""
    part = slice(at, at + 1)
    counted = rc.error_rate(engine, x[part], record.sigma[at], y[part], noise=noise, ids=[at])
    return int(counted.n_errors[0, 0])


def main():
    rows = {}
    for network in NETWORKS:
        model, x, y = rc.load_example(network, images=IMAGES)
        engine = rc.Engine(model, progress=False)
        for name, noise in NOISES.items():
            quick, slow = (
                rc.scale_at_error_rate(engine, x, 0.01, y, noise=noise, method=method)
                for method in ("quantile", "bisection")
            )
            right = np.flatnonzero(quick.status == "found")
            spent, other = (each.n_forward[right].mean() for each in (quick, slow))
            row = {
                "images": len(right),
                "evaluations": round(float(spent), 1),
                "bisection": round(float(other), 1),
                "times_fewer": round(float(other / spent), 2),
                "errors": [errors(engine, x, y, noise, quick, at) for at in right],
                "errors_bisection": [errors(engine, x, y, noise, slow, at) for at in right],
            }
            print(network, name, row, flush=True)
            rows[f"{network}, {name}"] = row
    command = "python benchmarks/noise_search.py"
    told = {"command": command, "machine": machine(), "searches": rows}
    RESULT.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
