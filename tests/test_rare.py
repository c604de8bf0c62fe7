"""Splitting against known answers. Every limit is stated with its false-alarm rate."""

import numpy as np
import pytest
import rare_models
import torch
from models import HalfSpace, Slab, grey
from scipy.stats import binom

import robustcore as rc
from robustcore.rare import second_look

ALARM = 1e-4  # of each check of a coverage
RUNS = 240


def misses(curve, truth):
    return int(np.sum((curve.sigma_low > truth) | (curve.sigma_high < truth)))


def covers(missed, n, least=0.92):
    """Whether so few misses are to be expected of intervals that hold in `least` of the runs.

    Intervals of 95 % half as wide would hold in 67 %: of 100 runs that is seen in 99 of 100 tries,
    of 150 and more in all but one of 10,000; 80 % held is seen of 240 in 97 of 100.
    """
    return missed <= binom.isf(ALARM, n, 1 - least)


@pytest.fixture(scope="module")
def linear():
    """RUNS at once: each image is a run of its own, by its id."""
    model = HalfSpace(3, 0.5)
    return model, rc.error_curve(
        model, *grey(RUNS, (1, 1, 3)), rates=(1e-2, 1e-4, 1e-7), samples=500, second_look=False
    )


def test_intervals_hold_for_a_half_space_at_every_rate(linear):
    model, curve = linear
    for at, rate in enumerate(curve.rates):
        missed = np.sum(
            (curve.sigma_low[:, at] > model.sigma(rate))
            | (curve.sigma_high[:, at] < model.sigma(rate))
        )
        assert covers(missed, RUNS), rate
        assert missed >= binom.ppf(ALARM, RUNS, 0.01), rate  # nor are they wider than they need be
        error = np.median(np.abs(curve.sigma[:, at] / model.sigma(rate) - 1))
        assert error < 0.05


def test_the_check_of_coverage_fails_for_intervals_half_as_wide(linear):
    model, curve = linear
    truth = model.sigma(1e-4)
    low = (curve.sigma[:, 1] + curve.sigma_low[:, 1]) / 2
    high = (curve.sigma[:, 1] + curve.sigma_high[:, 1]) / 2
    assert not covers(np.sum((low > truth) | (high < truth)), RUNS)


def test_the_rate_itself_is_unbiased(linear):
    model, curve = linear
    last = np.isfinite(curve.level_sigma).sum(1) - 1
    rows = np.arange(len(curve))
    found = np.exp(curve.level_log_rate[rows, last])
    truth = model.rate(curve.level_sigma[rows, last])
    ratio = found / truth
    error = ratio.std(ddof=1) / np.sqrt(len(ratio))
    assert abs(ratio.mean() - 1) < 4.5 * error  # false alarm: about 1 in 100,000 for a normal mean
    assert abs(1.5 * ratio.mean() - 1) > 4.5 * 1.5 * error  # a rate half as high again is seen


@pytest.mark.parametrize(
    ("model", "n", "ends", "sigma_max"),
    [
        (rare_models.two_planes(0.5, 0.6), 5, (0.02, 0.6), 1.0),
        (rare_models.shell(0.9, 1.1, 5), 5, (0.08, 0.35), 0.4),
        (rare_models.ball(0.5, 0.1, 3), 3, (0.06, 0.2), 0.2),
    ],
    ids=["two planes", "shell", "ball"],
)
def test_intervals_hold_for_two_pieces_a_shell_and_a_ball(model, n, ends, sigma_max):
    curve = rc.error_curve(
        model, *grey(100, (1, 1, n)), rates=[1e-4], samples=500, sigma_max=sigma_max,
        second_look=False,
    )  # fmt: skip
    truth = model.sigma(1e-4, *ends)
    assert covers(misses(curve, truth), 100, least=0.9)
    assert not covers(misses(curve, 0.85 * truth), 100, least=0.9)


def test_errors_that_end_along_rays_are_announced():
    x, y = grey(8, (1, 1, 5))
    curve = rc.error_curve(rare_models.shell(0.9, 1.1, 5), x, y, [1e-4], samples=500, sigma_max=0.4)
    assert all("rays" in each.split() for each in curve.warning)
    plane = rc.error_curve(HalfSpace(5, 0.5), x, y, [1e-4], samples=500)
    assert not any("rays" in each.split() for each in plane.warning)
    assert (np.nan_to_num(plane.nested, nan=1.0) == 1).all()


