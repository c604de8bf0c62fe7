"""Splitting: what it refuses, what changes nothing, what its records keep."""

import dataclasses

import numpy as np
import pytest
import torch
from distance_models import Waves
from models import HalfSpace, grey

import robustcore as rc
from robustcore.rare.crossings import wanted
from robustcore.rare.curve import Curve, family_variance, height, log_rate_of
from robustcore.rare.pooling import pooled

MODEL = HalfSpace(16, 0.5)
X, Y = grey(2)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"rates": [1e-16]}, ValueError, "rates must be at least 1e-15, was 1e-16: after so many"),
        ({"rates": [0.3]}, ValueError, "rates must be at most 0.25 for splitting, was 0.3: plain"),
        ({"rates": [0.1, np.nan]}, ValueError, "rates must be at most"),
        ({"rates": []}, ValueError, "rates must be a flat list of rates"),
        ({"rates": [[0.1, 0.01]]}, ValueError, r"rates must be a flat list.*had shape \(1, 2\)"),
        ({"rates": "rare"}, TypeError, "rates must be numbers, was 'rare'"),
        ({"samples": 100}, ValueError, "samples must be at least 200 for a level probability of"),
        (
            {"level_probability": 0.02},
            ValueError,
            "samples must be at least 2000 for a level probability of 0.02, so that 20 particles",
        ),
        ({"level_probability": 1}, ValueError, "level_probability must lie strictly"),
        ({"moves": 0}, ValueError, "moves must be in"),
        ({"samples": 1.5}, TypeError, "samples must be an integer"),
        ({"sigma_max": -1}, ValueError, "sigma_max must be positive"),
        ({"confidence": 1}, ValueError, "confidence must lie strictly"),
    ],
)
def test_refusals_of_error_curve(change, error, message):
    with pytest.raises(error, match=message):
        rc.error_curve(MODEL, X, Y, **{"samples": 600, **change})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"error_rate": 1e-16}, ValueError, "error_rate must be at least 1e-15, was 1e-16: after"),
        ({"error_rate": 0.4}, ValueError, "error_rate must be at most 0.25 for splitting"),
        ({"rtol": 0.1}, ValueError, "rtol must be left out with method='splitting', was 0.1"),
        ({"samples": 50}, ValueError, "samples must be at least 200"),
        ({"method": "subset"}, ValueError, "method must be one of quantile, bisection, splitting"),
    ],
)
def test_refusals_of_sigma(change, error, message):
    arguments = {"error_rate": 1e-6, "method": "splitting", "samples": 600, **change}
    with pytest.raises(error, match=message):
        rc.sigma_at_error_rate(MODEL, X, y=Y, **arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "subset"}, "method must be one of counting, splitting, was 'subset'"),
        ({"samples": 100}, "samples must be at least 200 for a level probability of 0.2"),
        ({"sigma": -0.1}, "sigma must be"),
    ],
)
def test_refusals_of_error_rate(change, message):
    with pytest.raises(ValueError, match=message):
        rc.error_rate(
            MODEL, X, y=Y, **{"sigma": 0.1, "samples": 600, "method": "splitting", **change}
        )


class Dropping(HalfSpace):
    def forward(self, x):
        return super().forward(x + 0.01 * torch.randn_like(x))


class Boundless(HalfSpace):
    def forward(self, x):
        logits = super().forward(x)
        return torch.stack([logits[:, 0], torch.full_like(logits[:, 1], -torch.inf)], 1)


class Unknown(HalfSpace):
    """NaN at an image of zeros."""

    def forward(self, x):
        return super().forward(x).where(x.flatten(1).any(1)[:, None], torch.nan)


class Tilted(torch.nn.Module):
    """A half-space at a distance from 0."""

    def __init__(self, distance):
        super().__init__()
        self.distance = distance

    def forward(self, x):
        height = self.distance - x[:, 0, 0, 0]
        return torch.stack([height, torch.zeros_like(height)], 1)


class Mute(HalfSpace):
    """Answers, but lets no gradient through."""

    def forward(self, x):
        return super().forward(x.detach())


def test_randomised_models_are_refused_with_the_reason():
    with (
        pytest.warns(rc.RandomizedModelWarning),
        pytest.raises(ValueError, match=r"must give one answer.*was randomised: what a"),
    ):
        rc.error_curve(Dropping(16, 0.5), X, Y)


