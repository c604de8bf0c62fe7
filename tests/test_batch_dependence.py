"""A model whose answer to one image depends on the rest of its batch, or varies, is noticed."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from models import Small
from torch import nn
from torch.nn import functional as F

import robustcore as rc
from robustcore.agreement import difference, ranges_of, same, same_at_other_size
from robustcore.evaluator import PROBE, Evaluator
from robustcore.network import SPREAD

NET = Small().eval()


def images(n: int, shape: tuple[int, int, int] = (3, 8, 8)) -> torch.Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(0))


def call(model, x, **options):
    return rc.error_rate(model, x, 0.05, samples=5, **options)


class BatchStatistics(nn.Module):
    """In evaluation mode, and normalises by its batch all the same."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return NET(F.batch_norm(x, None, None, training=True))


class Rank(nn.Module):
    """Each logit is its place among those of the batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return NET(x).argsort(0).argsort(0).float()


DEPENDENT = {
    "least and largest pixel": lambda t: NET((t - t.min()) / (t.max() - t.min())),
    "statistics of the batch": BatchStatistics().eval(),
    "largest pixel above 1": lambda t: NET(t / t.max().clamp(min=1)),
    "mean of the logits": lambda t: NET(t) - NET(t).mean(0),
    "mean of the images": lambda t: NET(t - t.mean(0)),
    "softmax over the batch": lambda t: NET(t).softmax(0),
    "largest logit": lambda t: NET(t) / NET(t).amax(),
    "order": Rank().eval(),
    "the neighbour": lambda t: NET(t) + 0.1 * NET(t.roll(1, 0)),
    "the neighbour's neighbour": lambda t: NET(t) + 0.1 * NET(t.roll(2, 0)),
    "the image across": lambda t: NET(0.9 * t + 0.1 * t.flip(0)),
    "place": lambda t: NET(t) * torch.linspace(1, 2, len(t))[:, None],
    "odd places": lambda t: NET(t) * (1 + torch.arange(len(t)) % 2)[:, None],
    "number of images": lambda t: NET(t) * len(t),
    "a common part": lambda t: NET(t - t.mean(0)) + 1e4,
    "a common part of each image": lambda t: NET(t - t.mean(0)) + 1e4 * t.mean((1, 2, 3))[:, None],
    "two classes with a common part": lambda t: NET(t - t.mean(0))[:, :2] + 1e4,
    "masked": lambda t: NET(t - t.mean(0)) - 1e4 * torch.tensor([0.0, 0, 0, 1, 1]),
}


@pytest.mark.parametrize("model", DEPENDENT.values(), ids=DEPENDENT)
@pytest.mark.parametrize(("n", "batch_size"), [(1, None), (6, None), (6, 3)])
def test_a_model_that_depends_on_its_batch_is_refused(model, n, batch_size):
    if batch_size == 3 and model is DEPENDENT["largest logit"]:
        pytest.skip("here the image has the largest logit of its batch: in one of three unseen")
    with pytest.raises(ValueError, match="model must judge each image by itself"):
        call(rc.Engine(model, batch_size=batch_size), images(n))


def test_dependence_on_the_largest_pixel_is_refused_where_images_are_full_range():
    x = images(3)
    x[:, 0, 0, :2] = torch.tensor([0.0, 1.0])
    with pytest.raises(ValueError, match="model must judge each image by itself"):
        call(DEPENDENT["least and largest pixel"], x)


def test_dependence_within_a_box_is_refused():
    x = 0.25 + images(3) / 2
    for measure in (
        rc.distance_to_error,
        lambda *a, **k: rc.error_rate(*a, 0.1, noise=rc.Gaussian((0, 1)), **k),
    ):
        with pytest.raises(ValueError, match="model must judge each image by itself"):
            measure(DEPENDENT["least and largest pixel"], x)


def test_what_leaves_the_box_is_not_shown_to_the_model():
    """A table of 256 levels holds nothing outside [0, 1], neither for attacks nor corruptions."""
    table = torch.linspace(0, 1, 256)

    def levels(t):
        assert float(t.detach().min()) >= 0
        assert float(t.detach().max()) <= 1
        return NET(F.adaptive_avg_pool2d(table[(t * 255).long()] + t - t.detach(), 8))

    call(levels, images(3), noise=rc.Gaussian((0, 1)))
    rc.pgd(levels, images(3), eps=0.1, steps=2)
    rc.corruption_benchmark(levels, images(3, (3, 32, 32)), corruptions="contrast", severities=1)


def test_one_image_at_a_time_is_no_batch():
    record = call(rc.Engine(DEPENDENT["mean of the images"], batch_size=1), images(3))
    assert record.n_samples.tolist() == [[5]] * 3


def autocast(t):
    with torch.autocast("cpu", torch.bfloat16):
        return NET(t).float()


def untrained(scale: float, classes: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, 2, 1),
            nn.GroupNorm(4, 16),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(16, classes),
        )
    for parameter in layers.parameters():
        parameter.data.mul_(scale)
    return layers.eval()


PROTOTYPES = torch.rand(5, 192, generator=torch.Generator().manual_seed(4))
INDEPENDENT = {
    "as it is": NET,
    "autocast": autocast,
    "small": untrained(1e-2, 10),
    "large": untrained(30.0, 10),
    "many classes": untrained(1.0, 1000),
    "constant": lambda t: torch.zeros(len(t), 3),
    "a common part": lambda t: NET(t) + 1e4,
    "a common part of each image": lambda t: NET(t) - 300 * t.flatten(1).sum(1)[:, None],
    "log-densities": lambda t: -(t.flatten(1)[:, None] - PROTOTYPES).square().sum(2) / 2e-4,
    "two classes, one always lower": lambda t: torch.stack(
        [NET(t)[:, 0].exp(), 0 * NET(t)[:, 1] - 5], 1
    ),
    "normalised by itself": lambda t: NET(
        (t - t.amin((1, 2, 3), True)) / (t.amax((1, 2, 3), True) - t.amin((1, 2, 3), True))
    ),
    "overflowing": lambda t: NET(t).exp().exp().exp(),
    "masked": lambda t: torch.cat([NET(t), torch.full((len(t), 3), -torch.inf)], 1),
    "NaN where it is bright": lambda t: NET(t).masked_fill(
        t.amax((1, 2, 3))[:, None] > 1, torch.nan
    ),
    "sorted and put back": lambda t: NET(t[torch.arange(len(t)).flip(0)]).flip(0),
}


@pytest.mark.parametrize("model", INDEPENDENT.values(), ids=INDEPENDENT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_a_model_that_judges_each_image_by_itself_passes(model, dtype):
    if isinstance(model, nn.Module):
        model = copy.deepcopy(model).to(dtype)
    elif dtype != torch.float32:
        pytest.skip("its network is of float32")
    for n in (1, 5):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            record = call(model, images(n).to(dtype))
        assert not record.provenance.randomized


# -- randomness ------------------------------------------------------------------------------


def dropped(t):
    return NET(F.dropout(t, 0.3))


EXTREME = {
    "nothing": lambda z: z,
    "a constant far below": lambda z: torch.cat([z, torch.full((len(z), 1), -1e4)], 1),
    "a constant far above": lambda z: torch.cat([z, torch.full((len(z), 1), 1e9)], 1),
    "masked by subtraction": lambda z: z - 1e6 * torch.tensor([0.0, 0, 0, 1, 1]),
    "masked by infinity": lambda z: z.masked_fill(
        torch.tensor([False] * 3 + [True] * 2), -torch.inf
    ),
    "NaN in one class": lambda z: torch.cat([z, torch.full((len(z), 1), torch.nan)], 1),
    "a large one that moves": lambda z: torch.cat([z, 1e6 * z[:, :1].detach().round()], 1),
    "small": lambda z: 1e-6 * z,
}


@pytest.mark.parametrize("change", EXTREME.values(), ids=EXTREME)
def test_dropout_is_announced_whatever_the_other_logits_are(change):
    torch.manual_seed(0)  # that of the dropout
    with pytest.warns(rc.RandomizedModelWarning, match="varies from call to call"):
        call(lambda t: change(dropped(t)), images(4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(lambda t: change(NET(t)), images(4))


@pytest.mark.parametrize("change", EXTREME.values(), ids=EXTREME)
def test_a_dependence_is_seen_whatever_the_other_logits_are(change):
    with pytest.raises(ValueError, match="model must judge each image by itself"):
        call(lambda t: change(NET(t - t.mean(0))), images(4))


def test_nan_that_comes_and_goes_is_randomness():
    calls = iter(range(100))

    def model(t):
        logits = NET(t)
        logits[:, 1] = torch.nan if next(calls) % 2 else 0.0
        return logits

    with pytest.warns(rc.RandomizedModelWarning):
        call(model, images(4))


def test_the_warning_names_the_callers_line():
    for measure in (
        lambda model: rc.error_rate(model, images(2), 0.1, samples=5),
        lambda model: rc.certify(model, images(2), sigma=0.1, n=50),
        lambda model: rc.distance_to_error(model, images(2)),
    ):
        with pytest.warns(rc.RandomizedModelWarning) as told:
            measure(dropped)
        assert {each.filename for each in told} == {__file__}


# -- dependence on the number of images alone ------------------------------------------------


def last_chunk(t):
    """Images in chunks of 16, of which the last one of several is judged otherwise."""
    *whole, last = t.split(16)
    return torch.cat([*map(NET, whole), NET(1 - 3 * last) if whole else NET(last)])


BY_SIZE = {
    "from 64 on": lambda t: NET(t) if len(t) < 64 else NET(0.5 * t),
    "from 17 on, all but the first": lambda t: NET(
        t * torch.where((len(t) < 17) | (torch.arange(len(t)) < 1), 1.0, 0.5).view(-1, 1, 1, 1)
    ),
    "at the full batch alone": lambda t: NET(t) * (1.0 if len(t) != 256 else 0.8),
    "in proportion": lambda t: NET(t * max(1.0, len(t) / 20)),
    "the last chunk": last_chunk,
}
LARGE = {
    "error_rate": lambda model: rc.error_rate(
        rc.Engine(model, batch_size=256), images(6), 0.05, samples=200
    ),
    "sigma": lambda model: rc.sigma_at_error_rate(
        rc.Engine(model, batch_size=256), images(6), 0.01, samples=400
    ),
    "certify": lambda model: rc.certify(
        rc.Engine(model, batch_size=256), images(6), sigma=0.05, n=300
    ),
    "distance": lambda model: rc.distance_to_error(
        rc.Engine(model, batch_size=256), images(256), effort=5
    ),
    "pgd": lambda model: rc.pgd(rc.Engine(model, batch_size=256), images(256), eps=0.01, steps=2),
}


@pytest.mark.parametrize("measure", LARGE.values(), ids=LARGE)
@pytest.mark.parametrize("model", BY_SIZE.values(), ids=BY_SIZE)
def test_a_model_that_depends_on_the_number_of_images_is_refused(model, measure):
    with pytest.raises(ValueError, match="model must judge each image by itself"):
        measure(model)


@pytest.mark.parametrize("measure", LARGE.values(), ids=LARGE)
def test_large_batches_of_a_model_that_judges_each_image_by_itself_pass(measure):
    measure(NET)
    measure(autocast)


def test_where_no_batch_is_as_large_as_that_nothing_is_refused():
    """The number of images matters from 64 on, and no number of the record comes from so many."""
    small = rc.error_rate(rc.Engine(NET, batch_size=63), images(6), 0.1, samples=50)
    same_here = BY_SIZE["from 64 on"]
    record = rc.error_rate(rc.Engine(same_here, batch_size=63), images(6), 0.1, samples=50)
    np.testing.assert_array_equal(record.n_errors, small.n_errors)


@pytest.mark.parametrize("edge", [0, 85, 170, 255])
def test_a_draw_at_the_edge_of_a_step_is_no_dependence(edge):
    """One of the four images compared falls on either side by rounding: its neighbours do not."""
    asked = []

    def stepped(t):
        steps = (50 * NET(t)).round()
        if len(t) == 256 and not asked:
            asked.append(len(t))
            steps[edge] += 500
        return steps

    LARGE["error_rate"](stepped)
    assert asked


# -- the comparisons and what they cost ------------------------------------------------------


def test_differences_are_relative_to_a_logits_own_size_and_range():
    ranges = ranges_of(torch.tensor([[1.0, 5.0, -1e4, 0.0], [3.0, 5.5, -1e4, 4.0]]))
    # less their medians, 0 and 3, the rows are 1, 5, -10000, 0 and 0, 2.5, -10003, 1
    assert ranges.tolist() == [1.0, 2.5, 3.0, 1.0]
    a = torch.tensor([[1.0, 5.0, -1e4, torch.nan]])
    b = torch.tensor([[1.0, 5.1, -1e4, torch.nan]])
    np.testing.assert_allclose(difference(a, b, ranges), [[0, 0.1 / (4.1 + 2.5), 0, 0]], rtol=2e-4)
    assert not same(a, b, ranges)
    assert same_at_other_size(a, b, ranges)
    assert difference(a, b.nan_to_num(), ranges)[0, 3] == torch.inf
    assert not same_at_other_size(a, 2 * b, ranges)


@pytest.mark.parametrize(("n", "batch_size"), [(1, None), (3, None), (9, None), (9, 3), (9, 1)])
@pytest.mark.parametrize("convolution", [True, False])
def test_every_evaluation_is_counted(n, batch_size, convolution):
    seen = []

    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = NET if convolution else None

        def forward(self, x):
            seen.append(len(x))
            return self.inner(x) if convolution else x.flatten(1)[:, :3]

    engine = Evaluator(rc.Engine(Counting().eval(), batch_size=batch_size), images(n))
    assert engine.n_forward.sum() == sum(seen)
    assert engine.n_forward.sum() <= n + 3 * PROBE + 2
    assert engine.n_forward.min() >= 1
    rows, draws = np.repeat(np.arange(n), 40), np.tile(np.arange(40), n)
    before = sum(seen)
    engine.margins(rows, np.full(len(rows), 0.1), draws)
    assert engine.n_forward.sum() == sum(seen)
    larger = 0 if engine.fused is not None or (batch_size or SPREAD + 1) <= SPREAD else SPREAD
    assert sum(seen) - before == (0 if engine.fused is not None else len(rows)) + larger
