"""Fused networks: the same noise, the same counts, and a record that says so."""

import copy

import numpy as np
import pytest
import torch
from fused_models import MODELS, _dense, band, model, noisy_images, slots
from models import direction, grey
from scipy.stats import binom, norm
from torch import nn

import robustcore as rc
from robustcore.evaluator import Evaluator
from robustcore.fused import pack
from robustcore.fused.native import ISAS, NativeNet
from robustcore.fused.packed import Layer, Packed
from robustcore.fused.reference import ReferenceNet

pytestmark = pytest.mark.usefixtures("strange_memory")
FALSE_ALARM = 1e-6
BODIES = ["avx512", "avx2", "baseline"]


@pytest.fixture(params=BODIES)
def isa(request):
    if request.param not in ISAS:
        pytest.skip(f"this machine does not run {request.param}")
    return request.param


@pytest.mark.parametrize("clip", [None, (0.0, 1.0)])
@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_the_noise_that_perturb_makes(name, clip, isa):
    module, shape = model(name)
    packed, arguments = pack(module, shape), slots(shape)
    names = {"seed": 2**63 - 5, "stream": 7, "clip": clip}
    got = NativeNet(packed, isa).logits(*arguments, **names).double()
    want = ReferenceNet(packed, torch.float64).logits(*arguments, **names)
    allowed = band(packed, noisy_images(arguments, **names))
    assert bool(((got - want).abs() <= allowed).all())
    other = ReferenceNet(packed, torch.float64).logits(*arguments, **{**names, "seed": 1})
    assert not bool(((got - other).abs() <= allowed).any(1).all())  # the band can be missed


@pytest.mark.parametrize("name", ["mlp", "chain"])
def test_a_slot_does_not_depend_on_its_company(name, isa):
    module, shape = model(name)
    net, (x, rows, sigma, samples, ids) = NativeNet(pack(module, shape), isa), slots(shape, 300)
    whole = net.logits(x, rows, sigma, samples, ids, seed=3)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    mixed = net.logits(x, rows[order], sigma[order], samples[order], ids, seed=3)
    assert torch.equal(mixed, whole[order])
    some = net.logits(x, rows[77:95], sigma[77:95], samples[77:95], ids, seed=3)
    assert torch.equal(some, whole[77:95])
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            assert torch.equal(net.logits(x, rows, sigma, samples, ids, seed=3), whole)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", MODELS)
def test_instruction_sets_with_contraction_agree_bit_for_bit(name):
    if not {"avx512", "avx2"} <= set(ISAS):
        pytest.skip("this machine does not run both")
    module, shape = model(name)
    packed, arguments = pack(module, shape), slots(shape)
    both = [NativeNet(packed, each).logits(*arguments, seed=0) for each in ("avx512", "avx2")]
    assert torch.equal(*both)


def half_space(distance, n=48):
    """Class 0 is right on one side of a plane at `distance` from images of 0.5."""
    w = direction(n).float()
    module = nn.Sequential(nn.Flatten(), nn.Linear(n, 2))
    with torch.no_grad():
        module[1].weight.copy_(torch.stack([w, -w]) / 2)
        bias = distance - 0.5 * float(w.sum())
        module[1].bias.copy_(torch.tensor([bias, -bias]) / 2)
    return module.eval()


@pytest.mark.parametrize("draws", ["pixels", "features"])
def test_a_linear_model_has_the_error_rate_of_theory(draws):
    """Each of 20 images has its own draws; two-sided exact test of their sum at FALSE_ALARM."""
    x, y = grey(20, (3, 4, 4))
    sigma, distance, samples = 0.5, 0.6, 2000
    packed = pack(half_space(distance), (3, 4, 4), draws=draws)
    record = rc.error_rate(packed, x, [sigma, 1.05 * sigma], y, samples=samples)
    assert len(set(record.n_errors[:, 0])) > 5
    rate = norm.cdf(-distance / sigma)
    low, high = binom.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], 20 * samples, rate)
    seen = record.n_errors.sum(0)
    assert low <= seen[0] <= high
    assert not low <= seen[1] <= high  # 5 % more noise is told apart


def test_noise_in_the_features_has_the_covariance_of_the_first_layer():
    module, shape = model("mlp")
    packed = pack(module, shape, draws="features")
    weight = packed.layers[0].weight.double()
    factor = packed.factor()
    torch.testing.assert_close(factor @ factor.T, weight @ weight.T, rtol=1e-9, atol=1e-12)
    arguments = slots(shape)
    got = NativeNet(packed).logits(*arguments, seed=3).double()
    want = ReferenceNet(packed, torch.float64).logits(*arguments, seed=3)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    pixels = NativeNet(pack(module, shape)).logits(*arguments, seed=3).double()
    assert (got - pixels).abs().amax(1).min() > 1e-5  # other draws


def test_rank_deficient_first_layers_need_fewer_numbers():
    module = _dense(60, 8, 2).eval()
    with torch.no_grad():
        module[1].weight[4:] = 0.5 * module[1].weight[:4]
    assert pack(module, (1, 6, 10), draws="features").factor().shape == (8, 4)