def test_moves_that_stand_still_are_announced():
    x, y = grey(8, (1, 1, 3))
    model = rare_models.islands(0.5, 0.02)
    still = rc.error_curve(model, x, y, [1e-4], samples=500, second_look=False)
    assert all("moves" in each.split() for each in still.warning)
    assert (np.nanmin(still.acceptance, axis=1) < 0.1).all()
    plane = rc.error_curve(HalfSpace(3, 0.5), x, y, [1e-4], samples=500, second_look=False)
    assert not any("moves" in each.split() for each in plane.warning)


def test_a_plane_that_was_missed_is_announced_and_one_that_was_not_is_not():
    # in much noise the plane holds 1 in 500 of the errors, so that first errors miss it often
    model = rare_models.hidden_plane(2.385, 50, 0.88)
    x, y = grey(60, (1, 1, 51))
    curve = rc.error_curve(model, x, y, [1e-5], samples=500)
    truth = model.sigma(1e-5, 0.1, 0.35)
    missed = curve.sigma_low[:, 0] > truth
    told = curve.warning != ""
    assert missed.sum() >= 10  # it does happen, or nothing is tested
    # of ten where nine in ten are told, fewer than 8 are in 7 of 100 tries, and where half are told
    # 8 or more in 5: at this seed alone
    assert told[missed].mean() >= 0.8
    fine = rc.error_curve(HalfSpace(51, 0.88), x, y, [1e-5], samples=500)
    assert (["missed" in each for each in fine.warning].count(True)) <= 2


def test_error_rate_joins_plain_counting_and_goes_on_below_it():
    model = HalfSpace(3, 0.5)
    sigma = [0.0, 0.6, 0.15, 0.1, 0.08]
    x, y = grey(150, (1, 1, 3))
    found = rc.error_rate(model, x, sigma, y, samples=500, method="splitting")
    assert isinstance(found, rc.RareErrorRate)
    assert (found.n_samples[:, :2] == 500).all()
    assert (found.n_samples[:, 3:] == 0).all()
    for at in range(1, 5):
        truth = model.rate(sigma[at])
        missed = (found.rate_low[:, at] > truth) | (found.rate_high[:, at] < truth)
        assert covers(missed.sum(), 150), sigma[at]


def test_rates_far_below_any_float32_do_not_vanish():
    model = HalfSpace(3, 0.5)
    x, y = grey(6, (1, 1, 3))
    found = rc.error_curve(model, x, y, [1e-15], samples=500)
    assert np.allclose(found.sigma[:, 0], model.sigma(1e-15), rtol=0.1)
    below = rc.error_rate(model, x, 0.02, y, samples=500, method="splitting")
    assert (below.rate == 0).all()
    assert (below.rate_high < 1e-13).all()
    assert (below.rate_high > 0).all()


def test_a_set_that_noise_hardly_meets_is_censored_or_reached_by_levels_of_the_margin():
    model = rare_models.ball(0.5, 0.1, 3)
    x, y = grey(10, (1, 1, 3))
    curve = rc.error_curve(model, x, y, (0.1, 1e-2, 1e-4), samples=500, sigma_max=0.2)
    assert (curve.status[:, :2] == "censored").all()
    assert (curve.status[:, 2] == "found").all()
    assert (np.isinf(curve.sigma) == (curve.status == "censored")).all()
    assert (np.nanmax(curve.level_margin, axis=1) > 0).all()
    far = rc.sigma_at_error_rate(HalfSpace(3, 30.0), x, 1e-9, y, samples=500)
    assert (far.status == "censored").all()
    assert (far.sigma_low == 1).all()


def test_the_rate_at_a_sigma_is_found_where_more_noise_errs_less():
    # at sigma 1 its rate is 3e-17, at 0.03, where it is largest, 1.7e-4
    model = rare_models.ball(0.1, 0.05, 10)
    x, y = grey(100, (1, 1, 10))
    found = rc.error_rate(model, x, 0.03, y, samples=500, method="splitting")
    truth = model.rate(0.03)
    missed = (found.rate_low[:, 0] > truth) | (found.rate_high[:, 0] < truth)
    assert covers(missed.sum(), 100)
    assert not covers(np.sum(found.rate_high[:, 0] < 2 * truth), 100)
    # asked for together with sigmas at which the rate is far below any that can be told from 0
    several = rc.error_rate(
        model, x[:10], [0.03, 0.3, 1.0], y[:10], samples=500, method="splitting", seed=6
    )
    missed = (several.rate_low[:, 0] > truth) | (several.rate_high[:, 0] < truth)
    assert covers(missed.sum(), 10)
    assert (several.rate_high[:, 0] > truth / 10).all()  # 1e-14 was once said of 1 in 9 images
    assert (several.rate[:, 2] < 1e-13).all()


