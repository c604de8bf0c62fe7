"""Criteria of error: from a model's outputs and the right answers to a margin.

A margin is positive where the model is right; a tie and a NaN are errors. Kernels compute "top1",
the largest of at least two logits. Every other criterion is a margin in torch, which the engine
passes on as the first of two logits, the second being 0: an error is where 0 wins or ties.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from robustcore import inputs
from robustcore.arguments import integer, number, positive, shown


class Criterion:
    """What counts as an error, by the margin of outputs (S, ...) given right answers (S, ...).

    S is the number of inputs in a batch, B that of a measurement, K that of classes. A subclass
    defines `margin`, and the other methods where outputs are not logits or y not class indices.
    Margins are in the units of the outputs. Cost: a few passes over the outputs, in torch.
    """

    def check_outputs(self, outputs: Tensor) -> None:
        """Raises ValueError for outputs (S, ...) of a shape that the criterion does not take."""

    def answers(self, y: Any, n: int, device: torch.device) -> Tensor:
        """The right answers (n, ...) to n inputs, from the caller's y.

        Raises ValueError or TypeError naming y.
        """
        return inputs.labels(y, n, device)

    def predicted(self, outputs: Tensor) -> Tensor:
        """The answers (S, ...) that the model gives itself, for a caller who gives none."""
        raise ValueError(f"y must be given for error={self}, which predicts no answer")

    def check_answers(self, answers: Tensor, outputs: Tensor) -> None:
        """Raises ValueError naming y for answers that outputs of this shape cannot be."""

    def check_margins(self, outputs: Tensor, answers: Tensor) -> None:
        """Raises ValueError where a margin depends on other rows, or is another each time."""

    def margin(self, outputs: Tensor, answers: Tensor) -> Tensor:
        """(S,) in a floating type, positive where the model is right; NaN is an error."""
        raise NotImplementedError

    def logits(self, outputs: Tensor, answers: Tensor) -> Tensor:
        """(S, 2): the margin and 0, so that the first is the largest where the model is right."""
        margin = self.margin(outputs, answers)
        if margin.shape != outputs.shape[:1]:
            raise ValueError(
                f"error must return a margin for each of {len(outputs)} inputs, returned shape "
                f"{tuple(margin.shape)}"
            )
        return torch.stack([margin, torch.zeros_like(margin)], 1)


class TopK(Criterion):
    """An input is right where its label's logit is among the k largest of K, K above k.

    k: at least 1. Outputs are logits (S, K); y holds class indices (B,), None takes the model's
    largest. The margin is the label's logit less the k-th largest of the others; a tie is an error.
    Raises ValueError or TypeError naming k, the model or y.
    """

    def __init__(self, k: int) -> None:
        self.k = integer("k", k, 1)

    def __repr__(self) -> str:
        return f"TopK({self.k})"

    def check_outputs(self, outputs: Tensor) -> None:
        _check_logits(self, outputs, self.k + 1)

    def predicted(self, outputs: Tensor) -> Tensor:
        return outputs.masked_fill(outputs.isnan(), -torch.inf).argmax(1)

    def check_answers(self, answers: Tensor, outputs: Tensor) -> None:
        inputs.labels_within(answers, outputs.shape[1])

    def margin(self, outputs: Tensor, answers: Tensor) -> Tensor:
        at = answers[:, None]
        mine = outputs.gather(1, at)[:, 0]
        others = outputs.scatter(1, at, -torch.inf).topk(self.k, 1).values[:, -1]
        return torch.where(outputs.isnan().any(1), torch.nan, mine - others)


class AnyOf(Criterion):
    """An input is right where the largest logit is that of one of its right classes.

    groups: (K,) the group of each class, from 0; y (B,) is then the group that is right. Without
    groups y is (B, M), right classes of each input, the rest of a row filled with -1; or (B, K)
    bool. Outputs are logits (S, K); y None takes the model's largest, or its group. The margin is
    the largest logit of the right classes less that of the others. Raises ValueError or TypeError
    naming groups, the model or y.
    """

    def __init__(self, groups: Any = None) -> None:
        self.groups = None if groups is None else inputs.group_numbers(groups)

    def __repr__(self) -> str:
        if self.groups is None:
            return "AnyOf()"
        return f"AnyOf({len(self.groups)} classes in {int(self.groups.max()) + 1} groups)"

    def check_outputs(self, outputs: Tensor) -> None:
        _check_logits(self, outputs, 2)
        if self.groups is not None and outputs.shape[1] != len(self.groups):
            raise ValueError(
                f"model must return a logit for each of the {len(self.groups)} classes of {self}, "
                f"returned {outputs.shape[1]}"
            )

    def answers(self, y: Any, n: int, device: torch.device) -> Tensor:
        if self.groups is not None:
            return inputs.labels(y, n, device)
        return inputs.label_sets(y, n, device)

    def predicted(self, outputs: Tensor) -> Tensor:
        best = outputs.masked_fill(outputs.isnan(), -torch.inf).argmax(1)
        return best[:, None] if self.groups is None else self.groups.to(best.device)[best]

    def check_answers(self, answers: Tensor, outputs: Tensor) -> None:
        if answers.dtype == torch.bool:
            if answers.shape[1] != outputs.shape[1]:
                raise ValueError(
                    f"y must have a column for each of {outputs.shape[1]} classes, had "
                    f"{answers.shape[1]}"
                )
            return
        if self.groups is not None:
            most = int(self.groups.max())
            if int(answers.max()) > most:
                raise ValueError(
                    f"y must be one of the groups 0 to {most}, its largest was {int(answers.max())}"
                )
            return
        repeated = answers.sort(1).values.diff(dim=1).eq(0).any()
        if answers.shape[1] == outputs.shape[1] > 2 and int(answers.max()) <= 1 and repeated:
            raise ValueError(
                "y must hold right classes (B, M), or be a bool mask (B, K): it held 0 and 1 in a "
                "column for each class: give y.bool()"
            )
        inputs.labels_within(answers, outputs.shape[1])

    def margin(self, outputs: Tensor, answers: Tensor) -> Tensor:
        if self.groups is not None:
            right = self.groups.to(answers.device)[None, :] == answers[:, None]
        elif answers.dtype == torch.bool:
            right = answers
        else:
            right = _one_hot(answers, outputs.shape[1])
        mine = outputs.masked_fill(~right, -torch.inf).amax(1)
        others = outputs.masked_fill(right, -torch.inf).amax(1)
        return torch.where(outputs.isnan().any(1), torch.nan, mine - others)


class OneLogit(Criterion):
    """A binary classifier of one logit: class 1 above the threshold, class 0 below it.

    threshold: finite, in the units of the logit. Outputs are (S,) or (S, 1); y (B,) is 0 or 1, None
    takes the model's own class. The margin is the distance of the logit to the threshold, negative
    on the wrong side. Raises ValueError or TypeError naming threshold, the model or y.
    """

    def __init__(self, threshold: float = 0.0) -> None:
        self.threshold = number("threshold", threshold)
        if not math.isfinite(self.threshold):
            raise ValueError(f"threshold must be finite, was {threshold}")

    def __repr__(self) -> str:
        return f"OneLogit({self.threshold:g})"

    def check_outputs(self, outputs: Tensor) -> None:
        if outputs[0].numel() != 1:
            raise ValueError(
                f"model must return one logit for each input with error={self}, returned shape "
                f"{tuple(outputs.shape)}"
            )

    def answers(self, y: Any, n: int, device: torch.device) -> Tensor:
        given = inputs.right_outputs(y, n, device)
        if given.shape != (n,) or not bool(((given == 0) | (given == 1)).all()):
            raise ValueError(
                f"y must be 0 or 1 for each of {n} inputs with error={self}, was {shown(y)}"
            )
        return given.long()

    def predicted(self, outputs: Tensor) -> Tensor:
        return (outputs.flatten() > self.threshold).long()

    def margin(self, outputs: Tensor, answers: Tensor) -> Tensor:
        return (outputs.flatten() - self.threshold) * (2 * answers - 1)


class Tolerance(Criterion):
    """An input is right where the outputs (S, ...) are within atol of the answers, in a norm.

    atol: above 0, in the units of the outputs. norm: 2 or inf, of the flattened difference. y (B,
    ...) has the shape of the outputs; None takes the model's own outputs at x. The margin is atol
    less the distance. Raises ValueError or TypeError naming atol, norm or y.
    """

    def __init__(self, atol: float, norm: float | str = 2) -> None:
        self.atol, self.norm = positive("atol", atol), inputs.norm(norm)

    def __repr__(self) -> str:
        return f"Tolerance({self.atol:g}, {'L2' if self.norm == 2 else 'Linf'!r})"

    def answers(self, y: Any, n: int, device: torch.device) -> Tensor:
        return inputs.right_outputs(y, n, device)

    def predicted(self, outputs: Tensor) -> Tensor:
        return outputs.clone()

    def check_answers(self, answers: Tensor, outputs: Tensor) -> None:
        if _flat(answers).shape[1] != _flat(outputs).shape[1]:
            raise ValueError(
                f"y must have the shape of the model's outputs {tuple(outputs.shape)}, had "
                f"{tuple(answers.shape)}"
            )

    def margin(self, outputs: Tensor, answers: Tensor) -> Tensor:
        away = _flat(outputs) - _flat(answers).to(outputs.dtype)
        return self.atol - torch.linalg.vector_norm(away, ord=self.norm, dim=1)


class _ByFunction(Criterion):
    """A margin that the caller's function of (outputs, y) computes."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.function = function

    def __repr__(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)

    def answers(self, y: Any, n: int, device: torch.device) -> Tensor:
        return inputs.right_outputs(y, n, device)

    def margin(self, outputs: Tensor, answers: Tensor) -> Tensor:
        margin = self.function(outputs, answers)
        if not isinstance(margin, Tensor) or not margin.is_floating_point():
            was = margin.dtype if isinstance(margin, Tensor) else shown(margin)
            raise TypeError(f"error must return a floating-point margin, returned {was}")
        return margin

    def check_margins(self, outputs: Tensor, answers: Tensor) -> None:
        alone = self.margin(outputs, answers)
        others = 3 * outputs + 1
        among = self.margin(torch.cat([outputs, others]), torch.cat([answers, answers]))
        if alone.shape != outputs.shape[:1] or among.shape[0] != 2 * len(outputs):
            return  # `logits` says so
        same = torch.isclose(alone, among[: len(outputs)], rtol=1e-4, atol=1e-6, equal_nan=True)
        if not bool(same.all()):
            at = int((~same).nonzero()[0])
            raise ValueError(
                "error must judge each input by itself, and alike each time: the margin of input "
                f"{at} was {float(alone[at]):g}, and {float(among[at]):g} beside other outputs"
            )


