"""Laws of noise, against rates in closed form on models that look at one coordinate or direction.

The model is right where a number is above 0; the input is `MARGIN` above it.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import robustcore as rc

MARGIN = 0.25
D = 6
BASIS = torch.linalg.qr(torch.randn(D, 3, generator=torch.Generator().manual_seed(1))).Q.T


def first(x: Tensor) -> Tensor:
    """Right where the first element is above 0."""
    return torch.stack([x[:, 0], -x[:, 0]], 1)


def rows(count: int, value: float = MARGIN) -> Tensor:
    return torch.full((count, D), value)


class Rayleigh(rc.Noise):
    """Of a user: each element moves down by a Rayleigh draw."""

    def points(self, x, scale, draws):
        return x - scale * (-2 * draws.uniforms().log()).sqrt()


def truth_subspace(scale):
    return stats.norm.cdf(-MARGIN / (scale * float(BASIS[:, 0].norm())))


TRUTHS = {
    "gaussian": (rc.Gaussian(), lambda s: stats.norm.cdf(-MARGIN / s)),
    "uniform": (rc.Uniform("Linf"), lambda s: np.clip((1 - MARGIN / s) / 2, 0, 1)),
    "uniform L2": (
        rc.Uniform("L2"),
        lambda s: stats.beta.cdf((1 - MARGIN / s) / 2, (D + 1) / 2, (D + 1) / 2),
    ),
    "laplace": (rc.Laplace(), lambda s: np.exp(-MARGIN / s) / 2),
    "salt and pepper": (rc.SaltAndPepper((-1.0, 1.0)), lambda s: s / 2),
    "speckle": (rc.Speckle(), lambda s: stats.norm.cdf(-1 / s)),
    "subspace": (rc.Subspace(BASIS), truth_subspace),
    "a user's": (Rayleigh(), lambda s: np.exp(-((MARGIN / s) ** 2) / 2)),
}
SCALES = {"speckle": [0.6, 1.0], "salt and pepper": [0.1, 0.4], "uniform L2": [0.5, 0.8]}
USUAL = [0.3, 0.5]


@pytest.mark.parametrize("name", TRUTHS)
def test_rates_are_those_in_closed_form(name):
    """Four million draws: 5 standard errors, which an image of this law exceeds once in 2e6."""
    noise, truth = TRUTHS[name]
    scales = SCALES.get(name, USUAL)
    record = rc.error_rate(first, rows(200), scales, noise=noise, samples=20_000)
    right = np.array([truth(s) for s in scales])
    error = np.sqrt(right * (1 - right) / record.n_samples.sum(0))
    assert (np.abs(record.rate.mean(0) - right) < 5 * error).all()
    # and not those of the law at a scale 2 % larger
    other = np.array([truth(1.02 * s) for s in scales])
    assert (np.abs(record.rate.mean(0) - other) > 5 * error).all()


@pytest.mark.parametrize("name", TRUTHS)
def test_intervals_of_rates_and_scales_cover(name):
    """2,000 inputs that differ by their draws alone: 94 to 98 % of intervals of 95 %.

    Clopper and Pearson's intervals and those of order statistics cover a little more than they say;
    1 % is 2 standard errors. A law that is not the one measured covers fewer than half.
    """
    noise, truth = TRUTHS[name]
    scale = SCALES.get(name, USUAL)[0]
    x = rows(2000)
    record = rc.error_rate(first, x, scale, noise=noise, samples=300)
    covered = (record.rate_low[:, 0] <= truth(scale)) & (truth(scale) <= record.rate_high[:, 0])
    assert 0.94 <= covered.mean() <= 0.98
    engine = rc.Engine(first, pixels=None)
    mu = float(truth(scale))
    found = rc.scale_at_error_rate(engine, x, mu, noise=noise, samples=300, scale_max=1.0)
    held = (found.sigma_low <= scale) & (scale <= found.sigma_high)
    assert 0.94 <= held.mean() <= 0.985
    wrong = (found.sigma_low <= 2 * scale) & (2 * scale <= found.sigma_high)
    assert wrong.mean() < 0.5


@pytest.mark.parametrize("name", TRUTHS)
def test_the_quantile_search_finds_what_bisection_finds(name):
    """Of the same draws: the brackets hold each other's sigma."""
    noise, truth = TRUTHS[name]
    mu = float(truth(SCALES.get(name, USUAL)[0]))
    quick = rc.scale_at_error_rate(first, rows(30), mu, noise=noise, samples=400, scale_max=1.0)
    slow = rc.scale_at_error_rate(
        first, rows(30), mu, noise=noise, samples=400, scale_max=1.0, method="bisection"
    )
    assert (quick.status == slow.status).all()
    assert (quick.sigma >= slow.bracket_low - 1e-9).all()
    assert (quick.sigma <= slow.bracket_high + 1e-9).all()
    # salt and pepper moves this margin in one step, which tells a search nothing beside its sign
    share = 1 if name == "salt and pepper" else 4
    assert quick.n_forward.sum() < slow.n_forward.sum() / share