class Shallow(torch.nn.Module):
    """Errors beyond a plane, but only within a radius: in much noise there are none."""

    def forward(self, x):
        u = x.flatten(1) - 0.5
        margin = torch.maximum(0.5 - u[:, 0], u.norm(dim=1) - 3)
        return torch.stack([margin, torch.zeros_like(margin)], 1)


def test_sigma_is_found_where_more_noise_errs_less():
    x, y = grey(24, (1, 10, 10))
    found = rc.sigma_at_error_rate(Shallow(), x, 1e-5, y, samples=500, seed=3)
    # more than 2 of 24 by chance in 1 of 10,000 where 99.6 % are found; in 82 of 100 where 82 % are
    lost = found.status != "found"
    assert lost.sum() <= 2
    assert np.allclose(found.sigma[~lost], HalfSpace(100, 0.5).sigma(1e-5), rtol=0.05)


def test_where_no_error_was_met_the_second_look_is_believed(monkeypatch):
    model = rare_models.ball(0.1, 0.05, 10)
    x, y = grey(4, (1, 1, 10))
    curve = rc.error_curve(model, x, y, [1e-6], samples=500)
    assert (curve.status == "undecided").all()
    assert np.isinf(curve.sigma).all()
    assert "4 undecided at some rate" in repr(curve)
    one = rc.sigma_at_error_rate(model, x, 1e-6, y, samples=500)
    assert (one.status == "undecided").all()
    assert (one.bracket_low == 0).all()
    assert (curve.warning == "missed").all()
    assert (curve.sigma_low == 0).all()
    stands = rc.error_curve(HalfSpace(10, 30.0), x, y, [1e-6], samples=500)
    assert (stands.warning == "").all()
    assert (stands.sigma_low == 1).all()
    monkeypatch.setattr(second_look, "log_lower_rate", lambda engine, rows, *_: np.zeros(len(rows)))
    rate = rc.error_rate(HalfSpace(10, 30.0), x, 0.5, y, samples=500, method="splitting")
    assert (rate.warning == "missed").all()
    assert (rate.rate_high == 1).all()


def test_intervals_hold_where_sigma_max_is_hardly_above_sigma():
    model = HalfSpace(3, 0.5)
    truth, (x, y) = model.sigma(1e-3), grey(100, (1, 1, 3))
    curve = rc.error_curve(
        model, x, y, [1e-3], samples=500, sigma_max=truth * 1.001, second_look=False
    )
    assert {"censored", "found"} == set(curve.status[:, 0].tolist())
    assert covers(misses(curve, truth), 100)
    # a set 3 % nearer than they say is seen
    assert not covers(misses(curve, truth * 0.97), 100)


def test_a_rate_below_one_in_samples_chooses_splitting_and_says_so():
    model = Slab(16, 0.5)
    x, y = grey(4)
    found = rc.sigma_at_error_rate(model, x, 1e-5, y, samples=500)
    assert isinstance(found, rc.RareSigma)
    assert found.provenance.method == "splitting"
    assert any("below 1/samples = 0.002" in note for note in found.provenance.notes)
    assert np.allclose(found.sigma, model.sigma(1e-5), rtol=0.15)
    assert (found.bracket_low <= found.sigma).all()
    assert (found.sigma <= found.bracket_high).all()
    plain = rc.sigma_at_error_rate(model, x, 0.01, y, samples=500)
    assert plain.provenance.method == "quantile"


def test_splitting_agrees_with_plain_counting_on_a_network():
    from models import Small

    x = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    model = Small().eval()
    plain = rc.sigma_at_error_rate(model, x, 5e-3, samples=6000, sigma_max=30.0)
    split = rc.sigma_at_error_rate(model, x, 5e-3, samples=500, method="splitting", sigma_max=30.0)
    assert (plain.status == "found").all()

    def apart(factor):
        """Two intervals of 95 % are disjoint in at most 5 %; more than `covers` allows in 1e-4."""
        low, high = split.sigma_low * factor, split.sigma_high * factor
        return int(((low > plain.sigma_high) | (high < plain.sigma_low)).sum())

    assert covers(apart(1.0), 12, least=0.95)
    # the controls: sigmas a fourth off in either direction
    assert not covers(apart(1.25), 12, least=0.95)
    assert not covers(apart(0.8), 12, least=0.95)
