"""Randomised smoothing: what a model answers in noise, and how far that answer is sure to hold."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.special import bdtr, bdtrc, betaincinv, ndtr
from torch import Tensor

from robustcore import inputs
from robustcore.engine import Engine
from robustcore.evaluator import Evaluator
from robustcore.network import Model
from robustcore.provenance import bar, provenance
from robustcore.results import CertifyResult, PredictResult
from robustcore.results.certify import certified_radius
from robustcore.rounds import in_rounds
from robustcore.runs import by_blocks
from robustcore.streams import Stream

HALVINGS, FEWEST = 8, 32  # looks at n, n/2, n/4, ..., none at fewer draws


@by_blocks()
def certify(
    model: Model | Engine,
    x: Any,  # (B, *shape), or one input
    y: Any = None,  # (B,)
    *,
    sigma: float,
    n0: int = 100,
    n: int = 100_000,
    alpha: float = 0.001,
    radius: float | None = None,
    seed: int = 0,
    ids: Any = None,
    run: str | os.PathLike[str] | None = None,
) -> CertifyResult:
    """The l2 radius within which the smoothed classifier's answer cannot change.

    The smoothed classifier answers with the class that the model gives most often to
    N(x, sigma^2 I); a draw with a NaN or a tie for the largest logit is given none. n0 draws choose
    that class, n others count it, and the exact lower limit of its probability p gives the radius
    sigma * Phi^-1(p); with a limit of at most 1/2 it abstains.

    sigma: noise in pixel units of [0, 1], above 0; not clipped. n0, n: draws, at least 1. alpha: in
        (0, 1), the probability with which an image's radius may be wrong.
    radius: asks only whether this radius holds, for each image. Counting stops at the first of the
        looks n/128, n/64, ..., n that decides, for or against; alpha is shared between them, half
        to the last, so each of the two answers is wrong with a probability of at most alpha.
    y: only for `accuracy`; with another error than "top1" it says what is right, and `label` is
        then 0 where draws are right and 1 where they are wrong, `labels` 0. model, x, seed, ids,
        run: as in `error_rate`. A tie or a NaN among the logits is not the class.

    Draw i of an image is a function of (seed, id, i): the same at any batch size and on any device.
    Cost: n0 + n evaluations of each image; with `radius` a hundredth of that where p is far from
    Phi(radius / sigma). Raises ValueError, TypeError or RuntimeError naming the argument.

    Source: Cohen, Rosenfeld and Kolter, ICML 2019, whose answers these are for the same counts.
    """
    start = time.perf_counter()
    engine = Engine.of(model)
    sigma = inputs.sigma_of_all(sigma, engine.ranges)
    n0 = inputs.integer("n0", n0, 1, 2**31)
    n = inputs.integer("n", n, 1, 2**31)
    alpha = inputs.fraction("alpha", alpha)
    asked = None if radius is None else inputs.positive("radius", radius)
    evaluator = _evaluator(engine, x, y, n0 + n, seed, ids)
    images = len(evaluator.x)
    labels = evaluator.y.cpu().numpy()  # of another error than "top1" class 0, which is right
    with bar(images * (n0 + n), "evaluations", engine.progress) as shown:
        every = np.arange(images)
        top = _classes(evaluator, every, sigma, 0, n0, shown.update)[:, :-1].argmax(1)
        evaluator.y = torch.as_tensor(top, device=evaluator.device)
        looks, tails = _looks(n, alpha) if asked is not None else ([n], [alpha])
        right = np.zeros(images, np.int64)
        seen = np.zeros(images, np.int64)
        tail = np.full(images, tails[-1])
        open_, verdict = every, np.full(images, "undecided")
        for before, look, level in zip([0, *looks], looks, tails, strict=False):
            right[open_] += _right(evaluator, open_, sigma, n0 + before, n0 + look, shown.update)
            seen[open_], tail[open_] = look, level
            if asked is not None:
                wanted = ndtr(asked / sigma)
                holds = bdtrc(right[open_] - 1.0, look, wanted) <= level
                fails = bdtr(right[open_].astype(float), look, wanted) <= level
                verdict[open_[holds]], verdict[open_[fails]] = "holds", "fails"
                open_ = open_[~holds & ~fails]
                if not len(open_):
                    break
    low, high = lower_limit(right, seen, tail), 1 - lower_limit(seen - right, seen, tail)
    found = certified_radius(sigma, low)
    if asked is None:
        verdict = np.where(low >= 0.5, "certified", "abstained")
    return CertifyResult(
        ids=evaluator.ids.cpu().numpy(),
        labels=labels,
        label=np.where(low >= 0.5, top, -1),
        radius=found,
        top=top,
        n_top=right,
        n_samples=seen,
        share_low=low,
        share_high=high,
        status=verdict,
        n_forward=evaluator.n_forward,
        sigma=sigma,
        alpha=alpha,
        asked=asked,
        provenance=provenance(evaluator, "smoothing", n, start, {"n0": n0, "n": n}),
    )


@by_blocks()
def predict(
    model: Model | Engine,
    x: Any,  # (B, *shape), or one input
    y: Any = None,  # (B,)
    *,
    sigma: float,
    n: int = 1000,
    alpha: float = 0.001,
    early: bool = False,
    seed: int = 0,
    ids: Any = None,
    run: str | os.PathLike[str] | None = None,
) -> PredictResult:
    """What the smoothed classifier answers, or -1 where its draws do not tell.

    n draws are counted by class, those with a NaN among their logits or a tie for the largest as
    one more, which is never the answer. The commonest is the answer if, of the draws given it or
    the next, the share is above 1/2 by an exact two-sided binomial test at level alpha (Hung and
    Fithian, 2019). early: stop an image at the first of the looks n/128, n/64, ..., n that decides;
    alpha is shared between them, half to the last.

    Other arguments, determinism and errors as in `certify`. Cost: at most n evaluations an image.

    Source: Cohen, Rosenfeld and Kolter, ICML 2019, whose answers these are for the same counts.
    """
    start = time.perf_counter()
    engine = Engine.of(model)
    sigma = inputs.sigma_of_all(sigma, engine.ranges)
    n = inputs.integer("n", n, 1, 2**31)
    alpha = inputs.fraction("alpha", alpha)
    early = inputs.flag("early", early)
    evaluator = _evaluator(engine, x, y, n, seed, ids)
    images = len(evaluator.x)
    looks, tails = _looks(n, alpha) if early else ([n], [alpha])
    label = np.full(images, -1)
    seen = np.zeros(images, np.int64)
    open_ = np.arange(images)
    counts = np.zeros((images, evaluator.n_classes + 1), np.int64)
    with bar(images * n, "evaluations", engine.progress) as shown:
        for before, look, level in zip([0, *looks], looks, tails, strict=False):
            counts[open_] += _classes(evaluator, open_, sigma, before, look, shown.update)
            seen[open_] = look
            answer, sure = _decided(counts[open_], level)
            label[open_[sure]] = answer[sure]
            open_ = open_[~sure]
            if not len(open_):
                break
    return PredictResult(
        ids=evaluator.ids.cpu().numpy(),
        labels=evaluator.y.cpu().numpy(),
        label=label,
        counts=counts[:, :-1],
        n_samples=seen,
        n_forward=evaluator.n_forward,
        sigma=sigma,
        alpha=alpha,
        provenance=provenance(evaluator, "smoothing", n, start, {"n": n, "early": early}),
    )


def _decided(counts: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """(commonest class (I,), whether it surely is) of counts (I, K + 1); -1 for the last column."""
    second, first = np.sort(counts, 1)[:, -2:].T
    commonest = counts.argmax(1)
    commonest[commonest == counts.shape[1] - 1] = -1
    return commonest, 2 * bdtrc(first - 1.0, first + second, 0.5) <= alpha


def lower_limit(hits: Any, samples: Any, alpha: Any) -> np.ndarray:
    """Clopper and Pearson's one-sided lower limit: above the truth with at most alpha."""
    some, total = np.asarray(hits), np.asarray(samples)
    low = betaincinv(np.maximum(some, 1), total - some + 1, alpha)
    return np.where(some == 0, 0.0, low)


