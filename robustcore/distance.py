"""The nearest error of each image, and whether there is one within a radius."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustcore import inputs
from robustcore.attack import Found, Steps, minimum_norm, projected, refine, smallest_radius, verify
from robustcore.evaluator import Evaluator
from robustcore.gradients import LOSSES, Gradients
from robustcore.network import Model
from robustcore.provenance import bar, provenance
from robustcore.results import DistanceResult, PGDResult
from robustcore.runs import by_blocks

METHODS = ("minimum", "pgd")
BLOCK_ELEMENTS = 2**25  # pixels of all starts searched together: bounds the memory
DEFAULT_EPS = {2.0: 1.0, math.inf: 0.1}
PAPER_STEPS, PAPER_SHARE = 200, 150  # steps, and steps to a radius
RTOL, HALVINGS = 0.01, 12


@by_blocks("targets")
def distance_to_error(
    model: Model,
    x: Any,  # (B, C, H, W) or (C, H, W)
    y: Any = None,  # (B,)
    *,
    norm: float | str = 2,
    method: str = "minimum",
    box: tuple[float, float] | None = None,
    effort: int = 60,
    restarts: int = 1,
    targets: Any = None,  # (B,) or one class
    eps: float | str | None = None,
    steps: int | None = None,
    step_size: float | None = None,
    loss: str = "ce",
    refine: bool = False,
    seed: int = 0,
    ids: Any = None,
    batch_size: int | None = None,
    backend: str | None = None,
    compile: bool | None = None,
    progress: bool | None = None,
    run: str | os.PathLike[str] | None = None,
    block: int | None = None,
) -> DistanceResult:
    """The nearest error that the search finds around each image: an upper bound of the distance.

    model, x, y, ids, batch_size, backend, progress, run, block: as in `error_rate`; the model must
        let gradients through to its input. compile=True compiles it; None does not.
    norm: 2 or inf, also "L2", "Linf". Distances are in pixel units of [0, 1].
    method: "minimum" searches for the least distance by itself (robustcore.attack.minimum_norm).
        "pgd" is the paper's way: projected descent in a ball of radius eps, which stops at its
        first error, so its distance is that of the step that crossed.
    box: (low, high) keeps errors valid images; None, the default and the paper's way, does not.
    effort: gradient evaluations of an image for each start, a forward pass counting as a third;
        "minimum" only. 25, 60 and 300 give about 1.03, 1.01 and 1.005 times the best known.
    restarts: "minimum": each beyond the first starts at a random point and costs at most half of
        `effort` again; "pgd": random starts in the ball, but for the first. The nearest is kept.
    targets: a class for each image; an error is then that class alone, without a tie.
    eps, steps, step_size, loss, refine: "pgd" only. eps: the radius, by default 1 (L2) or 0.1
        (Linf); "search" finds the smallest radius at which the attack succeeds for each image,
        within 1 %. steps: 200, or 100 with "search". step_size: eps/150; with "search" it adapts.
        loss: "ce", "margin" or "dlr". refine: bisect towards the image, which takes off what the
        last step overshot.

    Every distance is that of a point the model was seen to get wrong, in the type of x, after
    clipping and rounding. An image already wrong has distance 0. Without an error it is inf: status
    "masked" where all gradients were zero or not finite, which is no sign of robustness.
    The same seed, ids and settings give the same numbers at any batch size and order, up to the
    model's own rounding. Raises ValueError, TypeError or RuntimeError naming the argument.

    Source: Ford et al. (2019), section 4; Hasofer and Lind (1974); Madry et al. (2018).
    """
    start = time.perf_counter()
    method = inputs.choice("method", method, METHODS)
    effort = inputs.integer("effort", effort, 5)
    unused = {"eps": eps, "steps": steps, "step_size": step_size}
    for name, value in unused.items() if method == "minimum" else ():
        if value is not None:
            raise ValueError(f"{name} must be left out with method='minimum', was {value!r}")
    search = isinstance(eps, str)
    if search and eps != "search":
        raise ValueError(f"eps must be a number or 'search', was {eps!r}")
    task = _Task.start(
        model, x, y, norm, box, targets, restarts, loss, seed, ids, batch_size, backend, compile
    )
    radius = DEFAULT_EPS[task.norm] if search or eps is None else inputs.positive("eps", eps)
    if steps is None:
        steps = 100 if search else PAPER_STEPS
    steps = inputs.integer("steps", steps, 1)
    if step_size is not None:
        step_size = inputs.positive("step_size", step_size)
    elif not search:
        step_size = radius / PAPER_SHARE
    how = task.steps(steps, step_size, False, nearest=not search)
    with bar(len(task.right), "images", progress) as shown, torch.no_grad():
        if method == "minimum":
            task.nearest(effort, shown.update)
        elif search:
            smallest_radius(task.gradients, task.found, task.right, radius, RTOL, how, shown.update)
        else:
            radii = torch.full((len(task.right),), radius, device=task.right.device)
            projected(task.gradients, task.found, task.right, radii, how, shown.update)
        if refine and method == "pgd":
            task.refine()
        verify(task.gradients, task.found, task.box)
    settings: dict[str, Any] = {"norm": task.name, "box": task.box, "restarts": restarts}
    if method == "minimum":
        settings |= {"effort": effort}
    else:
        settings |= {"eps": eps if search else radius, "steps": steps, "step_size": step_size}
        settings |= {"loss": loss, "refine": refine}
    return task.distances(method, start, settings)


@by_blocks("targets")
def pgd(
    model: Model,
    x: Any,  # (B, C, H, W) or (C, H, W)
    y: Any = None,  # (B,)
    *,
    eps: float | Sequence[float] | np.ndarray,  # G values
    norm: float | str = "Linf",
    steps: int = 100,
    restarts: int = 1,
    step_size: float | None = None,
    loss: str = "ce",
    targets: Any = None,  # (B,) or one class
    random_start: bool = True,
    box: tuple[float, float] | None = (0.0, 1.0),
    seed: int = 0,
    ids: Any = None,
    batch_size: int | None = None,
    backend: str | None = None,
    compile: bool | None = None,
    progress: bool | None = None,
    run: str | os.PathLike[str] | None = None,
    block: int | None = None,
) -> PGDResult:
    """Robust accuracy under projected gradient descent, at one radius or a grid of radii.

    eps: one or more radii in pixel units, positive; tried in ascending order, each on the images
        that no smaller one fooled. norm, targets, and the rest: as in `distance_to_error`.
    steps: at most so many for each start. restarts: starts for each image, at most: an image leaves
        at its first error. step_size: a number is used throughout; None starts at eps, halves
        whenever progress stops, and ends a start whose step is below eps/20.
    loss: what the steps raise: "ce" (the direction of the cross-entropy, which never underflows
        here), "margin" (the best wrong logit less the right one) or "dlr" (that over the spread of
        the three largest; Croce and Hein, 2020).
    random_start: False starts each image's first restart at the image. box: (0, 1) by default, so
        that errors are valid images; None for no box.

    Cost: at most G * restarts * (steps + 1) gradient evaluations of an image that stays right.
    Determinism, errors and the meaning of masked as in `distance_to_error`.
    """
    start = time.perf_counter()
    grid = inputs.radii(eps)
    steps = inputs.integer("steps", steps, 1)
    step_size = None if step_size is None else inputs.positive("step_size", step_size)
    task = _Task.start(
        model, x, y, norm, box, targets, restarts, loss, seed, ids, batch_size, backend, compile
    )
    how = task.steps(steps, step_size, random_start, nearest=False)
    fooled = np.zeros((len(task.gradients.x), len(grid)), bool)
    with bar(len(grid) * len(fooled), "images", progress) as shown, torch.no_grad():
        for g, radius in enumerate(grid):
            left = torch.isinf(task.found.distance).nonzero().flatten()
            radii = torch.full((len(left),), float(radius), device=left.device)
            if len(left):
                projected(task.gradients, task.found, left, radii, how)
                verify(task.gradients, task.found, task.box, outward=False)
            fooled[:, g] = torch.isfinite(task.found.distance).cpu().numpy()
            shown.update(len(fooled))
    settings = {
        **{"norm": task.name, "box": task.box, "restarts": restarts, "steps": steps},
        **{"step_size": step_size, "loss": loss, "random_start": random_start},
    }
    near = task.distances("pgd", start, settings)
    shared = ("ids", "labels", "distance", "label_adv", "restart", "step", "norm", "x_adv")
    return PGDResult(
        **{name: getattr(near, name) for name in shared},
        eps=grid,
        fooled=fooled,
        masked=near.masked,
        n_forward=near.n_forward,
        n_backward=near.n_backward,
        provenance=near.provenance,
    )


@dataclass
class _Task:
    """What both functions work with: images, the engine, what is found so far."""

    x: Tensor  # as the caller holds it
    norm: float
    box: tuple[float, float] | None
    restarts: int
    loss: str
    engine: Evaluator
    gradients: Gradients
    found: Found
    logits: Tensor  # of the images
    wrong: Tensor  # (B,) bool: the image itself is an error
    right: Tensor  # the others

    @staticmethod
    def start(
        model: Model, x: Tensor, y: Any, norm: float | str, box: Any, targets: Any, restarts: int,
        loss: str, seed: int, ids: Any, batch_size: int | None, backend: str | None,
        compile: bool | None,
    ) -> _Task:  # fmt: skip
        which = inputs.norm(norm)
        restarts = inputs.integer("restarts", restarts, 1, 2**20)
        loss = inputs.choice("loss", loss, LOSSES)
        images = inputs.images(x)
        bounds = inputs.box_around(box, images)
        engine = Evaluator(
            model, x, y, ids=ids, seed=seed, batch_size=batch_size, backend=backend, compile=compile
        )
        gradients = Gradients(engine, None, which)
        rows = torch.arange(len(images), device=images.device)
        logits = gradients.logits(rows, gradients.x)
        if targets is not None:
            gradients.targets = inputs.targets(targets, engine.y, logits.shape[1])
        margin, label = gradients.judged(rows, logits)
        wrong = ~(margin > 0)
        found = Found.nothing(gradients)
        found.distance[wrong], found.label[wrong] = 0.0, label[wrong]
        right = (~wrong).nonzero().flatten()
        return _Task(
            images, which, bounds, restarts, loss, engine, gradients, found, logits, wrong, right
        )

    @property
    def name(self) -> str:
        return "L2" if self.norm == 2 else "Linf"

    def steps(self, steps: int, size: float | None, random_start: bool, nearest: bool) -> Steps:
        return Steps(
            steps, self.restarts, self.loss, size, random_start, self.box, self.engine.seed,
            self.engine.ids, nearest,
        )  # fmt: skip

    def nearest(self, effort: int, progress: Any) -> None:
        block = max(1, BLOCK_ELEMENTS // (9 * self.gradients.x.shape[1]))
        for rows in self.right.split(block) if len(self.right) else ():
            minimum_norm(
                self.gradients, self.found, rows, self.logits[rows], effort=effort,
                restarts=self.restarts, box=self.box, seed=self.engine.seed, ids=self.engine.ids,
            )  # fmt: skip
            progress(len(rows))

    def refine(self) -> None:
        refine(self.gradients, self.found, 0.0, HALVINGS)

    def distances(self, method: str, start: float, settings: dict[str, Any]) -> DistanceResult:
        found, engine, gradients = self.found, self.engine, self.gradients
        x_adv = gradients.images(found.point).to(self.x.dtype).contiguous()
        known = torch.isfinite(found.distance)
        x_adv = torch.where((known & ~self.wrong).view(-1, 1, 1, 1), x_adv, self.x)
        away = (x_adv.double() - self.x.double()).flatten(1)
        distance = away.norm(dim=1) if self.norm == 2 else away.abs().amax(1)
        distance = torch.where(known, distance, torch.inf)
        masked = ~known & ~gradients.usable
        status = np.where(masked.cpu().numpy(), "masked", "not_found")
        status = np.where(known.cpu().numpy(), "found", status)
        wanted = torch.full_like(engine.y, -1) if gradients.targets is None else gradients.targets
        columns = {
            "labels": engine.y,
            "targets": wanted,
            "distance": distance,
            "label_adv": found.label,
            "restart": found.restart,
            "step": found.step,
            "ids": engine.ids,
            "n_backward": gradients.n_backward,
        }
        return DistanceResult(
            **{name: value.cpu().numpy() for name, value in columns.items()},
            n_forward=engine.n_forward + gradients.n_forward.cpu().numpy(),
            status=np.where(self.wrong.cpu().numpy(), "misclassified", status),
            x_adv=x_adv,
            norm=self.name,
            provenance=provenance(engine, method, None, start, settings),
        )
