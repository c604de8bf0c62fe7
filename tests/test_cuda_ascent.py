"""Gradients and descents of fused networks in CUDA C++, run as in test_cuda.py."""

import copy
import importlib
import itertools

import numpy as np
import pytest
import torch
from elsewhere import DEVICE
from fused_models import _dense, check_steps, model, slots
from test_fused_gradient import check_gradients
from test_fused_triton_ascent import descended

import robustcore as rc
from robustcore import kernels
from robustcore.evaluator import Evaluator
from robustcore.fused import pack
from robustcore.fused.native import ISAS, NativeNet
from robustcore.gradients import LOSSES, Gradients

# the one without contraction rounds otherwise; lengths are summed as AVX-512 has them
CONTRACTS, SUMS = bool({"avx512", "avx2"} & set(ISAS)), "avx512" in ISAS
DENSE = ["linear", "mlp", "four"]


def check(got, want, exact):
    """Bits; or, where these are not promised, close but for one in fifty, which rounding turned."""
    for mine, right in zip(got, want, strict=True):
        if exact:
            torch.testing.assert_close(mine, right, rtol=0, atol=0, equal_nan=True)
        else:
            close = torch.isclose(mine.double(), right.double(), 1e-3, 1e-5, equal_nan=True)
            assert float(close.double().mean()) > 0.98


def points_of(name, n=83):
    module, shape = model(name)
    x = slots(shape, n)[0].flatten(1)
    rows = torch.randint(5, (n,), generator=torch.Generator().manual_seed(1))
    noise = torch.randn(n, x.shape[1], generator=torch.Generator().manual_seed(2))
    return pack(module, shape), x, rows, x[rows] + 0.05 * noise


@pytest.mark.skipif(not CONTRACTS, reason="this machine's C++ does not contract")
@pytest.mark.parametrize("name", DENSE)
def test_gradients_have_the_bits_of_the_cpu(cuda, name):
    packed, _, rows, points = points_of(name)
    goal = torch.arange(5) % packed.n_classes
    wanted = (goal[rows] + 1) % packed.n_classes
    wanted[::3] = -1
    for loss, targeted, some in itertools.product(LOSSES, (False, True), (None, wanted)):
        answers = []
        for net in (cuda.CudaNet(packed, "cpu"), NativeNet(packed)):
            gradient = torch.full_like(points, torch.nan)
            how = {"loss": loss, "targeted": targeted, "wanted": some}
            answers.append((gradient, *net.differentiate(points, rows, goal, gradient, **how)))
        # a device's exponential is not that of a CPU
        check(*answers, exact=loss != "ce" or DEVICE == "cpu")
        assert bool(answers[0][0].isfinite().all())


@pytest.mark.parametrize("name", DENSE)
def test_gradients_are_those_of_autograd_in_float64(cuda, name):
    module, shape = model(name)
    wide, x = copy.deepcopy(module).double(), slots(shape)[0]
    ours = Gradients(Evaluator(module, x), None, 2.0)
    ours.fused = cuda.CudaNet(pack(module, shape), "cpu")
    check_gradients(ours, Gradients(Evaluator(lambda z: wide(z.double()), x), None, 2.0), repeats=3)


@pytest.mark.skipif(not CONTRACTS, reason="this machine's C++ does not contract")
@pytest.mark.parametrize("norm", [2.0, np.inf])
@pytest.mark.parametrize("name", DENSE)
def test_descents_have_the_bits_of_the_cpu(cuda, name, norm):
    """More slots than a tile has places, of ages from none to the last."""
    packed, x, rows, start = points_of(name)
    goal = packed(x.view(5, *packed.shape)).argmax(1)
    radius = torch.linspace(0.001, 0.3, len(rows)) * (1 if norm == 2 else 0.1)
    ages = set()
    for loss, adapts, targeted in itertools.product(LOSSES, (True, False), (True, False)):
        answers = []
        for net in (cuda.CudaNet(packed, "cpu"), NativeNet(packed)):
            points = start.clone()
            how = {"loss": loss, "adapts": adapts, "targeted": targeted, "steps": 7}
            found = net.descend(
                x, points, rows, goal, radius, radius if adapts else radius / 3, norm=norm,
                box=(0.1, 0.9), **how,
            )  # fmt: skip
            answers.append((points, *found))
        exact = (norm != 2 or SUMS) and (loss != "ce" or DEVICE == "cpu")
        check(*answers, exact)
        ages |= set(answers[0][3].tolist())
    assert {0, 1, 7} < ages


