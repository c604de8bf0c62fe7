"""Where the nearest error is: l2 and linf, and robust accuracy at the usual radii."""

from __future__ import annotations

from typing import Any

import numpy as np

from robustcore import plot
from robustcore.distance import distance_to_error, pgd
from robustcore.engine import Engine
from robustcore.geometry import typical_noise_norm
from robustcore.report.job import Job, interval_in_words, median_with_interval
from robustcore.report.page import Section, Skip, Table, figure, number
from robustcore.results import Record

NAME, TITLE = "distance", "Nearest error"
LINF = (1 / 255, 2 / 255, 4 / 255, 8 / 255)
STEPS = 40


def measure(engine: Engine, job: Job, name: str) -> dict[str, Record]:
    found = job.records[name].get("distance")
    if found is None:
        found = distance_to_error(engine, job.x, job.y, effort=job.effort, **job.shared)
    robust = pgd(engine, job.x, job.y, eps=LINF, norm="Linf", steps=STEPS, **job.shared)
    return {"distance": found, "robust_linf": robust}


def show(job: Job) -> Section:
    near, robust = job.having("distance"), job.having("robust_linf")
    if not near:
        raise Skip("no model has nearest errors")
    verdicts, summary = [], []
    for name, record in near.items():
        median, low, high = median_with_interval(record.distance)
        text = (
            f"{name}: the nearest error that was found is at a median l2 distance of "
            f"{number(median, 3)} ({interval_in_words(low, high)})"
        )
        noise = job.records[name].get("sigma")
        if noise is not None and np.isfinite(noise.median_sigma) and median > 0:
            norm = float(typical_noise_norm(noise.median_sigma, np.prod(job.source.shape)))
            times = f"{norm / median:.0f} times" if norm / median >= 2 else "hardly"
            text += f"; noise in which it errs at rate {job.rate:g} is {times} longer"
        verdicts.append(text + ".")
        masked, missing = record.count("masked"), record.count("not_found")
        if masked or missing:
            verdicts.append(
                f"{name}: no error was found for {missing + masked} images; the gradients of "
                f"{masked} of them were of no use, which is no sign of robustness."
            )
        summary.append(
            [median, max(low, 0.0), high, missing, masked, *robust[name].robust_accuracy]
        )
    rows = [
        *("median l2 distance", "its interval, low", "its interval, high"),
        *("images without an error found", "images with useless gradients"),
        *(f"accuracy under linf PGD, eps {round(255 * eps)}/255" for eps in LINF),
    ]
    each_image = {
        "l2 distance": {name: record.distance for name, record in near.items()},
        "taken for": {
            name: [job.word(int(k)) if k >= 0 else "-" for k in record.label_adv]
            for name, record in near.items()
        },
        "status": {name: record.status for name, record in near.items()},
    }
    return Section(
        title=TITLE,
        about=(
            "The nearest point that the model was seen to get wrong, found by a minimum-norm "
            f"search of {_effort(near)} gradients an image: an upper bound of the distance to "
            f"the nearest error. Below it, accuracy under {STEPS} steps of projected gradients."
        ),
        verdicts=verdicts,
        figures=[
            figure(plot.distance_histograms(near), "Distance of the nearest error found."),
            figure(plot.robust_accuracy(robust), "Accuracy under linf PGD against the radius."),
        ],
        tables=[
            Table(
                "Nearest errors, in short",
                {"quantity": rows, **dict(zip(near, summary, strict=True))},
            ),
            Table("Nearest error of each image", job.images_table(each_image)),
        ],
    )


def _effort(near: dict[str, Any]) -> str:
    """What each search was allowed; records that were given say so themselves."""
    found = {str(record.provenance.settings.get("effort", "?")) for record in near.values()}
    return " or ".join(sorted(found))
