"""Sigma of each image: its histogram, and its intervals in order."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.markers import CARETUP
from matplotlib.ticker import MaxNLocator

from robustcore import arguments
from robustcore.plot.style import BLUE, GREY, ORANGE, SIGMA_LABEL, axes
from robustcore.results import SigmaResult


def _title(record: SigmaResult) -> str:
    counts = ", ".join(f"{record.count(each)} {each}" for each in record.statuses)
    noun = "image" if len(record) == 1 else "images"
    return f"Noise at which the error rate is {record.rate:g}\n{len(record)} {noun}: {counts}"


def sigma_histogram(record: SigmaResult, ax: Axes | None = None) -> Axes:
    """Histogram of sigma over the images for which it was found, as below Fig. 2 of the paper.

    The line is the median over all images, in which a misclassified one counts as 0 and a censored
    one as infinite; it is left out where that median is infinite. The title counts each status.
    """
    record = arguments.instance("record", record, SigmaResult)
    ax = axes(ax)
    found = record.sigma[record.status == "found"]
    if found.size:
        ax.hist(found, bins=_edges(found).tolist(), color=BLUE, edgecolor="white", linewidth=0.8)
    else:
        ax.text(
            0.5, 0.5, "sigma found for no image", transform=ax.transAxes, ha="center", color=GREY
        )
    median = record.median_sigma
    if np.isfinite(median):
        ax.axvline(
            median, color=ORANGE, linestyle="--", linewidth=2, label=f"median of all: {median:.3g}"
        )
        ax.legend(frameon=False)
    ax.set_xlim(left=0)
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel(SIGMA_LABEL if record.gaussian else record.scale_name)
    ax.set_ylabel("images")
    ax.set_title(_title(record), fontsize="medium")
    return ax


def _edges(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Edges of equal bins that start at 0, about as wide as Freedman and Diaconis would take."""
    low, high = np.percentile(values, [25, 75])
    width = 2.0 * (high - low) / np.cbrt(values.size)
    top = 1.05 * float(values.max())
    bins = int(np.clip(np.ceil(top / width), 12, 60)) if width > 0 else 12
    return np.linspace(0.0, top, bins + 1)


def sigma_intervals(record: SigmaResult, ax: Axes | None = None) -> Axes:
    """Sigma of each image with its interval, the images in order of sigma.

    A misclassified image is drawn at 0, a censored or undecided one at its lower bound, which is 0
    for an undecided one. The interval of a found image that has no upper bound runs to the top of
    the Axes.
    """
    record = arguments.instance("record", record, SigmaResult)
    ax = axes(ax)
    ordered = record[np.lexsort((record.sigma_low, record.sigma))]
    rank = np.arange(1, len(ordered) + 1)
    low, high, status = ordered.sigma_low, ordered.sigma_high, ordered.status
    found = status == "found"
    height = np.where(np.isinf(ordered.sigma), low, ordered.sigma)
    finite = np.concatenate([height, high[np.isfinite(high)]])
    top = 1.05 * float(finite.max(initial=0.0)) or 1.0
    small = float(np.clip(300.0 / max(len(record), 1), 2.5, 4.5))

    ends = np.minimum(high, top)
    ax.vlines(rank[found], low[found], ends[found], color=BLUE, alpha=0.5, linewidth=small / 2)
    unbounded = found & np.isinf(high)
    ax.plot(
        rank[unbounded],
        ends[unbounded],
        linestyle="",
        marker=CARETUP,
        color=BLUE,
        markersize=small + 2,
    )
    marks = {
        "found": ("o", BLUE, f"found, {record.confidence:.0%} interval"),
        "misclassified": ("x", GREY, "misclassified"),
        "censored": ("^", ORANGE, "censored: at least this"),
        "undecided": ("d", GREY, "undecided: anything from 0 on"),
    }
    for each, (marker, colour, label) in marks.items():
        at = status == each
        if at.any():
            size = small if each == "found" else small + 2
            ax.plot(rank[at], height[at], marker, color=colour, markersize=size, label=label)
    if len(record):
        below = ax.legend(
            frameon=False,
            fontsize="small",
            loc="upper center",
            bbox_to_anchor=(0.5, -0.16),
            ncols=3,
        )
        for handle in below.legend_handles:
            if isinstance(handle, Line2D):
                handle.set_markersize(6)
    ax.set_ylim(-0.03 * top, 1.02 * top)
    ax.set_xlim(0, len(record) + 1)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel(r"images in order of $\sigma$")
    ax.set_ylabel(SIGMA_LABEL)
    ax.set_title(_title(record), fontsize="medium")
    return ax