@pytest.mark.parametrize("norm", [2.0, np.inf])
@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_a_descent_is_its_steps_one_by_one(cuda, name, norm):
    check_steps(cuda.CudaNet(pack(*model(name)), "cpu"), name, norm)


WIDTHS = [(2,), (700,), (130, 3), (200, 150, 40), (513, 33), (1024, 256, 1024, 100), (3, 1024)]


@pytest.mark.parametrize("widths", WIDTHS)
def test_wide_and_deep_networks_are_divided_among_threads(cuda, widths):
    """As many places as a tile has, fewer, and one more; also more classes than Triton takes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(widths[0])
        packed = pack(_dense(70, *widths).eval(), (1, 7, 10))
    n = {130: 1, 513: 32, 1024: 17}.get(widths[0], 33)
    x, rows, *_ = slots((1, 7, 10), n)
    images = x[rows].double().requires_grad_(True)
    goal = torch.arange(5) % packed.n_classes
    logits = packed(images)
    own = torch.nn.functional.one_hot(goal[rows], packed.n_classes).bool()
    gain = logits.masked_fill(own, -torch.inf).logsumexp(1) - logits[own]
    (want,) = torch.autograd.grad(gain.sum(), images)
    points, gradient = x[rows].flatten(1), torch.full((n, 70), torch.nan)
    answers = cuda.CudaNet(packed, "cpu").differentiate(points, rows, goal, gradient, loss="ce")
    scale = want.abs().max()
    assert float((gradient - want.flatten(1)).abs().max()) <= 1000 * 2.0**-24 * scale
    assert float((gradient + want.flatten(1)).abs().max()) > 0.1 * scale
    torch.testing.assert_close(answers[1].double(), gain.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("targeted", [False, True])
def test_points_that_are_not_numbers(cuda, targeted):
    """What one slot's numbers are does not reach those beside it."""
    packed, x, rows, start = points_of("mlp", 40)
    start[3, 7] = start[21, 0] = torch.nan
    goal, radius, answers = torch.arange(5), torch.full((40,), 0.01), []
    for net in (cuda.CudaNet(packed, "cpu"), NativeNet(packed)):
        gradient, points = torch.empty_like(start), start.clone()
        how = {"loss": "margin", "targeted": targeted}
        seen = net.differentiate(points, rows, goal, gradient, **how)
        done = net.descend(
            x, points, rows, goal, radius, radius, norm=np.inf, steps=3, adapts=False, **how
        )
        answers.append((gradient, *seen, points, *done))
    check(*answers, exact=CONTRACTS)
    strange = ~answers[0][1].isfinite()
    assert strange.nonzero().flatten().tolist() == [3, 21]
    assert bool((answers[0][7][strange] <= 1).all())  # at once an error, or stuck


@pytest.mark.parametrize("norm", [2.0, np.inf])
def test_descents_stay_in_their_balls_whoever_is_beside_them(cuda, norm):
    module, shape = model("mlp")
    x, rows = slots(shape, 37)[:2]
    x = x.clamp(0.2, 0.8)
    flat, net = x.flatten(1).contiguous(), cuda.CudaNet(pack(module, shape), "cpu")
    points, answers = descended(net, flat, rows, norm)
    away = (points - flat[rows]).double()
    reach = away.norm(dim=1) if norm == 2 else away.abs().amax(1)
    assert 0.01 < float(reach.max()) <= (0.4 if norm == 2 else 0.03) * (1 + 1e-5)
    assert float(points.min()) == np.float32(0.2)
    assert float(points.max()) == np.float32(0.8)
    some = torch.tensor([30, 4, 17])
    alone, few = descended(net, flat, rows[some], norm)
    for one, all_ in zip((alone, *few), (points, *answers), strict=True):
        assert torch.equal(one, all_[some])
    swapped = x.permute(0, 2, 3, 1).flatten(1).contiguous()
    last, same = descended(net, swapped, rows, norm, channels_last=True)
    assert torch.equal(same[2], answers[2])
    apart = last.view(37, *shape[1:], shape[0]).permute(0, 3, 1, 2).flatten(1) - points
    assert float(apart.abs().max()) < 1e-4
    none = descended(net, flat, rows[:0], norm)[1]
    assert all(len(each) == 0 for each in none)


