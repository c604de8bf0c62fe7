"""Rare errors: coverage on known sets, cost against plain sampling, OpenTURNS, networks.

    python benchmarks/bench_rare.py [--part linear wide pieces missed control openturns ...]
        [--runs 500] [--model cifar10-natural ...] [--images 12] [--plain 1000000]
        [--openturns PYTHON]

Writes benchmarks/results/rare.json, part by part: those not asked for keep their last numbers. A
run is an image of its own: its id names its draws. No number here is a time but `seconds`.

linear: half-spaces, each rate with the samples that spend about 20,000 evaluations. wide: the same
in 150,528 dimensions, fewer runs. pieces: two half-spaces, one 10 times rarer where the descent
begins, a ball and a shell of errors. missed: a half-space that the first draws often miss; in how
many runs where it was missed a warning said so. control: a half-space alone, where no warning is
due. openturns: the same answers in 100 dimensions, by the Python given. networks: cost and width at
1e-4 and 1e-6 on the first images of each network that are right, and --plain draws of 5 of them at
the sigma found for 1e-4.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from machine import machine
from scipy.stats import beta, norm

import robustcore as rc

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT.parent / "tests"))
import rare_models  # noqa: E402
from models import HalfSpace, grey  # noqa: E402

SAMPLES = {1e-3: 2200, 1e-6: 1000, 1e-9: 660, 1e-12: 500}  # about 20,000 evaluations each
DIMENSIONS = ((1, 1, 3), (3, 8, 8), (3, 32, 32))
WIDE = (3, 224, 224)
RATES = (1e-4, 1e-6)
AGREEING = 5
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


def linear(args, shapes=None, rates=None, runs=None, second_look=False):
    found = {}
    shapes = shapes or [each for each in DIMENSIONS if int(np.prod(each)) in args.dimensions]
    rates = rates or args.rates
    for shape in shapes:
        model = HalfSpace(int(np.prod(shape)), 0.5)
        for rate in rates:
            start = time.perf_counter()
            x, y = grey(runs or args.runs, shape)
            curve = rc.error_curve(
                model, x, y, [rate], samples=SAMPLES[rate], second_look=second_look,
                progress=args.progress,
            )  # fmt: skip
            row = {"dimensions": int(np.prod(shape)), "rate": rate, "samples": SAMPLES[rate]}
            row |= judged(curve, 0, model.sigma(rate))
            row["seconds"] = time.perf_counter() - start
            found[f"{row['dimensions']}, {rate:g}"] = row
            print(json.dumps(row), flush=True)
    return found


def wide(args):
    return linear(args, (WIDE,), (1e-6,), max(1, args.runs // 60))


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
        curve = rc.error_curve(
            model, x, y, RATES, sigma_max=sigma_max, second_look=False, progress=args.progress
        )
        for at, rate in enumerate(RATES):
            row = {"set": name, "rate": rate} | judged(curve, at, model.sigma(rate, *ends))
            found.append(row)
            print(json.dumps(row), flush=True)
    return found


def missed(args):
    found = []
    for distance in (0.85, 0.88, 0.92):
        model = rare_models.hidden_plane(2.385, 50, distance)
        x, y = grey(args.runs, (1, 1, 51))
        curve = rc.error_curve(model, x, y, [1e-5], progress=args.progress)
        gone = curve.sigma_low[:, 0] > model.sigma(1e-5, 0.1, 0.35)
        told = curve.warning != ""
        row = {
            "distance": distance,
            "runs": args.runs,
            "missed": int(gone.sum()),
            "warned_where_missed": float(told[gone].mean()) if gone.any() else None,
            "warned_elsewhere": float(told[~gone].mean()) if (~gone).any() else None,
            **{
                f"{word}_where_missed": float(
                    np.mean([word in each.split() for each in curve.warning[gone].tolist()])
                )
                for word in ("lineages", "moves", "missed")
                if gone.any()
            },
        }
        found.append(row)
        print(json.dumps(row), flush=True)
    return found


def control(args):
    """A half-space alone, which cannot be missed: how often a warning is given for nothing."""
    model = HalfSpace(51, 0.88)
    curve = rc.error_curve(model, *grey(args.runs, (1, 1, 51)), [1e-6], progress=args.progress)
    row = {"runs": args.runs} | judged(curve, 0, model.sigma(1e-6))
    print(json.dumps(row), flush=True)
    return row


def openturns(args):
    """Sets at sigma 1 of which OpenTURNS answers 20 runs, and the same number of ours."""
    if args.openturns is None:
        raise SystemExit("--openturns must name a Python that has openturns for this part")
    sets = [
        {"planes": [-float(norm.ppf(1e-6))], "curve": 0.0},
        {"planes": [4.5, 4.7], "curve": 0.0},
        {"planes": [5.5], "curve": 0.05},
    ]
    theirs = json.loads(
        subprocess.run(
            [args.openturns, ROOT / "rare_openturns.py"], input=json.dumps(sets),
            capture_output=True, text=True, check=True,
        ).stdout
    )  # fmt: skip
    rows = []
    for each in theirs["found"]:
        rows.append({k: each[k] for k in ("planes", "curve", "method")})
        rows[-1] |= spread(each["estimates"], each["evaluations"]) | {
            k: each[k] for k in ("failed",) if k in each
        }
    for each in sets:

        def height(u, b, i, curve=each["curve"]):
            return u[:, i] + curve * u[:, i + 1].square() - b

        model = rare_models.Pieces(
            None,
            *(
                (lambda u, b=b, i=i, height=height: height(u, b, i))
                for i, b in enumerate(each["planes"])
            ),
        )
        x, y = grey(20, (1, 1, 100))
        ours = rc.error_rate(model, x, 1.0, y, samples=1000, method="splitting")
        rows.append({**each, "method": "robustcore"} | spread(ours.rate[:, 0], ours.n_forward))
        if not each["curve"]:
            truth = -np.expm1(np.sum(norm.logcdf(each["planes"])))
            rows[-1]["truth"] = float(truth)
            inside = (ours.rate_low[:, 0] <= truth) & (truth <= ours.rate_high[:, 0])
            rows[-1]["coverage"] = float(inside.mean())
    for row in rows:
        print(json.dumps(row), flush=True)
    return {"version": theirs["openturns"], "rows": rows}


def spread(estimates, evaluations):
    found = np.asarray(estimates, float)
    if not len(found):
        return {"runs": 0}
    return {
        "runs": len(found),
        "mean": float(found.mean()),
        "standard_error_of_mean": float(found.std(ddof=1) / np.sqrt(len(found))),
        "relative_deviation": float(found.std(ddof=1) / found.mean()),
        "median_evaluations": float(np.median(evaluations)),
    }


def networks(args):
    return {name: network(args, name) for name in args.model}


def network(args, name):
    model, x, y = rc.load_example(name, args.images * 2)
    right = (model(x).argmax(1) == y).nonzero().flatten()[: args.images]
    x, y = x[right], y[right]
    curve = rc.error_curve(model, x, y, RATES, ids=right, progress=args.progress)
    single = {
        rate: rc.error_curve(model, x, y, [rate], ids=right, progress=args.progress)
        for rate in args.single
    }
    about = {"images": len(x), "ids": right.tolist(), "seconds": curve.provenance.seconds}
    about["both"] = [of_images(curve, at) for at in range(len(RATES))]
    about["alone"] = [of_images(each, 0) for each in single.values()]
    for row in about["both"] + about["alone"]:
        print(name, json.dumps(row), flush=True)
    if args.plain:
        about["plain"] = []
        chosen = np.flatnonzero(curve.status[:, 0] == "found")[:AGREEING]
        for i in chosen.tolist():
            sigma = float(curve.sigma[i, 0])
            plain = rc.error_rate(
                model, x[i : i + 1], sigma, y[i : i + 1], samples=args.plain, ids=right[i : i + 1],
                progress=args.progress,
            )  # fmt: skip
            low, high = float(plain.rate_low[0, 0]), float(plain.rate_high[0, 0])
            # splitting's interval of the rate at that sigma, by its own curve
            part = rc.error_rate(
                model, x[i : i + 1], sigma, y[i : i + 1], samples=1000, method="splitting",
                ids=right[i : i + 1], seed=1,
            )  # fmt: skip
            row = {
                "id": int(right[i]),
                "sigma": sigma,
                "plain_rate": float(plain.rate[0, 0]),
                "plain_interval": [low, high],
                "plain_draws": args.plain,
                "splitting_rate": float(part.rate[0, 0]),
                "splitting_interval": [float(part.rate_low[0, 0]), float(part.rate_high[0, 0])],
                "splitting_evaluations": int(part.n_forward[0]),
            }
            row["agree"] = bool(
                row["splitting_interval"][0] <= high and low <= row["splitting_interval"][1]
            )
            about["plain"].append(row)
            print(name, json.dumps(row), flush=True)
    return about


def of_images(curve, at):
    """Width and cost, and the cost of plain draws whose interval of the rate is as wide.

    The half-width of sigma times the slope of the log rate is that of the log rate; plain draws
    need (1.96 / that)^2 / rate for the same, at one sigma, which splitting did not know either.
    """
    rate = float(curve.rates[at])
    found = curve.status[:, at] == "found"
    sigma = curve.sigma[found, at]
    half = (curve.sigma_high - curve.sigma_low)[found, at] / 2 / sigma
    levels = curve.level_sigma[found], curve.level_log_rate[found]
    rows = np.arange(len(sigma))
    gap = np.abs(np.nan_to_num(levels[1], nan=0.0) - np.log(rate))
    near = np.maximum(gap.argmin(1), 1)
    rise = levels[1][rows, near - 1] - levels[1][rows, near]
    run = np.log(levels[0][rows, near - 1] / levels[0][rows, near])
    log_half = half * rise / run
    plain = (1.96 / log_half) ** 2 / rate
    spent = curve.n_forward[found] + 2 * curve.n_backward[found]
    return {
        "rate": rate,
        "found": int(found.sum()),
        "median_sigma": float(np.median(sigma)),
        "median_half_width": float(np.median(half)),
        "median_half_width_at_20000": float(np.median(half * np.sqrt(spent / 20_000))),
        "median_evaluations_and_twice_gradients": float(np.median(spent)),
        "median_gain_over_plain": float(np.median(plain / spent)),
        "gains": np.round(plain / spent, 1).tolist(),
        "half_widths": np.round(half, 4).tolist(),
        "median_families": float(np.median(curve.families[found])),
        "warnings": curve.warning[found].tolist(),
    }


PARTS = {
    each.__name__: each for each in (linear, wide, pieces, missed, control, openturns, networks)
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
    parser.add_argument("--plain", type=int, default=1_000_000, help="draws an image; 0: none")
    parser.add_argument("--single", type=float, nargs="*", default=[1e-4])
    parser.add_argument("--openturns", help="a Python that has openturns")
    parser.add_argument("--progress", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "rare.json")
    args = parser.parse_args()
    kept = json.loads(args.out.read_text()) if args.out.exists() else {}
    for name in args.part:
        found = PARTS[name](args)
        if name in ("linear", "networks"):
            found = kept.get(name, {}) | found
        kept |= {name: found, "targets": TARGETS}
        kept.setdefault("machines", {})[name] = machine() | {"torch": torch.__version__}
        args.out.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
