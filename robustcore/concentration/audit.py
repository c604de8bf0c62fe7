"""Is an attack lying? The isoperimetric bound as a test of any attack on any model."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from robustcore import inputs
from robustcore.arguments import reals
from robustcore.concentration.noisy_points import correct, draw_points, per_image_sigma, sigma_at
from robustcore.concentration.trial import Attack, Trial
from robustcore.engine import Engine
from robustcore.evaluator import Evaluator
from robustcore.gradients import Gradients
from robustcore.network import Model
from robustcore.provenance import bar, provenance
from robustcore.results import AuditResult
from robustcore.results.audit import RATE_SHARE
from robustcore.rounds import in_rounds
from robustcore.runs import by_blocks
from robustcore.streams import Stream

BLOCK_ELEMENTS = 2**25  # pixels of all points attacked together: bounds the memory


@by_blocks({"sigma": 2}, smallest=1)
def audit_attack(
    model: Model | Engine,
    x: Any,  # (B, *shape), or one input
    y: Any,  # (B,), or None
    attack: Attack,
    *,
    sigma: Any = None,
    error_rates: float | Sequence[float] = (0.003, 0.03),
    points: int = 200,
    samples: int = 10_000,
    confidence: float = 0.95,
    eps: float | None = None,
    sigma_max: float = 1.0,
    seed: int = 0,
    ids: Any = None,
    run: str | os.PathLike[str] | None = None,
) -> AuditResult:
    """Prove, where it can be proven, that an attack misses errors.

    Whatever the model, half of all draws of N(x, sigma^2 I) have an error within
    -sigma * Phi^-1(mu), with mu the error rate at sigma. So an attack whose median distance from
    such draws is larger did not find the nearest errors: the gradients it used are masked, or it is
    weak. Counting needs no gradient and cannot be deceived that way.

    attack: (model, x, y) to images of x's shape, for x (n, C, H, W) as noise leaves them, outside
        [0, 1] too, and labels y (n,) that the model gives them. It minimises the l2 distance, or
        looks within a radius: then give eps. Attacks of foolbox, torchattacks, ART and AutoAttack,
        and any that insist on [0, 1]: robustcore.concentration.adapters.
    sigma: noise, a number, a list of G numbers, or (B, G); None finds sigma(x, mu) for each mu of
        error_rates, at most sigma_max, with draws of their own.
    points: draws that are attacked, for each image and sigma. samples: draws that the error rate
        counts, the points among them.
    confidence: of each verdict, over all sigmas; see AuditResult.
    eps: the l2 radius within which the attack looks. Its share of draws with an error there is held
        against Phi(Phi^-1(mu) + eps / sigma), which the theorem wants. None: medians.
    model, x, y, seed, ids, run: as in `distance_to_error`. In a run an attack that is no function
        is known by the modules, tensors and functions that it holds.

    A draw that is an error has distance 0 and is not attacked. A returned image that the model gets
    right counts as not found, after it has been moved outward by up to a thousandth of its distance
    in case it lies on the boundary; so does one with NaN or inf. The images themselves are
    attacked as well, to see whether noise alone found nearer errors.

    The verdict is a statement on the model as it was called; a model that is randomised is judged
    by one answer to each image. Cost: B * G * samples evaluations, and B * (G * points + 1) runs of
    the attack. Raises ValueError, TypeError or RuntimeError naming the argument.

    Source: Ford et al. (2019), section 5 and appendix E, read as a test; Hoeffding (1956).
    """
    start = time.perf_counter()
    engine = Engine.of(model)
    points = inputs.integer("points", points, 1, 2**20)
    samples = inputs.integer("samples", samples, 1, 2**32)
    confidence = inputs.fraction("confidence", confidence)
    eps = None if eps is None else inputs.positive("eps", eps)
    sigma_max = inputs.positive("sigma_max", sigma_max)
    if samples < points:
        raise ValueError(f"samples must be at least points = {points}, was {samples}")
    inputs.function("attack", attack)
    batch = engine.images(x)
    n = len(batch)
    rates = _rates(error_rates)
    rates = rates if sigma is None else rates[:0]
    noise = np.empty((n, len(rates))) if sigma is None else _sigmas(sigma, n, engine)
    _enough(points, confidence, noise.shape[1])
    spent = np.zeros(n, np.int64)
    for g, rate in enumerate(rates):
        noise[:, g], _, forward = sigma_at(engine, batch, rate, y, sigma_max, seed, ids)
        spent += forward
    planned = n * noise.shape[1] * samples
    evaluator = Evaluator(
        engine,
        batch,
        y,
        ids=ids,
        seed=seed,
        stream=Stream.AUDIT,
        planned=planned,
        exact=True,
    )
    wrong = ~(evaluator.clean_margins > 0)
    trial = Trial(evaluator, attack)
    clean = np.full(n, np.inf)
    noisy = np.full(n, np.inf)
    grid = noise.shape
    columns = {name: np.zeros(grid, np.int64) for name in ("errors", "not_errors", "not_finite")}
    distances = np.zeros((*grid, points))
    judged = (~wrong).nonzero()[0]
    block = max(1, BLOCK_ELEMENTS // (points * batch[0].numel()))
    with bar(len(judged) * (grid[1] * points + 1), "attacks", engine.progress) as shown:
        rows = torch.as_tensor(judged, device=evaluator.device)
        if len(judged):
            gradients = Gradients(evaluator.among(evaluator.x[rows], rows), None, 2.0)
            clean[judged] = trial.distances(gradients, np.arange(len(judged)), shown)[0]
            trial.charge(gradients, judged)
        for g in range(grid[1]):
            for first in range(0, len(judged), block):
                some = judged[first : first + block]
                noisy[some] = np.minimum(
                    noisy[some], _count(evaluator, some, noise[:, g], samples, columns["errors"], g)
                )
                with torch.no_grad():
                    gradients = draw_points(evaluator, some, noise[:, g], points)
                    right = correct(gradients).nonzero().flatten()
                at = right.cpu().numpy()
                away, bad, broken = trial.distances(gradients, at, shown)
                cells = np.zeros(len(some) * points)
                cells[at] = away
                distances[some, g] = cells.reshape(len(some), points)
                image = some[at // points]
                columns["not_errors"][:, g] += np.bincount(image[bad], minlength=n)
                columns["not_finite"][:, g] += np.bincount(image[broken], minlength=n)
                trial.charge(gradients, np.repeat(some, points))
    evaluator.notes += trial.notes(columns, distances, eps, points)
    columns["errors"][wrong] = samples
    settings = {"points": points, "eps": eps, "sigma_max": sigma_max, "error_rates": rates.tolist()}
    settings |= {"attack": getattr(attack, "__name__", type(attack).__name__)}
    return AuditResult(
        ids=evaluator.ids.cpu().numpy(),
        labels=evaluator.labels.cpu().numpy(),
        sigma=noise,
        n_errors=columns["errors"],
        n_samples=np.full(grid, samples),
        n_not_errors=columns["not_errors"],
        n_not_finite=columns["not_finite"],
        clean_distance=np.where(wrong, 0.0, clean),
        noise_distance=np.where(wrong, 0.0, noisy),
        misclassified=wrong,
        n_forward=evaluator.n_forward + spent,
        distances=distances,
        confidence=confidence,
        eps=eps,
        provenance=provenance(evaluator, "isoperimetric", samples, start, settings),
    )


def _rates(error_rates: Any) -> np.ndarray:
    """A number or G numbers to (G,)."""
    rates = np.atleast_1d(reals("error_rates", error_rates, "a number or a list of numbers"))
    if rates.ndim != 1 or rates.size == 0:
        raise ValueError(f"error_rates must be a number or a flat list, had shape {rates.shape}")
    for rate in rates:
        inputs.fraction("error_rates", rate)
    return rates


def _sigmas(sigma: Any, n: int, engine: Engine) -> np.ndarray:
    """A number, G numbers or (B, G) to (B, G)."""
    grid = reals("sigma", sigma, "a number or a list of numbers")
    if grid.ndim == 2 and grid.size:
        if len(grid) != n:
            raise ValueError(f"sigma must have a row for each of {n} inputs, had {len(grid)}")
        return np.stack([per_image_sigma(column, n, engine) for column in grid.T], 1)
    grid = inputs.sigmas(grid, engine.ranges)
    return np.broadcast_to(grid, (n, grid.size)).copy()


def _enough(points: int, confidence: float, sigmas: int) -> None:
    """Whether a median can be bounded on one side at what is left of the confidence."""
    tail = (1 - RATE_SHARE) * (1 - confidence) / max(1, sigmas)
    needed = max(1, math.ceil(-math.log2(tail)))  # all are on one side with probability 2^-points
    if points < needed:
        raise ValueError(
            f"points must be at least {needed} for confidence {confidence:g} shared between "
            f"{sigmas} sigmas, was {points}"
        )


def _count(
    evaluator: Evaluator,
    some: np.ndarray,
    sigma: np.ndarray,
    samples: int,
    errors: np.ndarray,
    g: int,
) -> np.ndarray:
    """Count the errors among the draws of some images; how far the nearest of them is, (I,)."""
    nearest = np.full(len(errors), np.inf)
    for rows, draws in in_rounds(some, 0, samples):
        wrong = ~(evaluator.margins(rows, sigma[rows], draws) > 0)
        errors[:, g] += np.bincount(rows[wrong], minlength=len(errors))
        slots = wrong.nonzero()[0]
        size = evaluator.batch_size
        for part in np.split(slots, range(size, len(slots), size)):
            image, draw, noise = (
                torch.as_tensor(each, device=evaluator.device)
                for each in (rows[part], draws[part], sigma[rows[part]])
            )
            with torch.no_grad():
                points = evaluator.noisy(image, noise, draw)
                away = (points.double() - evaluator.x[image].double()).flatten(1).norm(dim=1)
            np.minimum.at(nearest, rows[part], away.cpu().numpy())
    return nearest[some]
