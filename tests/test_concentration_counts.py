"""Noisy points and audits by hand: which draws, how many, and what they cost."""

import numpy as np
import pytest
import torch
from models import HalfSpace, grey

import robustcore as rc
from robustcore.concentration.median_search import MedianSearch
from robustcore.concentration.noisy_points import draw_points
from robustcore.evaluator import Evaluator
from robustcore.kernels import reference

DISTANCE, SIGMA = 0.2, 0.1
IMAGES = 3
NOISY, AUDIT = 2, 3  # streams
pytestmark = pytest.mark.usefixtures("batches_not_compared")


def draws(stream, samples, sigma=SIGMA, seed=0):
    """(IMAGES, samples, 16) noisy images of 0.5, made by the reference kernel."""
    x, _ = grey(IMAGES)
    rows = torch.arange(IMAGES).repeat_interleave(samples)
    out = x.new_empty(len(rows), 1, 4, 4)
    number = torch.arange(samples).repeat(IMAGES)
    noise = torch.full((len(rows),), sigma)
    reference.perturb(
        x, rows, noise, number, torch.arange(IMAGES), out, seed=seed, stream=stream, clip=None
    )
    return out.view(IMAGES, samples, 16)


def heights(noisy):
    """How far each is from the half-space of errors, negative inside."""
    model = HalfSpace(16, DISTANCE)
    return ((noisy.double() - 0.5) @ model.w.double() + DISTANCE).numpy()


def engine():
    return Evaluator(HalfSpace(16, DISTANCE), *grey(IMAGES)).n_forward


# -- noisy points ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["search", "pgd"])
@pytest.mark.parametrize(("points", "samples"), [(20, 20), (20, 400)])
def test_errors_are_those_of_draws_0_to_samples_on_a_stream_of_their_own(method, points, samples):
    found = rc.noisy_distance(
        HalfSpace(16, DISTANCE), *grey(IMAGES), sigma=SIGMA, points=points, samples=samples,
        method=method, steps=None if method == "search" else 2,
    )  # fmt: skip
    height = heights(draws(NOISY, samples))
    assert found.n_errors.tolist() == (height <= 0).sum(1).tolist()
    assert found.n_samples.tolist() == [samples] * IMAGES
    assert ((found.distances == 0) == (height[:, :points] <= 0)).all()
    for other in (0, 1, AUDIT, 4):  # the negative control: other streams hold other draws
        assert ((heights(draws(other, points)) <= 0) != (height[:, :points] <= 0)).any()
    more = found.n_forward - found.n_backward - engine()
    assert (more >= samples - points).all()


@pytest.mark.parametrize("method", ["search", "pgd"])
def test_a_point_that_is_an_error_is_at_no_distance(method):
    found = rc.noisy_distance(
        HalfSpace(16, DISTANCE), *grey(IMAGES), sigma=2 * SIGMA, points=20, method=method
    )
    height = heights(draws(NOISY, 20, 2 * SIGMA))
    assert (height <= 0).sum() >= 5
    assert ((found.distances == 0) == (height <= 0)).all()


def test_the_papers_protocol_costs_one_look_and_its_steps_for_each_point():
    """A plane out of reach: 201 gradients by default, and one more than `steps`."""
    x, y = grey(2)
    model = HalfSpace(16, 30.0)
    before = Evaluator(model, x, y).n_forward
    for steps, each in ((None, 201), (7, 8)):
        found = rc.noisy_distance(
            model, x, y, sigma=SIGMA, points=6, samples=50, method="pgd", steps=steps
        )
        assert found.n_backward.tolist() == [6 * each] * 2
        assert (found.n_forward - found.n_backward - before).tolist() == [50] * 2


@pytest.mark.parametrize(("eps", "sigma", "reach"), [(0.9, 0.1, 0.9), (None, 0.1, 1.0)])
def test_the_papers_steps_are_a_two_hundred_and_twenty_fifth_of_the_radius(eps, sigma, reach):
    found = rc.noisy_distance(
        HalfSpace(16, DISTANCE), *grey(IMAGES), sigma=sigma, points=20, method="pgd", eps=eps
    )
    right = found.distances > 0
    steps = found.distances[right] * 225 / reach
    assert np.abs(steps - steps.round()).max() < 1e-3
    wanted = np.ceil(heights(draws(NOISY, 20, sigma))[right] * 225 / reach - 1e-4)
    assert (steps.round() == wanted).all()


