"""A run knows its model again: by what it is, and by what it does."""

import functools
import random
import sqlite3

import numpy as np
import pytest
import torch
from models import Small
from test_runs import X, rate, same
from torch import nn

import robustcore as rc
from robustcore import defenses
from robustcore.runs.behaviour import Behaviour, behaviour, difference
from robustcore.runs.errors import FILE
from robustcore.runs.identity import of_model
from robustcore.runs.store import Store
from robustcore.sources import open_source

NET, DOUBLE = Small(), Small().double()


def gained(t, gain):
    return NET(t * gain)


class Gain(nn.Module):
    """A module whose number no hash of weights sees."""

    def __init__(self, gain, net=NET):
        super().__init__()
        self.net, self.gain = net, gain

    def forward(self, x):
        return self.net(x * self.gain)


class Before(nn.Module):
    def forward(self, x):
        return NET(x)


class After(nn.Module):
    def forward(self, x):
        return NET(x) * 2 - 1


After.__qualname__ = "Before"


class Callable:
    def __init__(self, gain):
        self.gain = gain

    def __call__(self, x):
        return NET(x * self.gain)


def shifted(value):
    net = Small()
    with torch.no_grad():
        net.layers[0].bias[0] += value
    return net


def ensemble(*nets):
    nets = list(nets)
    return lambda t: sum(net(t) for net in nets)


def kept(nets):
    model = Gain(1.0)
    model.others = nets  # a list that torch does not know of
    return model


def inner(k):
    return lambda t: (lambda u: u * k)(NET(t))


