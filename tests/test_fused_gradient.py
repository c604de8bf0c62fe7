"""Gradients of fused networks."""

import copy
import itertools
from functools import partial

import numpy as np
import pytest
import torch
from fused_models import MODELS, model, random_model, slots

from robustcore.evaluator import Evaluator
from robustcore.fused import pack
from robustcore.fused.native import ISAS, NativeNet
from robustcore.gradients import LOSSES, Gradients, dlr_classes

pytestmark = pytest.mark.usefixtures("strange_memory")


def both(name, isa):
    """Gradients of a fused network, and those of autograd in float64, of the same images."""
    module, shape = model(name)
    wide = copy.deepcopy(module).double()
    x = slots(shape)[0]
    ours = Gradients(Evaluator(module, x), None, 2.0)
    assert ours.fused is not None
    ours.fused = NativeNet(pack(module, shape), isa)
    plain = Gradients(Evaluator(lambda images: wide(images.double()), x), None, 2.0)
    assert plain.fused is None
    return ours, plain


def ask(gradients, images, rows, loss, wanted):
    points = gradients.flat(images)
    gradient = torch.full_like(points, torch.nan)
    answers = gradients(rows, points, gradient, loss, wanted)
    return gradients.images(gradient).double(), [each.double() for each in answers]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_those_of_autograd_in_float64(name, isa):
    check_gradients(*both(name, isa))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("seed", range(40))
def test_any_network_has_the_logits_and_gradients_of_autograd_in_float64(seed, isa):
    module, shape = random_model(seed)
    net, wide = NativeNet(pack(module, shape), isa), module.double()
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(20, *shape, generator=generator)
    rows, none = torch.arange(20), torch.zeros(20)
    images = x.double().requires_grad_()
    want = wide(images)
    got = net.logits(x, rows, none, rows, rows, seed=0)
    torch.testing.assert_close(got.double(), want.detach(), rtol=1e-5, atol=1e-5)
    goal, wanted = rows % want.shape[1], (rows + 1) % want.shape[1]
    lead = want[rows, wanted] - want[rows, goal]
    (right,) = torch.autograd.grad(lead.sum(), images)
    gradient = torch.full_like(x.flatten(1), torch.nan)
    net.differentiate(x.flatten(1), rows, goal, gradient, loss="margin", wanted=wanted)
    near = 1e-5 * right.abs().max()
    torch.testing.assert_close(gradient.double(), right.flatten(1), rtol=1e-4, atol=float(near))


def check_gradients(ours, plain, repeats=15):
    """To a thousand units of rounding of the largest; dlr, a quotient, to a hundredth of it."""
    classes, rows = ours.evaluator.n_classes, torch.arange(5).repeat(repeats)
    images = ours.evaluator.x[rows]
    images = images + 0.3 * torch.randn(images.shape, generator=torch.Generator().manual_seed(2))
    for targets, loss in itertools.product((None, (ours.y + 1) % classes), LOSSES):
        if loss == "dlr" and classes < dlr_classes(targets is not None):
            continue
        ours.targets = plain.targets = targets
        wanted = None
        if loss == "margin":  # a class's own lead, or the best of all
            goal = ours.y if targets is None else targets
            wanted = (goal[rows] + 1) % classes
            wanted[::3] = -1
        got, answers = ask(ours, images, rows, loss, wanted)
        want, expected = ask(plain, images, rows, loss, wanted)
        if loss == "dlr":  # without a target it is a constant where the label is second of three
            right = (expected[0] > 0) | (targets is not None)
            far = (got - want).abs().flatten(1).amax(1) > 1e-2 * want.abs().flatten(1).amax(1)
            assert (far & right).sum() <= 2  # the three largest all but agree
            continue
        scale = want.abs().max()
        assert float((got - want).abs().max()) <= 1000 * 2.0**-24 * scale
        assert float((got + want).abs().max()) > 0.1 * scale
        for mine, torchs in zip(answers, expected, strict=True):
            torch.testing.assert_close(mine, torchs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("isa", ISAS)
def test_gradients_do_not_depend_on_the_batch(isa):
    ours, _ = both("awkward", isa)
    rows = torch.arange(5).repeat(20)
    images = ours.evaluator.x[rows] + torch.arange(100).view(-1, 1, 1, 1) / 500
    whole, (margin, *_) = ask(ours, images, rows, "ce", None)
    part, (few, *_) = ask(ours, images[33:60], rows[33:60], "ce", None)
    assert torch.equal(part, whole[33:60])
    assert torch.equal(few, margin[33:60])


def test_classes_that_are_none_are_refused():
    module, shape = model("mlp")
    x, rows, right = slots(shape)[0].flatten(1), torch.arange(5), torch.zeros(5).long()
    ask = partial(NativeNet(pack(module, shape)).differentiate, x, rows, gradient=x.clone())
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 10\); got 10"):
        ask(goal=right + 10, loss="ce")
    for wrong in (10, 2**40, -2):
        with pytest.raises(ValueError, match=rf"wanted must lie in \[-1, 10\); got {wrong}"):
            ask(goal=right, loss="margin", wanted=torch.full((5,), wrong))


