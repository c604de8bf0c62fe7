"""The kernels of the corruptions: C++ or Triton against torch, and all against theory.

Triton's interpreter is chosen when triton is imported, so test_corruptions_triton.py runs the tests
that use `fast` again, in a process of its own, with TRITON_INTERPRET=1.
"""

import importlib
import itertools

import numpy as np
import pytest
import torch
from elsewhere import DEVICE, INTERPRETED, Elsewhere
from scipy import stats

from robustcore.corruptions import NAMES, corrupt, native, reference
from robustcore.corruptions.kernels import BACKENDS, Bands, Draw, select
from robustcore.kernels import unavailable

BODIES = [native, reference]
DRAW = Draw(seed=2**40 + 3, stream=300, sample=17)
IDS = torch.tensor([0, 7, 2**32 - 1])


@pytest.fixture(scope="module")
def fast():
    if not INTERPRETED and DEVICE == "cpu":
        return native
    return Elsewhere(importlib.import_module("robustcore.corruptions.triton"))


@pytest.fixture
def random():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("n", [1, 3, 4, 1000, 16385])
def test_uniforms_have_the_same_bits(fast, n):
    mine, theirs = (body.uniforms(IDS, n, DRAW) for body in (fast, reference))
    assert torch.equal(mine, theirs)
    assert mine.shape == (3, n)
    assert mine.min() > 0
    assert mine.max() < 1


@pytest.mark.parametrize("body", BODIES)
def test_draws_are_those_of_the_ids_whatever_their_strides(body):
    apart = torch.arange(40_000)[::2]  # a copy of them is given back to the system when it is freed
    ids = apart.clone()
    mean = torch.full((len(ids), 3), 20.0)
    for draw in (
        lambda ids: body.uniforms(ids, 3, DRAW),
        lambda ids: body.poisson(mean, ids, DRAW),
        lambda ids: body.shuffle_order(ids, (3, 3), 1, 1, DRAW),
    ):
        assert torch.equal(draw(apart), draw(ids))
        assert not torch.equal(draw(apart), draw(ids.flip(0)))


@pytest.mark.parametrize("body", BODIES)
def test_uniforms_are_uniform(body):
    """False alarm: 1 in 1,000 by Kolmogorov and Smirnov; a slight bend is seen."""
    u = body.uniforms(torch.tensor([1]), 100_000, DRAW).double().numpy()[0]
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    assert stats.kstest(u**1.02, "uniform").pvalue < 1e-3


def test_counts_agree_but_for_a_rounding(fast, random):
    mean = torch.rand(3, 20_000, generator=random) ** 3 * 500
    mean[:, :100] = 0.0
    mine, theirs = (body.poisson(mean, IDS, DRAW) for body in (fast, reference))
    assert (mine != theirs).sum() <= 1
    assert (mine[:, :100] == 0).all()


@pytest.mark.parametrize("mean", [0.3, 3.0, 9.99, 10.0, 33.3, 500.0])
def test_counts_are_poisson(fast, mean):
    """False alarm: 1 in 1,000 for each mean, by chi squared; a mean 3 % off is seen."""
    n = 100_000
    counts = fast.poisson(torch.full((1, n), mean), torch.tensor([4]), DRAW)[0].numpy()

    def p_value(law):
        edges = np.unique(law.ppf(np.linspace(0.01, 0.99, 25)))
        cut = np.concatenate([[-np.inf], edges, [np.inf]])
        return stats.chisquare(np.histogram(-counts, -cut[::-1])[0], expected(law, cut)).pvalue

    def expected(law, cut):
        return n * np.diff(law.cdf(cut))[::-1]

    assert p_value(stats.poisson(mean)) > 1e-3
    assert p_value(stats.poisson(mean * 1.03)) < 1e-3


@pytest.mark.parametrize(("reach", "passes"), [(1, 1), (4, 2), (2, 3)])
def test_orders_are_the_same_and_keep_to_their_reach(fast, reach, passes):
    mine, theirs = (
        body.shuffle_order(IDS, (37, 33), reach, passes, DRAW) for body in (fast, reference)
    )
    assert torch.equal(mine, theirs)
    assert not torch.equal(mine[0], mine[1])
    y, x = mine // 33, mine % 33
    here_y, here_x = torch.arange(37)[:, None], torch.arange(33)
    first_row = y.view(3, 37, 33)[:, 0]
    assert (first_row == 0).all()
    assert (x.view(3, 37, 33)[:, :, 0] == 0).all()
    if passes == 1:
        far = torch.maximum((y.view(3, 37, 33) - here_y).abs(), (x.view(3, 37, 33) - here_x).abs())
        assert far.max() > 0
        assert far.float().mean() < 2 * reach + 1


@pytest.mark.parametrize("border", ["edge", "mirror"])
@pytest.mark.parametrize("shape", [(3, 1, 5, 37), (3, 3, 32, 70)])
def test_taps_agree(fast, random, border, shape):
    x = torch.rand(shape, generator=random)
    dy, dx = (torch.randint(-9, 10, (3, 21), generator=random) for _ in range(2))
    weight = torch.rand(3, 21, generator=random)
    mine, theirs = (body.taps(x, dy, dx, weight, border) for body in (fast, reference))
    assert torch.equal(mine, theirs)
    apart = (each.repeat_interleave(2, -1)[..., ::2] for each in (x, dy, dx, weight))
    assert torch.equal(fast.taps(*apart, border), theirs)


def test_one_tap_moves_the_image(fast):
    x = torch.arange(20.0).view(1, 1, 4, 5)
    one = torch.ones(1, 1, dtype=torch.int64)
    for body in (fast, reference):
        out = body.taps(x, one, -one, torch.ones(1, 1), "edge")
        assert out[0, 0, ::3].tolist() == [[5, 5, 6, 7, 8], [15, 15, 16, 17, 18]]


