"""Splitting: the numbers between its levels, without a model."""

import numpy as np
import pytest
from scipy.stats import norm

from robustcore.rare.crossings import wanted
from robustcore.rare.curve import Curve, family_variance, height, log_rate_of, quantile
from robustcore.rare.measure import monotone
from robustcore.rare.pooling import pooled


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


def test_a_rate_lies_in_its_own_interval_at_any_confidence():
    one = np.ones((1, 2))
    curve = Curve(np.array([[0.4, 0.3]]), np.array([[-3.0, -6.0]]), one, 9 * one, one[:, 0])
    at = np.array([[0.45, 0.35, 0.3, 0.2]])
    for confidence in (0.01, 0.1, 0.5, 0.95, 0.999):
        log_rate, low, high = curve.rate_interval(at, confidence)
        assert (low <= log_rate).all()
        assert (log_rate <= high).all()


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


def test_bounds_of_sigma_grow_with_the_rate_and_lie_within_what_they_were():
    rates = np.log([1e-9, 0.1, 1e-3, 1e-3, 1e-6])
    low = np.array([[0.1, 0.5, 0.35, 0.3, 0.4], [0.0, 0.0, 0.0, 0.0, 0.0]])
    high = np.array([[0.9, 0.7, 0.6, 0.65, 0.5], [np.inf] * 5])
    lower, upper = monotone(rates, low, high)
    # from rare to common, 0.1 0.4 (0.35 0.3) 0.5 and 0.9 0.5 (0.6 0.65) 0.7
    assert lower[0].tolist() == [0.1, 0.5, 0.4, 0.4, 0.4]
    assert upper[0].tolist() == [0.5, 0.7, 0.6, 0.65, 0.5]
    assert (lower[1] == 0).all()
    assert np.isinf(upper[1]).all()
    order = np.argsort(rates, kind="stable")
    random = np.random.default_rng(0)
    low = random.random((50, 5))
    lower, upper = monotone(rates, low, low + random.random((50, 5)))
    assert (np.diff(lower[:, order], axis=1) >= 0).all()
    assert (np.diff(upper[:, order], axis=1) >= 0).all()
    assert (lower >= low).all()


def test_student_with_three_families_and_the_mean_of_a_lognormal():
    """By hand: log rate -6 with variance 0.04 on three families, t_3 = 3.182 at 95 %."""
    one = np.ones((1, 2))
    curve = Curve(
        np.array([[0.4, 0.3]]), np.array([[-3.0, -6.0]]), 0.04 * one, 3 * one, one[:, 0], 10**9
    )
    log_rate, low, high = curve.rate_interval(np.array([[0.3]]), 0.95)
    assert log_rate[0, 0] == pytest.approx(-6)
    assert low[0, 0] == pytest.approx(-6 + 0.02 - 3.182446 * 0.2, abs=1e-5)
    assert high[0, 0] == pytest.approx(-6 + 0.02 + 3.182446 * 0.2, abs=1e-5)
    sigma, lower, upper = curve.sigma_interval(np.array([[-5.0]]), 0.95)
    # in sigma the middle is half a variance lower, as the rate's mean is above its median
    ends = [-5 - 0.02 - 3.182446 * 0.2, -5 - 0.02, -5 - 0.02 + 3.182446 * 0.2]
    h = -norm.ppf(np.exp([-3.0, -6.0]))
    at = np.interp(-norm.ppf(np.exp(ends)), h, [1 / 0.4, 1 / 0.3])
    found = [lower[0, 0], sigma[0, 0], upper[0, 0]]
    assert found == pytest.approx(1 / at, rel=1e-5)
    assert quantile(0.95, np.array([0.2, 1.0])) == pytest.approx(12.7062, abs=1e-3)  # one at least


def test_the_variance_between_levels_and_beyond_them():
    sigma, log_rate = np.array([[0.5, 0.4, 0.3]]), np.array([[-2.0, -4.0, -7.0]])
    variance, families = np.array([[0.01, 0.05, 0.02]]), np.array([[40.0, 20.0, 30.0]])
    curve = Curve(sigma, log_rate, variance, families, np.array([0.8]), particles=10**12)
    halfway = [2 / (1 / 0.5 + 1 / 0.4), 2 / (1 / 0.4 + 1 / 0.3)]
    found, spread, left = curve.at_sigma(np.array([halfway]))
    h = -norm.ppf(np.exp(log_rate[0]))
    assert -norm.ppf(np.exp(found[0])) == pytest.approx([h[:2].mean(), h[1:].mean()])
    # a quarter of what the step adds, from its surer end
    assert spread[0] == pytest.approx([0.01 + 0.04 / 4, 0.02 + 0.03 / 4])
    assert left[0] == pytest.approx([30, 25])
    # beyond the end the last step's variance grows with the square of the way; here its rise is
    # negative, so the least counts: expm1(fall) / particles
    few = Curve(sigma, log_rate, variance, families, np.array([0.8]), particles=100)
    found, spread, _ = few.at_sigma(np.array([[0.25]]))
    gap = -7.0 - found[0, 0]
    assert -norm.ppf(np.exp(found[0, 0])) == pytest.approx(h[2] + 0.8 * (1 / 0.25 - 1 / 0.3))
    assert spread[0, 0] == pytest.approx(0.02 + (gap / 3) ** 2 * np.expm1(3.0) / 100)


def test_above_a_sure_first_level_no_sigma_has_this_rate_again():
    one = np.ones((1, 2))
    curve = Curve(
        np.array([[0.4, 0.3]]), np.array([[-3.0, -6.0]]), 0.04 * one, 9 * one, one[:, 0], 10**9
    )
    # 4 standard deviations of 0.2 below the first level's rate
    _, low, high = curve.sigma_interval(np.array([[-3.79, -3.81]]), 0.9999999)
    assert high[0, 0] > 0.4
    assert high[0, 1] == 0.4
    assert (low < 0.4).all()


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
