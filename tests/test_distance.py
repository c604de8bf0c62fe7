"""The nearest error: closed forms, laws, and what is said where there is no answer."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from models import HalfSpace, Slab, Small, grey
from torch import nn

import robustcore.evaluator
from robustcore.distance import distance_to_error, pgd
from robustcore.kernels import select

NORMS = [2, "Linf"]
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


class Linear(nn.Module):
    """Logits W x + b of images near `x`, with class 0 the answer by a small lead."""

    def __init__(self, x, classes=10):
        super().__init__()
        n = x[0].numel()
        generator = torch.Generator().manual_seed(n)
        weight = torch.randn(classes, n, generator=generator, dtype=torch.float64) / n**0.5
        lead = 0.05 + 0.1 * torch.rand(classes, generator=generator, dtype=torch.float64)
        lead[0] = 0.0
        bias = -weight @ x[0].double().flatten() - lead
        self.register_buffer("weight", weight.float())
        self.register_buffer("bias", bias.float())

    def forward(self, x):
        return x.flatten(1) @ self.weight.T + self.bias

    def distances(self, x, norm, box=None):
        """True distances, in float64: to the nearest of the half-spaces, inside the box."""
        x = x.double().flatten(1).numpy()
        weight, bias = self.weight.double().numpy(), self.bias.double().numpy()
        order = 2 if norm == 2 else np.inf
        found = np.full(len(x), np.inf)
        for k in range(1, len(weight)):
            normal = weight[k] - weight[0]
            lead = x @ -normal - (bias[k] - bias[0])
            direction = normal if norm == 2 else np.sign(normal)
            for i, point in enumerate(x):
                low, high = 0.0, 1e3

                def at(grown, point=point, direction=direction):
                    moved = point + grown * direction
                    return (moved if box is None else moved.clip(*box)) - point

                for _ in range(60):
                    middle = (low + high) / 2
                    crossed = normal @ at(middle) >= lead[i]
                    low, high = (low, middle) if crossed else (middle, high)
                if high < 999:
                    found[i] = min(found[i], np.linalg.norm(at(high), order))
        return found


class Waves(nn.Module):
    """Curved boundaries; each image is computed by itself, to the bit."""

    def __init__(self, n=48, classes=4):
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        self.register_buffer("w", torch.randn(2, classes, n, generator=generator) / n**0.5)
        self.gain = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        flat = x.flatten(1)[:, None]
        return (flat * self.w[0]).sum(2) + torch.sin(self.gain * (flat * self.w[1]).sum(2))


def images(count, shape=(3, 4, 4), seed=0):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


def assert_seen(model, x, y, near):
    """Every found point is an error, and its distance is that of the point."""
    found = near.status == "found"
    assert found.any()
    rows, y = torch.arange(len(x)), torch.as_tensor(y)
    logits = model(near.x_adv).detach()
    other = logits[rows, torch.tensor(near.label_adv)]
    assert (other >= logits[rows, y])[found].all()  # a tie is an error
    assert (near.label_adv != y.numpy())[found].all()
    away = (near.x_adv.double() - x.double()).flatten(1).numpy()
    order = 2 if near.norm == "L2" else np.inf
    assert np.allclose(near.distance[found], np.linalg.norm(away, order, axis=1)[found], rtol=1e-12)


@pytest.mark.parametrize("box", [None, (0.0, 1.0)])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(3, 16, 16), (3, 32, 32), (3, 224, 224)], ids=str)
def test_the_distance_of_a_linear_model_is_the_true_one(shape, norm, box):
    """Within 0.1 %, what the search promises; the answer is never below the truth."""
    x = images(1 if shape[1] == 224 else 3, shape)
    model = Linear(x)
    y = model(x).argmax(1)
    x, y = x[y == 0], y[y == 0]
    true = model.distances(x, norm, box)
    near = distance_to_error(model, x, y, norm=norm, box=box)
    assert np.all(near.distance <= true * 1.001)
    assert np.all(near.distance >= true * (1 - 1e-4))  # float32 weights and logits
    assert box is None or (near.x_adv.min() >= 0 and near.x_adv.max() <= 1)
    assert_seen(model, x, y, near)


def test_where_the_box_matters_the_distance_is_the_true_one():
    """Images on the edge of the box, so that most of the normal is cut off."""
    x = images(4).round()
    model = Linear(x[:1].expand(4, -1, -1, -1))
    y = model(x).argmax(1)
    x, y = x[y == 0], y[y == 0]
    for norm in NORMS:
        true, free = model.distances(x, norm, (0, 1)), model.distances(x, norm)
        assert np.all(true > 1.05 * free)
        near = distance_to_error(model, x, y, norm=norm, box=(0, 1))
        assert np.allclose(near.distance, true, rtol=1e-3)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("how", [{}, {"method": "pgd"}, {"method": "pgd", "eps": "search"}])
def test_batch_size_and_order_change_nothing(norm, how):
    model, x = Waves(), images(7)
    options = {"norm": norm, "restarts": 3, "seed": 5, **how}
    if how.get("method") == "pgd" and "eps" not in how:
        options["eps"] = 0.5 if norm == 2 else 0.1
    whole = distance_to_error(model, x, ids=torch.arange(10, 17), **options)
    assert np.isfinite(whole.distance).any()
    order = [4, 0, 6, 2]
    for batch_size in (1, 3, 64):
        part = distance_to_error(
            model, x[order], ids=torch.tensor(order) + 10, batch_size=batch_size, **options
        )
        assert torch.equal(part.x_adv, whole.x_adv[order])
        for name in ("distance", "label_adv", "restart", "step", "status"):
            assert np.array_equal(getattr(part, name), getattr(whole, name)[order])


def test_fixed_radius_does_not_depend_on_batches():
    model, x = Waves(), images(7)
    options = {"norm": 2, "restarts": 4, "steps": 20, "box": None}
    whole = pgd(model, x, eps=[0.2, 0.5, 1.0], **options)
    assert 0 < whole.fooled.sum() < whole.fooled.size
    for batch_size in (1, 5):
        again = pgd(model, x, eps=[1.0, 0.2, 0.5], batch_size=batch_size, **options)
        assert np.array_equal(again.fooled, whole.fooled)
        assert torch.equal(again.x_adv, whole.x_adv)
        assert np.array_equal(again.restart, whole.restart)


@pytest.mark.parametrize("backend", ["reference", "native"])
def test_backends_give_the_same_bits(backend):
    model, x = Waves(), images(5)
    for norm in NORMS:
        near = distance_to_error(model, x, norm=norm, restarts=2, backend=backend)
        expected = distance_to_error(model, x, norm=norm, restarts=2)
        assert near.provenance.backend == backend
        assert torch.equal(near.x_adv, expected.x_adv)


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
    monkeypatch.setattr(robustcore.evaluator, "select", lambda *_: broken)
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


@pytest.mark.parametrize("how", [{}, {"method": "pgd"}, {"method": "pgd", "eps": "search"}])
def test_targets(how):
    x, y = grey(2, (3, 8, 8))
    model = Slab(192, 0.4)
    near = distance_to_error(model, x, y, targets=[1, 2], **how)
    assert near.label_adv.tolist() == [1, 2]
    assert near.targets.tolist() == [1, 2]
    assert np.all(near.distance >= 0.4 * (1 - 1e-5))
    assert np.all(near.distance <= 0.4 * (1.001 if not how else 1.03))
    assert not torch.equal(near.x_adv[0], near.x_adv[1])


def test_an_image_already_in_the_wanted_class_is_at_distance_zero():
    x, _ = grey(1, (3, 8, 8))
    near = distance_to_error(Slab(192, 0.4), x, [1], targets=[0])
    assert near.status.tolist() == ["misclassified"]
    assert near.distance.tolist() == [0.0]


def test_misclassified_images_are_at_distance_zero_and_cost_nothing_more():
    model, x = Waves(), images(6)
    y = model(x).argmax(1)
    y[2] = (y[2] + 1) % 4
    near = distance_to_error(model, x, y)
    assert near.status[2] == "misclassified"
    assert near.distance[2] == 0
    assert near.n_backward[2] == 0
    assert near.label_adv[2] == model(x).argmax(1)[2]
    assert torch.equal(near.x_adv[2], x[2])
    assert_seen(model, x, y, near)
    result = pgd(model, x, y, eps=[1e-6], norm=2)
    assert result.fooled[:, 0].tolist() == [i == 2 for i in range(6)]


class Masked(nn.Module):
    """A linear model whose gradient is zero (rounding) or NaN."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.body = kind, HalfSpace(48, 0.3)

    def forward(self, x):
        if self.kind == "zero":
            return self.body((x * 255).round() / 255)
        return self.body(x + (x - x).sqrt())