def of(error: Any) -> Criterion | None:
    """The criterion that was asked for; None is "top1", which kernels compute."""
    if isinstance(error, str):
        if error != "top1":
            raise ValueError(f"error must be 'top1' or a criterion such as TopK(5), was {error!r}")
        return None
    if isinstance(error, type) and issubclass(error, Criterion):
        raise TypeError(f"error must be an error, was the class {error.__name__}: add ()")
    if isinstance(error, Criterion):
        return error
    if not callable(error):
        raise TypeError(
            f"error must be 'top1', TopK, AnyOf, OneLogit, Tolerance, or a function of (outputs, "
            f"y), was {shown(error)}"
        )
    return _ByFunction(error)


def _check_logits(error: Criterion, outputs: Tensor, least: int) -> None:
    if outputs.ndim != 2 or outputs.shape[1] < least:
        raise ValueError(
            f"model must return at least {least} logits for each input with error={error}, "
            f"returned shape {tuple(outputs.shape)}"
        )


def _flat(values: Tensor) -> Tensor:
    return values.reshape(len(values), -1)


def _one_hot(classes: Tensor, count: int) -> Tensor:
    """(S, count) bool: the classes (S, M) of each row; -1 names none."""
    none = torch.full_like(classes, count)
    marked = torch.zeros(len(classes), count + 1, dtype=torch.bool, device=classes.device)
    return marked.scatter(1, torch.where(classes < 0, none, classes), True)[:, :-1]
