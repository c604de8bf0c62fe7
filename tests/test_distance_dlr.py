"""The loss "dlr" is that of Croce and Hein (2020), in every body."""

import numpy as np
import pytest
import torch
from distance_models import Waves, images
from fused_models import model, slots

import robustcore as rc
from robustcore.evaluator import Evaluator
from robustcore.fused import pack
from robustcore.fused.native import ISAS, NativeNet
from robustcore.gradients import Gradients


def published(logits, y, target=None):
    """What the attack raises: the published loss, equations 6 and 7, with its sign."""
    gains = []
    targets = [None] * len(y) if target is None else target
    for row, label, wanted in zip(logits, y, targets, strict=True):
        ordered = row.sort(descending=True).values
        if wanted is None:
            rival = torch.cat([row[:label], row[label + 1 :]]).max()
            gains.append((rival - row[label]) / (ordered[0] - ordered[2]))
        else:
            low = (ordered[2] + ordered[3]) / 2
            gains.append((row[wanted] - row[label]) / (ordered[0] - low))
    return torch.stack(gains)


def asked(gradients, points):
    gradient = torch.empty_like(points)
    rows = torch.arange(len(points))
    _, gain, _ = gradients(rows, points, gradient, "dlr", None)
    return gain.double(), gradient.double()


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("body", ["torch", *ISAS])
def test_gain_and_gradient_are_those_of_the_formula(body, targeted):
    """At points where the label, the target or neither leads. Float32 against float64."""
    module, shape = model("mlp")
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(64, *shape, generator=generator)
    y = torch.randint(0, 10, (64,), generator=generator)
    called = module if body != "torch" else lambda z: module(z)
    gradients = Gradients(Evaluator(called, x, y), None, 2.0)
    assert (gradients.fused is None) == (body == "torch")
    if body != "torch":
        gradients.fused = NativeNet(pack(module, shape), body)
    target = None
    if targeted:
        target = gradients.targets = (y + torch.randint(1, 10, (64,), generator=generator)) % 10
        leads = module(x).argmax(1)
        assert ((leads != y) & (leads != target)).sum() > 20
    gain, gradient = asked(gradients, gradients.x)
    images = x.double().requires_grad_()
    want = published(module.double()(images), y, target)
    (slope,) = torch.autograd.grad(want.sum(), images)
    module.float()
    torch.testing.assert_close(gain, want.detach(), rtol=1e-4, atol=1e-5)
    scale = float(slope.abs().max())
    torch.testing.assert_close(gradients.images(gradient), slope, rtol=1e-3, atol=1e-4 * scale)


@pytest.mark.parametrize("fused", [False, True])
def test_every_loss_reaches_every_target(fused):
    module, shape = model("mlp")
    x = slots(shape)[0]
    called = module if fused else lambda z: module(z)
    targets = (module(x).argmax(1) + 3) % 10
    for loss in ("ce", "margin", "dlr"):
        result = rc.pgd(called, x, eps=1.0, targets=targets, loss=loss, steps=40, box=None)
        assert any("fused" in note for note in result.provenance.notes) == fused
        assert result.fooled.all()
        assert (module(result.x_adv).argmax(1) == targets).all()


@pytest.mark.parametrize(("classes", "targets", "needed"), [(2, None, 3), (3, 1, 4), (2, 1, 4)])
def test_too_few_classes_are_refused_by_name(classes, targets, needed):
    x = images(3)
    y = torch.zeros(3, dtype=torch.int64)
    few = Waves(classes=classes)
    message = (
        f"loss must be .* for a model of {classes} classes, was 'dlr', which compares {needed}"
    )
    for call in (
        lambda: rc.pgd(few, x, y, eps=0.1, loss="dlr", targets=targets),
        lambda: rc.distance_to_error(few, x, y, method="pgd", loss="dlr", targets=targets),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize(("classes", "targets"), [(3, None), (4, 1)])
def test_as_many_classes_as_needed_will_do(classes, targets):
    x = images(4)
    model = Waves(classes=classes)
    y = None if targets is None else torch.zeros(4, dtype=torch.int64)
    near = rc.distance_to_error(model, x, y, method="pgd", loss="dlr", targets=targets, eps=3.0)
    assert np.isfinite(near.distance).all()
