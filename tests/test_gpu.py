"""What only a GPU shows.

Tests with a device run on the CPU too, where they compare two backends.
"""

import warnings

import numpy as np
import pytest
import torch
from elsewhere import DEVICE, Elsewhere
from fused_models import _dense, slots
from torch import nn
from training_data import SMALL, toy

import robustcore as rc
from robustcore import kernels, training
from robustcore.evaluator import Evaluator
from robustcore.fused import pack
from robustcore.fused.native import ISAS, NativeNet
from robustcore.kernels import reference, select, unavailable
from robustcore.rounds import GRAPH_BATCHES
from robustcore.zoo.mnist import MnistNet
from robustcore.zoo.resnet import ResNet

FAST = [each for each in ("native", "triton", "cuda") if unavailable(each, DEVICE) is None]
cuda = pytest.mark.skipif(
    DEVICE != "cuda" or not torch.cuda.is_available(),
    reason="needs a GPU, and ROBUSTCORE_TEST_DEVICE=cuda",
)


def small():
    """A network that is not fused, as its mean is not, and images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AvgPool2d(3), nn.Flatten(), nn.Linear(32, 4)
        return nn.Sequential(*layers).eval(), torch.rand(4, 3, 8, 8)


# -- what runs tests elsewhere -------------------------------------------------------------------


def test_what_was_written_elsewhere_comes_back(batch):
    given = batch((3, 5, 7))
    for layout in (torch.contiguous_format, torch.channels_last):
        out = given.out(layout)
        assert given.run(Elsewhere(reference, "cpu").perturb, out) is out
        assert torch.equal(out, given.run(reference.perturb, given.out(layout)))
    with pytest.raises(ValueError, match="must be contiguous"):
        given.run(Elsewhere(select("native", "cpu"), "cpu").perturb, given.out()[:, :, :, ::2])


def test_what_was_not_written_stays(batch):
    class Body:
        name = "body"

        @staticmethod
        def first(x, other):
            x[0] = torch.nan
            return x[1], other

    x, other = torch.arange(4.0), torch.zeros(1).expand(3)
    second, same = Elsewhere(Body, "cpu").first(x, other)
    assert x[0].isnan()
    assert second == 1
    assert same is other
    assert Elsewhere(Body, "cpu").name == "body"


# -- on the device -------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", FAST)
def test_counts_and_descents_are_those_of_the_reference_on_a_cpu(backend):
    model, x = small()
    wide, grid = model.double(), [0.05, 0.2]
    here = rc.error_rate(rc.Engine(wide, backend="reference"), x.double(), grid, samples=60)
    there = rc.error_rate(
        rc.Engine(wide.to(DEVICE), batch_size=16, backend=backend),
        x.double().to(DEVICE),
        grid,
        samples=60,
    )
    np.testing.assert_array_equal(there.n_errors, here.n_errors)
    assert there.provenance.backend == backend
    assert 0 < there.n_errors.sum() < there.n_errors.size * 60
    given = {"eps": [0.002, 0.02], "steps": 5, "restarts": 1}
    fooled = [
        rc.pgd(rc.Engine(wide.to(place), backend=which), x.double().to(place), **given).fooled
        for place, which in (("cpu", "reference"), (DEVICE, backend))
    ]
    np.testing.assert_array_equal(*fooled)


@cuda
def test_a_graph_is_recorded_and_a_round_waits_for_nothing():
    """As many waits for the device in 64 batches as in 16: none belongs to a batch."""
    model, x = small()
    engine = Evaluator(rc.Engine(model.cuda(), batch_size=64), x.cuda())
    grid, waits = np.array([0.1]), []
    engine.counts(grid, 64 * GRAPH_BATCHES, lambda n: None)
    assert engine._graph is not None
    assert engine._graph.graph is not None
    for batches in (16, 64):
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                engine.counts(grid, batches * 64 // len(x), lambda n: None)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        waits.append(sum("synchronizing" in str(each.message) for each in said))
    assert waits[0] == waits[1]
    assert waits[0] > 0  # the counts themselves are waited for


@cuda
def test_a_model_that_waits_for_the_device_is_not_recorded():
    model, x = small()
    model, x = model.double().cuda(), x.double().cuda()

    def waits(images):
        assert float(images.mean()) < 10
        return model(images)

    got, want = (
        rc.error_rate(rc.Engine(each, batch_size=16), x, 0.2, samples=600)
        for each in (waits, model)
    )
    np.testing.assert_array_equal(got.n_errors, want.n_errors)
    assert any("no CUDA graph" in note for note in got.provenance.notes)
    assert not any("no CUDA graph" in note for note in want.provenance.notes)
    assert torch.rand(2, device="cuda").isfinite().all()
    torch.cuda.empty_cache()


@cuda
@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_lower_precision_on_the_device_counts_what_float32_does(precision):
    """Of 8,192 draws at most two may differ: a graph's algorithms round as they like."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, x = ResNet(8).eval().cuda(), torch.rand(4, 3, 32, 32).cuda()
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        want = rc.error_rate(rc.Engine(model, batch_size=256), x, 0.2, samples=2048)
        got = rc.error_rate(
            rc.Engine(model, batch_size=256, precision=precision), x, 0.2, samples=2048
        )
    assert int(np.abs(got.n_errors - want.n_errors).sum()) <= 2
    assert any(precision in note for note in got.provenance.notes)
    assert not any("no CUDA graph" in note for note in got.provenance.notes)


