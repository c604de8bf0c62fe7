"""Every body of the ball kernels against the reference, closed forms and laws. Exact throughout."""

import math

import numpy as np
import pytest
import torch
from elsewhere import few
from scipy.stats import kstest

from robustcore.kernels import reference

NORMS = [2.0, math.inf]
# below, at and above a program's 256 lanes, and several times as many
SIZES = few([1, 3, 254, 255, 256, 257, 700, 3072], [1, 255, 256, 257, 700])
BOX = (0.0, 1.0)


def slots_of(n, slots=9, images=4):
    """The arguments of ball_step, of very different sizes; slots 1, 2 and 3 have bad gradients."""
    generator = torch.Generator().manual_seed(n)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    gradient = draw(slots, n) * 10.0 ** torch.randint(-30, 30, (slots, 1), generator=generator)
    gradient[1], gradient[2, -1], gradient[3, 0] = 0.0, math.nan, math.inf
    return {
        "x": torch.rand(images, n, generator=generator),
        "rows": torch.randint(images, (slots,), generator=generator),
        "offset": draw(slots, n) * torch.rand(slots, 1, generator=generator),
        "gradient": gradient,
        "scale": torch.rand(slots, generator=generator) + 0.5,
        "step": torch.rand(slots, generator=generator),
        "radius": torch.rand(slots, generator=generator) * 2,
    }


def stepped(kernel, given, **more):
    given = {name: value.clone() for name, value in given.items()}
    points = torch.full_like(given["offset"], math.nan)
    usable = kernel(**given, points=points, **more)
    return points, given["offset"], usable


@pytest.mark.parametrize("sphere", [False, True])
@pytest.mark.parametrize("box", [None, BOX])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("n", SIZES)
def test_ball_step_equals_the_reference(body, n, norm, box, sphere):
    given, options = slots_of(n, few(9, 5)), {"norm": norm, "box": box, "sphere": sphere}
    for mine, expected in zip(
        stepped(body.ball_step, given, **options),
        stepped(reference.ball_step, given, **options),
        strict=True,
    ):
        assert torch.equal(mine, expected)


@pytest.mark.parametrize("box", [None, BOX])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("n", SIZES)
def test_ball_slope_equals_the_reference(body, n, norm, box):
    given = slots_of(n, few(9, 5))
    given = {name: given[name] for name in ("x", "rows", "offset", "gradient")}
    mine = body.ball_slope(**given, norm=norm, box=box)
    expected = reference.ball_slope(**given, norm=norm, box=box)
    assert mine.dtype == torch.float64
    assert torch.equal(mine.nan_to_num(-1.0), expected.nan_to_num(-1.0))
    finite = given["gradient"][0].double()
    dual = finite.norm() if norm == 2 else finite.abs().sum()
    assert mine[0, 0].item() == pytest.approx(dual.item(), rel=1e-13)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("n", SIZES)
def test_update_best_equals_the_reference(body, n, norm):
    given = slots_of(n, slots=12)
    points = given["x"][given["rows"]] + given["offset"]
    margin = torch.tensor([-1.0, 0.0, math.nan, 1.0, math.inf, -math.inf] * 2)
    results = []
    for kernel in (body.update_best, reference.update_best):
        distance = torch.full((12,), math.inf, dtype=torch.float64)
        distance[6:] = 1e-3
        best = torch.full_like(points, math.nan)
        away = kernel(given["x"], given["rows"], points, margin, distance, best, norm=norm)
        results.append((away, distance, best.nan_to_num(7.0)))
    for mine, expected in zip(*results, strict=True):
        assert torch.equal(mine, expected)
    away, distance, best = results[0]
    taken = torch.tensor([True, True, True, False, False, True])
    assert torch.equal(distance[:6] == away[:6], taken)  # ties and NaN are errors
    assert torch.equal(best[:6][taken], points[:6][taken])
    exact = (points.double() - given["x"][given["rows"]].double()).numpy()
    order = 2 if norm == 2 else np.inf
    assert np.allclose(away, np.linalg.norm(exact, order, axis=1), rtol=1e-13, atol=0)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("n", [1, 31, 257, 300])
def test_a_point_with_a_nan_is_at_no_distance(body, n, norm):
    at = [e for e in (0, 1, 30, 31, 32, 255, 256, 299) if e < n]
    slots, rows = range(len(at)), torch.zeros(len(at), dtype=torch.int64)
    x, points = torch.zeros(1, n), torch.full((len(at), n), 1e-3)
    points[slots, at] = math.nan
    margin, best = torch.full((len(at),), -1.0), torch.full_like(points, 7.0)
    distance = torch.full((len(at),), math.inf, dtype=torch.float64)
    away = body.update_best(x, rows, points, margin, distance, best, norm=norm)
    assert away.isnan().all()
    assert (distance == math.inf).all()
    assert (best == 7.0).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("n", [1, 62, 63, 64, 255, 700, *few([3072], [])])
def test_random_start_equals_the_reference(body, n, norm):
    generator = torch.Generator().manual_seed(n)
    slots = few(7, 3)
    names = torch.randint(2**32, (2, slots), generator=generator)
    names[:, 0] = 2**32 - 1
    radius = torch.rand(slots, generator=generator)
    radius[1] = 0
    results = []
    for kernel in (body.random_start, reference.random_start):
        out = torch.full((slots, n), math.nan)
        results.append(kernel(radius, *names, out, norm=norm, seed=2**63 - 1, stream=2**32 - 1))
    assert torch.equal(*results)
    assert not results[0][1].any()
    alone = torch.full((1, n), math.nan)
    body.random_start(
        radius[-1:], names[0, -1:], names[1, -1:], alone, norm=norm, seed=2**63 - 1,
        stream=2**32 - 1,
    )  # fmt: skip
    assert torch.equal(alone[0], results[0][-1])


