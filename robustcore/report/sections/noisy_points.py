"""Noisy points: their median distance to errors against the isoperimetric bound; trust."""

from __future__ import annotations

import numpy as np

from robustcore import plot
from robustcore.concentration import noisy_distance
from robustcore.engine import Engine
from robustcore.report.job import Job
from robustcore.report.page import Section, Skip, Table, figure, number
from robustcore.results import Record

NAME, TITLE = "noisy-points", "Noisy points and the bound"
MISTAKEN = 0.05  # probability of accusing a search that misses nothing, at any image of a model


def measure(engine: Engine, job: Job, name: str) -> dict[str, Record]:
    sigma = job.records[name].get("sigma")
    if sigma is None:
        raise Skip("it needs sigma")
    rows = np.flatnonzero(sigma.status == "found")
    if not len(rows):
        raise Skip("no image has a sigma between 0 and the largest tried")
    x, y = job.part(rows)
    found = noisy_distance(
        engine,
        x,
        y,
        sigma=sigma.sigma[rows],
        points=job.points,
        samples=max(job.samples, job.points),
        confidence=1 - MISTAKEN / len(rows),  # so that all images hold together
        **job.shared | {"ids": sigma.ids[rows]},
    )
    return {"noisy_distance": found}


def show(job: Job) -> Section:
    found = job.having("noisy_distance")
    if not found:
        raise Skip("no model has noisy points")
    verdicts, summary = [], []
    for name, record in found.items():
        known = np.isfinite(record.ratio)
        ratio = record.ratio[known]
        # proven: even the low end of the median is above the bound at the low end of the rate
        above = record.distance_low > record.bound_high
        masked = record.count("masked")
        low, middle, high = np.percentile(ratio, [25, 50, 75]) if ratio.size else [np.nan] * 3
        verdicts.append(
            f"{name}: half of the noisy copies have an error within a distance that is "
            f"{number(middle, 3)} of the bound in the median image (middle half of the images: "
            f"{number(low, 3)} to {number(high, 3)}); no model can truly be above 1."
        )
        verdicts.append(_trust(name, record.ids[above], masked))
        summary.append([len(record), middle, low, high, int(above.sum()), masked])
    rows = [
        *("images", "median of distance over bound", "25th percentile", "75th percentile"),
        *("images above the bound, beyond chance", "images with useless gradients"),
    ]
    models = dict(zip(found, summary, strict=True))
    return Section(
        title=TITLE,
        about=(
            "Whatever the model, half of the noisy copies of an image lie within -sigma "
            "Phi^-1(error rate) of an error (the Gaussian isoperimetric inequality). A search "
            "that reports a larger median has provably missed errors: its gradients are masked, "
            "or it is weak. "
            "Intervals are wide enough to hold for all images together, with 95 %. "
            f"Sigma is that of error rate {job.rate:g}; {job.points} noisy points an image."
        ),
        verdicts=verdicts,
        figures=[
            figure(
                plot.noisy_distance_at_rate(found, job.rate),
                "Median distance of noisy images to errors (Fig. 4, lower row), and the bound.",
            )
        ],
        tables=[
            Table("Noisy points, in short", {"quantity": rows, **models}),
            *(
                Table(
                    f"Noisy points of each image, {name}",
                    {
                        "image": record.ids.tolist(),
                        "sigma": record.sigma.tolist(),
                        "error rate": record.error_rate.tolist(),
                        "median distance": record.distance.tolist(),
                        "low": record.distance_low.tolist(),
                        "high": record.distance_high.tolist(),
                        "bound": record.bound.tolist(),
                        "ratio": record.ratio.tolist(),
                        "status": record.status.tolist(),
                    },
                )
                for name, record in found.items()
            ),
        ],
    )


def _trust(name: str, above: np.ndarray, masked: int) -> str:
    if len(above):
        listed = ", ".join(str(each) for each in above[:8])
        return (
            f"{name}: the search missed errors at {len(above)} images ({listed}): its distances "
            "are above what the theorem allows, so do not trust them, nor gradients of this model."
        )
    if masked:
        return (
            f"{name}: the gradients of {masked} images are of no use; their distances say nothing."
        )
    return f"{name}: nothing speaks against the search: no median is above the bound beyond chance."
