"""Rare errors: sigma against the error rate far below 1/samples, beside the half-space."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from robustcore import plot
from robustcore.engine import Engine
from robustcore.rare import error_curve, monotone
from robustcore.report.job import Job
from robustcore.report.page import Section, Skip, Table, figure, number
from robustcore.results import ErrorCurve, Record, SigmaResult

NAME, TITLE = "rare", "Rare errors"
CURVES = 3  # images: each costs about 20 * samples evaluations
RATES = (0.1, 0.03, 0.01, 1e-3, 1e-4, 1e-5, 1e-6)
THROUGH = 0.01
LEAST, MOST = 200, 600  # first draws of each


def measure(engine: Engine, job: Job, name: str) -> dict[str, Record]:
    sigma = job.records[name].get("sigma")
    if sigma is None:
        raise Skip("it needs sigma")
    rows = np.flatnonzero(sigma.status == "found")[:CURVES]
    if not len(rows):
        raise Skip("no image has a sigma between 0 and the largest tried")
    x, y = job.part(rows)
    samples = min(max(job.samples, LEAST), MOST)
    how = job.shared | {"ids": sigma.ids[rows]}
    return {"rare": error_curve(engine, x, y, RATES, samples=samples, **how)}


def with_plain_draws(curve: ErrorCurve, sigma: SigmaResult) -> tuple[ErrorCurve, int]:
    """The curve with what plain draws say at their rate, and how many images contradict it.

    Sigma of that rate is theirs, exact for any model; their bounds hold for sigma of rarer and of
    commoner errors as `monotone` has it. An image whose two intervals are disjoint is counted.
    """
    at = np.flatnonzero(np.isclose(curve.rates, sigma.rate, rtol=1e-9))
    plain = sigma[np.flatnonzero(np.isin(sigma.ids, curve.ids))]
    if not at.size or not np.array_equal(plain.ids, curve.ids):
        return curve, 0
    low, high = curve.sigma_low.copy(), curve.sigma_high.copy()
    apart = (low[:, at[0]] > plain.sigma_high) | (high[:, at[0]] < plain.sigma_low)
    low[:, at], high[:, at] = plain.sigma_low[:, None], plain.sigma_high[:, None]
    within = ~apart[:, None]
    tight = monotone(np.log(curve.rates), low, high)
    low, high = (np.where(within, new, old) for new, old in zip(tight, (low, high), strict=True))
    found, status = curve.sigma.copy(), curve.status.copy()
    found = np.where(within & np.isfinite(found), np.clip(found, low, high), found)
    found[:, at], status[:, at] = plain.sigma[:, None], plain.status[:, None]
    changed = replace(curve, sigma=found, sigma_low=low, sigma_high=high, status=status)
    return changed, int(apart.sum())


def show(job: Job) -> Section:
    found = job.having("rare")
    if not found:
        raise Skip("no model has a curve of rare errors")
    verdicts, figures = [], []
    table: dict[str, list[Any]] = {
        key: []
        for key in (
            *("model", "image", "error rate", "sigma", "low", "high", "over the half-space's"),
            "warning",
        )
    }
    for name, curve in found.items():
        record, apart = with_plain_draws(curve, job.records[name]["sigma"])
        if apart:
            verdicts.append(
                f"{name}: at error rate {job.rate:g} splitting and plain draws disagree on {apart} "
                f"of {len(record)} images: their intervals have no sigma in common, and the curves "
                "of these images should not be believed."
            )
        ratio = record.ratio(THROUGH)
        last = ratio[:, -1]
        known = last[np.isfinite(last)]
        if known.size:
            verdicts.append(
                f"{name}: the sigma at which one noisy copy in a million is an error is "
                f"{number(float(np.median(known)), 3)} of what a half-space through sigma at rate "
                f"{THROUGH:g} has (median of {known.size} images; 1 is a flat boundary, below 1 "
                "errors are nearer than common ones say)."
            )
        verdicts += [f"{name}, {each}." for each in record.warnings()]
        figures.append(
            figure(
                plot.sigma_against_rate(record, through=THROUGH),
                f"{name}: sigma of each error rate, with intervals; dashed the half-space.",
            )
        )
        for i, at in np.ndindex(*record.sigma.shape):
            row = (
                *(name, int(record.ids[i]), float(record.rates[at]), record.sigma[i, at]),
                *(record.sigma_low[i, at], record.sigma_high[i, at], ratio[i, at]),
                str(record.warning[i]) or "none",
            )
            for column, value in zip(table.values(), row, strict=True):
                column.append(value)
    return Section(
        title=TITLE,
        about=(
            "Error rates far below 1/samples, by splitting: draws that are errors are followed "
            "into less and less noise. The intervals come from the spread between the descendants "
            "of different first draws, and from draws around the errors; a warning says where "
            f"they should not be believed. At error rate {job.rate:g} sigma is that of the section "
            "on noise, by plain draws, which bounds sigma of rarer and of commoner errors too."
        ),
        verdicts=verdicts,
        figures=figures,
        tables=[Table("Sigma of each rate", table)],
    )
