"""How much of a church window adaptive refinement evaluates, and whether its maps are right.

    python benchmarks/bench_slices.py --images 6 --size 500

For each image: the window with every node evaluated, then with refinement from lattices of step 8,
16 and 32. Prints and writes to benchmarks/results/slices.json the share of nodes evaluated and the
share of nodes whose class is that of the full grid, beside the seconds each took. The images are
the first that the model gets right. Takes about 70 s an image on 2 free cores. With --save DIR the
full windows are kept there, and those that are there already are not evaluated again.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from machine import machine

import robustcore as rc
from robustcore.slices import church_windows

STEPS = (8, 16, 32)
OUT = Path(__file__).parent / "results" / "slices.json"

options = argparse.ArgumentParser()
options.add_argument("--model", default="cifar10-natural")
options.add_argument("--images", type=int, default=6)
options.add_argument("--size", type=int, default=500)
options.add_argument("--save", type=Path, help="folder of full windows")
args = options.parse_args()


def summary(rows: list[dict]) -> dict:
    return {
        "model": args.model,
        "size": args.size,
        "machine": machine(),
        "images": rows,
        **{f"worst_share_{c}": max(row[f"share_{c}"] for row in rows) for c in STEPS},
        **{f"worst_same_{c}": min(row[f"same_{c}"] for row in rows) for c in STEPS},
    }


model, x, y = rc.load_example(args.model, images=3 * args.images)
noise = rc.sigma_at_error_rate(rc.Engine(model, progress=False), x, 0.01, y, samples=200)
engine = rc.Engine(model, compile=True, progress=False)
rows = []
for i in np.flatnonzero(noise.status == "found")[: args.images]:
    seconds, windows = {}, {}
    kept = None if args.save is None else args.save / f"full-{i}.npz"
    for coarse in (1, *STEPS):
        if coarse == 1 and kept is not None and kept.exists():
            windows[1] = rc.SliceResult.load(kept)
            seconds[1] = windows[1].provenance.seconds
            continue
        start = time.perf_counter()
        windows[coarse] = church_windows(
            engine,
            x[i],
            y[i : i + 1],
            sigma=noise[i],
            samples=500,
            size=args.size,
            coarse=coarse,
            ids=torch.tensor([int(i)]),
        )
        seconds[coarse] = time.perf_counter() - start
        if coarse == 1 and kept is not None:
            windows[1].save(kept)
    full = windows[1]
    row = {"id": int(i), "seconds_full": seconds[1], "classes": len(np.unique(full.classes))}
    for coarse in STEPS:
        mine = windows[coarse]
        row |= {
            f"share_{coarse}": float(mine.share_evaluated[0]),
            f"same_{coarse}": float((mine.classes == full.classes).mean()),
            f"seconds_{coarse}": seconds[coarse],
            f"margin_error_{coarse}": float(np.abs(mine.margin - full.margin).max()),
        }
    row["margin_range"] = float(np.ptp(full.margin))
    row["connected"] = [bool(windows[c].connected[0]) for c in (1, *STEPS)]
    rows.append(row)
    print(json.dumps(row), flush=True)
    OUT.write_text(json.dumps(summary(rows), indent=1) + "\n")
print(f"wrote {OUT}")
