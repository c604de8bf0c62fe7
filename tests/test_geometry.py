"""geometry.py against the paper's numbers, scipy's normal distribution and itself."""

import numpy as np
import pytest
from scipy.stats import norm

from robustcore.geometry import (
    half_space_distance,
    half_space_rate,
    half_space_ratio,
    half_space_sigma,
    isoperimetric_bound,
    typical_noise_norm,
)

RATES = np.array([1e-300, 1e-6, 0.001, 0.01, 0.1, 0.3, 0.49, 0.51, 0.9, 0.999])
SIGMAS = np.array([1e-6, 0.01, 0.1, 1.0, 20.0])[:, None]


def test_numbers_of_the_paper() -> None:
    assert half_space_distance(0.1, 0.01) == pytest.approx(0.23, abs=0.005)
    assert typical_noise_norm(0.1, 3) == pytest.approx(0.17, abs=0.005)
    assert typical_noise_norm(0.1, 150_528) == pytest.approx(38.8, abs=0.05)


def test_equation_1_is_scipys_normal() -> None:
    distance = half_space_distance(SIGMAS, RATES)
    assert distance == pytest.approx(SIGMAS * norm.isf(RATES), rel=1e-12)
    assert distance.shape == (5, 10)
    assert distance.dtype == np.float64


def test_round_trips() -> None:
    distance = half_space_distance(SIGMAS, RATES)
    assert half_space_sigma(distance, RATES) == pytest.approx(SIGMAS + 0 * RATES, rel=1e-9)
    assert half_space_rate(distance, SIGMAS) == pytest.approx(RATES + 0 * SIGMAS, rel=1e-9)
    ratio = half_space_ratio(3 * distance[:, :7], SIGMAS, RATES[:7])
    assert ratio == pytest.approx(3 + 0 * ratio, rel=1e-12)


def test_signs_and_monotonicity() -> None:
    distance = half_space_distance(1.0, RATES)
    assert np.all(np.diff(distance) < 0)
    assert np.array_equal(distance < 0, RATES > 0.5)
    assert half_space_distance(0.3, 0.2) == pytest.approx(-half_space_distance(0.3, 0.8))
    for zero in (half_space_distance(2.0, 0.5), half_space_sigma(0.0, 0.9)):
        assert zero == 0
        assert not np.signbit(zero)
    assert np.all(np.diff(half_space_rate(1.0, SIGMAS[:, 0])) >= 0)


def test_isoperimetric_bound() -> None:
    bound = isoperimetric_bound(0.1, [0.0, 0.01, 0.5, 0.7, 1.0])
    assert bound.tolist() == [np.inf, half_space_distance(0.1, 0.01), 0.0, 0.0, 0.0]
    assert isoperimetric_bound(np.inf, 0.5) == 0
    assert isoperimetric_bound(0.0, 0.0) == np.inf


def test_isoperimetric_bound_is_met_by_a_half_space_and_not_by_a_slab() -> None:
    # median distance from noise to {x_1 >= t} is t itself; to {|x_1| >= t} of the same measure less
    rate = 0.01
    x = norm.ppf((np.arange(100_000) + 0.5) / 100_000)
    half = np.median(np.maximum(norm.isf(rate) - x, 0))
    slab = np.median(np.maximum(norm.isf(rate / 2) - np.abs(x), 0))
    assert half == pytest.approx(isoperimetric_bound(1.0, rate), rel=1e-6)
    assert slab < isoperimetric_bound(1.0, rate)


def test_typical_noise_norm_is_the_root_mean_square() -> None:
    # 2,000 norms of 3,072 numbers: the mean square is within 4 of its standard deviations
    noise = 0.2 * np.random.default_rng(0).standard_normal((2000, 3072))
    mean_square = np.mean(np.sum(noise**2, axis=1))
    sd = 0.2**2 * np.sqrt(2 * 3072 / 2000)
    assert abs(mean_square - typical_noise_norm(0.2, 3072) ** 2) < 4 * sd


def test_numbers_in_numbers_out() -> None:
    for value in (half_space_distance(0.1, 0.01), isoperimetric_bound(0.1, 0.01)):
        assert isinstance(value, float)
    assert isinstance(half_space_sigma(0.1, 0.01), float)
    assert np.isnan(half_space_ratio(0.0, 0.0, 0.01))
    assert half_space_ratio(1.0, np.inf, 0.01) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: half_space_distance(-0.1, 0.01), "sigma must be .* at least 0, but was -0.1"),
        (lambda: half_space_distance(np.nan, 0.01), "sigma must be .* but was nan"),
        (lambda: half_space_distance(0.1, [0.1, 1.0]), "rate must be between .* but was 1.0"),
        (lambda: half_space_sigma(0.1, 0.5), "rate must differ from 1/2"),
        (lambda: half_space_sigma(-0.1, 0.01), "distance must be at least 0 .* but was -0.1"),
        (lambda: half_space_sigma(0.1, 0.9), "distance must be .* at most 0 .* but was 0.1"),
        (lambda: half_space_rate(np.inf, 0.1), "distance must be a finite number, but was inf"),
        (lambda: half_space_rate(0.1, 0.0), "sigma must be a number above 0, but was 0.0"),
        (lambda: isoperimetric_bound(0.1, 1.1), "rate must be between 0 and 1, but was 1.1"),
        (lambda: typical_noise_norm(0.1, 0), "n must be at least 1, but was 0.0"),
        (lambda: half_space_ratio(0.1, 0.1, 0.5), "rate must be between 0 and 1/2"),
        (lambda: half_space_ratio(-1, 0.1, 0.1), "distance must be .* but was -1.0"),
    ],
)
def test_refusals(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]


def test_what_is_no_number_is_refused_by_name() -> None:
    for value in ("a", 1j, True, None, np.datetime64("2020-01-01"), np.ma.masked, [0.1, "a"]):
        with pytest.raises(TypeError, match="sigma must be a number that is at least 0, was"):
            half_space_distance(value, 0.01)
    with pytest.raises(ValueError, match=r"sigma and rate must have shapes that broadcast.*\(2,\)"):
        half_space_distance([0.1, 0.2], [0.1, 0.2, 0.3])


def test_the_distance_that_no_sigma_solves_is_named():
    with pytest.raises(ValueError, match=r"but was -0\.3$"):
        half_space_sigma([0.2, -0.3], 0.1)
