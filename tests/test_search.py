"""The searches for sigma, against radii known in closed form; no statistics.

For a linear model draw i errs from the radius r_i = distance / -(w z_i) on, so sigma and its bounds
are order statistics of numbers that one evaluation at sigma 1 tells.
"""

import numpy as np
import pytest
import torch
from models import HalfSpace, Slab, grey
from scipy.stats import binom, norm

import robustcore as rc
from robustcore.evaluator import Evaluator
from robustcore.search import Bisection, Quantile
from robustcore.search.brackets import _doubtful, bracket_of
from robustcore.search.looks import Looks
from robustcore.search.margin_fit import MarginFit, bell_shaped, moments
from robustcore.search.quantile import CHECKING, DONE, PILOTING
from robustcore.search.radii import Radii
from robustcore.stats import group_ranks


def radii(model, x, samples, seed=0):
    """(B, N), sorted: where each draw comes to err, by its height over the plane at sigma 1."""
    engine = Evaluator(
        HalfSpace(model.w.numel(), 0.0), x, torch.zeros(len(x), dtype=int), seed=seed
    )
    rows = np.repeat(np.arange(len(x)), samples)
    height = engine.margins(rows, np.ones(len(rows)), np.tile(np.arange(samples), len(x)))
    height = height.reshape(len(x), samples)
    with np.errstate(divide="ignore"):
        found = np.where(height < 0, model.distance / -height, np.inf)
        if isinstance(model, Slab):
            found = model.distance / np.abs(height)
    return np.sort(found, 1)


def ranks(samples, rate, confidence):
    """(l, k, u) from the binomial distribution alone."""
    tail, count = (1 - confidence) / 2, np.arange(samples + 1)
    low = np.flatnonzero(binom.cdf(count - 1, samples, rate) <= tail).max()
    high = np.flatnonzero(binom.sf(count, samples, rate) <= tail).min() + 1
    return low, int(np.floor(rate * samples)) + 1, high


@pytest.mark.parametrize("confidence", [0.9, 0.99])
@pytest.mark.parametrize(
    ("model_type", "rate", "samples"), [(HalfSpace, 0.02, 600), (Slab, 0.3, 400)]
)
def test_quantile_gives_order_statistics_of_the_radii(model_type, rate, samples, confidence):
    model, (x, y) = model_type(16, 0.5), grey(30)
    record = rc.sigma_at_error_rate(
        model, x, rate, y, samples=samples, confidence=confidence, sigma_max=4.0, seed=3
    )
    known = radii(model, x, samples, seed=3)
    low, rank, high = ranks(samples, rate, confidence)
    at = known[:, rank - 1]
    assert (record.bracket_low <= at).all()
    assert (at <= record.bracket_high).all()
    # no bracket is wider than a hundredth of sigma, nor one of a bound than a hundredth
    assert (record.bracket_high - record.bracket_low <= 0.011 * record.sigma).all()
    assert record.sigma_low == pytest.approx(known[:, low - 1], rel=0.01)
    assert record.sigma_high == pytest.approx(known[:, high - 1], rel=0.01)
    assert (record.sigma_low <= known[:, low - 1]).mean() > 0.9  # ends lie outside
    assert (record.sigma_high >= known[:, high - 1]).mean() > 0.9
    counted = (known <= record.sigma[:, None]).mean(1)
    assert record.error_rate == pytest.approx(counted, abs=1.01 / samples)
    # what a neighbouring rank, another tail or another seed would have given is told apart
    assert (np.abs(known[:, low] / record.sigma_low - 1) > 0.01).any()
    assert (np.abs(known[:, high] / record.sigma_high - 1) > 0.01).any()
    other = radii(model, x, samples, seed=4)[:, rank - 1]
    assert (np.abs(other / record.sigma - 1) > 0.01).mean() > 0.3