def _evaluator(engine: Engine, x: Tensor, y: Any, samples: int, seed: int, ids: Any) -> Evaluator:
    batch = engine.images(x)
    return Evaluator(
        engine,
        batch,
        y,
        ids=ids,
        seed=seed,
        stream=Stream.CERTIFY,
        planned=len(batch) * samples,
    )


def _looks(n: int, alpha: float) -> tuple[list[int], list[float]]:
    """Numbers of draws at which to look, and the share of alpha spent at each: half at the last."""
    early = sorted({-(-n // 2**k) for k in range(1, HALVINGS)} - {n})
    early = [look for look in early if look >= FEWEST]
    if not early:
        return [n], [alpha]
    return [*early, n], [alpha / 2 / len(early)] * len(early) + [alpha / 2]


def _right(
    evaluator: Evaluator,
    rows: np.ndarray,
    sigma: float,
    first: int,
    last: int,
    progress: Callable[[int], object],
) -> np.ndarray:
    """How many draws of each of some images are of its class, (I,)."""
    found = np.zeros(len(evaluator.x), np.int64)
    for slots, draws in in_rounds(rows, first, last):
        margins = evaluator.margins(slots, np.full(len(slots), sigma), draws, progress)
        found += np.bincount(slots[margins > 0], minlength=len(found))
    return found[rows]


def _classes(
    evaluator: Evaluator,
    rows: np.ndarray,
    sigma: float,
    first: int,
    last: int,
    progress: Callable[[int], object],
) -> np.ndarray:
    """How many draws of each of some images the model gives each class, (I, K + 1).

    The last column is of those that it gives none, which `classes` numbers -1.
    """
    found = np.zeros((len(evaluator.x), evaluator.n_classes + 1), np.int64)
    for slots, draws in in_rounds(rows, first, last):
        given = evaluator.classes(slots, np.full(len(slots), sigma), draws)
        np.add.at(found, (slots, given), 1)
        progress(len(slots))
    return found[rows]
