"""Attacks by hand: gradients and forward passes, steps, radii and nudges, as counted on paper."""

import importlib

import numpy as np
import pytest
import torch
from distance_models import Waves, images
from models import HalfSpace, grey
from torch import nn

import robustcore as rc
from robustcore.attack import Found, refine, verify
from robustcore.attack.minimum_norm import stages
from robustcore.evaluator import Evaluator
from robustcore.gradients import Gradients

nearest = importlib.import_module("robustcore.distance.nearest")
search = importlib.import_module("robustcore.attack.minimum_norm")
pytestmark = pytest.mark.usefixtures("batches_not_compared")


def engine_forward(model, x, y=None):
    """What the engine spends on images before anything is measured."""
    return Evaluator(model, x, y).n_forward


def far(fused):
    """A linear model whose class 0 is right by far, in a fused kernel or around it."""
    layers = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)).eval()
    with torch.no_grad():
        layers[1].weight.copy_(torch.arange(48.0).view(4, 12).sin())
        layers[1].bias.copy_(torch.tensor([1e3, 0.0, 0.0, 0.0]))
    return layers if fused else lambda x: layers(x)


# -- gradients -------------------------------------------------------------------------------

# effort: (slots, steps) of each stage with 10 classes
STAGES = {
    5: [(3, 1), (1, 1)],
    17: [(3, 1), (1, 11)],
    18: [(5, 1), (2, 4), (1, 2)],
    39: [(5, 1), (2, 4), (1, 23)],
    40: [(9, 1), (3, 4), (1, 16)],
    60: [(9, 1), (3, 4), (1, 36)],
    149: [(9, 1), (3, 4), (1, 125)],
    150: [(9, 2), (3, 21)],
    300: [(9, 2), (3, 46)],
}
# (effort, restarts, classes): gradients, and forward passes of the last stages' ends
SPENT = {
    (5, 1, 10): (4, 1),
    (18, 1, 10): (15, 1),
    (39, 1, 10): (36, 1),
    (40, 1, 10): (37, 1),
    (60, 1, 10): (57, 1),
    (60, 3, 10): (57 + 2 * 36, 3),
    (60, 1, 4): (3 + 12 + 36, 1),
    (149, 1, 10): (146, 1),
    (150, 1, 10): (18 + 63 + 3 * 21, 3 + 3),
    (300, 1, 10): (18 + 138 + 3 * 46, 3 + 3),
    (300, 2, 10): (18 + 138 + 4 * 46, 3 + 4),
}


def test_effort_is_spent_as_planned():
    assert {effort: stages(effort, 10) for effort in STAGES} == STAGES


@pytest.mark.parametrize(("effort", "restarts", "classes"), SPENT)
def test_the_search_takes_exactly_its_gradients(effort, restarts, classes, monkeypatch):
    """Where no slot may leave early and nothing is verified; 4 passes bisect the last error."""
    monkeypatch.setattr(search, "PATIENCE", 10**9)
    monkeypatch.setattr(nearest, "verify", lambda *a: None)
    model, x = Waves(classes=classes), images(2)
    near = rc.distance_to_error(model, x, effort=effort, restarts=restarts)
    gradients, ends = SPENT[effort, restarts, classes]
    assert near.n_backward.tolist() == [gradients] * 2
    more = near.n_forward - near.n_backward - engine_forward(model, x)
    assert more.tolist() == [1 + ends + 4] * 2


def test_with_a_target_each_stage_has_one_start(monkeypatch):
    monkeypatch.setattr(search, "PATIENCE", 10**9)
    model, x = Waves(classes=10), images(2)
    y = model(x).argmax(1)
    near = rc.distance_to_error(model, x, y, targets=(y + 1) % 10)
    assert near.n_backward.tolist() == [1 + 4 + 36] * 2


def test_slots_that_settled_eight_times_leave():
    """Of a plane all is known after a step: 5 gradients of 2 stages; 22 of the 36 of the last in
    noise, 0.6 of them, whose points are farther; then 8."""
    x, y = grey(2)
    near = rc.distance_to_error(HalfSpace(16, 0.2), x, y)
    assert near.n_backward.tolist() == [5 + 22 + 8] * 2
    np.testing.assert_allclose(near.distance, 0.2, rtol=2e-4)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("restarts", [1, 3])
