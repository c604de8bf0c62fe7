"""Does the nearest error lie where the noise says: equation 1, and the images that disagree."""

from __future__ import annotations

from typing import Any

import numpy as np

from robustcore import plot
from robustcore.engine import Engine
from robustcore.report.job import Job
from robustcore.report.page import Section, Skip, Table, figure, number
from robustcore.results import Record, compare

NAME, TITLE = "agreement", "Agreement with theory"
FACTOR = 2.0  # an image agrees where the ratio is within this factor of 1
SHOWN = 8


def measure(engine: Engine, job: Job, name: str) -> dict[str, Record]:
    found = job.records[name]
    if "sigma" not in found or "distance" not in found:
        raise Skip("it needs both sigma and the nearest error")
    return {"agreement": compare(found["sigma"], found["distance"])}


def show(job: Job) -> Section:
    both = job.having("agreement")
    if not both:
        raise Skip("no model has both sigma and the nearest error")
    verdicts, summary, figures = [], [], []
    for name, record in both.items():
        known = np.isfinite(record.ratio) & (record.ratio > 0)
        ratio = record.ratio[known]
        if not ratio.size:
            verdicts.append(f"{name}: no image has both numbers.")
            summary.append([0, np.nan, np.nan, np.nan, 0])
            continue
        far = np.maximum(ratio, 1 / ratio)
        away = np.flatnonzero(known)[np.argsort(-far)][: int((far > FACTOR).sum())]
        low, median, high = np.percentile(ratio, [25, 50, 75])
        verdicts.append(
            f"{name}: the nearest error is at {median:#.3g} times the distance that noise "
            f"predicts (middle half of the images: {number(low, 3)} to {number(high, 3)}). "
            f"{len(ratio) - len(away)} of {len(ratio)} images agree within a factor of {FACTOR:g}"
            + (f"; not so {_listed(record.ids[away])}." if len(away) else ".")
        )
        summary.append([len(ratio), median, low, high, len(away)])
        if len(away) and job.source.shape[0] in (1, 3):
            figures.append(_disagreeing(job, name, record, away[:SHOWN]))
    rows = [
        *("images compared", "median ratio", "25th percentile", "75th percentile"),
        f"images off by more than a factor of {FACTOR:g}",
    ]
    each_image = {
        "half-space distance": {name: each.half_space_distance for name, each in both.items()},
        "nearest error": {name: each.distance for name, each in both.items()},
        "ratio": {name: each.ratio for name, each in both.items()},
    }
    return Section(
        title=TITLE,
        about=(
            "If errors were a half-space, the nearest would lie at -sigma Phi^-1(error rate). The "
            "ratio is the distance found over that: 1 for a linear model, above 1 where errors are "
            "farther than noise suggests, below 1 where they are nearer."
        ),
        verdicts=verdicts,
        figures=[
            figure(
                plot.sigma_against_distance(both),
                "Nearest error against sigma (Fig. 2): medians of up to 50 images, bars over the "
                "middle half, faint marks for single images, the line of the linear model.",
            ),
            *figures,
        ],
        tables=[
            Table(
                "Agreement, in short", {"quantity": rows, **dict(zip(both, summary, strict=True))}
            ),
            Table("Agreement of each image", job.images_table(each_image)),
        ],
    )


def _listed(ids: np.ndarray) -> str:
    some = ", ".join(str(each) for each in ids[:SHOWN])
    return (
        f"image {some}"
        if len(ids) == 1
        else f"images {some}" + (f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else "")
    )


def _disagreeing(job: Job, name: str, record: Any, rows: np.ndarray) -> Any:
    pictures = job.pictures(rows).numpy()
    words = [f"image {record.ids[i]}: ratio {number(float(record.ratio[i]), 2)}" for i in rows]
    return figure(plot.image_row(pictures, words), f"{name}: the images that disagree most.")
