"""Right values, or an error by name, for every form in which numbers, labels and images come."""

import re
import warnings
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from models import HalfSpace, Slab, direction, grey
from torch import nn

import robustcore as rc
from robustcore import arguments, inputs
from robustcore.slices.windows import LARGEST

X, Y = grey(3)
MODEL = HalfSpace(16, 0.5)
FEW = {"samples": 40}


def linear(dtype=torch.float32):
    """The half-space as a module whose weights are parameters."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    w = direction(16)
    with torch.no_grad():
        model[1].weight.copy_(torch.stack([w, 0 * w]))
        model[1].bias.copy_(torch.stack([0.5 - 0.5 * w.sum(), 0 * w.sum()]))
    return model.to(dtype).eval()


# -- numbers -----------------------------------------------------------------------------------

NO_NUMBERS = [
    torch.tensor(1j), 1j, np.complex64(0.1), np.datetime64(18262, "D"), np.timedelta64(1, "D"),
    np.ma.masked, np.ma.masked_array(0.1, mask=False), True, np.True_, torch.tensor(True), "01",
    b"1", np.str_("0.1"), [0.1, True], [0.1, "0.2"], [np.ma.masked, 0.1], {0.1: 1}, object(),
    torch.empty((), device="meta"), torch.tensor([0.1]).to_sparse(),
]  # fmt: skip
SAME = [
    0.25, np.float32(0.25), np.float16(0.25), np.longdouble(0.25), np.array(0.25, ">f8"),
    Fraction(1, 4), Decimal("0.25"), torch.tensor(0.25), torch.tensor(0.25, dtype=torch.bfloat16),
    torch.tensor(0.25, requires_grad=True),
]  # fmt: skip


def words(value):
    """The same in each of the processes that share out the tests: without an address."""
    return re.sub(" at 0x[0-9a-f]+", "", repr(value))


@pytest.mark.parametrize("value", NO_NUMBERS, ids=words)
def test_what_is_no_number_is_refused(value):
    for check in (arguments.number, arguments.positive, arguments.fraction, arguments.grid):
        with pytest.raises(TypeError, match=r"^sigma must be a number"):
            check("sigma", value)
    with pytest.raises(TypeError, match=r"^samples must be an integer, was"):
        arguments.integer("samples", value, 1)
    with pytest.raises(TypeError, match=r"^clip must be None or"):
        arguments.pair("clip", value)


@pytest.mark.parametrize("value", SAME, ids=repr)
def test_every_form_of_a_number_is_that_number(value):
    assert arguments.number("sigma", value) == 0.25
    assert arguments.grid("sigma", [value, value]).tolist() == [0.25, 0.25]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1e39, "lie between .* as it is used in float32, was 1e"),
        (1e-46, "lie between .* as it is used in float32, was 1e-46"),
        (10**400, "too large"),
        (np.inf, "finite"),
        (np.nan, "finite"),
    ],
)
def test_amounts_that_float32_does_not_hold(value, message):
    for call in (
        lambda: rc.certify(MODEL, X, sigma=value, n=50),
        lambda: rc.error_rate(MODEL, X, value, **FEW),
        lambda: rc.noisy_copies(X, [0.1, value]),
        lambda: rc.pgd(MODEL, X, eps=value),
        lambda: rc.sigma_at_error_rate(MODEL, X, 0.1, sigma_max=value),
    ):
        with pytest.raises(ValueError, match=f"(sigma|eps|sigma_max) must .*{message}"):
            call()


@pytest.mark.parametrize("value", [(-np.inf, np.inf), (0, np.inf), (-1e308, 1e308)])
def test_endless_ranges_are_refused_before_anything_is_measured(value):
    for call in (
        lambda: rc.error_rate(MODEL, X, 0.1, noise=rc.Gaussian(value), **FEW),
        lambda: rc.noisy_copies(X, 0.1, noise=rc.Gaussian(value)),
        lambda: rc.pgd(MODEL, X, eps=0.1, box=value),
        lambda: rc.error_rate(rc.Engine(MODEL, pixels=value), X, 0.1, **FEW),
    ):
        with pytest.raises(ValueError, match=r"(clip|box|pixels) must be .low, high., both finite"):
            call()


def test_text_is_no_range_and_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TypeError, match=r"clip must be None or \(low, high\), was '01'"):
        rc.error_rate(MODEL, X, 0.1, noise=rc.Gaussian("01"), **FEW)
    for value in ("", b"", "a\0b"):
        with pytest.raises((ValueError, TypeError), match="run must be a folder, was"):
            rc.error_rate(MODEL, X, 0.1, run=value, **FEW)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", ["abc", 1j, True, 0.0, 2.0])
def test_what_another_argument_makes_idle_is_checked_all_the_same(value):
    for call in (
        lambda: rc.church_windows(MODEL, X, sigma=0.5, rate=value),
        lambda: rc.audit_attack(MODEL, X, Y, lambda m, x, y: x, sigma=0.5, error_rates=value),
        lambda: rc.sigma_at_error_rate(MODEL, X, value),
    ):
        with pytest.raises((TypeError, ValueError), match=r"^(rate|error_rates?) must"):
            call()
    with pytest.raises((TypeError, ValueError), match=r"^sigma_max must"):
        rc.noisy_distance(MODEL, X, sigma=0.5, sigma_max=-1 if value == 2.0 else value)
    with pytest.raises(ValueError, match="rtol must be left out with method='bisection'"):
        rc.sigma_at_error_rate(MODEL, X, 0.1, rtol=0.1, method="bisection")


@pytest.mark.parametrize("value", ["no", 1, 0, None, torch.tensor(True)])
def test_switches_are_true_or_false(value):
    for call in (
        lambda: rc.pgd(MODEL, X, eps=0.1, random_start=value),
        lambda: rc.predict(MODEL, X, sigma=0.1, early=value),
        lambda: rc.distance_to_error(MODEL, X, refine=value),
        lambda: rc.error_curve(MODEL, X, bridge=value),
        lambda: rc.error_rate(rc.Engine(MODEL, progress="no" if value is None else value), X, 0.1),
    ):
        with pytest.raises(TypeError, match=r"^\w+ must be True or False, was"):
            call()


# -- labels, targets and ids -------------------------------------------------------------------

LABELS = np.array([2, 0, 1])
FORMS = [
    LABELS.astype(np.uint8), LABELS.astype(np.uint16), LABELS.astype(np.uint32),
    LABELS.astype(np.uint64), LABELS.astype(np.int8), LABELS.astype(">i4"), LABELS.astype(">u8"),
    LABELS[::-1].copy()[::-1], np.stack([LABELS, LABELS], 1)[:, 0], LABELS.astype(object),
    LABELS.tolist(), tuple(LABELS), [torch.tensor(2), np.uint64(0), 1],
    torch.tensor(LABELS), torch.tensor(LABELS).to(torch.uint16),
    torch.tensor(LABELS).to(torch.uint64), torch.stack([torch.tensor(LABELS)] * 3, 1)[:, 1],
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{type(form).__name__} {form!r:.40}")
def test_labels_targets_and_ids_in_every_form(form):
    device = torch.device("cpu")
    wanted = torch.tensor(LABELS)
    assert torch.equal(inputs.labels(form, 3, device), wanted)
    assert torch.equal(inputs.identifiers(form, 3, device), wanted)
    assert torch.equal(inputs.targets(form, (wanted + 1) % 3, 3), wanted)
    for found in (inputs.labels(form, 3, device), inputs.identifiers(form, 3, device)):
        assert found.dtype == torch.int64
        assert found.is_contiguous()


@pytest.mark.parametrize(
    "value",
    [
        [0, 1, 2**63], np.array([0, 1, 2**63], np.uint64), [0, 1, 2**64], ["0", "1", "2"],
        np.array(["0", "1", "2"]), np.array([0, "1", 2], object), [0, 1.0, 2], [0, True, 2],
        np.ma.array([0, 1, 2], mask=[0, 1, 0]), [0, None, 2], [[0], [1, 2]],
        torch.tensor([0, 1, -1]).to(torch.uint64), np.array([0, 1, 2], "m8[s]"),
    ],
    ids=repr,
)  # fmt: skip
def test_labels_that_are_no_classes_are_refused_by_name(value):
    device = torch.device("cpu")
    for name, call in (
        ("y", lambda: inputs.labels(value, 3, device)),
        ("ids", lambda: inputs.identifiers(value, 3, device)),
        ("targets", lambda: inputs.targets(value, torch.zeros(3).long(), 3)),
    ):
        with pytest.raises((TypeError, ValueError), match=f"^{name} must"):
            call()


def test_strided_targets_reach_the_attack():
    model, (x, _) = Slab(16, 0.4), grey(3)
    scores = torch.tensor([[1, 0, 2], [1, 0, 2], [1, 0, 2]])
    near = rc.distance_to_error(model, x, targets=scores[:, 0], ids=scores.T[0] + scores.T[2] * 0
                                + torch.arange(3))  # fmt: skip
    assert near.targets.tolist() == [1, 1, 1]
    assert np.allclose(near.distance, 0.4, rtol=1e-3)


# -- the range of pixels -----------------------------------------------------------------------


def told(call):
    """The PixelRangeWarnings of a call."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        call()
    return [each for each in said if issubclass(each.category, rc.PixelRangeWarning)]