def test_projected_descent_takes_a_gradient_for_each_point_it_visits(fused, restarts):
    model, x = far(fused), images(3, (3, 2, 2))
    before = engine_forward(model, x)
    for loss in ("ce", "margin", "dlr"):
        result = rc.pgd(
            model, x, eps=0.1, steps=5, step_size=0.02, restarts=restarts, loss=loss, box=None
        )
        assert not result.fooled.any()
        assert result.n_backward.tolist() == [6 * restarts] * 3
        assert (result.n_forward - result.n_backward - before).tolist() == [1] * 3
    two = rc.pgd(model, x, eps=[0.1, 0.2], steps=5, step_size=0.02, restarts=restarts)
    assert two.n_backward.tolist() == [2 * 6 * restarts] * 3


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("steps", [100, 7])
def test_a_step_is_halved_after_two_without_progress_and_the_start_ends_below_a_twentieth(
    fused, steps
):
    """Linf and a linear model: the first step reaches the corner, which raises the gain for the
    last time. Points 3, 5, 7, 9 and 11 each halve, to 1/32 of the radius: 12 points in all."""
    model, x = far(fused), images(3, (3, 2, 2))
    result = rc.pgd(model, x, eps=0.1, steps=steps, random_start=False, box=None)
    assert result.n_backward.tolist() == [min(12, steps + 1)] * 3


@pytest.mark.parametrize("fused", [False, True])
def test_an_image_leaves_at_its_first_error(fused):
    """Steps of 0.02 towards a plane at 0.05 in linf: the third step is an error."""
    linear = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
    with torch.no_grad():
        linear[1].weight.copy_(torch.tensor([[1.0, -1.0, 1.0, 1.0], [0.0] * 4]))
        linear[1].bias.copy_(torch.tensor([4 * 0.05 - 1.0, 0.0]))
    # in larger batches restarts go side by side
    model = linear if fused else rc.Engine(lambda x: linear(x), batch_size=2)
    x = torch.full((2, 1, 2, 2), 0.5)
    how = {"steps": 9, "step_size": 0.02, "random_start": False, "restarts": 4}
    result = rc.pgd(model, x, eps=0.1, **how)
    assert result.step.tolist() == [3, 3]
    assert result.restart.tolist() == [0, 0]
    assert result.n_backward.tolist() == [4, 4]
    np.testing.assert_allclose(result.distance, 0.06, rtol=1e-5)
    inside = rc.pgd(model, x, eps=0.049, **how)
    assert not inside.fooled.any()
    assert inside.n_backward.tolist() == [40, 40]


@pytest.mark.parametrize(
    ("most", "calls"), [(4096, [3, 6, 12]), (4, [3, 4, 2, 4, 4, 4]), (1, None)]
)
def test_descents_go_into_the_fused_kernel_as_many_at_a_time_as_memory_allows(
    most, calls, monkeypatch
):
    """Three images and restarts 1, 2 and 4 at a time: a call takes whole images, one at least."""
    from robustcore.attack import descents

    model, x = far(True), images(3, (3, 2, 2))
    how = {"eps": 0.1, "steps": 3, "restarts": 7}
    whole = rc.pgd(model, x, **how)
    took, descend = [], descents._descend

    def counted(gradients, found, rows, radius, group, how):
        took.append(len(rows) * len(group))
        return descend(gradients, found, rows, radius, group, how)

    monkeypatch.setattr(descents, "_descend", counted)
    monkeypatch.setattr(descents, "DESCENTS", most)
    parts = rc.pgd(model, x, **how)
    assert took == (calls or [1] * 3 + [2] * 3 + [4] * 3)
    for name in ("fooled", "distance", "restart", "step", "n_forward", "n_backward"):
        assert np.array_equal(getattr(parts, name), getattr(whole, name)), name


