"""Fig. 3 and appendix G: church windows, as classes and as margins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, TwoSlopeNorm
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Patch, Polygon
from matplotlib.ticker import MaxNLocator

from robustcore import arguments
from robustcore.plot.style import BLUE, GREY, ORANGE, axes, tint
from robustcore.results import SliceResult

WINDOW = (7.4, 4.6)
RIGHT = "#F4F4F4"  # where the model is right
OTHERS = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#0072B2", "#D55E00", "#F0E442", "#767676")
SHOWN = len(OTHERS)
LINF = 8 / 255


def church_window(
    record: SliceResult,
    image: int = 0,
    ax: Axes | None = None,
    *,
    names: Sequence[str] | None = None,
    eps: float | None = LINF,
    legend: bool = True,
) -> Axes:
    """The classes that the model gives the plane through image number `image` of the record.

    Grey: the right class. Colours: other classes, the commonest in the window first. Lines: the
    circle near which the noise lies, the trace of the l_inf ball of eps (None leaves it out), and
    where the errors would begin if the noise errors fell in a half-space facing the point up.
    names: of the classes. Raises ValueError for an image without a window.
    """
    record, image, eps = _asked(record, image, names, eps, legend)
    ax = _start(record, image, ax)
    classes, right = record.classes[image], int(record.labels[image])
    found, counts = np.unique(classes[classes != right], return_counts=True)
    found = found[np.argsort(-counts)]
    code = np.zeros(classes.shape, np.int64)
    for rank, each in enumerate(found):
        code[classes == each] = 1 + min(rank, SHOWN - 1)
    colours = [RIGHT, *(tint(each) for each in OTHERS)]
    ax.imshow(
        code,
        cmap=ListedColormap(colours),
        vmin=-0.5,
        vmax=len(colours) - 0.5,
        interpolation="nearest",
        **_frame(record, image),
    )
    if len(found):
        nodes = record.nodes[image]
        wrong = (classes != right).astype(float)
        ax.contour(nodes, nodes, wrong, levels=[0.5], colors="#333333", linewidths=0.8)
    marks = _marks(ax, record, image, eps)
    if legend:
        patches = [
            Patch(facecolor=RIGHT, edgecolor="#333333", label=f"{_name(right, names)}: right")
        ]
        for rank, each in enumerate(found[:SHOWN]):
            word = _name(int(each), names) if rank < SHOWN - 1 or len(found) <= SHOWN else "others"
            patches.append(Patch(facecolor=colours[1 + rank], edgecolor="#333333", label=word))
        _legend(ax, marks, patches)
    return ax


def margin_window(
    record: SliceResult,
    image: int = 0,
    ax: Axes | None = None,
    *,
    names: Sequence[str] | None = None,
    eps: float | None = LINF,
    legend: bool = True,
) -> Axes:
    """The margin in the plane of `church_window`: logit of the right class less the best other.

    Green where the model is right, brown where it is wrong, white on the boundary.
    """
    record, image, eps = _asked(record, image, names, eps, legend)
    ax = _start(record, image, ax)
    margin = record.margin[image]
    reach = max(float(np.nanmax(np.abs(margin))), 1e-6)
    picture = ax.imshow(
        margin,
        cmap="BrBG",
        norm=TwoSlopeNorm(0.0, -reach, reach),
        interpolation="bilinear",
        **_frame(record, image),
    )
    nodes = record.nodes[image]
    if np.nanmin(margin) < 0 < np.nanmax(margin):
        ax.contour(nodes, nodes, margin, levels=[0.0], colors="#333333", linewidths=0.8)
    bar = ax.figure.colorbar(picture, ax=ax, shrink=0.75, pad=0.02)
    bar.set_label("margin (logits)")
    marks = _marks(ax, record, image, eps)
    if legend:
        _legend(ax, marks, [], below=True)
    return ax


def _asked(
    record: Any, image: Any, names: Any, eps: Any, legend: Any
) -> tuple[SliceResult, int, float | None]:
    """The record, a position in it, and the radius, each checked."""
    known = arguments.instance("record", record, SliceResult)
    if not len(known):
        raise ValueError("record must hold at least one image, held none")
    if names is not None and (isinstance(names, str) or not isinstance(names, Sequence)):
        raise TypeError(f"names must be a list of strings, was {arguments.shown(names)}")
    arguments.flag("legend", legend)
    at = arguments.integer("image", image, -len(known), len(known) - 1)
    return known, at, None if eps is None else arguments.positive("eps", eps)


def _start(record: SliceResult, image: int, ax: Axes | None) -> Axes:
    if not record.drawn[image]:
        raise ValueError(
            f"image must have a window, but {record.ids[image]} has none: {record.status[image]}"
        )
    ax = axes(ax, WINDOW)
    ax.set_aspect("equal")
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.yaxis.set_major_locator(MaxNLocator(5))
    ax.set_xlabel(f"towards the {_point(record.across)}\n" r"($\ell_2$, pixel units of [0, 1])")
    ax.set_ylabel(f"to the {_point(record.up)}")
    ax.set_title(
        f"image {record.ids[image]}: errors in {100 * record.error_rate[image]:.2g} % of noise "
        rf"at $\sigma$ = {record.sigma[image]:.3g}",
        fontsize="medium",
    )
    return ax


def _frame(record: SliceResult, image: int) -> dict[str, Any]:
    half = record.half_width[image]
    return {"extent": (-half, half, -half, half), "origin": "lower"}


def _point(kind: str) -> str:
    return {
        "noise": "error in noise",
        "adversarial": "adversarial error",
        "orthogonal": "orthogonal direction",
    }.get(kind, "given point")


def _name(label: int, names: Sequence[str] | None) -> str:
    if label < 0:
        return "no class: NaN"
    return f"class {label}" if names is None or label >= len(names) else str(names[label])


def _marks(ax: Axes, record: SliceResult, image: int, eps: float | None) -> list[Any]:
    half = record.half_width[image]
    radius = record.radius[image]
    ax.add_patch(Circle((0, 0), radius, fill=False, color="black", linewidth=1.2))
    found = [Line2D([], [], color="black", label=rf"$\sigma\sqrt{{n}}$ = {radius:.3g}")]
    if eps is not None:
        found.append(_ball(ax, record, image, eps))
    predicted = record.half_space_distance[image]
    if record.up == "adversarial" and 0 < predicted < half:
        ax.axhline(predicted, color=GREY, linewidth=1.2, linestyle="--")
        word = f"half-space of the noise: {predicted:.3g}"
        found.append(Line2D([], [], color=GREY, linestyle="--", label=word))
    kinds = ((record.across, record.points[image, 0]), (record.up, record.points[image, 1]))
    styles = {"noise": (BLUE, "s"), "adversarial": (ORANGE, "D")}
    plain: dict[str, Any] = {
        "linestyle": "",
        "markersize": 5.5,
        "markeredgecolor": "white",
        "markeredgewidth": 0.6,
    }
    everything = [("clean image", np.zeros(2), "black", "o")]
    for kind, at in kinds:
        colour, mark = styles.get(kind, (GREY, "^"))
        word = f"{_point(kind)}: {np.linalg.norm(at):.3g}"
        if kind != "orthogonal":
            everything.append((word, at, colour, mark))
    for word, at, colour, mark in everything:
        (line,) = ax.plot(*at, marker=mark, color=colour, label=word, **plain)
        found.append(line)
    ax.set_xlim(-half, half)
    ax.set_ylim(-half, half)
    return found


def _ball(ax: Axes, record: SliceResult, image: int, eps: float) -> Line2D:
    """The trace of the l_inf ball of eps, or words where it lies outside the window."""
    across, up = (np.abs(np.asarray(axis[image])) for axis in (record.axis_across, record.axis_up))
    word = rf"$\ell_\infty$ ball of {_eps(eps)}"
    if record.half_width[image] * float((across + up).max()) <= eps:
        return Line2D([], [], linestyle="", label=f"{word}: beyond the window")
    corners = record.linf_ball(image, eps)
    ax.add_patch(Polygon(corners, fill=False, edgecolor="black", linewidth=1, linestyle=":"))
    return Line2D([], [], color="black", linestyle=":", label=word)


def _eps(eps: float) -> str:
    whole = eps * 255
    return f"{whole:.0f}/255" if abs(whole - round(whole)) < 1e-6 else f"{eps:.3g}"


def _legend(ax: Axes, marks: list[Any], patches: list[Any], below: bool = False) -> None:
    where = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.24), "ncols": 2}
    beside = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0)}
    ax.legend(
        handles=[*patches, *marks],
        frameon=False,
        fontsize="small",
        borderaxespad=0,
        **(where if below else beside),
    )