@pytest.mark.parametrize("isa", ISAS)
def test_units_that_are_zero_in_a_whole_group_are_left_out_for_nothing(isa):
    """Black pixels and shut units, in starts of one image and among other images."""
    module, shape = model("mlp")
    x = torch.rand(9, *shape, generator=torch.Generator().manual_seed(4))
    x[:, :, : shape[1] // 2] = 0.0
    x[3] = 0.0
    net, rows = NativeNet(pack(module, shape), isa), torch.arange(9).repeat_interleave(5)
    points, goal = x.flatten(1)[rows], torch.zeros(9, dtype=torch.int64)
    mixed, alike = torch.empty_like(points), torch.empty_like(points)
    there = net.differentiate(points, rows, goal, alike, loss="ce")
    order = torch.randperm(45, generator=torch.Generator().manual_seed(1))
    here = net.differentiate(points[order], rows[order], goal, mixed, loss="ce")
    assert torch.equal(mixed, alike[order])
    for mine, theirs in zip(here, there, strict=True):
        assert torch.equal(mine, theirs[order])
    images = x[rows].double().requires_grad_(True)
    logits = copy.deepcopy(module).double()(images)
    gain = logits[:, 1:].logsumexp(1) - logits[:, 0]
    (want,) = torch.autograd.grad(gain.sum(), images)
    assert float((alike - want.flatten(1)).abs().max()) <= 1000 * 2.0**-24 * want.abs().max()
    assert float(want.flatten(1)[:, x[0].flatten() == 0].abs().max()) > 0.1 * want.abs().max()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", ["chain", "strided"])
def test_points_may_be_channels_last(name, isa):
    module, shape = model(name)
    net, x = NativeNet(pack(module, shape), isa), slots(shape)[0]
    rows, goal = torch.arange(len(x)), torch.zeros(len(x), dtype=torch.int64)
    first, last = torch.empty_like(x.flatten(1)), torch.empty_like(x.flatten(1))
    turned = x.permute(0, 2, 3, 1).flatten(1).contiguous()
    net.differentiate(x.flatten(1), rows, goal, first, loss="ce")
    net.differentiate(turned, rows, goal, last, loss="ce", channels_last=True)
    back = last.view(len(x), *shape[1:], shape[0]).permute(0, 3, 1, 2).flatten(1)
    torch.testing.assert_close(back, first, rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(not {"avx2", "avx512"} <= {*ISAS}, reason="this machine runs one of the two")
@pytest.mark.parametrize("norm", [2.0, np.inf])
@pytest.mark.parametrize("name", ["mlp", "strided"])
def test_instruction_sets_that_contract_agree_bit_for_bit(name, norm):
    module, shape = model(name)
    x = slots(shape)[0]
    rows, results = torch.arange(len(x)).repeat(7), []
    for isa in ("avx2", "avx512"):
        net, flat = NativeNet(pack(module, shape), isa), x.flatten(1)
        points, gradient = flat[rows].contiguous(), torch.empty(len(rows), flat.shape[1])
        goal = module(x).argmax(1)
        before = net.differentiate(points, rows, goal, gradient, loss="ce")
        radius = torch.linspace(0.001, 0.01, len(rows)) * (1 if norm == np.inf else 10)
        after = net.descend(
            flat, points, rows, goal, radius, radius / 4, norm=norm, steps=6, adapts=False,
            loss="margin", box=(0.0, 1.0),
        )  # fmt: skip
        results.append((gradient, points, *before, *after))
    if norm == 2:  # lanes of another number are summed in another order
        results = [each[:1] + each[2:5] for each in results]
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)
