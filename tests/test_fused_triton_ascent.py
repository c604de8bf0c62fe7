"""Gradients and descents of fused networks in Triton, run as in test_fused_triton.py."""

import copy
import itertools
import re

import numpy as np
import pytest
import torch
from elsewhere import DEVICE, INTERPRETED, Elsewhere
from fused_models import _dense, model, slots
from test_fused_gradient import check_gradients
from test_kernels_triton import run

import robustcore as rc
from robustcore.evaluator import Evaluator
from robustcore.fused import pack
from robustcore.fused.native import NativeNet
from robustcore.gradients import LOSSES, Gradients
from robustcore.kernels import unavailable

pytestmark = pytest.mark.skipif(
    unavailable("triton", "cuda") is not None, reason=str(unavailable("triton", "cuda"))
)
inside = pytest.mark.skipif(
    not INTERPRETED and DEVICE == "cpu", reason="run in the interpreter by the last test here"
)


def ascents(packed):
    from robustcore.fused.triton_ascent import TritonAscents

    return Elsewhere(TritonAscents(packed, DEVICE))


@inside
@pytest.mark.parametrize("name", ["linear", "mlp", "four"])
def test_gradients_are_those_of_autograd_in_float64(name):
    module, shape = model(name)
    wide, x = copy.deepcopy(module).double(), slots(shape)[0]
    ours = Gradients(Evaluator(module, x), None, 2.0)
    ours.fused = ascents(pack(module, shape))
    check_gradients(ours, Gradients(Evaluator(lambda z: wide(z.double()), x), None, 2.0), repeats=3)


@inside
@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("mlp", {"norm": 2, "eps": 0.08}),
        ("linear", {"norm": "Linf", "eps": 0.01, "step_size": 0.003, "box": None, "loss": "dlr"}),
    ],
)
def test_descents_end_where_those_of_single_steps_do(name, how):
    """The same starts and steps: of 8 outcomes at most one may lie in the rounding."""
    module, shape = model(name)
    x = torch.rand(8, *shape, generator=torch.Generator().manual_seed(4))
    given = {"steps": 5, "restarts": 2, "seed": 3, **how}
    fused = rc.pgd(rc.Engine(pack(module, shape), backend="triton"), x.to(DEVICE), **given)
    plain = rc.pgd(lambda images: module(images), x, **given)
    assert any("fused from noise to counts" in note for note in fused.provenance.notes)
    assert int((fused.fooled != plain.fooled).sum()) <= 1
    assert 0 < plain.fooled.sum() < 8
    same = (fused.step == plain.step) & (fused.restart == plain.restart)
    assert same.sum() >= 7
    at = same & np.isfinite(plain.distance)
    np.testing.assert_allclose(fused.distance[at], plain.distance[at], rtol=1e-3, atol=1e-6)
    # a restart begins when the one before it has failed for all images: none is given up
    assert fused.n_backward.sum() <= 1.02 * plain.n_backward.sum()
    failed = ~(plain.fooled | fused.fooled)[:, 0]
    np.testing.assert_array_equal(fused.n_backward[failed], plain.n_backward[failed])


def descended(net, x, rows, norm, points=None, **more):
    points = x[rows].contiguous() if points is None else points
    goal = torch.arange(5, device=x.device)
    radius = torch.full((len(rows),), 0.4 if norm == 2 else 0.03, device=x.device)
    how = {"norm": norm, "steps": 4, "adapts": True, "loss": "ce", "box": (0.2, 0.8), **more}
    return points, net.descend(x, points, rows, goal, radius, radius.clone(), **how)


