"""Projected descent: within its radius, at a grid of radii, as the paper has it, by bisection."""

import dataclasses

import numpy as np
import pytest
import torch
from distance_models import NORMS, Linear, Waves, images
from models import HalfSpace, grey

import robustcore.engine
from robustcore.distance import distance_to_error, pgd
from robustcore.engine import Engine
from robustcore.kernels import select


def test_fixed_radius_does_not_depend_on_batches():
    model, x = Waves(), images(7)
    options = {"norm": 2, "restarts": 4, "steps": 20, "box": None}
    whole = pgd(model, x, eps=[0.2, 0.5, 1.0], **options)
    assert 0 < whole.fooled.sum() < whole.fooled.size
    for batch_size in (1, 5):
        again = pgd(Engine(model, batch_size=batch_size), x, eps=[1.0, 0.2, 0.5], **options)
        assert np.array_equal(again.fooled, whole.fooled)
        assert torch.equal(again.x_adv, whole.x_adv)
        assert np.array_equal(again.restart, whole.restart)


def assert_within(model, x, norm, eps):
    """The guard of the projection: no error lies outside the radius."""
    result = pgd(model, x, eps=eps, norm=norm, steps=20, restarts=2, box=None)
    assert (result.distance[result.fooled[:, 0]] <= eps * (1 + 1e-6) + 1e-7).all()


@pytest.mark.parametrize("norm", NORMS)
def test_errors_lie_within_the_radius(norm):
    assert_within(Waves(), images(7), norm, 0.5 if norm == 2 else 0.1)


@pytest.mark.parametrize("norm", NORMS)
def test_without_its_projection_the_attack_fails_that_test(norm, monkeypatch):
    """Negative control."""
    sound = select("reference", "cpu")

    def unprojected(x, rows, offset, gradient, scale, step, radius, points, **more):
        return sound.ball_step(x, rows, offset, gradient, scale, step, radius * 1e6, points, **more)

    broken = dataclasses.replace(sound, ball_step=unprojected)
    monkeypatch.setattr(robustcore.engine, "select", lambda *_: broken)
    with pytest.raises(AssertionError):
        assert_within(Waves(), images(7), norm, 0.05 if norm == 2 else 0.005)


@pytest.mark.parametrize("loss", ["ce", "margin", "dlr"])
@pytest.mark.parametrize("norm", NORMS)
def test_radii_on_both_sides_of_the_true_distance(norm, loss):
    x = images(3)
    model = Linear(x)
    y = model(x).argmax(1)
    x, y = x[y == 0], y[y == 0]
    true = model.distances(x, norm)
    grid = [0.98 * true.min(), 1.02 * true.max()]
    result = pgd(model, x, y, eps=grid, norm=norm, loss=loss, restarts=2, box=None)
    assert not result.fooled[:, 0].any()
    assert loss == "ce" or result.fooled[:, 1].all()
    assert result.robust_accuracy[0] == 1


def test_the_papers_attack_overshoots_by_at_most_a_step_and_refining_takes_it_off():
    x, y = grey(2, (3, 8, 8))
    model = HalfSpace(192, 0.7031)
    coarse = distance_to_error(model, x, y, method="pgd")
    assert coarse.provenance.settings["step_size"] == pytest.approx(1 / 150)
    assert np.all((coarse.distance >= 0.7031 - 1e-5) & (coarse.distance <= 0.7031 + 1 / 150))
    assert np.all(coarse.distance > 0.704)
    fine = distance_to_error(model, x, y, method="pgd", refine=True)
    assert np.allclose(fine.distance, 0.7031, rtol=5e-4)
    assert np.all(fine.distance <= coarse.distance)


@pytest.mark.parametrize("norm", NORMS)
def test_the_smallest_radius_is_found_to_one_percent(norm):
    x, y = grey(2, (3, 8, 8))
    model = HalfSpace(192, 2.5)
    true = 2.5 if norm == 2 else 2.5 / float(model.w.abs().sum())
    near = distance_to_error(model, x, y, norm=norm, method="pgd", eps="search", restarts=2)
    assert np.all((near.distance >= true * (1 - 1e-5)) & (near.distance <= true * 1.011))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("norm", NORMS)
def test_no_rounding_leaves_the_radius(norm, dtype):
    """Neighbours of bfloat16 near 1 are 1/256 apart: rounding to the nearest added 6 % to 8/255."""
    model, x = Waves(), images(7).to(dtype)
    eps = 8 / 255 if norm == "Linf" else 0.3
    result = pgd(lambda x: model(x.float()), x, eps=eps, norm=norm, steps=20, restarts=2)
    reached = result.distance[result.fooled[:, 0]]
    assert (reached > 0).any()
    assert reached.max() <= eps * (1 + 1e-6)


@pytest.mark.parametrize(
    ("dtype", "box"), [(torch.float16, (0.1, 0.9)), (torch.bfloat16, (0.2, 0.8))]
)
def test_no_rounding_leaves_the_box(dtype, box):
    model, x = Waves(), (0.3 + 0.4 * images(7)).to(dtype)
    ends = torch.tensor(box, dtype=dtype).double()
    assert ends[0] < box[0] or ends[1] > box[1]  # the nearest that the type holds are outside
    result = pgd(lambda x: model(x.float()), x, eps=0.5, box=box, steps=20, restarts=2)
    x_adv = result.x_adv[torch.tensor(result.fooled[:, 0])].double()
    assert len(x_adv)
    assert box[0] <= x_adv.min()
    assert x_adv.max() <= box[1]
    assert x_adv.min() < box[0] + 0.01  # and reach to its edge


def test_an_error_counts_at_every_radius_it_lies_within():
    """A start in the larger ball falls on errors that the start in the smaller one missed."""

    def island(x):
        pixel = x.flatten(1)[:, 0]
        lead = torch.where((pixel > 0.54) & (pixel < 0.56), -1 + 0 * pixel, 5 + pixel)
        return torch.stack([lead, 0 * lead], 1)

    x = torch.full((1000, 1, 1, 1), 0.5)
    result = pgd(island, x, eps=[0.07, 1.0], steps=2, box=None)
    proven = result.distance[:, None] <= result.eps
    assert 0 < proven.sum() < proven.size
    assert (result.fooled >= proven).all()
