"""Fig. 4: median distance of noisy images to errors against the bound, at one sigma or one rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from scipy.special import ndtri

from robustcore.arguments import fraction, records
from robustcore.geometry import isoperimetric_bound
from robustcore.plot.style import MARKS, SERIES, SIGMA_LABEL, axes
from robustcore.results import NoisyDistance

SIZE = (5.6, 4.2)
EPS_LABEL = r"median $\ell_2$ distance to errors, $\epsilon^*$ (pixel units of [0, 1])"


def noisy_distance_at_sigma(
    models: NoisyDistance | Mapping[str, NoisyDistance], ax: Axes | None = None
) -> Axes:
    """The upper row: error rate at one sigma (log axis) against eps*, an image a mark.

    The thick line is the isoperimetric bound, which no image can truly be above. Images without an
    error among the draws have no rate to be drawn at and are left out, as are infinite distances.
    Raises ValueError where sigma differs between images.
    """
    given = _named(models)
    ax = axes(ax, SIZE)
    sigmas = np.unique(np.concatenate([record.sigma for record in given.values()]))
    if len(sigmas) != 1:
        raise ValueError(f"models must share one sigma, had {sigmas[:3].tolist()}")
    sigma, least = float(sigmas[0]), 0.5
    for i, (name, record) in enumerate(given.items()):
        known = (record.error_rate > 0) & np.isfinite(record.distance)
        _marks(ax, i, name, record, known, record.error_rate)
        least = min(least, float(record.error_rate[known].min(initial=0.5)))
    rate = np.append(np.logspace(np.log10(least / 2), np.log10(0.5), 200), 1.0)
    ax.plot(rate, isoperimetric_bound(sigma, rate), color="black", linewidth=2.5, label="bound")
    ax.set_xscale("log")
    ax.set_xlabel(rf"error rate in noise of $\sigma$ = {sigma:g}")
    return _finish(ax)


def noisy_distance_at_rate(
    models: NoisyDistance | Mapping[str, NoisyDistance], rate: float = 0.01, ax: Axes | None = None
) -> Axes:
    """The lower row: sigma(x, rate) against eps*, an image a mark; the line is its bound."""
    given = _named(models)
    rate = fraction("rate", rate)
    ax = axes(ax, SIZE)
    top = 0.0
    for i, (name, record) in enumerate(given.items()):
        known = np.isfinite(record.sigma) & np.isfinite(record.distance) & (record.sigma > 0)
        _marks(ax, i, name, record, known, record.sigma)
        top = max(top, float(record.sigma[known].max(initial=0.0)))
    ends = np.array([0.0, 1.05 * top or 1.0])
    ax.plot(ends, -ends * ndtri(rate), color="black", linewidth=2.5, label="bound", zorder=1)
    ax.set_xlim(0, ends[1])
    ax.set_xlabel(rf"{SIGMA_LABEL} at error rate {rate:g}")
    return _finish(ax)


def _named(models: NoisyDistance | Mapping[str, NoisyDistance]) -> dict[str, NoisyDistance]:
    given = records("models", models, NoisyDistance)
    if not any(len(record) for record in given.values()):
        raise ValueError("models must hold at least one image")
    return given


def _marks(ax: Axes, i: int, name: str, record: NoisyDistance, known: Any, x: Any) -> None:
    low = np.clip(record.distance - record.distance_low, 0, None)
    high = np.where(np.isfinite(record.distance_high), record.distance_high, record.distance)
    ax.errorbar(
        np.asarray(x)[known],
        record.distance[known],
        yerr=np.stack([low, np.clip(high - record.distance, 0, None)])[:, known],
        fmt=MARKS[i % len(MARKS)],
        color=SERIES[i % len(SERIES)],
        markersize=4,
        linewidth=0.8,
        alpha=0.8,
        label=name or None,
    )


def _finish(ax: Axes) -> Axes:
    ax.set_ylim(bottom=0)
    ax.set_ylabel(EPS_LABEL, fontsize="medium")
    ax.legend(frameon=False, fontsize="small")
    return ax
