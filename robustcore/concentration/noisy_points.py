"""How far noisy images are from their nearest errors: the paper's eps*, beside its bound."""

from __future__ import annotations

import math
import os
import time
from typing import Any

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor

from robustcore import inputs
from robustcore.attack import Found, Steps, projected
from robustcore.concentration.median_search import MedianSearch
from robustcore.engine import Engine
from robustcore.evaluator import Evaluator
from robustcore.gradients import Gradients
from robustcore.network import Model
from robustcore.provenance import bar, provenance
from robustcore.results import NoisyDistance
from robustcore.results.concentration import median_interval
from robustcore.rounds import in_rounds
from robustcore.runs import by_blocks
from robustcore.sigma import sigma_at_error_rate
from robustcore.stats import clopper_pearson, order_ranks
from robustcore.streams import Stream

METHODS = ("search", "pgd")
BLOCK_ELEMENTS = 2**25  # pixels of all points searched together: bounds the memory
PAPER_STEPS, PAPER_SHARE = 200, 225  # steps, and steps to a radius
PAPER_TAIL = -2 * float(ndtri(1e-5))  # twice the 99.999th percentile of N(0, 1)
DEAR = 9  # evaluations that a point costs, about: decides whether compiling pays


@by_blocks({"sigma": 1})
def noisy_distance(
    model: Model | Engine,
    x: Any,  # (B, *shape), or one input
    y: Any = None,  # (B,)
    *,
    sigma: Any = None,  # one, or (B,)
    error_rate: float | None = None,
    points: int = 200,
    samples: int = 2000,
    confidence: float = 0.95,
    method: str = "search",
    eps: float | None = None,
    steps: int | None = None,
    sigma_max: float = 1.0,
    seed: int = 0,
    ids: Any = None,
    run: str | os.PathLike[str] | None = None,
) -> NoisyDistance:
    """The median distance (l2) from draws of N(x, sigma^2 I) to their nearest errors, eps*.

    Whatever the model, it is at most -sigma * Phi^-1(mu), with mu the error rate at sigma: the
    Gaussian isoperimetric inequality, with equality where the errors are a half-space.

    model, x, y, seed, ids, run: as in `distance_to_error`.
    sigma: noise in pixel units of [0, 1], one for all images or one for each; or
    error_rate: mu, to find sigma(x, mu) first, at most sigma_max, with max(1000, 10 / mu) draws of
        their own. Give one of the two.
    points: draws of each image whose distances are sought. samples: draws that the error rate
        counts, the points among them; a draw costs one evaluation.
    confidence: of the interval of each median and of each error rate, each by itself.
    method: "search" spends gradients on the points that can still move the median or the ends of
        its interval, 2 to 4 a point (robustcore.concentration.median_search). "pgd" is the paper's
        protocol: descent on the cross-entropy from each correct draw in a ball of radius eps, by
        default max(1, 2 * the 99.999th percentile of N(0, sigma)), in `steps` steps of eps/225, by
        default 200, up to its first error; and 0 where the error rate is at least 1/2.

    A draw that is itself an error has distance 0. Distances are upper bounds: those of errors seen.
    Noise is not clipped, and errors may lie outside [0, 1], as the theorem wants it. The same seed,
    ids and settings give the same numbers at any batch size, up to the model's own rounding.
    Cost: B * (samples + about 9 * points) evaluations. Memory: blocks of images, 6 tensors of
    points * C * H * W each. Raises ValueError, TypeError or RuntimeError naming the argument.

    Source: Ford et al. (2019), section 5; Borell (1975); Sudakov and Tsirelson (1978).
    """
    start = time.perf_counter()
    engine = Engine.of(model)
    method = inputs.choice("method", method, METHODS)
    points = inputs.integer("points", points, 1, 2**20)
    samples = inputs.integer("samples", samples, 1, 2**32)
    confidence = inputs.fraction("confidence", confidence)
    ranks = median_ranks(points, confidence)
    if samples < points:
        raise ValueError(f"samples must be at least points = {points}, was {samples}")
    for name, value in (("eps", eps), ("steps", steps)) if method == "search" else ():
        inputs.left_out(name, value, "with method='search'")
    eps = None if eps is None else inputs.positive("eps", eps)
    steps = inputs.integer("steps", PAPER_STEPS if steps is None else steps, 1)
    if (sigma is None) == (error_rate is None):
        given = "neither was" if sigma is None else "both were"
        raise ValueError(f"give one of sigma and error_rate, {given} given")
    sigma_max = inputs.positive("sigma_max", sigma_max)
    error_rate = None if error_rate is None else inputs.fraction("error_rate", error_rate)
    batch = engine.images(x)
    censored = np.zeros(len(batch), bool)
    spent = np.zeros(len(batch), np.int64)
    if error_rate is None:
        noise = per_image_sigma(sigma, len(batch), engine)
    else:
        noise, censored, spent = sigma_at(engine, batch, error_rate, y, sigma_max, seed, ids)
    evaluator = Evaluator(
        engine,
        batch,
        y,
        ids=ids,
        seed=seed,
        stream=Stream.NOISY_POINTS,
        planned=len(batch) * (samples + DEAR * points),
        exact=True,
    )
    n = len(batch)
    seen = np.empty((n, points))
    errors = np.zeros(n, np.int64)
    backward = np.zeros(n, np.int64)
    usable = np.zeros(n, bool)
    together = max(1, BLOCK_ELEMENTS // (points * batch[0].numel()))
    with bar(n, "images", engine.progress) as shown, torch.no_grad():
        for first in range(0, n, together):
            rows = np.arange(first, min(first + together, n))
            for more, draws in in_rounds(rows, points, samples):
                wrong = ~(evaluator.margins(more, noise[more], draws) > 0)
                errors += np.bincount(more[wrong], minlength=n)
            gradients = draw_points(evaluator, rows, noise, points)
            if method == "search":
                search = MedianSearch(gradients, points, ranks)
                search.run()
                found = search.seen
            else:
                found = _paper(gradients, np.repeat(noise[rows], points), eps, steps)
            at = slice(rows[0], rows[-1] + 1)
            seen[at] = found.cpu().numpy().reshape(-1, points)
            errors[at] += (seen[at] == 0).sum(1)
            for total, each in (
                (evaluator.n_forward, gradients.n_forward), (backward, gradients.n_backward),
            ):  # fmt: skip
                total[at] += each.view(-1, points).sum(1).cpu().numpy()
            usable[at] = gradients.usable.view(-1, points).any(1).cpu().numpy()
            shown.update(len(rows))
    if method == "pgd":
        seen[2 * errors >= samples] = 0.0
    middle, low, high = median_interval(seen, confidence)
    rate_low, rate_high = clopper_pearson(errors, samples, confidence)
    status = np.where(np.isfinite(middle), "found", np.where(usable, "not_found", "masked"))
    status = np.where(censored, "censored", status)
    status = np.where(evaluator.clean_margins > 0, status, "misclassified")
    settings = {"error_rate": error_rate, "points": points, "sigma_max": sigma_max}
    if method == "pgd":
        settings |= {"eps": eps, "steps": steps}
    return NoisyDistance(
        ids=evaluator.ids.cpu().numpy(),
        labels=evaluator.labels.cpu().numpy(),
        sigma=noise,
        distance=middle,
        distance_low=low,
        distance_high=high,
        error_rate=errors / samples,
        rate_low=rate_low,
        rate_high=rate_high,
        n_errors=errors,
        n_samples=np.full(n, samples),
        status=status,
        n_forward=evaluator.n_forward + spent,
        n_backward=backward,
        distances=seen,
        confidence=confidence,
        provenance=provenance(evaluator, method, samples, start, settings),
    )


def median_ranks(points: int, confidence: float) -> tuple[int, int]:
    """Ranks whose order statistics hold the median. Raises ValueError for too few points."""
    low, high = (int(each) for each in order_ranks(points, 0.5, confidence))
    if low < 1:
        needed = math.ceil(1 - math.log2(1 - confidence))
        raise ValueError(
            f"points must be at least {needed} to bound a median with confidence {confidence:g}, "
            f"was {points}"
        )
    return low, high


def per_image_sigma(sigma: Any, n: int, engine: Engine) -> np.ndarray:
    """One sigma for all images, or one for each, to (n,)."""
    grid = inputs.sigmas(sigma, engine.ranges)
    if len(grid) not in (1, n):
        raise ValueError(f"sigma must be one number or one for each of {n} inputs, had {len(grid)}")
    return np.broadcast_to(grid, n).copy()


def sigma_at(
    engine: Engine, x: Tensor, rate: float, y: Any, sigma_max: float, seed: int, ids: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(sigma, where it is sigma_max because it is censored there, evaluations), each (B,)."""
    samples = max(1000, math.ceil(10 / rate))
    found = sigma_at_error_rate(
        engine, x, rate, y, samples=samples, sigma_max=sigma_max, seed=seed, ids=ids
    )
    censored = found.status == "censored"
    return np.where(censored, sigma_max, found.sigma), censored, found.n_forward


def draw_points(
    evaluator: Evaluator, rows: np.ndarray, sigma: np.ndarray, points: int
) -> Gradients:
    """Draws 0 to points - 1 of each image as images of their own."""
    device = evaluator.device
    slots = torch.as_tensor(rows, device=device).repeat_interleave(points)
    draws = torch.arange(points, device=device).repeat(len(rows))
    noise = torch.as_tensor(sigma, device=device)[slots]
    noisy = evaluator.noisy(slots, noise, draws)
    return Gradients(evaluator.among(noisy, slots), None, 2.0)


def correct(points: Gradients) -> Tensor:
    """(S,) bool: which points the model gets right, by a forward pass of each."""
    slots = torch.arange(len(points.x), device=points.x.device)
    return points.judged(slots, points.logits(slots, points.x))[0] > 0


def _paper(gradients: Gradients, sigma: np.ndarray, eps: float | None, steps: int) -> Tensor:
    """Distances of the paper's PGD from each correct draw, (S,); 0 for the others."""
    right = correct(gradients)
    reach = np.maximum(1.0, PAPER_TAIL * sigma) if eps is None else np.full(len(sigma), eps)
    radius = torch.as_tensor(reach, device=right.device)
    found = Found.nothing(gradients)
    found.distance[~right] = 0.0
    right = right.nonzero().flatten()
    how = Steps(
        steps, 1, "ce", radius / PAPER_SHARE, False, None, gradients.evaluator.seed,
        gradients.evaluator.ids, nearest=True,
    )  # fmt: skip
    projected(gradients, found, right, radius[right], how)
    return found.distance