@pytest.mark.parametrize("terms", [1, 3])
def test_separable_agrees_with_the_product(random, terms):
    generator = np.random.default_rng(0)

    def bands(m, n):
        matrix = generator.random((terms, m, n)) * (generator.random((terms, m, n)) < 0.2)
        matrix[:, 0] = 0  # a row of nothing
        return Bands(matrix), torch.tensor(matrix)

    (rows, a), (columns, b) = bands(45, 40), bands(35, 70)
    x = torch.rand(6, 40, 70, generator=random)
    exact = sum(left @ x.double() @ right.T for left, right in zip(a, b, strict=True))
    for body in BODIES:
        out = body.separable(x, rows, columns)
        torch.testing.assert_close(out.double(), exact, atol=3e-5, rtol=1e-5)


def test_bands_are_no_wider_than_what_is_not_zero():
    eye = Bands(np.eye(5)[None])
    assert eye.low.tolist() == [[0, 1, 2, 3, 4]]
    assert eye.weight.tolist() == [[[1.0]] * 5]
    matrix = np.array([[0, 0, 0, 0.0], [0, 2, 0, 3], [0, 0, 0, 4], [5, 6, 0, 0]])
    three = Bands(matrix[None])
    assert three.low.tolist() == [[0, 1, 1, 0]]  # within the matrix
    assert three.weight.tolist() == [[[0, 0, 0], [2, 0, 3], [0, 0, 4], [5, 6, 0]]]
    assert torch.equal(three.dense(torch.device("cpu")), torch.tensor(matrix[None]).float())


def test_spread_agrees(random):
    x = torch.rand(4, 9, 13, generator=random)
    rows, columns = (torch.arange(n, dtype=torch.int32) * m // n for n, m in ((20, 9), (37, 13)))
    mine, theirs = (body.spread(x, rows, columns) for body in BODIES)
    assert torch.equal(mine, theirs)
    assert mine.shape == (4, 20, 37)
    assert mine[1, 19, 36] == x[1, 8, 12]
    with pytest.raises(ValueError, match=r"rows must lie in \[0, 9\); got 9"):
        native.spread(x, rows + 1, columns)


def test_wet_edges_agree(random):
    smooth = torch.nn.functional.avg_pool2d(torch.rand(4, 1, 60, 75, generator=random), 5, 1)
    layer = (smooth[:, 0] * 255).byte()
    layer = torch.where(layer < 128, 0, layer)
    layer[3] = 0  # no edge anywhere
    mine, theirs = (body.wet_edges(layer) for body in BODIES)
    assert torch.equal(mine, theirs)
    assert mine[:3].amax((1, 2)).min() > 100


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("severity", [2, 5])
def test_backends_make_the_same_images(fast, random, name, severity):
    x = torch.rand(2, 3, 40, 44, generator=random)
    places = {each: "cpu" for each in BACKENDS if unavailable(each, "cpu") is None}
    places.setdefault(fast.__name__.split(".")[-1], DEVICE)
    first, *others = (
        corrupt(x.to(place), name, severity, backend=each).cpu() for each, place in places.items()
    )
    for other in others:  # a sum of blurs or of displacements is rounded in another order
        torch.testing.assert_close(first, other, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (40, 50), (224, 80)])
def test_jpeg_is_pillows(random, size):
    """Smooth images, noise, and extremes, at every kind of quality: the same bytes."""
    smooth = torch.nn.functional.interpolate(torch.rand(3, 3, 7, 9, generator=random), size)
    x = torch.cat([smooth, torch.rand(2, 3, *size, generator=random)])
    x = torch.cat([x, (x > 0.5).float()])
    for quality, add in itertools.product((1, 7, 25, 49, 50, 85, 95, 100), (1e-3, 0.5)):
        mine, theirs = (body.jpeg(x, quality, add) for body in BODIES)
        assert torch.equal(mine, theirs), quality


# -- refusals ---------------------------------------------------------------------------------


def test_a_backend_that_cannot_run_says_why():
    with pytest.raises(RuntimeError, match=r"must run on cuda, was 'native': .* runs on cpu only"):
        select("native", torch.device("cuda"))
    with pytest.raises(RuntimeError, match=r"must run on mps, was 'triton': .* not on mps"):
        select("triton", torch.device("mps"))
    assert select(None, torch.device("mps")).name == "torch"
    assert select(None, torch.device("cpu")).name == "native"


def test_native_refuses_what_would_leave_its_memory():
    x = torch.rand(2, 3, 32, 32)
    taps = torch.zeros(2, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match="dy must be"):
        native.taps(x, taps[:1], taps, torch.rand(2, 4), "edge")
    with pytest.raises(ValueError, match="weight must be"):
        native.taps(x, taps, taps, torch.rand(2, 4).double(), "edge")
    with pytest.raises(ValueError, match="rows and columns must be"):
        native.separable(x[0], Bands(np.eye(32)[None]), Bands(np.eye(31)[None]))
    with pytest.raises(ValueError, match="reach must be"):
        native.shuffle_order(IDS, (32, 32), 16, 1, DRAW)
    with pytest.raises(ValueError, match="mean must be"):
        native.poisson(torch.rand(2, 5), IDS, DRAW)
    with pytest.raises(ValueError, match="quality must lie"):
        native.jpeg(x, 0, 0.5)
    with pytest.raises(ValueError, match=r"x must be torch\.float32 of shape"):
        native.jpeg(x[:, :1], 85, 0.5)
    bands = Bands(np.eye(32)[None])
    bands.low = bands.low + 1
    with pytest.raises(ValueError, match="bands must lie"):
        native.separable(x[0], bands, Bands(np.eye(32)[None]))