@pytest.mark.parametrize("kind", ["zero", "nan"])
@pytest.mark.parametrize("how", [{}, {"method": "pgd"}, {"method": "pgd", "eps": "search"}])
def test_gradients_of_no_use_are_reported_and_not_called_robust(kind, how):
    x, y = grey(2, (3, 4, 4))
    near = distance_to_error(Masked(kind), x, y, **how)
    assert near.masked.all()
    assert np.isinf(near.distance).all()
    assert near.label_adv.tolist() == [-1, -1]
    result = pgd(Masked(kind), x, y, eps=0.01)
    assert result.masked.all()
    assert not result.fooled.any()


def test_what_is_robust_is_not_called_masked():
    x, y = grey(2, (3, 4, 4))
    result = pgd(HalfSpace(48, 0.3), x, y, eps=0.01, norm=2)
    assert not result.masked.any()
    near = distance_to_error(HalfSpace(48, 3.0), x, y, method="pgd", eps=0.5)
    assert near.status.tolist() == ["not_found"] * 2
    assert np.isinf(near.distance).all()


def test_more_restarts_and_more_effort_are_never_farther():
    model, x = Waves(), images(8)
    one = distance_to_error(model, x, effort=25)
    more = distance_to_error(model, x, effort=25, restarts=4)
    assert (more.distance <= one.distance).all()
    assert more.n_backward.sum() > one.n_backward.sum()
    radius = {"method": "pgd", "eps": 2.0, "steps": 30}
    first = distance_to_error(model, x, **radius)
    best = distance_to_error(model, x, **radius, restarts=3)
    assert (best.distance <= first.distance).all()
    assert set(best.restart.tolist()) > {0}


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_points_and_distances_are_those_of_the_callers_type(dtype):
    model, x = Waves().to(dtype), images(5).to(dtype)
    y = model(x).argmax(1)
    for how in ({}, {"method": "pgd", "eps": 2.0}):
        near = distance_to_error(model, x, y, **how)
        assert near.x_adv.dtype == dtype
        assert_seen(model, x, y, near)