MEASURED = {
    "error_curve": lambda model, x: rc.error_curve(model, x, Y),
    "sigma_at_error_rate": lambda model, x: rc.sigma_at_error_rate(model, x, 1e-6, Y),
    "error_rate": lambda model, x: rc.error_rate(model, x, 0.1, Y, method="splitting"),
}


@pytest.mark.parametrize("measured", MEASURED.values(), ids=MEASURED)
def test_models_without_a_finite_margin_are_refused(measured):
    with pytest.raises(ValueError, match=r"must have a finite margin.*image 0 was inf"):
        measured(Boundless(16, 0.5), X)
    with pytest.raises(ValueError, match=r"must have a finite margin.*image 1 was nan"):
        measured(Unknown(16, 0.5), torch.cat([X[:1], 0 * X[1:]]))


def test_without_gradients_bridge_and_second_look_are_left_out_and_told():
    curve = rc.error_curve(Mute(16, 0.5), X, Y, [1e-4], samples=500)
    for left_out in ("no second look", "no bridge"):
        assert any(note.startswith(left_out) for note in curve.provenance.notes)
    assert np.isnan(curve.bridge_log_rate).all()
    assert (curve.n_backward == 0).all()
    assert (rc.error_curve(MODEL, X, Y, [1e-4], samples=500).n_backward > 0).all()


def test_misclassified_images_have_sigma_0():
    curve = rc.error_curve(MODEL, X, torch.tensor([0, 1]), [1e-4], samples=500)
    assert curve.status[:, 0].tolist() == ["found", "misclassified"]
    assert curve.sigma[1, 0] == curve.sigma_high[1, 0] == 0
    assert curve.warning[1] == ""


# -- laws ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def waves():
    x = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    model = Waves()
    how = {"rates": (0.01, 1e-4), "samples": 500, "sigma_max": 4.0, "second_look": False}
    return model, x, how, rc.error_curve(model, x, ids=torch.arange(5) + 7, **how)


def same(one, other):
    for name in ("sigma", "sigma_low", "sigma_high", "level_log_rate", "acceptance", "warning"):
        assert np.array_equal(getattr(one, name), getattr(other, name), equal_nan=name != "warning")
    assert np.array_equal(one.n_forward, other.n_forward)


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_the_batch_size_changes_nothing(waves, batch_size):
    model, x, how, curve = waves
    if batch_size == 1:  # slow: one image
        same(rc.error_curve(model, x[:1], ids=[7], batch_size=1, **how), curve[0])
    else:
        same(rc.error_curve(model, x, ids=torch.arange(5) + 7, batch_size=batch_size, **how), curve)


def test_order_and_company_change_nothing(waves):
    # but for the evaluations of the engine's own checks, which the first images bear
    model, x, how, curve = waves
    order = [3, 0, 4]
    other = rc.error_curve(model, x[order], ids=np.array(order) + 7, **how)
    same(dataclasses.replace(other, n_forward=curve.n_forward[order]), curve[order])


def test_memory_in_blocks_changes_nothing(waves, monkeypatch):
    from robustcore.rare import descent

    model, x, how, curve = waves
    monkeypatch.setattr(descent, "MEMORY", 2 * 100 * 48)
    same(rc.error_curve(model, x, ids=torch.arange(5) + 7, **how), curve)


def test_the_order_of_rates_and_saying_one_twice_change_nothing():
    how = {"samples": 500, "second_look": False}
    curve = rc.error_curve(MODEL, X, Y, (0.01, 1e-4), **how)
    other = rc.error_curve(MODEL, X, Y, (1e-4, 0.01, 1e-4), **how)
    for name in ("sigma", "sigma_low", "sigma_high", "status"):
        assert np.array_equal(getattr(other, name), getattr(curve, name)[:, [1, 0, 1]])
    assert np.array_equal(other.n_forward, curve.n_forward)


def test_one_image_without_a_label_in_double_precision_is_as_any():
    how = {"samples": 500, "second_look": False}
    curve = rc.error_curve(MODEL, X, Y, [1e-4], **how)
    same(rc.error_curve(MODEL, X[0], None, [1e-4], **how), curve[:1])
    double = rc.error_curve(HalfSpace(16, 0.5).double(), X.double(), Y, [1e-4], **how)
    assert np.allclose(double.sigma, curve.sigma, rtol=1e-3)


