"""The planes of church windows as they are found: noise errors, points, axes, and the map."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustcore import inputs
from robustcore.distance import distance_to_error
from robustcore.evaluator import Evaluator
from robustcore.geometry import typical_noise_norm
from robustcore.gradients import Gradients
from robustcore.provenance import bar
from robustcore.slices.grid import Grid
from robustcore.streams import Stream

DIRECTIONS = ("noise", "adversarial", "orthogonal")
LEAST_EPS, EPS_SIGMAS = 1.0, 8.53  # the paper's radius of PGD: twice the 99.999th percentile
FLAT = 1e-6  # sine of the angle below which two directions span no plane
ROOM = 1.1  # half-width of a window over the farthest coordinate of its points


class Planes:
    """B images, the noise about each, two points and two axes; what it all cost.

    After `noise`: sigma, error_rate, class_rate (B,), wanted (B,), the class of the noise error or
    -1. After `find` and `span`: points (B, 2, 2), axes (2, B, D) in the engine's memory order.
    """

    def __init__(self, x: Tensor, evaluator: Evaluator, samples: int) -> None:
        self.x, self.evaluator, self.samples = x, evaluator, samples
        self.progress = evaluator.engine.progress
        self.gradients = Gradients(evaluator, None, 2.0)
        self.y, self.labels = evaluator.y.cpu().numpy(), evaluator.labels.cpu().numpy()
        self.status = np.where(evaluator.clean_margins > 0, "drawn", "misclassified").astype("U20")
        self.n_forward = np.zeros(len(x), np.int64)
        self.n_backward = np.zeros(len(x), np.int64)

    @property
    def shared(self) -> dict[str, Any]:
        """Arguments that methods called on the way share with this one."""
        return {"seed": self.evaluator.seed, "ids": self.evaluator.ids}

    @property
    def drawn(self) -> np.ndarray:
        return np.flatnonzero(self.status == "drawn")

    # -- points ------------------------------------------------------------------------------

    def noise(self, sigma: np.ndarray) -> None:
        """The first draw at sigma (B,) that is taken for another class, and how many share it."""
        n, samples = len(self.x), self.samples
        self.status[(self.status == "drawn") & ~np.isfinite(sigma)] = "no_noise_error"
        self.sigma = sigma
        self.error_rate, self.class_rate = np.full((2, n), np.nan)
        self.first, self.wanted = np.zeros(n, np.int64), np.full(n, -1)
        rows = self.drawn
        if not len(rows):
            return
        slots = np.repeat(rows, samples), np.tile(np.arange(samples), len(rows))
        with bar(len(slots[0]), "noisy images", self.progress) as shown:
            margins = self.evaluator.margins(slots[0], sigma[slots[0]], slots[1], shown.update)
        wrong = ~(margins.reshape(-1, samples) > 0)
        self.error_rate[rows] = self.class_rate[rows] = wrong.mean(1)
        some = wrong.any(1)
        at, draws = np.nonzero(wrong)
        found = self._classes(rows[at], self._noisy(rows[at], draws)) if len(at) else at
        named = found >= 0  # a draw that the model gives no class is an error, but aims at nothing
        wanted = np.full(len(rows), -1)
        wanted[at[named][::-1]] = found[named][::-1]  # the first of each image is written last
        self.first[rows[at[named][::-1]]] = draws[named][::-1]
        self.wanted[rows] = wanted
        same = np.bincount(at[found == wanted[at]], minlength=len(rows)) / samples
        self.class_rate[rows] = np.where(some, same, self.class_rate[rows])

    def find(self, kinds: tuple[str | Tensor, str | Tensor], attack: str) -> None:
        """Displacements (B, D) of the two points from the image, float64; NaN where none is."""
        noisy = any(isinstance(kind, str) and kind == "noise" for kind in kinds)
        if noisy:
            self.status[(self.status == "drawn") & (self.wanted < 0)] = "no_noise_error"
        else:
            self.class_rate, self.wanted = self.error_rate, np.full_like(self.wanted, -1)
        self.kinds = kinds
        moves = [self._displacement(kind, attack) for kind in kinds]
        self.moves = torch.stack(moves)

    def _displacement(self, kind: str | Tensor, attack: str) -> Tensor:
        x = self.gradients.x
        out = torch.full(x.shape, torch.nan, dtype=torch.float64, device=x.device)
        rows = torch.as_tensor(self.drawn, device=x.device)
        if isinstance(kind, Tensor):
            given = kind.to(x.device).float().reshape(self.evaluator.x.shape)
            return self.gradients.flat(given).double() - x.double()
        if not len(rows):
            return out
        if kind == "noise":
            out[rows] = self._noisy(self.drawn, self.first[self.drawn]).double() - x[rows].double()
        elif kind == "orthogonal":
            drawn = self._noisy(self.drawn, 0 * self.drawn, Stream.SLICES)
            out[rows] = drawn.double() - x[rows].double()
        else:
            out[rows] = self._attacked(self.drawn, attack).double() - x[rows].double()
        return out

    def _attacked(self, rows: np.ndarray, attack: str) -> Tensor:
        """Points (S, D) of errors of images rows (S,); of an image without one, the image."""
        out = self.gradients.x[torch.as_tensor(rows, device=self.x.device)]
        # PGD takes one radius a call: powers of two, so that an image's does not depend on others
        eps = 2.0 ** np.ceil(np.log2(np.maximum(LEAST_EPS, EPS_SIGMAS * self.sigma[rows])))
        groups = np.unique(eps) if attack == "pgd" else [None]
        for each in groups:
            some = rows if each is None else rows[eps == each]
            at = torch.as_tensor(some, device=self.x.device)
            wanted = self.wanted[some]
            found = distance_to_error(
                self.evaluator.engine, self.x[at], self.evaluator.answers_of(at),
                method=attack, eps=each,
                targets=self._targets(wanted),
                **self.shared | {"ids": self.evaluator.ids[at]},
            )  # fmt: skip
            self.n_forward[some] += found.n_forward
            self.n_backward[some] += found.n_backward
            self.status[some[~found.found]] = "no_adversarial_error"
            out[torch.as_tensor(np.isin(rows, some), device=self.x.device)] = self.gradients.flat(
                found.x_adv.float().reshape(-1, *self.evaluator.x.shape[1:])
            )
        return out

    def _targets(self, wanted: np.ndarray) -> Tensor | None:
        """The classes that an attack aims at; none where an error is no class."""
        if self.evaluator.engine.error is not None or not (wanted >= 0).all():
            return None
        return inputs.tensor(wanted)

    def _noisy(self, rows: np.ndarray, draws: np.ndarray, stream: int = Stream.NOISE) -> Tensor:
        """Draws of images rows (S,) at their sigma, as points (S, D) float32."""
        evaluator, device = self.evaluator, self.x.device
        rows, draws = np.ascontiguousarray(rows), np.ascontiguousarray(draws)
        out = evaluator.x.new_empty((len(rows), *evaluator.x.shape[1:]))
        evaluator.kernels.perturb(
            evaluator.x,
            torch.as_tensor(rows, device=device),
            torch.as_tensor(self.sigma[rows], device=device).float(),
            torch.as_tensor(draws, device=device),
            evaluator.ids,
            out,
            seed=evaluator.seed,
            stream=stream,
        )
        return self.gradients.flat(out)

    # -- the plane and its map ---------------------------------------------------------------

    def span(self) -> None:
        """Axes of each plane, up first made a unit, and the coordinates of both points."""
        across, up = self.moves
        second = isinstance(self.kinds[1], str) and self.kinds[1] == "orthogonal"
        if second:  # the free direction gives way to the other
            up = up - _along(up, across)
        axis_up = up / up.norm(dim=1, keepdim=True)
        rest = across - _along(across, up)
        flat = ~(rest.norm(dim=1) > FLAT * across.norm(dim=1))  # also where one has no length
        flat &= torch.as_tensor(self.status == "drawn", device=flat.device)
        if bool(flat.any()):
            image = int(self.evaluator.ids[flat.nonzero()[0, 0]])
            raise ValueError(f"across and up must span a plane, those of image {image} did not")
        self.axes = torch.stack([rest / rest.norm(dim=1, keepdim=True), axis_up])
        moves = torch.stack([across, up])
        self.points = torch.einsum("pbd,abd->bpa", moves, self.axes).cpu().numpy()
        self.points[self.status != "drawn"] = np.nan

    def map(self, size: int, coarse: int, extent: float) -> Grid:
        rows = self.drawn
        radius = typical_noise_norm(self.sigma[rows], self.gradients.x.shape[1])
        self.half_width = np.full(len(self.x), np.nan)
        far = np.abs(self.points[rows]).max((1, 2)) if len(rows) else radius
        self.half_width[rows] = np.maximum(extent * radius, ROOM * far)
        step = 2 * self.half_width / (size - 1)
        grid = Grid(len(rows), size, coarse)
        with bar(0, "nodes", self.progress) as shown:
            while len((plan := grid.plan())[0]):
                window, up, across = plan
                shown.total = (shown.total or 0) + len(window)
                at = rows[window]
                coordinates = np.stack([across, up], 1) * step[at, None]
                found = self._judged(at, coordinates - self.half_width[at, None], shown)
                grid.update(*found)
        self.point_labels = np.full((len(self.x), 2), -1)
        both = np.repeat(rows, 2)
        if len(rows):
            classes, _ = self._judged(both, self.points[rows].reshape(-1, 2), None)
            self.point_labels[rows] = classes.reshape(-1, 2)
        return grid

    def _judged(
        self, rows: np.ndarray, coordinates: np.ndarray, shown: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """Class and margin of points of the planes, coordinates (S, 2) across and up."""
        size, device = self.evaluator.batch_size, self.x.device
        images = torch.as_tensor(rows, device=device)
        place = torch.as_tensor(coordinates, device=device).float()
        axes = self.axes.float()
        parts: list[Tensor] = []
        for start in range(0, len(rows), size):
            at = slice(start, start + size)
            some, (a, b) = images[at], place[at].unsqueeze(2).unbind(1)
            points = self.gradients.x[some]
            points.addcmul_(a, axes[0][some]).addcmul_(b, axes[1][some])
            parts.append(torch.stack(self._margin_and_class(some, points)))
            if shown is not None:
                shown.update(len(some))
        margin, classes = torch.cat(parts, 1).cpu().numpy()
        return classes.astype(np.int64), margin

    def _margin_and_class(self, rows: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.gradients.logits(rows, points)
        margin, other = self.gradients.judged(rows, logits)
        margin = margin.double()
        given = torch.where(margin > 0, self.evaluator.y[rows], other)
        return margin, torch.where(logits.isnan().any(1), -1, given).double()

    def _classes(self, rows: np.ndarray, points: Tensor) -> np.ndarray:
        images = torch.as_tensor(rows, device=points.device)
        found = self._margin_and_class(images, points)[1]
        return found.long().cpu().numpy()


def _along(a: Tensor, b: Tensor) -> Tensor:
    """The part of a (B, D) that lies along b (B, D)."""
    return (a * b).sum(1, keepdim=True) / (b * b).sum(1, keepdim=True) * b
