"""Church windows: refinement against the full grid, planes whose shape is known, refusals."""

import math

import numpy as np
import pytest
import torch
from models import HalfSpace, Slab, Small, direction, grey
from scipy.special import ndtri

import robustcore as rc
from robustcore.evaluator import Evaluator
from robustcore.results.slices import linf_trace
from robustcore.slices.grid import Grid
from robustcore.slices.regions import edge, region_of, regions

# -- refinement --------------------------------------------------------------------------------


def refined(maps, coarse, margin=None):
    """What Grid makes of windows whose every node, past the last too, is in `maps` (B, M, M)."""
    size = maps.shape[1] - coarse
    grid = Grid(len(maps), size, coarse)
    margin = np.zeros(maps.shape) if margin is None else margin
    while len((plan := grid.plan())[0]):
        assert (grid.classes[plan] < 0).all()  # nothing is asked for twice
        grid.update(maps[plan], margin[plan])
    return grid, maps[:, :size, :size]


def discs(windows, side, seed=0):
    """Classes of planes cut by a few large circles."""
    random = np.random.default_rng(seed)
    at = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), -1)
    out = np.zeros((windows, side, side), np.int64)
    for window in out:
        for label in range(1, 5):
            centre, radius = random.uniform(-0.3, 1.3, 2) * side, random.uniform(0.2, 0.6) * side
            window[np.linalg.norm(at - centre, axis=-1) < radius] = label
    return out


@pytest.mark.parametrize("coarse", [4, 8, 16])
@pytest.mark.parametrize("size", [100, 113, 129])
def test_refinement_gives_the_full_grid(coarse, size):
    grid, full = refined(discs(20, size + coarse), coarse)
    classes, _ = grid.filled()
    # circles meet at points, where a sliver may fall between nodes: at most 1 node in 1,000
    assert (classes != full).mean() < 1e-3
    assert grid.evaluated.mean() < 0.4
    assert grid.n_evaluated.sum() >= grid.evaluated.sum()


def test_step_one_evaluates_everything():
    grid, full = refined(discs(3, 41), 1)
    assert grid.evaluated.all()
    assert (grid.filled()[0] == full).all()
    assert (grid.n_evaluated == 40 * 40).all()


def test_a_boundary_is_followed_through_cells_whose_corners_agree():
    maps = np.zeros((1, 81, 81), np.int64)
    maps[0, 3:6] = 1  # a band between the lattice's lines 0 and 16
    blind, _ = refined(maps, 16)
    assert not blind.filled()[0].any()  # no node of the lattice met it: the limit that is stated
    maps[0, :6, 30:34] = 1  # now node (0, 32) does, at one place
    seen, full = refined(maps, 16)
    assert (seen.filled()[0] == full).all()


def test_margins_between_nodes_are_interpolated():
    maps = discs(2, 81)
    i, j = np.meshgrid(np.arange(81), np.arange(81), indexing="ij")
    plane = np.stack([2.0 * i - j, 0.5 * i + j]).astype(float)
    grid, _ = refined(maps, 16, plane)
    assert np.allclose(grid.filled()[1], plane[:, :65, :65], atol=1e-4)
    assert not grid.evaluated.all()


# -- regions -----------------------------------------------------------------------------------


def test_an_edge_is_fitted_to_the_fraction_of_a_node():
    nodes = np.linspace(-1, 1, 41)
    up, across = np.meshgrid(nodes, nodes, indexing="ij")
    height = 0.313 - up * math.cos(0.3) - across * math.sin(0.3)  # positive: right
    found = edge(height <= 0, height, nodes, 0.9)
    assert found.distance == pytest.approx(0.313, abs=1e-9)
    assert found.degrees == pytest.approx(math.degrees(0.3), abs=1e-6)
    assert found.largest < 1e-9
    bent = height + 0.2 * across**2
    assert edge(bent <= 0, bent, nodes, 0.9).rms > 0.01
    assert math.isnan(edge(height > 9, height, nodes, 0.9).rms)


def test_regions_touch_along_rows_and_columns_only():
    wrong = np.zeros((6, 6), bool)
    wrong[0, :3] = wrong[1, 3] = wrong[5, 5] = True
    labels = regions(wrong)
    assert labels.max() == 3
    assert region_of(labels, np.array([0.4, 1.2])) == labels[0, 1]
    assert region_of(labels, np.array([2.9, 0.0])) == 0  # farther than REACH from any


