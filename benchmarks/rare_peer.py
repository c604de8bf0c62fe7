"""OpenTURNS' subset and line sampling beside splitting, in 100 dimensions, for bench_rare."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from scipy.stats import norm

import robustcore as rc

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT.parent / "tests"))
import rare_models  # noqa: E402
from models import grey  # noqa: E402


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