def test_a_network_without_gradients_is_stuck(cuda):
    packed = copy.deepcopy(pack(*model("mlp")))
    for layer in packed.layers:
        layer.weight.zero_()
    packed.layers[-1].bias.copy_(torch.arange(10.0).flip(0) * (torch.arange(10) < 1))
    x, rows = torch.rand(5, 192), torch.zeros(3, dtype=torch.int64)
    net = cuda.CudaNet(packed, "cpu")
    points, (margin, _, age, usable) = descended(net, x, rows, 2.0, box=None)
    assert bool((margin > 0).all())
    assert age.tolist() == [1, 1, 1]
    assert not bool(usable.any())
    assert torch.equal(points, x[rows])


@pytest.mark.parametrize(
    "how",
    [
        {"norm": 2, "eps": 0.08},
        {"norm": "Linf", "eps": 0.01, "step_size": 0.003, "box": None, "loss": "dlr"},
    ],
)
def test_pgd_takes_a_packed_network_and_says_so(cuda, monkeypatch, how):
    """The same starts and steps: of 8 outcomes at most one may lie in the rounding."""
    module, shape = model("mlp")
    x = torch.rand(8, *shape, generator=torch.Generator().manual_seed(4))
    given = {"steps": 5, "restarts": 2, "seed": 3, **how}
    if DEVICE == "cpu":
        monkeypatch.setattr(kernels, "unavailable", lambda backend, device: None)
    fused = rc.pgd(rc.Engine(pack(module, shape), backend="cuda"), x.to(DEVICE), **given)
    plain = rc.pgd(rc.Engine(lambda images: module(images), backend="reference"), x, **given)
    assert any("fused from noise to counts" in note for note in fused.provenance.notes)
    assert not any("fused" in note for note in plain.provenance.notes)
    assert int((fused.fooled != plain.fooled).sum()) <= 1
    assert 0 < plain.fooled.sum() < 8
    same = (fused.step == plain.step) & (fused.restart == plain.restart)
    assert same.sum() >= 7
    at = same & np.isfinite(plain.distance)
    np.testing.assert_allclose(fused.distance[at], plain.distance[at], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("widths", [(1024,) * 4, (512,) * 4, (256, 10), (1024, 512, 2)])
def test_whatever_is_packed_has_room_on_sm_80(cuda, widths):
    memory = importlib.import_module("robustcore.fused.cuda").memory
    need, most = memory(pack(_dense(5, *widths).eval(), (1, 1, 5)), DEVICE)
    assert 2**15 < need <= 163 * 1024 <= most


def test_what_has_no_room_is_called_as_it_is(cuda, monkeypatch):
    module, shape = model("mlp")
    packed, x = pack(module, shape), torch.rand(2, *shape, device=DEVICE)
    if DEVICE == "cpu":
        monkeypatch.setattr(kernels, "unavailable", lambda backend, device: None)
    assert Evaluator(rc.Engine(packed, backend="cuda"), x).fused is not None
    room = importlib.import_module("robustcore.fused.cuda")
    monkeypatch.setattr(room, "memory", lambda packed, device: (100, 99))
    assert Evaluator(rc.Engine(packed, backend="cuda"), x).fused is None
    with pytest.raises(ValueError, match=r"packed must take at most the 99 bytes .*, with 100"):
        cuda.CudaNet(packed, DEVICE)


def test_wrong_tensors_are_refused(cuda):
    net, x = cuda.CudaNet(pack(*model("mlp")), "cpu"), torch.rand(5, 192)
    rows = torch.zeros(5, dtype=torch.int64)
    for points in (x[:, 1:], x.double(), x[:3]):
        with pytest.raises(ValueError, match=r"points must be torch.float32 of shape \(5, 192\)"):
            net.differentiate(points, rows, rows, x, loss="ce")
    with pytest.raises(ValueError, match="gradient must be"):
        net.differentiate(x, rows, rows, x.double(), loss="ce")
    with pytest.raises(ValueError, match="x must be"):
        descended(net, x[:4], rows, 2.0, points=x.clone())