def measures(x, **pixels):
    model, in_blocks = rc.Engine(MODEL, **pixels), rc.Engine(MODEL, block=1, **pixels)
    return {
        "error_rate": lambda: rc.error_rate(model, x, 0.1, Y, **FEW),
        "sigma": lambda: rc.sigma_at_error_rate(model, x, 0.1, Y, **FEW),
        "certify": lambda: rc.certify(model, x, Y, sigma=0.1, n=50),
        "predict": lambda: rc.predict(model, x, Y, sigma=0.1, n=50),
        "distance": lambda: rc.distance_to_error(model, x, Y, effort=5),
        "noisy": lambda: rc.noisy_distance(model, x, Y, error_rate=0.1, points=10),
        "copies": lambda: rc.noisy_copies(x, 0.1, **pixels),
        "in blocks": lambda: rc.error_rate(in_blocks, x.numpy(), 0.1, Y, **FEW),
    }


@pytest.mark.parametrize("name", measures(X))
def test_images_of_another_range_are_told_of_once_a_call(name):
    for x, seen in (
        (X * 255, r"ranged from 127.5 to 127.5: divide bytes by 255"),
        ((X - 0.6) / 0.2, r"ranged from -0.5 to -0.5: .* let the model normalise"),
        (torch.linspace(0, 255, 48).view(3, 1, 4, 4), r"ranged from 0 to (255|81\.383)"),
    ):
        (one,) = told(measures(x)[name])
        assert one.filename == __file__
        assert one.message.args[0].startswith("x should lie in [0, 1]")
        with pytest.warns(rc.PixelRangeWarning, match=seen):
            measures(x)[name]()


