"""What the search for the scale of uniform and of salt-and-pepper noise costs beside bisection.

    python benchmarks/noise_search.py

Evaluations of the images that a network gets right, at an error rate of 0.01 from 1,000 draws, by
the search of quantiles and by bisection of the same draws. Writes results/noise_search.json.
"""

import json
from pathlib import Path

from machine import machine

import robustcore as rc

NETWORKS = ("mnist-natural", "mnist-adv", "cifar10-natural")
NOISES = {"uniform": rc.Uniform("Linf"), "salt and pepper": rc.SaltAndPepper()}
IMAGES = 6
RESULT = Path(__file__).parent / "results" / "noise_search.json"


def searched(network, noise, method):
    model, x, y = rc.load_example(network, images=IMAGES)
    engine = rc.Engine(model, progress=False)
    return rc.scale_at_error_rate(engine, x, 0.01, y, noise=noise, method=method)


def main():
    rows = {}
    for network in NETWORKS:
        for name, noise in NOISES.items():
            quick, slow = (searched(network, noise, each) for each in ("quantile", "bisection"))
            right = quick.status == "found"
            agree = (quick.sigma >= slow.bracket_low - 1e-9) & (
                quick.sigma <= slow.bracket_high + 1e-9
            )
            spent, other = (each.n_forward[right].sum() for each in (quick, slow))
            rows[f"{network}, {name}"] = {
                "images": int(right.sum()),
                "evaluations": round(float(spent / right.sum()), 1),
                "bisection": round(float(other / right.sum()), 1),
                "times_fewer": round(float(other / spent), 2),
                "same_scale": int(agree[right].sum()),
            }
            print(network, name, rows[f"{network}, {name}"], flush=True)
    command = "python benchmarks/noise_search.py"
    told = {"command": command, "machine": machine(), "searches": rows}
    RESULT.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
