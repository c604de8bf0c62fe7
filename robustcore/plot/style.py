"""The one style of every figure: colours, marks, the words on axes, and Axes of our own.

Colours are those of Okabe and Ito without yellow, which print loses; series differ in their mark
as well. The ground is white and opaque, so that a figure reads the same on a dark page.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from robustcore.arguments import instance

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#767676"
GREEN, PINK, SKY, AMBER = "#009E73", "#CC79A7", "#56B4E9", "#E69F00"
SERIES = (BLUE, ORANGE, GREEN, PINK, AMBER, SKY, GREY)  # colour of the i-th series
MARKS = ("o", "^", "s", "D", "v", "P", "X")  # and its mark
BINS = 10_000  # of a histogram, at most
SIGMA_LABEL = r"$\sigma$ (pixel units of [0, 1])"
DISTANCE_LABEL = r"$\ell_2$ distance (pixel units of [0, 1])"


def axes(ax: Axes | None, size: tuple[float, float] = (6.4, 4.0)) -> Axes:
    """`ax`, or Axes of a new Figure of `size` inches that pyplot does not know of."""
    if ax is not None:
        return instance("ax", ax, Axes)
    figure = Figure(figsize=size, dpi=150, layout="constrained", facecolor="white")
    ax = figure.add_subplot(facecolor="white")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def tint(colour: str, share: float = 0.5) -> str:
    """The colour mixed with white: `share` of it."""
    mixed = share * np.array(to_rgb(colour)) + (1 - share)
    return to_hex(mixed.tolist())