@pytest.mark.parametrize("name", measures(X))
def test_images_in_range_and_ranges_that_were_stated_are_not_told_of(name):
    for x, more in (
        (X, {}),
        (X * 0 + 1.004, {}),  # as bfloat16 rounds
        (X * 2 - 1.5, {"pixels": (-1, 1)}),
        (X * 255, {"pixels": None}),
        (X * 255, {"pixels": (0, 255)}),
    ):
        assert told(measures(x, **more)[name]) == []


@pytest.mark.parametrize(
    "call",
    [
        lambda model: rc.error_rate(model, X, [0.1, 8], Y, **FEW),
        lambda model: rc.certify(model, X, Y, sigma=8, n=50),
        lambda model: rc.predict(model, X, Y, sigma=8, n=50),
        lambda model: rc.noisy_copies(X, [8], pixels=model.ranges.pixels),
        lambda model: rc.pgd(model, X, Y, eps=[0.1, 8], steps=2),
        lambda model: rc.distance_to_error(model, X, Y, norm="inf", method="pgd", eps=8, steps=2),
    ],
)
def test_amounts_above_the_span_of_pixels_are_told_of(call):
    (one,) = told(lambda: call(rc.Engine(MODEL)))
    assert "should be at most 1, the span of pixels in [0, 1], one was 8" in str(one.message)
    assert one.filename == __file__
    assert told(lambda: call(rc.Engine(MODEL, pixels=None))) == []


def test_the_library_s_own_calls_and_an_attack_s_on_noisy_images_are_silent():
    def attack(model, x, y):
        return rc.distance_to_error(model, x, y, effort=5).x_adv

    how = {"sigma": 0.9, "points": 12, "samples": 50}
    assert told(lambda: rc.audit_attack(MODEL, X, Y, attack, **how)) == []


