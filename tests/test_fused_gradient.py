"""Gradients of fused networks, and descents of many steps in one call."""

import copy
import itertools
from functools import partial

import numpy as np
import pytest
import torch
from fused_models import MODELS, check_steps, model, random_model, slots
from torch import nn

import robustcore as rc
from robustcore.evaluator import Evaluator
from robustcore.fused import pack
from robustcore.fused.native import ISAS, NativeNet
from robustcore.gradients import LOSSES, Gradients

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
    classes, rows = ours.engine.n_classes, torch.arange(5).repeat(repeats)
    images = ours.engine.x[rows]
    images = images + 0.3 * torch.randn(images.shape, generator=torch.Generator().manual_seed(2))
    for targets, loss in itertools.product((None, (ours.y + 1) % classes), LOSSES):
        ours.targets = plain.targets = targets
        wanted = None
        if loss == "margin":  # a class's own lead, or the best of all
            goal = ours.y if targets is None else targets
            wanted = (goal[rows] + 1) % classes
            wanted[::3] = -1
        got, answers = ask(ours, images, rows, loss, wanted)
        want, expected = ask(plain, images, rows, loss, wanted)
        if loss == "dlr":  # where the goal is neither first nor last of three it is a constant
            right = (expected[0] > 0) & (targets is None) & (classes > 2)
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
    images = ours.engine.x[rows] + torch.arange(100).view(-1, 1, 1, 1) / 500
    whole, (margin, *_) = ask(ours, images, rows, "ce", None)
    part, (few, *_) = ask(ours, images[33:60], rows[33:60], "ce", None)
    assert torch.equal(part, whole[33:60])
    assert torch.equal(few, margin[33:60])


SETTINGS = {
    "adaptive": {},
    "fixed": {"step_size": 0.01},
    "margin": {"loss": "margin", "random_start": False},
    "no box": {"box": None, "loss": "margin"},
}


@pytest.mark.parametrize("how", SETTINGS)
@pytest.mark.parametrize(("norm", "eps"), [("Linf", [0.004, 0.02]), (2, [0.06, 0.3])])
@pytest.mark.parametrize("name", ["linear", "mlp", "chain", "strided"])
def test_descents_end_where_those_of_single_steps_do(name, norm, eps, how):
    """The same starts and the same steps: of 48 outcomes at most one may lie in the rounding."""
    module, shape = model(name)
    x = torch.rand(24, *shape, generator=torch.Generator().manual_seed(4))
    given = {"eps": eps, "norm": norm, "steps": 12, "restarts": 3, "seed": 3, "progress": False}
    fused = rc.pgd(module, x, **given, **SETTINGS[how])
    plain = rc.pgd(lambda images: module(images), x, **given, **SETTINGS[how])
    assert any("fused" in note for note in fused.provenance.notes)
    assert not any("fused" in note for note in plain.provenance.notes)
    assert int((fused.fooled != plain.fooled).sum()) <= 1
    same = (fused.step == plain.step) & (fused.restart == plain.restart)
    assert same.sum() >= 22
    at = same & np.isfinite(plain.distance)
    np.testing.assert_allclose(fused.distance[at], plain.distance[at], rtol=1e-3, atol=1e-6)
    # a restart begins when the one before it has failed for all images: none is given up
    assert fused.n_backward.sum() <= 1.02 * plain.n_backward.sum()
    with torch.no_grad():
        found = torch.as_tensor(np.isfinite(fused.distance) & (fused.distance > 0))
        assert bool(
            (module(fused.x_adv).argmax(1)[found] != torch.tensor(fused.labels)[found]).all()
        )