def test_images_next_to_the_boundary_keep_their_tiny_sigmas():
    x = torch.zeros(4, 1, 1, 4)
    near = rc.error_curve(Tilted(1e-6), x, None, (0.1, 1e-6), samples=500, second_look=False)
    far = rc.error_curve(Tilted(0.5), x, None, (0.1, 1e-6), samples=500, second_look=False)
    assert np.allclose(near.sigma * 0.5e6, far.sigma, rtol=0.05)
    assert np.allclose(far.sigma[:, 1], HalfSpace(4, 0.5).sigma(1e-6), rtol=0.03)


def test_another_seed_changes_all(waves):
    model, x, how, curve = waves
    other = rc.error_curve(model, x, ids=torch.arange(5) + 7, seed=1, **how)
    found = (curve.status == "found") & (other.status == "found")
    assert found.any()
    assert (other.sigma != curve.sigma)[found].all()


def test_clipped_noise_is_what_is_judged(waves):
    model, x, how, _ = waves
    clipped = rc.error_curve(model, x, ids=torch.arange(5) + 7, clip=(0, 1), **how)
    plain = rc.sigma_at_error_rate(
        model, x, 0.01, ids=torch.arange(5) + 7, clip=(0, 1), samples=4000, sigma_max=4.0
    )
    found = (clipped.status[:, 0] == "found") & (plain.status == "found")
    assert (clipped.status[:, 0] == plain.status).all()
    assert (clipped.sigma_low[found, 0] <= plain.sigma_high[found]).all()
    assert (clipped.sigma_high[found, 0] >= plain.sigma_low[found]).all()


# -- records -------------------------------------------------------------------------------------


def test_records_come_back_from_disk_and_through_runs(tmp_path):
    how = {"samples": 500, "seed": 5}
    curve = rc.error_curve(MODEL, X, Y, (0.01, 1e-4), **how)
    sigma = rc.sigma_at_error_rate(MODEL, X, 1e-4, Y, method="splitting", **how)
    rate = rc.error_rate(MODEL, X, [0.1, 0.2], Y, method="splitting", **how)
    for record in (curve, sigma, rate):
        record.save(tmp_path / "record.npz")
        again = rc.Record.load(tmp_path / "record.npz")
        assert type(again) is type(record)
        assert np.array_equal(again.level_log_rate, record.level_log_rate, equal_nan=True)
        assert again.provenance == record.provenance
        assert record.provenance.method == "splitting"
    assert sigma.provenance.settings["particles"] == 100
    kept = rc.error_curve(MODEL, X, Y, (0.01, 1e-4), run=tmp_path / "run", block=1, **how)
    same(kept, curve)
    table = curve.columns()
    assert table["rates"].tolist() == [0.01, 1e-4] * 2
    assert set(table["warning"].tolist()) == {""}


def test_summaries_tell_warnings():
    curve = rc.error_curve(MODEL, X, Y, (0.01, 1e-4), samples=500)
    assert "2 images, 2 rates; median sigma" in repr(curve)
    told = dataclasses.replace(curve, warning=np.array(["", "rays missed"]))
    assert "1 image: errors end again along rays" in repr(told)
    assert len(told.warnings()) == 2


def test_the_linear_line_and_its_ratio():
    curve = rc.error_curve(MODEL, X, Y, (0.01, 1e-4, 1e-8), samples=1000)
    assert np.allclose(curve.half_space_sigma()[:, 0], curve.sigma[:, 0])
    assert np.allclose(curve.ratio()[:, 0], 1)
    assert np.allclose(curve.ratio(), 1, atol=0.15)
    assert curve.nearest_rate() == 0.01
    assert curve.nearest_rate(1e-7) == 1e-8
    assert dataclasses.replace(curve, rates=np.array([0.1, 1e-3, 1e-8])).nearest_rate() == 0.1
    assert np.isnan(rc.error_curve(MODEL, X, 1 - Y, [0.01], samples=500).ratio()).all()


# -- numbers alone -------------------------------------------------------------------------------


