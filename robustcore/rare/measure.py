"""From arguments to records: error rates far below 1/samples, and the sigma of such rates."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustcore import inputs
from robustcore.arguments import reals, shown
from robustcore.engine import Engine
from robustcore.evaluator import Evaluator
from robustcore.network import Model
from robustcore.noise import Noise
from robustcore.provenance import bar, provenance
from robustcore.rare.descent import descend, evaluator_of
from robustcore.rare.found import Found
from robustcore.rare.path import LOWEST
from robustcore.rare.settings import SURVIVORS, Goal, Settings
from robustcore.rare.splitting import NEAR
from robustcore.results.provenance import Provenance
from robustcore.results.rare import ErrorCurve, RareErrorRate, RareSigma
from robustcore.runs import by_blocks
from robustcore.stats import clopper_pearson

Floats = NDArray[np.float64]
Strings = NDArray[np.str_]

RATES = (0.1, 0.03, 0.01, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9)
LEAST, MOST = 1e-15, 0.25
PROBABILITY, MOVES = 0.2, 4
LEAST_SAMPLES = 2 * math.ceil(SURVIVORS / PROBABILITY)


@by_blocks()
def error_curve(
    model: Model | Engine,
    x: Any,  # (B, *shape), or one input
    y: Any = None,  # (B,)
    rates: Sequence[float] = RATES,  # G values
    *,
    samples: int = 1000,
    level_probability: float = PROBABILITY,
    moves: int = MOVES,
    confidence: float = 0.95,
    sigma_max: float = 1.0,
    second_look: bool = True,
    bridge: bool = True,
    seed: int = 0,
    ids: Any = None,
    noise: Noise | None = None,
    run: str | os.PathLike[str] | None = None,
) -> ErrorCurve:
    """sigma(x, mu) for rates mu down to 1e-15, all from one descent (robustcore.rare.splitting).

    rates: mu, from 1e-15 to 0.25.
    samples: first draws of each image; a fifth as many particles go down from there, but at least
        20 / level_probability (half as many as samples without a bridge), and the relative error
        falls with their root.
    level_probability: share of the particles that a level should leave, in (0, 1). moves: of each
        particle at each level.
    second_look: search the nearest error of each image (25 gradients), and warn where 512 draws
        around it show a rate above the one asked for at the low end of the interval. Where the
        descent met no error four sigmas are looked at.
    bridge: estimate the last level again by draws around its errors (robustcore.rare.bridge), and
        others near rates two decades apart on the way down, each with a gradient at every particle,
        256 at most, for about half of the evaluations; all is pooled (robustcore.rare.pooling).
    Both are left out, with a note, for a model without gradients and for uniform noise.
    noise: `Gaussian()`, also for None, or `Uniform(norm)`, whose draws are here a function of
        normals and so not those of other measurements; `sigma` is its scale.
    Other arguments as in `sigma_at_error_rate`.

    The interval rests on the families of the first draws, which compete but do not meet: the
    variance between them is that of the estimate. It is as honest as the moves are mobile; read
    `warning` first, and docs/rare_errors.md on when to believe it. Where the rate is not monotone,
    sigma is the largest with this rate below the sigma of rate 0.1, or below sigma_max where the
    search for that finds none; where there is no error on the way down from sigma_max, below the
    sigma of twice the rate (0.01 at least). An image that is censored may err more often in less
    noise.
    Cost: about 1.4 * samples evaluations of each image for each power of e that the rate falls,
    20 * samples for 1e-6, and for fewer than 500 samples as for 500; two to three times as many
    where errors end again along rays. The same seed, ids and settings give the same numbers at any
    batch size, image by image, up to the model's own rounding. Memory: blocks of images, 256 MiB of
    particles each, or one image; a bridge holds up to 5 times as much beside them. Raises
    ValueError for a randomised model and one without finite margins, and ValueError, TypeError or
    RuntimeError naming any other argument.

    Sources: Au and Beck (2001); Cérou et al. (2012); Lee and Whiteley (2018);
    Meng and Wong (1996).
    """
    start = time.perf_counter()
    engine = Engine.of(model)
    grid = rates_of("rates", rates)
    confidence = inputs.fraction("confidence", confidence)
    settings = Settings(
        samples=samples,
        probability=inputs.fraction("level_probability", level_probability),
        moves=inputs.integer("moves", moves, 1, 1000),
        sigma_max=inputs.positive("sigma_max", sigma_max),
        second_look=inputs.flag("second_look", second_look),
        bridge=inputs.flag("bridge", bridge),
    )
    settings.check(float(grid.min()))
    evaluator = evaluator_of(engine, x, y, settings, seed=seed, ids=ids, noise=noise)
    planned = len(evaluator.x) * settings.planned(float(grid.min()))
    with bar(planned, "evaluations", engine.progress) as shown:
        found = descend(evaluator, settings, Goal.at_rates(grid), shown, confidence)
    sigma, low, high, status = _sigmas(found, np.log(grid), confidence, settings.sigma_max)
    return ErrorCurve(
        ids=evaluator.ids.cpu().numpy(),
        labels=evaluator.labels.cpu().numpy(),
        rates=grid,
        sigma=sigma,
        sigma_low=low,
        sigma_high=high,
        status=status,
        n_forward=evaluator.n_forward,
        n_backward=found.backward,
        confidence=confidence,
        provenance=_provenance(evaluator, found.settings, start),
        **found.descent,
    )


def splitting_sigma(
    engine: Engine,
    x: Any,
    rate: float,
    y: Any,
    *,
    samples: int,
    confidence: float,
    sigma_max: float,
    note: str | None,
    **names: Any,
) -> RareSigma:
    """`sigma_at_error_rate` by splitting. note: why it was chosen, for the record."""
    start = time.perf_counter()
    grid = rates_of("error_rate", [rate])
    settings = Settings(samples, PROBABILITY, MOVES, sigma_max, True)
    evaluator = evaluator_of(engine, x, y, settings, **names)
    if note is not None:
        evaluator.notes.append(note)
    planned = len(evaluator.x) * settings.planned(float(grid.min()))
    with bar(planned, "evaluations", engine.progress) as shown:
        found = descend(evaluator, settings, Goal.at_rates(grid), shown, confidence)
    found_at = _sigmas(found, np.log(grid), confidence, sigma_max)
    sigma, low, high = (each[:, 0] for each in found_at[:3])
    status = found_at[3][:, 0]
    levels = np.where(found.reached, found.curve.sigma, np.nan)
    censored, wrong = np.isin(status, ("censored", "undecided")), status == "misclassified"
    above = np.nanmin(np.where(levels >= sigma[:, None], levels, np.inf), axis=1, initial=np.inf)
    below = np.nanmax(np.where(levels <= sigma[:, None], levels, 0.0), axis=1, initial=0.0)
    first = found.curve.log_rate[:, 0]
    first = np.where(np.isnan(first), np.where(found.unknown, 0.0, -np.inf), first)
    least = np.where(found.unknown | found.belied, 0.0, sigma_max)
    at_most = np.where(wrong, 1.0, np.where(censored, np.exp(first), rate))
    return RareSigma(
        ids=evaluator.ids.cpu().numpy(),
        labels=evaluator.labels.cpu().numpy(),
        sigma=sigma,
        sigma_low=low,
        sigma_high=high,
        bracket_low=np.where(wrong, 0.0, np.where(censored, least, below)),
        bracket_high=np.where(wrong, 0.0, np.where(censored, np.inf, above)),
        error_rate=at_most,
        status=status,
        n_samples=np.where(wrong, 0, samples),
        n_forward=evaluator.n_forward,
        n_backward=found.backward,
        rate=float(grid[0]),
        confidence=confidence,
        provenance=_provenance(evaluator, found.settings, start),
        **found.descent,
    )


def splitting_rate(
    engine: Engine,
    x: Any,
    grid: Floats,
    y: Any,
    *,
    samples: int,
    confidence: float,
    **names: Any,
) -> RareErrorRate:
    """`error_rate` by splitting: plain draws where errors are common, splitting below."""
    start = time.perf_counter()
    settings = Settings(samples, PROBABILITY, MOVES, max(1.0, float(grid.max())), True)
    evaluator = evaluator_of(engine, x, y, settings, **names)
    count = len(evaluator.x)
    with bar(count * settings.planned(), "evaluations", engine.progress) as shown:
        found = descend(evaluator, settings, Goal.at_sigmas(grid), shown, confidence)
        started = (grid <= found.start[:, None]) | found.uncommon[:, None]  # nan starts nowhere
        split = started & (grid > 0) & ~found.unknown[:, None]
        row, cell = np.nonzero(~split)
        noise, draws = grid[cell].repeat(samples), np.tile(np.arange(samples), len(row))
        margin = evaluator.margins(row.repeat(samples), noise, draws, shown.update)
    errors = np.zeros((count, len(grid)), np.int64)
    errors[row, cell] = (~(margin.reshape(-1, samples) > 0)).sum(1)
    n_samples = np.where(split, 0, samples)
    low, high = clopper_pearson(errors, samples, confidence)
    at = np.broadcast_to(np.where(grid > 0, grid, 1.0), split.shape)
    log_rate, log_low, log_high = found.curve.rate_interval(at, confidence)
    reached = np.asarray(found.reached.any(1))[:, None]
    last = np.nanmin(np.where(found.reached, found.curve.sigma, np.inf), axis=1, initial=np.inf)
    bottom = np.nanmin(found.descent["level_log_rate"], axis=1, initial=0.0)
    empty = ~reached | (at > found.start[:, None])  # a descent from there met no error
    beyond = empty | (at < last[:, None])
    unseen = empty | (beyond & (bottom < LOWEST + NEAR)[:, None])
    rate = np.where(split, np.exp(np.where(unseen, -np.inf, log_rate)), errors / samples)
    rate_low = np.where(split, np.where(beyond, 0.0, np.exp(np.minimum(log_low, 0.0))), low)
    most = np.where(found.belied, 1.0, 10 * LEAST)[:, None]
    rate_high = np.where(split, np.where(unseen, most, np.exp(log_high)), high)
    return RareErrorRate(
        ids=evaluator.ids.cpu().numpy(),
        labels=evaluator.labels.cpu().numpy(),
        sigma=grid,
        rate=rate,
        rate_low=rate_low,
        rate_high=rate_high,
        n_errors=errors,
        n_samples=n_samples,
        n_forward=evaluator.n_forward,
        n_backward=found.backward,
        confidence=confidence,
        provenance=_provenance(evaluator, found.settings, start),
        **found.descent,
    )


def rates_of(name: str, value: Any) -> Floats:
    """A rate or a grid of rates to float64 (G,). Raises ValueError outside [1e-15, 0.25]."""
    grid = np.atleast_1d(reals(name, value, "numbers"))
    if grid.ndim != 1 or grid.size == 0:
        raise ValueError(f"{name} must be a flat list of rates, had shape {grid.shape}")
    if np.isnan(grid).any():
        raise ValueError(f"{name} must be numbers from {LEAST:g} to {MOST:g}, was {shown(value)}")
    wrong = grid[~((grid >= LEAST) & (grid <= MOST))]
    if len(wrong) and wrong[0] < LEAST:
        raise ValueError(
            f"{name} must be at least {LEAST:g}, was {wrong[0]:g}: after so many levels a handful "
            "of the first draws have descendants left, and no interval could be trusted"
        )
    if len(wrong):
        raise ValueError(
            f"{name} must be at most {MOST:g} for splitting, was {wrong[0]:g}: plain draws tell it"
        )
    return grid


def _sigmas(
    found: Found, log_rates: Floats, confidence: float, sigma_max: float
) -> tuple[Floats, Floats, Floats, Strings]:
    """(sigma, low, high, status), each (B, G)."""
    wanted = np.broadcast_to(log_rates, (len(found.start), len(log_rates)))
    sigma, low, high = found.curve.sigma_interval(wanted, confidence)
    wrong = np.broadcast_to(found.wrong[:, None], sigma.shape)
    # above the start of a descent from faint errors nothing is known
    most = np.where(found.uncommon, np.fmin(found.start, sigma_max), sigma_max)[:, None]
    censored = ~wrong & ~(sigma <= most)
    nothing = (found.unknown | found.belied)[:, None]
    least = np.where(nothing, 0.0, sigma_max)
    low = np.where(np.isfinite(low), np.minimum(low, most), least)
    sigma = np.where(wrong, 0.0, np.where(censored, np.inf, sigma))
    low = np.where(wrong, 0.0, low)
    high = np.where(wrong, 0.0, np.where(censored, np.inf, high))
    status = np.where(censored, np.where(nothing, "undecided", "censored"), "found")
    status = np.where(wrong, "misclassified", status)
    return sigma, *monotone(log_rates, low, high), status


def monotone(log_rates: Floats, low: Floats, high: Floats) -> tuple[Floats, Floats]:
    """Bounds (B, G) of sigma that grow with the rate, as sigma does, each within what it was.

    The upper bound of a larger rate is one of every smaller rate, and the lower one of a smaller
    rate one of every larger. So used a bound is wrong only where it is off by more than all the way
    between both sigmas: rarer by far than its own error.
    """
    order = np.argsort(log_rates, kind="stable")
    back = np.argsort(order, kind="stable")
    most = np.minimum.accumulate(high[:, order[::-1]], 1)[:, ::-1]
    return np.maximum.accumulate(low[:, order], 1)[:, back], most[:, back]


def _provenance(evaluator: Evaluator, settings: Settings, start: float) -> Provenance:
    how = {
        "particles": settings.particles,
        "level_probability": settings.probability,
        "moves": settings.moves,
        "sigma_max": settings.sigma_max,
        "second_look": settings.second_look,
        "bridge": settings.bridge,
        "noise": repr(evaluator.noise),
    }
    return provenance(evaluator, "splitting", settings.samples, start, how)
