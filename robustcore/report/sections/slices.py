"""Church windows: planes through an image, an error in noise and an adversarial error."""

from __future__ import annotations

from typing import Any

import numpy as np

from robustcore import plot
from robustcore.engine import Engine
from robustcore.report.job import Job
from robustcore.report.page import Section, Skip, Table, figure, number
from robustcore.results import Record
from robustcore.slices import church_windows

NAME, TITLE = "slices", "Slices"


def measure(engine: Engine, job: Job, name: str) -> dict[str, Record]:
    sigma = job.records[name].get("sigma")
    if sigma is None:
        raise Skip("it needs sigma")
    rows = np.flatnonzero(sigma.status == "found")[: job.windows]
    if not len(rows):
        raise Skip("no image has a sigma between 0 and the largest tried")
    x, y = job.part(rows)
    found = church_windows(
        engine,
        x,
        y,
        sigma=sigma.sigma[rows],
        samples=job.samples,
        size=job.size,
        **job.shared | {"ids": sigma.ids[rows]},
    )
    return {"slices": found}


def show(job: Job) -> Section:
    windows = job.having("slices")
    if not windows:
        raise Skip("no model has a window")
    verdicts, figures, skipped = [], [], []
    table: dict[str, list[Any]] = {
        key: []
        for key in (
            *("model", "image", "in one region", "edge predicted at", "edge at"),
            *("degrees to the adversarial error", "edge off straight, rms"),
            *("off straight / radius", "share of nodes evaluated"),
        )
    }
    for name, record in windows.items():
        drawn = np.flatnonzero(record.drawn)
        for i in np.flatnonzero(~record.drawn):
            why = str(record.status[i]).replace("_", " ")
            skipped.append(f"a window of {name} at image {record.ids[i]}: {why}.")
        for i in drawn:
            at = plot.church_window(record, int(i), names=job.classes)
            figures.append(figure(at, f"{name}, image {record.ids[i]}: classes in the plane."))
            row = (
                *(name, int(record.ids[i]), bool(record.connected[i])),
                *(record.half_space_distance[i], record.edge_distance[i]),
                *(record.edge_degrees[i], record.edge_rms[i], record.bend[i]),
                record.share_evaluated[i],
            )
            for column, value in zip(table.values(), row, strict=True):
                column.append(value)
        if len(drawn):
            verdicts.append(
                f"{name}: the error in noise and the adversarial error lie in one connected region "
                f"in {int(record.connected.sum())} of {len(drawn)} windows; within the circle of "
                f"the noise the region's edge is off a straight line by "
                f"{number(100 * float(np.nanmedian(record.bend)), 2)} % of the radius (median)."
            )
    return Section(
        title=TITLE,
        about=(
            "Each window is the plane through the image, the first error found in noise and an "
            "error found by a targeted attack. Grey: right. The circle has radius sigma sqrt(n), "
            "near which the noise lies; the dotted shape is the linf ball of 8/255; the dashed "
            "line is where errors would begin if the noise errors fell in a half-space. The table "
            "gives distances from the image, and by how much the edge of the error region is off "
            "the straight line that fits it best, within the circle."
        ),
        verdicts=verdicts,
        figures=figures,
        tables=[Table("Windows", table)],
        skipped=skipped,
    )
