"""stats.py against scipy, exact enumeration and, where only time-uniform laws are at stake, draws.

A test by simulation states the chance that it fails although the code is right; seeds are fixed.
"""

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from robustcore.stats import (
    clopper_pearson,
    confidence_sequence,
    group_coverage,
    group_ranks,
    order_ranks,
    rank_coverage,
    target_rank,
)

RATES = [0.001, 0.01, 0.1, 0.5, 0.9]


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize("samples", [1, 7, 1000])
def test_clopper_pearson_is_scipys(samples: int, confidence: float) -> None:
    errors = np.unique([0, 1, samples // 3, samples - 1, samples])
    low, high = clopper_pearson(errors, samples, confidence)
    for k, lower, upper in zip(errors.tolist(), low, high, strict=True):
        expected = binomtest(k, samples).proportion_ci(confidence, method="exact")
        assert (lower, upper) == pytest.approx((expected.low, expected.high), rel=1e-9, abs=1e-14)


def test_clopper_pearson_closed_ends() -> None:
    low, high = clopper_pearson([0, 10], 10)
    assert low[0] == 0
    assert high[1] == 1
    assert high[0] == pytest.approx(1 - 0.025**0.1)
    assert low[1] == pytest.approx(0.025**0.1)


@pytest.mark.parametrize("rate", RATES)
def test_clopper_pearson_covers_exactly_enough(rate: float) -> None:
    for samples in (5, 50, 400):
        counts = np.arange(samples + 1)
        mass = binom.pmf(counts, samples, rate)
        low, high = clopper_pearson(counts, samples)
        assert mass[low > rate].sum() <= 0.025 + 1e-12
        assert mass[high < rate].sum() <= 0.025 + 1e-12
        # negative control: the same sum over intervals at 50 % must find too little coverage
        low, high = clopper_pearson(counts, samples, 0.5)
        if samples == 400 and rate >= 0.01:
            assert mass[(low <= rate) & (rate <= high)].sum() < 0.95


def test_clopper_pearson_broadcasts() -> None:
    low, high = clopper_pearson(np.arange(3)[:, None], np.array([5, 9]))
    assert low.shape == high.shape == (3, 2)
    assert low.dtype == np.float64


@pytest.mark.parametrize("samples", [1, 2, 10, 100, 1000, 50_000])
@pytest.mark.parametrize("rate", RATES)
def test_order_ranks_by_enumeration(samples: int, rate: float) -> None:
    for confidence in (0.5, 0.95, 0.99):
        tail = (1 - confidence) / 2
        counts = np.arange(samples + 2)
        below = np.concatenate([[0.0], binom.cdf(counts[:-1], samples, rate)])  # P(K < k)
        at_least = np.concatenate([[1.0], binom.sf(counts[:-1], samples, rate)])  # P(K >= k)
        low, high = order_ranks(samples, rate, confidence)
        assert low == np.flatnonzero(below <= tail).max()
        assert high == np.flatnonzero(at_least <= tail).min()
        inside = binom.pmf(np.arange(low, high), samples, rate).sum()
        coverage = rank_coverage(samples, rate, low, high)
        assert coverage == pytest.approx(inside, abs=1e-9)
        assert coverage >= confidence


def test_order_ranks_where_a_tail_is_met_exactly() -> None:
    # P(Bin(2, 1/2) < 1) is exactly 1/4, half of 1 - 0.5: then the rank is taken
    assert tuple(map(int, order_ranks(2, 0.5, 0.5))) == (1, 2)


def test_order_ranks_say_when_there_is_no_bound() -> None:
    low, high = order_ranks([3, 3], [0.001, 0.999])
    assert low[0] == 0
    assert high[1] == 4
    assert rank_coverage(3, 0.5, 0, 4) == 1
    assert rank_coverage(3, 0.5, 2, 2) == 0


def test_order_ranks_bound_a_quantile_of_draws() -> None:
    # 4,000 repeats; a true coverage of at least 0.95 is found below 0.9363 once in 30,000
    draws = np.sort(np.random.default_rng(0).exponential(size=(4000, 200)), axis=1)
    low, high = order_ranks(200, 0.1)
    truth = -np.log1p(-0.1)
    held = (draws[:, low - 1] <= truth) & (truth < draws[:, high - 1])
    assert binomtest(int(held.sum()), 4000, 0.95, "less").pvalue > 3e-5
    shifted = (draws[:, low + 3] <= truth) & (truth < draws[:, high + 3])
    assert binomtest(int(shifted.sum()), 4000, 0.95, "less").pvalue < 3e-5  # negative control


def test_target_rank() -> None:
    for samples in (1, 10, 100, 1000, 50_000):
        for errors in range(min(samples, 1000)):
            if errors:
                assert target_rank(samples, errors / samples) == errors + 1
            assert target_rank(samples, (errors + 0.5) / samples) == errors + 1
    assert int(0.29 * 100) + 1 == 29
    assert target_rank(100, 0.29) == 30
    assert target_rank(5, 1 - 1e-12) == 5


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 4.0]])
@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5])
def test_group_ranks_hold_jointly(rate: float, weights: list[float] | None) -> None:
    looks = [100, 250, 600]
    low, high = group_ranks(looks, rate, 0.95, weights)
    assert group_coverage(looks, rate, low, high) >= 0.95
    fixed_low, fixed_high = order_ranks(looks, rate)
    assert np.all(low <= fixed_low)
    assert np.all(high >= fixed_high)
    # negative control: the ranks of one look, used at each of many, do not hold
    many = np.arange(20, 601, 20)
    assert group_coverage(many, 0.5, *order_ranks(many, 0.5)) < 0.85
    bonferroni = order_ranks(looks, rate, 1 - 0.05 / 3)
    assert weights or (np.all(low >= bonferroni[0]) and np.all(high <= bonferroni[1]))


