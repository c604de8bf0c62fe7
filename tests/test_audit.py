"""audit_attack: on half-spaces, where an exact attack meets the bound with equality; on models with
masked gradients; and with attacks that err, cheat or insist on the unit box."""

from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
import torch
from models import HalfSpace, Small, grey
from scipy.stats import beta, binom, norm
from torch import nn
from torch.nn import functional as F

import robustcore as rc
from robustcore.concentration import adapters
from robustcore.defenses import JPEG, BitDepth
from robustcore.results.audit import VERDICTS

DISTANCE, SIGMA = 0.2, 0.1
MISSED, CONSISTENT, UNDECIDED, MISCLASSIFIED = VERDICTS


def height(model, x):
    return (x.double().flatten(1) - 0.5) @ model.w.double() + model.distance


def exact(inflated=1.0):
    """The nearest error of a half-space, or one that much farther."""

    def attack(model, x, y):
        away = inflated * (1 + 1e-6) * height(model, x)[:, None] * model.w.double()
        return (x.double() - away.view(x.shape)).float()

    return attack


def half_space(images):
    return HalfSpace(16, DISTANCE), *grey(images)


def accused(inflated, images=60, **how):
    """On how many of independent half-space problems an attack is said to miss errors."""
    return rc.audit_attack(*half_space(images), exact(inflated), **how).count(MISSED)


# -- the statistics --------------------------------------------------------------------------


def too_many(accusations, images, level=0.05):
    """At a false-alarm rate of 1 in 10,000; a quarter accused of 60 is seen in 85 of 100 tries."""
    return accusations > binom.ppf(1 - 1e-4, images, level)


def test_exact_attack_is_seldom_accused_and_an_inflated_one_is_caught():
    found = {f: accused(f, samples=10_000, seed=1) for f in (1.0, 1.3)}
    assert not too_many(found[1.0], 60)
    assert too_many(found[1.3], 60)  # the check that the line above could fail
    assert found[1.3] >= 54


def test_confidence_is_kept_at_one_sigma_and_few_points():
    """300 problems, at the least of points and a low confidence, where a verdict errs oftenest."""
    how = {"sigma": SIGMA, "points": 20, "samples": 300, "confidence": 0.7}
    assert not too_many(accused(1.0, 300, **how), 300, 0.3)
    assert too_many(accused(1.5, 300, **how), 300, 0.3)


def test_naive_comparison_would_accuse_honest_attacks():
    """The negative control: without limits, half of all exact attacks exceed their bound."""
    found = rc.audit_attack(*half_space(60), exact(), sigma=SIGMA, points=50, samples=1000)
    assert too_many(int((found.median > found.bound).sum()), 60)
    assert not too_many(found.count(MISSED), 60)


def test_all_images_together_tell_more_than_each():
    found = rc.audit_attack(*half_space(60), exact(1.1), samples=10_000)
    assert found.count(MISSED) < 30
    assert found.overall == MISSED
    fair = rc.audit_attack(*half_space(60), exact(), samples=10_000)
    assert fair.overall == UNDECIDED  # equality can be neither proven nor refuted


def test_attack_well_below_the_bound_is_consistent():
    model = Slabs(16, DISTANCE)
    found = rc.audit_attack(model, *grey(10), slabs, sigma=0.08, samples=20_000, points=400)
    assert found.overall == CONSISTENT
    assert found.count(CONSISTENT) > 7
    assert found.count(MISSED) == 0


class Slabs(HalfSpace):
    """Right between four pairs of planes: an error is nearer than a half-space would have it."""

    def __init__(self, n, distance):
        super().__init__(n, distance)
        self.register_buffer("axes", torch.linalg.qr(torch.randn(n, 4, generator=seeded()))[0])

    def forward(self, x):
        heights = (x.flatten(1) - 0.5) @ self.axes
        return torch.cat([torch.full_like(heights[:, :1], self.distance), heights, -heights], 1)


def seeded():
    return torch.Generator().manual_seed(0)


def slabs(model, x, y):
    heights = (x.flatten(1) - 0.5) @ model.axes
    most = heights.abs().argmax(1)
    now = heights.gather(1, most[:, None])
    away = (model.distance * (1 + 1e-5) - now.abs()) * now.sign()
    return x + (away * model.axes.T[most]).view(x.shape)


def within(attack, eps):
    """An attack that looks within a radius alone."""

    def run(model, x, y):
        found = attack(model, x, y)
        near = (found - x).flatten(1).norm(dim=1) <= eps
        return torch.where(near.view(-1, 1, 1, 1), found, x)

    return run