def test_features_are_never_silent():
    module, shape = model("mlp")
    x = slots(shape)[0]
    packed = pack(module, shape, draws="features")
    record = rc.error_rate(packed, x, 0.3, samples=50)
    assert any("not the draws of pixels" in note for note in record.provenance.notes)
    pixels = rc.error_rate(module, x, 0.3, samples=50)
    assert not any("not the draws of pixels" in note for note in pixels.provenance.notes)
    slow = rc.error_rate(rc.Engine(packed, backend="reference"), x, 0.3, samples=50)
    np.testing.assert_array_equal(slow.n_errors, record.n_errors)
    with pytest.raises(ValueError, match="clip must be None for draws='features'"):
        rc.error_rate(packed, x, 0.3, samples=50, noise=rc.Gaussian((0, 1)))
    with pytest.raises(ValueError, match=r"x must be torch.float32 for draws='features'"):
        rc.error_rate(packed, x.double(), 0.3, samples=50)
    with pytest.raises(ValueError, match="model must draw its noise in pixels"):
        Evaluator(packed, x).noisy(torch.zeros(1).long(), torch.ones(1), torch.zeros(1).long())


def test_features_of_a_layer_of_zeros_are_zeros(isa):
    packed = Packed((3, 2, 2), (Layer(torch.zeros(2, 12), torch.tensor([0.0, 1.0])),), "features")
    assert packed.factor().tolist() == [[0.0], [0.0]]
    x, rows, sigma, samples, ids = slots((3, 2, 2))
    for net in (NativeNet(packed, isa), ReferenceNet(packed)):
        logits = net.logits(x, rows, sigma, samples, ids, seed=0)
        assert torch.equal(logits, torch.tensor([0.0, 1.0]).expand(len(rows), 2))


def constant(weight, bias):
    layer = Layer(torch.full((2, 12), weight), torch.tensor(bias))
    return Packed((3, 2, 2), (layer,))


@pytest.mark.parametrize(
    ("weight", "bias", "errors"),
    [
        (0.0, [1.0, 0.0], 0),
        (0.0, [0.0, 0.0], 40),
        (0.0, [float("nan"), 0.0], 40),
        (0.0, [0.0, float("nan")], 40),
        (float("nan"), [1.0, 0.0], 40),
        (0.0, [float("inf"), float("inf")], 40),
    ],
)
def test_ties_and_nan_are_errors(weight, bias, errors, isa):
    x, labels = grey(1, (3, 2, 2))
    grid, ids = torch.tensor([0.5]), torch.zeros(1, dtype=torch.int64)
    for net in (NativeNet(constant(weight, bias), isa), ReferenceNet(constant(weight, bias))):
        counts = torch.full((1, 1), 100)
        net.count_errors(x, labels, grid, ids, (3, 40), counts, seed=0)
        assert int(counts) == 100 + errors


@pytest.mark.parametrize(
    "how",
    [{"backend": "reference"}, {"compile": True}, {"dtype": torch.float64}, {"training": True}],
)
def test_the_plain_path_is_taken_where_it_must_be(how, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    module, shape = model("mlp")
    x = slots(shape)[0].to(how.pop("dtype", torch.float32))
    if how.pop("training", False):
        module = nn.Sequential(nn.Dropout(0.5).train(), *module)
        module[0].train()
        with pytest.warns(rc.RandomizedModelWarning):
            assert Evaluator(module, x).fused is None
        return
    assert Evaluator(rc.Engine(module.to(x.dtype), **how), x).fused is None


def test_an_infinite_weight_counts_as_without_fusing():
    """W (x + sigma z) is infinite of one sign where W x and W z are of two."""
    module, shape = model("linear")
    module = copy.deepcopy(module)
    with torch.no_grad():
        module[1].weight[3, 5] = torch.inf
    x = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))
    fast, slow = (
        rc.error_rate(rc.Engine(module, backend=backend), x, 0.4, samples=100).n_errors
        for backend in (None, "reference")
    )
    np.testing.assert_array_equal(fast, slow)
    assert 0 < slow.sum() < 300


def test_a_module_that_lies_about_its_layers_is_not_fused():
    """What the packed network says of the images is compared with what the model says."""
    module, shape = model("mlp")
    x = slots(shape)[0]
    assert Evaluator(module, x).fused is not None
    # a call that bypasses forward is nothing that tracing sees
    module.__class__ = type("Twice", (nn.Sequential,), {"__call__": lambda s, z: 2 * s.forward(z)})
    assert Evaluator(module, x).fused is None


@pytest.mark.parametrize("other", [2.0, -1.0])
def test_logits_beside_an_infinite_one_are_compared_and_its_sign(other):
    module, shape = model("linear")
    module = copy.deepcopy(module)
    with torch.no_grad():
        module[1].bias[3] = -torch.inf
    x = slots(shape)[0]
    assert Evaluator(module, x).fused is not None

    def call(self, z):
        logits = self.forward(z)
        return logits * other if other > 0 else torch.where(logits.isinf(), -logits, logits)

    module.__class__ = type("Other", (nn.Sequential,), {"__call__": call})
    assert Evaluator(module, x).fused is None


def test_rows_outside_the_batch_are_refused():
    module, shape = model("mlp")
    x, rows, sigma, samples, ids = slots(shape)
    net = NativeNet(pack(module, shape))
    with pytest.raises(ValueError, match=r"rows must lie in \[0, 5\); got 5"):
        net.logits(x, rows.clamp(min=5), sigma, samples, ids, seed=0)
    with pytest.raises(ValueError, match=r"sigma must be torch.float32 of shape"):
        net.logits(x, rows, sigma.double(), samples, ids, seed=0)
    with pytest.raises(ValueError, match="isa must be one that this machine runs"):
        NativeNet(pack(module, shape), "sse9").logits(x, rows, sigma, samples, ids, seed=0)
