"""certify and predict: against the published procedure on the same counts, and against half-spaces,
whose smoothed classifier has a known radius."""

import numpy as np
import pytest
import torch
from models import HalfSpace, Slab, grey
from scipy.stats import beta, binom, binomtest, norm

import robustcore as rc
from robustcore.certify import _decided, _looks, lower_limit
from robustcore.evaluator import Evaluator
from robustcore.results import Record
from robustcore.streams import Stream

DISTANCE, SIGMA = 0.2, 0.25  # the class has probability Phi(0.8)


def images(n, seed=2):
    """Three classes, and images at all heights, so that some answers are clear and some are not."""
    x = 0.5 + 0.5 * torch.randn(n, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    return Slab(16, 0.5), x


def counted(model, x, sigma, first, last):
    """Draws of each image given each class, by plain torch on the very same draws."""
    engine = Evaluator(model, x, stream=Stream.CERTIFY)
    rows = torch.arange(len(x)).repeat_interleave(last - first)
    draws = torch.arange(first, last).repeat(len(x))
    noisy = engine.noisy(rows, torch.full((len(rows),), sigma), draws)
    with torch.no_grad():
        given = model(noisy).argmax(1).view(len(x), -1)
    return torch.nn.functional.one_hot(given, engine.n_classes).sum(1).numpy()


def published(chosen, counts, sigma, alpha):
    """Cohen et al. (2019), algorithm CERTIFY, from its two counts of one image."""
    top = int(chosen.argmax())
    hits, n = int(counts[top]), int(counts.sum())
    low = beta.ppf(alpha, hits, n - hits + 1) if hits else 0.0
    return (-1, 0.0) if low < 0.5 else (top, sigma * norm.ppf(low))


# -- the published answers -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n0", "n", "alpha"), [(20, 300, 0.001), (1, 60, 0.2), (50, 200, 0.7), (30, 1, 0.5)]
)
def test_same_answers_as_published_for_the_same_counts(n0, n, alpha):
    model, x = images(8)
    found = rc.certify(rc.Engine(model, batch_size=64), x, sigma=0.6, n0=n0, n=n, alpha=alpha)
    chosen, counts = (counted(model, x, 0.6, *span) for span in ((0, n0), (n0, n0 + n)))
    want = [published(*each, 0.6, alpha) for each in zip(chosen, counts, strict=True)]
    assert found.label.tolist() == [label for label, _ in want]
    assert found.radius == pytest.approx([radius for _, radius in want], abs=1e-9)
    assert (found.n_top == counts[np.arange(8), chosen.argmax(1)]).all()
    told = np.where(found.label >= 0, "certified", "abstained")
    assert found.status.tolist() == told.tolist()
    if alpha == 0.001:
        assert len(set(told)) == 2


def test_predict_gives_the_published_answers():
    model, x = images(8)
    found = rc.predict(model, x, sigma=0.6, n=150, alpha=0.05)
    counts = counted(model, x, 0.6, 0, 150)
    assert (found.counts == counts).all()
    for label, count in zip(found.label, counts, strict=True):
        second, first = np.sort(count)[-2:]
        sure = binomtest(int(first), int(first + second), 0.5).pvalue <= 0.05
        assert label == (count.argmax() if sure else -1)
    assert 0 < (found.label < 0).sum() < 8


def test_limit_is_that_of_clopper_and_pearson():
    hits, alpha = np.array([0, 1, 50, 100]), 0.01
    low = lower_limit(hits, 100, alpha)
    assert low[0] == 0
    assert binom.sf(hits[1:] - 1, 100, low[1:]) == pytest.approx(alpha)


# -- error control ---------------------------------------------------------------------------


def too_often(hits, times, level):
    """At a false-alarm rate of 1 in 10,000; of 500 at 0.2, a level of 0.3 is seen in 94 of 100."""
    return hits > binom.ppf(1 - 1e-4, times, level)


def test_radius_is_wrong_no_oftener_than_alpha():
    x, _ = grey(500)
    model = HalfSpace(16, DISTANCE)
    found = rc.certify(model, x, sigma=SIGMA, n0=10, n=100, alpha=0.2)
    assert not too_often((found.radius > DISTANCE).sum(), 500, 0.2)
    guess = SIGMA * norm.ppf(found.n_top / found.n_samples)  # the control: no limit at all
    assert too_often((guess > DISTANCE).sum(), 500, 0.2)
    assert found.radius.mean() > 0.5 * DISTANCE
    assert not too_often((found.bound < DISTANCE).sum(), 500, 0.2)