@pytest.mark.parametrize("eps", [0.1, 0.2, 0.3])
def test_attack_within_a_radius_is_judged_by_its_share(eps):
    how = {"eps": eps, "samples": 5000, "sigma": SIGMA}
    fair = rc.audit_attack(*half_space(40), within(exact(), eps), **how)
    assert not too_many(fair.count(MISSED), 40)
    assert fair.overall == UNDECIDED
    weak = rc.audit_attack(*half_space(40), within(exact(2), eps), **how)
    assert weak.count(MISSED) > 30
    # without eps, what lies beyond the radius would be held against the honest attack too
    if eps < 0.2:
        blind = rc.audit_attack(*half_space(40), within(exact(), eps), sigma=SIGMA, samples=5000)
        assert blind.count(MISSED) > 30


# -- masked gradients ------------------------------------------------------------------------


def plain_pgd(model, x, y, step, steps=50):
    """Descent on the cross-entropy up to the first error, as many write it."""
    away, live = torch.zeros_like(x), torch.arange(len(x))
    for _ in range(steps):
        at = (x[live] + away[live]).detach().requires_grad_(True)
        logits = model(at)
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, y[live], reduction="sum"), at)
        length = gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        right = (logits.argmax(1) == y[live]) & (length.flatten() > 0)
        live = live[right]
        away[live] += step * gradient[right] / length[right]
        if not len(live):
            break
    return x + away


class Saturated(nn.Module):
    """Probabilities at a temperature so low that they are 0 and 1, and their gradients 0."""

    def __init__(self, model, shown):
        super().__init__()
        self.model, self.shown = model, shown

    def forward(self, x):
        logits = self.model(x)
        sure = (1e5 * logits).softmax(1)
        return logits + (sure - logits).detach() if self.shown else sure


GRADIENT = {True: "straight-through", False: "hidden"}
MASKED = {
    "quantised": lambda model, shown: BitDepth(model, 6, gradient=GRADIENT[shown]),
    "jpeg": lambda model, shown: JPEG(model, 95, gradient=GRADIENT[shown]),
    "saturated": Saturated,
}


def farthest(model, x, count):
    """The images whose class is clearest to the model."""
    with torch.no_grad():
        first, second = model(x).topk(2).values.T
    return x[(first - second).topk(count).indices]


@pytest.mark.parametrize("name", MASKED)
def test_masked_gradients_are_proven_and_a_straight_through_attack_is_not(name):
    if name == "jpeg":  # whose images must look like some
        inner, x, _ = rc.load_example("cifar10-natural", 12)
        how, step = {"sigma": [[0.06], [0.045]], "points": 12, "samples": 400}, 0.01
        x = farthest(inner, x, 2)
    else:
        inner = Small().eval()
        how, step = {"error_rates": 0.05, "points": 30, "samples": 1000}, 0.04
        x = farthest(inner, torch.rand(200, 3, 8, 8, generator=seeded()), 4)
    hidden, shown = (MASKED[name](inner, each).eval() for each in (False, True))
    with torch.no_grad():
        y = hidden(x).argmax(1)
    blind = rc.audit_attack(hidden, x, y, partial(plain_pgd, step=step), **how)
    assert blind.overall == MISSED
    assert (blind.verdict == MISSED).all()
    assert blind.proven.all()
    assert blind.noise_nearer.all()

    def straight(model, x, y):
        if name == "quantised":
            return rc.distance_to_error(shown, x, y, effort=25).x_adv
        return plain_pgd(shown, x, y, step)

    open_ = rc.audit_attack(hidden, x, y, straight, **how)
    assert open_.overall != MISSED, repr(open_)
    assert (open_.verdict != MISSED).all()
    assert (open_.median < np.inf).all()
    assert not open_.noise_nearer.any()


# -- the box ---------------------------------------------------------------------------------


def in_the_box(model, u, y):
    """The nearest error in [0, 1] of a half-space, by alternating projections: an honest attack
    that insists on the unit box, as most libraries' do."""
    start = u.clamp(0, 1)
    slope = torch.autograd.functional.jacobian(
        lambda each: model(each)[:, 0].sum(), start[:1]
    ).double()
    at, base = start.double(), model(start[:1]).double()[0, 0] - (slope * start[:1]).sum()
    move = torch.zeros_like(at)
    for _ in range(200):
        lead = (at * slope).flatten(1).sum(1) + base
        down = (lead.clamp(min=0) + 1e-6).view(-1, 1, 1, 1) * slope / (slope * slope).sum()
        onto = at - down * (lead > 0).view(-1, 1, 1, 1)
        at = (onto + move).clamp(0, 1)
        move = onto + move - at
    return at.float()