def test_bisection_gives_guesses_that_bound_the_same_order_statistics():
    model, (x, y), samples, rate = HalfSpace(16, 0.5), grey(10), 300, 0.05
    record = rc.sigma_at_error_rate(model, x, rate, y, samples=samples, method="bisection")
    known = radii(model, x, samples)
    low, rank, high = ranks(samples, rate, 0.95)
    assert (record.bracket_low <= known[:, rank - 1]).all()
    assert (known[:, rank - 1] <= record.bracket_high).all()
    assert record.bracket_high - record.bracket_low == pytest.approx(0.00078125)
    for row in range(10):  # the best of the guesses on its path
        guesses, guess, ends = [], 0.1, [0.0, np.inf]
        while min(ends[1], 1.0) - ends[0] > 0.001:
            guesses.append(guess)
            over = known[row, rank - 1] <= guess
            ends[int(over)] = guess
            middle = (ends[0] + min(ends[1], 1.0)) / 2
            guess = middle if over else min(2 * guess, middle)
        errors = (known[row] <= np.array(guesses)[:, None]).sum(1)
        below = [g for g, k in zip(guesses, errors, strict=True) if k < low]
        above = [g for g, k in zip(guesses, errors, strict=True) if k >= high]
        assert record.sigma_low[row] == pytest.approx(max(below, default=0.0))
        assert record.sigma_high[row] == pytest.approx(min(above, default=np.inf))
    assert (record.n_forward == len(guesses) * samples + 3).sum() >= 1


# -- an answer far below sigma_max ------------------------------------------------------------


class Labels(HalfSpace):
    """Margins that tell nothing of distances."""

    def forward(self, x):
        return torch.nn.functional.one_hot(super().forward(x).argmax(1), 2).float()


class Saturated(HalfSpace):
    def forward(self, x):
        return (1e6 * super().forward(x)).softmax(1)


@pytest.mark.parametrize("model_type", [HalfSpace, Labels, Saturated])
@pytest.mark.parametrize(
    ("distance", "sigma_max"), [(0.0177, 1e6), (0.0177, 1e12), (2.4e-5, 1.0), (2.4e-6, 1.0)]
)
def test_sigma_max_does_not_set_the_answer(model_type, distance, sigma_max):
    model, (x, y), samples = model_type(16, distance), grey(4), 200
    known = radii(HalfSpace(16, distance), x, samples)[:, int(0.1 * samples)]
    for more in ({}, {"rtol": 0.05}, {"method": "bisection"}):
        record = rc.sigma_at_error_rate(
            model, x, 0.1, y, samples=samples, sigma_max=sigma_max, **more
        )
        assert (record.status == "found").all()
        assert (record.bracket_low > 0).all()
        assert record.sigma == pytest.approx(known, rel=0.03), more  # images of 0.5 are float32
        assert (record.sigma_low < record.sigma).all()
        assert (record.sigma_high > record.sigma).all()
        if not more and model_type is HalfSpace:
            assert record.n_forward.max() < 5 * samples


@pytest.mark.parametrize("model_type", [HalfSpace, Labels])
def test_splitting_finds_images_next_to_the_boundary_from_any_sigma_max(model_type):
    model, (x, y) = model_type(16, 2.4e-6), grey(3)
    for sigma_max in (1.0, 1e8):
        record = rc.sigma_at_error_rate(
            model, x, 1e-4, y, samples=500, sigma_max=sigma_max, method="splitting"
        )
        assert (record.status == "found").all()
        assert record.sigma == pytest.approx(model.sigma(1e-4), rel=0.15)


def test_a_model_that_errs_in_the_faintest_noise_ends_the_search():
    def fragile(x):
        same = (x == 0.5).flatten(1).all(1).float()
        return torch.stack([same, 1 - same], 1)

    x, y = grey(2)
    for method in ("quantile", "bisection"):
        record = rc.sigma_at_error_rate(fragile, x, 0.1, y, samples=50, method=method)
        assert (record.sigma < 1e-6).all()


# -- parts ------------------------------------------------------------------------------------


def test_the_bracket_reaches_sigma_max_itself():
    near = np.array([0.9996, 0.9998, 1.0, 1.0001, np.inf, 0.0])
    for largest in (1.0, 3.0):
        low, high = bracket_of(near * largest, largest, 0.01)
        assert (high[:3] == largest).all()  # found, not censored
        assert np.isinf(high[3:5]).all()
        assert (low[3:5] == largest).all()
        assert (low[:3] < near[:3] * largest).all()
        assert (low[:3] >= 0.998 * largest).all()
        assert low[5] == high[5] == 0