def test_targeted_descents_end_where_those_of_single_steps_do():
    module, shape = model("mlp")
    x = torch.rand(24, *shape, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        targets = (module(x).argmax(1) + 1) % 10
    given = {"eps": [0.02, 0.06], "targets": targets, "steps": 12, "progress": False}
    fused = rc.pgd(module, x, **given)
    plain = rc.pgd(lambda images: module(images), x, **given)
    assert 0 < fused.fooled.sum() < fused.fooled.size
    assert int((fused.fooled != plain.fooled).sum()) <= 1
    hit = fused.fooled[:, -1]
    np.testing.assert_array_equal(fused.label_adv[hit], targets.numpy()[hit])


@pytest.mark.parametrize("norm", ["Linf", 2])
def test_a_descent_neither_leaves_its_ball_nor_its_box(norm):
    module, shape = model("mlp")
    x = slots(shape)[0]
    net = NativeNet(pack(module, shape))
    flat = x.flatten(1)
    rows = torch.arange(5).repeat(30)
    radius = torch.linspace(0.01, 0.5, 150)
    size = torch.full_like(radius, 0.05)
    points = flat[rows].clone()
    p = 2.0 if norm == 2 else np.inf
    margin, _, age, usable = net.descend(
        flat, points, rows, model("mlp")[0](x).argmax(1), radius, size, norm=p, steps=9,
        adapts=False, loss="ce", box=(0.1, 0.9),
    )  # fmt: skip
    assert bool(usable[age > 0].all())
    moved = age > 0
    away = torch.linalg.vector_norm((points - flat[rows]).double(), p, 1)
    # a clean image outside the box is moved into it, whatever the radius
    inside = (flat >= 0.1).all(1) & (flat <= 0.9).all(1)
    assert bool((away <= radius.double() * (1 + 1e-6))[inside[rows] & moved].all())
    assert bool(((points >= 0.1) & (points <= 0.9))[moved].all())
    assert bool((age[margin > 0] == 9).all())


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("norm", [2.0, np.inf])
@pytest.mark.parametrize("name", ["linear", "mlp", "chain"])
def test_a_descent_is_its_steps_one_by_one(name, norm, isa):
    check_steps(NativeNet(pack(*model(name)), isa), name, norm)


def test_threads_and_company_change_no_descent():
    module, shape = model("mlp")
    x = torch.rand(40, *shape, generator=torch.Generator().manual_seed(4))
    given = {"eps": 0.02, "steps": 15, "restarts": 4, "progress": False}
    before = torch.get_num_threads()
    try:
        records = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            records.append(rc.pgd(module, x, **given))
    finally:
        torch.set_num_threads(before)
    part = rc.pgd(module, x[7:19], ids=np.arange(7, 19), **given)
    for name in ("distance", "step", "restart", "n_backward"):
        np.testing.assert_array_equal(getattr(records[0], name), getattr(records[1], name))
        np.testing.assert_array_equal(getattr(part, name), getattr(records[0], name)[7:19])


def test_a_network_without_gradients_is_masked():
    module = nn.Sequential(nn.Flatten(), nn.Linear(48, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    with torch.no_grad():
        module[1].bias.fill_(-100)
        module[3].bias.copy_(torch.tensor([1.0, 0.0]))
    record = rc.pgd(module, torch.rand(3, 3, 4, 4), eps=0.1, steps=5, progress=False)
    assert record.masked.all()
    assert not record.fooled.any()


def test_the_search_for_the_nearest_error_uses_the_fused_gradient():
    module, shape = model("mlp")
    x = torch.rand(16, *shape, generator=torch.Generator().manual_seed(4))
    fused = rc.distance_to_error(module, x, progress=False)
    plain = rc.distance_to_error(lambda images: module(images), x, progress=False)
    assert any("fused" in note for note in fused.provenance.notes)
    np.testing.assert_allclose(fused.distance, plain.distance, rtol=0.02)


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


@pytest.mark.parametrize("norm", ["L2", "Linf"])
def test_the_nearest_errors_of_two_classes_and_one_start(norm):
    # of two classes one start is kept: its column of a sorted (S, 2) is not contiguous
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2)).eval()
    x = torch.rand(5, 3, 2, 2)
    near = rc.distance_to_error(net, x, norm=norm, box=None, progress=False)
    assert near.provenance.notes[0].startswith("fused")
    logits = net(x).double().detach()
    gap = (logits[:, 0] - logits[:, 1]).abs()
    way = (net[1].weight[0] - net[1].weight[1]).double().detach()
    truth = gap / (way.norm() if norm == "L2" else way.abs().sum())
    assert np.allclose(near.distance, truth, rtol=1e-3)
    curve = rc.error_curve(net, x, None, (0.01, 1e-3), samples=200, progress=False)
    assert not any("second look" in note for note in curve.provenance.notes)
