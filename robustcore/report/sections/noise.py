"""How robust to noise: sigma of each image, accuracy in noise, and what that noise looks like."""

from __future__ import annotations

from typing import Any

import numpy as np

from robustcore import plot
from robustcore.copies import noisy_copies
from robustcore.engine import Engine
from robustcore.report.job import Job, interval_in_words, median_with_interval
from robustcore.report.page import Section, Table, figure, number
from robustcore.results import Record
from robustcore.sigma import error_rate, sigma_at_error_rate

NAME, TITLE = "noise", "Noise"
GRID = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4)
CURVE_SAMPLES = 50  # draws of each image at each sigma: the mean over images is what is read
PANELS, PANEL_GRID = 5, (0.0, 0.05, 0.1, 0.2, 0.4)


def measure(engine: Engine, job: Job, name: str) -> dict[str, Record]:
    found = job.records[name].get("sigma")
    if found is None:
        found = sigma_at_error_rate(
            engine, job.x, job.rate, job.y, samples=job.samples, **job.shared
        )
    samples = min(job.samples, CURVE_SAMPLES)
    curve = error_rate(engine, job.x, GRID, job.y, samples=samples, **job.shared)
    return {"sigma": found, "error_rate": curve}


def show(job: Job) -> Section:
    sigma, curves = job.having("sigma"), job.having("error_rate")
    verdicts, summary = [], []
    for name, record in sigma.items():
        right = len(record) - record.count("misclassified")
        median, low, high = median_with_interval(record.sigma)
        at = int(np.argmin(np.abs(curves[name].sigma - 0.1)))
        share = 1 - float(curves[name].rate[:, at].mean())
        verdicts.append(
            f"{name} is right on {right} of {len(record)} images. The median sigma at which it "
            f"errs on {100 * job.rate:g} % of the noisy copies of an image is {number(median)} "
            f"({number(255 * median, 2)} of 255 grey levels; {interval_in_words(low, high)}). "
            f"At sigma 0.1 it is right on {100 * share:.0f} % of all noisy copies."
        )
        summary.append(
            [
                *(right / len(record), median, max(low, 0.0), high),
                *(record.count("censored"), *(1 - curves[name].rate.mean(0))),
            ]
        )
    rows = [
        *("accuracy on these images", f"median sigma at error rate {job.rate:g}"),
        *("its interval, low", "its interval, high", "images that withstand all noise tried"),
        *(f"accuracy at sigma {each:g}" for each in GRID),
    ]
    columns = dict(zip(sigma, summary, strict=True))
    each_image = {
        "sigma": {name: record.sigma for name, record in sigma.items()},
        "low": {name: record.sigma_low for name, record in sigma.items()},
        "high": {name: record.sigma_high for name, record in sigma.items()},
        "status": {name: record.status for name, record in sigma.items()},
    }
    return Section(
        title=TITLE,
        about=(
            "sigma is the standard deviation of Gaussian noise, in pixel units of [0, 1], in which "
            f"the model errs on a share {job.rate:g} of the noisy copies of an image. Noise is not "
            "clipped. A misclassified image has sigma 0."
        ),
        verdicts=verdicts,
        figures=[
            figure(plot.sigma_histograms(sigma), "Sigma over the images."),
            figure(
                plot.accuracy_in_noise(curves),
                "Accuracy in noise, the mean over images; bars are two standard errors.",
            ),
            *_intervals(sigma),
            *_panels(job),
        ],
        tables=[
            Table("Noise, in short", {"quantity": rows, **columns}),
            Table("Sigma of each image, with its interval", job.images_table(each_image)),
        ],
    )


def _intervals(sigma: dict[str, Any]) -> list[Any]:
    return [
        figure(plot.sigma_intervals(record), f"{name}: sigma of each image with its interval.")
        for name, record in sigma.items()
    ]


def _panels(job: Job) -> list[Any]:
    if job.source.shape[0] not in (1, 3):
        return []
    first = np.arange(min(PANELS, job.source.n))
    copies = noisy_copies(job.pictures(first), PANEL_GRID, seed=job.shared["seed"])
    shown = next(iter(job.having("sigma").values())).labels[first]
    rows = [job.word(int(label)) for label in shown] if job.labelled else None
    drawn = plot.noisy_images(copies.numpy(), PANEL_GRID, rows=rows)
    return [figure(drawn, "The first images, in noise (clipped to [0, 1] to be shown).")]
