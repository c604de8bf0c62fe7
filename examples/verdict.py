"""Verdicts on claims: a criterion as a test of stated error, and a file that holds its numbers.

A claim *holds* where the whole interval of what it speaks of lies inside its criterion, *does not
hold* where the whole interval lies outside, and is *undecided* otherwise. Fewer images make an
interval wider, so they never make a claim easier to confirm. All intervals of one command hold
together with a probability of at least 1 - LEVEL: each of k has level LEVEL / k.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import t

from robustcore.stats import clopper_pearson, order_ranks

LEVEL = 0.05
OUTCOMES = ("does not hold", "undecided", "holds")  # of several parts the first here counts

Interval = tuple[float, float]


def median_interval(values: npt.ArrayLike, level: float) -> Interval:
    """Of the median of what `values` were drawn from; infinite where they are too few."""
    ordered = np.sort(np.asarray(values, float))
    if not len(ordered):
        return -np.inf, np.inf
    low, high = (int(rank) for rank in order_ranks(len(ordered), 0.5, 1 - level))
    padded = np.concatenate([[-np.inf], ordered, [np.inf]])
    return float(padded[low]), float(padded[high])


def share_interval(count: int, of: int, level: float) -> Interval:
    """Clopper and Pearson's, of the probability behind `count` in `of`."""
    if not of:
        return 0.0, 1.0
    low, high = clopper_pearson(count, of, 1 - level)
    return float(low), float(high)


def mean_interval(values: npt.ArrayLike, level: float) -> Interval:
    """Student's, of the mean of what `values` were drawn from; infinite for fewer than 30.

    Accuracies are far from normal, and a handful of images may all agree by chance.
    """
    rows = np.asarray(values, float)
    if len(rows) < 30:
        return -np.inf, np.inf
    half = t.ppf(1 - level / 2, len(rows) - 1) * rows.std(ddof=1) / len(rows) ** 0.5
    return float(rows.mean() - half), float(rows.mean() + half)


def judge(interval: Interval, least: float = -np.inf, most: float = np.inf) -> str:
    """Whether the interval lies between the two, outside, or neither; on an end is outside."""
    low, high = interval
    if least < low and high < most:
        return "holds"
    return "does not hold" if high <= least or low >= most else "undecided"


def together(outcomes: Sequence[str]) -> str:
    """Of a claim of several parts: it holds where all do, and fails where one does."""
    return min(outcomes, key=OUTCOMES.index, default="undecided")


def save(path: Path, **values: Any) -> None:
    """Write values as JSON, with the command and the machine that they belong to."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    about = {
        "command": shlex.join(["python", *sys.argv]),
        "machine": {
            "processor": told.get("model name", platform.processor()),
            "family_and_model": [told.get("cpu family"), told.get("model")],
            "cores": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "python": platform.python_version(),
            "versions": {name: version(name) for name in ("robustcore", "torch", "numpy")},
        },
    }
    path.write_text(json.dumps(about | values, indent=1) + "\n")
