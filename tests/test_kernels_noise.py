"""Do numbers follow their law, accurate and independent? Seeds are fixed, so each verdict is too.

Each statistical check would reject numbers of the true law with a probability of at most 1e-6, and
beside it stands a defect that it must reject.
"""

import numpy as np
import pytest
import torch
from scipy import stats

from robustcore.kernels import native, reference

N = 1 << 22
FALSE_ALARM = 1e-6


@pytest.fixture(scope="module")
def draws():
    """N normals, as 2^10 draws of 2^12 numbers each."""
    n = 1 << 10
    zero = torch.zeros(n, dtype=torch.int64)
    out = torch.empty(n, 1, 1, N // n)
    x, ids = torch.zeros(1, 1, 1, N // n), torch.tensor([17])
    native.perturb(x, zero, torch.ones(n), torch.arange(n), ids, out, seed=99)
    return out.view(n, -1).double().numpy()


def kolmogorov(z):
    return stats.kstest(z.ravel(), "norm").pvalue


def moments(z):
    """The smallest p-value of the first four moments, each against its exact mean and variance."""
    z = z.ravel()
    exact = {1: (0, 1), 2: (1, 2), 3: (0, 15), 4: (3, 96)}
    scores = [
        ((z**k).mean() - mean) / np.sqrt(variance / len(z)) for k, (mean, variance) in exact.items()
    ]
    return 4 * 2 * stats.norm.sf(np.abs(scores).max())


def tail(z):
    """p-value of the number beyond four standard deviations."""
    share = 2 * stats.norm.sf(4.0)
    return stats.binomtest(int((np.abs(z) > 4).sum()), z.size, share).pvalue


def correlation(a, b):
    """p-value of the correlation of two sets of independent standard normals."""
    return 2 * stats.norm.sf(abs((a * b).mean()) * np.sqrt(a.size))


def test_normals_follow_the_normal_law(draws):
    assert min(kolmogorov(draws), moments(draws), tail(draws)) > FALSE_ALARM


def test_a_defect_of_one_percent_is_seen(draws):
    assert kolmogorov(1.01 * draws) < FALSE_ALARM
    assert moments(1.01 * draws) < FALSE_ALARM
    assert tail(np.clip(draws, -4, 4)) < FALSE_ALARM


def test_neighbouring_draws_are_independent(draws, normals):
    pairs = [(draws[:-1], draws[1:]), (draws[:, :-1], draws[:, 1:])]
    pairs += [(draws[:, :-step], draws[:, step:]) for step in (16, 32, 48, 64)]  # words and groups
    first = normals(native.perturb, 1 << 20, seed=5).double().numpy()
    for name in ({"seed": 6}, {"seed": 5 + (1 << 32)}, {"stream": 1}, {"image": 1}, {"sample": 1}):
        other = normals(native.perturb, 1 << 20, **{"seed": 5, **name}).double().numpy()
        pairs += [(first, other), ((first**2 - 1) / np.sqrt(2), (other**2 - 1) / np.sqrt(2))]
    assert min(correlation(a, b) for a, b in pairs) > FALSE_ALARM / len(pairs)
    leaking = 0.99 * pairs[-2][1] + 0.01 * first  # negative control: a hundredth leaks across
    assert correlation(first, leaking) < FALSE_ALARM


def test_normals_are_within_four_ulp_of_float64():
    """Against the same method in float64, from the words and the float32 u of the definition."""
    n = 1 << 20
    words = reference.philox(
        torch.stack([torch.arange(n), *torch.zeros(3, n, dtype=torch.int64)], 1), (1, 2)
    )
    radius_word, angle_word = words[:, 0], words[:, 1]
    u = (radius_word.float() + 0.5).double() * 2.0**-32
    turns = (angle_word >> 30) + ((angle_word >> 6) & 0xFFFFFF).double() / 2.0**24
    turns = turns - (angle_word >> 29 & 1) + 0.5 / 2.0**24
    radius = (-2 * u.log()).sqrt()
    cos, sin = reference._cos_sin(angle_word)
    for got, angle in ((cos, 0.0), (sin, -np.pi / 2)):
        expected = radius * (turns * (np.pi / 2) + angle).cos()
        z = reference._radius(radius_word) * got
        ulp = torch.from_numpy(np.spacing(expected.abs().float().numpy())).double()
        assert ((z.double() - expected).abs() / ulp).max() < 4


def test_the_radius_at_the_ends_of_its_range():
    words = torch.tensor(
        [0, 1, 2**23 - 1, 2**23, 2**24, 2**31, 2**32 - 129, 2**32 - 128, 2**32 - 1]
    )
    radius = reference._radius(words)
    assert radius[0] == pytest.approx(np.sqrt(66 * np.log(2)))  # 6.76, the largest there is
    assert (radius[:-2] > 0).all()
    assert (radius.diff() <= 0).all()
    assert radius[-2:].tolist() == [0, 0]  # u rounds to 1: zero, not NaN


M = 1 << 20  # numbers of a law; a scale that is wrong by 2 percent shows
OTHERS = {
    "uniform": stats.uniform(-1, 2),
    "laplace": stats.laplace,
    "speckle": stats.norm,
}


def numbers(law, scale=1.0, x=0.0, **more):
    """M elements of that value with noise of that scale, as 2^8 draws."""
    n = 1 << 8
    zero = torch.zeros(n, dtype=torch.int64)
    image = torch.full((1, 1, 1, M // n), x)
    names = torch.full((n,), scale), torch.arange(n), torch.tensor([17])
    out = torch.empty(n, 1, 1, M // n)
    native.perturb(image, zero, *names, out, seed=99, law=law, **more)
    return out.view(n, -1).double().numpy()


@pytest.mark.parametrize("law", OTHERS)
def test_numbers_follow_their_law(law):
    x = 1.0 if law == "speckle" else 0.0
    drawn = numbers(law, x=x) - x
    follows = OTHERS[law].cdf
    assert stats.kstest(drawn.ravel(), follows).pvalue > FALSE_ALARM
    assert stats.kstest(1.02 * drawn.ravel(), follows).pvalue < FALSE_ALARM  # negative control
    pairs = [(drawn[:-1], drawn[1:])]
    pairs += [(drawn[:, :-step], drawn[:, step:]) for step in (1, 16, 32, 48, 64)]
    spread = OTHERS[law].std() ** 2
    assert min(correlation(a / spread, b) for a, b in pairs) > FALSE_ALARM / len(pairs)
    leaking = 0.99 * drawn[1:] + 0.01 * drawn[:-1]  # negative control
    assert correlation(leaking / spread, drawn[:-1]) < FALSE_ALARM


def test_the_far_tail_of_laplace_numbers_is_not_cut():
    """One in 22,000 is beyond 10, which 24 bits would count coarsely."""
    beyond = np.abs(numbers("laplace")) > 10
    assert stats.binomtest(int(beyond.sum()), M, np.exp(-10)).pvalue > FALSE_ALARM
    assert stats.binomtest(2 * int(beyond.sum()), M, np.exp(-10)).pvalue < FALSE_ALARM  # control


def test_salt_and_pepper_replace_their_share_by_either_level():
    for scale in (1e-3, 0.3, 0.97):
        out = numbers("salt_and_pepper", scale, x=0.5, levels=(0.0, 1.0))
        salt, pepper = int((out == 1).sum()), int((out == 0).sum())
        assert stats.binomtest(salt + pepper, M, scale).pvalue > FALSE_ALARM
        assert stats.binomtest(salt, salt + pepper, 0.5).pvalue > FALSE_ALARM
        assert salt + pepper + int((out == 0.5).sum()) == M
    wrong = stats.binomtest(salt + pepper, M, scale * 0.998)  # negative controls: share and level
    assert wrong.pvalue < FALSE_ALARM
    assert stats.binomtest(salt, salt + pepper, 0.505).pvalue < FALSE_ALARM


def test_laplace_numbers_at_the_ends_of_their_range():
    words = torch.tensor([0, 1, 2**31 - 1, 2**32 - 130, 2**32 - 2, 2**32 - 1])
    t = reference._laplace(words)
    ends = [32 * np.log(2), -32 * np.log(2), -np.log(2), 2.0**-24]
    assert t[:4].tolist() == pytest.approx(ends, rel=2e-7)
    assert t[4:].tolist() == [0, 0]  # v rounds to 1: zero, not NaN
    assert t[4:].signbit().tolist() == [False, True]