def test_parameters_get_no_gradients_and_one_image_will_do():
    model = Small()
    near = distance_to_error(model, images(1, (3, 8, 8))[0])
    assert near.x_adv.shape == (1, 3, 8, 8)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert near.n_backward[0] + (near.n_forward - near.n_backward)[0] / 3 <= 62
    labels = model(images(1, (3, 8, 8))).argmax(1)
    assert near.labels.tolist() == labels.tolist()


def test_memory_that_runs_out_halves_the_batch():
    class Hungry(Waves):
        def forward(self, x):
            if len(x) > 4 and x.requires_grad:
                raise torch.OutOfMemoryError
            return super().forward(x)

    x = images(7)
    near = distance_to_error(Hungry(), x)
    assert torch.equal(near.x_adv, distance_to_error(Waves(), x).x_adv)
    assert any("out of memory" in note for note in near.provenance.notes)


class Detached(HalfSpace):
    def forward(self, x):
        return super().forward(x.detach())


BAD = {
    "norm must be 2 or inf": {"norm": 1},
    "norm must be 2 or inf .*'l7'": {"norm": "l7"},
    "method must be one of": {"method": "fast"},
    "effort must be at least": {"effort": 0},
    r"restarts must be in \[1, ": {"restarts": 0},
    "restarts must be an integer": {"restarts": 1.5},
    "eps must be left out": {"eps": 0.5},
    "steps must be left out": {"steps": 5},
    "eps must be positive": {"method": "pgd", "eps": 0.0},
    "eps must be positive and finite": {"method": "pgd", "eps": math.inf},
    "eps must be a number or 'search'": {"method": "pgd", "eps": "find"},
    "steps must be at least 1": {"method": "pgd", "steps": -1},
    "step_size must be positive": {"method": "pgd", "step_size": -0.1},
    "loss must be one of": {"method": "pgd", "loss": "hinge"},
    "y must be below the model's 3 classes": {"y": [0, 3]},
    "targets must differ from the labels": {"targets": [1, 0]},
    r"targets must lie in \[0, 3\)": {"targets": [1, 3]},
    "targets must have one class": {"targets": [1]},
    "targets must be integer": {"targets": [1.0, 2.0]},
    r"x must lie in the box \[0, 0.4\], ranged from 0.5": {"box": (0, 0.4)},
    "box must be": {"box": (1, 0)},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_refused_by_name(message):
    x, y = grey(2, (3, 8, 8))
    with pytest.raises((ValueError, TypeError), match=message):
        distance_to_error(Slab(192, 0.4), x, **{"y": y, **BAD[message]})


@pytest.mark.parametrize(
    ("message", "change"),
    [
        ("eps must be positive", {"eps": [0.1, -1.0]}),
        ("eps must be a number", {"eps": "search"}),
        ("steps must be at least 1", {"steps": 0}),
        (r"restarts must be in \[1, ", {"restarts": 0}),
        ("step_size must be positive", {"step_size": 0}),
        ("norm must be", {"norm": 0}),
        ("loss must be one of", {"loss": "mse"}),
        (r"x must lie in the box \[0, 1\]", {"x": grey(2, (3, 8, 8))[0] + 1}),
    ],
)
def test_bad_input_to_pgd_is_refused_by_name(message, change):
    x, y = grey(2, (3, 8, 8))
    with pytest.raises((ValueError, TypeError), match=message):
        pgd(Slab(192, 0.4), **{"x": x, "y": y, "eps": 0.1, **change})


def test_a_model_without_a_gradient_is_refused():
    x, y = grey(2, (3, 8, 8))
    for call in (distance_to_error, lambda *a: pgd(*a, eps=0.1)):
        with pytest.raises(ValueError, match=r"model must let gradients through .* error rate"):
            call(Detached(192, 0.4), x, y)


def test_norms_have_two_spellings():
    x, y = grey(1, (3, 8, 8))
    model = HalfSpace(192, 0.4)
    for spellings in ((2, "L2", "l2", 2.0), (math.inf, "Linf", "inf", np.inf)):
        results = [distance_to_error(model, x, y, norm=each) for each in spellings]
        assert len({r.norm for r in results}) == 1
        assert len({float(r.distance[0]) for r in results}) == 1


@pytest.mark.skipif(not DATA.exists(), reason="the data folder beside the checkout is absent")
@pytest.mark.parametrize("norm", NORMS)
def test_on_a_robust_network_sixty_gradients_come_close_to_many(norm):
    file = DATA / "models/cifar10/abcrown_cifar_cnn_a_adv4.model"
    weights = torch.load(file, map_location="cpu", weights_only=True)
    while not isinstance(weights, dict) or "state_dict" in weights:
        weights = weights["state_dict"] if isinstance(weights, dict) else weights[0]
    body = nn.Sequential(
        *(nn.Conv2d(3, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(2048, 100), nn.ReLU(), nn.Linear(100, 10)),
    )
    body.load_state_dict(weights)
    test = np.load(DATA / "cifar10/test.npz")
    pixels = torch.from_numpy(test["images"][:60].transpose(0, 3, 1, 2).copy()).float() / 255
    mean, std = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2471, 0.2435, 0.2616])

    def model(x):
        return body((x - mean.view(-1, 1, 1)) / std.view(-1, 1, 1))

    y = torch.from_numpy(test["labels"][:60].astype(np.int64))
    right = model(pixels).argmax(1) == y
    x, y = pixels[right], y[right]
    best = distance_to_error(model, x, y, norm=norm, effort=400, restarts=3)
    for effort, most in ((25, 1.04), (60, 1.02), (300, 1.01)):
        near = distance_to_error(model, x, y, norm=norm, effort=effort)
        nearest = np.minimum(best.distance, near.distance)
        assert np.mean(near.distance / nearest) <= most
        assert np.mean(near.n_backward + (near.n_forward - near.n_backward) / 3) <= effort + 2
