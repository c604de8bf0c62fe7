"""Accuracy under the 15 common corruptions."""

from __future__ import annotations

from typing import Any

import numpy as np

from robustcore import plot
from robustcore.corruptions import corruption_benchmark
from robustcore.engine import Engine
from robustcore.report.job import Job
from robustcore.report.page import Section, Skip, Table, figure, number
from robustcore.results import Record

NAME, TITLE = "corruptions", "Corruptions"


def measure(engine: Engine, job: Job, name: str) -> dict[str, Record]:
    return {"corruptions": corruption_benchmark(engine, job.x, job.y, **job.shared)}


def show(job: Job) -> Section:
    found = job.having("corruptions")
    if not found:
        raise Skip("no model was measured")
    verdicts = []
    for name, record in found.items():
        means = record.by_corruption()
        ordered = sorted(means, key=means.__getitem__)
        verdicts.append(
            f"{name} is right on {number(100 * record.mean_accuracy(), 3)} % of corrupted images, "
            f"the mean of {len(means)} corruptions and all severities, against "
            f"{number(100 * record.clean_accuracy, 3)} % of clean ones. Hardest: "
            f"{_listed(ordered[:3], means)}; easiest: {_listed(ordered[:-4:-1], means)}."
        )
    names = next(iter(found.values())).names
    columns: dict[str, Any] = {
        "corruption": ["clean images", *(_word(each) for each in names), "mean"]
    }
    for name, record in found.items():
        means = record.by_corruption()
        columns[name] = [
            record.clean_accuracy, *(means[each] for each in names), record.mean_accuracy(),
        ]  # fmt: skip
    conditions = next(iter(found.values()))
    every: dict[str, Any] = {
        "corruption": [_word(str(each)) for each in conditions.corruption],
        "severity": conditions.severity.tolist(),
        **{name: np.asarray(record.accuracy).tolist() for name, record in found.items()},
    }
    return Section(
        title=TITLE,
        about=(
            "The 15 common corruptions at five severities, applied in memory: accuracy on the same "
            f"{len(conditions)} images. With few images a difference of some per cent says little."
        ),
        verdicts=verdicts,
        figures=[
            figure(
                plot.corruption_accuracy(found),
                "Accuracy under each corruption, the mean of its severities.",
            )
        ],
        tables=[
            Table("Accuracy by corruption, the mean of severities", columns),
            Table("Accuracy by corruption and severity", every),
        ],
    )


def _word(name: str) -> str:
    return name.replace("_", " ")


def _listed(names: list[str], means: dict[str, float]) -> str:
    return ", ".join(f"{_word(each)} ({100 * means[each]:.0f} %)" for each in names)
