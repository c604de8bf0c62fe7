"""`pgd`: whether there is an error within a radius."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from robustcore import inputs
from robustcore.attack import projected, verify
from robustcore.distance.task import Task
from robustcore.engine import Engine
from robustcore.network import Model
from robustcore.provenance import bar
from robustcore.results import PGDResult
from robustcore.runs import by_blocks


@by_blocks({"targets": 1})
def pgd(
    model: Model | Engine,
    x: Any,  # (B, *shape), or one input
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
    run: str | os.PathLike[str] | None = None,
) -> PGDResult:
    """Robust accuracy under projected gradient descent, at one radius or a grid of radii.

    eps: one or more radii in pixel units, positive; tried in ascending order, each on the images
        that no smaller one fooled; an error counts at every radius it lies within.
    norm, targets, and the rest: as in `distance_to_error`.
    steps: at most so many for each start. restarts: starts for each image, at most: an image leaves
        at its first error. step_size: a number is used throughout; None starts at eps, halves
        whenever progress stops, and ends a start whose step is below eps/20.
    loss: what the steps raise: "ce" (the direction of the cross-entropy, which never underflows
        here), "margin" (the best wrong logit less the right one) or "dlr" (that over the first
        logit less the third; with targets, the target's lead over the label, over the first less
        the mean of the third and fourth; Croce and Hein, 2020).
    random_start: False starts each image's first restart at the image. box: (0, 1) by default, so
        that errors are valid images; None for no box.

    Cost: at most G * restarts * (steps + 1) gradient evaluations of an image that stays right.
    Determinism, errors and the meaning of masked as in `distance_to_error`.
    """
    start = time.perf_counter()
    engine = Engine.of(model)
    grid = inputs.radii(eps, inputs.norm(norm), engine.ranges)
    steps = inputs.integer("steps", steps, 1)
    step_size = None if step_size is None else inputs.positive("step_size", step_size)
    random_start = inputs.flag("random_start", random_start)
    task = Task.start(engine, x, y, norm, box, targets, restarts, loss, seed, ids)
    how = task.steps(steps, step_size, random_start, nearest=False)
    fooled = np.zeros((len(task.gradients.x), len(grid)), bool)
    with bar(len(grid) * len(fooled), "images", engine.progress) as shown, torch.no_grad():
        for g, radius in enumerate(grid):
            left = torch.isinf(task.found.distance).nonzero().flatten()
            radii = torch.full((len(left),), float(radius), dtype=torch.float32, device=left.device)
            if len(left):
                projected(task.gradients, task.found, left, radii, how)
                verify(task.gradients, task.found, task.box, outward=False)
            fooled[:, g] = torch.isfinite(task.found.distance).cpu().numpy()
            shown.update(len(fooled))
    settings = {
        **{"norm": task.name, "box": task.box, "restarts": task.restarts, "steps": steps},
        **{"step_size": step_size, "loss": loss, "random_start": random_start},
    }
    near = task.distances("pgd", start, settings)
    fooled |= near.distance[:, None] <= grid  # an error found later may lie within a smaller radius
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
