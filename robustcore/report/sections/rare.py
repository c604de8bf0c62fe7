"""Rare errors: sigma against the error rate far below one in the draws, beside the half-space."""

from __future__ import annotations

from typing import Any

import numpy as np

from robustcore import plot
from robustcore.rare import error_curve
from robustcore.report.job import Job
from robustcore.report.page import Section, Skip, Table, figure, number
from robustcore.results import Record

NAME, TITLE = "rare", "Rare errors"
CURVES = 3  # images: each costs about 20 * samples evaluations
RATES = (0.1, 0.03, 0.01, 1e-3, 1e-4, 1e-5, 1e-6)
THROUGH = 0.01
LEAST, MOST = 200, 600  # first draws of each


def measure(model: Any, job: Job, name: str) -> dict[str, Record]:
    sigma = job.records[name].get("sigma")
    if sigma is None:
        raise Skip("it needs sigma")
    rows = np.flatnonzero(sigma.status == "found")[:CURVES]
    if not len(rows):
        raise Skip("no image has a sigma between 0 and the largest tried")
    x, y = job.part(rows)
    samples = min(max(job.samples, LEAST), MOST)
    how = job.shared | {"ids": sigma.ids[rows]}
    return {"rare": error_curve(model, x, y, RATES, samples=samples, **how)}


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
    for name, record in found.items():
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
            "Error rates far below one in the draws, by splitting: a population of draws is led "
            "through ever smaller noise by its errors. The intervals rest on the families of the "
            "first draws and on draws around the errors; a warning says where they should not be "
            "believed."
        ),
        verdicts=verdicts,
        figures=figures,
        tables=[Table("Sigma of each rate", table)],
    )
