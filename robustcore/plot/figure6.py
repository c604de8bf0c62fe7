"""Fig. 6: accuracy in noise of several models or defences, over repeated trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from robustcore.arguments import instance, shown
from robustcore.plot.style import MARKS, SERIES, SIGMA_LABEL, axes
from robustcore.results import ErrorRate

SHIFT = 0.05  # of the least step of sigma, from one line to the next: bars stay apart


def accuracy_over_trials(trials: Mapping[str, Sequence[ErrorRate]], ax: Axes | None = None) -> Axes:
    """Accuracy against sigma, a line for each name, with bars of one standard deviation of trials.

    trials: for each name, a record for each trial, all on one grid of sigma. A trial's accuracy is
    that over its images and draws. Lines are shifted sideways a little, so that bars do not hide
    one another; one trial has no bar. Raises ValueError for no trials or differing grids.
    """
    if not isinstance(trials, Mapping):
        raise TypeError(f"trials must be lists of records by name, was {type(trials).__name__}")
    for its in trials.values():
        if not isinstance(its, Sequence):
            raise TypeError(f"trials must be lists of records by name, one was {shown(its)}")
        for record in its:
            instance("trials", record, ErrorRate)
    if not trials or not all(len(records) for records in trials.values()):
        raise ValueError("trials must hold at least one record for each name")
    sigma = next(iter(trials.values()))[0].sigma
    for name, records in trials.items():
        if any(not np.array_equal(record.sigma, sigma) for record in records):
            raise ValueError(f"trials must share one grid of sigma, those of {name!r} do not")
    ax = axes(ax)
    order = np.argsort(sigma)
    shift = SHIFT * float(np.diff(sigma[order]).min()) if len(sigma) > 1 else 0.0
    for i, (name, records) in enumerate(trials.items()):
        right = 100 * (1 - np.stack([record.rate.mean(0) for record in records]))[:, order]
        ax.errorbar(
            sigma[order] + shift * (i - (len(trials) - 1) / 2),
            right.mean(0),
            yerr=right.std(0, ddof=1) if len(records) > 1 else None,
            color=SERIES[i % len(SERIES)],
            marker=MARKS[i % len(MARKS)],
            markersize=5,
            linewidth=1.4,
            capsize=2,
            label=name,
        )
    ax.legend(frameon=False, fontsize="small")
    ax.set_xlabel(SIGMA_LABEL)
    ax.set_ylabel("accuracy (%)")
    ax.set_ylim(0, 102)
    return ax
