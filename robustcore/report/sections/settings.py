"""All settings, versions, seeds, and what was spent."""

from __future__ import annotations

import dataclasses
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robustcore.engine import Engine
from robustcore.report.job import Job
from robustcore.report.page import Section, Table
from robustcore.results.record import Record, counted

NAME, TITLE = "settings", "Settings"


def measure(engine: Engine, job: Job, name: str) -> dict[str, Record]:
    return {}


def show(job: Job) -> Section:
    columns: dict[str, list[Any]] = {
        key: []
        for key in (
            *("model", "record", "method", "seed", "samples", "backend", "device", "compiled"),
            *("evaluations", "gradients", "seconds"),
        )
    }
    everything, versions = {}, dict[str, str]()
    notes: list[str] = []
    for model, records in job.records.items():
        for name, record in records.items():
            how = record.provenance
            versions |= dict(how.versions)
            settings = dataclasses.asdict(how)
            del settings["images"]  # long, and in the files
            everything[f"{model}, {name}"] = settings
            notes += [f"{model}, {name}: {note}" for note in how.notes]
            if name == "agreement":
                continue  # it repeats the cost of the distances
            row = (
                *(model, name, how.method, str(how.seed), how.samples or "-", how.backend),
                *(
                    how.device,
                    how.compiled,
                    *(_spent(record, each) for each in ("forward", "backward")),
                ),
                how.seconds,
            )
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)
    forward, backward = sum(columns["evaluations"]), sum(columns["gradients"])
    uncounted = ", without those of the search that is audited" if job.having("audit") else ""
    threads = counted(torch.get_num_threads(), "thread")
    shape = " x ".join(str(each) for each in job.source.shape)
    return Section(
        title=TITLE,
        about=(
            f"Data: {job.data}, {job.source.n} images of {shape}, "
            + ("with their labels. " if job.labelled else "without labels: the model's own. ")
            + f"Spent in all: {forward:,} evaluations and {backward:,} gradients of the models"
            f"{uncounted}. Machine: {_processor()}, {threads}. "
            "Versions: " + ", ".join(f"{name} {each}" for name, each in versions.items()) + "."
        ),
        tables=[Table("What was measured, and what it cost", columns)],
        skipped=[],
        details={
            **({"Notes of the engine": "\n".join(notes)} if notes else {}),
            "Every setting, as JSON": json.dumps(everything, indent=1),
        },
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _spent(record: Record, kind: str) -> int:
    return int(np.sum(getattr(record, f"n_{kind}", 0)))
