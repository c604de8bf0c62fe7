"""Fig. 10: the same images in more and more noise; and accuracy in noise, training against test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from robustcore import arguments
from robustcore.arguments import reals, strings
from robustcore.plot.style import MARKS, SERIES, SIGMA_LABEL, axes
from robustcore.results import ErrorRate

GAP = 2  # pixels between panels
ROW = 6  # places in a row of images, so that a few are not drawn large


def noisy_images(
    panels: Any,  # (B, G, C, H, W)
    sigma: Sequence[float],  # (G,)
    ax: Axes | None = None,
    *,
    rows: Sequence[str] | None = None,  # (B,)
) -> Axes:
    """B images as rows, each at G values of sigma, as `rc.noisy_copies` makes them.

    panels: pixels in [0, 1] up to noise, C 1 or 3, clipped to [0, 1] to be shown and for nothing
    else. rows: a word for each image. Raises ValueError for shapes that do not fit.
    """
    sigma = arguments.grid("sigma", sigma, zero=True).tolist()
    pixels = np.clip(reals("panels", panels, "images (B, G, C, H, W)"), 0.0, 1.0)
    rows = None if rows is None else strings("rows", rows)
    if pixels.ndim != 5 or pixels.shape[2] not in (1, 3) or pixels.shape[1] != len(sigma):
        raise ValueError(
            f"panels must have shape (B, {len(sigma)}, 1 or 3, H, W), but had {pixels.shape}"
        )
    if rows is not None and len(rows) != len(pixels):
        raise ValueError(f"rows must be {len(pixels)} words, but was {len(rows)}")
    count, across, _, height, width = pixels.shape
    sheet = np.ones((count * (height + GAP) - GAP, across * (width + GAP) - GAP, 3))
    for i, j in np.ndindex(count, across):
        tile = np.broadcast_to(pixels[i, j].transpose(1, 2, 0), (height, width, 3))
        down, right = i * (height + GAP), j * (width + GAP)
        sheet[down : down + height, right : right + width] = tile
    ax = axes(ax, (min(7.0, 0.9 * across + 0.8), 0.3 + 0.9 * count))
    ax.imshow(sheet, interpolation="nearest")
    ax.spines[:].set_visible(False)
    ax.set_xticks(np.arange(across) * (width + GAP) + width / 2, [f"{each:g}" for each in sigma])
    ax.xaxis.tick_top()
    ax.xaxis.set_label_position("top")
    ax.set_xlabel(SIGMA_LABEL)
    ax.set_yticks(np.arange(count) * (height + GAP) + height / 2, rows or [""] * count)
    ax.tick_params(length=0)
    return ax


def accuracy_in_noise(records: ErrorRate | Mapping[str, ErrorRate], ax: Axes | None = None) -> Axes:
    """Mean accuracy over images against sigma, one line for each record.

    Training against test: {"training images": ..., "test images": ...}. Bars are two standard
    errors over images on either side, and end at 0 and 100 %.
    """
    named = arguments.records("records", records, ErrorRate)
    ax = axes(ax)
    for i, (name, record) in enumerate(named.items()):
        order = np.argsort(record.sigma)
        right = 100 * (1 - record.rate[:, order])
        mean = right.mean(0)
        bars = 2 * right.std(0, ddof=1) / np.sqrt(len(record)) if len(record) > 1 else 0 * mean
        ax.errorbar(
            record.sigma[order],
            mean,
            yerr=np.minimum(bars, [mean, 100 - mean]),
            color=SERIES[i % len(SERIES)],
            marker=MARKS[i % len(MARKS)],
            markersize=5,
            linewidth=1.4,
            capsize=2,
            label=name or None,
        )
    if any(named):
        ax.legend(frameon=False, fontsize="small")
    ax.set_xlabel(SIGMA_LABEL)
    ax.set_ylabel("accuracy (%)")
    ax.set_ylim(0, 102)
    return ax


def image_row(images: Any, words: Sequence[str], ax: Axes | None = None) -> Axes:
    """Images (B, C, H, W) side by side, each with its words below. C is 1 or 3."""
    pixels = np.clip(reals("images", images, "images (B, C, H, W)"), 0.0, 1.0)
    words = strings("words", words)
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3) or len(pixels) != len(words):
        raise ValueError(
            f"images must have shape ({len(words)}, 1 or 3, H, W), but had {pixels.shape}"
        )
    blank = np.ones((max(0, ROW - len(pixels)), *pixels.shape[1:]))
    ax = axes(ax, (1.1 * max(ROW, len(words)), 1.7))
    noisy_images(np.concatenate([pixels, blank])[None], range(len(pixels) + len(blank)), ax)
    ax.set_xticks(ax.get_xticks()[: len(words)], [word.replace(": ", "\n", 1) for word in words])
    ax.xaxis.tick_bottom()
    ax.tick_params(length=0, labelsize="small")
    ax.set_xlabel("")
    return ax