@cuda
def test_a_full_device_halves_the_batch_and_changes_no_count():
    model, x = ResNet(8).eval().double().cuda(), torch.rand(4, 3, 32, 32).double().cuda()
    want = rc.error_rate(rc.Engine(model, batch_size=64), x, 0.1, samples=4096)
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    held = torch.empty(free - 2**30, dtype=torch.uint8, device="cuda")
    try:
        got = rc.error_rate(rc.Engine(model, batch_size=8192), x, 0.1, samples=4096)
    finally:
        del held
        torch.cuda.empty_cache()
    assert any("out of memory: batch size halved" in note for note in got.provenance.notes)
    np.testing.assert_array_equal(got.n_errors, want.n_errors)


@cuda
@pytest.mark.parametrize("network", ["dense", "convolved"])
@pytest.mark.parametrize("name", ["cuda", "triton"])
def test_fused_networks_on_the_device_are_those_of_the_cpu(name, network):
    """CUDA has the CPU's bits; Triton's products of parts of TF32 are float32 to some units."""
    if name not in FAST:
        pytest.skip(str(unavailable(name, DEVICE)))
    from robustcore.fused.cuda import CudaConvolvedNet, CudaNet
    from robustcore.fused.triton import TritonNet
    from robustcore.fused.triton_convolved import TritonConvolvedNet

    bodies = {"dense": (CudaNet, TritonNet), "convolved": (CudaConvolvedNet, TritonConvolvedNet)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = _dense(784, 256, 10) if network == "dense" else MnistNet()
    packed, arguments = pack(model.eval(), (1, 28, 28)), slots((1, 28, 28), 500)
    net = Elsewhere(bodies[network][name == "triton"](packed, "cuda"))
    with torch.backends.cudnn.flags(allow_tf32=False):
        got = net.logits(*arguments, seed=3)
    want = NativeNet(packed).logits(*arguments, seed=3)
    if (name, network) == ("cuda", "dense") and {"avx512", "avx2"} & set(ISAS):
        assert torch.equal(got, want)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@cuda
@pytest.mark.parametrize("norm", [2.0, np.inf])
@pytest.mark.parametrize("name", ["cuda", "triton"])
def test_fused_descents_on_the_device_end_where_those_of_the_cpu_do(name, norm):
    """CUDA has the CPU's bits, as the loss has no exponential; Triton rounds otherwise."""
    if name not in FAST:
        pytest.skip(str(unavailable(name, DEVICE)))
    from robustcore.fused.cuda import CudaNet
    from robustcore.fused.triton_ascent import TritonAscents

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = _dense(784, 256, 10).eval()
    packed, (x, rows, *_) = pack(model, (1, 28, 28)), slots((1, 28, 28), 500)
    goal, flat = model(x).argmax(1), x.flatten(1)
    radius = torch.linspace(0.001, 0.5, 500) * (1 if norm == 2 else 0.03)
    answers = []
    for net in (Elsewhere((CudaNet if name == "cuda" else TritonAscents)(packed, "cuda")),
                NativeNet(packed)):  # fmt: skip
        points, gradient = flat[rows], torch.empty(500, 784)
        seen = net.differentiate(points, rows, goal, gradient, loss="margin")
        ends = net.descend(
            flat, points, rows, goal, radius, radius.clone(), norm=norm, steps=20, adapts=True,
            loss="margin", box=(0.0, 1.0),
        )  # fmt: skip
        answers.append((gradient, *seen, points, *ends))
    if name == "cuda" and "avx512" in ISAS:
        assert all(torch.equal(*each) for each in zip(*answers, strict=True))
    for one, other in zip(*answers, strict=True):
        close = torch.isclose(one.double(), other.double(), 1e-3, 1e-4)
        assert float(close.double().mean()) > 0.98


MEASURES = {
    "sigma": lambda *on: rc.sigma_at_error_rate(*on, 0.1, samples=100).sigma,
    "bisection": lambda *on: (
        rc.sigma_at_error_rate(*on, 0.1, samples=100, method="bisection").sigma
    ),
    "splitting": lambda *on: rc.error_rate(*on, 0.02, samples=200, method="splitting").rate,
    "certificate": lambda *on: rc.certify(*on, sigma=0.1, n0=20, n=200).n_top,
    "answer": lambda *on: rc.predict(*on, sigma=0.1, n=200).counts,
    "distance": lambda *on: rc.distance_to_error(*on).distance,
    "noisy distance": lambda *on: (
        rc.noisy_distance(*on, sigma=0.05, points=6, samples=200).distance
    ),
    "window": lambda *on: rc.church_windows(*on, sigma=0.05, size=20, samples=100).sigma,
}


@pytest.mark.parametrize("name", MEASURES)
def test_measures_on_the_device_are_those_of_the_reference_on_a_cpu(name):
    """By a network in float64, which leaves no rounding to decide anything."""
    model, x = small()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "_PREFERRED", {"cpu": (), "cuda": ()})
        here = MEASURES[name](model.double(), x.double())
    there = MEASURES[name](model.to(DEVICE), x.double().to(DEVICE))
    # particles keep positions in float32, and where one parts from its twin all later ones do
    np.testing.assert_allclose(there, here, rtol=0.5 if name == "splitting" else 1e-3)
    assert np.isfinite(here).any()


@pytest.mark.parametrize("name", ["Natural", "Gaussian", "Adversarial"])
def test_networks_are_trained_on_the_device(name, toy_networks, tmp_path):
    recipe = {
        "Natural": training.Natural(),
        "Gaussian": training.Gaussian(0.1),
        "Adversarial": training.Adversarial(0.03, steps=2),
    }[name]
    how = {**SMALL, "device": DEVICE}
    found = training.train("narrow", toy(), recipe=recipe, out=tmp_path, **how)
    assert found.card["device"] == DEVICE
    assert 0.2 < found.card["test_accuracy"] <= 1
    images = torch.rand(3, 3, 8, 8, device=DEVICE)
    rate = rc.error_rate(found.model.to(DEVICE).eval(), images, 0.1, samples=50)
    assert rate.n_samples.sum() == 150
