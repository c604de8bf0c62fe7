"""Fig. 2: the nearest error against sigma, model by model, and the histograms of sigma."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from robustcore.arguments import integer, records
from robustcore.geometry import half_space_distance
from robustcore.plot.style import BINS, DISTANCE_LABEL, MARKS, SERIES, SIGMA_LABEL, axes
from robustcore.results import NoiseAndDistance, SigmaResult

Floats = npt.NDArray[np.float64]


def sigma_against_distance(
    models: NoiseAndDistance | Mapping[str, NoiseAndDistance],
    ax: Axes | None = None,
    *,
    every: int = 50,
) -> Axes:
    """Medians of `every` images in turn, bars from the 25th to the 75th percentile, for each model.

    The line is the linear model's, equation 1. Faint marks are single images. A misclassified image
    is at (0, 0); an infinite sigma or distance counts in the percentiles, and a median or an image
    that is infinite is not drawn. The last group takes what is left over.
    """
    given = _named(models)
    every = integer("every", every, 1)
    ax = axes(ax, (5.6, 4.6))
    rates = {record.rate for record in given.values()}
    if len(rates) != 1:
        raise ValueError(f"models must share one error rate, but had {sorted(rates)}")
    top = np.zeros(2)
    for i, (name, record) in enumerate(given.items()):
        colour, mark = SERIES[i % len(SERIES)], MARKS[i % len(MARKS)]
        both = np.stack([record.sigma, record.distance])
        parts = np.array_split(np.arange(len(record)), max(1, len(record) // every))
        low, middle, high = np.stack(
            [_percentiles(both[:, part]) for part in parts if len(part)], axis=-1
        )
        known = np.isfinite(middle).all(0)
        finite = np.where(np.isfinite(high), high, middle)
        single = both[:, np.isfinite(both).all(0)]
        ax.plot(*single, mark, color=colour, alpha=0.25, markersize=3, markeredgewidth=0)
        mid = middle[:, known]
        bars = np.stack([mid - low[:, known], finite[:, known] - mid], axis=1)
        ax.errorbar(
            mid[0], mid[1], xerr=bars[0], yerr=bars[1], fmt=mark, color=colour,
            markersize=6, linewidth=1.1, markeredgecolor="white", markeredgewidth=0.6,
            label=f"{name}: {len(record)} images",
        )  # fmt: skip
        if known.any():
            top = np.maximum(top, 1.1 * finite[:, known].max(1))
        if single.size:
            top = np.maximum(top, 1.15 * np.percentile(single, 95, axis=1))
    rate = rates.pop()
    top = np.where(top > 0, top, 1.0)
    end = max(top[0], top[1] / float(half_space_distance(1.0, rate)))
    line = float(half_space_distance(end, rate))
    ax.plot([0, end], [0, line], color="black", linewidth=1.2, linestyle="--",
            label="linear model")  # fmt: skip
    ax.set_xlim(0, top[0])
    ax.set_ylim(0, top[1])
    ax.set_xlabel(_label(rate))
    ax.set_ylabel(f"nearest error found: {DISTANCE_LABEL}")
    ax.legend(frameon=False, fontsize="small", loc="upper left")
    return ax


def sigma_histograms(
    models: SigmaResult | Mapping[str, SigmaResult], ax: Axes | None = None, *, bins: int = 24
) -> Axes:
    """Histograms of sigma, one outline for each model. A misclassified image counts at 0.

    Censored images are left out of the bars and counted in the legend, which one model alone needs
    for nothing else.
    """
    given = records("models", models, SigmaResult)
    bins = integer("bins", bins, 1, BINS)
    ax = axes(ax, (5.6, 2.6))
    finite = [record.sigma[np.isfinite(record.sigma)] for record in given.values()]
    top = 1.02 * max((float(each.max(initial=0.0)) for each in finite), default=0.0) or 1.0
    edges = np.linspace(0.0, top, bins + 1)
    for i, (name, record) in enumerate(given.items()):
        colour, left = SERIES[i % len(SERIES)], record.count("censored")
        label = f"{name} ({left} above)" if left else name
        counts = np.histogram(finite[i], edges)[0]
        ax.stairs(counts, edges, color=colour, linewidth=1.6, label=label or None)
        ax.stairs(counts, edges, color=colour, alpha=0.18, fill=True)
    if len(given) > 1 or any(record.count("censored") for record in given.values()):
        ax.legend(frameon=False, fontsize="small")
    ax.set_xlim(0, 1.01 * top)
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel(_label(next(iter(given.values())).rate) if given else SIGMA_LABEL)
    ax.set_ylabel("images")
    return ax


def _named(
    models: NoiseAndDistance | Mapping[str, NoiseAndDistance],
) -> dict[str, NoiseAndDistance]:
    given = records("models", models, NoiseAndDistance, alone="model")
    if not given or not all(len(record) for record in given.values()):
        raise ValueError("models must hold at least one record, of at least one image each")
    return given


def _percentiles(values: Floats) -> Floats:
    """25th, 50th and 75th of each row, infinite entries allowed: (3, rows)."""
    with np.errstate(invalid="ignore"):
        found = np.percentile(values, [25, 50, 75], axis=1)
    return np.where(np.isnan(found), np.inf, found)  # between two infinities lies infinity


def _label(rate: float) -> str:
    return rf"$\sigma$ at error rate {rate:g} (pixel units of [0, 1])"
