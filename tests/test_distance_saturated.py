"""Models that saturate: their nearest errors are those of the logits, or close to them."""

import importlib

import numpy as np
import pytest
import torch
from distance_models import NORMS, Linear, Waves, assert_seen, images
from torch.nn import functional

import robustcore as rc
from robustcore.attack.minimum_norm import SILENT
from robustcore.concentration.median_search import MedianSearch
from robustcore.evaluator import Evaluator
from robustcore.gradients import PROBABILITIES, Gradients
from robustcore.streams import Stream


def sharp(k, head):
    """A model whose lead is a large multiple of `k`, through a head that keeps every error."""
    body = Waves()
    return lambda x: head(k * body(x))


def softmax(logits):
    return functional.softmax(logits, 1)


@pytest.mark.parametrize("box", [None, (0.0, 1.0)])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("k", [1, 10, 30])
def test_probabilities_have_the_distances_of_their_logits(k, norm, box):
    """While no probability of a rival underflows: to what their rounding moves the boundary."""
    x = images(6)
    logits = rc.distance_to_error(Waves(), x, norm=norm, box=box)
    near = rc.distance_to_error(sharp(k, softmax), x, norm=norm, box=box)
    np.testing.assert_allclose(near.distance, logits.distance, rtol=2e-3)
    assert PROBABILITIES in near.provenance.notes
    assert PROBABILITIES not in logits.provenance.notes
    assert_seen(sharp(k, softmax), x, near.labels, near)


HEADS = {
    "softmax": (softmax, 100),
    "softmax, to one hot": (softmax, 1000),
    "sigmoid": (torch.sigmoid, 3),
    "sigmoid, nearly flat": (torch.sigmoid, 6),
    "tanh": (torch.tanh, 1),
    "tanh, nearly flat": (torch.tanh, 3),
}


@pytest.mark.parametrize("box", [None, (0.0, 1.0)])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("head", HEADS)
def test_a_head_that_saturates_hides_no_error(head, norm, box):
    """An image may end at another of its boundaries; most end where the logits lead."""
    apply, k = HEADS[head]
    x = images(6)
    logits = rc.distance_to_error(Waves(), x, norm=norm, box=box)
    near = rc.distance_to_error(sharp(k, apply), x, logits.labels, norm=norm, box=box)
    ratio = near.distance / logits.distance
    assert np.median(ratio) <= 1.001
    assert ratio.max() <= 2
    assert_seen(sharp(k, apply), x, logits.labels, near)


def test_without_the_walk_nothing_is_found_where_gradients_are_silent(monkeypatch):
    """The negative control of the tests above and below."""
    model = sharp(1000, softmax)
    search = importlib.import_module("robustcore.attack.minimum_norm")
    monkeypatch.setattr(search._Search, "again", lambda *_: None)
    near = rc.distance_to_error(model, images(6))
    assert (near.status != "found").sum() >= 4
    assert SILENT not in near.provenance.notes


SILENT_HEADS = {
    "softmax": lambda lead: functional.softmax(3e4 * lead, 1),
    "clamped": lambda lead: functional.softmax(1e3 * lead, 1).clamp(1e-6, 1 - 1e-6),
    "clamped, no probabilities": lambda lead: functional.softmax(3e3 * lead, 1).clamp(1e-4, 0.9),
    "tanh": lambda lead: torch.tanh(1e3 * lead),
    "sigmoid": lambda lead: torch.sigmoid(1e3 * lead),
}


@pytest.mark.parametrize("effort", [5, 60])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("head", SILENT_HEADS)
def test_the_distance_of_a_half_space_is_found_behind_a_silent_head(head, norm, effort):
    """Of two classes, whose distance is known; at the image itself no gradient is of any use."""
    x = images(3)
    body = Linear(x, classes=2)
    # logits 0 and w x + b: every head keeps the boundary where that is 0
    body.weight[0], body.bias[0] = 0.0, 0.0
    body.bias[1] = -(x.flatten(1) @ body.weight[1]).max() - 0.05
    want = body.distances(x, norm)
    y = [0, 0, 0]
    near = rc.distance_to_error(body, x, y, norm=norm, effort=effort)
    np.testing.assert_allclose(near.distance, want, rtol=1e-3)
    assert SILENT not in near.provenance.notes

    def model(t):
        return SILENT_HEADS[head](body(t))

    near = rc.distance_to_error(model, x, y, norm=norm, effort=effort)
    assert (near.status == "found").all()
    assert (near.distance >= want * (1 - 1e-4)).all()
    assert (near.distance <= want * 1.02).all()
    assert SILENT in near.provenance.notes
    assert_seen(model, x, y, near)


