"""`distance_to_error`: from arguments to a record."""

from __future__ import annotations

import math
import os
import time
from typing import Any

import torch

from robustcore import inputs
from robustcore.attack import projected, smallest_radius, verify
from robustcore.distance.task import Task
from robustcore.engine import Engine
from robustcore.network import Model
from robustcore.provenance import bar
from robustcore.results import DistanceResult
from robustcore.runs import by_blocks

METHODS = ("minimum", "pgd")
UNUSED = {"minimum": ("eps", "steps", "step_size", "loss", "refine"), "pgd": ("effort",)}
EFFORT = 60
DEFAULT_EPS = {2.0: 1.0, math.inf: 0.1}
PAPER_STEPS, PAPER_SHARE = 200, 150  # steps, and steps to a radius
RTOL = 0.01  # of the radius that eps="search" finds


@by_blocks({"targets": 1})
def distance_to_error(
    model: Model | Engine,
    x: Any,  # (B, *shape), or one input
    y: Any = None,  # (B,)
    *,
    norm: float | str = 2,
    method: str = "minimum",
    box: tuple[float, float] | None = None,
    effort: int | None = None,
    restarts: int = 1,
    targets: Any = None,  # (B,) or one class
    eps: float | str | None = None,
    steps: int | None = None,
    step_size: float | None = None,
    loss: str | None = None,
    refine: bool = False,
    seed: int = 0,
    ids: Any = None,
    run: str | os.PathLike[str] | None = None,
) -> DistanceResult:
    """The nearest error that the search finds around each image: an upper bound of the distance.

    model, x, y, ids, run: as in `error_rate`; the model must let gradients through to its input.
        It is compiled by an `Engine` with compile=True alone.
    norm: 2 or inf, also "L2", "Linf". Distances are in pixel units of [0, 1].
    method: "minimum" searches for the least distance by itself (robustcore.attack.minimum_norm).
        "pgd" is the paper's way: projected descent in a ball of radius eps, which stops at its
        first error, so its distance is that of the step that crossed.
    box: (low, high) keeps errors valid images; None, the default and the paper's way, does not.
    effort: "minimum" only: gradient evaluations of an image for each start, a forward pass counting
        as a third, by default 60. 25, 60 and 300 give about 1.03, 1.01 and 1.005 times the best
        known.
    restarts: "minimum": each beyond the first starts at a random point and costs at most half of
        `effort` again; "pgd": random starts in the ball, but for the first. The nearest is kept.
    targets: a class for each image; an error is then that class alone, without a tie.
    eps, steps, step_size, loss, refine: "pgd" only. eps: the radius, by default 1 (L2) or 0.1
        (Linf); "search" finds the smallest radius at which the attack succeeds for each image,
        within 1 %. steps: 200, or 100 with "search". step_size: eps/150; with "search" it adapts.
        loss: "ce" (the default), "margin" or "dlr", as in `pgd`. refine: bisect towards the image,
        which takes off what the last step overshot.

    Every distance is that of a point the model was seen to get wrong, in the type of x, after
    clipping and rounding. An image already wrong has distance 0. Without an error it is inf: status
    "masked" where all gradients were zero or not finite, which is no sign of robustness.
    Of outputs that are probabilities, not negative and of sum 1, gradients are those of their
    logarithms. Where a model saturates, "minimum" walks along its boundary from random errors, and
    a note says so: such distances may be larger, and cost some 60 gradients and 900 evaluations
    more of an image, at any effort.
    The same seed, ids and settings give the same numbers at any batch size and order, up to the
    model's own rounding. Where that rounding depends on the batch, as a convolution's does for a
    single image, it may switch a ReLU's gradient and change the search: by up to 0.5 % of a
    distance on a ResNet-20, either way; distances of a smooth model are not affected.
    Raises ValueError, TypeError or RuntimeError naming the argument.

    Source: Ford et al. (2019), section 4; Hasofer and Lind (1974); Madry et al. (2018).
    """
    start = time.perf_counter()
    engine = Engine.of(model)
    method = inputs.choice("method", method, METHODS)
    given = {"effort": effort, "eps": eps, "steps": steps, "step_size": step_size, "loss": loss}
    refine = inputs.flag("refine", refine)
    for name, value in (given | {"refine": refine or None}).items():
        if name in UNUSED[method]:
            inputs.left_out(name, value, f"with method={method!r}")
    effort = inputs.integer("effort", EFFORT if effort is None else effort, 5)
    loss = "ce" if loss is None else loss
    search = isinstance(eps, str)
    if search and eps != "search":
        raise ValueError(f"eps must be a number or 'search', was {inputs.shown(eps)}")
    radius = None if search or eps is None else inputs.positive("eps", eps)
    if steps is None:
        steps = 100 if search else PAPER_STEPS
    steps = inputs.integer("steps", steps, 1)
    step_size = None if step_size is None else inputs.positive("step_size", step_size)
    task = Task.start(engine, x, y, norm, box, targets, restarts, loss, seed, ids)
    if radius is None:
        radius = DEFAULT_EPS[task.norm]
    else:
        inputs.radii(radius, task.norm, engine.ranges)  # held against the range of pixels
    if step_size is None and not search:
        step_size = radius / PAPER_SHARE
    how = task.steps(steps, step_size, False, nearest=not search)
    with bar(len(task.right), "images", engine.progress) as shown, torch.no_grad():
        if method == "minimum":
            task.nearest(effort, shown.update)
        elif search:
            smallest_radius(task.gradients, task.found, task.right, radius, RTOL, how, shown.update)
        else:
            radii = torch.full(
                (len(task.right),), radius, dtype=torch.float32, device=task.right.device
            )
            projected(task.gradients, task.found, task.right, radii, how, shown.update)
        if refine:
            task.refine()
        verify(task.gradients, task.found, task.box)
    settings: dict[str, Any] = {"norm": task.name, "box": task.box, "restarts": task.restarts}
    if method == "minimum":
        settings |= {"effort": effort}
    else:
        settings |= {"eps": eps if search else radius, "steps": steps, "step_size": step_size}
        settings |= {"loss": loss, "refine": refine}
    return task.distances(method, start, settings)