def test_clip_needs_images_inside_it():
    for call in (
        lambda x: rc.error_rate(
            rc.Engine(MODEL, pixels=None), x, 0.1, noise=rc.Gaussian((0, 1)), **FEW
        ),
        lambda x: rc.sigma_at_error_rate(
            rc.Engine(MODEL, pixels=None), x, 0.1, noise=rc.Gaussian((0, 1)), **FEW
        ),
        lambda x: rc.noisy_copies(x, 0.1, noise=rc.Gaussian((0, 1)), pixels=None),
    ):
        with pytest.raises(ValueError, match=r"x must lie in the clip \[0, 1\], ranged from 127.5"):
            call(X * 255)
        call(X * 0 + 1.000001)


def test_warnings_of_randomised_models_point_at_the_caller():
    def model(x):
        return MODEL(x) + torch.rand(len(x), 2)

    for call in (
        lambda: rc.error_rate(model, X, 0.1, Y, **FEW),
        lambda: rc.distance_to_error(model, X, Y, effort=5),
        lambda: rc.certify(model, X, Y, sigma=0.1, n=50),
        lambda: rc.noisy_distance(model, X, Y, sigma=0.1, points=10),
        lambda: rc.error_rate(model, X.numpy(), 0.1, Y, **FEW),
    ):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            call()
        places = {each.filename for each in said if each.category is rc.RandomizedModelWarning}
        assert places == {__file__}


# -- types of models and images ----------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("given", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_type_of_the_parameters_decides(dtype, given):
    model, x = linear(dtype), X.to(given)
    rate = rc.error_rate(model, x, 0.5, Y, **FEW)
    assert rate.provenance.dtype == str(dtype).removeprefix("torch.")
    assert np.array_equal(rate.rate, rc.error_rate(model, X.to(dtype), 0.5, Y, **FEW).rate)
    near = rc.distance_to_error(model, x, Y)
    assert near.x_adv.dtype == dtype
    assert np.allclose(near.distance, 0.5, rtol=0.02)  # half precision steps over by up to 1 %


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_wrapped_models_of_half_precision(dtype, tmp_path):
    inner = linear(dtype)
    model = rc.wrap(inner, 0.0, 1.0)
    rate = rc.error_rate(model, X, 0.5, Y, **FEW)
    assert np.array_equal(rate.rate, rc.error_rate(inner, X, 0.5, Y, **FEW).rate)
    with torch.no_grad():
        assert torch.equal(model(X.to(dtype)), inner(X.to(dtype)))
    attacked = rc.pgd(model, X, Y, eps=0.4, steps=20, random_start=False)
    attacked.save(tmp_path / "pgd.npz")
    read = rc.Record.load(tmp_path / "pgd.npz")
    assert torch.equal(read.x_adv.to(dtype), attacked.x_adv)
    assert np.array_equal(read.distance, attacked.distance)


# -- words -------------------------------------------------------------------------------------


def test_too_few_samples_are_told_in_samples():
    for rate, least in ((0.01, 100), (1e-6, 200), (0.004, 200)):
        with pytest.raises(ValueError, match=f"samples must be at least {least} for error_rate"):
            rc.sigma_at_error_rate(MODEL, X, rate, samples=50)
    with pytest.raises(ValueError, match="samples must be at least 200 for a level prob") as error:
        rc.error_curve(MODEL, X, samples=50)
    assert "particles" not in str(error.value)


def test_an_rtol_that_was_not_met_is_told():
    met = rc.sigma_at_error_rate(MODEL, X, 0.1, Y, rtol=0.2, samples=4000)
    assert not any("rtol" in note for note in met.provenance.notes)
    missed = rc.sigma_at_error_rate(MODEL, X, 0.1, Y, rtol=0.001, samples=400)
    wide = (missed.sigma_high - missed.sigma_low) / 2 / missed.sigma
    assert (wide > 0.001).all()
    assert sum("rtol = 0.001 was not met" in note for note in missed.provenance.notes) == 1


def test_compare_names_what_it_was_given():
    sigma = rc.sigma_at_error_rate(MODEL, X, 0.1, Y, **FEW)
    near = rc.distance_to_error(MODEL, X, Y, effort=5)
    with pytest.raises(TypeError, match=r"near must be a DistanceResult, .* was SigmaResult"):
        rc.compare(sigma, sigma)
    with pytest.raises(TypeError, match=r"noise must be a SigmaResult, .* was DistanceResult"):
        rc.compare(near, sigma)
    with pytest.raises(TypeError, match=r"noise must be a SigmaResult, .* was ErrorRate"):
        rc.compare(rc.error_rate(MODEL, X, 0.1, Y, **FEW), near)


