"""Can the attack be trusted: the search for nearest errors, held against the theorem."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from robustcore.concentration import audit_attack
from robustcore.distance import distance_to_error
from robustcore.engine import Engine
from robustcore.report.job import Job
from robustcore.report.page import Section, Skip, Table, number
from robustcore.results import Record

NAME, TITLE = "audit", "Can the attack be trusted"
AUDITED = 4  # images: each costs as many searches as there are points
RATE, LEAST_SAMPLES = 0.03, 2000
WORDS = {
    "missed errors": "it provably missed errors: do not trust its distances",
    "consistent": "its distances are within what the theorem allows",
    "undecided": "these points do not decide; more would",
}


def measure(engine: Engine, job: Job, name: str) -> dict[str, Record]:
    sigma = job.records[name].get("sigma")
    if sigma is None:
        raise Skip("it needs sigma")
    rows = np.flatnonzero(sigma.status == "found")[:AUDITED]
    if not len(rows):
        raise Skip("no image has a sigma between 0 and the largest tried")
    x, y = job.part(rows)

    def attack(model: Any, x: Tensor, y: Tensor) -> Tensor:
        with engine.part_of():
            found = distance_to_error(engine, x, y, effort=job.effort)
        at: Tensor = found.x_adv
        return at

    found = audit_attack(
        engine,
        x,
        y,
        attack,
        error_rates=RATE,
        points=job.points,
        samples=max(job.samples, job.points, LEAST_SAMPLES),
        **job.shared | {"ids": sigma.ids[rows]},
    )
    return {"audit": found}


def show(job: Job) -> Section:
    found = job.having("audit")
    if not found:
        raise Skip("no model's attack was held against the theorem")
    verdicts = []
    table: dict[str, list[Any]] = {
        key: []
        for key in (
            *("model", "image", "verdict", "sigma", "error rate", "attack's median", "bound"),
            *("ratio", "noise found a nearer error", "points without an error found"),
        )
    }
    for name, record in found.items():
        text = f"{name}, the search for nearest errors: {WORDS.get(record.overall, record.overall)}"
        nearer = int(record.noise_nearer.sum())
        if nearer:
            text += f"; at {nearer} of {len(record)} images a random draw was a nearer error"
        verdicts.append(
            f"{text} (median over the bound, in the median of {len(record)} images: "
            f"{number(float(np.nanmedian(record.ratio)), 3)})."
        )
        for i in range(len(record)):
            row = (
                *(name, int(record.ids[i]), str(record.verdict[i]), record.sigma[i, 0]),
                *(record.error_rate[i, 0], record.median[i, 0], record.bound[i, 0]),
                *(record.ratio[i, 0], bool(record.noise_nearer[i])),
                int(np.isinf(record.distances[i, 0]).sum()),
            )
            for column, value in zip(table.values(), row, strict=True):
                column.append(value)
    confidence = next(iter(found.values())).confidence
    return Section(
        title=TITLE,
        about=(
            f"The search that found the nearest errors is run from noisy copies of the first "
            f"{AUDITED} images, at noise of error rate {RATE:g}. The theorem above bounds the "
            "median of its distances; counting needs no gradient and cannot be deceived. Each "
            f"verdict is wrong with probability {1 - confidence:.2g} at most. Consistent is no "
            "praise: errors may be missed where the bound leaves room."
        ),
        verdicts=verdicts,
        tables=[Table("The audit, image by image", table)],
    )