def test_stopping_early_errs_no_oftener_than_alpha():
    """The radius asked for is the true one, where either answer is an error's edge."""
    x, _ = grey(500)
    model, alpha = HalfSpace(16, DISTANCE), 0.2
    found = rc.certify(model, x, sigma=SIGMA, n0=10, n=2000, alpha=alpha, radius=DISTANCE)
    assert not too_often(found.count("holds"), 500, alpha)
    assert not too_often(found.count("fails"), 500, alpha)
    assert too_often(found.count("holds") + found.count("fails"), 500, 0.02)  # it does decide
    # the control: the same looks, each at the whole of alpha
    right = counted_right(model, x, 10, 2010)
    looks = [32, 63, 125, 250, 500, 1000, 2000]
    naive = np.any([binom.sf(right[:, k - 1] - 1, k, 0.788) <= alpha for k in looks], 0)
    assert too_often(naive.sum(), 500, alpha)


def counted_right(model, x, first, last):
    engine = Evaluator(model, x, stream=Stream.CERTIFY)
    rows = np.repeat(np.arange(len(x)), last - first)
    draws = np.tile(np.arange(first, last), len(x))
    right = engine.margins(rows, np.full(len(rows), SIGMA), draws) > 0
    return right.reshape(len(x), -1).cumsum(1)


def test_clear_radii_take_a_tenth_of_the_draws():
    x, _ = grey(20)
    model = HalfSpace(16, DISTANCE)
    near = rc.certify(model, x, sigma=SIGMA, n=20_000, radius=0.5 * DISTANCE)
    far = rc.certify(model, x, sigma=SIGMA, n=20_000, radius=1.5 * DISTANCE)
    assert (near.status == "holds").all()
    assert (far.status == "fails").all()
    for found in (near, far):
        assert (found.n_samples <= 2000).all()
        assert (found.n_forward <= 2110).all()
    assert (near.radius >= 0.5 * DISTANCE).all()
    assert (far.radius < 1.5 * DISTANCE).all()
    assert (far.label == 0).all()  # that radius fails, a smaller one is certified


def test_radius_agrees_with_its_own_limits_and_with_the_whole_count():
    model, x = images(10)
    for radius in (0.1, 0.4):
        found = rc.certify(model, x, sigma=0.6, n=2000, alpha=0.01, radius=radius)
        assert ((found.status == "holds") == (found.radius >= radius)).all()
        whole = rc.certify(model, x, sigma=0.6, n=2000, alpha=0.01)
        sure = found.status != "undecided"
        assert ((found.status == "holds") == (whole.radius >= radius))[sure].all()


def test_early_predictions_err_no_oftener_than_alpha():
    x, _ = grey(500)
    tie = HalfSpace(16, 1e-9)  # both classes are as likely: any answer is half wrong
    found = rc.predict(tie, x, sigma=SIGMA, n=400, alpha=0.2, early=True)
    assert not too_often((found.label >= 0).sum(), 500, 0.2)
    clear = rc.predict(HalfSpace(16, DISTANCE), x, sigma=SIGMA, n=10_000, early=True)
    assert (clear.label == 0).all()
    assert clear.n_samples.max() <= 1000


# -- what is said ----------------------------------------------------------------------------


def test_both_readings_of_a_half_space_are_its_distance():
    x, y = grey(3)
    found = rc.certify(HalfSpace(16, DISTANCE), x, y, sigma=SIGMA, n=50_000)
    # each of these six limits errs in one of 1,000 tries: at another seed one of them may
    assert (found.radius <= DISTANCE).all()
    assert (found.bound >= DISTANCE).all()
    # a radius has a standard error of 0.8 % and lies 3.1 of them below: 7 allow one in 10,000
    assert found.radius == pytest.approx(DISTANCE, rel=0.056)
    assert found.bound == pytest.approx(DISTANCE, rel=0.056)
    assert (found.accuracy(), found.accuracy(0.1), found.accuracy(0.3)) == (1, 1, 0)


def test_no_majority_is_an_abstention():
    x, _ = grey(4)
    found = rc.certify(Slab(16, 0.05), x, sigma=SIGMA, n=500)  # three classes, none above 1/2
    assert (found.label == -1).all()
    assert (found.radius == 0).all()
    assert (found.status == "abstained").all()
    assert "4 abstained" in repr(found)


def test_labels_given_are_only_for_accuracy():
    x, _ = grey(4)
    y = torch.tensor([0, 1, 0, 1])
    found = rc.certify(HalfSpace(16, DISTANCE), x, y, sigma=SIGMA, n=500)
    assert (found.label == 0).all()
    assert (found.labels == y.numpy()).all()
    assert found.accuracy() == 0.5
    assert rc.predict(HalfSpace(16, DISTANCE), x, y, sigma=SIGMA).accuracy == 0.5