# -- bounds of integers --------------------------------------------------------------------------


class Reached(Exception):
    pass


def reached(x):
    """A model that is asked: what was given to the measurement is accepted."""
    raise Reached


PICTURE = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LARGEST_SEED = 2**63 - 1
# call: (what it measures, then for each integer the least and the most that it may be)
BOUNDS = {
    "error_rate": (
        lambda **k: rc.error_rate(reached, X, 0.1, **k),
        {"samples": (1, 2**32), "seed": (0, LARGEST_SEED)},
    ),
    "sigma": (
        lambda **k: rc.sigma_at_error_rate(reached, X, 0.5, **k),
        {"samples": (1, 2**20), "seed": (0, LARGEST_SEED)},
    ),
    "curve": (
        lambda **k: rc.error_curve(reached, X, **k),
        {"samples": (2, 2**20), "moves": (1, 1000), "seed": (0, LARGEST_SEED)},
    ),
    "distance": (
        lambda **k: rc.distance_to_error(reached, X, **k),
        {"effort": (5, None), "restarts": (1, 2**20), "seed": (0, LARGEST_SEED)},
    ),
    "distance, pgd": (
        lambda **k: rc.distance_to_error(reached, X, method="pgd", eps=0.1, **k),
        {"steps": (1, None)},
    ),
    "pgd": (
        lambda **k: rc.pgd(reached, X, eps=0.1, **k),
        {"steps": (1, None), "restarts": (1, 2**20), "seed": (0, LARGEST_SEED)},
    ),
    "noisy points": (
        lambda **k: rc.noisy_distance(reached, X, sigma=0.1, **{"samples": 2**20, **k}),
        {"points": (1, 2**20), "samples": (1, 2**32), "seed": (0, LARGEST_SEED)},
    ),
    "noisy points, pgd": (
        lambda **k: rc.noisy_distance(reached, X, sigma=0.1, method="pgd", **k),
        {"steps": (1, None)},
    ),
    "audit": (
        lambda **k: rc.audit_attack(
            reached, X, None, lambda *given: None, sigma=0.1, **{"samples": 2**20, **k}
        ),
        {"points": (1, 2**20), "samples": (1, 2**32), "seed": (0, LARGEST_SEED)},
    ),
    "certify": (
        lambda **k: rc.certify(reached, X, sigma=0.1, **k),
        {"n0": (1, 2**31), "n": (1, 2**31), "seed": (0, LARGEST_SEED)},
    ),
    "predict": (
        lambda **k: rc.predict(reached, X, sigma=0.1, **k),
        {"n": (1, 2**31), "seed": (0, LARGEST_SEED)},
    ),
    "windows": (
        lambda **k: rc.church_windows(reached, X, **k),
        {"samples": (1, 2**20), "size": (2, LARGEST), "coarse": (1, 64), "seed": (0, LARGEST_SEED)},
    ),
    "corruptions": (
        lambda **k: rc.corruption_benchmark(
            reached, PICTURE, corruptions="fog", **{"storage": "jpeg", **k}
        ),
        {"quality": (1, 95), "severities": (1, 5), "seed": (0, LARGEST_SEED)},
    ),
    "an engine": (
        lambda **k: rc.error_rate(rc.Engine(reached, **k), X, 0.1),
        {"batch_size": (1, None), "block": (1, None)},
    ),
}


@pytest.mark.parametrize(
    ("call", "name"), [(call, name) for call, (_, bounds) in BOUNDS.items() for name in bounds]
)
def test_an_integer_may_be_its_bounds_and_nothing_beyond(call, name):
    measure, bounds = BOUNDS[call]
    low, high = bounds[name]
    span = f"{name} must be at least {low}, was" if high is None else f"in [{low}, {high}], was"
    for value in (low - 1, *([] if high is None else [high + 1])):
        with pytest.raises(ValueError, match=re.escape(f"{span} {value}")):
            measure(**{name: value})
    for value in (low, *([] if high is None else [high])):
        with pytest.raises((Reached, ValueError)) as raised:
            measure(**{name: value})
        assert span not in str(raised.value)  # too few draws for a rate are refused elsewhere