def test_fresh_bisection_shares_its_confidence_among_sixteen_guesses():
    search = Bisection(np.ones(1), 0.05, 1000, 1.0, 0.95, fresh=True)
    assert search.most_rounds == 16
    tail = 0.05 / 16 / 2
    low, high = search.ranks
    assert binom.cdf(low - 1, 1000, 0.05) <= tail < binom.cdf(low, 1000, 0.05)
    assert binom.sf(high - 1, 1000, 0.05) <= tail < binom.sf(high - 2, 1000, 0.05)
    first = search.plan()[2]
    search.update(np.ones(len(first)))
    second = search.plan()[2]
    assert not set(first.tolist()) & set(second.tolist())  # new draws
    rounds = 1
    while len((plan := search.plan())[0]):
        search.update(np.where(plan[2] % 1000 < 50, -1.0, 1.0))
        rounds += 1
    assert rounds == 13  # to within 0.001 of sigma_max, where 50 errors are not more than 50
    assert search.bracket[0] > 0.999
    same = Bisection(np.ones(1), 0.05, 1000, 1.0, 0.95, fresh=False)
    assert same.ranks == list(ranks(1000, 0.05, 0.95)[::2])


def test_looks_halve_the_draws_and_hold_at_all_at_once():
    looks = Looks(4000, 0.01, 0.9, rtol=0.1)
    assert looks.draws.tolist() == [1000, 2000, 4000]  # 8 errors expected at the first
    low, high = group_ranks([1000, 2000, 4000], 0.01, 0.9)
    assert looks.ranks.tolist() == np.stack([low, [11, 21, 41], high], 1).tolist()
    ends = norm.ppf((high - 0.5) / looks.draws) - norm.ppf((low - 0.5) / looks.draws)
    assert looks.z_width == pytest.approx(ends)
    steep = np.array([ends[0] / 0.2, ends[1] / 0.2, ends[1] / 0.2, 0.01]) * (1 + 1e-9)
    seen = np.array([0, 0, 2001, 0])
    assert looks.first_narrow(steep, seen, 0.1).tolist() == [0, 1, 2, 2]
    assert Looks(4000, 0.01, 0.9, rtol=None).draws.tolist() == [4000]
    assert Looks(1000, 0.5, 0.9, rtol=0.1).draws.tolist() == [500, 1000]
    # the first look has 256 draws, and expects 8 errors, at least
    assert Looks(512, 0.5, 0.9, rtol=0.1).draws.tolist() == [256, 512]
    assert Looks(511, 0.5, 0.9, rtol=0.1).draws.tolist() == [511]
    assert Looks(1024, 1 / 64, 0.9, rtol=0.1).draws.tolist() == [512, 1024]
    assert Looks(1023, 1 / 64, 0.9, rtol=0.1).draws.tolist() == [1023]