@pytest.mark.parametrize("weights", [[1.0, 1.0], [1.0, 30.0], [4.0, 1.0], [2.0, 60.0]])
@pytest.mark.parametrize("looks", [[10, 11], [20, 50]])
def test_group_ranks_are_those_of_the_largest_share_that_suffices(
    looks: list[int], weights: list[float]
) -> None:
    """By trying shares of the error from all of it downwards; the largest weight has all."""
    share = np.array(weights) / max(weights)

    def ranks(scale: float) -> tuple[np.ndarray, np.ndarray]:
        each = [order_ranks(n, 0.5, 1 - scale * s) for n, s in zip(looks, share, strict=True)]
        return np.array([low for low, _ in each]), np.array([high for _, high in each])

    for scale in np.linspace(0.1, 0, 500, endpoint=False):
        low, high = ranks(scale)
        if group_coverage(looks, 0.5, low, high) >= 0.9:
            break
    found = group_ranks(looks, 0.5, 0.9, weights)
    assert np.array_equal(found, (low, high))


def test_group_ranks_of_one_look_are_order_ranks() -> None:
    for n in (10, 1000):
        assert np.array_equal(np.stack(group_ranks([n], 0.01)).T[0], np.stack(order_ranks(n, 0.01)))


def test_group_ranks_take_a_confidence_that_is_met_exactly() -> None:
    # one error in two draws, and then 1 to 3 in four: exactly 1/2
    low, high = group_ranks([2, 4], 0.5, 0.5)
    assert low.tolist() == [1, 1]
    assert high.tolist() == [2, 4]
    assert group_coverage([2, 4], 0.5, low, high) == pytest.approx(0.5, abs=1e-14)


def test_ranks_that_a_caller_changes_are_found_again() -> None:
    first = [each.copy() for each in group_ranks([100, 200], 0.1)]
    for each in group_ranks([100, 200], 0.1):
        each += 7
    assert np.array_equal(first, group_ranks([100, 200], 0.1))


