"""Attacks of other libraries as callables (model, x, y) to images, as `audit_attack` takes them.

The theorem is about all of space, and noisy images lie outside [0, 1]. An attack that insists on
the unit box would clip them, which moves them far from where they were, and would be accused of a
distance that is not its fault. So each adapter hands over model and images through an affine map
that puts the box far beyond them: u = (x - low) / (high - low), with as much room on each side of
the images as they span themselves, which is many sigmas. Lengths (eps, steps) are in pixel units
of [0, 1] and mapped likewise.

    from robustcore.concentration import adapters
    rc.audit_attack(model, x, y, adapters.foolbox(foolbox.attacks.DDNAttack()))
    rc.audit_attack(model, x, y, adapters.torchattacks(torchattacks.PGDL2, eps=0.5), eps=0.5)
    rc.audit_attack(model, x, y, adapters.art(art.attacks.evasion.DeepFool))
    rc.audit_attack(model, x, y, adapters.autoattack(autoattack.AutoAttack, eps=0.5), eps=0.5)

An attack within a radius is audited with that radius, `eps`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from robustcore import inputs

Attack = Callable[[Any, Tensor, Tensor], Any]

LENGTHS = ("eps", "alpha", "eps_step")  # settings of torchattacks and ART that are lengths


class Mapped(nn.Module):
    """model(low + span * u), for u that ought to lie in [0, 1]."""

    def __init__(self, model: Callable[[Tensor], Any], low: float, span: float) -> None:
        super().__init__()
        self.model, self.low, self.span = model, low, span
        self.eval()

    def forward(self, u: Tensor) -> Tensor:
        answer: Any = self.model(self.low + self.span * u)
        return getattr(answer, "logits", answer)


def boxed(make: Callable[[float], Attack], room: float = 1.0) -> Attack:
    """An attack that insists on [0, 1], let loose on all of space.

    make: from the width of the box, in pixel units, to an attack on mapped images: lengths given to
        it are to be divided by that width. room: on each side, as a share of what the images span.
    """
    inputs.function("make", make)
    room = inputs.positive("room", room)

    def attack(model: Any, x: Tensor, y: Tensor) -> Tensor:
        least, most = float(x.min()), float(x.max())
        extent = max(most - least, 1.0)
        low, span = least - room * extent, (most - least) + 2 * room * extent
        found = make(span)(Mapped(model, low, span), (x - low) / span, y)
        return low + span * torch.as_tensor(found, device=x.device).to(x.dtype)

    return attack


def foolbox(attack: Any, eps: float | None = None) -> Attack:
    """A foolbox attack; eps: its radius, None for one that minimises the distance."""
    inputs.function("attack", attack)
    eps = None if eps is None else inputs.positive("eps", eps)
    import foolbox as library

    def make(span: float) -> Attack:
        def run(model: Any, u: Tensor, y: Tensor) -> Tensor:
            wrapped = library.PyTorchModel(model, bounds=(0, 1), device=u.device)
            return attack(wrapped, u, y, epsilons=None if eps is None else eps / span)[1]

        return run

    return boxed(make)


def torchattacks(kind: Any, **settings: Any) -> Attack:
    """An attack class of torchattacks, such as torchattacks.PGDL2, with its settings."""
    inputs.function("kind", kind)

    def make(span: float) -> Attack:
        return lambda model, u, y: kind(model, **_mapped(settings, span))(u, y)

    return boxed(make)


def art(kind: Any, **settings: Any) -> Attack:
    """An evasion attack class of ART, such as DeepFool, with its settings."""
    inputs.function("kind", kind)
    from art.estimators.classification import PyTorchClassifier

    def make(span: float) -> Attack:
        def run(model: Any, u: Tensor, y: Tensor) -> Tensor:
            with torch.no_grad():
                classes = model(u[:1]).shape[1]
            estimator = PyTorchClassifier(
                model, nn.CrossEntropyLoss(), tuple(u.shape[1:]), classes, clip_values=(0.0, 1.0),
                device_type="gpu" if u.is_cuda else "cpu",
            )  # fmt: skip
            found = kind(estimator, **_mapped(settings, span))
            return torch.from_numpy(found.generate(u.cpu().numpy(), y.cpu().numpy()))

        return run

    return boxed(make)


def autoattack(kind: Any, *, eps: float, **settings: Any) -> Attack:
    """The class AutoAttack in the l2 ball of radius eps, as RobustBench runs it.

    kind: of the package autoattack or pyautoattack; settings: its other arguments.
    """
    inputs.function("kind", kind)
    eps = inputs.positive("eps", eps)

    def make(span: float) -> Attack:
        def run(model: Any, u: Tensor, y: Tensor) -> Tensor:
            how = {"norm": "L2", "device": str(u.device)} | settings
            found = kind(model, eps=eps / span, **how).run_standard_evaluation(u, y)
            return found[0] if isinstance(found, tuple) else found  # pyautoattack adds labels

        return run

    return boxed(make)


def _mapped(settings: dict[str, Any], span: float) -> dict[str, Any]:
    return {name: v / span if name in LENGTHS else v for name, v in settings.items()}
