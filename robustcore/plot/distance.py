"""The nearest errors of models: histograms of distance, and accuracy under attack."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from robustcore.arguments import integer, records
from robustcore.plot.style import BINS, DISTANCE_LABEL, MARKS, SERIES, axes
from robustcore.results import DistanceResult, PGDResult

LINF_LABEL = r"$\ell_\infty$ distance (pixel units of [0, 1])"


def distance_histograms(
    models: DistanceResult | Mapping[str, DistanceResult],
    ax: Axes | None = None,
    *,
    bins: int = 24,
) -> Axes:
    """Histograms of the distance of the nearest error found, one outline for each model.

    A misclassified image counts at 0; images without an error found are counted in the legend,
    which one model alone needs for nothing else. Raises ValueError where norms differ.
    """
    given = records("models", models, DistanceResult)
    bins = integer("bins", bins, 1, BINS)
    ax = axes(ax, (5.6, 3.0))
    norms = {record.norm for record in given.values()}
    if len(norms) > 1:
        raise ValueError(f"models must hold distances in one norm, held {sorted(norms)}")
    finite = [record.distance[np.isfinite(record.distance)] for record in given.values()]
    top = 1.02 * max((float(each.max(initial=0.0)) for each in finite), default=0.0) or 1.0
    edges = np.linspace(0.0, top, bins + 1)
    for i, (name, values) in enumerate(zip(given, finite, strict=True)):
        left = len(given[name]) - len(values)
        label = f"{name} ({left} not found)" if left else name
        counts, colour = np.histogram(values, edges)[0], SERIES[i % len(SERIES)]
        ax.stairs(counts, edges, color=colour, linewidth=1.6, label=label or None)
        ax.stairs(counts, edges, color=colour, alpha=0.18, fill=True)
    if len(given) > 1 or any(not np.isfinite(each.distance).all() for each in given.values()):
        ax.legend(frameon=False, fontsize="small")
    ax.set_xlim(0, 1.01 * top)
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel(DISTANCE_LABEL if norms != {"Linf"} else LINF_LABEL)
    ax.set_ylabel("images")
    return ax


def robust_accuracy(models: PGDResult | Mapping[str, PGDResult], ax: Axes | None = None) -> Axes:
    """Accuracy under PGD against the radius, one line for each model, from the clean one at 0."""
    given = records("models", models, PGDResult)
    ax = axes(ax, (5.6, 3.0))
    norms = {record.norm for record in given.values()}
    if len(norms) > 1:
        raise ValueError(f"models must be attacked in one norm, were in {sorted(norms)}")
    for i, (name, record) in enumerate(given.items()):
        clean = float((record.distance > 0).mean()) if len(record) else np.nan
        ax.plot(
            np.append(0.0, record.eps),
            100 * np.append(clean, record.robust_accuracy),
            color=SERIES[i % len(SERIES)],
            marker=MARKS[i % len(MARKS)],
            markersize=5,
            linewidth=1.4,
            label=name or None,
        )
    if any(given):
        ax.legend(frameon=False, fontsize="small")
    linf = norms == {"Linf"}
    ax.set_xlabel(rf"eps: {LINF_LABEL}" if linf else rf"eps: {DISTANCE_LABEL}")
    ax.set_ylabel("accuracy under PGD (%)")
    ax.set_ylim(-2, 102)
    return ax