@pytest.mark.parametrize("seed", [0, 1])
def test_trace_of_the_linf_ball(seed):
    axes = np.linalg.qr(np.random.default_rng(seed).normal(size=(50, 2)))[0].T
    corners = linf_trace(axes, 0.1)
    assert np.abs(corners @ axes).max(1) == pytest.approx(np.full(len(corners), 0.1))
    middles = (corners + np.roll(corners, 1, 0)) / 2  # edges lie on the ball's surface too
    assert np.abs(middles @ axes).max(1) == pytest.approx(np.full(len(corners), 0.1))
    assert (np.abs(1.001 * corners @ axes).max(1) > 0.1).all()


# -- windows -----------------------------------------------------------------------------------


def windows(model, x, y=None, **more):
    return rc.church_windows(model, x, y, **{"size": 65, **more})


def test_a_half_space_is_seen_as_one():
    n, distance, sigma = 48, 0.3, 0.15
    model, (x, y) = HalfSpace(n, distance), grey(3, (3, 4, 4))
    record = windows(model, x, y, sigma=sigma, samples=2000)
    assert record.drawn.all()
    assert record.connected.all()
    assert record.edge_distance == pytest.approx(np.full(3, distance), rel=1e-3)
    assert (record.edge_degrees < 0.5).all()
    assert (record.bend < 1e-4).all()
    assert (record.point_labels == 1).all()
    assert record.radius == pytest.approx(np.full(3, sigma * math.sqrt(n)))
    # the prediction is that of the count; 2,000 draws leave it within 5 % of the truth
    assert record.half_space_distance == pytest.approx(-sigma * ndtri(record.class_rate))
    assert record.half_space_distance == pytest.approx(np.full(3, distance), rel=0.05)
    up = record.nodes[0] >= distance
    assert (record.classes[0] == up[:, None]).mean() > 0.98


def test_the_noise_error_is_a_draw_that_error_rate_counts():
    model, (x, y) = HalfSpace(48, 0.3), grey(2, (3, 4, 4))
    record = windows(model, x, y, sigma=0.15, samples=100)
    rates = rc.error_rate(model, x, 0.15, y, samples=100)
    assert record.error_rate.tolist() == rates.rate[:, 0].tolist()
    axes = [np.asarray(axis, float) for axis in (record.axis_across, record.axis_up)]
    for i in range(2):
        point = sum(c * axis[i] for c, axis in zip(record.points[i, 0], axes, strict=True))
        draws = [rc.noisy_copies(x, 0.15, sample=k)[i, 0] for k in range(100)]
        wrong = next(each for each in draws if int(model(each[None]).argmax()) != 0)
        assert np.allclose(point, (wrong - x[i]).numpy(), atol=1e-5)


@pytest.mark.usefixtures("batches_not_compared")
def test_the_first_noise_error_names_the_class_that_is_attacked_and_all_is_counted():
    """Of a slab errors are of two classes. PGD's radii: 8.53 sigma, up to a power of two."""
    model, (x, y), sigma, samples = Slab(48, 0.5), grey(2, (3, 4, 4)), [0.3, 0.2], 200
    record = windows(model, x, y, sigma=sigma, samples=samples, size=20, rate=0.1)
    before = Evaluator(model, x, y).n_forward
    for i, eps in enumerate([4.0, 2.0]):
        draws = [rc.noisy_copies(x, sigma[i], sample=k)[i, 0] for k in range(samples)]
        classes = model(torch.stack(draws)).argmax(1)
        errors = classes[classes > 0]
        assert errors[0] != errors[-1]
        assert record.class_rate[i] == int((classes == errors[0]).sum()) / samples
        assert record.error_rate[i] == len(errors) / samples
        attack = rc.distance_to_error(
            rc.Engine(model, progress=False),
            x[i : i + 1],
            y[i],
            method="pgd",
            eps=eps,
            targets=errors[:1],
            ids=[i],
        )
        set_up = Evaluator(model, x[i : i + 1], y[i]).n_forward[0] - 1
        axes = [np.asarray(axis, float)[i] for axis in (record.axis_across, record.axis_up)]
        point = sum(c * axis for c, axis in zip(record.points[i, 1], axes, strict=True))
        assert np.allclose(point, (attack.x_adv[0] - x[i]).numpy(), atol=1e-5)
        # each draw, each error's class, each node and both points, once
        own = samples + len(errors) + record.n_evaluated[i] + 2
        # the window's attack finds the engine set up, this one made its own
        assert record.n_forward[i] == before[i] + own + attack.n_forward[0] - set_up
        assert record.n_backward[i] == attack.n_backward[0]


