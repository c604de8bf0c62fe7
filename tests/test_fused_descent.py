"""Descents of fused networks: many steps in one call."""

import numpy as np
import pytest
import torch
from fused_models import check_steps, model, slots
from torch import nn

import robustcore as rc
from robustcore.fused import pack
from robustcore.fused.native import ISAS, NativeNet

pytestmark = pytest.mark.usefixtures("strange_memory")


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
    given = {"eps": eps, "norm": norm, "steps": 12, "restarts": 3, "seed": 3}
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
    given = {"eps": [0.02, 0.06], "targets": targets, "steps": 12}
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
    given = {"eps": 0.02, "steps": 15, "restarts": 4}
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
    record = rc.pgd(module, torch.rand(3, 3, 4, 4), eps=0.1, steps=5)
    assert record.masked.all()
    assert not record.fooled.any()


def test_the_search_for_the_nearest_error_uses_the_fused_gradient():
    module, shape = model("mlp")
    x = torch.rand(16, *shape, generator=torch.Generator().manual_seed(4))
    fused = rc.distance_to_error(module, x)
    plain = rc.distance_to_error(lambda images: module(images), x)
    assert any("fused" in note for note in fused.provenance.notes)
    np.testing.assert_allclose(fused.distance, plain.distance, rtol=0.02)


@pytest.mark.parametrize("norm", ["L2", "Linf"])
def test_the_nearest_errors_of_two_classes_and_one_start(norm):
    # of two classes one start is kept: its column of a sorted (S, 2) is not contiguous
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2)).eval()
    x = torch.rand(5, 3, 2, 2)
    near = rc.distance_to_error(net, x, norm=norm, box=None)
    assert near.provenance.notes[0].startswith("fused")
    logits = net(x).double().detach()
    gap = (logits[:, 0] - logits[:, 1]).abs()
    way = (net[1].weight[0] - net[1].weight[1]).double().detach()
    truth = gap / (way.norm() if norm == "L2" else way.abs().sum())
    assert np.allclose(near.distance, truth, rtol=1e-3)
    curve = rc.error_curve(net, x, None, (0.01, 1e-3), samples=200)
    assert not any("second look" in note for note in curve.provenance.notes)
