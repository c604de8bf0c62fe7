"""Numbers that the pages state beside those of the other benchmarks: counts and medians, no times.

    OMP_NUM_THREADS=1 python benchmarks/bench_pages.py [half_spaces] [come_and_go]

Writes benchmarks/results/pages.json, part by part, each with its command and machine.

half_spaces: `error_curve` at its defaults, 100 half-spaces of 192 dimensions at each rate.
come_and_go: error rates of image 7 of `cifar10-natural` at several sigmas, 2,000 draws.
"""

import json
import sys
from pathlib import Path

from bench_rare import judged
from machine import machine
from models import HalfSpace, grey

import robustcore as rc

FILE = Path(__file__).parent / "results" / "pages.json"


def half_spaces():
    model = HalfSpace(192, 0.5)
    return {
        f"{rate:g}": judged(
            rc.error_curve(rc.Engine(model, progress=False), *grey(100, (3, 8, 8)), [rate]),
            0, model.sigma(rate),
        )
        for rate in (1e-3, 1e-12)
    }  # fmt: skip


def come_and_go():
    model, x, y = rc.load_example("cifar10-natural", 8)
    sigma = [0.02, 0.025, 0.03, 0.04, 0.045, 0.05, 0.06, 0.08, 0.1]
    engine = rc.Engine(model, progress=False)
    rates = rc.error_rate(engine, x[7:], sigma, y[7:], ids=[7], samples=2000)
    return {"sigma": sigma, "rate": rates.rate[0].tolist(), "low": rates.rate_low[0].tolist(),
            "high": rates.rate_high[0].tolist(), "samples": 2000}  # fmt: skip


PARTS = {part.__name__: part for part in (half_spaces, come_and_go)}

if __name__ == "__main__":
    for name in sys.argv[1:] or PARTS:
        row = PARTS[name]() | {
            "command": f"python benchmarks/bench_pages.py {name}",
            "machine": machine(),
        }
        known = json.loads(FILE.read_text()) if FILE.exists() else {}
        FILE.write_text(json.dumps(known | {name: row}, indent=1) + "\n")
        print(name, json.dumps(row), flush=True)
