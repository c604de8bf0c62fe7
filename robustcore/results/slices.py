"""Church windows as a record: class and margin maps of planes, and what they show."""

# ruff: noqa: RUF009 (per_image and shared make dataclass fields)

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from scipy.spatial import ConvexHull

from robustcore.arguments import integer, positive
from robustcore.geometry import typical_noise_norm
from robustcore.results.record import ANY, StatusRecord, per_image

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, repr=False, eq=False, kw_only=True)
class SliceResult(StatusRecord):
    """A plane through each of B images: class and margin on N x N nodes, and the error region.

    The image is the origin. The plane holds two points, named by `across` and `up`: up lies on the
    vertical axis, across gives the rest. Node [i, j] is at nodes[b, i] up and nodes[b, j] across.
    By status:

    - "drawn": there is a window;
    - "misclassified", "no_noise_error" (no draw at sigma was given a wrong class),
      "no_adversarial_error" (the attack found none): there is none; classes are -1, numbers NaN.

    classes, margin: of every node; the model is right where margin is positive, and names no class,
    -1, where its logits hold NaN. evaluated: the nodes that the model was asked about; the rest lie
    between nodes of one class, which they take. n_evaluated: how many it was asked about, some just
    outside the window included.
    sigma, error_rate: the noise of the circle, and the share of draws in it that the model got
    wrong; class_rate: of those draws that it took for the class of the noise error (of any error
    where `across` and `up` name none). half_space_distance: where errors begin if those draws fell
    in a half-space.
    points: (across, up) of the two points in the plane. point_labels: the model's class there.
    connected: both points are errors of one connected region of the window. edge_*: the edge of
    the region that holds the point up (or else across) within the circle, against the straight line
    fitted to it: distance of that line from the image, degrees between its normal and the axis up,
    root mean square and largest deviation.
    """

    sigma: Floats = per_image(np.float64)
    error_rate: Floats = per_image(np.float64)
    class_rate: Floats = per_image(np.float64)
    half_space_distance: Floats = per_image(np.float64)
    points: Floats = per_image(np.float64, "P", "A")
    point_labels: Ints = per_image(np.int64, "P")
    connected: Bools = per_image(np.bool_)
    edge_distance: Floats = per_image(np.float64)
    edge_degrees: Floats = per_image(np.float64)
    edge_rms: Floats = per_image(np.float64)
    edge_largest: Floats = per_image(np.float64)
    half_width: Floats = per_image(np.float64)
    classes: npt.NDArray[np.int16] = per_image(np.int16, "N", "N")
    margin: npt.NDArray[np.float32] = per_image(np.float32, "N", "N")
    evaluated: Bools = per_image(np.bool_, "N", "N")
    n_evaluated: Ints = per_image(np.int64)
    n_forward: Ints = per_image(np.int64)
    n_backward: Ints = per_image(np.int64)
    axis_across: Any = per_image(None, ANY)
    axis_up: Any = per_image(None, ANY)
    across: str
    up: str

    derived: ClassVar[tuple[str, ...]] = ("radius", "bend", "share_evaluated")
    statuses: ClassVar[tuple[str, ...]] = (
        "drawn",
        "misclassified",
        "no_noise_error",
        "no_adversarial_error",
    )

    @property
    def drawn(self) -> Bools:
        """Which images have a window, (B,)."""
        return self.status == "drawn"

    @property
    def radius(self) -> Floats:
        """Of the circle, sigma * sqrt(C * H * W), near which all of the noise lies, (B,)."""
        known = np.where(self.drawn, self.sigma, 0.0)
        radius = typical_noise_norm(known, np.prod(self.axis_up.shape[1:]))
        return np.where(self.drawn, radius, np.nan)

    @property
    def bend(self) -> Floats:
        """edge_rms over the radius of the circle: 0 for a straight edge, (B,)."""
        return np.asarray(self.edge_rms / self.radius)

    @property
    def share_evaluated(self) -> Floats:
        """n_evaluated over the nodes of a window, (B,)."""
        return self.n_evaluated / float(self.classes.shape[1] ** 2)

    @property
    def nodes(self) -> Floats:
        """Coordinates of the nodes along either axis, in pixel units (l2), (B, N)."""
        return self.half_width[:, None] * np.linspace(-1.0, 1.0, self.classes.shape[1])

    def linf_ball(self, image: int, eps: float) -> Floats:
        """Corners (V, 2), (across, up), of the window's cut through the l_inf ball of eps.

        Raises ValueError or TypeError for an image without a window, or an eps that is not positive
        and finite.
        """
        image = integer("image", image, -len(self), len(self) - 1)
        eps = positive("eps", eps)
        if not self.drawn[image]:
            raise ValueError(
                f"image must have a window, but {self.ids[image]} has none: {self.status[image]}"
            )
        axes = np.stack([np.asarray(self.axis_across[image]), np.asarray(self.axis_up[image])])
        return linf_trace(axes.reshape(2, -1).astype(np.float64), eps)

    def _summary(self) -> str:
        parts = f"{super()._summary()}, {self.across} and {self.up}: {self._counts()}"
        if not self.drawn.any():
            return parts
        joined = int(self.connected.sum())
        share = self.share_evaluated[self.drawn].mean()
        return f"{parts}; {joined} connected; {share:.1%} of nodes evaluated"


def linf_trace(axes: Floats, eps: float) -> Floats:
    """Corners (V, 2), in order, of the cut of the plane through an l_inf ball about its origin.

    axes: (2, n), an orthonormal basis of the plane. The ball is {c : |c . axes[:, i]| <= eps for
    every i}: its corners are dual to the edges of the convex hull of the points +-axes[:, i].
    """
    points = np.concatenate([axes.T, -axes.T])
    hull = ConvexHull(points)
    order = np.argsort(np.arctan2(hull.equations[:, 1], hull.equations[:, 0]))
    corners = eps * hull.equations[order, :2] / -hull.equations[order, 2:]
    return np.asarray(corners, dtype=np.float64)