def test_steps_and_efforts_that_are_not_given_are_those_that_the_texts_name():
    x, y = grey(1)
    model = HalfSpace(16, 0.05)
    for method, more, want in (
        ("minimum", {}, {"effort": 60}),
        ("pgd", {}, {"steps": 200}),
        ("pgd", {"eps": "search"}, {"steps": 100}),
        ("pgd", {"steps": 7}, {"steps": 7}),
    ):
        near = rc.distance_to_error(model, x, y, method=method, **more)
        assert want.items() <= near.provenance.settings.items()
    noisy = rc.noisy_distance(model, x, y, sigma=0.05, method="pgd", points=6, samples=6)
    assert noisy.provenance.settings["steps"] == 200


@pytest.mark.parametrize("norm", [2, "Linf"])
def test_the_papers_steps_are_a_hundred_and_fiftieth_of_the_radius(norm):
    x, y = grey(1)
    model = HalfSpace(16, 0.203 if norm == 2 else 0.02)
    near = rc.distance_to_error(model, x, y, norm=norm, method="pgd")
    eps = 1.0 if norm == 2 else 0.1
    truth = model.distance / (1.0 if norm == 2 else float(model.w.abs().sum()))
    steps = int(np.ceil(truth / (eps / 150)))
    assert near.step.tolist() == [steps]
    np.testing.assert_allclose(near.distance, steps * eps / 150, rtol=1e-4)
    assert near.n_backward.tolist() == [steps + 1]
    failed = rc.distance_to_error(HalfSpace(16, 50.0), x, y, norm=norm, method="pgd", restarts=2)
    assert failed.n_backward.tolist() == [2 * 201]


def test_refining_bisects_twelve_times():
    """At 0.2 of a step at 0.6: within 0.6 / 2^12 above the boundary, for 12 forward passes."""
    x, y = grey(1)
    how = {"method": "pgd", "eps": 3.0, "step_size": 0.6}
    coarse = rc.distance_to_error(HalfSpace(16, 0.2), x, y, **how)
    fine = rc.distance_to_error(HalfSpace(16, 0.2), x, y, **how, refine=True)
    np.testing.assert_allclose(coarse.distance, 0.6, rtol=1e-5)
    assert 0.2 * (1 - 1e-5) <= fine.distance[0] <= 0.2 + 0.6 / 2**12
    assert (fine.n_forward - coarse.n_forward).tolist() == [12]


def test_refining_touches_only_the_images_it_is_given():
    x, y = grey(3)
    gradients = Gradients(Evaluator(HalfSpace(16, 0.2), x, y), None, 2.0)
    found = Found.nothing(gradients)
    found.point = gradients.x - 0.8 * HalfSpace(16, 0.2).w
    found.distance[:] = 0.8
    before = gradients.n_forward.clone()
    with torch.no_grad():
        refine(gradients, found, torch.tensor([0, 2]), 0.0, 3)
    # 0.8 is halved to 0.4, 0.2 is on the plane within rounding, then 0.3 or less
    assert found.distance[1] == 0.8
    assert found.distance[0] == found.distance[2] <= 0.3 * (1 + 1e-6)
    assert (gradients.n_forward - before).tolist() == [3, 0, 3]


def test_a_walk_takes_24_turns_at_most_and_keeps_the_nearest_after_six():
    boundary = importlib.import_module("robustcore.attack.boundary")
    x, y = grey(2)
    gradients = Gradients(Evaluator(HalfSpace(16, 0.2), x, y), None, 2.0)
    turns = []

    class Endless(boundary.Walk):
        def _turn(self, going):
            turns.append(len(going))
            return going

    rows = torch.arange(2).repeat_interleave(5)
    away = torch.arange(5.0).repeat(2)[:, None] + 1
    points = gradients.x[rows] - away * gradients.evaluator.network.model.w
    found = Found.nothing(gradients)
    Endless(gradients, rows, points, None).run(found, 0)
    assert turns == [10] * 6 + [4] * 18  # of five errors of each image two go on
    np.testing.assert_allclose(found.distance, 0.2, rtol=1e-3)  # a segment's end


# -- where the model saturates ---------------------------------------------------------------


class Silent(HalfSpace):
    """A plane whose logits are flat on both of its sides, but depend on the image."""

    def forward(self, x):
        sign = super().forward(x).detach()[:, :1].sign()
        return torch.cat([sign, 0 * sign], 1) + 0 * x.flatten(1).sum(1, keepdim=True)