def test_the_fit_is_its_formula():
    """Cornish and Fisher's quantile of the reciprocals, and the variance of mean and deviation."""
    random = np.random.default_rng(0)
    reciprocal = 0.4 + 0.3 * random.gamma(30.0, size=(1, 400)) / np.sqrt(30.0) - 1.2
    reciprocal[:, 350:] = np.nan
    at = np.full_like(reciprocal, 1.3)
    rate, confidence, n = 0.02, 0.9, 350
    sigma, low, high, steep, normal = MarginFit(rate, confidence)(reciprocal, at)
    seen = reciprocal[0, :n]
    z, q = norm.isf(rate), norm.ppf(0.95)
    skew = ((seen - seen.mean()) ** 3).mean() / seen.std() ** 3
    shrunk = skew * (n / 6) / (n / 6 + 100)
    middle = seen.mean() + seen.std(ddof=1) * (z + (z**2 - 1) / 6 * shrunk)
    variance = (1 + z**2 / 2) / n + ((z**2 - 1) / 6) ** 2 / (n / 6 + 100)
    half = q * np.sqrt(variance) * seen.std(ddof=1)
    half = np.hypot(half, q * 0.3 * abs(np.log(1.3 * middle)) * middle)
    assert skew > 0.2  # a sample that tells whether skewness is used
    assert sigma[0] == pytest.approx(1 / middle)
    assert low[0] == pytest.approx(1 / (middle + half))
    assert high[0] == pytest.approx(1 / (middle - half))
    assert steep[0] == pytest.approx(middle / seen.std(ddof=1))
    assert normal[0]
    fit = MarginFit(rate, confidence)
    width = fit.half_width(np.array([100.0]), np.array([2.0]))
    variance = (1 + z**2 / 2) / 100 + ((z**2 - 1) / 6) ** 2 / (100 / 6 + 100)
    assert width[0] == pytest.approx(q * np.sqrt(variance) / 2)
    needed = fit.draws_needed(np.array([2.0, 1e-3]), float(width[0]) * 1.2, 5000)
    assert 32 < needed[0] <= 100
    assert fit.half_width(needed[:1].astype(float), np.array([2.0]))[0] <= 1.2 * width[0]
    assert fit.half_width(needed[:1] - 32.0, np.array([2.0]))[0] > 1.2 * width[0]
    assert needed[1] == 5001


def test_the_fit_refuses_what_is_not_normal():
    random, fit = np.random.default_rng(1), MarginFit(0.02, 0.95)
    normal = 1 + 0.3 * random.standard_normal((200, 400))
    # at 2.5 standard errors of skewness, kurtosis and errors: 1.2 % each, and what the prior adds
    refused = ~fit(normal, np.ones_like(normal))[4]
    assert refused.mean() < 0.1
    for wrong in (
        1 + 0.3 * random.standard_t(3, (50, 400)),
        1 + 0.3 * random.exponential(size=(50, 400)),
        1 - 0.3 * random.exponential(size=(50, 400)),
        1 + 0.3 * random.uniform(-1, 1, (50, 400)),
    ):
        assert (~fit(wrong, np.ones_like(wrong))[4]).mean() > 0.9


def test_moments_and_bells():
    margins = np.array([1.0, 2.0, 3.0, 6.0, -1.0, -1.0, -1.0])
    rows = np.array([4, 4, 4, 4, 7, 7, 7])
    images, z, deviation = moments(rows, margins)
    assert images.tolist() == [4, 7]
    assert deviation == pytest.approx([np.std([1, 2, 3, 6], ddof=1), 0])
    assert z[0] == pytest.approx(3 / np.std([1, 2, 3, 6], ddof=1))
    assert z[1] == pytest.approx(-norm.ppf(3.5 / 4))  # counted, where margins do not vary
    random = np.random.default_rng(0)
    several = [random.standard_normal(500), random.exponential(size=500)]
    several += [np.where(random.random(500) < 0.05, -1.0, 1.0), -random.exponential(size=500)]
    several += [np.where(random.random(500) < 0.3, -1.0, 1.0), random.uniform(size=500)]
    bells = bell_shaped(np.arange(6).repeat(500), np.concatenate(several))
    assert bells.tolist() == [True, False, False, False, False, True]


# -- brackets of single draws ------------------------------------------------------------------


def test_errors_that_come_and_go_move_a_bracket_and_not_where_nothing_is_inferred():
    known = Radii(np.ones(2), 1, 1.0)
    known.blind[1] = True
    rows, draw = np.arange(2), np.zeros(2, int)
    known.record(rows, np.full(2, 0.5), draw, -np.ones(2))
    assert known.high[:, 0].tolist() == [0.5, 0.5]
    known.record(rows, np.full(2, 0.7), draw, np.ones(2))
    # right again beyond the error: the last crossing counts, or of the blind image the first
    assert known.low[:, 0].tolist() == [0.7, 0.7]
    assert known.high[:, 0].tolist() == [np.inf, 0.5]
    known.record(rows, np.full(2, 0.6), draw, -np.ones(2))
    assert known.low[:, 0].tolist() == [0.0, 0.0]
    assert known.high[:, 0].tolist() == [0.6, 0.5]
    assert known.times[:, 0].tolist() == [3, 3]
    assert known.at[:, 0, 0].tolist() == [0.6, 0.7]
    assert known.margin[:, 0, 0].tolist() == [-1, 1]


