"""certify against the published algorithm in plain torch, and what a radius costs.

    OMP_WAIT_POLICY=passive python benchmarks/bench_certify.py

The baseline is CERTIFY of Cohen et al. (2019) as their code writes it: one image at a time, batches
of 400, noise by randn, counting classes on the device; eager, without gradients, and with the exact
limits of scipy. Both count n0 + n draws of each image; the compilation of ours is counted apart.
Then `radius=` at --early-n draws at most: how many each image took.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from scipy.stats import beta, norm

import robustcore as rc

sys.path.insert(0, str(Path(__file__).parent))
from machine import machine

N0, ALPHA, BATCH = 100, 0.001, 400


@torch.no_grad()
def published(model, x, sigma, n):
    """(class, radius, count of the class) of one image (C, H, W)."""

    def counts(total):
        found = torch.zeros(10, dtype=torch.int64)
        while total > 0:
            size = min(BATCH, total)
            total -= size
            batch = x.repeat((size, 1, 1, 1))
            given = model(batch + torch.randn_like(batch) * sigma).argmax(1)
            found += torch.bincount(given, minlength=10)
        return found.numpy()

    top = int(counts(N0).argmax())
    hits = int(counts(n)[top])
    low = beta.ppf(ALPHA, hits, n - hits + 1) if hits else 0.0
    return (-1, 0.0, hits) if low < 0.5 else (top, sigma * norm.ppf(low), hits)


def speed(model, x, y, sigma, n):
    compiled, plain = (rc.Engine(model, compile=each, progress=False) for each in (True, False))
    record = rc.certify(compiled, x, y, sigma=sigma, n0=N0, n=n, alpha=ALPHA)
    ours = record.provenance.seconds - record.provenance.compile_seconds
    start = time.perf_counter()
    eager = rc.certify(plain, x, y, sigma=sigma, n0=N0, n=n, alpha=ALPHA)
    seconds_eager = time.perf_counter() - start
    start = time.perf_counter()
    theirs = [published(model, image, sigma, n) for image in x]
    seconds = time.perf_counter() - start
    limits = [beta.ppf(ALPHA, k, n - k + 1) if k else 0.0 for k in record.n_top]
    same = [low if low >= 0.5 else 0.0 for low in limits]
    agree = np.allclose(np.where(record.label >= 0, record.share_low, 0.0), same, atol=1e-9)
    return {
        "images": len(x),
        "sigma": sigma,
        "n": n,
        "seconds": ours,
        "seconds_eager": seconds_eager,
        "seconds_compiling": record.provenance.compile_seconds,
        "seconds_published": seconds,
        "speed": seconds / ours,
        "speed_eager": seconds / seconds_eager,
        "speed_with_compiling": seconds / record.provenance.seconds,
        "same_answer_for_the_same_counts": bool(agree),
        "same_counts_eager_and_compiled": int(np.sum(record.n_top == eager.n_top)),
        "classes_agree_with_other_draws": int(
            np.sum(record.label == np.array([label for label, *_ in theirs]))
        ),
        "radius": record.radius.round(4).tolist(),
        "radius_published": [round(r, 4) for _, r, _ in theirs],
    }


def early(model, x, y, sigma, radius, n):
    engine = rc.Engine(model, progress=False)
    record = rc.certify(engine, x, y, sigma=sigma, n0=N0, n=n, alpha=ALPHA, radius=radius)
    share = record.n_top / record.n_samples
    # clear: so far from the radius's share that a tenth of the draws would tell with 5 deviations
    wanted = norm.cdf(radius / sigma)
    clear = np.abs(share - wanted) > 5 * np.sqrt(wanted * (1 - wanted) / (n / 10))
    return {
        "images": len(x),
        "sigma": sigma,
        "radius": radius,
        "n": n,
        "draws": record.n_samples.tolist(),
        "status": record.status.tolist(),
        "clear": int(clear.sum()),
        "clear_within_a_tenth": int((record.n_samples[clear] <= n / 10).sum()),
        "largest_share_of_draws_where_clear": float(record.n_samples[clear].max() / n),
        "share_of_all_draws": float(record.n_samples.mean() / n),
        "seconds": record.provenance.seconds,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="cifar10-natural")
    parser.add_argument("--sigma", type=float, default=0.03)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--radius", type=float, default=0.03)
    parser.add_argument("--early-images", type=int, default=20)
    parser.add_argument("--early-n", type=int, default=100_000)
    parser.add_argument("--out", default="benchmarks/results/certify.json")
    args = parser.parse_args()
    torch.manual_seed(0)
    model, x, y = rc.load_example(args.model, max(args.images, args.early_images))
    result = {"command": " ".join(["python", *sys.argv]), "machine": machine()}
    few = x[: args.images], y[: args.images]
    warm = rc.Engine(model, compile=False, progress=False)
    rc.certify(warm, *few, sigma=args.sigma, n=400)
    result["speed"] = speed(model, *few, args.sigma, args.n)
    print(json.dumps(result["speed"], indent=1), flush=True)
    some = x[: args.early_images], y[: args.early_images]
    result["radius"] = early(model, *some, args.sigma, args.radius, args.early_n)
    print(json.dumps(result["radius"], indent=1))
    Path(args.out).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
