"""Rare errors: sigma against the error rate, and whether a half-space explains it at any scale."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator

from robustcore import arguments
from robustcore.plot.style import BLUE, GREY, MARKS, ORANGE, SERIES, SIGMA_LABEL, axes, tint
from robustcore.results import ErrorCurve

SHOWN = 5  # images with a line of their own
RATE_LABEL = r"error rate $\mu$ in noise of $\sigma$"


def sigma_against_rate(
    record: ErrorCurve, ax: Axes | None = None, *, through: float = 0.01, shown: int = SHOWN
) -> Axes:
    """sigma(x, mu) of the first `shown` images for which it was found, at the rates where it was.

    The band is the interval of each rate by itself; the dashed line that of the linear model with
    the same sigma at the rate nearest to `through`.
    """
    record = arguments.instance("record", record, ErrorCurve)
    shown = arguments.integer("shown", shown, 0)
    ax = axes(ax)
    order = np.argsort(record.rates)
    rates = record.rates[order]
    found = record.status[:, order] == "found"
    rows = np.flatnonzero(found.any(1))[:shown]
    line = record.half_space_sigma(through)[:, order]
    for k, row in enumerate(rows.tolist()):
        colour = SERIES[k % len(SERIES)]
        low, sigma, high = (
            np.where(found[row] & np.isfinite(each[row, order]), each[row, order], np.nan)
            for each in (record.sigma_low, record.sigma, record.sigma_high)
        )
        ax.fill_between(rates, low, high, color=tint(colour, 0.3), linewidth=0)
        ax.plot(
            rates, sigma, color=colour, marker=MARKS[k % len(MARKS)],
            markersize=4, linewidth=1.5, label=f"image {record.ids[row]}",
        )  # fmt: skip
        ax.plot(rates, line[row], color=colour, linestyle="--", linewidth=1)
    if len(rows):
        ax.plot([], [], color=GREY, linestyle="--", linewidth=1, label="half-space")
        ax.legend(frameon=False, fontsize="small")
    else:
        ax.text(
            0.5, 0.5, "sigma found for no image", transform=ax.transAxes,
            ha="center", color=GREY,
        )  # fmt: skip
    _rates(ax, rates)
    ax.set_ylim(bottom=0)
    ax.set_ylabel(SIGMA_LABEL)
    ax.set_title(f"Noise of each error rate, {record.confidence:.0%} intervals", fontsize="medium")
    return ax


def ratio_to_half_space(
    record: ErrorCurve, ax: Axes | None = None, *, through: float = 0.01
) -> Axes:
    """sigma over that of the linear model through sigma(x, `through`), over the images.

    A line for each image, the median, and the middle half of the images, each rate by those whose
    sigma was found there. 1 all along: the boundary
    is a half-space at every scale. Below 1: errors come nearer than the common ones say.
    """
    record = arguments.instance("record", record, ErrorCurve)
    ax = axes(ax)
    order = np.argsort(record.rates)
    rates, ratio = record.rates[order], record.ratio(through)[:, order]
    known = ratio[np.isfinite(ratio).any(1)]
    ax.axhline(1, color=GREY, linewidth=1, linestyle="--", label="half-space")
    if len(known):
        some = np.isfinite(known).any(0)
        low, middle, high = np.full((3, len(rates)), np.nan)
        low[some], middle[some], high[some] = np.nanpercentile(known[:, some], [25, 50, 75], axis=0)
        for each in known[:100]:
            ax.plot(rates, each, color=tint(BLUE, 0.35), linewidth=0.7)
        ax.fill_between(
            rates, low, high, color=BLUE, alpha=0.25, linewidth=0, label="middle half of the images"
        )
        ax.plot(rates, middle, color=ORANGE, linewidth=2, marker="o", markersize=4, label="median")
    ax.legend(frameon=False, fontsize="small")
    _rates(ax, rates)
    at = record.nearest_rate(through)
    ax.set_ylabel(rf"$\sigma$ / $\sigma$ of the half-space through $\mu$ = {at:g}")
    ax.set_title(f"Is the boundary flat at every scale? {len(known)} images", fontsize="medium")
    return ax


def _rates(ax: Axes, rates: np.ndarray) -> None:
    ax.set_xscale("log")
    ax.set_xlim(rates.max() * 1.3, rates.min() / 1.3)  # rarer to the right, as noise falls
    ax.xaxis.set_major_locator(LogLocator(numticks=12))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel(RATE_LABEL)