def test_group_coverage_by_enumeration_of_every_path() -> None:
    low, high, rate = np.array([0, 1, 2]), np.array([2, 4, 5]), 0.3
    expected = 0.0
    for word in range(2**7):
        bits = np.array([word >> i & 1 for i in range(7)])
        counts = np.cumsum(bits)[[1, 4, 6]]
        if np.all((low <= counts) & (counts < high)):
            expected += rate ** bits.sum() * (1 - rate) ** (7 - bits.sum())
    assert group_coverage([2, 5, 7], rate, low, high) == pytest.approx(expected, abs=1e-14)


def test_group_coverage_of_one_look_is_rank_coverage() -> None:
    assert group_coverage([50], 0.2, [5], [16]) == pytest.approx(rank_coverage(50, 0.2, 5, 16))
    assert group_coverage([5, 9], 0.2, [0, 0], [6, 10]) == pytest.approx(1)
    assert group_coverage([5, 9], 0.2, [4, 0], [6, 3]) == 0


def _ever_missed(rate: float, focus: float | None, repeats: int, draws: int) -> tuple[int, int]:
    """Of `repeats` runs, those whose sequence, and whose repeated exact interval, ever missed."""
    bits = np.random.default_rng(7).random((repeats, draws)) < rate
    errors, samples = np.cumsum(bits, axis=1), np.arange(1, draws + 1)
    table = np.arange(draws + 1)[:, None]
    at = (errors, np.broadcast_to(samples - 1, errors.shape))

    def missed(method: object, **options: float | None) -> int:
        low, high = method(np.minimum(table, samples), samples, **options)  # type: ignore[operator]
        return int(((low > rate) | (high < rate))[at].any(axis=1).sum())

    return missed(confidence_sequence, rate=focus), missed(clopper_pearson)


@pytest.mark.parametrize(("rate", "focus"), [(0.01, 0.01), (0.1, None), (0.5, None), (0.1, 0.01)])
def test_confidence_sequence_survives_looking_after_every_draw(
    rate: float, focus: float | None
) -> None:
    repeats = 1000
    sequence, repeated = _ever_missed(rate, focus, repeats, 500)
    assert binomtest(sequence, repeats, 0.05, "greater").pvalue > 1e-4
    if rate >= 0.1:  # negative control: exact intervals, looked at after every draw, do not hold
        assert binomtest(repeated, repeats, 0.05, "greater").pvalue < 1e-4


def test_confidence_sequence_is_a_level_set_of_the_martingale() -> None:
    from scipy.special import betaln

    k, n, alpha = np.array([0, 1, 30, 150, 200]), 200, 0.05
    for focus, (a, b) in {None: (0.5, 0.5), 0.01: (0.5, 49.5), 0.9: (4.5, 0.5)}.items():
        low, high = confidence_sequence(k, n, 1 - alpha, focus)
        for p, inner in ((low[1:], k > 0), (high[:-1], k < n)):
            some = k[inner]
            log_m = betaln(a + some, b + n - some) - betaln(a, b)
            log_m -= some * np.log(p) + (n - some) * np.log1p(-p)
            assert log_m == pytest.approx(np.log(1 / alpha), rel=1e-6)
        assert low[0] == 0
        assert high[-1] == 1
        assert np.all(low <= k / n)
        assert np.all(k / n <= high)


def test_martingale_has_mean_one_exactly() -> None:
    # the fact that Ville's inequality needs, by enumeration over all counts
    from scipy.special import betaln

    n, k = 40, np.arange(41)
    for p in (0.01, 0.3):
        log_m = betaln(0.5 + k, 49.5 + n - k) - betaln(0.5, 49.5) - binom.logpmf(k, n, p)
        log_m += binom.logpmf(k, n, 0.5) + n * np.log(2)
        assert np.sum(np.exp(log_m) * binom.pmf(k, n, p)) == pytest.approx(1)