def test_without_a_gradient_a_slot_bisects_by_the_sign_alone_and_expects_nothing():
    x, y = grey(1)
    gradients = Gradients(Evaluator(Silent(16, 0.6), x, y), None, 2.0)
    found = Found.nothing(gradients)
    descent = search._Search(gradients, found, None, 0, torch.arange(1))
    slots = search._Slots(gradients, torch.zeros(1, dtype=int), torch.tensor([-1]), 0)
    way = -HalfSpace(16, 0.6).w[None]
    radii = []
    slots.radius[:] = 0.5
    slots.offset[:] = 0.5 * way
    with torch.no_grad():
        for step in range(5):
            slots.points = gradients.x + slots.offset
            radii.append(float(slots.radius))
            descent._step(slots, 1.0, 0.0, step)
            assert slots.expected.tolist() == [torch.inf]
            assert slots.quiet.tolist() == [0]
    # half as far again while it is right, then between the last two, in the geometric mean
    want = [0.5, 0.75, np.sqrt(0.5 * 0.75)]
    want += [np.sqrt(0.5 * want[2]), np.sqrt(want[2] * np.sqrt(0.5 * want[2]))]
    assert radii == pytest.approx(want, rel=1e-6)
    assert float(slots.distance) == pytest.approx(want[2], rel=1e-6)
    assert not gradients.usable.any()
    assert torch.isinf(descent.first).all()


@pytest.mark.parametrize("usable", [[True] * 4, [False, False, True, False], [False] * 4])
def test_images_are_searched_again_whose_first_step_expected_four_times_the_distance(
    usable, monkeypatch
):
    """From the error seen and from random points; without any gradient nothing is kept."""
    gradients = Gradients(Evaluator(HalfSpace(16, 0.2), *grey(4)), None, 2.0)
    gradients.usable[:] = torch.tensor(usable)
    found = Found.nothing(gradients)
    found.distance[:] = torch.tensor([1.0, 1.0, 1.0, torch.inf])
    found.point[2] = 7.0
    descent = search._Search(gradients, found, None, 0, torch.arange(4))
    descent.first[:] = torch.tensor([3.9, 4.0, 4.1, 1.0])
    scattered, walked = [], []

    def scatter(self, rows):
        scattered.append(rows.tolist())
        return torch.tensor([2, 3]), torch.full((2, 16), 8.0)

    class Walk:
        def __init__(self, gradients, starts, points, box):
            walked.append((starts.tolist(), points[:, 0].tolist()))

        def run(self, found, step):
            walked.append(step)
            found.distance[3] = 2.0

    monkeypatch.setattr(search._Search, "_scatter", scatter)
    monkeypatch.setattr(search, "Walk", Walk)
    descent.again(torch.arange(4), 30)
    assert scattered == [[2, 3]]
    assert walked == [([2, 2, 3], [7.0, 8.0, 8.0]), 30]
    kept = [1.0, 1.0, 1.0 if usable[2] else torch.inf, 2.0 if usable[3] else torch.inf]
    assert found.distance.tolist() == kept
    assert (search.SILENT in gradients.evaluator.notes) == any(usable[2:])
    descent.again(torch.tensor([0, 1]), 30)
    assert len(walked) == 2  # for these there is nothing to do


def test_random_points_are_of_the_seed_the_image_and_the_distance():
    """Four at each of twelve distances, of doubling width, until four errors were met."""
    x, y = grey(2)

    def scattered(seed, ids, distance=0.3):
        gradients = Gradients(Evaluator(HalfSpace(16, distance), x, y), None, 2.0)
        found = Found.nothing(gradients)
        descent = search._Search(gradients, found, None, seed, torch.tensor(ids))
        with torch.no_grad():
            rows, points = descent._scatter(torch.arange(2))
        return rows, points - 0.5, gradients.n_forward.tolist()

    rows, away, spent = scattered(3, [0, 1])
    assert (rows.bincount() >= 4).all()
    heights = away @ HalfSpace(16, 0.3).w + 0.3
    assert (heights <= 1e-6).all()  # errors alone
    assert all(each % 4 == 0 and 4 <= each <= 48 for each in spent)
    again, other, named = (scattered(*call)[1] for call in ((3, [0, 1]), (4, [0, 1]), (3, [5, 6])))
    assert torch.equal(again, away)
    assert other.shape != away.shape or not torch.equal(other, away)
    assert named.shape != away.shape or not torch.equal(named, away)
    none, _, all_spent = scattered(3, [0, 1], distance=1e6)
    assert not len(none)
    assert all_spent == [48, 48]