def test_a_gaussian_by_name_is_the_default():
    plain = rc.error_rate(first, rows(5), 0.3, samples=500)
    named = rc.error_rate(first, rows(5), 0.3, samples=500, noise=rc.Gaussian())
    assert (plain.n_errors == named.n_errors).all()
    assert named.provenance.settings["noise"] == "Gaussian()"


@pytest.mark.parametrize("name", TRUTHS)
def test_draws_do_not_depend_on_batches_parts_or_order(name):
    noise, _ = TRUTHS[name]
    scales = SCALES.get(name, USUAL)
    whole = rc.error_rate(first, rows(6), scales, noise=noise, samples=200)
    small = rc.error_rate(rc.Engine(first, batch_size=7), rows(6), scales, noise=noise, samples=200)
    part = rc.error_rate(first, rows(2), scales, noise=noise, samples=200, ids=[4, 1])
    assert (whole.n_errors == small.n_errors).all()
    assert (whole.n_errors[[4, 1]] == part.n_errors).all()


@pytest.mark.parametrize("name", TRUTHS)
def test_copies_are_the_draws_that_are_counted(name):
    noise, _ = TRUTHS[name]
    scales = SCALES.get(name, USUAL)
    counted = rc.error_rate(first, rows(20), scales, noise=noise, samples=1)
    copies = rc.noisy_copies(rows(20), scales, noise=noise, pixels=None)
    assert copies.shape == (20, 2, D)
    wrong = ~(first(copies.flatten(0, 1))[:, 0] > 0).view(20, 2)
    assert (counted.n_errors == wrong.numpy()).all()


def test_clipped_noise_stays_within():
    for noise in (rc.Gaussian((0, 1)), rc.Uniform("Linf", (0, 1)), rc.Uniform("L2", (0, 1))):
        copies = rc.noisy_copies(rows(4), [2.0], noise=noise, pixels=None)
        assert copies.min() >= 0
        assert copies.max() <= 1
    with pytest.raises(ValueError, match=r"x must lie in the clip \[0, 0.1\]"):
        rc.error_rate(first, rows(2), 0.1, noise=rc.Gaussian((0, 0.1)))


class Uncoupled(rc.Noise):
    def points(self, x, scale, draws):
        return x + scale * draws.normals() * torch.cos(torch.pi * 1e4 * scale).sign()


class OfTheBatch(rc.Noise):
    def points(self, x, scale, draws):
        z = draws.normals()
        return x + scale * (z - z.mean(0))


class Shrinking(rc.Noise):
    def points(self, x, scale, draws):
        return x + 0.1 * (scale > 0) * draws.normals() / (1 + scale)


class Moved(rc.Noise):
    def points(self, x, scale, draws):
        return x + 0.1 + scale * draws.normals()


class Infinite(rc.Noise):
    def points(self, x, scale, draws):
        return x + scale * draws.normals() / 0


class Flat(rc.Noise):
    def points(self, x, scale, draws):
        return (x + scale * draws.normals()).flatten()


class Turning(rc.Noise):
    """Another draw from each thirty-seventh of the scale to the next."""

    def points(self, x, scale, draws):
        even = torch.floor(37 * scale) % 2 == 0
        return x + scale * torch.where(even, draws.normals(), draws.normals())


class Two(rc.Noise):
    def points(self, x, scale, draws):
        return x + scale * torch.where(scale < 0.3, draws.normals(), draws.normals())


class Mirrored(rc.Noise):
    def points(self, x, scale, draws):
        z = draws.normals()
        return x + scale * torch.where(scale > 0.7, z, -z)


class Winding(rc.Noise):
    def points(self, x, scale, draws):
        return x + scale * torch.sin(20 * scale + 2 * torch.pi * draws.uniforms())


@pytest.mark.parametrize("law", [Turning, Two, Mirrored, Winding])
def test_other_draws_at_other_scales_are_refused(law):
    law.largest = 1.0
    with pytest.raises(ValueError, match=rf"coupled in its scale, draws of {law.__name__}\(\) did"):
        rc.error_rate(first, rows(3), 0.1, noise=law(), samples=10)


@pytest.mark.parametrize("largest", [-1, 0, float("nan"), float("inf"), "big"])
def test_the_largest_scale_is_a_positive_number(largest):
    law = Rayleigh()
    law.largest = largest
    with pytest.raises((ValueError, TypeError), match=r"noise\.largest must be"):
        rc.scale_at_error_rate(first, rows(3), 0.1, noise=law)


BAD = {
    "noise must be coupled in its scale": Uncoupled(),
    "noise must draw each input by its name alone": OfTheBatch(),
    "noise must be coupled in its scale, draws of Shrinking": Shrinking(),
    "noise must leave inputs as they are at scale 0": Moved(),
    "noise must return finite inputs": Infinite(),
    "noise must return noisy inputs of shape": Flat(),
    "must define points": rc.Noise(),
    "noise must be a law of noise, was the class Gaussian": rc.Gaussian,
    "noise must be a law of noise, such as Gaussian": "gaussian",
    "noise must have a basis of directions with 6 elements": rc.Subspace(torch.eye(4)),
}


