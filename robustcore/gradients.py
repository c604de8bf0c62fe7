"""Gradients of the engine's model with respect to images, in full batches; never of parameters.

A point is a row of D elements in the memory order that the model likes best; many points may stand
for one image. Margins are those of the goal: an error where not > 0, be it any wrong class or a
wanted one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from robustcore.batches import out_of_memory
from robustcore.evaluator import Evaluator

LOSSES = ("ce", "margin", "dlr")
SUM = 1e-5  # how far from 1 a row of probabilities may add up, beside the rounding of its type
PROBABILITIES = "the model returns probabilities: attacks follow their logarithms"
# Classes (S,), or what chooses them from rows and logits (S, K).
Classes = Tensor | Callable[[Tensor, Tensor], Tensor]


def dlr_classes(targeted: bool) -> int:
    """How many classes the loss "dlr" needs."""
    return 4 if targeted else 3


class NoGradients(ValueError):
    """A model's logits carry none to its input."""


class Gradients:
    """Margins and gradients at points (S, D) for images rows (S,), and what they cost.

    x (B, D) float32: the images; targets (B,) or None: the class that each is to be taken for.
    n_forward, n_backward: (B,) int64, on the device; usable: (B,) bool, whether any gradient of the
    image was finite and not zero.
    """

    def __init__(self, evaluator: Evaluator, targets: Tensor | None, norm: float) -> None:
        self.evaluator, self.targets, self.norm = evaluator, targets, norm
        self.kernels, self.y = evaluator.kernels, evaluator.y
        self.shape = evaluator.x.shape[1:]
        self.x = self.flat(evaluator.x)
        count = len(self.x)
        self.n_forward = torch.zeros(count, dtype=torch.int64, device=self.x.device)
        self.n_backward = torch.zeros_like(self.n_forward)
        self.usable = torch.zeros(count, dtype=torch.bool, device=self.x.device)
        self.fused = evaluator.fused.ascent if evaluator.fused is not None else None
        self.model = evaluator.network.with_gradients(evaluator.compiled)

    def answers_of(self, rows: Tensor) -> Tensor:
        """What is right for images rows (S,), in the form of the caller's y."""
        return self.evaluator.answers_of(rows)

    @property
    def channels_last(self) -> bool:
        return self.evaluator.network.layout is torch.channels_last

    def flat(self, images: Tensor) -> Tensor:
        """(S, C, H, W) to (S, D) in memory order."""
        images = images.contiguous(memory_format=self.evaluator.network.layout)
        if self.channels_last:
            images = images.permute(0, 2, 3, 1)
        return images.reshape(len(images), self.shape.numel())

    def images(self, points: Tensor) -> Tensor:
        """(S, D) to (S, C, H, W), without a copy."""
        channels, height, width = self.shape
        if self.channels_last:
            return points.view(-1, height, width, channels).permute(0, 3, 1, 2)
        return points.view(-1, channels, height, width)

    def rounded(self, points: Tensor) -> Tensor:
        """The points as the model sees them: in the caller's type."""
        return points.to(self.evaluator.dtype).float()

    # -- evaluations -------------------------------------------------------------------------

    def logits(self, rows: Tensor, points: Tensor) -> Tensor:
        """(S, K), by forward passes alone."""

        def forward(at: slice) -> Tensor:
            with torch.no_grad():
                return self.evaluator.logits(self.images(points[at]), rows[at])

        self.n_forward.index_add_(0, rows, torch.ones_like(rows))
        return torch.cat(self._batches(len(rows), forward))

    def judged(self, rows: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """(margin, class found) of each row of logits: an error where the margin is not > 0."""
        if self.targets is None:
            return self.kernels.margins(logits, self.y, rows)
        ahead, _ = self.kernels.margins(logits, self.targets, rows)
        # a tie is not yet the wanted class, and no NaN ever is
        behind = (-ahead).clamp(min=torch.finfo(ahead.dtype).tiny).nan_to_num(torch.inf)
        return torch.where(ahead > 0, -ahead, behind), self.targets[rows]

    def __call__(
        self, rows: Tensor, points: Tensor, gradient: Tensor, loss: str, classes: Classes | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(margin, gain, class found), each (S,); the gradient of the gain goes to `gradient`.

        The gain is what an attack raises. With `classes` (S,) it is each class's lead over the
        label; where that is -1, and without it, the lead of the best of all. What chooses classes
        is called once for each batch, for which no forward pass is made twice.
        """

        if classes is None:
            classes = self.rival(rows, loss)

        def both(at: slice) -> tuple[Tensor, ...]:
            wanted = classes[at] if isinstance(classes, Tensor) else classes
            return self._differentiate(rows[at], points[at], gradient[at], loss, wanted)

        parts = self._batches(len(rows), both)
        ones = torch.ones_like(rows)
        self.n_forward.index_add_(0, rows, ones)
        self.n_backward.index_add_(0, rows, ones)
        margin, gain, found = parts[0]
        if len(parts) > 1:
            margin, gain, found = (torch.cat(each) for each in zip(*parts, strict=True))
        return margin, gain, found

    def rival(self, rows: Tensor, loss: str) -> Tensor | None:
        """The classes that the loss holds against the goal, where it names them: (S,) or None."""
        return self.y[rows] if loss == "dlr" and self.targets is not None else None

    def _differentiate(
        self, rows: Tensor, points: Tensor, gradient: Tensor, loss: str, classes: Classes | None
    ) -> tuple[Tensor, ...]:
        if self.fused is not None:
            if callable(classes):
                with torch.no_grad():
                    classes = classes(rows, self.evaluator.logits(self.images(points), rows))
            goal = self.y if self.targets is None else self.targets
            return self.fused.differentiate(
                points, rows, goal, gradient, loss=loss, targeted=self.targets is not None,
                wanted=classes, channels_last=self.channels_last,
            )  # fmt: skip
        with torch.enable_grad():
            images = self.images(points).to(self.evaluator.dtype).detach().requires_grad_(True)
            answer: Any = self.model(self.evaluator.network.shaped(images))
            logits = getattr(answer, "logits", answer)
            _check_differentiable(logits)
            wide = logits if logits.dtype == torch.float64 else logits.float()
            error = self.evaluator.engine.error
            if error is None:
                scores = self._scores(wide, logits.dtype)
            else:
                scores = wide = error.logits(wide, self.answers_of(rows))
                _check_differentiable(scores)
            if callable(classes):
                classes = classes(rows, scores.detach())
            gain = self._gain(scores, rows, loss, classes)
            (found,) = torch.autograd.grad(gain.sum(), images, allow_unused=True)
        if found is None:
            raise NoGradients(
                "model must compute its logits from its input: they did not depend on it"
            )
        gradient.copy_(self.flat(found.float()))
        margin, label = self.judged(rows, wide.detach())
        # last, and with a copy: the model may give its next answer in the same memory
        self.evaluator.compare(images.detach(), logits.detach().clone())
        return margin, gain.detach(), label

    def _scores(self, wide: Tensor, dtype: torch.dtype) -> Tensor:
        """Outputs (S, K), and the logarithms of rows that are probabilities.

        A softmax saturates: its gradients vanish where the model is sure, and those of its
        logarithms do not. The order of classes is the same, so errors are.
        """
        values = wide.detach()
        near_one = (values.sum(1) - 1).abs() <= SUM + 4 * torch.finfo(dtype).eps
        probable = near_one & (values >= 0).all(1)
        if not bool(probable.any()):
            return wide
        if PROBABILITIES not in self.evaluator.notes:
            self.evaluator.notes.append(PROBABILITIES)
        least = torch.finfo(wide.dtype).tiny  # below it there is no gradient to be had
        return torch.where(probable[:, None], wide.clamp(min=least).log(), wide)

    def _gain(self, logits: Tensor, rows: Tensor, loss: str, classes: Tensor | None) -> Tensor:
        goal = self.y if self.targets is None else self.targets
        base = goal[rows].unsqueeze(1)
        own = logits.gather(1, base).squeeze(1)
        rest = logits.scatter(1, base, -torch.inf)
        # log(1 + exp(gain)) is the cross-entropy: the same direction, and it never vanishes
        gain = (rest.logsumexp(1) if loss == "ce" else rest.amax(1)) - own
        if classes is not None:
            lead = logits.gather(1, classes.clamp(min=0).unsqueeze(1)).squeeze(1) - own
            gain = torch.where(classes >= 0, lead, gain)
        if loss == "dlr":
            top = logits.topk(dlr_classes(self.targets is not None), 1).values
            last = top[:, 2:].mean(1)
            gain = gain / (top[:, 0] - last + 1e-12)
        return gain if self.targets is None else -gain

    def _batches(self, total: int, body: Callable[[slice], Any]) -> list[Any]:
        done: list[Any] = []
        start = 0
        while start < total or not done:
            at = slice(start, min(start + self.evaluator.batch_size, total))
            try:
                done.append(body(at))
            except RuntimeError as error:
                if self.evaluator.batch_size == 1 or not out_of_memory(error):
                    raise
                self.evaluator.halve()
                continue
            start = at.stop
        return done


def _check_differentiable(logits: Tensor) -> None:
    """Raises NoGradients where autograd recorded nothing."""
    if not logits.requires_grad:
        raise NoGradients(
            "model must let gradients through from its logits to its input, which an attack needs "
            "and an error rate in noise does not: its logits carried none"
        )