def test_confidence_sequence_is_wider_than_one_look_and_focus_helps() -> None:
    low, high = confidence_sequence(10, 1000, rate=0.01)
    plain_low, plain_high = confidence_sequence(10, 1000)
    once_low, once_high = clopper_pearson(10, 1000)
    assert low < once_low
    assert once_high < high
    assert high - low < plain_high - plain_low


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: clopper_pearson(-1, 3), "errors must be at least 0, but was -1"),
        (lambda: clopper_pearson(1, 0), "samples must be at least 1, but was 0"),
        (lambda: clopper_pearson([1, 4], 3), "errors must be at most samples, but was 4 of 3"),
        (lambda: clopper_pearson(1, 3, 1.0), "confidence must be between 0 and 1, .* was 1.0"),
        (lambda: order_ranks(3, np.nan), "probability must be between 0 and 1, .* was nan"),
        (lambda: order_ranks(3, 0.1, [0.9]), r"confidence must be one number, .* shape \(1,\)"),
        (lambda: target_rank(3, 0.0), "probability must be between 0 and 1, .* was 0.0"),
        (lambda: rank_coverage(3, 0.1, 0, 5), "low and high must satisfy .* were 0 and 5 of 3"),
        (lambda: rank_coverage(3, 0.1, [0, 2], [1, 1]), r"low and high must satisfy .* \[0, 2\]"),
        (lambda: rank_coverage(3, 0.1, 0, [4, 5]), "low and high must satisfy .* 0 and .4, 5. of"),
        (lambda: group_ranks([3, 5, 4], 0.1), r"looks must be increasing"),
        (lambda: group_ranks([3, 4], 0.1, 0.95, [1.0, 0.0]), "weights must be 2 positive numbers"),
        (lambda: group_coverage([3, 4], 0.1, [1, 2], [2, 1]), "low and high must be 2 ranks"),
        (lambda: order_ranks([3, 0], 0.1), "samples must be at least 1, but was 0"),
        (lambda: order_ranks(3, [0.1, 1.0]), "probability must be between 0 and 1, .* was 1.0"),
        (lambda: target_rank(3, [0.5, 1.5]), "probability must be between 0 and 1, .* was 1.5"),
        (lambda: confidence_sequence([1, -1], 3), "errors must be at least 0, but was -1"),
        (lambda: group_ranks([3, 3], 0.1), r"looks must be increasing .* was \[3, 3\]"),
        (lambda: group_ranks([], 0.1), r"looks must be increasing .* was \[\]"),
        (lambda: group_ranks([3], 0.1, 0.95, [0.0]), "weights must be 1 positive numbers"),
        (lambda: group_coverage([3], 0.1, [2], [1]), "low and high must be 1 ranks"),
        (lambda: confidence_sequence(1, 3, rate=2), "rate must be between 0 and 1, .* was 2.0"),
    ],
)
def test_refusals(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]


def test_what_is_no_number_is_refused_by_name() -> None:
    for value in (1.0, "1", True, np.ma.masked, np.timedelta64(1), [1, 2.0]):
        with pytest.raises(TypeError, match="errors must be integers, was"):
            clopper_pearson(value, 3)
    for value in ("0.9", 1j, True, None):
        with pytest.raises(TypeError, match="confidence must be between 0 and 1"):
            clopper_pearson(1, 3, value)
    with pytest.raises(ValueError, match="errors and samples must have shapes that broadcast"):
        clopper_pearson([1, 2], [3, 4, 5])
    assert clopper_pearson(np.uint8(1), np.array(3, ">i4"))[0] == clopper_pearson(1, 3)[0]


def test_bounds_that_no_count_can_meet_cover_nothing() -> None:
    # counts never fall: 0 to 0 holds none, and 2 at the first look none below 1 at the second
    assert group_coverage([3, 6], 0.5, [0, 1], [0, 1]) == 0.0
    assert group_coverage([3, 6], 0.5, [2, 0], [3, 1]) == 0.0
