"""Rare errors: coverage on known sets, cost against plain sampling, OpenTURNS, networks.

    python benchmarks/bench_rare.py [--part linear wide pieces missed control openturns ...]
        [--runs 500] [--model cifar10-natural ...] [--images 12] [--plain 1000000]
        [--openturns PYTHON]

Writes benchmarks/results/rare.json, part by part: those not asked for keep their last numbers. A
run is an image of its own: its id names its draws. No number here is a time but `seconds`.

linear: half-spaces, each rate with the samples that spend about 20,000 evaluations. wide: the same
in 150,528 dimensions, in rounds kept in the file --wide, which a later run goes on with. pieces:
two half-spaces, one 10 times rarer where the descent begins, a ball and a shell of errors. missed:
a half-space that the first draws often miss; in how many runs where it was missed a warning said
so. control: a half-space alone, where no warning is due. openturns: the same answers in 100
dimensions, by the Python given. networks: cost and width at 1e-4 and 1e-6 on the first images of
each network that are right, and agreement with plain draws of 5 of them at a sigma near that of
1e-4. plain: makes these, up to --plain of each image, in rounds kept in the file --counts, which a
later run goes on with.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from machine import machine
from rare_networks import networks, plain
from rare_peer import openturns
from scipy.stats import beta

import robustcore as rc

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT.parent / "tests"))
import rare_models  # noqa: E402
from models import HalfSpace, grey  # noqa: E402

SAMPLES = {1e-3: 1800, 1e-6: 1000, 1e-9: 660, 1e-12: 500}  # about 20,000 evaluations each
DIMENSIONS = ((1, 1, 3), (3, 8, 8), (3, 32, 32))
WIDE, ROUND = (3, 224, 224), 10  # runs at a time
KEPT = ("sigma", "sigma_low", "sigma_high", "n_forward", "warning")
RATES = (1e-4, 1e-6)
TARGETS = {
    "coverage": [0.93, 0.98],
    "median_relative_error_of_sigma": 0.02,
    "warned_where_missed": 0.8,
    "half_width_at_1e-6_and_20000": 0.03,
    "gain_at_1e-4": 30,
    "gain_at_1e-6": 3000,
}


def judged(curve, at, truth):
    low, high, sigma = curve.sigma_low[:, at], curve.sigma_high[:, at], curve.sigma[:, at]
    inside = (low <= truth) & (truth <= high)
    n = len(inside)
    k = int(inside.sum())
    return {
        "runs": n,
        "coverage": k / n,
        "coverage_interval": [
            float(beta.ppf(0.025, k, n - k + 1)) if k else 0.0,
            float(beta.ppf(0.975, k + 1, n - k)) if k < n else 1.0,
        ],
        "too_high": float((low > truth).mean()),
        "too_low": float((high < truth).mean()),
        "median_relative_error": float(np.median(np.abs(sigma / truth - 1))),
        "bias": float(np.median(sigma) / truth - 1),
        "median_half_width": float(np.median((high - low) / 2 / sigma)),
        "median_evaluations": float(np.median(curve.n_forward)),
        "warnings": {
            word: float(np.mean([word in each.split() for each in curve.warning.tolist()]))
            for word in ("lineages", "moves", "rays", "missed")
        },
    }


def linear(args):
    found = {}
    for shape in [each for each in DIMENSIONS if int(np.prod(each)) in args.dimensions]:
        model = HalfSpace(int(np.prod(shape)), 0.5)
        for rate in args.rates:
            start = time.perf_counter()
            x, y = grey(args.runs, shape)
            curve = rc.error_curve(
                rc.Engine(model, progress=args.progress),
                x,
                y,
                [rate],
                samples=SAMPLES[rate],
                second_look=False,
            )
            row = {"dimensions": int(np.prod(shape)), "rate": rate, "samples": SAMPLES[rate]}
            row |= judged(curve, 0, model.sigma(rate))
            row["seconds"] = time.perf_counter() - start
            found[f"{row['dimensions']}, {rate:g}"] = row
            print(json.dumps(row), flush=True)
    return found


def wide(args):
    found, model = {}, HalfSpace(int(np.prod(WIDE)), 0.5)
    for rate in args.rates:
        engine = rc.Engine(model, progress=args.progress)
        while (done := len(kept_runs(args, rate)["sigma"])) < args.runs:
            ids = np.arange(done, min(done + ROUND, args.runs))
            curve = rc.error_curve(
                engine,
                *grey(len(ids), WIDE),
                [rate],
                samples=SAMPLES[rate],
                second_look=False,
                ids=ids,
            )
            keep(args, rate, {name: getattr(curve, name).ravel().tolist() for name in KEPT})
        kept = {name: np.array(value) for name, value in kept_runs(args, rate).items()}
        runs = {name: value[:, None] for name, value in kept.items() if name.startswith("sigma")}
        row = {"dimensions": int(np.prod(WIDE)), "rate": rate, "samples": SAMPLES[rate]}
        row |= judged(SimpleNamespace(**kept | runs), 0, model.sigma(rate))
        row["machine"] = machine()  # rates are made apart, on one machine or another
        found[f"{row['dimensions']}, {rate:g}"] = row
        print(json.dumps(row), flush=True)
    return found


def kept_runs(args, rate):
    kept = json.loads(args.wide.read_text()) if args.wide.exists() else {}
    return kept.get(f"{rate:g}", {name: [] for name in KEPT})


def keep(args, rate, more):
    """Add runs of a rate; another process may have added some of another rate meanwhile."""
    longer = {name: value + more[name] for name, value in kept_runs(args, rate).items()}
    kept = json.loads(args.wide.read_text()) if args.wide.exists() else {}
    part = args.wide.with_suffix(".part")
    part.write_text(json.dumps(kept | {f"{rate:g}": longer}) + "\n")
    part.replace(args.wide)


def pieces(args):
    """rate ends: sigmas between which each set's rates lie."""
    sets = {
        "two half-spaces": (rare_models.two_planes(0.5, 0.6), 5, (0.02, 0.6), 1.0),
        "one 10 times rarer at the start": (
            rare_models.hidden_plane(2.385, 50, 0.7), 51, (0.05, 0.32), 1.0,
        ),
        "shell": (rare_models.shell(0.9, 1.1, 5), 5, (0.08, 0.35), 0.4),
        "ball": (rare_models.ball(0.5, 0.3, 3), 3, (0.03, 0.2), 0.25),
        "small ball": (rare_models.ball(0.5, 0.1, 3), 3, (0.06, 0.2), 0.2),
    }  # fmt: skip
    found = []
    for name, (model, n, ends, sigma_max) in sets.items():
        x, y = grey(args.runs, (1, 1, n))
        engine = rc.Engine(model, progress=args.progress)
        for rates in (RATES, RATES[:1]):
            curve = rc.error_curve(engine, x, y, rates, sigma_max=sigma_max, second_look=False)
            for at, rate in enumerate(rates):
                row = {"set": name, "rate": rate, "asked": rates}
                row |= judged(curve, at, model.sigma(rate, *ends))
                found.append(row)
                print(json.dumps(row), flush=True)
    return found