def test_a_blind_step_halves_in_log_sigma_and_leaves_0_behind():
    known = Radii(np.ones(3), 1, 1.0)
    known.blind[:] = True
    known.at[:, :, 0] = 0.5  # evaluated
    known.margin[:, :, 0] = -1.0
    known.low[:, 0], known.high[:, 0] = [0.04, 0.0, 0.0], [0.25, 0.25, 1e-6]
    assert known.infer(np.arange(3))[:, 0] == pytest.approx([0.1, 0.005, 1e-6 / 4])
    known.low[0, 0], known.high[0, 0] = 0.3, np.inf
    assert known.infer(np.arange(1))[:, 0] == pytest.approx([0.6])


# in standard errors, of six draws: sure to err below -1, sure not to above 1
SURE = np.array([[-2.0, -1.0, -0.5, 0.0, 0.4, 3.0]])
ALL, NO = np.ones(1, bool), np.zeros((1, 6), bool)


@pytest.mark.parametrize(
    ("rank", "upper", "asked"),
    [
        (2, True, []),  # two surely err: an upper end
        (3, True, [2, 3]),  # those that should err and may not
        (6, False, []),  # five may err: fewer than six, a lower end
        (5, False, [3, 4]),  # those that should not err and may
    ],
)
def test_an_end_is_asked_for_until_it_is_sure(rank, upper, asked):
    ask = _doubtful(SURE, NO, np.array([rank]), upper, ~ALL)
    assert np.flatnonzero(ask[0]).tolist() == asked


def test_where_no_draw_should_be_otherwise_the_unsure_are_asked_and_then_those_in_conflict():
    sure = np.array([[-0.5, -0.2, 2.0]])  # all unsure ones should err, and a lower end is in doubt
    asked = _doubtful(sure, np.zeros((1, 3), bool), np.array([2]), False, ~ALL)
    assert asked.tolist() == [[True, True, False]]
    sure, conflict = np.array([[-2.0, 2.0, -3.0]]), np.array([[False, True, False]])
    asked = _doubtful(sure, conflict, np.array([3]), True, ~ALL)
    assert asked.tolist() == [[False, True, False]]


def test_the_first_rounds_ask_for_the_24_least_sure_and_one():
    sure = -np.linspace(0.1, 0.9, 60)[None]
    conflict, rank = np.zeros((1, 60), bool), np.array([60])
    assert np.flatnonzero(_doubtful(sure, conflict, rank, True, ALL)[0]).tolist() == [*range(25)]
    assert _doubtful(sure, conflict, rank, True, ~ALL).all()


# -- a rate that is not monotone ---------------------------------------------------------------


def searched(rate_of, rate, samples=1024, rtol=None, images=8):
    """A Quantile whose draws err independently of their margins, at a rate that sigma sets."""
    search = Quantile(np.ones(images), rate, samples, 1.0, 0.95, rtol)
    uniform = np.random.default_rng(0).random((images, samples))
    while len((plan := search.plan())[0]):
        rows, sigma, draws = plan
        deviation = 1.0
        z = -norm.ppf(rate_of(sigma))
        search.update(z + deviation * norm.ppf(1 - uniform[rows, draws]))
    return search


@pytest.mark.parametrize("rtol", [None, 0.1])
def test_the_smallest_of_several_sigmas_is_found_where_bisection_passes_it(rtol):
    """Errs at 12 % from 0.02 to 0.06, and again beyond 0.3; bisection goes by 0.1 and upwards."""

    def rate_of(sigma):
        bump = 0.12 * ((sigma > 0.02) & (sigma < 0.06))
        return np.clip(np.maximum(bump, 0.4 * (sigma / 0.4) ** 3), 1e-4, 0.6)

    search = searched(rate_of, 0.05, rtol=rtol)
    assert search.finished.all()
    assert search.restarted.all() == (search.sigma < 0.06).all()
    far = 0.4 * (0.05 / 0.4) ** (1 / 3)
    assert ((search.sigma < 0.06) | (np.abs(search.sigma / far - 1) < 0.3)).all()