def test_an_honest_attack_in_the_box_is_wrongly_accused_and_not_through_the_map():
    model = HalfSpace(64, DISTANCE)
    x = torch.zeros(30, 1, 8, 8)  # black: half of the noise falls out of the box
    model.distance = float(DISTANCE + 0.5 * model.w.sum())
    y = torch.zeros(30, dtype=torch.int64)
    how = {"sigma": SIGMA, "points": 100, "samples": 4000}
    clipped = rc.audit_attack(model, x, y, in_the_box, **how)
    assert clipped.overall == MISSED
    assert clipped.count(MISSED) > 20
    mapped = rc.audit_attack(model, x, y, adapters.boxed(lambda span: in_the_box), **how)
    assert mapped.overall != MISSED
    assert not too_many(mapped.count(MISSED), 30)
    assert mapped.ratio == pytest.approx(1, abs=0.3)


def test_the_map_keeps_lengths():
    seen = {}

    def make(span):
        def run(model, u, y):
            seen.update(span=span, low=float(u.min()), high=float(u.max()), logits=model(u))
            return u + 0.01 / span

        return run

    model, x, y = half_space(5)
    x = x + 0.3 * torch.randn(x.shape, generator=seeded())
    found = adapters.boxed(make)(model, x, y)
    assert (found - x).flatten() == pytest.approx(0.01, abs=1e-5)
    assert 0.3 < seen["low"] < seen["high"] < 0.7
    assert torch.allclose(seen["logits"], model(x), atol=1e-5)


# -- verdicts at pinned counts -----------------------------------------------------------------


def pinned(within, sigmas, images=1, draws=200, errors=1587, eps=None):
    """A record of half-spaces: at every sigma `within` distances are near, the others far."""
    distance = np.full((images, sigmas, draws), 1e3)
    distance[..., :within] = 1e-9
    cells = (images, sigmas)
    return rc.results.AuditResult(
        ids=np.arange(images), labels=np.zeros(images, int), sigma=np.full(cells, SIGMA),
        n_errors=np.full(cells, errors), n_samples=np.full(cells, 10_000),
        n_not_errors=np.zeros(cells, int), n_not_finite=np.zeros(cells, int),
        clean_distance=np.ones(images), noise_distance=np.ones(images),
        misclassified=np.zeros(images, bool), n_forward=np.ones(images, int),
        distances=distance, confidence=0.95, eps=eps, provenance=provenance(),
    )  # fmt: skip


@cache
def provenance():
    return rc.audit_attack(*half_space(1), exact(), samples=100, points=20).provenance


@pytest.mark.parametrize(("sigmas", "images"), [(1, 1), (3, 1), (3, 4)])
def test_verdicts_change_at_the_counts_of_the_binomial_tails(sigmas, images):
    """A fifth of the error is for the rate; the rest, shared among sigmas, for the distances."""
    draws, level = 200, 0.05 / sigmas
    counts = np.arange(draws + 1)
    tail = 0.8 * level
    few = counts[binom.cdf(counts, draws, 0.5) <= tail].max()
    many = counts[binom.sf(counts - 1, draws, 0.5) <= tail].min()
    for within, verdict in ((few, MISSED), (few + 1, UNDECIDED), (many - 1, UNDECIDED)):
        assert pinned(within, sigmas, images).verdict.tolist() == [verdict] * images, within
    assert pinned(many, sigmas, images).verdict.tolist() == [CONSISTENT] * images
    # for all images together the error is shared among their cells
    cells = counts[binom.cdf(counts, draws, 0.5) <= tail / images].max()
    assert pinned(cells, sigmas, images).proven.all()
    assert not pinned(cells + 1, sigmas, images).proven.any()


def with_near(hits):
    """A record of 200 distances of each cell, of which hits (images, sigmas) are near."""
    hits = np.asarray(hits)
    record = pinned(0, hits.shape[1], hits.shape[0])
    near = np.arange(200) < hits[..., None]
    return replace(record, distances=np.where(near, 1e-9, 1e3))


@pytest.mark.parametrize(("images", "sigmas"), [(1, 1), (4, 1), (2, 3)])
def test_half_of_the_error_is_for_the_one_cell_that_is_farthest_off(images, sigmas):
    counts, tail = np.arange(201), 0.8 * 0.025 / (images * sigmas)
    few = counts[binom.cdf(counts, 200, 0.5) <= tail].max()
    hits = np.full((images, sigmas), 200)
    for count, missed in ((few, True), (few + 1, False)):
        hits[-1, -1] = count
        assert (with_near(hits).overall == MISSED) == missed


@pytest.mark.parametrize("sigmas", [1, 3])
def test_the_other_half_is_for_all_draws_together_shared_among_sigmas(sigmas):
    images, counts = 4, np.arange(801)

    def overall(total):  # the same at every sigma, about as many for each image
        of_image = total // images + (np.arange(images) < total % images)
        return with_near(np.tile(of_image[:, None], sigmas)).overall

    few = counts[binom.cdf(counts, 800, 0.5) <= 0.8 * 0.025 / sigmas].max()
    many = counts[binom.sf(counts - 1, 800, 0.5) <= 0.8 * 0.05 / sigmas].min()
    assert [overall(few), overall(few + 1)] == [MISSED, UNDECIDED]
    assert [overall(many - 1), overall(many)] == [UNDECIDED, CONSISTENT]