@inside
@pytest.mark.parametrize("norm", [2.0, np.inf])
def test_descents_stay_in_their_balls_whoever_is_beside_them(norm):
    module, shape = model("mlp")
    packed = pack(module, shape)
    x, rows = slots(shape, 37)[:2]
    x = x.clamp(0.2, 0.8)
    flat, net = x.flatten(1).contiguous(), ascents(packed)
    points, answers = descended(net, flat, rows, norm)
    away = (points - flat[rows]).double()
    reach = away.norm(dim=1) if norm == 2 else away.abs().amax(1)
    assert float(reach.max()) <= (0.4 if norm == 2 else 0.03) * (1 + 1e-5)
    assert float(reach.max()) > 0.01
    assert float(points.min()) == np.float32(0.2)
    assert float(points.max()) == np.float32(0.8)
    some = torch.tensor([30, 4, 17])
    alone, few = descended(net, flat, rows[some], norm)
    # the interpreter's products, which are numpy's, round a row by its place
    for one, all_ in zip((alone, *few), (points, *answers), strict=True):
        torch.testing.assert_close(one, all_[some], rtol=0, atol=1e-6 if INTERPRETED else 0)
    swapped = x.permute(0, 2, 3, 1).flatten(1).contiguous()
    last, same = descended(net, swapped, rows, norm, channels_last=True)
    assert torch.equal(same[2], answers[2])
    apart = last.view(37, *shape[1:], shape[0]).permute(0, 3, 1, 2).flatten(1) - points
    assert float(apart.abs().max()) < 1e-4
    none = descended(net, flat, rows[:0], norm)[1]
    assert all(len(each) == 0 for each in none)


@inside
def test_a_network_without_gradients_is_stuck():
    module, shape = model("mlp")
    packed = pack(module, shape)
    for layer in packed.layers:
        layer.weight.zero_()
    packed.layers[-1].bias.copy_(torch.arange(10.0).flip(0) * (torch.arange(10) < 1))
    x, rows = torch.rand(5, 192), torch.zeros(3, dtype=torch.int64)
    points, (margin, _, age, usable) = descended(ascents(packed), x, rows, 2.0, box=None)
    assert bool((margin > 0).all())
    assert age.tolist() == [1, 1, 1]
    assert not bool(usable.any())
    assert torch.equal(points, x[rows])


@inside
@pytest.mark.parametrize("classes", [31, 33, 70])
def test_classes_are_taken_some_at_a_time(classes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(classes)
        packed = pack(_dense(16, 12, classes).eval(), (1, 4, 4))
    x, rows, *_ = slots((1, 4, 4), 19)
    points = 9 * torch.randn(19, 16, generator=torch.Generator().manual_seed(1))  # of many classes
    goal = torch.tensor([0, 30, classes - 2, classes - 1, 5])
    wanted = (goal[rows] + 1 + torch.arange(19) * 7 % (classes - 1)) % classes
    wanted[::3] = -1
    for loss, targeted, some in itertools.product(LOSSES, (False, True), (None, wanted)):
        answers = []
        for net in (ascents(packed), NativeNet(packed)):
            gradient = torch.full_like(points, torch.nan)
            how = {"loss": loss, "targeted": targeted, "wanted": some}
            answers.append((gradient, *net.differentiate(points, rows, goal, gradient, **how)))
        for mine, right in zip(*answers, strict=True):
            torch.testing.assert_close(mine, right, rtol=1e-3, atol=1e-5)
        assert targeted or len(set(answers[0][3].tolist())) > 3
    engine = Evaluator(rc.Engine(packed, backend="triton"), x.to(DEVICE))
    assert engine.fused.ascent is not None


@inside
def test_wrong_points_are_refused():
    from robustcore.fused.triton_ascent import TritonAscents

    module, shape = model("mlp")
    net, x = TritonAscents(pack(module, shape), DEVICE), torch.rand(5, 192, device=DEVICE)
    rows = torch.zeros(5, dtype=torch.int64, device=DEVICE)
    for points, loss in itertools.product((x[:, 1:], x.double(), x[:3]), ("ce",)):
        with pytest.raises(ValueError, match=r"points must be torch.float32 of shape \(5, 192\)"):
            net.differentiate(points, rows, rows, x, loss=loss)
    with pytest.raises(ValueError, match="gradient must be"):
        net.differentiate(x, rows, rows, x.double(), loss="ce")
    with pytest.raises(ValueError, match="points must be"):
        descended(net, x, rows, 2.0, points=x[:, ::2])
    with pytest.raises(ValueError, match="x must be"):
        descended(net, x[:4], rows, 2.0, points=x.clone())


@pytest.mark.skipif(INTERPRETED, reason="starts the interpreter")
def test_all_of_these_pass_in_the_interpreter():
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, interpret=True)
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"(\d+) passed", done.stdout).group(1)) == 12
