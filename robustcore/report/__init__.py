"""One page for a reviewer: every measurement of a model, with figures, tables and plain words."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustcore import blame, inputs
from robustcore.engine import Engine
from robustcore.evaluator import Evaluator
from robustcore.network import Model
from robustcore.provenance import bar, provenance
from robustcore.report.job import Job
from robustcore.report.page import Section, Skip, render
from robustcore.report.sections import SECTIONS
from robustcore.results import Record
from robustcore.results.files import write_text
from robustcore.results.provenance import refuse_other_images
from robustcore.runs import RunError, leads
from robustcore.runs import named as kept_as
from robustcore.sources import is_path, open_source

__all__ = ["SECTIONS", "Report", "report"]

PAGE = "report.html"
CHECKED = 256  # images that are looked at before anything is measured


@dataclass(frozen=True, repr=False)
class Report:
    """Where the page is, what it says in short, and the records it was made from.

    By title of a section: verdicts; skipped, what could not be made and why; failed, what ended in
    an error that robustcore did not foresee.
    """

    path: Path
    verdicts: Mapping[str, Sequence[str]]
    skipped: Mapping[str, Sequence[str]]
    failed: Mapping[str, Sequence[str]]
    records: Mapping[str, Mapping[str, Record]]

    def __repr__(self) -> str:
        left = f"; left out of {', '.join(self.skipped)}" if self.skipped else ""
        failed = f"; failed: {', '.join(self.failed)}" if self.failed else ""
        return f"Report({self.path}: {', '.join(self.records)}{left}{failed})"

    def _repr_html_(self) -> str:
        from html import escape

        lines = (f"<li>{escape(line)}</li>" for each in self.verdicts.values() for line in each)
        return f'<ul>{"".join(lines)}</ul><a href="{escape(str(self.path))}">{escape(PAGE)}</a>'


def report(
    models: Model | Engine | Mapping[str, Model | Engine],
    x: Any,  # (B, C, H, W)
    y: Any = None,  # (B,)
    *,
    out: str | Path,
    data: str = "images of the caller",
    classes: Sequence[str] | None = None,
    sections: Sequence[str] = tuple(SECTIONS),
    rate: float = 0.01,
    samples: int = 1000,
    effort: int = 60,
    points: int = 100,
    windows: int = 3,
    size: int = 250,
    records: Mapping[str, Mapping[str, Record]] | None = None,
    seed: int = 0,
    ids: Any = None,
    run: str | os.PathLike[str] | None = None,
) -> Report:
    """Measure one model or several on the same images, and write report.html to the folder `out`.

    The page is one file that needs no network and no script. Beside it stands each record as npz,
    JSON and CSV, named MODEL.RECORD.

    models: a callable or an `Engine`, or {name: one of them}; x, y, ids, seed, run: as in
        `error_rate`. y None measures each model against its own answers, if x brings no labels. In
        a process group all share the work, and the first writes the page.
    data, classes: what the page calls the images and the labels. sections: those wanted, of
        SECTIONS. A section that cannot be made, such as distances of a model without gradients, is
        left out and the page says why; one that ends in an error of the model or of a library is
        `failed`, on the page and in the Report.
    rate, samples: of sigma. effort: gradients an image of the nearest error. points: noisy points
        an image. windows, size: church windows of each model, and their nodes a side.
    records: those already measured, {model: {"sigma": ..., "distance": ...}}: not measured again.
        They must be of these images, by id, label and pixels.

    Cost: about 2.5 * samples evaluations and 3 * effort gradients an image. Raises ValueError,
    TypeError or RuntimeError naming the argument, OSError where `out` cannot be written.
    """
    named = _engines(models)
    first = next(iter(named.values()))
    floating = isinstance(x, Tensor) and x.is_floating_point()
    batch = inputs.images(x) if floating else open_source(x, y, first.model)
    n = len(batch) if isinstance(batch, Tensor) else batch.n
    where = batch.device if isinstance(batch, Tensor) else torch.device("cpu")
    labels = None if y is None or is_path(y) else inputs.labels(y, n, where)
    if classes is not None and (isinstance(classes, str) or not isinstance(classes, Sequence)):
        raise TypeError(f"classes must be a list of strings, was {inputs.shown(classes)}")
    for each in inputs.strings("sections", sections):
        inputs.choice("sections", each, tuple(SECTIONS))
    data = inputs.string("data", data)
    known = _known(records)
    run = None if run is None else inputs.path("run", run)
    job = Job(
        x=batch,
        y=labels,
        data=data,
        classes=classes,
        rate=inputs.rate_for(inputs.integer("samples", samples, 1, 2**20), rate, "rate"),
        samples=samples,
        effort=inputs.integer("effort", effort, 5),
        points=inputs.integer("points", points, 1, 2**20),
        windows=inputs.integer("windows", windows, 0),
        size=inputs.integer("size", size, 2, 1000),
        shared={"seed": seed, "ids": ids, "run": run},
    )
    folder = inputs.path("out", out)
    if leads():
        inputs.folder("out", folder)
    chosen = {name: each for name, each in SECTIONS.items() if name in sections}
    with contextlib.ExitStack() as stack:
        for engine in named.values():
            stack.enter_context(engine.used())
        _check_all(named, known, job)
        _measure(named, chosen, job, first.progress)
    path = folder / PAGE
    if not leads():
        return Report(path, {}, {}, {}, job.records)
    pages = [_shown(section, module, job) for section, module in chosen.items()]
    stems = _file_names(job.records)
    for name, found in job.records.items():
        for each, record in found.items():
            _write(record, folder, f"{stems[name]}.{each}")
    several = ", ".join(named)
    when = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    lead = (
        f"Random noise and nearest errors of {several} on {n} images ({data}). "
        f"robustcore {version('robustcore')}, {when}."
    )
    write_text(path, render(f"Robustness of {several}", lead, pages), name="out")
    return Report(
        path=path,
        verdicts={each.title: tuple(each.verdicts) for each in pages if each.verdicts},
        skipped={each.title: tuple(each.skipped) for each in pages if each.skipped},
        failed={each.title: tuple(each.failed) for each in pages if each.failed},
        records=job.records,
    )


def _engines(models: Any) -> dict[str, Engine]:
    """An engine for each model, by name."""
    named = dict(models) if isinstance(models, Mapping) else {"model": models}
    if not named:
        raise ValueError("models must hold at least one model, held none")
    for name, model in named.items():
        if not isinstance(name, str):
            raise TypeError(f"models must be named by strings, one was named {inputs.shown(name)}")
        if not isinstance(model, Engine) and not callable(model):
            raise TypeError(f"models must be callable, one was {inputs.shown(model)}")
    return {name: Engine.of(model) for name, model in named.items()}


def _known(records: Any) -> dict[str, dict[str, Record]]:
    """Records by model and name, where they are that."""
    if records is None:
        return {}
    whole = isinstance(records, Mapping) and all(isinstance(v, Mapping) for v in records.values())
    if not whole or not all(
        isinstance(v, Record) for its in records.values() for v in its.values()
    ):
        raise TypeError(f"records must be {{model: {{name: record}}}}, was {inputs.shown(records)}")
    return {name: dict(its) for name, its in records.items()}


def _check_all(
    engines: Mapping[str, Engine], known: Mapping[str, dict[str, Record]], job: Job
) -> None:
    """Each model and its records; an error says which of the models it is about."""
    for name, engine in engines.items():
        given = known.get(name, {})
        try:
            _check(engine, job, given)
        except (TypeError, ValueError, RuntimeError) as error:
            if not str(error).startswith("model "):
                raise
            kinds = (TypeError, ValueError, RuntimeError)
            kind = next(each for each in kinds if isinstance(error, each))
            raise kind(f"models: of {name!r}, {error}") from error
        job.records[name] = given


def _measure(
    engines: Mapping[str, Engine], chosen: Mapping[str, Any], job: Job, progress: bool | None
) -> None:
    """Every section of every model, to the job."""
    total = len(chosen) * len(engines)
    with bar(total, "parts", progress if leads() else False) as shown:
        for section, module in chosen.items():
            for name, engine in engines.items():
                shown.set_postfix_str(f"{section}, {name}")
                try:
                    with kept_as(name):
                        job.records[name] |= module.measure(engine, job, name)
                except (RunError, OSError):  # of the run or the disk, not of the model
                    raise
                except Exception as why:
                    reasons = job.skipped if blame.is_ours(why) else job.failed
                    reasons.setdefault(section, []).append(f"{name}: {blame.sentence(why)}.")
                shown.update()


def _shown(name: str, module: Any, job: Job) -> Section:
    skipped, failed = (told.get(name, []) for told in (job.skipped, job.failed))
    try:
        made = module.show(job)
    except Skip as reason:
        if not failed:
            skipped = [*skipped, f"{reason}."]
        return Section(module.TITLE, "", skipped=skipped, failed=failed)
    except Exception as error:
        why = f"{blame.sentence(error)}."
        return Section(module.TITLE, "", skipped=skipped, failed=[*failed, why])
    return replace(made, skipped=[*made.skipped, *skipped], failed=failed)


def _check(engine: Engine, job: Job, given: Mapping[str, Record]) -> None:
    """Model and images, all that are at hand or are held by records, before anything is measured.

    Raises as `error_rate`, and ValueError for records of other images or another rate.
    """
    n = job.source.n
    ids = inputs.identifiers(job.shared["ids"], n, torch.device("cpu"))
    labels = []
    for first in range(0, n if given or isinstance(job.x, Tensor) else min(n, CHECKED), CHECKED):
        at = slice(first, first + CHECKED)
        x, y = job.source.block(first, min(n, first + CHECKED))
        y = y if job.y is None else job.y[at]
        checked = Evaluator(engine, x, y, ids=ids[at], seed=job.shared["seed"], exact=True)
        labels.append(checked.labels.cpu().numpy())
        how = provenance(checked, "", None, 0.0, {})
        for name, record in given.items():
            names = f"records and x ({name!r})"
            refuse_other_images(names, record.provenance, how, ids[at].tolist())
    for name, record in given.items():
        same = np.array_equal(record.ids, ids.numpy())
        if not same or not np.array_equal(record.labels, np.concatenate(labels)):
            raise ValueError(
                f"records must be of the images in x, {name!r} has other ids or labels"
            )
        its = getattr(record, "rate", job.rate)
        if its != job.rate:
            raise ValueError(f"records must be of error rate {job.rate:g}, {name!r} was of {its:g}")


def _file_names(names: Iterable[str]) -> dict[str, str]:
    """How the files of each model begin; models whose names would give one file are numbered."""
    stems: dict[str, str] = {}
    taken: set[str] = set()  # in small letters, which some file systems do not tell from capitals
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._") or "model"
        numbered = (f"{plain}-{k}" for k in itertools.count(2))
        stem = next(s for s in itertools.chain([plain], numbered) if s.lower() not in taken)
        taken.add(stem.lower())
        stems[name] = stem
    return stems


def _write(record: Record, folder: Path, stem: str) -> None:
    record.save(folder / f"{stem}.npz")
    record.to_csv(folder / f"{stem}.csv")
    text = {
        "record": type(record).__name__,
        "summary": repr(record),
        "provenance": vars(record.provenance),
        "columns": {name: values.tolist() for name, values in record.columns().items()},
    }
    write_text(folder / f"{stem}.json", json.dumps(_finite(text), indent=1) + "\n", name="out")


def _finite(value: Any) -> Any:
    """JSON has no inf and no NaN: words stand for them."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return str(value) if isinstance(value, float) and not np.isfinite(value) else value