@pytest.mark.parametrize("head", ["tanh", "clamped"])
def test_noisy_points_are_searched_anew_behind_a_silent_head(head, monkeypatch):
    """Medians of the points' own distances to a plane; without the search anew none is found."""
    x = images(2)
    body = Linear(x, classes=2)
    body.weight[0], body.bias[0] = 0.0, 0.0
    body.bias[1] = -(x.flatten(1) @ body.weight[1]).max() - 0.05

    def model(t):
        return SILENT_HEADS[head](body(t))

    how = {"sigma": 0.001, "points": 20, "samples": 20}
    near = rc.noisy_distance(model, x, [0, 0], **how)
    rows = torch.arange(2).repeat_interleave(20)
    draws = torch.arange(20).repeat(2)
    engine = Evaluator(body, x, torch.zeros(2, dtype=torch.int64), stream=Stream.NOISY_POINTS)
    points = engine.noisy(rows, torch.full((40,), 0.001), draws)
    want = np.median(body.distances(points, 2).reshape(2, 20), 1)
    assert (near.status == "found").all()
    assert (near.distance >= want * (1 - 1e-4)).all()
    assert (near.distance <= want * 1.02).all()
    monkeypatch.setattr(MedianSearch, "_again", lambda self: None)
    assert (rc.noisy_distance(model, x, [0, 0], **how).status != "found").all()


def test_a_trained_network_keeps_its_distances_where_gradients_are_silent():
    """At effort 5 these were found at 11 and 21 times the distance. An image may end at another of
    its boundaries, as its likeliest wrong class cannot be seen."""
    model, x, y = rc.load_example("cifar10-natural", images=2)
    logits = rc.distance_to_error(model, x, y)
    near = rc.distance_to_error(lambda t: softmax(30 * model(t)), x, y, effort=5)
    assert (near.distance <= 1.5 * logits.distance).all()
    assert SILENT in near.provenance.notes


def test_a_model_without_any_gradient_stays_masked():
    """One hot: errors are met by chance, and the search that was asked for was none."""
    near = rc.distance_to_error(
        lambda t: 0 * Waves()(t) + functional.one_hot(Waves()(t).argmax(1), 4), images(4)
    )
    assert (near.status == "masked").all()
    assert np.isinf(near.distance).all()
    assert SILENT not in near.provenance.notes


def test_a_trained_network_keeps_its_distances_behind_a_softmax():
    """Without logarithms and a bound on steps these were found at 2e6 and at 2e18."""
    model, x, y = rc.load_example("cifar10-natural", images=2)
    logits = rc.distance_to_error(model, x, y)
    near = rc.distance_to_error(lambda z: softmax(3 * model(z)), x, y)
    np.testing.assert_allclose(near.distance, logits.distance, rtol=1e-2)


@pytest.mark.parametrize("k", [1, 10])
def test_descents_and_noisy_images_follow_the_logarithms_too(k):
    x = images(6)
    model, hidden = Waves(), sharp(k, softmax)
    for options in ({"eps": [0.1, 0.3, 1.0], "norm": 2}, {"eps": 0.03, "loss": "margin"}):
        for targets in (None, (model(x).argmax(1) + 1) % 4):
            want = rc.pgd(model, x, steps=20, targets=targets, **options)
            got = rc.pgd(hidden, x, steps=20, targets=targets, **options)
            np.testing.assert_array_equal(got.fooled, want.fooled)
    how = {"sigma": 0.1, "points": 30, "samples": 100}
    near, want = rc.noisy_distance(hidden, x, **how), rc.noisy_distance(model, x, **how)
    np.testing.assert_array_equal(near.n_errors, want.n_errors)
    np.testing.assert_allclose(near.distance, want.distance, rtol=1e-2)


@pytest.mark.parametrize(
    ("rows", "probable"),
    [
        ([[0.25, 0.75], [1.0, 0.0]], [True, True]),
        ([[0.25, 0.75], [-0.25, 1.25], [0.25, 0.7501]], [True, False, False]),
        ([[0.0, 0.0], [2.0, 3.0]], [False, False]),
    ],
)
def test_only_rows_that_are_probabilities_become_logarithms(rows, probable):
    table = torch.tensor(rows)
    gradients = Gradients(Evaluator(Waves(), images(2)), None, 2.0)
    scores = gradients._scores(table, torch.float32)
    for given, score, changed in zip(table, scores, probable, strict=True):
        right = given.clamp(min=torch.finfo(torch.float32).tiny).log() if changed else given
        assert torch.equal(score, right)
    assert (PROBABILITIES in gradients.evaluator.notes) == any(probable)