@pytest.mark.parametrize("radius", [None, 0.3])
def test_counts_do_not_depend_on_batches_rounds_or_order(radius, monkeypatch):
    model, x = images(6)
    ids = torch.tensor([5, 9, 2, 7, 1, 3])
    how = {"sigma": 0.6, "n0": 20, "n": 400, "radius": radius}
    whole = rc.certify(model, x, ids=ids, **how)
    turned = rc.certify(rc.Engine(model, batch_size=33), x.flip(0), ids=ids.flip(0), **how)
    assert (whole.n_top == turned.n_top[::-1]).all()
    assert (whole.n_samples == turned.n_samples[::-1]).all()
    monkeypatch.setattr("robustcore.rounds.ROUND", 100)
    one = rc.certify(model, x[2:3], ids=2, **how)
    assert (one.n_top, one.label) == (whole.n_top[2], whole.label[2])


def test_records_are_saved_and_cut(tmp_path):
    model, x = images(4)
    found = [rc.certify(model, x, sigma=0.5, n=200), rc.predict(model, x, sigma=0.5, n=100)]
    for record in found:
        record.save(tmp_path / "record.npz")
        back = Record.load(tmp_path / "record.npz")
        assert type(back) is type(record)
        assert (back.label == record.label).all()
        assert len(record[1:3].label) == 2
    assert {"label", "radius", "bound", "status"} <= set(found[0].columns())


# -- bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 0.0}, "alpha must lie strictly between 0 and 1, was 0"),
        ({"alpha": 1.0}, "alpha must lie strictly between 0 and 1, was 1"),
        ({"alpha": -0.1}, "alpha must lie strictly between 0 and 1"),
        ({"n": 0}, "n must be .* was 0"),
        ({"n0": 0}, "n0 must be .* was 0"),
        ({"sigma": 0.0}, "sigma must be positive and finite, was 0"),
        ({"radius": 0.0}, "radius must be positive and finite, was 0"),
    ],
)
def test_bad_input_is_named(arguments, message):
    x, _ = grey(2)
    functions = [rc.certify] if set(arguments) & {"n0", "radius"} else [rc.certify, rc.predict]
    for function in functions:
        with pytest.raises(ValueError, match=message):
            function(HalfSpace(16, DISTANCE), x, **({"sigma": SIGMA} | arguments))


# -- draws that are given no class -----------------------------------------------------------


NOBODY = {  # columns of the logits of three classes, and what is put there
    "all NaN": (slice(None), torch.nan),
    "the first NaN": (slice(0, 1), torch.nan),
    "the last NaN": (slice(2, 3), torch.nan),
    "all equal": (slice(None), 0.0),
    "two largest": (slice(0, 2), 1e6),
    "two infinite": (slice(1, 3), torch.inf),
    "all minus infinity": (slice(None), -torch.inf),
}


class Holes(Slab):
    """A slab that names no class for a share of the draws: those with a pixel far."""

    def __init__(self, distance, share, column, value):
        super().__init__(16, distance)
        self.least, self.column, self.value = SIGMA * norm.isf(share / 2), column, value

    def forward(self, x):
        logits = super().forward(x).clone()
        hole = (x.flatten(1)[:, 0] - 0.5).abs() > self.least
        logits[:, self.column] = logits[:, self.column].masked_fill(hole[:, None], self.value)
        return logits


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("hole", NOBODY.values(), ids=NOBODY)
def test_a_draw_with_a_nan_or_a_tie_votes_for_nobody(hole, early):
    x, y = grey(4)
    mostly = Holes(5.0, 0.95, *hole)  # the rest, a twentieth, is class 0
    found = rc.predict(mostly, x, y, sigma=SIGMA, n=2000, early=early)
    assert (found.label == -1).all()
    voted = found.counts.sum(1)
    assert (voted < 0.2 * found.n_samples).all()
    assert early or (voted > 50).all()
    assert (found.counts[:, 1:] == 0).all()
    assert (rc.certify(mostly, x, y, sigma=SIGMA, n=2000).label == -1).all()
    # a tenth without a class leaves the majority as it is
    few = Holes(5.0, 0.1, *hole)
    found = rc.predict(few, x, y, sigma=SIGMA, n=2000, early=early)
    assert (found.label == 0).all()
    assert (found.counts.sum(1) < found.n_samples).all()
    assert (rc.certify(few, x, y, sigma=SIGMA, n=2000).label == 0).all()


