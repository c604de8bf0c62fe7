"""The nearest error: closed forms and laws."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from distance_models import NORMS, Linear, Waves, assert_seen, images
from models import Slab, Small, grey
from torch import nn

from robustcore.attack import Found
from robustcore.distance import distance_to_error, pgd
from robustcore.engine import Engine
from robustcore.zoo import load_example

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


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


@pytest.mark.parametrize("shape", [(3, 4, 4), (3, 16, 16), (3, 224, 224)], ids=str)
def test_where_the_box_matters_the_distance_is_the_true_one(shape):
    """Images on the edge of the box, so that most of the normal is cut off."""
    count = 1 if shape[1] == 224 else 4
    x = images(count, shape).round()
    model = Linear(x[:1].expand(count, -1, -1, -1))
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
            Engine(model, batch_size=batch_size), x[order], ids=torch.tensor(order) + 10, **options
        )
        assert torch.equal(part.x_adv, whole.x_adv[order])
        for name in ("distance", "label_adv", "restart", "step", "status"):
            assert np.array_equal(getattr(part, name), getattr(whole, name)[order])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("unit", "most"), [(nn.Softplus, 1e-4), (nn.ReLU, 1e-2)])
def test_the_search_multiplies_no_rounding_but_by_kinks_of_the_model(unit, most, norm):
    """A change of the images by four units of rounding moves the gradients of a smooth network as
    little; a ReLU near its kink turns one on or off, and the search with it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        layers = nn.Sequential(nn.Flatten(), nn.Linear(48, 60), unit(), nn.Linear(60, 6))
    x = images(12)
    base = distance_to_error(lambda z: layers(z), x, norm=norm)
    near = distance_to_error(lambda z: layers(z * (1 + 2.0**-21)), x, base.labels, norm=norm)
    np.testing.assert_allclose(near.distance, base.distance, rtol=most)
    alone = distance_to_error(Engine(lambda z: layers(z), batch_size=1), x, norm=norm)
    np.testing.assert_allclose(alone.distance, base.distance, rtol=most)


def test_of_equal_distances_the_lowest_restart_is_kept_in_any_order():
    rows = torch.tensor([0, 0, 0, 1])
    distance = torch.tensor([0.5, 0.5, 0.7, 0.2], dtype=torch.float64)
    restart, points = torch.tensor([2, 1, 0, 0]), torch.arange(4.0)[:, None]
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 0, 3, 2]):
        for parts in (1, 4):
            empty = torch.full((2,), -1)
            far = torch.full((2,), torch.inf, dtype=torch.float64)
            found = Found(far, torch.zeros(2, 1), empty, empty.clone(), empty.clone())
            for at in torch.tensor(order).chunk(parts):
                found.keep(rows[at], distance[at], points[at], at, restart[at], at)
            assert found.restart.tolist() == [1, 0]
            assert found.point.flatten().tolist() == [1.0, 3.0]
            assert found.distance.tolist() == [0.5, 0.2]


@pytest.mark.parametrize("backend", ["reference", "native"])
def test_backends_give_the_same_bits(backend):
    model, x = Waves(), images(5)
    for norm in NORMS:
        near = distance_to_error(Engine(model, backend=backend), x, norm=norm, restarts=2)
        expected = distance_to_error(model, x, norm=norm, restarts=2)
        assert near.provenance.backend == backend
        assert torch.equal(near.x_adv, expected.x_adv)


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


def test_gradients_in_noise_step_over_dents(monkeypatch):
    """The negative control is the same search without noise: 1.9 times as far when written."""
    model, x, y = load_example("mnist-adv", 20)
    with_noise = distance_to_error(model, x, y, box=(0, 1), effort=60).distance
    assert np.isfinite(with_noise).all()
    search = importlib.import_module("robustcore.attack.minimum_norm")
    monkeypatch.setattr(search, "NOISE", {2: (0.0,)})
    without = distance_to_error(model, x, y, box=(0, 1), effort=60).distance
    assert with_noise.mean() < 0.8 * without.mean()


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
    pixels = torch.from_numpy(test["images"][:40].transpose(0, 3, 1, 2).copy()).float() / 255
    mean, std = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2471, 0.2435, 0.2616])

    def model(x):
        return body((x - mean.view(-1, 1, 1)) / std.view(-1, 1, 1))

    y = torch.from_numpy(test["labels"][:40].astype(np.int64))
    right = model(pixels).argmax(1) == y
    x, y = pixels[right], y[right]
    best = distance_to_error(model, x, y, norm=norm, effort=400, restarts=2)
    for effort, most in ((25, 1.04), (60, 1.02), (300, 1.01)):
        near = distance_to_error(model, x, y, norm=norm, effort=effort)
        nearest = np.minimum(best.distance, near.distance)
        assert np.mean(near.distance / nearest) <= most
        assert np.mean(near.n_backward + (near.n_forward - near.n_backward) / 3) <= effort + 2
