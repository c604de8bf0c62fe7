"""What both measurements work with: images, the engine, what is found so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustcore import inputs
from robustcore.attack import Found, Steps, minimum_norm, refine
from robustcore.engine import Engine
from robustcore.evaluator import Evaluator
from robustcore.gradients import LOSSES, Gradients, dlr_classes
from robustcore.provenance import provenance
from robustcore.results import DistanceResult

BLOCK_ELEMENTS = 2**25  # pixels of all starts searched together: bounds the memory
HALVINGS = 12  # of `refine`


@dataclass
class Task:
    """Made by `start`, which checks; `distances` makes the record of what was found."""

    x: Tensor  # as the caller holds it
    norm: float
    box: tuple[float, float] | None
    restarts: int
    loss: str
    evaluator: Evaluator
    gradients: Gradients
    found: Found
    logits: Tensor  # of the images
    wrong: Tensor  # (B,) bool: the image itself is an error
    right: Tensor  # the others

    @staticmethod
    def start(
        engine: Engine,
        x: Tensor,
        y: Any,
        norm: float | str,
        box: Any,
        targets: Any,
        restarts: int,
        loss: str,
        seed: int,
        ids: Any,
    ) -> Task:
        which = inputs.norm(norm)
        restarts = inputs.integer("restarts", restarts, 1, 2**20)
        loss = inputs.choice("loss", loss, LOSSES)
        images = engine.images(x)
        bounds = _held(inputs.box_around(box, images), images.dtype)
        evaluator = Evaluator(engine, images, y, ids=ids, seed=seed, box=bounds, exact=True)
        gradients = Gradients(evaluator, None, which)
        rows = torch.arange(len(images), device=images.device)
        logits = gradients.logits(rows, gradients.x)
        needed = dlr_classes(targets is not None) if loss == "dlr" else 2
        if logits.shape[1] < needed:
            raise ValueError(
                f"loss must be 'ce' or 'margin' for a model of {logits.shape[1]} classes, was "
                f"'dlr', which compares {needed} of them"
            )
        if targets is not None and engine.error is not None:
            raise ValueError(
                f"targets must be left out with error={engine.error}, whose outputs name no class"
            )
        if targets is not None:
            gradients.targets = inputs.targets(targets, evaluator.y, logits.shape[1])
        margin, label = gradients.judged(rows, logits)
        wrong = ~(margin > 0)
        found = Found.nothing(gradients)
        found.distance[wrong], found.label[wrong] = 0.0, label[wrong]
        right = (~wrong).nonzero().flatten()
        return Task(
            images, which, bounds, restarts, loss, evaluator, gradients, found, logits, wrong, right
        )

    @property
    def named(self) -> bool:
        """Whether an error is a class."""
        return self.evaluator.engine.error is None

    @property
    def name(self) -> str:
        return "L2" if self.norm == 2 else "Linf"

    def steps(self, steps: int, size: float | None, random_start: bool, nearest: bool) -> Steps:
        return Steps(
            steps, self.restarts, self.loss, size, random_start, self.box, self.evaluator.seed,
            self.evaluator.ids, nearest,
        )  # fmt: skip

    def nearest(self, effort: int, progress: Any) -> None:
        block = max(1, BLOCK_ELEMENTS // (9 * self.gradients.x.shape[1]))
        for rows in self.right.split(block) if len(self.right) else ():
            minimum_norm(
                self.gradients,
                self.found,
                rows,
                self.logits[rows],
                effort=effort,
                restarts=self.restarts,
                box=self.box,
                seed=self.evaluator.seed,
                ids=self.evaluator.ids,
            )
            progress(len(rows))

    def refine(self) -> None:
        refine(self.gradients, self.found, self.right, 0.0, HALVINGS)

    def distances(self, method: str, start: float, settings: dict[str, Any]) -> DistanceResult:
        found, evaluator, gradients = self.found, self.evaluator, self.gradients
        x_adv = gradients.images(found.point).to(self.x.dtype).contiguous().view_as(self.x)
        known = torch.isfinite(found.distance)
        x_adv = torch.where(
            (known & ~self.wrong).view(-1, *(1 for _ in self.x.shape[1:])), x_adv, self.x
        )
        away = (x_adv.double() - self.x.double()).flatten(1)
        distance = away.norm(dim=1) if self.norm == 2 else away.abs().amax(1)
        distance = torch.where(known, distance, torch.inf)
        masked = ~known & ~gradients.usable
        status = np.where(masked.cpu().numpy(), "masked", "not_found")
        status = np.where(known.cpu().numpy(), "found", status)
        wanted = (
            torch.full_like(evaluator.y, -1) if gradients.targets is None else gradients.targets
        )
        columns = {
            "labels": evaluator.labels,
            "targets": wanted,
            "distance": distance,
            "label_adv": found.label if self.named else torch.full_like(found.label, -1),
            "restart": found.restart,
            "step": found.step,
            "ids": evaluator.ids,
            "n_backward": gradients.n_backward,
        }
        return DistanceResult(
            **{name: value.cpu().numpy() for name, value in columns.items()},
            n_forward=evaluator.n_forward + gradients.n_forward.cpu().numpy(),
            status=np.where(self.wrong.cpu().numpy(), "misclassified", status),
            x_adv=x_adv,
            norm=self.name,
            provenance=provenance(evaluator, method, None, start, settings),
        )


def _held(box: tuple[float, float] | None, dtype: torch.dtype) -> tuple[float, float] | None:
    """The outermost bounds in the box that half precision holds: others round out of it."""
    if box is None or dtype in (torch.float32, torch.float64):
        return box
    bounds = torch.tensor(box, dtype=torch.float64, device="cpu")
    near = bounds.to(dtype).double()
    inward = 0.75 * torch.finfo(dtype).eps * near.abs() * bounds.new_tensor([1.0, -1.0])
    outside = (near - bounds) * inward.sign() < 0
    low, high = torch.where(outside, (near + inward).to(dtype).double(), near).tolist()
    return low, high