# -- the last look ---------------------------------------------------------------------------


def placed(point, outward=True, scale=1.0):
    """What verify makes of an error at `point` near an image at 0.75; its forward passes."""

    def model(x):
        return scale * torch.stack([x.flatten(1)[:, 0] - 0.25, 0 * x.flatten(1)[:, 0]], 1) + 8

    x = torch.full((1, 1, 1, 1), 0.75)
    gradients = Gradients(Evaluator(model, x, [0]), None, 2.0)
    found = Found.nothing(gradients)
    found.point[:] = point
    found.distance[:] = 0.75 - point
    found.label[:] = 1
    before = int(gradients.n_forward)
    with torch.no_grad():
        verify(gradients, found, None, outward)
    return found, int(gradients.n_forward) - before


def test_a_point_on_the_boundary_is_pushed_until_it_is_clear_of_rounding():
    """A tie at 0.25, logits of 8: clear beyond 16 * 2^-23 * 8 = 1.5e-5. Of the nudges 0.5 * 2^k
    * 1e-6, k = 1 to 12, those from k = 5 on (1.6e-5) are enough: six looks."""
    found, looks = placed(0.25)
    assert looks == 6
    np.testing.assert_allclose(float(found.point), 0.25 - 0.5 * 32e-6, atol=1e-7)
    assert found.label.tolist() == [1]


def test_a_point_clear_of_the_boundary_stays_where_it_is():
    found, looks = placed(0.2499)
    assert looks == 1
    assert float(found.point) == pytest.approx(0.2499, abs=3e-8)  # rounding alone


def test_a_point_that_is_never_clear_stays_where_it_was_first_wrong():
    """A margin of a thousandth: even the widest nudge leaves it within rounding."""
    found, looks = placed(0.25, scale=1e-3)
    assert looks == 13
    assert float(found.point) == 0.25


def test_without_nudges_what_is_right_is_forgotten_and_a_tie_is_kept():
    found, looks = placed(0.25, outward=False)
    assert looks == 1
    assert float(found.point) == 0.25
    assert torch.isfinite(found.distance).all()
    gone, _ = placed(0.2501, outward=False)
    assert torch.isinf(gone.distance).all()
    assert [int(each) for each in (gone.label, gone.restart, gone.step)] == [-1, -1, -1]


def test_a_point_that_is_right_by_rounding_is_pushed_over():
    found, _ = placed(0.25 + 1e-6)
    assert torch.isfinite(found.distance).all()
    assert float(found.point) < 0.25 - 1e-5
    beyond, looks = placed(0.26)
    assert torch.isinf(beyond.distance).all()
    assert looks == 13


@pytest.mark.parametrize("norm", [2, "Linf"])
@pytest.mark.parametrize("how", [{}, {"method": "pgd", "eps": 2.0, "refine": True}])
def test_points_are_errors_alone_and_among_others(how, norm):
    """By 16 units of rounding of their logits, so in whatever batch they are judged."""
    x = images(12)
    layers = nn.Sequential(nn.Flatten(), nn.Linear(48, 30), nn.Tanh(), nn.Linear(30, 6))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(5)
        for each in layers[1::2]:
            each.weight.normal_(std=0.5)
    y = layers(x).argmax(1)
    near = rc.distance_to_error(lambda z: layers(z), x, y, norm=norm, **how)
    assert near.found.all()
    for batch in (1, 5, 12):
        logits = torch.cat([layers(part) for part in near.x_adv.split(batch)]).detach()
        own = logits.gather(1, y[:, None])[:, 0]
        rest = logits.scatter(1, y[:, None], -torch.inf).amax(1)
        unit = torch.finfo(torch.float32).eps * logits.abs().amax(1)
        assert ((rest - own) > 12 * unit).all()