def test_where_no_image_is_judged_nothing_is_said_of_the_attack():
    record = replace(pinned(0, 2, 3), misclassified=np.ones(3, bool))
    assert record.overall == UNDECIDED
    assert not record.proven.any()
    assert record.verdict.tolist() == [MISCLASSIFIED] * 3


@pytest.mark.parametrize(
    ("clean", "eps", "noise", "nearer"),
    [
        (1.0, None, 0.9, True),
        (1.0, None, 1.0, False),
        (1.0, 0.5, 0.4, True),
        (1.0, 0.5, 0.5, False),  # within what the attack was asked for
        (1.0, 2.0, 0.9, True),
        (1.0, 2.0, 1.5, False),
        (np.inf, 2.0, 1.5, True),
        (np.inf, None, 1.5, True),
    ],
)
def test_noise_is_nearer_than_what_the_attack_found_or_was_asked_for(clean, eps, noise, nearer):
    record = replace(
        pinned(0, 1, 2, eps=eps), clean_distance=np.full(2, clean),
        noise_distance=np.full(2, noise), misclassified=np.array([False, True]),
    )  # fmt: skip
    assert record.noise_nearer.tolist() == [nearer, False]


@pytest.mark.parametrize("images", [1, 4])
def test_overall_the_limits_of_rates_are_shared_among_cells(images):
    low = beta.ppf(0.2 * 0.025 / images, 1587, 10_000 - 1587 + 1)
    high = beta.isf(0.2 * 0.05 / images, 1587 + 1, 10_000 - 1587)
    farthest, nearest = -SIGMA * norm.ppf([low, high])
    for radius, said in (
        (farthest * 1.0021, MISSED), (farthest * 1.0019, UNDECIDED),
        (nearest * 1.0021, UNDECIDED), (nearest * 1.0019, CONSISTENT),
    ):  # fmt: skip
        record = pinned(0, 1, images)
        record = replace(record, distances=np.full((images, 1, 200), radius))
        assert record.overall == said, radius / nearest


def test_the_radius_is_taken_at_the_limit_of_the_rate_that_favours_the_attack():
    rate_tail = 0.2 * 0.05
    low = beta.ppf(rate_tail, 1587, 10_000 - 1587 + 1)
    high = beta.isf(rate_tail, 1587 + 1, 10_000 - 1587)
    farthest, nearest = -SIGMA * norm.ppf([low, high])
    for radius, missed, consistent in (
        (farthest * 1.0021, True, False), (farthest * 1.0019, False, False),
        (nearest * 1.0021, False, False), (nearest * 1.0019, False, True),
    ):  # fmt: skip
        record = replace(pinned(0, 1), distances=np.full((1, 1, 200), radius))
        assert (record.verdict == MISSED).all() == missed, radius / nearest
        assert (record.verdict == CONSISTENT).all() == consistent, radius / nearest


def test_within_a_radius_the_share_is_the_theorems():
    eps, draws = 0.05, 200
    low = beta.ppf(0.2 * 0.05, 1587, 10_000 - 1587 + 1)
    share = norm.cdf(norm.ppf(low) + eps / SIGMA)
    counts = np.arange(draws + 1)
    few = counts[binom.cdf(counts, draws, share) <= 0.8 * 0.05].max()
    assert pinned(few, 1, eps=eps).verdict.tolist() == [MISSED]
    assert pinned(few + 1, 1, eps=eps).verdict.tolist() == [UNDECIDED]


def test_an_attack_may_write_to_the_images_and_classes_that_it_is_given():
    model, x, y = half_space(3)
    how = {"sigma": SIGMA, "points": 20, "samples": 50}

    def in_place(model, x, y):
        x.copy_(exact(1.2)(model, x, y))
        y.fill_(1)
        return x

    plain = rc.audit_attack(model, x, y, exact(1.2), **how)
    found = rc.audit_attack(model, x, y, in_place, **how)
    for name in ("distances", "clean_distance", "n_errors", "n_not_errors", "labels"):
        assert np.array_equal(getattr(found, name), getattr(plain, name)), name
    assert (x == 0.5).all()
    assert (y == 0).all()


def test_what_an_attack_returns_may_carry_gradients():
    model, x, y = half_space(3)
    how = {"sigma": SIGMA, "points": 20, "samples": 50}
    plain = rc.audit_attack(model, x, y, exact(1.2), **how)
    graph = rc.audit_attack(model, x, y, lambda *given: exact(1.2)(*given).requires_grad_(), **how)
    assert np.array_equal(graph.distances, plain.distances)
