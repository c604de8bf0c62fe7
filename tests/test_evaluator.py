"""The engine: randomised models, models that cannot be measured, memory, layouts, compilation."""

import numpy as np
import pytest
import torch
from models import HalfSpace, Small, grey
from torch import nn

import robustcore as rc
from robustcore.evaluator import Evaluator
from robustcore.network import Network


def images(n, shape=(3, 8, 8)):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(0))


def table(n, samples, sigma=0.3):
    rows = np.arange(n).repeat(samples)
    return rows, np.full(len(rows), sigma), np.tile(np.arange(samples), n)


def test_dropout_left_on_is_announced_and_searched_with_fresh_draws():
    model = Small(nn.Dropout(0.2)).eval()
    model.layers[2].train()
    x = images(4)
    with pytest.warns(rc.RandomizedModelWarning, match="varies from call to call"):
        record = rc.sigma_at_error_rate(model, x, 0.2, samples=200)
    assert record.provenance.randomized
    assert record.provenance.method == "bisection"
    assert any("varies" in note for note in record.provenance.notes)
    still = Small(nn.Dropout(0.2)).eval()
    record = rc.sigma_at_error_rate(still, x, 0.2, samples=200)
    assert not record.provenance.randomized


def test_batch_norm_in_training_mode_is_refused():
    model = Small(nn.BatchNorm2d(8))
    with pytest.raises(ValueError, match=r"model must be in evaluation mode.*model\.eval\(\)"):
        rc.error_rate(model, images(4), 0.1, samples=5)
    before = model.layers[2].running_mean.clone()
    rc.error_rate(model.eval(), images(4), 0.1, samples=5)
    assert torch.equal(model.layers[2].running_mean, before)


def test_answers_that_depend_on_the_batch_are_refused():
    def model(x):
        return (x - x.mean(0)).flatten(1)[:, :3] * torch.arange(1, len(x) + 1)[:, None]

    with pytest.raises(ValueError, match="model must judge each image by itself"):
        rc.error_rate(model, images(4), 0.1, samples=5)


class Limited(nn.Module):
    """Runs out of memory for batches above `most`."""

    def __init__(self, most, error):
        super().__init__()
        self.inner, self.most, self.error, self.sizes = Small().eval(), most, error, []

    def forward(self, x):
        if len(x) > self.most:
            raise self.error
        self.sizes.append(len(x))
        return self.inner(x)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
    ],
)
def test_memory_that_runs_out_halves_the_batch(error):
    x = images(6)
    limited = Limited(20, error)
    got = rc.error_rate(rc.Engine(limited, batch_size=128), x, 0.3, samples=50)
    want = rc.error_rate(limited.inner, x, 0.3, samples=50)
    np.testing.assert_array_equal(got.n_errors, want.n_errors)
    assert got.provenance.batch_size == 16
    assert any("halved to 16" in note for note in got.provenance.notes)
    assert max(limited.sizes) <= 20


def test_memory_that_is_never_enough_is_an_error():
    with pytest.raises(torch.OutOfMemoryError):
        rc.error_rate(Limited(0, torch.OutOfMemoryError("out")), images(2), 0.1, samples=5)


def test_other_errors_of_the_model_are_its_own():
    def broken(x):
        raise RuntimeError("my own mistake")

    with pytest.raises(RuntimeError, match="my own mistake"):
        rc.error_rate(broken, images(2), 0.1, samples=5)


def test_convolutions_get_channels_last_and_others_do_not():
    seen = []

    class Watch(Small):
        def forward(self, x):
            seen.append(x.is_contiguous(memory_format=torch.channels_last))
            return super().forward(x)

    rc.error_rate(Watch().eval(), images(3), 0.1, samples=20)
    assert all(seen)
    seen.clear()

    def model(x):
        seen.append(x.is_contiguous())
        return x.flatten(1)[:, :3]

    rc.error_rate(model, images(3), 0.1, samples=20)
    assert all(seen)


def test_a_module_that_cannot_take_channels_last_gets_contiguous_images():
    class View(Small):
        def forward(self, x):
            return super().forward(x.view(len(x), -1).view(x.shape))

    record = rc.error_rate(View().eval(), images(3), 0.3, samples=50)
    want = rc.error_rate(Small().eval(), images(3), 0.3, samples=50)
    np.testing.assert_array_equal(record.n_errors, want.n_errors)
    assert any("channels_last failed" in note for note in record.provenance.notes)


@pytest.mark.slow
def test_a_compiled_model_gives_the_same_counts_up_to_its_own_rounding():
    x = images(3)
    eager, compiled = (
        Evaluator(rc.Engine(Small().eval(), batch_size=64, compile=c), x) for c in (False, True)
    )
    assert compiled.compiled
    assert not eager.compiled
    for samples in (5, 40, 100):  # smaller than a batch, equal to none, larger
        a, b = (e.margins(*table(3, samples)) for e in (eager, compiled))
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_compilation_is_chosen_by_the_work_to_come(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch, "compile", lambda model, **_: chosen.append(model) or model)
    model = Small(nn.Softplus()).eval()  # not one that is fused
    Evaluator(model, images(2), planned=10**3)
    assert not chosen
    Evaluator(model, images(2), planned=10**12)
    assert chosen == [model]
    assert not Evaluator(rc.Engine(model, compile=False), images(2), planned=10**12).compiled


