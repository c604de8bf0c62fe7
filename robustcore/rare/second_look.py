"""A second opinion: do the errors around the nearest one weigh more than splitting found in all?

The draws of a Gaussian around the nearest error found, weighted by its density ratio, estimate the
error rate without bias, and mostly too low, as they see errors in one direction only. Where even
their lower limit is above splitting's upper one, splitting has missed errors. So it has where it
met none at all, and they reach the rate asked for.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp

from robustcore.distance import distance_to_error
from robustcore.evaluator import Evaluator
from robustcore.gradients import NoGradients
from robustcore.rare.curve import height
from robustcore.rare.found import Found
from robustcore.rare.particles import LOOK, normals
from robustcore.rare.path import LOWEST
from robustcore.rare.settings import Goal

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

EFFORT = 25  # gradients of the nearest error, which is found within 3 % by so many
DRAWS = 512
ERRORS = 2.0  # standard errors below the estimate
SIGMAS = 1.0, 1.5, 2.25, 3.4  # looked at where no error was met, over that of a half-space
BLOCK = 2**25  # pixels at a time


def look_again(
    evaluator: Evaluator, found: Found, rows: Ints, goal: Goal, confidence: float
) -> None:
    """The warning "missed", where the nearest error says that the interval at the goal is wrong."""
    try:
        points, distance, forward, backward = nearest(evaluator, rows)
    except NoGradients as error:
        evaluator.notes.append(f"no second look from the nearest error: {error}")
        found.settings = replace(found.settings, second_look=False)
        return
    evaluator.n_forward[rows] += forward
    found.backward[rows] += backward
    count, reached = len(found.start), np.asarray(found.reached.any(1))
    if goal.sigma > 0:
        sigma = np.full(count, goal.sigma)
        most = found.curve.rate_interval(sigma[:, None], confidence)[2][:, 0]
        most = np.where(reached, most, LOWEST)
    else:  # at the least sigma of the interval the rate must not be above the one asked for
        most = np.full(count, goal.log_rate)
        sigma = found.curve.sigma_interval(most[:, None], confidence)[1][:, 0]
        sigma = np.where(reached, sigma, 0.0)
    low = np.full(count, -np.inf)
    low[rows] = log_lower_rate(evaluator, rows, points, distance, sigma[rows])
    found.belied |= (low > most) & ~reached
    empty = np.flatnonzero(~reached[rows] & np.isfinite(distance))
    for times in () if goal.sigma > 0 else SIGMAS:
        half_space = distance[empty] / float(height(np.array(goal.log_rate)))
        at = np.minimum(times * half_space, found.start[rows[empty]])
        seen = log_lower_rate(evaluator, rows[empty], points[empty], distance[empty], at)
        found.belied[rows[empty]] |= seen > goal.log_rate
    found.warn("missed", (low > most) | found.belied)


def nearest(evaluator: Evaluator, rows: Ints) -> tuple[torch.Tensor, Floats, Ints, Ints]:
    """(points, distances, forward, backward) of the nearest errors (l2) of images rows (R,).

    Raises NoGradients for a model without them.
    """
    at = torch.as_tensor(rows, device=evaluator.device)
    with evaluator.engine.part_of():
        near = distance_to_error(
            evaluator.engine,
            evaluator.network.shaped(evaluator.x[at]).to(evaluator.dtype),
            evaluator.answers_of(at),
            effort=EFFORT,
            seed=evaluator.seed,
            ids=evaluator.ids[at],
        )
    return (
        near.x_adv.float().reshape(-1, *evaluator.x.shape[1:]),
        near.distance,
        near.n_forward,
        near.n_backward,
    )


def log_lower_rate(
    evaluator: Evaluator, rows: Ints, points: torch.Tensor, distance: Floats, sigma: Floats
) -> Floats:
    """Lower limit (R,) of the log error rate at sigma; -inf where the draws say nothing."""
    out = np.full(len(rows), -np.inf)
    useful = np.flatnonzero(np.isfinite(distance) & (distance > 0) & (sigma > 0))
    step = max(1, BLOCK // (DRAWS * evaluator.x[0].numel()))
    for start in range(0, len(useful), step):
        part = useful[start : start + step]
        image = torch.as_tensor(rows[part], device=evaluator.device)
        there = evaluator.among(points[part].to(evaluator.device), image)
        there.ids = evaluator.ids[image]
        slots = np.arange(len(part)).repeat(DRAWS)
        names = np.tile(np.arange(LOOK, LOOK + DRAWS), len(part))
        margin = there.margins(slots, sigma[part].repeat(DRAWS), names)
        evaluator.n_forward[rows[part]] += there.n_forward
        owners, named = (torch.as_tensor(each, device=evaluator.device) for each in (slots, names))
        draws = evaluator.x.new_empty(len(slots), *evaluator.x.shape[1:])
        normals(evaluator, image, owners, named, draws)
        towards = (there.x - evaluator.x[image]).flatten(1)
        towards /= torch.linalg.vector_norm(towards, dim=1, keepdim=True)
        draws = draws.view(len(part), DRAWS, -1).mul_(towards[:, None])
        along = draws.sum(2, dtype=torch.float64).cpu().numpy()
        shift = (distance[part] / sigma[part])[:, None]
        weight = np.where(margin.reshape(-1, DRAWS) > 0, -np.inf, -shift * along - shift**2 / 2)
        out[part] = _lower(weight)
    return out


def _lower(weight: Floats) -> Floats:
    """log of (mean - ERRORS standard errors) of exp(weight) (R, DRAWS)."""
    some = np.asarray(np.isfinite(weight).any(1))
    weight = np.where(some[:, None], weight, 0.0)
    total = logsumexp(weight, axis=1)
    relative = np.exp(logsumexp(2 * weight, axis=1) - 2 * total) - 1 / weight.shape[1]
    left = 1 - ERRORS * np.sqrt(np.maximum(relative, 0.0))
    sure = some & (left > 0)
    low = total - np.log(weight.shape[1]) + np.log(np.where(sure, left, 1.0))
    return np.where(sure, low, -np.inf)