def test_the_papers_radius_is_twice_the_tail_of_the_noise():
    """2 * 4.2649 * 0.5 = 4.265: planes nearer than that are reached in 200 steps of it / 225."""
    x, y = grey(2)
    for distance, status in ((3.2, "found"), (4.6, "not_found")):
        found = rc.noisy_distance(HalfSpace(16, distance), x, y, sigma=0.5, points=6, method="pgd")
        assert (found.status == status).all()
    reached = rc.noisy_distance(HalfSpace(16, 3.0), x, y, sigma=0.5, points=6, method="pgd")
    step = 2 * 4.264890793922825 * 0.5 / 225
    steps = reached.distances[np.isfinite(reached.distances)] / step
    assert len(steps) > 6
    assert np.abs(steps - steps.round()).max() < 1e-2


@pytest.mark.parametrize(("rate", "samples"), [(0.05, 1000), (0.01, 1000), (0.003, 3334)])
def test_sigma_is_found_with_ten_draws_for_each_error_it_expects(rate, samples):
    x, y = grey(2)
    model = HalfSpace(16, DISTANCE)
    noise = rc.sigma_at_error_rate(model, x, rate, y, samples=samples)
    found = rc.noisy_distance(model, x, y, error_rate=rate, points=10, samples=10)
    given = rc.noisy_distance(model, x, y, sigma=noise.sigma, points=10, samples=10)
    assert found.sigma.tolist() == noise.sigma.tolist()
    set_up = Evaluator(model, x, y).n_forward - 1  # done once for both
    assert (found.n_forward - given.n_forward).tolist() == (noise.n_forward - set_up).tolist()
    assert found.n_errors.tolist() == given.n_errors.tolist()
    assert found.distances.tolist() == given.distances.tolist()


class Three(torch.nn.Module):
    """Linear, of three classes: the second largest logit is far off, the smallest near."""

    def __init__(self):
        super().__init__()
        chance = torch.Generator().manual_seed(5)
        towards = torch.randn(2, 16, generator=chance, dtype=torch.float64)
        self.w = (towards / towards.norm(dim=1, keepdim=True)).float() * torch.tensor(
            [[1.0], [9.0]]
        )
        self.lead = torch.tensor([0.9, 1.8])  # at 0.9 and at 0.2

    def heights(self, x):
        return (x.flatten(1) - 0.5) @ self.w.T + self.lead

    def forward(self, x):
        return torch.cat([torch.zeros(len(x), 1), -self.heights(x)], 1)


def test_two_gradients_go_towards_the_nearest_boundary_and_others_towards_the_likeliest_class():
    model, n = Three(), 60
    x, y = grey(2)
    evaluator = Evaluator(model, x, y, stream=NOISY)
    points = draw_points(evaluator, np.arange(2), np.full(2, 0.02), n)
    asked = []

    class Watched(MedianSearch):
        def _step(self, slots, turn, classes):
            spent = self.spent[slots].tolist()
            super()._step(slots, turn, classes)
            classes = self.classes[slots] if callable(classes) else classes
            asked.extend(zip(slots.tolist(), spent, classes.tolist(), strict=True))

    Watched(points, n, (20, 40)).run()
    noisy = points.x.view(-1, 1, 4, 4)
    nearest = 1 + (model.heights(noisy) / model.w.norm(dim=1)).argmin(1)
    assert (nearest == 2).all()
    assert (model(noisy)[:, 1] > model(noisy)[:, 2]).all()
    taken = {
        spent: [(slot, at) for slot, before, at in asked if before == spent] for spent in range(4)
    }
    assert len(taken[0]) == 2 * n
    assert min(len(taken[spent]) for spent in (1, 2)) > 0
    for spent in (0, 1):
        assert all(at == nearest[slot] for slot, at in taken[spent])
    assert all(at == -1 for _, at in taken[2] + taken[3])