@pytest.mark.parametrize("norm", NORMS)
def test_slots_do_not_depend_on_their_neighbours(body, norm):
    slots = few(23, 9)
    given = slots_of(700, slots=slots)
    points, offset, usable = stepped(body.ball_step, given, norm=norm, box=BOX)
    order = torch.randperm(slots, generator=torch.Generator().manual_seed(0))
    mixed = {name: value[order] if name != "x" else value for name, value in given.items()}
    for mine, whole in zip(
        stepped(body.ball_step, mixed, norm=norm, box=BOX), (points, offset, usable), strict=True
    ):
        assert torch.equal(mine, whole[order])
    part = {name: value[5:9] if name != "x" else value for name, value in given.items()}
    assert torch.equal(stepped(body.ball_step, part, norm=norm, box=BOX)[0], points[5:9])


@pytest.mark.parametrize("norm", NORMS)
def test_no_slots(body, norm):
    given = {name: value[:0] if name != "x" else value for name, value in slots_of(5).items()}
    points, _, usable = stepped(body.ball_step, given, norm=norm)
    assert points.shape == (0, 5)
    assert usable.shape == (0,)


# -- the reference against what is known -----------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
def test_a_step_is_the_formula(norm):
    given = slots_of(700)
    points, offset, usable = stepped(reference.ball_step, given, norm=norm)
    assert usable.tolist() == [s not in (1, 2, 3) for s in range(9)]
    order = 2 if norm == 2 else np.inf
    for s in range(9):
        g = given["gradient"][s].double().numpy() if usable[s] else np.zeros(700)
        direction = g / np.linalg.norm(g) if norm == 2 and usable[s] else np.sign(g)
        moved = given["scale"][s].item() * given["offset"][s].double().numpy()
        moved = moved + given["step"][s].item() * direction
        radius = given["radius"][s].item()
        if norm == 2:
            moved *= min(1.0, radius / np.linalg.norm(moved))
        else:
            moved = moved.clip(-radius, radius)
        assert np.allclose(offset[s].numpy(), moved, rtol=1e-5, atol=2e-7)
        assert np.linalg.norm(offset[s].double().numpy(), order) <= radius * (1 + 1e-6) + 1e-7
    assert torch.allclose(points, given["x"][given["rows"]] + offset, atol=2e-7)


@pytest.mark.parametrize("norm", NORMS)
def test_on_the_sphere_the_length_is_the_radius_and_the_box_leaves_the_offset(norm):
    given = slots_of(700)
    given["step"] += 3
    free = stepped(reference.ball_step, given, norm=norm, sphere=True)
    points, offset, usable = stepped(reference.ball_step, given, norm=norm, box=BOX, sphere=True)
    assert torch.equal(offset, free[1])
    assert torch.equal(points, free[0].clamp(*BOX))
    length = offset.norm(dim=1) if norm == 2 else offset.abs().amax(1)
    assert torch.allclose(length[usable], given["radius"][usable], rtol=1e-6)


def test_the_slope_is_the_derivative_along_the_offset():
    given = slots_of(700)
    x, rows, offset = given["x"], given["rows"], given["offset"]
    gradient = torch.randn(9, 700, generator=torch.Generator().manual_seed(5))

    def value(grown):
        points = (x[rows].double() + grown * offset.double()).clamp(*BOX)
        return (gradient.double() * points).sum(1)

    slope = reference.ball_slope(x, rows, offset, gradient, norm=2.0, box=BOX)[:, 1]
    numeric = (value(1 + 1e-7) - value(1 - 1e-7)) / 2e-7
    assert torch.allclose(slope, numeric, rtol=1e-4, atol=1e-3)


def test_random_starts_are_uniform_in_the_ball():
    """Kolmogorov and Smirnov: false alarms 1 in 10^4 for each of four tests, at this fixed seed."""
    n, count = 5, 20000
    restarts, ids = torch.arange(count), torch.zeros(count, dtype=torch.int64)
    out = torch.empty(count, n)
    reference.random_start(torch.ones(count), restarts, ids, out, norm=2.0, seed=3)
    length = out.double().norm(dim=1)
    assert kstest(length.numpy() ** n, "uniform").pvalue > 1e-4
    # a coordinate of a point uniform in the 5-ball: (1 + z) / 2 is Beta(3, 3)
    assert kstest(((1 + out[:, 2]) / 2).numpy(), "beta", (3, 3)).pvalue > 1e-4
    reference.random_start(torch.full((count,), 0.5), restarts, ids, out, norm=math.inf, seed=3)
    for e in (0, 4):
        assert kstest((out[:, e] + 0.5).numpy(), "uniform").pvalue > 1e-4
    assert out.abs().max() <= 0.5


def test_starts_differ_by_name_and_from_the_noise(normals):
    out = torch.empty(2, 4096)
    names = torch.tensor([0, 1]), torch.tensor([0, 0])
    reference.random_start(torch.ones(2), *names, out, norm=2.0, seed=0)
    assert not torch.equal(out[0], out[1])
    noise = normals(reference.perturb, 4096, seed=0)
    cosine = torch.nn.functional.cosine_similarity(out[0], noise, dim=0)
    assert abs(cosine) < 0.1  # as large by chance 1 in 10^10; equal streams would give 1
