"""The attack on trial: run in batches, and what it returns looked at."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustcore.evaluator import Evaluator
from robustcore.gradients import Gradients
from robustcore.warning import PixelRangeWarning

Attack = Callable[[Any, Tensor, Tensor], Any]  # (model, x (n, C, H, W), y (n,)) to images

NUDGES = (1e-6, 1e-5, 1e-4, 1e-3)  # outward, for errors that lie on the boundary
ALIKE, OFTEN = 1e-3, 0.9  # distances this much alike, this often, are those of a radius


class Trial:
    """Runs the attack in batches, and looks at what it returns."""

    def __init__(self, evaluator: Evaluator, attack: Attack) -> None:
        self.evaluator, self.attack = evaluator, attack

    def distances(
        self, gradients: Gradients, slots: np.ndarray, shown: Any
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(distance, is no error, is not finite) of what the attack returns for points `slots`."""
        size = self.evaluator.batch_size
        parts = [
            self._batch(gradients, torch.as_tensor(part, device=gradients.x.device), shown)
            for part in np.split(slots, range(size, len(slots), size))
            if len(part)
        ]
        none = np.zeros(0), np.zeros(0, bool), np.zeros(0, bool)
        return tuple(np.concatenate(each) for each in zip(none, *parts, strict=True))  # type: ignore[return-value]

    def _batch(
        self, gradients: Gradients, slots: Tensor, shown: Any
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        evaluator = self.evaluator
        x = gradients.images(gradients.x[slots]).contiguous().to(evaluator.dtype)
        with torch.enable_grad(), warnings.catch_warnings():
            # noisy images lie where noise has left them, and the caller was told of the others
            warnings.simplefilter("ignore", PixelRangeWarning)
            shaped = evaluator.network.shaped(x).clone()
            found = self.attack(
                evaluator.network.model, shaped, gradients.answers_of(slots).clone()
            )
        found = _images(found, shaped).view_as(x)
        finite = torch.isfinite(found).flatten(1).all(1)
        away = gradients.flat((found.double() - x.double()).nan_to_num(0, 0, 0))
        distance = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        distance[~finite] = torch.inf
        open_ = finite.nonzero().flatten()
        for nudge in (0.0, *NUDGES):  # an attack that stops on the boundary is not held to rounding
            if not len(open_):
                break
            step = away[open_] * (1 + nudge)
            at = gradients.rounded((gradients.x[slots[open_]].double() + step).float())
            with torch.no_grad():
                logits = gradients.logits(slots[open_], at)
                wrong = ~(gradients.judged(slots[open_], logits)[0] > 0)
            length = (at.double() - gradients.x[slots[open_]].double()).norm(dim=1)
            distance[open_] = torch.where(wrong, length, torch.inf)
            open_ = open_[~wrong]
        shown.update(len(slots))
        missed = torch.isinf(distance) & finite
        return tuple(each.cpu().numpy() for each in (distance, missed, ~finite))  # type: ignore[return-value]

    def charge(self, gradients: Gradients, rows: np.ndarray) -> None:
        """Our own evaluations of points go to their images; the attack's are not counted."""
        spent = gradients.n_forward.cpu().numpy()
        self.evaluator.n_forward += np.bincount(
            rows, spent, minlength=len(self.evaluator.n_forward)
        ).astype(np.int64)

    @staticmethod
    def notes(
        columns: dict[str, np.ndarray], distances: np.ndarray, eps: float | None, points: int
    ) -> list[str]:
        found = []
        if total := int(columns["not_errors"].sum()):
            found.append(f"{total} images that the attack returned are no errors: not found")
        if total := int(columns["not_finite"].sum()):
            found.append(f"{total} images that the attack returned hold NaN or inf: not found")
        known = distances[np.isfinite(distances) & (distances > 0)]
        middle = np.median(known) if known.size else 0.0
        if eps is None and known.size >= points:
            alike = np.mean(np.abs(known / middle - 1) < ALIKE)
            if alike > OFTEN:
                found.append(
                    f"nearly all distances are {middle:.3g}: of an attack within a radius? Give eps"
                )
        return found


def _images(found: Any, x: Tensor) -> Tensor:
    """What the attack returned, as images like x."""
    if not isinstance(found, Tensor):
        try:
            found = torch.as_tensor(np.asarray(found), device=x.device)
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(
                f"attack must return a tensor of images, returned {type(found).__name__}"
            ) from None
    if found.shape != x.shape:
        raise ValueError(
            f"attack must return images of the shape {tuple(x.shape)} that it was given, "
            f"returned {tuple(found.shape)}"
        )
    if not found.is_floating_point():
        raise TypeError(f"attack must return floating-point images, returned {found.dtype}")
    return found.detach().to(x.device)