@pytest.mark.parametrize(
    ("n", "places", "neighbours"),
    [(10, [0, 3, 6, 9], [1, 4, 5, 8]), (5, [0, 1, 2, 4], [1, 2, 1, 3]), (4, None, None)],
)
def test_images_of_a_larger_batch_are_judged_again_from_the_first_to_the_last(
    n, places, neighbours
):
    asked = []

    def model(x):
        asked.append(x[:, 0, 0, 0].tolist())
        return x.flatten(1)[:, :2] + (len(x) if len(x) < n else 0)  # by the size of the batch

    network = Network(model, torch.device("cpu"), torch.float32, torch.Size((1, 2, 2)))
    x = torch.arange(float(n)).view(n, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()
    network.compare_from(torch.ones(2))
    if places is None:
        network(x)
        assert len(asked) == 1
        return
    with pytest.raises(ValueError, match=f"4 of {n} were given other logits by themselves"):
        network(x)
    assert asked[1:] == [places, neighbours]
    assert network.compared_since() == 8


def test_a_model_is_compiled_with_images_laid_out_as_those_of_batches(monkeypatch):
    given = []

    def compiled(model, **_):
        def call(x):
            given.append((len(x), x.is_contiguous(memory_format=torch.channels_last)))
            return model(x)

        return call

    monkeypatch.setattr(torch, "compile", compiled)
    engine = Evaluator(rc.Engine(Small().eval(), compile=True, batch_size=64), images(3))
    assert engine.network.layout is torch.channels_last
    engine.margins(*table(3, 100))
    assert given[0][0] == 64  # what it is compiled with, before any batch
    assert len(given) > 2
    assert all(laid_out for _, laid_out in given)


def test_automatic_compilation_that_fails_is_recorded_and_a_wanted_one_raises(monkeypatch):
    def fail(model, **_):
        def call(x):
            raise OSError("no compiler")

        return call

    monkeypatch.setattr(torch, "compile", fail)
    model = Small(nn.Softplus()).eval()
    automatic = Evaluator(model, images(2), planned=10**12)
    assert not automatic.compiled
    assert any("no compiler" in note for note in automatic.notes)
    with pytest.raises(OSError, match="no compiler"):
        Evaluator(rc.Engine(model, compile=True), images(2))


def test_an_object_with_logits_is_accepted():
    class Output:
        def __init__(self, logits):
            self.logits = logits

    inner = HalfSpace(16, 0.5)
    x, y = grey(2)
    a = rc.error_rate(lambda v: Output(inner(v)), x, 0.3, y, samples=99)
    b = rc.error_rate(inner, x, 0.3, y, samples=99)
    np.testing.assert_array_equal(a.n_errors, b.n_errors)


def test_a_model_may_write_on_its_input():
    inner = Small().eval()
    x = images(4)
    kept = x.clone()
    a = rc.error_rate(
        rc.Engine(lambda v: inner(v.mul_(2).div_(2)), batch_size=16), x, 0.3, samples=50
    )
    b = rc.error_rate(inner, x, 0.3, samples=50)
    np.testing.assert_array_equal(a.n_errors, b.n_errors)
    assert torch.equal(x, kept)


def test_no_gradients_are_made():
    model = Small().eval()

    def watched(x):
        assert not torch.is_grad_enabled()
        return model(x)

    rc.error_rate(watched, images(2).requires_grad_(), 0.1, samples=5)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_graph_gives_the_counts_of_the_cpu():
    model, x = Small().eval().double(), images(5).double()
    want = rc.error_rate(model, x, [0.1, 0.4], samples=500)
    got = rc.error_rate(rc.Engine(model.cuda(), batch_size=64), x.cuda(), [0.1, 0.4], samples=500)
    np.testing.assert_array_equal(got.n_errors, want.n_errors)
    assert not got.provenance.notes


class Writes(torch.nn.Module):
    """A model that changes the images that it is given, or works on copies of them."""

    def __init__(self, how):
        super().__init__()
        torch.manual_seed(0)
        self.how, self.rest = how, torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))

    def forward(self, x):
        match self.how:
            case "subtract":
                x.sub_(0.5).div_(0.25)
            case "relu":  # of pixels in [0, 1] it changes none
                x.relu_()
            case "unseen":
                x.data.sub_(0.5).div_(0.25)
            case "relu of a copy":
                x = x.relu()
            case _:
                x = (x - 0.5) / 0.25
        return self.rest(x)


@pytest.mark.parametrize(
    ("how", "alike"), [("subtract", "copy"), ("unseen", "copy"), ("relu", "relu of a copy")]
)
@pytest.mark.parametrize("hidden", [True, False])
def test_a_model_that_writes_to_its_input_is_given_copies(how, alike, hidden):
    x = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    kept = x.clone()

    def found(how, near):
        module = Writes(how).eval()
        model = (lambda images: module(images)) if hidden else module
        rates = rc.error_rate(model, x, [0.8, 1.6], samples=100)
        yield rates.rate
        yield rc.sigma_at_error_rate(model, x, 0.05, samples=100).sigma
        yield rc.certify(model, x, sigma=0.1, n=200).radius
        if near:  # gradients know nothing of a write that autograd does not see
            yield rc.distance_to_error(model, x).distance
        yield "the model writes to its input: it was given copies" in rates.provenance.notes
        assert torch.equal(x, kept)

    *right, told = found(alike, how != "unseen")
    assert not told
    *mine, told = found(how, how != "unseen")
    assert told or not hidden  # a network that is fused is not called
    assert all(map(np.array_equal, mine, right))
    assert mine[0].any()


def test_a_model_that_writes_is_compiled_on_copies():
    x = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    rates = [
        rc.error_rate(rc.Engine(Writes(how).eval(), compile=True), x, 0.2, samples=100).rate
        for how in ("subtract", "copy")
    ]
    assert np.array_equal(*rates)