def test_a_probe_that_errs_more_often_is_checked_and_followed_with_nothing_left_of_before():
    search = Quantile(np.ones(3), 0.1, 2000, 1.0, 0.95, rtol=0.2)
    spread = np.resize([-1.0, 1.0], 32) * np.sqrt(31 / 32)  # of deviation 1
    # two probes an image, at 0.05 and at 0.1: in z, above the target by
    above = search.z_target + np.array([0.4, 0.4, 0.4, 0.2, 0.2, -0.1])
    at = np.array([0.05, 0.1] * 3)
    rows = np.arange(3).repeat(2)
    search.phase[:] = -1
    search._after_probe(rows.repeat(32), at.repeat(32), (above[:, None] + spread).ravel())
    # within 0.3 above it is doubtful; of two the lower is checked
    assert search.phase.tolist() == [DONE, CHECKING, CHECKING]
    assert search.passed[1:, 0].tolist() == [0.1, 0.05]

    search.seen[:], search.rounds[:], search.look[:] = 1000, 5, 2
    search.by_rank[:] = True
    spread = np.resize([-1.0, 1.0], 128) * np.sqrt(127 / 128)
    z = search.z_target + np.array([0.2, 0.1])
    search._after_check(np.array([1, 2]).repeat(128), (z[:, None] + spread).ravel())
    assert search.phase.tolist() == [DONE, DONE, PILOTING]  # 0.2 is beyond 0.15
    assert search.restarted.tolist() == [False, False, True]
    for name in ("seen", "rounds", "look", "by_rank"):
        assert getattr(search, name)[2] == 0, name
        assert getattr(search, name)[1] != 0, name
    assert search.goal[2] == 128
    assert search.aim.guess[2] == pytest.approx(0.05 * np.exp(-0.15))
    assert search.aim.previous[:, 2] == pytest.approx([0.05, z[1]])


def test_no_draw_bounds_sigma_from_below_or_above_where_no_rank_does():
    (x, y), samples = grey(6), 100
    few = HalfSpace(16, 0.5)
    assert ranks(samples, 0.02, 0.95)[0] == 0
    record = rc.sigma_at_error_rate(few, x, 0.02, y, samples=samples, sigma_max=4.0)
    assert (record.sigma_low == 0).all()
    assert (record.bracket_low > 0).all()
    slab, known = Slab(16, 0.5), radii(Slab(16, 0.5), x, samples)
    high = ranks(samples, 0.98, 0.95)[2]
    assert high == samples + 1
    record = rc.sigma_at_error_rate(slab, x, 0.98, y, samples=samples, sigma_max=1e4)
    assert np.isinf(record.sigma_high).all()
    assert record.sigma == pytest.approx(known[:, 98], rel=0.02)


def test_a_pilot_that_climbs_back_does_not_begin_again_for_ever():
    """A network trained against linf attacks errs in no uniform noise, then in all at once.

    That its pilot ends is seen by the number of rounds: where it begins again each time, by none.
    """
    model, x, y = rc.load_example("mnist-adv", images=2)
    engine = rc.Engine(model, progress=False)
    evaluator = Evaluator(engine, x[1:], y[1:], ids=[1], noise=rc.Uniform("Linf"))
    search = Quantile(evaluator.clean_margins, 0.01, 1000, 1.0, 0.95)
    rounds = 0
    while len((plan := search.plan())[0]) and rounds < 200:
        search.update(evaluator.margins(*plan))
        rounds += 1
    assert rounds < 200
    slow = rc.scale_at_error_rate(
        engine, x[1:], 0.01, y[1:], ids=[1], noise=rc.Uniform("Linf"), method="bisection"
    )
    assert search.sigma[0] == pytest.approx(slow.sigma[0], rel=0.02)
