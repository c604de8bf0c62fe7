"""Splitting on networks: width, cost, and agreement with plain draws, for bench_rare."""

import json

import numpy as np

import robustcore as rc
from robustcore.stats import clopper_pearson

RATES = (1e-4, 1e-6)
AGREEING = 5
ROUND, FIRST_SEED = 25_000, 1000  # plain draws at a time, and the seed of the first round


def networks(args):
    return {name: network(args, name) for name in args.model}


def network(args, name):
    model, x, y = rc.load_example(name, args.images * 2)
    right = (model(x).argmax(1) == y).nonzero().flatten()[: args.images]
    x, y = x[right], y[right]
    engine = rc.Engine(model, progress=args.progress)
    curve = rc.error_curve(engine, x, y, RATES, ids=right)
    single = {rate: rc.error_curve(engine, x, y, [rate], ids=right) for rate in args.single}
    about = {"images": len(x), "ids": right.tolist(), "seconds": curve.provenance.seconds}
    about["both"] = [of_images(curve, at) for at in range(len(RATES))]
    about["alone"] = [of_images(each, 0) for each in single.values()]
    for row in about["both"] + about["alone"]:
        print(name, json.dumps(row), flush=True)
    kept = json.loads(args.counts.read_text()) if args.counts.exists() else {}
    if name in kept:
        about["plain"] = agreement(kept[name], name, model, x, y, right)
    return about


def agreement(drawn, name, model, x, y, ids):
    """What the plain draws found near the sigma of 1e-4, and the interval of splitting there."""
    rows = []
    engine = rc.Engine(model, progress=False)
    for i in range(min(len(x), len(drawn["ids"]))):
        if drawn["ids"][i] != int(ids[i]):
            raise SystemExit(f"--counts holds images {drawn['ids']} of {name}, not {ids.tolist()}")
        sigma, errors, draws = (drawn[key][i] for key in ("sigma", "errors", "draws"))
        if not draws:
            continue
        low, high = (float(each[0]) for each in clopper_pearson([errors], draws, 0.95))
        part = rc.error_rate(
            engine,
            x[i : i + 1],
            sigma,
            y[i : i + 1],
            samples=1000,
            method="splitting",
            ids=ids[i : i + 1],
            seed=1,
        )
        ours = [float(part.rate_low[0, 0]), float(part.rate_high[0, 0])]
        rows.append({
            "id": int(ids[i]),
            "sigma": sigma,
            "plain_rate": errors / draws,
            "plain_interval": [low, high],
            "plain_draws": draws,
            "splitting_rate": float(part.rate[0, 0]),
            "splitting_interval": ours,
            "splitting_evaluations": int(part.n_forward[0] + 2 * part.n_backward[0]),
            "splitting_warning": str(part.warning[0]),
            "agree": bool(ours[0] <= high and low <= ours[1]),
        })  # fmt: skip
        print(name, json.dumps(rows[-1]), flush=True)
    return rows


def plain(args):
    """Plain draws of AGREEING images of each network, kept in --counts; how many there are."""
    kept = json.loads(args.counts.read_text()) if args.counts.exists() else {}
    return {name: plain_draws(args, kept, name)["draws"] for name in args.model}


def plain_draws(args, kept, name):
    """Errors in rounds of ROUND draws, each with its own seed: a later run goes on from there."""
    model, x, y = rc.load_example(name, 24)
    ids = (model(x).argmax(1) == y).nonzero().flatten()[:AGREEING]
    x, y = x[ids], y[ids]
    if name not in kept:
        about = rc.error_curve(
            model, x, y, [1e-4], samples=400, ids=ids, second_look=False, sigma_max=2.0
        )
        sigma = [float(f"{each:.4g}") for each in about.sigma[:, 0]]
        kept[name] = {"ids": ids.tolist(), "sigma": sigma}
        kept[name] |= {"errors": [0] * len(x), "draws": [0] * len(x)}
    found = kept[name]
    engine = rc.Engine(model, progress=False)
    for start in range(0, args.plain, ROUND):
        for i in range(len(x)):
            if found["draws"][i] > start:
                continue
            one = rc.error_rate(
                engine,
                x[i : i + 1],
                found["sigma"][i],
                y[i : i + 1],
                samples=ROUND,
                ids=ids[i : i + 1],
                seed=FIRST_SEED + start // ROUND,
            )
            found["errors"][i] += int(one.n_errors[0, 0])
            found["draws"][i] += ROUND
            args.counts.write_text(json.dumps(kept, indent=1) + "\n")
    return found


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
