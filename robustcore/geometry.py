"""Distance, noise and error rate in the linear model: equation 1 of the paper, and its relatives.

Every function takes numbers or arrays, broadcasts them as numpy does and returns float64 (a number
for numbers). Source: Gilmer, Ford, Carlini, Cubuk, "Adversarial Examples Are a Natural Consequence
of Test Error in Noise", ICML 2019. Phi is the standard normal distribution function.

A distance is an l2 norm in pixel units of [0, 1]; sigma, in the same units, is the standard
deviation of one component of the noise; a rate is the probability that noise gives an error.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from robustcore.arguments import broadcast, reals

Floats = NDArray[np.float64]
Number = Any  # a number or an array of numbers; what comes back has the broadcast shape


def _checked(name: str, value: Number, must_be: str, low: float, high: float, edge: bool) -> Floats:
    """`value` as float64, each entry in [low, high] where `edge` is true, else in (low, high)."""
    array = reals(name, value, must_be)
    inside = np.asarray((array >= low) & (array <= high))
    if not edge:
        inside = np.asarray((array > low) & (array < high))
    if not inside.all():
        worst = array[~inside].flat[0]
        raise ValueError(f"{name} must be {must_be}, but was {worst}")
    return array


def _sigma(value: Number) -> Floats:
    return _checked("sigma", value, "a number that is at least 0", 0.0, np.inf, True)


def _rate(value: Number) -> Floats:
    return _checked("rate", value, "between 0 and 1, both excluded", 0.0, 1.0, False)


def half_space_distance(sigma: Number, rate: Number) -> Number:
    """Signed distance to a half-space of errors whose noise error rate is `rate` at `sigma`.

    -sigma * Phi^-1(rate), equation 1. It is negative where rate > 1/2: the point then lies inside
    the half-space, that far from its boundary. An infinite sigma gives an infinite distance (and
    nan at a rate of 1/2, where every distance fits).

    sigma: at least 0. rate: in (0, 1). Raises ValueError or TypeError naming the argument.
    """
    noise, share = broadcast(sigma=_sigma(sigma), rate=_rate(rate))
    with np.errstate(invalid="ignore", over="ignore"):
        # the tail on the other side, not a minus in front: a rate of 1/2 gives 0, never -0
        return noise * (0.0 - ndtri(share))


def half_space_sigma(distance: Number, rate: Number) -> Number:
    """Sigma at which a half-space of errors at signed `distance` has noise error rate `rate`.

    distance / -Phi^-1(rate), equation 1 read the other way. distance: positive where rate < 1/2,
    negative where rate > 1/2, for no sigma solves the rest; at rate 1/2 none or all do.
    Raises ValueError or TypeError naming the argument.
    """
    signed = _checked("distance", distance, "a number", -np.inf, np.inf, True)
    signed, share = broadcast(distance=signed, rate=_rate(rate))
    quantile = 0.0 - ndtri(share)
    if np.any(quantile == 0):
        raise ValueError("rate must differ from 1/2, where sigma is not determined, but was 0.5")
    with np.errstate(over="ignore"):
        sigma = signed / quantile
    if np.any(sigma < 0):
        worst = signed[sigma < 0].flat[0]
        raise ValueError(
            "distance must be at least 0 where rate is below 1/2 and at most 0 where it is above, "
            f"but was {worst}"
        )
    return np.abs(sigma)[()]


def half_space_rate(distance: Number, sigma: Number) -> Number:
    """Noise error rate at `sigma` of a half-space of errors at signed `distance`.

    Phi(-distance / sigma), equation 1 solved for the rate. distance: finite, negative inside the
    half-space. sigma: above 0. Raises ValueError or TypeError naming the argument.
    """
    finite = np.finfo(np.float64).max
    signed = _checked("distance", distance, "a finite number", -finite, finite, True)
    noise = _checked("sigma", sigma, "a number above 0", 0.0, np.inf, False)
    signed, noise = broadcast(distance=signed, sigma=noise)
    with np.errstate(over="ignore"):
        return ndtr(-signed / noise)


def isoperimetric_bound(sigma: Number, rate: Number) -> Number:
    """Largest median distance from a noisy image to an error set of noise error rate `rate`.

    0 where rate >= 1/2, else -sigma * Phi^-1(rate): the Gaussian isoperimetric inequality (Borell;
    Sudakov and Tsirelson), with equality for a half-space. Nothing is assumed of the error set.

    sigma: at least 0. rate: in [0, 1]; no bound holds at rate 0, where the answer is inf.
    Raises ValueError or TypeError naming the argument.
    """
    some = _checked("rate", rate, "between 0 and 1", 0.0, 1.0, True)
    noise, some = broadcast(sigma=_sigma(sigma), rate=some)
    with np.errstate(invalid="ignore", over="ignore"):
        bound = noise * (0.0 - ndtri(some))
    return np.where(some >= 0.5, 0.0, np.where(some > 0.0, bound, np.inf))[()]


def typical_noise_norm(sigma: Number, n: Number) -> Number:
    """l2 norm of typical noise: sigma * sqrt(n), near which all of N(0, sigma^2 I) in R^n lies.

    It is the root mean square of the norm; the norm itself has a standard deviation of about
    sigma / sqrt(2), whatever n is. sigma: at least 0. n: components (channels * height * width),
    at least 1. Raises ValueError or TypeError naming the argument.
    """
    count = _checked("n", n, "at least 1", 1.0, np.inf, True)
    noise, count = broadcast(sigma=_sigma(sigma), n=count)
    with np.errstate(invalid="ignore", over="ignore"):
        return noise * np.sqrt(count)


def half_space_ratio(distance: Number, sigma: Number, rate: Number) -> Number:
    """Measured `distance` to the nearest error over the one that a half-space would have.

    distance / (-sigma * Phi^-1(rate)): 1 for a linear model, below 1 where errors are nearer than
    noise alone suggests. nan where both are 0 (a misclassified image) or both infinite.

    distance and sigma: at least 0. rate: in (0, 1/2). Raises ValueError or TypeError naming the
    argument.
    """
    measured = _checked("distance", distance, "a number that is at least 0", 0.0, np.inf, True)
    below_half = _checked("rate", rate, "between 0 and 1/2, both excluded", 0.0, 0.5, False)
    measured, noise, below_half = broadcast(distance=measured, sigma=_sigma(sigma), rate=below_half)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.divide(measured, half_space_distance(noise, below_half))
