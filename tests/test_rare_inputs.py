"""Splitting: what it refuses, and what changes nothing."""

import dataclasses

import numpy as np
import pytest
import torch
from distance_models import Waves
from models import HalfSpace, grey

import robustcore as rc
from robustcore import fused
from robustcore.kernels import unavailable

MODEL = HalfSpace(16, 0.5)
X, Y = grey(2)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"rates": [1e-16]}, ValueError, "rates must be at least 1e-15, was 1e-16: after so many"),
        ({"rates": [0.3]}, ValueError, "rates must be at most 0.25 for splitting, was 0.3: plain"),
        ({"rates": [0.1, np.nan]}, ValueError, "rates must be numbers from 1e-15 to 0.25, was"),
        ({"rates": None}, TypeError, "rates must be numbers, was None"),
        ({"rates": []}, ValueError, "rates must be a flat list of rates"),
        ({"rates": [[0.1, 0.01]]}, ValueError, r"rates must be a flat list.*had shape \(1, 2\)"),
        ({"rates": "rare"}, TypeError, "rates must be numbers, was 'rare'"),
        ({"samples": 100}, ValueError, "samples must be at least 200 for a level probability of"),
        (
            {"level_probability": 0.02},
            ValueError,
            "samples must be at least 2000 for a level probability of 0.02, was",
        ),
        ({"level_probability": 1}, ValueError, "level_probability must lie strictly"),
        (
            {"level_probability": 0.9},
            ValueError,
            "level_probability must be at most 0.7498, so that 64 levels lead down to 1e-09, was",
        ),
        ({"level_probability": 5e-324}, ValueError, "level_probability must be at least 3.8e-05"),
        ({"samples": 2**21}, ValueError, "samples must be in"),
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
        ({"samples": 2**21}, "samples must be in"),
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


MEASURED = {
    "error_curve": lambda model, x: rc.error_curve(model, x, Y),
    "sigma_at_error_rate": lambda model, x: rc.sigma_at_error_rate(model, x, 1e-6, Y),
    "error_rate": lambda model, x: rc.error_rate(model, x, 0.1, Y, method="splitting"),
}


@pytest.mark.parametrize("measured", MEASURED.values(), ids=MEASURED)
def test_randomised_models_are_refused_with_the_reason(measured):
    with (
        pytest.warns(rc.RandomizedModelWarning),
        pytest.raises(ValueError, match=r"must give one answer.*was randomised: what a"),
    ):
        measured(Dropping(16, 0.5), X)


@pytest.mark.parametrize("measured", MEASURED.values(), ids=MEASURED)
def test_models_without_a_finite_margin_are_refused(measured):
    with pytest.raises(ValueError, match=r"must have a finite margin.*image 0 was inf"):
        measured(Boundless(16, 0.5), X)
    with pytest.raises(ValueError, match=r"must have a finite margin.*image 1 was nan"):
        measured(Unknown(16, 0.5), torch.cat([X[:1], 0 * X[1:]]))


@pytest.mark.parametrize("measured", MEASURED.values(), ids=MEASURED)
def test_noise_drawn_in_features_is_refused(measured):
    linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2)).eval()
    packed = fused.pack(linear, (1, 4, 4), draws="features")
    with pytest.raises(ValueError, match="model must draw its noise in pixels for splitting"):
        measured(packed, torch.rand(2, 1, 4, 4))


def test_without_gradients_bridge_and_second_look_are_left_out_and_told():
    curve = rc.error_curve(Mute(16, 0.5), X, Y, [1e-4], samples=500)
    for left_out in ("no second look", "no bridge"):
        assert any(note.startswith(left_out) for note in curve.provenance.notes)
    settings = curve.provenance.settings
    assert not settings["bridge"]
    assert not settings["second_look"]
    assert settings["particles"] == 250
    assert np.isnan(curve.bridge_log_rate).all()
    assert (curve.n_backward == 0).all()
    assert (rc.error_curve(MODEL, X, Y, [1e-4], samples=500).n_backward > 0).all()


def test_what_splitting_leaves_out_is_refused_also_where_it_was_chosen():
    reason = "with splitting, as the error rate is below 1/samples = 0.002"
    with pytest.raises(ValueError, match=f"rtol must be left out {reason}, was 0.1"):
        rc.sigma_at_error_rate(MODEL, X, 1e-6, Y, samples=500, rtol=0.1)


def test_rates_and_labels_may_be_tensors_of_any_kind():
    rates = torch.tensor([0.01, 1e-4], requires_grad=True)
    curve = rc.error_curve(MODEL, X, Y[:1].expand(2), rates, samples=500)
    assert np.allclose(curve.rates, [0.01, 1e-4])
    assert (curve.status == "found").all()


def test_misclassified_images_have_sigma_0():
    curve = rc.error_curve(MODEL, X, torch.tensor([0, 1]), [1e-4], samples=500)
    assert curve.status[:, 0].tolist() == ["found", "misclassified"]
    assert curve.sigma[1, 0] == curve.sigma_high[1, 0] == 0
    assert curve.warning[1] == ""


def test_a_misclassified_image_takes_no_draws_and_errs_always():
    """Of `sigma_at_error_rate`, by either method that goes to rare errors or by none."""
    y = torch.tensor([0, 1])
    for method in ("splitting", "quantile", "bisection"):
        found = rc.sigma_at_error_rate(MODEL, X, 0.05, y, samples=500, method=method)
        assert found.status.tolist() == ["found", "misclassified"]
        ends = found.sigma, found.sigma_low, found.sigma_high, found.bracket_low, found.bracket_high
        assert [float(each[1]) for each in ends] == [0.0] * 5
        assert found.n_samples.tolist() == [500, 0]
        assert found.error_rate[1] == 1.0


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
    # a model is probed for the curve and for the second look, by 14 evaluations of some image each,
    # and by 4 for each batch that is larger than all before; at a batch size of 1 by fewer
    np.testing.assert_allclose(one.n_forward, other.n_forward, rtol=0, atol=2 * 14 + 10 * 4)


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_the_batch_size_changes_nothing(waves, batch_size):
    model, x, how, curve = waves
    if batch_size == 1:  # slow: one image
        same(rc.error_curve(rc.Engine(model, batch_size=1), x[:1], ids=[7], **how), curve[0])
    else:
        same(
            rc.error_curve(
                rc.Engine(model, batch_size=batch_size), x, ids=torch.arange(5) + 7, **how
            ),
            curve,
        )


@pytest.mark.skipif(unavailable("native", "cpu") is not None, reason="no compiled extension")
def test_backends_change_nothing(waves):
    model, x, how, _ = waves
    each = [
        rc.error_curve(rc.Engine(model, backend=name), x[:2], **how)
        for name in ("native", "reference")
    ]
    same(*each)


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
    same(rc.error_curve(MODEL, X[:1], None, [1e-4], **how), curve[:1])
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
    clipped = rc.error_curve(model, x, ids=torch.arange(5) + 7, noise=rc.Gaussian((0, 1)), **how)
    plain = rc.sigma_at_error_rate(
        model,
        x,
        0.01,
        ids=torch.arange(5) + 7,
        noise=rc.Gaussian((0, 1)),
        samples=4000,
        sigma_max=4.0,
    )
    found = (clipped.status[:, 0] == "found") & (plain.status == "found")
    assert (clipped.status[:, 0] == plain.status).all()
    assert (clipped.sigma_low[found, 0] <= plain.sigma_high[found]).all()
    assert (clipped.sigma_high[found, 0] >= plain.sigma_low[found]).all()
