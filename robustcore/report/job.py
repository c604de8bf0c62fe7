"""What every section works from: images, settings, and the records found so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from robustcore.report.page import number
from robustcore.sources import Source, open_source
from robustcore.stats import order_ranks


@dataclass(frozen=True)
class Job:
    """Images and settings of a report, the same for each model.

    x: a batch, or a source that is read when it is wanted, which may bring labels. y None: those,
    or else each model is measured against its own answers. shared: engine arguments of every
    method. records[model][name], skipped[section] and failed[section] fill as sections are
    measured.
    """

    x: Tensor | Source  # (B, C, H, W)
    y: Tensor | None  # (B,)
    data: str
    classes: Sequence[str] | None
    rate: float
    samples: int
    effort: int
    points: int
    windows: int
    size: int
    shared: dict[str, Any]
    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    skipped: dict[str, list[str]] = field(default_factory=dict)
    failed: dict[str, list[str]] = field(default_factory=dict)

    @cached_property
    def source(self) -> Source:
        return open_source(self.x, None, None)

    @cached_property
    def labelled(self) -> bool:
        """Whether anyone said what the images show."""
        return self.y is not None or self.source.block(0, 1)[1] is not None

    def part(self, rows: np.ndarray) -> tuple[Tensor | Source, Tensor | None]:
        """Some of the images, to be measured, and their labels."""
        chosen = rows.tolist()
        x = self.x[chosen] if isinstance(self.x, Tensor) else self.x.among(chosen)
        return x, None if self.y is None else self.y[chosen]

    def pictures(self, rows: np.ndarray) -> Tensor:
        """Some of the images, to be shown: float32 on the CPU."""
        return self.source.among(rows.tolist()).block(0, len(rows))[0].float().cpu()

    def having(self, name: str) -> dict[str, Any]:
        """The records of this name, by model, of the models that have one."""
        return {model: found[name] for model, found in self.records.items() if name in found}

    def word(self, label: int) -> str:
        known = self.classes is not None and 0 <= label < len(self.classes)
        return str(self.classes[label]) if self.classes is not None and known else f"class {label}"

    def images_table(self, columns: Mapping[str, Mapping[str, Sequence[Any]]]) -> dict[str, Any]:
        """Columns beside the images' numbers and classes: {heading: {model: values}}."""
        first = next(iter(next(iter(self.records.values())).values()))
        table: dict[str, Any] = {"image": first.ids.tolist()}
        if self.labelled:
            table["class"] = [self.word(int(label)) for label in first.labels]
        several = len(self.records) > 1
        for heading, by_model in columns.items():
            for model, values in by_model.items():
                table[f"{heading}, {model}" if several else heading] = list(values)
        return table


def median_with_interval(values: Any, confidence: float = 0.95) -> tuple[float, float, float]:
    """Median over images and its interval, distribution-free: what other images would have given.

    Ends are -inf or inf where there are too few images.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    low, high = (int(each) for each in order_ranks(len(ordered), 0.5, confidence))
    ends = [-np.inf, *ordered.tolist(), np.inf]
    return float(np.median(ordered)), float(ends[low]), float(ends[high])


def interval_in_words(low: float, high: float) -> str:
    """The interval of a median over images that are never negative, for a sentence."""
    if low == -np.inf:
        return "too few images for an interval"
    return f"95 % interval over images {number(low)} to {number(high)}"