def test_a_curve_through_a_half_space_is_exact_between_and_beyond_its_levels():
    distance, sigma = 0.5, np.array([[0.4, 0.3, 0.2, np.nan], [0.4, 0.25, np.nan, np.nan]])
    curve = Curve(
        sigma, log_rate_of(distance / sigma), 0 * sigma + 0.1, 0 * sigma + 20, np.full(2, distance),
        particles=10**15,
    )  # fmt: skip
    at = np.array([[0.5, 0.27, 0.2, 0.01]] * 2)
    log_rate, variance, _ = curve.at_sigma(at)
    assert np.allclose(log_rate, log_rate_of(distance / at), rtol=1e-12)
    assert np.allclose(curve.at_rate(log_rate)[0], at, rtol=1e-12)
    assert log_rate[0, -1] < np.log(1e-300)  # and no underflow
    assert np.allclose(variance, 0.1)
    wide = curve.sigma_interval(np.full((2, 1), -10.0), 0.99)
    narrow = curve.sigma_interval(np.full((2, 1), -10.0), 0.9)
    assert (wide[1] < narrow[1]).all()
    assert (wide[2] > narrow[2]).all()


def test_a_curve_is_surest_at_its_bridges():
    distance, sigma = 0.5, np.array([[0.4, 0.3, 0.2, np.nan], [0.4, 0.25, np.nan, np.nan]])
    variance = np.array([[0.01, 0.02, 0.04, np.nan], [0.01, 0.03, np.nan, np.nan]])
    known, nothing = log_rate_of(distance / sigma), np.full((2, 4), np.nan)
    start = Curve(sigma, known + 0.3, variance, 0 * sigma + 20, np.full(2, distance), 10**9)
    log_rate, sure, terms = nothing.copy(), nothing.copy(), nothing.copy()
    log_rate[0, 2], sure[0, 2], terms[0, 2] = known[0, 2], 1e-6, 51
    curve = pooled(start, log_rate, sure, terms)
    assert np.allclose(curve.log_rate[0, 2], known[0, 2], atol=1e-4)
    assert np.allclose(curve.variance[0, 2], 1e-6, rtol=1e-3)
    # from above 0.02, from the end below 0.02: half each; with what the weights are unsure of
    assert np.allclose(curve.log_rate[0, 1], known[0, 1] + 0.15, atol=1e-4)
    assert np.allclose(curve.variance[0, 1], 0.01 * (1 + 2 / 20), rtol=1e-3)
    assert np.allclose(curve.families[0, :3], [32, 40, 50], rtol=1e-3)
    assert np.isnan(curve.log_rate[0, 3])
    # without a bridge all is as splitting has it
    for part in ("log_rate", "variance", "families"):
        a, b = (getattr(each, part)[1] for each in (curve, start))
        assert np.allclose(a, b, rtol=1e-4, equal_nan=True), part
    assert curve.support() == pytest.approx([50, 20], rel=1e-3)
    # a second one, above: below it, splitting's own start no longer matters
    log_rate[0, 0], sure[0, 0], terms[0, 0] = known[0, 0], 1e-6, 51
    both = pooled(start, log_rate, sure, terms)
    assert np.allclose(both.log_rate[0, :3], known[0, :3], atol=1e-4)
    assert both.variance[0, 1] < curve.variance[0, 1]  # 0.01 and 0.02 away


def test_bridges_stand_two_decades_apart():
    rates = np.log([0.1, 0.03, 0.01, 1e-3, 1e-4, 1e-5, 1e-6])
    assert np.allclose(np.exp(wanted(rates)), [0.01, 1e-4])
    assert len(wanted(rates[-2:])) == len(wanted(rates[:1])) == 0


def test_heights_and_rates_are_inverse_far_down():
    log_rate = np.array([-0.7, -10.0, -115.0, -5000.0])
    assert np.allclose(log_rate_of(height(log_rate)), log_rate, rtol=1e-9)


def test_families_that_all_live_on_alike_have_no_variance():
    equal = np.full((1, 50), 1 / 50)
    one = np.eye(50)[:1]
    assert family_variance(equal)[0][0] == pytest.approx(0, abs=1e-12)
    assert family_variance(equal)[1][0] == pytest.approx(50)
    assert family_variance(one)[0][0] == pytest.approx(np.log(50))  # its error is all of it
    half = np.repeat([[1 / 25, 0.0]], 25, 0).reshape(1, 50)  # a share p of 1/2 of n: (1 - p) / p n
    assert family_variance(half)[0][0] == pytest.approx(np.log(49 / 48))