@pytest.mark.parametrize("message", BAD)
def test_laws_that_searches_cannot_rest_on_are_refused(message):
    with pytest.raises((ValueError, TypeError, NotImplementedError), match=message):
        rc.error_rate(first, rows(3), 0.1, noise=BAD[message], samples=10)


def test_what_a_law_cannot_do_is_refused():
    with pytest.raises(
        ValueError, match="noise must be Gaussian or uniform for rare errors, was Lap"
    ):
        rc.error_rate(first, rows(2), 0.1, noise=rc.Laplace(), method="splitting")
    with pytest.raises(ValueError, match="noise must be Gaussian, was Speckle"):
        rc.sigma_at_error_rate(first, rows(2), 0.1, noise=rc.Speckle())
    with pytest.raises(ValueError, match="scale_max must be at most 1 for SaltAndPepper"):
        rc.scale_at_error_rate(first, rows(2), 0.1, noise=rc.SaltAndPepper(), scale_max=1.5)
    with pytest.raises(ValueError, match="basis must be orthonormal"):
        rc.Subspace(torch.ones(2, 6))
    with pytest.raises(ValueError, match="norm must be 2 or inf"):
        rc.Uniform("L1")
    with pytest.raises(ValueError, match=r"clip must be .low, high. with low < high"):
        rc.Gaussian((1, 0))
    with pytest.raises(TypeError, match=r"clip must be None or .low, high., was 1"):
        rc.Laplace(1)
    with pytest.raises(ValueError, match="levels must be"):
        rc.SaltAndPepper((1.0, 0.0))


def test_principal_components_span_most_of_the_variance():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 5, generator=generator) * torch.tensor([5.0, 3.0, 1.0, 0.1, 0.1])
    basis = rc.principal_components(x, 2)
    assert basis.shape == (2, 5)
    assert abs(float(basis[0, 0])) > 0.99
    assert abs(float(basis[1, 1])) > 0.99
    assert torch.allclose(basis @ basis.T, torch.eye(2), atol=1e-5)
    pictures = rc.principal_components(torch.rand(20, 1, 4, 4), 3)
    assert pictures.shape == (3, 1, 4, 4)
    with pytest.raises(ValueError, match=r"k must be in \[1, 5\]"):
        rc.principal_components(x, 6)


def test_laws_print_what_they_were_given():
    basis = torch.eye(4)[:2]
    assert repr(rc.Subspace(basis)) == "Subspace(2 of 4 dimensions)"
    assert repr(rc.Subspace(basis, (0, 1))) == "Subspace(2 of 4 dimensions, clip=(0.0, 1.0))"
    assert repr(rc.Uniform("L2", (0, 1))) == "Uniform('L2', clip=(0.0, 1.0))"
    assert repr(rc.Laplace((0, 1))) == "Laplace(clip=(0.0, 1.0))"
    assert repr(rc.SaltAndPepper((-1, 1))) == "SaltAndPepper((-1.0, 1.0))"


def test_records_in_other_noise_say_so():
    """What supposes Gaussian noise, the distance to a half-space, is nan or refused."""
    x = rows(3)
    found = rc.scale_at_error_rate(first, x, 0.1, noise=rc.Laplace(), samples=50)
    assert "median scale of Laplace()" in repr(found)
    assert np.isnan(found.half_space_distance).all()
    near = rc.distance_to_error(first, x)
    with pytest.raises(ValueError, match=r"noise must be a record in Gaussian noise, was in Lapl"):
        rc.compare(found, near)
    rate = rc.error_rate(first, x, [0.1, 0.2], noise=rc.Speckle(), samples=50)
    assert "2 scales of Speckle()" in repr(rate)
    sigma = rc.sigma_at_error_rate(first, x, 0.1, samples=50)
    assert "median sigma" in repr(sigma)
    assert np.isfinite(sigma.half_space_distance).all()
    assert len(rc.compare(sigma, near)) == 3
    curve = rc.error_curve(first, x, rates=[0.1, 1e-3], noise=rc.Uniform("Linf"))
    assert np.isnan(curve.ratio()).all()


def test_a_margin_of_many_steps_is_searched_in_a_sixth_of_the_evaluations():
    """Salt and pepper on a sum of 400 elements; the draws are those of bisection."""
    weights = torch.randn(400, generator=torch.Generator().manual_seed(3))

    def summed(x):
        height = x @ weights + 12
        return torch.stack([height, torch.zeros_like(height)], 1)

    x = torch.full((10, 400), 0.5) + 0.1 * torch.sign(weights)
    noise = rc.SaltAndPepper()
    quick = rc.scale_at_error_rate(summed, x, 0.01, noise=noise)
    slow = rc.scale_at_error_rate(summed, x, 0.01, noise=noise, method="bisection")
    assert (quick.status == "found").all()
    assert 6 * quick.n_forward.sum() < slow.n_forward.sum()
    np.testing.assert_allclose(quick.sigma, slow.sigma, rtol=0.05)
    assert (quick.sigma_low <= slow.sigma).all()
    assert (slow.sigma <= quick.sigma_high).all()