def missed(args):
    found = []
    for distance in (0.85, 0.88, 0.92):
        model = rare_models.hidden_plane(2.385, 50, distance)
        x, y = grey(args.runs, (1, 1, 51))
        curve = rc.error_curve(rc.Engine(model, progress=args.progress), x, y, [1e-5])
        gone = curve.sigma_low[:, 0] > model.sigma(1e-5, 0.1, 0.35)
        told = curve.warning != ""
        row = {
            "distance": distance,
            "runs": args.runs,
            "missed": int(gone.sum()),
            "warned_where_missed": float(told[gone].mean()) if gone.any() else None,
            "warned_elsewhere": float(told[~gone].mean()) if (~gone).any() else None,
            **{
                f"{word}_{where}": float(np.mean([word in each.split() for each in warning]))
                for word in ("lineages", "moves", "missed")
                for where, warning in (
                    ("where_missed", curve.warning[gone].tolist()),
                    ("elsewhere", curve.warning[~gone].tolist()),
                )
                if warning
            },
        }
        found.append(row)
        print(json.dumps(row), flush=True)
    return found


def control(args):
    """A half-space alone, which cannot be missed: how often a warning is given for nothing."""
    model = HalfSpace(51, 0.88)
    engine = rc.Engine(model, progress=args.progress)
    curve = rc.error_curve(engine, *grey(args.runs, (1, 1, 51)), [1e-6])
    row = {"runs": args.runs} | judged(curve, 0, model.sigma(1e-6))
    print(json.dumps(row), flush=True)
    return row


PARTS = {
    each.__name__: each
    for each in (linear, wide, pieces, missed, control, openturns, plain, networks)
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--runs", type=int, default=500)
    sizes = [int(np.prod(each)) for each in DIMENSIONS]
    parser.add_argument("--dimensions", type=int, nargs="+", choices=sizes, default=sizes)
    parser.add_argument("--rates", type=float, nargs="+", choices=SAMPLES, default=list(SAMPLES))
    parser.add_argument("--model", nargs="+", default=["cifar10-natural"], help="names of the zoo")
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--plain", type=int, default=1_000_000, help="draws of an image")
    counts = ROOT / "results" / "rare_plain_draws.json"
    parser.add_argument("--counts", type=Path, default=counts, help="keeps the plain draws")
    runs = ROOT / "results" / "rare_wide_runs.json"
    parser.add_argument("--wide", type=Path, default=runs, help="keeps the runs of part wide")
    parser.add_argument("--single", type=float, nargs="*", default=[1e-4])
    parser.add_argument("--openturns", help="a Python that has openturns")
    parser.add_argument("--progress", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "rare.json")
    args = parser.parse_args()
    for name in args.part:
        found = PARTS[name](args)
        # read late: another process may have written its rates meanwhile
        kept = json.loads(args.out.read_text()) if args.out.exists() else {}
        if name in ("linear", "wide", "networks"):
            found = kept.get(name, {}) | found
        kept |= {name: found, "targets": TARGETS}
        kept.setdefault("machines", {})[name] = machine() | {"torch": torch.__version__}
        args.out.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