def test_two_sides_of_a_slab_are_not_connected():
    model, (x, y) = Slab(48, 0.3), grey(1, (3, 4, 4))
    w, aside = direction(48).float(), direction(48, seed=1).float()
    over, under = ((0.5 + s * 0.35 * w + 0.05 * aside).view(1, 3, 4, 4) for s in (1, -1))
    far = (0.5 + 0.35 * w + 0.5 * aside).view(1, 3, 4, 4)
    apart = windows(model, x, y, across=under, up=over, sigma=0.1)
    assert not apart.connected[0]
    assert windows(model, x, y, across=far, up=over, sigma=0.1).connected[0]
    assert apart.across == apart.up == "given"


def test_refined_windows_of_a_network_are_those_of_the_full_grid():
    model, x, y = rc.load_example("cifar10-natural", images=2)
    shared = {"sigma": 0.05, "samples": 100, "size": 49}
    engine = rc.Engine(model, compile=False)
    mine, full = (windows(engine, x[:1], y[:1], coarse=c, **shared) for c in (8, 1))
    assert mine.drawn.all()
    assert (mine.classes == full.classes).mean() >= 0.999
    assert full.evaluated.all()
    assert mine.evaluated.mean() < 0.5
    assert (mine.n_forward < full.n_forward).all()
    assert mine.connected.tolist() == full.connected.tolist()


def test_a_window_does_not_depend_on_the_others():
    model = Small().eval()
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    shared = {"sigma": [0.2, 0.3, 0.1, 0.4], "samples": 300}
    together = windows(model, x, **shared)
    assert together.drawn.sum() >= 2
    assert together.axis_across.is_contiguous()  # although the model takes channels last
    assert together.axis_up.is_contiguous()
    for i in np.flatnonzero(together.drawn)[:2]:
        engine = rc.Engine(model, batch_size=7)
        alone = windows(engine, x[i], sigma=shared["sigma"][i], samples=300, ids=[int(i)])
        assert np.array_equal(alone.classes[0], together.classes[i])
        assert alone.points[0] == pytest.approx(together.points[i], abs=1e-5)
        assert alone.n_evaluated[0] == together.n_evaluated[i]


class Holed(Slab):
    """A slab with NaN for its last logit, or its own, where one pixel is off."""

    def __init__(self, column, far):
        super().__init__(48, 0.5)
        self.column, self.far = column, far

    def forward(self, x):
        logits = super().forward(x).clone()
        hole = (x.flatten(1)[:, 0] - 0.5).abs() > self.far
        logits[:, self.column] = logits[:, self.column].masked_fill(hole, torch.nan)
        return logits


@pytest.mark.parametrize("column", [0, 2])
def test_nodes_and_draws_with_nan_have_no_class(column):
    x, y = grey(2, (3, 4, 4))
    plain = windows(Slab(48, 0.5), x, y, sigma=0.3, up="orthogonal", coarse=1)
    record = windows(Holed(column, 0.5), x, y, sigma=0.3, up="orthogonal", coarse=1)
    assert record.drawn.all()
    off = record.classes == -1
    assert 0 < off.mean() < 1
    assert (record.classes[~off] >= 0).all()
    assert (record.error_rate >= plain.error_rate).all()
    assert (record.class_rate < record.error_rate).all()
    assert (record.point_labels[:, 0] >= 1).all()  # the noise error has a class
    nowhere = windows(Holed(column, 1e-6), x, y, sigma=0.1, up="orthogonal")
    assert (nowhere.status == "no_noise_error").all()
    assert (nowhere.error_rate == 1).all()


def test_images_without_a_window_say_why():
    model, (x, y) = HalfSpace(48, 3.0), grey(3, (3, 4, 4))
    y[0] = 1
    record = windows(model, x, y, sigma=[0.1, 0.1, 2.5], samples=200)
    assert record.status.tolist() == ["misclassified", "no_noise_error", "drawn"]
    assert (record.classes[:2] == -1).all()
    assert np.isnan(record.edge_rms[:2]).all()
    assert record.n_evaluated[:2].tolist() == [0, 0]
    near = windows(model, x[1:], y[1:], across="orthogonal", sigma=0.1)  # the ball has radius 1
    assert near.status.tolist() == ["no_adversarial_error"] * 2
    assert "no_adversarial_error" in repr(near)
    often = HalfSpace(48, 0.2)  # without a gradient, so that noise errs and no attack finds that

    def silent(t):
        return (1e4 * often(t)).round()

    none = windows(silent, x[1:], y[1:], sigma=0.2, samples=200)
    assert none.status.tolist() == ["no_adversarial_error"] * 2
    assert ((none.class_rate > 0.05) & (none.class_rate < 0.3)).all()  # Phi(-1) is 0.16
    assert np.isnan(none.half_space_distance).all()


