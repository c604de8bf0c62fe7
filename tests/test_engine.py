"""An engine is set up once, and gives the numbers of a new one in every later call."""

import copy
import itertools
import threading
import warnings

import numpy as np
import pytest
import torch
from models import Small
from torch import nn

import robustcore as rc
from robustcore import fused
from robustcore.corruptions import corrupt, corruption_benchmark_files
from robustcore.evaluator import Evaluator
from robustcore.report import Report

X = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
PICTURES = X.repeat(1, 1, 4, 4)
Y = torch.tensor([0, 1, 2])
GRID = [0.3, 0.6]


def dense(inputs=192):
    """A network that is fused with its noise."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(inputs, 16), nn.ReLU(), nn.Linear(16, 5)
        ).eval()


def convolution():
    """One that is not."""
    return Small(nn.Softplus()).eval()


def attack(model, x, y):
    """One that makes no engine of its own."""
    return 1 - x


def from_files(model, folder):
    """The corruption benchmark of files that are written once."""
    folder.mkdir(exist_ok=True)
    if not (folder / "fog.npy").exists():
        levels = [corrupt(PICTURES, "fog", severity) for severity in range(1, 6)]
        pixels = (torch.cat(levels) * 255).byte().permute(0, 2, 3, 1).numpy()
        np.save(folder / "fog.npy", pixels)
        np.save(folder / "labels.npy", Y.numpy())
    return corruption_benchmark_files(model, folder, PICTURES, corruptions="fog", severities=2)


def page(model, folder):
    how = {"sections": ["distance"], "rate": 0.1, "samples": 60, "effort": 5}
    return rc.report(model, X, out=folder / "page", **how)


# name: a call with a model, or an engine, and a folder
MEASURES = {
    "error_rate": lambda m, _: rc.error_rate(m, X, GRID, samples=60),
    "error_rate, splitting": lambda m, _: rc.error_rate(m, X, 0.1, samples=200, method="splitting"),
    "sigma": lambda m, _: rc.sigma_at_error_rate(m, X, 0.1, samples=60),
    "sigma, bisection": lambda m, _: rc.sigma_at_error_rate(
        m, X, 0.1, samples=60, method="bisection", noise=rc.Gaussian((0, 1))
    ),
    "sigma, splitting": lambda m, _: rc.sigma_at_error_rate(m, X, 0.001, samples=200),
    "curve": lambda m, _: rc.error_curve(m, X, rates=(0.1, 1e-3), samples=200),
    "distance": lambda m, _: rc.distance_to_error(m, X, effort=5),
    "distance, pgd": lambda m, _: rc.distance_to_error(m, X, method="pgd", steps=5),
    "pgd": lambda m, _: rc.pgd(m, X, eps=[0.1, 0.5], norm=2, steps=3),
    "noisy": lambda m, _: rc.noisy_distance(m, X, sigma=0.3, points=10, samples=40),
    "noisy, rate": lambda m, _: rc.noisy_distance(m, X, error_rate=0.1, points=10),
    "audit": lambda m, _: rc.audit_attack(m, X, None, attack, sigma=0.3, points=10, samples=40),
    "windows": lambda m, _: rc.church_windows(m, X, sigma=0.5, samples=40, size=9),
    "certify": lambda m, _: rc.certify(m, X, sigma=0.3, n0=10, n=60),
    "predict": lambda m, _: rc.predict(m, X, sigma=0.3, n=60),
    "corruptions": lambda m, _: rc.corruption_benchmark(
        m, PICTURES, corruptions=("fog", "gaussian_noise"), severities=3
    ),
    "corruption files": from_files,
    "report": page,
    "in a run": lambda m, folder: rc.error_rate(
        m, X, GRID, samples=60, run=folder / f"run{len(list(folder.iterdir()))}"
    ),
    "read": lambda m, _: rc.error_rate(m, X.numpy(), GRID, samples=60),
}
PHOTOS = ("corruptions", "corruption files")
SLOW = ("report", "error_rate, splitting", "sigma, splitting")


def network(name, kind):
    if name in PHOTOS:
        return dense(3072) if kind == "fused" else nn.Sequential(nn.AvgPool2d(4), convolution())
    return dense() if kind == "fused" else convolution()


def records(result):
    return result.records["model"] if isinstance(result, Report) else {"": result}


def bits(result):
    """All that was measured but what it cost, as bytes."""
    return {
        (name, array): np.asarray(getattr(record, array)).tobytes()
        for name, record in records(result).items()
        for array in record._arrays()
        if not array.startswith("n_forward")
    }


def spent(result):
    return sum(int(record.n_forward.sum()) for record in records(result).values())


class Calls:
    """How often the parts of a set-up were done."""

    def __init__(self, monkeypatch):
        self.probes = self.packs = self.compilations = 0
        probe, pack = Evaluator._probe, fused.pack

        def probed(*args):
            self.probes += 1
            return probe(*args)

        def packed(*args):
            self.packs += 1
            return pack(*args)

        def compiled(model, **options):
            self.compilations += 1
            return copy.deepcopy(model)  # as what is frozen: it does not see later parameters

        monkeypatch.setattr(Evaluator, "_probe", probed)
        monkeypatch.setattr(fused, "pack", packed)
        monkeypatch.setattr(torch, "compile", compiled)

    @property
    def all(self):
        return self.probes, self.packs, self.compilations


# -- the second call -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, "fused") for name in MEASURES),
        *((name, "plain") for name in MEASURES if name not in SLOW),
        *((name, "compiled") for name in ("error_rate", "sigma", "pgd", "corruptions", "read")),
        ("curve", "compiled"),
    ],
)
def test_a_second_call_has_the_bits_of_a_new_engine_and_sets_nothing_up(
    name, kind, monkeypatch, tmp_path
):
    calls, measure, model = Calls(monkeypatch), MEASURES[name], network(name, kind)
    options = {"compile": True} if kind == "compiled" else {}
    engine = rc.Engine(model, **options)
    first = measure(engine, tmp_path)
    done = calls.all
    assert done[0] > 0
    assert done[1] >= (kind != "compiled")  # once for each range of clip
    assert (done[2] > 0) == (kind == "compiled")
    second = measure(engine, tmp_path)
    assert calls.all == done
    assert bits(second) == bits(first)
    new = measure(rc.Engine(model, **options), tmp_path)
    assert calls.all == tuple(2 * each for each in done)
    assert bits(new) == bits(first)
    assert spent(new) == spent(first)
    if name in ("in a run", "read"):  # in blocks, none of which pays for what all of them use
        assert spent(first) == spent(second)
    else:
        assert spent(first) > spent(second)


def test_one_engine_for_all_measurements(tmp_path):
    """Whatever was measured before, in another order too."""
    names = [name for name in MEASURES if name not in (*PHOTOS, *SLOW, "in a run")]
    for kind in ("fused", "plain"):
        engine = rc.Engine(network("", kind))
        alone = {name: bits(MEASURES[name](network("", kind), tmp_path)) for name in names}
        names.reverse()
        for name in names:
            assert bits(MEASURES[name](engine, tmp_path)) == alone[name], name


@pytest.mark.usefixtures("batches_not_compared")
@pytest.mark.parametrize("kind", ["fused", "plain"])
def test_a_later_call_costs_its_draws_and_one_look_at_each_image(kind):
    model = network("", kind)
    for measure, cost in (
        (lambda m: rc.error_rate(m, X, GRID, samples=60), 2 * 60 + 1),
        (lambda m: rc.certify(m, X, sigma=0.3, n0=10, n=60), 10 + 60 + 1),
        (lambda m: rc.predict(m, X, sigma=0.3, n=60), 60 + 1),
        (lambda m: rc.pgd(m, X, eps=1e-6, norm=2, steps=3), None),
        (lambda m: rc.distance_to_error(m, X, effort=5), None),
    ):
        engine = rc.Engine(model)
        first, second = measure(engine), measure(engine)
        box = (0.0, 1.0) if cost is None else None
        set_up = Evaluator(model, X, box=box).n_forward - 1
        assert set_up.sum() > 4
        assert (first.n_forward - second.n_forward).tolist() == set_up.tolist()
        if cost is not None:
            assert second.n_forward.tolist() == [cost] * len(X)


def test_the_model_sees_nothing_else_in_a_later_call():
    seen = []
    net = convolution()

    def model(x):
        seen.append(len(x))
        return net(x)

    engine = rc.Engine(model)
    for _ in range(3):
        seen.clear()
        record = rc.error_rate(engine, X, GRID, samples=60)
        assert sum(seen) == record.n_forward.sum()
    assert record.n_forward.tolist() == [121] * 3


def test_another_number_of_images_and_other_labels_are_no_other_engine():
    engine = rc.Engine(convolution())
    rc.error_rate(engine, X, 0.3, samples=60)
    for x, y in ((X[1:2], None), (X[0], 4), (X, Y)):
        mine, want = (rc.error_rate(m, x, 0.3, y, samples=60) for m in (engine, convolution()))
        assert bits(mine) == bits(want)
    assert bits(rc.error_rate(engine, X.double(), 0.3, samples=60)) == bits(
        rc.error_rate(convolution(), X, 0.3, samples=60)
    )


# -- images of another kind ----------------------------------------------------------------------


def test_images_of_another_shape_or_type_are_refused_with_both():
    engine = rc.Engine(lambda x: x.flatten(1)[:, :5])
    rc.error_rate(engine, X, 0.3, samples=20)
    for other, message in (
        (X[..., :4, :4], r"x must be inputs of shape \(3, 8, 8\), .* had shape \(\d, 3, 4, 4\)"),
        (X[:, :1], r"x must be inputs of shape \(3, 8, 8\), .* had shape \(\d, 1, 8, 8\)"),
        (
            X.double(),
            r"x must be images like those that the engine was set up for, \(3, 8, 8\) in "
            r"torch.float32 on cpu, was \(3, 8, 8\) in torch.float64 on cpu: make another Engine",
        ),
    ):
        for measure in (rc.error_rate, rc.sigma_at_error_rate):
            with pytest.raises(ValueError, match=message):
                measure(engine, other, 0.3, samples=20)
    assert len(rc.error_rate(engine, X, 0.3, samples=20)) == len(X)


class Stubborn(nn.Module):
    """Fails at its first call."""

    def __init__(self):
        super().__init__()
        self.inner, self.failed = convolution(), False

    def forward(self, x):
        if not self.failed:
            self.failed = True
            raise KeyError("not yet")
        return self.inner(x)


@pytest.mark.parametrize(
    ("model", "x", "y", "error"),
    [
        (convolution, X, [0, 1, 9], ValueError),
        (convolution, X, [0, 1], ValueError),
        (convolution, X[..., :4, :4], None, RuntimeError),
        (Stubborn, X, None, KeyError),
        (lambda: lambda x: x.flatten(1)[:, :5] + x.sum(), X, None, ValueError),
    ],
)
def test_an_engine_whose_first_call_failed_can_be_used(model, x, y, error):
    engine = rc.Engine(model())
    with pytest.raises(error):
        rc.error_rate(engine, x, 0.3, y, samples=60)
    if error is ValueError and y is None:
        with pytest.raises(error, match="judge each image by itself"):  # nor later
            rc.error_rate(engine, x, 0.3, y, samples=60)
        return
    found = rc.error_rate(engine, X, 0.3, Y, samples=60)
    want = rc.error_rate(convolution(), X, 0.3, Y, samples=60)
    assert bits(found) == bits(want)
    assert found.n_forward.tolist() == want.n_forward.tolist()


# -- modules that change -------------------------------------------------------------------------


def negated(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.neg_()


def nudged(model):
    """By so little that a few draws alone change."""
    with torch.no_grad():
        model[-1].bias[0] += 1e-3


def written_through_data(model):
    for parameter in model.parameters():
        parameter.data.mul_(-1)


def replaced(model):
    model[-1] = nn.Linear(model[-1].in_features, 5)
    with torch.no_grad():
        model[-1].weight.copy_(torch.linspace(-1, 1, model[-1].weight.numel()).view(5, -1))


def loaded(model):
    weights = {name: -value for name, value in model.named_parameters()}
    model.load_state_dict(model.state_dict() | weights)


def normalised_otherwise(model):
    """A buffer, as of a batch norm."""
    norm = next(each for each in model if isinstance(each, nn.BatchNorm2d))
    norm.running_mean.copy_(torch.tensor([0.3, -0.2, 0.1]))


@pytest.mark.parametrize("kind", ["fused", "plain", "compiled"])
@pytest.mark.parametrize(
    "change", [negated, nudged, written_through_data, replaced, loaded, normalised_otherwise]
)
def test_a_module_is_measured_as_it_is_now(change, kind, monkeypatch):
    Calls(monkeypatch)
    last = () if kind == "fused" else (nn.Tanh(),)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), *last, nn.Linear(16, 5)
        ).eval()
    options = {"compile": True} if kind == "compiled" else {}
    y = model(X).argmax(1).tolist()
    engine = rc.Engine(model, **options)
    measures = (
        lambda m: rc.error_rate(m, X, GRID, y, samples=2000),
        lambda m: rc.pgd(m, X, y, eps=[0.01, 0.3], norm=2, steps=3),
    )
    before = [bits(measure(engine)) for measure in measures]
    was_fused = Evaluator(engine, X).fused is not None
    assert was_fused == (kind == "fused")
    change(model)
    after = [bits(measure(engine)) for measure in measures]
    assert after == [bits(measure(rc.Engine(model, **options))) for measure in measures]
    assert after != before
    assert (Evaluator(engine, X).fused is not None) == was_fused


def test_a_mode_that_changes_is_seen():
    model = nn.Sequential(nn.Dropout(0.5), *convolution().layers).eval()
    engine = rc.Engine(model)
    want = bits(rc.error_rate(engine, X, 0.3, samples=60))
    model.train()
    with pytest.warns(rc.RandomizedModelWarning):
        assert rc.error_rate(engine, X, 0.3, samples=60).provenance.randomized
    model.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert bits(rc.error_rate(engine, X, 0.3, samples=60)) == want


def test_a_batch_norm_left_in_training_is_refused_in_a_later_call():
    model = nn.Sequential(nn.BatchNorm2d(3), *convolution().layers).eval()
    engine = rc.Engine(model)
    rc.error_rate(engine, X, 0.3, samples=20)
    model.train()
    with pytest.raises(ValueError, match=r"call model.eval\(\)"):
        rc.error_rate(engine, X, 0.3, samples=20)


@pytest.mark.slow
def test_a_frozen_compiled_model_is_made_again():
    model = convolution()
    engine = rc.Engine(model, batch_size=64, compile=True)
    before = rc.error_rate(engine, X, GRID, samples=200)
    assert before.provenance.compile_seconds > 0
    assert rc.error_rate(engine, X, GRID, samples=200).provenance.compile_seconds == 0
    negated(model)
    found, want = (
        rc.error_rate(m, X, GRID, samples=200) for m in (engine, rc.Engine(model, compile=False))
    )
    assert np.abs(found.n_errors - want.n_errors).max() <= 2  # its own rounding
    assert np.abs(found.n_errors - before.n_errors).max() > 5


# -- one thread ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MEASURES)
def test_a_second_thread_is_told(name, tmp_path):
    engine = rc.Engine(network(name, "fused"))
    begun, ended = threading.Event(), threading.Event()

    def hold():
        with engine.used():
            begun.set()
            ended.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    begun.wait(60)
    try:
        with pytest.raises(RuntimeError, match="model must be an Engine that no other thread"):
            MEASURES[name](engine, tmp_path)
    finally:
        ended.set()
        thread.join()
    MEASURES[name](engine, tmp_path)


def test_a_measurement_holds_its_engine():
    """The other thread asks while this one is in the model."""
    net, told = convolution(), []

    def other():
        try:
            rc.error_rate(engine, X, 0.3, samples=20)
        except RuntimeError as error:
            told.append(str(error))

    def model(x):
        if not told:
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
        return net(x)

    engine = rc.Engine(model)
    found = rc.error_rate(engine, X, 0.3, samples=20)
    assert len(told) == 1
    assert "make one for each thread" in told[0]
    assert bits(found) == bits(rc.error_rate(lambda x: net(x), X, 0.3, samples=20))


def test_a_call_that_fails_lets_go_of_its_engine():
    engine, found = rc.Engine(convolution()), []
    with pytest.raises(ValueError, match="samples must be"):
        rc.error_rate(engine, X, 0.3, samples=0)
    thread = threading.Thread(
        target=lambda: found.append(rc.error_rate(engine, X, 0.3, samples=20))
    )
    thread.start()
    thread.join()
    assert len(found) == 1


# -- options -------------------------------------------------------------------------------------


def test_an_engine_of_an_engine_is_refused():
    with pytest.raises(TypeError, match="model must be a model, was an Engine"):
        rc.Engine(rc.Engine(dense()))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"model": 3}, TypeError, "model must be callable, was int"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, was 0"),
        ({"batch_size": 2.5}, TypeError, "batch_size must be an integer, was 2.5"),
        ({"block": 0}, ValueError, "block must be at least 1, was 0"),
        ({"block": "all"}, TypeError, "block must be an integer, was 'all'"),
        ({"backend": "cublas"}, ValueError, "backend must be one of reference, .*, was 'cublas'"),
        ({"backend": 1}, ValueError, "backend must be one of reference, .*, was 1"),
        ({"compile": 1}, TypeError, "compile must be True or False, was 1"),
        ({"precision": "float8"}, ValueError, "precision must be one of .*, was 'float8'"),
        ({"precision": 16}, ValueError, "precision must be one of .*, was 16"),
        ({"pixels": (1, 0)}, ValueError, "pixels must be .low, high. with low < high"),
        ({"pixels": 255}, TypeError, "pixels must be None or .low, high., was 255"),
        ({"progress": "yes"}, TypeError, "progress must be True or False, was 'yes'"),
    ],
)
def test_bad_options_are_refused_by_name_when_an_engine_is_made(options, error, message):
    with pytest.raises(error, match=message):
        rc.Engine(**{"model": dense(), **options})


def test_an_option_that_a_device_has_not_is_refused_by_every_call():
    for name, message in (
        ("cuda", "backend must .*cuda only"),
        ("triton", "backend must .*triton"),
    ):
        engine = rc.Engine(dense(), backend=name)
        for _ in range(2):
            with pytest.raises(RuntimeError, match=message):
                rc.error_rate(engine, X, 0.3, samples=20)


def test_an_engine_says_what_it_is():
    engine = rc.Engine(convolution())
    assert repr(engine) == "Engine(Small)"
    rc.error_rate(engine, X, 0.3, samples=20)
    assert repr(engine) == "Engine(Small for (3, 8, 8) torch.float32 on cpu)"
    assert repr(rc.Engine(attack)) == "Engine(function)"


def test_no_images_are_no_images_checked_before():
    with pytest.raises(TypeError, match=r"x must be a torch\.Tensor, was NoneType"):
        rc.Engine(dense()).images(None)


def test_parts_of_a_call_show_no_bar(capsys):
    engine = rc.Engine(convolution(), progress=True)
    with engine.part_of():
        rc.error_rate(engine, X, 0.3, samples=20)
    assert capsys.readouterr().err == ""
    rc.error_rate(engine, X, 0.3, samples=20)
    assert "60/60" in capsys.readouterr().err
    rc.error_rate(rc.Engine(convolution(), block=1, progress=True), X, 0.3, samples=20)
    shown = capsys.readouterr().err
    assert "3/3" in shown
    assert "20/20" not in shown


@pytest.mark.parametrize("name", MEASURES)
def test_images_out_of_range_are_told_of_once_in_each_call(name, tmp_path):
    engine = rc.Engine(network(name, "fused"), pixels=(0.0, 0.01))
    for _ in range(2):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            MEASURES[name](engine, tmp_path)
        told = [each for each in said if each.category is rc.PixelRangeWarning]
        assert sum(str(each.message).startswith("x should lie in [0, 0.01]") for each in told) == 1
        assert len(told) == len({str(each.message).split()[0] for each in told})
        assert {each.filename for each in told} == {__file__}


# -- memory --------------------------------------------------------------------------------------


class Tight(nn.Module):
    """Memory for 30 images."""

    def __init__(self):
        super().__init__()
        self.inner, self.failures = convolution(), 0

    def forward(self, x):
        if len(x) > 30:
            self.failures += 1
            raise torch.OutOfMemoryError("no room")
        return self.inner(x)


def test_memory_that_ran_out_is_remembered_by_the_engine():
    model = Tight()
    engine = rc.Engine(model.eval(), batch_size=128)
    halvings = [f"out of memory: batch size halved to {size}" for size in (64, 32, 16)]
    want = rc.error_rate(rc.Engine(convolution(), batch_size=16), X, GRID, samples=60)
    calls = (
        lambda: rc.error_rate(engine, X, GRID, samples=60),
        lambda: rc.error_rate(engine, X, GRID, samples=60),
        lambda: rc.distance_to_error(engine, X, effort=5),
        lambda: rc.error_rate(engine, X.numpy(), GRID, samples=60),
    )
    for call, number in zip(calls, itertools.count(), strict=False):
        record = call()
        assert model.failures == 3, number  # of the first call
        notes = [note for note in record.provenance.notes if "out of memory" in note]
        assert notes == halvings
        assert record.provenance.batch_size == 16
        if number < 2:
            assert bits(record) == bits(want)


class Elsewhere(nn.Module):
    """A model that notes where its inputs lie."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def forward(self, x):
        self.seen.add(str(x.device))
        return x.flatten(1)[:, :5]


def test_inputs_are_put_on_the_device_of_the_engine(monkeypatch):
    """Of another kind than the CPU: torch's own meta device holds no values, and so is refused."""
    with pytest.raises(ValueError, match="device must be one that torch can use here, was 'meta'"):
        rc.Engine(Elsewhere(), device="meta")
    with pytest.raises(ValueError, match="device must name a torch device, was 'moon'"):
        rc.Engine(Elsewhere(), device="moon")
    moved = []
    to = torch.Tensor.to
    monkeypatch.setattr(
        torch.Tensor, "to", lambda x, *a, **k: moved.extend(a[:1]) or to(x, *a, **k)
    )
    engine = rc.Engine(Elsewhere(), device="cpu")
    rc.error_rate(engine, X.numpy(), 0.3, samples=10)
    assert torch.device("cpu") in moved
    assert engine.model.seen == {"cpu"}
