"""What a window shows of its error set, as numbers: connected or not, and how straight its edge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Floats = npt.NDArray[np.float64]
REACH = 2.0  # nodes: an error just past the boundary may have no erring node nearer than this


@dataclass(frozen=True)
class Edge:
    """The edge of an error region within a disc about the clean image, and the line fitted to it.

    In pixel units (l2). distance: of the line from the image. degrees: between the line's normal
    and the vertical axis, 0 to 90. rms, largest: deviation of the edge from the line. All NaN
    where the disc holds fewer than three crossings.
    """

    distance: float = np.nan
    degrees: float = np.nan
    rms: float = np.nan
    largest: float = np.nan


def region_of(labels: npt.NDArray[np.int64], node: Floats) -> int:
    """Label of the region that a point, in node units (up, across), lies in; 0 for none near.

    labels: (N, N), 0 where the model is right. The nearest node with a label within REACH counts,
    for a point right behind a boundary may stand between nodes.
    """
    low = np.maximum(np.ceil(node - REACH).astype(int), 0)
    high = np.floor(node + REACH).astype(int) + 1
    near = labels[low[0] : high[0], low[1] : high[1]]
    found = np.argwhere(near > 0)
    if not len(found):
        return 0
    away = np.linalg.norm(found + low - node, axis=1)
    best = int(np.argmin(away))
    return int(near[tuple(found[best])]) if away[best] <= REACH else 0


def regions(wrong: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Connected regions of errors, numbered from 1; nodes touch along rows and columns."""
    labels: npt.NDArray[np.int64] = ndimage.label(wrong)[0].astype(np.int64)
    return labels


def edge(inside: npt.NDArray[np.bool_], margin: Any, nodes: Floats, radius: float) -> Edge:
    """The edge of a region, (N, N) bool, at node coordinates `nodes` (N,), within `radius`.

    The edge is where rows and columns cross it, placed between two nodes by their margins; the
    line is that of total least squares.
    """
    crossings = np.concatenate([_crossings(inside, margin, nodes, axis) for axis in (0, 1)])
    crossings = crossings[np.linalg.norm(crossings, axis=1) <= radius]
    if len(crossings) < 3:
        return Edge()
    centre = crossings.mean(0)
    normal = np.linalg.svd(crossings - centre, full_matrices=False)[2][1]
    off = (crossings - centre) @ normal
    return Edge(
        distance=float(abs(centre @ normal)),
        degrees=float(np.degrees(np.arccos(min(abs(normal[0]), 1.0)))),
        rms=float(np.sqrt(np.mean(off**2))),
        largest=float(np.abs(off).max()),
    )


def _crossings(inside: Any, margin: Any, nodes: Floats, axis: int) -> Floats:
    """Points (up, across) at which lines along `axis` enter or leave the region."""
    inside, margin = np.moveaxis(inside, axis, 0), np.moveaxis(margin, axis, 0)
    i, j = np.nonzero(inside[:-1] != inside[1:])
    a, b = margin[i, j].astype(float), margin[i + 1, j].astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.clip(np.nan_to_num(a / (a - b), nan=0.5, posinf=0.5, neginf=0.5), 0.0, 1.0)
    along = nodes[i] + share * (nodes[i + 1] - nodes[i])
    pair = (along, nodes[j])
    return np.stack(pair if axis == 0 else pair[::-1], 1)