CHANGES = {
    "partial": (functools.partial(gained, gain=1.0), functools.partial(gained, gain=0.5)),
    "partial, by position": (
        functools.partial(lambda gain, t: NET(t * gain), 1.0),
        functools.partial(lambda gain, t: NET(t * gain), 0.5),
    ),
    "bit depth": (defenses.BitDepth(NET, 1), defenses.BitDepth(NET, 8)),
    "bit depth, a little": (defenses.BitDepth(NET, 7), defenses.BitDepth(NET, 8)),
    "number of a module": (Gain(1.0), Gain(0.5)),
    "number of a module, a little": (Gain(1.0), Gain(1.005)),
    "number of an object": (Callable(1.0), Callable(0.5)),
    "edited forward": (Before(), After()),
    "list in a closure": (ensemble(NET, Small()), ensemble(NET, shifted(1.0))),
    "list in a closure, a little": (ensemble(NET, Small()), ensemble(NET, shifted(1e-6))),
    "list of a module": (kept([Small()]), kept([shifted(1.0)])),
    "order in a closure": (ensemble(NET, NET), ensemble(NET, shifted(1.0))),
    "number of an inner function": (inner(1.0), inner(3.0)),
    "default": (lambda t, k=1.0: NET(t * k), lambda t, k=0.5: NET(t * k)),
    "method": (Gain(1.0).forward, Gain(0.5).forward),
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_model_is_refused_by_name(name, tmp_path):
    one, other = CHANGES[name]
    quick = {"x": X[:4], "samples": 20}
    first = rate(tmp_path, one, **quick)
    with pytest.raises(ValueError, match=r"model \((what it does|its code|the weights|its mod)"):
        rate(tmp_path, other, **quick)
    assert same(rate(tmp_path, one, **quick), first)


def test_what_it_does_is_told_with_what_rounding_explains(tmp_path):
    rate(tmp_path, Gain(1.0))
    message = (
        r"model \(what it does\) must be that of the run in .*, but logit \d of input \d+ of 16 "
        r"was -?\d.*, is -?\d.*; rounding and randomness explain .*: give another folder"
    )
    with pytest.raises(ValueError, match=message):
        rate(tmp_path, Gain(0.5))


# -- what must not be refused ---------------------------------------------------------------------


def asked(model, x=X, batch_size=None):
    engine = rc.Engine(model, batch_size=batch_size)
    return behaviour(engine, open_source(x, None, model))


class Dropped(nn.Module):
    """Draws from torch's generator at each call."""

    def __init__(self, share):
        super().__init__()
        self.net, self.share = NET, share

    def forward(self, x):
        return self.net(nn.functional.dropout(x, self.share))


class OwnNoise(nn.Module):
    """Draws from a generator that nobody else can seed."""

    def __init__(self, seed, gain=1.0):
        super().__init__()
        self.rng, self.gain = np.random.default_rng(seed), gain

    def forward(self, x):
        noise = self.rng.standard_normal(x.shape).astype(np.float32)
        return NET(self.gain * x + 0.1 * torch.from_numpy(noise))


class Counter(nn.Module):
    """A number, a list and a tensor that change at each call."""

    def __init__(self):
        super().__init__()
        self.net, self.calls, self.log, self.last = NET, 0, [], None

    def forward(self, x):
        self.calls += 1
        self.log.append(len(x))
        self.last = x
        return self.net(x)


@pytest.mark.parametrize(
    "other",
    [
        lambda: Small(),
        lambda: Small().to(memory_format=torch.channels_last),
        lambda: lambda t: DOUBLE(t.double()),
        lambda: lambda t: NET(t.double().float()),
        lambda: lambda t: torch.cat([NET(part) for part in t.split(1)]),
        lambda: Counter(),
    ],
)
def test_rounding_and_batches_do_not_make_another_model(other):
    model = other()
    assert difference(asked(NET), asked(model)) is None
    assert difference(asked(model, batch_size=3), asked(NET)) is None


def test_threads_do_not_make_another_model():
    net, x, _ = rc.load_example("cifar10-natural", images=2)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = asked(net, x)
        torch.set_num_threads(2)
        two = asked(net, x)
    finally:
        torch.set_num_threads(threads)
    assert difference(one, two) is None
    apart = np.abs(one.outputs - two.outputs).max(0) / np.abs(one.outputs).max(0)
    assert apart.max() < 2**-16  # far below what is allowed, 2^-12


@pytest.mark.filterwarnings("ignore::robustcore.evaluator.RandomizedModelWarning")
def test_a_run_with_a_randomised_model_goes_on(tmp_path):
    state = torch.get_rng_state()
    asked(Dropped(0.3))
    assert torch.equal(torch.get_rng_state(), state)
    first = rate(tmp_path / "torch", Dropped(0.3))
    assert same(rate(tmp_path / "torch", Dropped(0.3)), first)
    with pytest.raises(ValueError, match="what it does"):
        rate(tmp_path / "torch", Dropped(0.4))
    first = rate(tmp_path / "own", OwnNoise(1))
    assert same(rate(tmp_path / "own", OwnNoise(2)), first)
    with pytest.raises(ValueError, match="what it does"):
        rate(tmp_path / "own", OwnNoise(3, gain=-20.0))


def test_generators_of_their_own_are_seldom_refused():
    """The bound is 20 standard deviations of a normal difference, or more."""
    prints = [asked(OwnNoise(seed)) for seed in range(12)]
    assert all(difference(a, b) is None for a in prints for b in prints)


def test_a_model_that_counts_is_known_again(tmp_path):
    model = Counter()
    first = rate(tmp_path, model)
    assert same(rate(tmp_path, model), first)
    assert same(rate(tmp_path, Counter()), first)
    assert of_model(Counter()) == of_model(model)


def test_one_huge_logit_does_not_hide_the_others():
    def with_huge(net):
        return lambda t: torch.cat([net(t), torch.full((len(t), 1), -1e4)], 1)

    assert difference(asked(with_huge(NET)), asked(with_huge(Gain(1.01)))) is not None
    assert difference(asked(with_huge(NET)), asked(with_huge(Small()))) is None


@pytest.mark.parametrize("common", [1e3, 1e4, -1e4])
def test_what_all_logits_have_in_common_does_not_hide_how_they_differ(common):
    """As the log-densities of a generative classifier have."""

    def raised(net, varying):
        def model(t):
            more = common * t.mean((1, 2, 3), keepdim=True).flatten(1) if varying else common
            return net(t) + more

        return model

    for varying in (False, True):
        assert difference(asked(raised(NET, varying)), asked(raised(Gain(1.5), varying)))
        assert difference(asked(raised(NET, varying)), asked(raised(Small(), varying))) is None


@pytest.mark.parametrize("model", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("images", [torch.float16, torch.float32, torch.float64])
def test_a_run_asks_the_model_in_the_type_of_its_parameters(model, images, tmp_path):
    net, x = Small().eval().to(model), torch.full((2, 3, 8, 8), 0.5, dtype=images)
    how = {"samples": 5}
    kept = rc.error_rate(net, x, 0.05, run=tmp_path, **how)
    assert same(kept, rc.error_rate(net, x, 0.05, run=tmp_path, **how))
    assert kept.n_errors.tolist() == rc.error_rate(net, x, 0.05, **how).n_errors.tolist()


def test_nan_and_inf_are_compared_too():
    def with_value(value):
        return lambda t: torch.cat([NET(t), torch.full((len(t), 1), value)], 1)

    values = [float("nan"), float("inf"), float("-inf"), 0.0]
    for a in values:
        for b in values:
            why = difference(asked(with_value(a)), asked(with_value(b)))
            assert (why is None) == (a == b or (a != a and b != b))


def test_another_number_of_classes_is_another_model():
    why = difference(asked(NET), asked(lambda t: NET(t)[:, :3]))
    assert why == "its logits had shape (16, 5), have (16, 3)"


def test_behaviour_is_kept_bit_for_bit():
    one = asked(NET)
    again = Behaviour.from_text(one.to_text())
    assert np.array_equal(one.outputs, again.outputs)
    assert np.array_equal(one.spread, again.spread)


def test_code_is_the_same_in_another_process():
    """Sets among constants have another order there, and a docstring is no code."""

    def one(t):
        """One."""
        return NET(t) if t.ndim in {4, 5, 6} else t

    def two(t):
        """Two."""
        return NET(t) if t.ndim in {4, 5, 6} else t

    two.__qualname__ = one.__qualname__
    assert of_model(one) == of_model(two)


# -- damage ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    want = rate(folder)
    return want, (folder / FILE).read_bytes()


def read(folder, content):
    """What the file gives: its record, or None where it says that it is damaged, in a sentence."""
    for each in folder.glob(f"{FILE}*"):
        each.unlink()
    (folder / FILE).write_bytes(content)
    said = None
    try:
        found = rate(folder)
    except ValueError as error:
        said = str(error)
    if said is None:
        return found
    assert said.startswith("run must ")
    assert "\n" not in said
    assert len(said) < 500
    return None


def test_a_flipped_bit_gives_the_same_record_or_one_sentence(whole_run, tmp_path):
    """Of 4,634 bits, 834 were refused and none gave another record."""
    want, whole = whole_run
    counts = {"same": 0, "refused": 0}
    for bit in random.Random(1).sample(range(8 * len(whole)), 120):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        found = read(tmp_path, content)
        counts["refused" if found is None else "same"] += 1
        assert found is None or same(found, want)
    assert min(counts.values()) > 5


def test_looking_at_a_damaged_file_gives_one_sentence(whole_run, tmp_path):
    whole = whole_run[1]
    (tmp_path / FILE).write_bytes(whole)
    (want,) = rc.runs.progress(tmp_path)
    refused = 0
    for bit in random.Random(2).sample(range(8 * len(whole)), 250):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        (tmp_path / FILE).write_bytes(content)
        said = None
        try:
            found = rc.runs.progress(tmp_path)
        except ValueError as error:
            said = str(error)
        if said is None:
            assert found == [want]
            continue
        refused += 1
        assert said.startswith("run must ")
        assert "\n" not in said
        assert len(said) < 500
    assert refused > 5


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM images WHERE position = 7",
        "DELETE FROM images WHERE position >= 16",
        "DELETE FROM blocks WHERE block = 2",
        "DELETE FROM measurements",
        "UPDATE images SET position = 19 - position",
        "UPDATE images SET block = block + 1",
        "UPDATE images SET id = id + 100",
        "UPDATE images SET position = position + 1",
        "UPDATE images SET record = zeroblob(length(record)) WHERE position = 3",
        "UPDATE images SET record = (SELECT record FROM images WHERE position = 4)",
        "UPDATE images SET checksum = 0 WHERE position = 3",
        "UPDATE measurements SET form = replace(form, '<f8', '<i8')",
        "UPDATE measurements SET form = 'not json'",
        "UPDATE measurements SET form = NULL",
        "UPDATE measurements SET identity = '{'",
        "UPDATE measurements SET behaviour = NULL",
        "UPDATE measurements SET images = 19",
        "UPDATE blocks SET provenance = '{}'",
        "UPDATE blocks SET images = 3 WHERE block = 1",
        "UPDATE sessions SET seconds = 0.5",
        "UPDATE sessions SET images = 'many'",
        "ALTER TABLE images RENAME COLUMN position TO place",
        "DROP TABLE blocks",
    ],
)
def test_what_was_changed_in_a_file_is_refused(change, whole_run, tmp_path):
    path = tmp_path / "edited"
    path.write_bytes(whole_run[1])
    with sqlite3.connect(path) as db:
        db.execute(change)
    db.close()
    assert read(tmp_path, path.read_bytes()) is None


def test_repair_saves_the_blocks_that_are_whole(whole_run, tmp_path):
    want, whole = whole_run
    (tmp_path / FILE).write_bytes(whole)
    with sqlite3.connect(tmp_path / FILE) as db:
        db.execute("UPDATE images SET record = zeroblob(9) WHERE position = 3")
        db.execute("DELETE FROM images WHERE position = 9")
        db.execute("UPDATE sessions SET seconds = 0.5")
    db.close()
    assert rc.runs.repair(tmp_path) == (12, 20)
    with Store(tmp_path):
        pass
    assert same(rate(tmp_path), want)


def test_a_file_of_an_older_format_is_named(whole_run, tmp_path):
    (tmp_path / FILE).write_bytes(whole_run[1])
    with sqlite3.connect(tmp_path / FILE) as db:
        db.execute("PRAGMA user_version=1")
    db.close()
    message = "run must be of format 2, that in .* is of format 1: give another folder"
    with pytest.raises(ValueError, match=message):
        rate(tmp_path)
    with pytest.raises(ValueError, match=message):
        rc.runs.progress(tmp_path)
