"""From planes and their maps to a record: what the windows show, as numbers."""

from __future__ import annotations

import numpy as np

from robustcore.geometry import half_space_distance, typical_noise_norm
from robustcore.results import Provenance, SliceResult
from robustcore.slices.grid import Grid
from robustcore.slices.planes import Planes
from robustcore.slices.regions import Edge, edge, region_of, regions


def record_of(planes: Planes, grid: Grid, names: tuple[str, ...], how: Provenance) -> SliceResult:
    """names: those of the points across and up."""
    n, rows, size = len(planes.x), planes.drawn, grid.size
    classes = np.full((n, size, size), -1, np.int16)
    margin = np.full((n, size, size), np.nan, np.float32)
    evaluated = np.zeros((n, size, size), bool)
    classes[rows], margin[rows] = grid.filled()
    evaluated[rows] = grid.evaluated
    n_evaluated = np.zeros(n, np.int64)
    n_evaluated[rows] = grid.n_evaluated
    connected = np.zeros(n, bool)
    shape = np.full((4, n), np.nan)
    for i in rows:
        connected[i], found = _shape(planes, i, classes[i], margin[i])
        shape[:, i] = found.distance, found.degrees, found.rms, found.largest
    rate = np.where((planes.class_rate > 0) & (planes.class_rate < 1), planes.class_rate, np.nan)
    drawn = planes.status == "drawn"
    usable = np.where(drawn & np.isfinite(rate), planes.sigma, 0.0)
    predicted = half_space_distance(usable, np.where(np.isfinite(rate), rate, 0.5))
    across, up = (
        planes.gradients.images(axis.float()).contiguous().view_as(planes.x) for axis in planes.axes
    )
    return SliceResult(
        ids=planes.evaluator.ids.cpu().numpy(),
        labels=planes.labels,
        status=planes.status,
        sigma=planes.sigma,
        error_rate=planes.error_rate,
        class_rate=planes.class_rate,
        half_space_distance=np.where(drawn & np.isfinite(rate), predicted, np.nan),
        points=planes.points,
        point_labels=planes.point_labels,
        connected=connected,
        edge_distance=shape[0],
        edge_degrees=shape[1],
        edge_rms=shape[2],
        edge_largest=shape[3],
        half_width=planes.half_width,
        classes=classes,
        margin=margin,
        evaluated=evaluated,
        n_evaluated=n_evaluated,
        n_forward=planes.evaluator.n_forward
        + planes.n_forward
        + planes.gradients.n_forward.cpu().numpy(),
        n_backward=planes.n_backward,
        axis_across=across,
        axis_up=up,
        across=names[0],
        up=names[1],
        provenance=how,
    )


def _shape(planes: Planes, i: int, classes: np.ndarray, margin: np.ndarray) -> tuple[bool, Edge]:
    """Whether both points are errors of one region, and the edge of that region."""
    size = len(classes)
    nodes = planes.half_width[i] * np.linspace(-1.0, 1.0, size)
    labels = regions(classes != planes.y[i])
    place = (planes.points[i][:, ::-1] / planes.half_width[i] + 1) * (size - 1) / 2
    wrong = planes.point_labels[i] != planes.y[i]
    across, up = (
        region_of(labels, point) if bad else 0 for point, bad in zip(place, wrong, strict=True)
    )
    region = up or across
    if not region:
        return False, Edge()
    radius = float(typical_noise_norm(planes.sigma[i], planes.gradients.x.shape[1]))
    return bool(across == up), edge(labels == region, margin, nodes, radius)