@pytest.mark.usefixtures("batches_not_compared")
def test_sigma_is_found_where_none_is_given_and_taken_from_a_record():
    model, (x, y) = HalfSpace(48, 0.3), grey(2, (3, 4, 4))
    found = rc.sigma_at_error_rate(model, x, 0.05, y)
    record = windows(model, x, y, rate=0.05)
    assert record.sigma.tolist() == found.sigma.tolist()
    given = windows(model, x, y, sigma=found)
    assert given.sigma.tolist() == found.sigma.tolist()
    set_up = Evaluator(model, x, y).n_forward - 1  # once for both, in the window
    assert ((record.n_forward - given.n_forward) == found.n_forward - set_up).all()
    with pytest.raises(ValueError, match="sigma must hold the ids of x"):
        windows(model, x, y, sigma=found, ids=[4, 5])


def test_a_direction_at_right_angles():
    model, (x, y) = HalfSpace(48, 0.3), grey(2, (3, 4, 4))
    record = windows(model, x, y, across="orthogonal", sigma=0.15)
    assert record.points[:, 0, 0] == pytest.approx(record.points[:, 0, 0].clip(0.1))
    assert not record.connected.any()  # that point is no error
    flipped = windows(model, x, y, across="noise", up="orthogonal", sigma=0.15)
    assert np.allclose(flipped.points[:, 0, 1], 0, atol=1e-9)
    dot = (flipped.axis_across * flipped.axis_up).flatten(1).sum(1)
    assert dot.abs().max() < 1e-5


def test_a_record_is_saved_and_read_back(tmp_path):
    model, (x, y) = HalfSpace(48, 0.3), grey(2, (3, 4, 4))
    record = windows(model, x, y, sigma=0.15)
    record.save(tmp_path / "slices.npz")
    again = rc.SliceResult.load(tmp_path / "slices.npz")
    assert np.array_equal(again.classes, record.classes)
    assert np.array_equal(again.linf_ball(0, 0.03), record.linf_ball(0, 0.03))
    assert again.columns()["share_evaluated"].tolist() == record.share_evaluated.tolist()
    assert "connected" in repr(again[0])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"size": 1}, r"size must be in \[2, 1000\], was 1"),
        ({"size": 1001}, r"size must be in \[2, 1000\], was 1001"),
        ({"coarse": 12}, "coarse must be a power of two, was 12"),
        ({"extent": 0}, "extent must be positive and finite"),
        ({"across": "sideways"}, "across must be one of noise, adversarial, orthogonal"),
        ({"across": "noise", "up": "noise"}, "across and up must differ"),
        ({"attack": "guess"}, "attack must be one of minimum, pgd"),
        ({"sigma": 0}, "sigma must be above 0, one was 0"),
        ({"sigma": [0.1] * 3}, "sigma must be one, or one for each of 2 inputs, were 3"),
        ({"sigma": float("nan")}, "sigma must be finite"),
        ({"samples": 0}, "samples must be"),
        ({"up": torch.zeros(2, 3, 5, 5)}, "up must be floating-point points of x's shape"),
        ({"up": torch.full((2, 3, 4, 4), torch.nan)}, "up must be finite points"),
        ({"across": torch.ones(2, 3, 4, 4), "up": torch.ones(2, 3, 4, 4)}, "span a plane"),
        ({"up": torch.full((2, 3, 4, 4), 0.5)}, "span a plane"),
    ],
)
def test_bad_input_is_named(more, message):
    model, (x, y) = HalfSpace(48, 0.3), grey(2, (3, 4, 4))
    with pytest.raises(ValueError, match=message):
        windows(model, x, y, **{"sigma": 0.15, **more})


# -- noisy copies ------------------------------------------------------------------------------


def test_noisy_copies_are_the_draws_that_are_counted():
    model = Small().eval()
    x = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    y = model(x).argmax(1)
    rates = rc.error_rate(model, x, [0.1, 0.4], y, samples=20, seed=5)
    draws = [rc.noisy_copies(x, [0.1, 0.4], sample=k, seed=5) for k in range(20)]
    wrong = sum((model(d.flatten(0, 1)).argmax(1).view(3, 2) != y[:, None]).long() for d in draws)
    assert wrong.tolist() == rates.n_errors.tolist()
    assert torch.equal(rc.noisy_copies(x, 0.0)[:, 0], x)
    assert float(rc.noisy_copies(x, 1.0, noise=rc.Gaussian((0, 1))).max()) == 1.0
    with pytest.raises(ValueError, match="sample must be"):
        rc.noisy_copies(x, 0.1, sample=-1)
