"""Intervals and stopping rules on integers: counts of errors in, exact bounds out.

Everything here is exact for independent draws: no normal approximation and nothing assumed of the
model. `errors` out of `samples` is a binomial count; a rank is a position, from 1, among sorted
draws. `confidence` is the least probability with which a pair of bounds holds the truth. Arrays
broadcast as in numpy.

Three ways to look at growing data, tightest first:

- once, at a number of draws fixed beforehand: `clopper_pearson`, `order_ranks`;
- at a few planned numbers of draws, stopping at any: `group_ranks`;
- after every draw, for ever: `confidence_sequence`.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr, bdtrc, betaincinv, betaln, expit, xlog1py, xlogy
from scipy.stats import binom

from robustcore.arguments import broadcast, integers, reals, shown

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

__all__ = [
    "clopper_pearson",
    "confidence_sequence",
    "group_coverage",
    "group_ranks",
    "order_ranks",
    "rank_coverage",
    "target_rank",
]


def _integers(name: str, value: Any, least: int) -> Ints:
    array = integers(name, value)
    if array.size and array.min() < least:
        raise ValueError(f"{name} must be at least {least}, but was {array.min()}")
    return array


def _inside(name: str, value: Any) -> Floats:
    array = reals(name, value, "between 0 and 1, both excluded")
    outside = ~((array > 0) & (array < 1))
    if outside.any():
        raise ValueError(
            f"{name} must be between 0 and 1, both excluded, but was {array[outside].flat[0]}"
        )
    return array


def _one_inside(name: str, value: Any) -> float:
    one = _inside(name, value)
    if one.ndim:
        raise ValueError(f"{name} must be one number, but had shape {one.shape}")
    return float(one)


def _counts(errors: Any, samples: Any) -> tuple[Ints, Ints]:
    some, total = broadcast(
        errors=_integers("errors", errors, 0), samples=_integers("samples", samples, 1)
    )
    if np.any(some > total):
        worst = int(np.argmax(some - total))
        raise ValueError(
            "errors must be at most samples, "
            f"but was {some.flat[worst]} of {total.flat[worst]} samples"
        )
    return some, total


def clopper_pearson(errors: Any, samples: Any, confidence: float = 0.95) -> tuple[Floats, Floats]:
    """Exact two-sided, equal-tailed interval for the probability behind `errors` in `samples`.

    errors: integers in [0, samples]. samples: integers, at least 1. Returns (low, high), float64 of
    the broadcast shape, in [0, 1]; low is 0 where errors is 0, high is 1 where errors is samples.
    Raises ValueError naming the argument. Source: Clopper and Pearson, Biometrika 26 (1934).
    """
    some, total = _counts(errors, samples)
    tail = (1.0 - _one_inside("confidence", confidence)) / 2
    # beta parameters must be positive, so the two closed ends are computed one off and replaced
    low = betaincinv(np.maximum(some, 1), total - some + 1, tail)
    high = betaincinv(some + 1, np.maximum(total - some, 1), 1.0 - tail)
    return np.where(some == 0, 0.0, low), np.where(some == total, 1.0, high)


def order_ranks(samples: Any, probability: Any, confidence: float = 0.95) -> tuple[Ints, Ints]:
    """Ranks of the two order statistics that bound a quantile, whatever the distribution.

    For independent r_1..r_N with P(r <= q) = probability, sorted to r_(1) <= ... <= r_(N),
    P(r_(low) <= q < r_(high)) >= confidence: low is the largest rank with P(Bin(N, p) < low) and
    high the smallest with P(Bin(N, p) >= high) at most half of 1 - confidence.

    samples: N, integers, at least 1. probability: in (0, 1). Returns (low, high), int64 of the
    broadcast shape. low = 0 says that no draw bounds q from below, high = N + 1 that none does from
    above. Raises ValueError naming the argument. Source: David and Nagaraja, Order Statistics, 7.1.
    """
    total, rate = broadcast(
        samples=_integers("samples", samples, 1), probability=_inside("probability", probability)
    )
    return _ranks(total, rate, (1.0 - _one_inside("confidence", confidence)) / 2)


def _ranks(total: Ints, rate: Floats, tail: float | Floats) -> tuple[Ints, Ints]:
    low = np.asarray(binom.ppf(tail, total, rate)).astype(np.int64)
    high = np.asarray(binom.isf(tail, total, rate)).astype(np.int64) + 1
    # ppf and isf may be one off where a tail is met exactly: settle it on the tails themselves
    low = np.where(_below(low, total, rate) > tail, low - 1, low)
    low = np.where(_below(low + 1, total, rate) <= tail, low + 1, low)
    high = np.where(_from(high, total, rate) > tail, high + 1, high)
    high = np.where(_from(high - 1, total, rate) <= tail, high - 1, high)
    return low, high


def _below(k: Ints, total: Ints, rate: Floats) -> Floats:
    """P(Bin(total, rate) < k), for any integer k."""
    inside = bdtr(np.clip(k - 1, 0, total).astype(float), total, rate)
    return np.where(k <= 0, 0.0, inside)


def _from(k: Ints, total: Ints, rate: Floats) -> Floats:
    """P(Bin(total, rate) >= k), for any integer k."""
    inside = bdtrc(np.clip(k - 1, 0, total).astype(float), total, rate)
    return np.where(k <= 0, 1.0, inside)


def rank_coverage(samples: Any, probability: Any, low: Any, high: Any) -> Floats:
    """Exact probability that r_(low) <= q < r_(high), as `order_ranks` names them.

    samples: integers, at least 1. probability: in (0, 1). low and high: integers with
    0 <= low <= high <= samples + 1. Returns float64 of the broadcast shape. Raises ValueError.
    """
    total, rate, first, last = broadcast(
        samples=_integers("samples", samples, 1),
        probability=_inside("probability", probability),
        low=_integers("low", low, 0),
        high=_integers("high", high, 0),
    )
    if np.any(first > last) or np.any(last > total + 1):
        raise ValueError(
            "low and high must satisfy low <= high <= samples + 1, "
            f"but were {shown(low)} and {shown(high)} of {shown(samples)} samples"
        )
    return np.maximum(1.0 - _below(first, total, rate) - _from(last, total, rate), 0.0)


def target_rank(samples: Any, probability: Any) -> Ints:
    """Rank of the draw with which the count of errors first exceeds probability * samples.

    floor(probability * samples) + 1, where a product within 1e-9 of an integer (relatively, above
    1) is that integer: 0.29 of 100 is 29 although floating point says less, so the rank is 30.
    The count must exceed, not reach, as in the paper's search.

    samples: integers, at least 1. probability: in (0, 1). Returns int64 in [1, samples].
    """
    total, rate = broadcast(
        samples=_integers("samples", samples, 1), probability=_inside("probability", probability)
    )
    product = rate * total
    nearest = np.round(product)
    whole = np.abs(product - nearest) <= 1e-9 * np.maximum(nearest, 1.0)
    rank = np.where(whole, nearest, np.floor(product)).astype(np.int64) + 1
    return np.minimum(rank, total)


def group_ranks(
    looks: Any, probability: float, confidence: float = 0.95, weights: Any = None
) -> tuple[Ints, Ints]:
    """Ranks for a quantile at several planned looks, valid whichever of them one stops at.

    At look j the first looks[j] draws are known. With probability at least `confidence`,
    r_(low[j]) <= q < r_(high[j]) holds at every look at once, so the rule that picks the look may
    depend on the draws in any way. The ranks at look j are those of `order_ranks` at the level
    confidence 1 - c * weights[j], with the largest c for which the joint coverage, which is exact,
    suffices (Armitage, McPherson and Rowe, J. R. Stat. Soc. A 132, 1969). No look is given less
    confidence than asked, so one look gives `order_ranks`.

    looks: increasing integers of shape (J,). probability: in (0, 1). weights: positive numbers of
    shape (J,), the share of the error spent at each look; None shares alike (Pocock's rule).
    Returns (low, high), int64 of shape (J,). Cost: milliseconds, then kept for equal arguments.
    """
    at = _looks(looks)
    rate, level = _one_inside("probability", probability), _one_inside("confidence", confidence)
    share = np.ones(at.size) if weights is None else reals("weights", weights, "numbers")
    if share.shape != at.shape or not np.all((share > 0) & np.isfinite(share)):
        raise ValueError(f"weights must be {at.size} positive numbers, but was {shown(weights)}")
    low, high = _group_ranks(tuple(at.tolist()), rate, level, tuple((share / share.max()).tolist()))
    return low.copy(), high.copy()


@lru_cache(maxsize=64)
def _group_ranks(
    looks: tuple[int, ...], rate: float, confidence: float, weights: tuple[float, ...]
) -> tuple[Ints, Ints]:
    at, share = np.asarray(looks, dtype=np.int64), np.asarray(weights)
    rates = np.full(at.size, rate)
    level = 1.0 - confidence

    def at_scale(scale: float) -> tuple[tuple[Ints, Ints], bool]:
        ranks = _ranks(at, rates, scale * share / 2)
        return ranks, group_coverage(at, rate, *ranks) >= confidence - 1e-12

    best, enough = at_scale(level)
    if enough:
        return best
    good, bad = level / share.sum(), level  # Bonferroni: the first is enough, the second is not
    best, _ = at_scale(good)
    for _ in range(20):
        middle = (good + bad) / 2
        trial, enough = at_scale(middle)
        if enough:
            good, best = middle, trial
        else:
            bad = middle
    return best


def group_coverage(looks: Any, probability: float, low: Any, high: Any) -> float:
    """Exact probability that r_(low[j]) <= q < r_(high[j]) at every look j at once.

    looks: increasing integers of shape (J,). low, high: integers of shape (J,), low <= high. The
    count of draws at or below q is followed from look to look by convolution, and what leaves
    [low, high) is lost.
    """
    at = _looks(looks)
    rate = _one_inside("probability", probability)
    first, last = _integers("low", low, 0), _integers("high", high, 0)
    if first.shape != at.shape or last.shape != at.shape or np.any(first > last):
        raise ValueError(
            f"low and high must be {at.size} ranks with low <= high, but were {low} and {high}"
        )
    mass, start, before = np.ones(1), 0, 0  # P(count = start + i and no look has failed)
    for n, lower, upper in zip(at.tolist(), first.tolist(), last.tolist(), strict=True):
        step = binom.pmf(np.arange(min(n - before, upper) + 1), n - before, rate)
        mass = np.convolve(mass, step)[max(lower - start, 0) : max(upper - start, 0)]
        start, before = max(lower, start), n
        if not mass.size:
            return 0.0
    return float(mass.sum())


def _looks(looks: Any) -> Ints:
    at = _integers("looks", looks, 1)
    if at.ndim != 1 or at.size == 0 or np.any(np.diff(at) <= 0):
        raise ValueError(f"looks must be increasing numbers of draws, but was {shown(looks)}")
    return at


def confidence_sequence(
    errors: Any, samples: Any, confidence: float = 0.95, rate: float | None = None
) -> tuple[Floats, Floats]:
    """Interval for an error rate that holds at every number of draws at once.

    P(there is an n at which low <= truth <= high fails) <= 1 - confidence, so one may look after
    every draw and stop for any reason. It holds p where M_n(p) < 1 / (1 - confidence), for M_n(p)
    the likelihood averaged over a beta distribution of rates divided by the likelihood of p: at the
    truth a martingale, so Ville's inequality bounds it at every n at once.

    errors: integers in [0, samples]. samples: integers, at least 1. rate: in (0, 1), the mean of
    the beta distribution, near which the interval is tightest; None is 1/2. It must be chosen
    before the draws are seen. Returns (low, high), float64 of the broadcast shape, ends rounded
    outward. Raises ValueError. Sources: Robbins, Ann. Math. Stat. 41 (1970); Howard, Ramdas,
    McAuliffe and Sekhon, Ann. Stat. 49 (2021).
    """
    some, total = _counts(errors, samples)
    level = 1.0 - _one_inside("confidence", confidence)
    mean = 0.5 if rate is None else _one_inside("rate", rate)
    size = 0.5 / min(mean, 1.0 - mean)
    a, b = mean * size, (1.0 - mean) * size  # mean 1/2 gives Jeffreys' (1/2, 1/2)
    limit = betaln(a + some, b + total - some) - betaln(a, b) + math.log(level)
    seen = some / total

    def likely(p: Floats) -> Any:
        return xlogy(some, p) + xlog1py(total - some, -p) > limit

    def end(outer: float) -> Floats:
        # bisection in the logit, where 64 halvings leave an interval of relative width 1e-16
        bound = np.full(some.shape, outer)
        with np.errstate(divide="ignore"):
            inner = np.clip(np.log(seen) - np.log1p(-seen), -700.0, 700.0)
        for _ in range(64):
            middle = (bound + inner) / 2
            inside = likely(expit(middle))
            inner, bound = np.where(inside, middle, inner), np.where(inside, bound, middle)
        return np.asarray(expit(bound))

    return np.where(some == 0, 0.0, end(-700.0)), np.where(some == total, 1.0, end(700.0))