def test_medians_and_their_intervals_are_order_statistics():
    """Of 20 points, ranks 6 and 15 hold the median at 95 % (binomial tails of 0.0207 each)."""
    found = rc.noisy_distance(HalfSpace(16, DISTANCE), *grey(IMAGES), sigma=SIGMA, points=20)
    ordered = np.sort(found.distances, 1)
    assert found.distance_low.tolist() == ordered[:, 5].tolist()
    assert found.distance_high.tolist() == ordered[:, 14].tolist()
    np.testing.assert_allclose(found.distance, (ordered[:, 9] + ordered[:, 10]) / 2)
    exact = np.sort(heights(draws(NOISY, 20)).clip(0), 1)
    np.testing.assert_allclose(found.distance_low, exact[:, 5], rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(found.distance_high, exact[:, 14], rtol=1e-3, atol=1e-7)


# -- audits ----------------------------------------------------------------------------------


def short(share):
    """The nearest error of the half-space, `share` of the way: an error from 1 on."""

    def attack(model, x, y):
        w = HalfSpace(16, DISTANCE).w.double()
        height = (x.double().flatten(1) - 0.5) @ w + DISTANCE
        return (x.double() - (share * height[:, None] * w).view(x.shape)).float()

    return attack


def audit(attack, batch_size=None, **more):
    how = {"sigma": SIGMA, "points": 20, "samples": 90} | more
    engine = rc.Engine(HalfSpace(16, DISTANCE), batch_size=batch_size)
    return rc.audit_attack(engine, *grey(IMAGES), attack, **how)


def test_an_audit_costs_its_draws_and_one_look_at_each_point_and_at_each_answer():
    found = audit(short(1.01))
    right = (heights(draws(AUDIT, 20)) > 0).sum(1)
    # 90 draws; 20 points; the answers for the right ones, and for the image itself
    assert (found.n_forward - engine()).tolist() == (90 + 20 + right + 1).tolist()
    two = audit(short(1.01), sigma=[SIGMA, SIGMA])
    assert (two.n_forward - engine()).tolist() == (2 * (90 + 20 + right) + 1).tolist()


def test_an_audit_counts_the_errors_of_its_own_stream_and_how_near_they_come():
    found = audit(short(1.01), samples=400)
    noisy = draws(AUDIT, 400)
    height = heights(noisy)
    assert found.n_errors[:, 0].tolist() == (height <= 0).sum(1).tolist()
    away = (noisy.double() - 0.5).norm(dim=2).numpy()
    near = np.where(height <= 0, away, np.inf).min(1)
    np.testing.assert_allclose(found.noise_distance, near, rtol=1e-6)
    np.testing.assert_allclose(found.clean_distance, 1.01 * DISTANCE, rtol=1e-4)
    wanted = 1.01 * height[:, :20].clip(0)
    np.testing.assert_allclose(found.distances[:, 0], wanted, rtol=1e-3, atol=1e-6)
    for other in (0, 1, NOISY):  # the negative control
        assert (heights(draws(other, 400)) <= 0).sum(1).tolist() != found.n_errors[:, 0].tolist()


@pytest.mark.parametrize(
    ("share", "looks"), [(1.01, 1), (1 - 5e-6, 3), (1 - 5e-5, 4), (1 - 5e-4, 5), (0.99, 5)]
)
def test_answers_are_moved_outward_by_up_to_a_thousandth(share, looks):
    """By 1e-6, 1e-5, 1e-4, 1e-3: what is short by less is found, one look for each."""
    found = audit(short(share), points=20, samples=20)
    right = (heights(draws(AUDIT, 20)) > 0).sum(1)
    assert (found.n_forward - engine()).tolist() == (20 + 20 + looks * (right + 1)).tolist()
    missed = share == 0.99
    assert np.isinf(found.clean_distance).all() == missed
    assert found.n_not_errors[:, 0].tolist() == (right * missed).tolist()
    if not missed:
        nudge = {1: 0, 3: 1e-5, 4: 1e-4, 5: 1e-3}[looks]
        np.testing.assert_allclose(found.clean_distance, share * (1 + nudge) * 0.2, rtol=1e-5)


def test_answers_that_are_not_finite_are_counted_apart():
    def broken(model, x, y):
        out = short(1.01)(model, x, y)
        out[::2] = torch.nan
        return out

    found = audit(broken, points=20, samples=20, batch_size=64)
    right = (heights(draws(AUDIT, 20)) > 0).sum()
    assert found.n_not_finite.sum() == -(-right // 2)
    assert found.n_not_errors.sum() == 0
    assert np.isinf(found.distances).sum() == found.n_not_finite.sum()


@pytest.mark.parametrize(("rate", "samples"), [(0.05, 1000), (0.003, 3334)])
def test_an_audit_finds_sigma_as_noisy_points_do(rate, samples):
    x, y = grey(IMAGES)
    noise = rc.sigma_at_error_rate(HalfSpace(16, DISTANCE), x, rate, y, samples=samples)
    found = audit(short(1.01), sigma=None, error_rates=rate)
    given = audit(short(1.01), sigma=noise.sigma[:, None])
    assert found.sigma[:, 0].tolist() == noise.sigma.tolist()
    set_up = engine() - 1  # done once for both
    assert (found.n_forward - given.n_forward).tolist() == (noise.n_forward - set_up).tolist()
    assert found.n_errors.tolist() == given.n_errors.tolist()


def test_labels_that_are_wrong_are_not_attacked():
    x, y = grey(IMAGES)
    y[1] = 1
    calls = []

    def attack(model, images, labels):
        calls.append(len(images))
        return short(1.01)(model, images, labels)

    found = rc.audit_attack(
        HalfSpace(16, DISTANCE), x, y, attack, sigma=SIGMA, points=20, samples=90
    )
    assert found.misclassified.tolist() == [False, True, False]
    assert found.n_errors[1].tolist() == [90]
    assert (found.clean_distance[1], found.noise_distance[1]) == (0, 0)
    right = (heights(draws(AUDIT, 20)) > 0).sum(1)
    assert sum(calls) == 2 + right[0] + right[2]