def test_a_tie_is_an_error_and_no_vote():
    """Every draw is a tie: the error rate is 1, and the smoothed classifier has no answer."""
    x, y = grey(2)
    for model in (
        lambda t: t.flatten(1)[:, :3] * 0,
        lambda t: torch.full((len(t), 3), torch.inf),
        lambda t: torch.tensor([[1.0, 1.0, 0.0]]).expand(len(t), 3),
    ):
        assert rc.error_rate(model, x, SIGMA, y, samples=20).rate.tolist() == [[1.0]] * 2
        found = rc.predict(model, x, y, sigma=SIGMA, n=20)
        assert found.label.tolist() == [-1, -1]
        assert not found.counts.any()
        found = rc.certify(model, x, y, sigma=SIGMA, n=20)
        assert (found.label == -1).all()
        assert (found.n_top == 0).all()


@pytest.mark.parametrize("radius", [np.nan, np.inf, -0.1, -np.inf])
def test_a_radius_that_is_none_is_refused(radius):
    x, y = grey(2)
    found = rc.certify(HalfSpace(16, DISTANCE), x, y, sigma=SIGMA, n=50)
    with pytest.raises(ValueError, match="radius must be finite and not negative, was"):
        found.accuracy(radius)
    with pytest.raises(TypeError, match="radius must be a number, was"):
        found.accuracy(str(radius))


# -- by formulas alone -----------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.3, 0.05, 0.001, 2.0**-4])  # the last of 5 to 0, exactly
def test_an_answer_is_decided_as_by_binomtest_at_every_count(alpha):
    n = 30
    first, second = np.tril_indices(n)
    counts = np.stack([second, first, np.minimum(second, 1), np.zeros_like(first)], 1)
    label, sure = _decided(counts, alpha)
    for k, rest, said, answer in zip(first, second, sure, label, strict=True):
        if k + rest:
            assert said == (binomtest(int(k), int(k + rest), 0.5).pvalue <= alpha)
        if k > rest:
            assert answer == 1
    nobody = np.array([[2, 1, 0, 25]])  # most draws are given no class
    assert _decided(nobody, alpha)[0].tolist() == [-1]
    assert _decided(nobody, alpha)[1].tolist() == [True]


@pytest.mark.parametrize(
    ("n", "looks"),
    [
        (1, [1]),
        (40, [40]),  # no half of it has 32 draws
        (62, [62]),  # nor of this one: 31
        (63, [32, 63]),
        (64, [32, 64]),
        (1000, [32, 63, 125, 250, 500, 1000]),
        (100_000, [782, 1563, 3125, 6250, 12_500, 25_000, 50_000, 100_000]),
    ],
)
def test_looks_are_halves_and_half_of_alpha_is_for_the_last(n, looks):
    at, tails = _looks(n, 0.04)
    early = len(looks) - 1
    assert at == looks
    assert tails == ([0.02 / early] * early + [0.02] if early else [0.04])


def test_share_low_is_that_of_the_look_at_which_counting_stopped():
    x = 0.5 + 0.4 * torch.randn(12, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    n, alpha = 1000, 0.05
    found = rc.certify(HalfSpace(16, DISTANCE), x, sigma=SIGMA, n0=10, n=n, alpha=alpha, radius=0.1)
    looks = [-(-n // 2**k) for k in range(7, 0, -1)]
    looks = [look for look in looks if look >= 32]
    tails = dict.fromkeys(looks, alpha / 2 / len(looks)) | {n: alpha / 2}
    assert set(found.n_samples) <= set(tails)
    assert len(set(found.n_samples)) >= 3
    tail = np.array([tails[seen] for seen in found.n_samples.tolist()])
    low = beta.ppf(tail, found.n_top, found.n_samples - found.n_top + 1)
    high = beta.isf(tail, found.n_top + 1, found.n_samples - found.n_top)
    assert found.share_low == pytest.approx(np.where(found.n_top == 0, 0, low))
    assert found.share_high == pytest.approx(np.where(found.n_top == found.n_samples, 1, high))
    decided = found.status != "undecided"
    assert (decided | (found.n_samples == n)).all()
    wanted = norm.cdf(0.1 / SIGMA)
    holds = binom.sf(found.n_top - 1, found.n_samples, wanted) <= tail
    fails = binom.cdf(found.n_top, found.n_samples, wanted) <= tail
    assert (found.status == np.where(holds, "holds", np.where(fails, "fails", "undecided"))).all()
    assert (found.n_forward == 10 + found.n_samples + 3).any()
