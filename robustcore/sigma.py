"""Error rates in noise, and the scale of the noise at which a rate is reached."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from robustcore import inputs
from robustcore import noise as laws
from robustcore.engine import Engine
from robustcore.evaluator import Evaluator
from robustcore.network import Model
from robustcore.noise import Gaussian, Noise
from robustcore.provenance import bar, provenance
from robustcore.rare import LEAST_SAMPLES, splitting_rate, splitting_sigma
from robustcore.results import ErrorRate, Provenance, SigmaResult
from robustcore.runs import by_blocks
from robustcore.search import Bisection, Quantile
from robustcore.stats import clopper_pearson

METHODS = ("quantile", "bisection", "splitting")
RATE_METHODS = ("counting", "splitting")
LOOKS = {"quantile": 1, "bisection": 8}  # evaluations of each draw, about
BLOCK = 256  # images searched together: bounds the memory of a search and keeps batches full


@by_blocks()
def error_rate(
    model: Model | Engine,
    x: Any,  # (B, *shape), or one input
    sigma: float | Sequence[float] | np.ndarray,  # G values
    y: Any = None,  # (B,), or as the engine's error needs
    *,
    samples: int = 1000,
    confidence: float = 0.95,
    method: str = "counting",
    seed: int = 0,
    ids: Any = None,
    noise: Noise | None = None,
    run: str | os.PathLike[str] | None = None,
) -> ErrorRate:
    """The share of noisy copies of x that a model gets wrong, for each image and each sigma.

    model: any callable from inputs (S, *shape) to (S, K) logits (a tensor, or an object with
        .logits), evaluated in batches, under no_grad, on the device of x; or an `Engine`, which
        says how it is run, what an error is and in which range inputs should lie, and is set up
        once for many calls.
    x: floating-point inputs, finite, images in [0, 1] unless an `Engine` was told otherwise: a
        tensor, a numpy array, a Dataset or DataLoader of inputs or (input, label), or a folder with
        labels.csv. What is not a tensor is read as it is wanted, and its bytes are divided by 255.
        The model is given inputs in the type of its parameters, where they share one, else in that
        of x.
    sigma: scales of the noise, one or more, at least 0; of Gaussian noise N(x, sigma^2 I) the
        standard deviation, in the units of x.
    y: true class of each input, or the right answers in the form of the engine's error; None takes
        the model's own answers at x.
    samples: draws of each image, the same at every sigma. Draw i of an image is a function of
        (seed, id, i) alone, bit for bit the same on every device and at every batch size.
    confidence: of the Clopper-Pearson interval around each rate, each by itself.
    method: "counting" counts errors; "splitting" goes on where errors are rarer than 1/samples,
        down to 1e-15, for about 20 * samples evaluations to 1e-6, and returns a RareErrorRate
        (robustcore.rare, docs/rare_errors.md). Of an image that errs in a tenth of the draws at no
        sigma it begins at each sigma asked for, from above, until errors are met.
    ids: distinct integers in [0, 2^32) that name the images; their positions by default.
    noise: the law, such as `Uniform("Linf")` or `SaltAndPepper()` (robustcore.noise); None, the
        paper's, is `Gaussian()`, not clipped.
    run: folder that keeps finished images; the same call goes on from there (docs/scale.md). The
        ranks of a process group share the work and all get the whole record.

    A tie or a NaN among the logits is an error. Cost: B * (G * samples + 1) evaluations of the
    model. Raises ValueError, TypeError or RuntimeError naming the argument.

    Source: Ford et al. (2019), section 4; Clopper and Pearson (1934).
    """
    start = time.perf_counter()
    engine, law = Engine.of(model), laws.of(noise)
    grid = inputs.sigmas(sigma, engine.ranges)
    samples = inputs.integer("samples", samples, 1, 2**32)
    confidence = inputs.fraction("confidence", confidence)
    if inputs.choice("method", method, RATE_METHODS) == "splitting":
        return splitting_rate(
            engine,
            x,
            grid,
            y,
            samples=samples,
            confidence=confidence,
            seed=seed,
            ids=ids,
            noise=law,
        )
    x = engine.images(x)
    total = len(x) * len(grid) * samples
    evaluator = Evaluator(engine, x, y, ids=ids, seed=seed, noise=law, planned=total)
    with bar(total, "evaluations", engine.progress) as shown:
        errors = evaluator.counts(grid, samples, shown.update)
    low, high = clopper_pearson(errors, samples, confidence)
    return ErrorRate(
        ids=evaluator.ids.cpu().numpy(),
        labels=evaluator.labels.cpu().numpy(),
        sigma=grid,
        rate=errors / samples,
        rate_low=low,
        rate_high=high,
        n_errors=errors,
        n_samples=np.full_like(errors, samples),
        n_forward=evaluator.n_forward,
        n_backward=np.zeros_like(evaluator.n_forward),
        confidence=confidence,
        provenance=provenance(evaluator, "counting", samples, start, {"noise": repr(law)}),
    )


@by_blocks()
def sigma_at_error_rate(
    model: Model | Engine,
    x: Any,  # (B, *shape), or one input
    error_rate: float = 0.01,
    y: Any = None,  # (B,), or as the engine's error needs
    *,
    samples: int = 1000,
    rtol: float | None = None,
    confidence: float = 0.95,
    sigma_max: float | None = None,
    method: str | None = None,
    seed: int = 0,
    ids: Any = None,
    noise: Gaussian | None = None,
    run: str | os.PathLike[str] | None = None,
) -> SigmaResult:
    """sigma(x, mu): the Gaussian noise in which a model errs at rate mu, for each image.

    `scale_at_error_rate` for Gaussian noise; sigma_max is its scale_max. Arguments, cost and errors
    are those given there. Source: Ford et al. (2019), section 4 and its code.
    """
    if not isinstance(laws.of(noise), Gaussian):
        raise ValueError(f"noise must be Gaussian, was {noise}: use scale_at_error_rate")
    return _scale(
        Engine.of(model),
        x,
        error_rate,
        y,
        samples=samples,
        rtol=rtol,
        confidence=confidence,
        largest=("sigma_max", sigma_max),
        method=method,
        seed=seed,
        ids=ids,
        noise=noise,
    )


@by_blocks()
def scale_at_error_rate(
    model: Model | Engine,
    x: Any,  # (B, *shape), or one input
    error_rate: float = 0.01,
    y: Any = None,  # (B,), or as the engine's error needs
    *,
    samples: int = 1000,
    rtol: float | None = None,
    confidence: float = 0.95,
    scale_max: float | None = None,
    method: str | None = None,
    seed: int = 0,
    ids: Any = None,
    noise: Noise | None = None,
    run: str | os.PathLike[str] | None = None,
) -> SigmaResult:
    """The scale of the noise at which a model errs at rate mu, for each image.

    error_rate: mu; at least 1/samples but for "splitting". samples: draws of each image, at most so
        many with rtol.
    rtol: stop adding draws once the half-width of the interval is at most rtol * sigma; the
        record's notes say so where `samples` did not suffice.
    confidence: of the interval [sigma_low, sigma_high], for each image by itself. It is that of an
        order statistic, exact where a ray of noise that enters the error set does not leave it;
        where rtol stopped early and the margins looked normal it rests on a fit to them.
    scale_max: the search ends there; an image still below the rate there is "censored". None: the
        law's own `largest` scale, as 1 for salt and pepper; else the span of the `pixels` of the
        `Engine`, 1 by default; where these are None, the span of x, the same for all images.
    method: "quantile" finds the quantile of the radii at which the draws first err, with about one
        evaluation of each draw; "bisection" is the paper's procedure, with all draws at 8 to 10
        values of sigma. Both answer the same question with the same draws. "splitting" finds rates
        down to 1e-15, with about 20 * samples evaluations for 1e-6 (10,000 at least), and returns a
        RareSigma (robustcore.rare, docs/rare_errors.md). None: "quantile", or "splitting" below
        1/samples, and the record's notes say so.
    noise: the law; `sigma` in the record is its scale. Other arguments as in `error_rate`; x is
        finite and floating-point, y None takes the model's own answers.

    An image the model gets wrong has sigma 0. A randomised model is announced by a warning and
    searched by bisection with fresh draws at every guess.
    Where the rate is not monotone in sigma there are several answers: "quantile" looks for the
    smallest (docs/sigma_search.md), "bisection" takes the one that its path leads to.
    Cost: about 1.15 * samples evaluations of each image ("quantile"), 8 * samples ("bisection").
    The same seed, ids and settings give the same numbers at any batch size, image by image, up to
    the model's own rounding. Raises ValueError, TypeError or RuntimeError naming the argument.

    Source: Ford et al. (2019), section 4 and its code; David and Nagaraja, Order Statistics, 7.1.
    """
    return _scale(
        Engine.of(model),
        x,
        error_rate,
        y,
        samples=samples,
        rtol=rtol,
        confidence=confidence,
        largest=("scale_max", scale_max),
        method=method,
        seed=seed,
        ids=ids,
        noise=noise,
    )


def _scale(
    engine: Engine,
    x: Any,
    error_rate: float,
    y: Any,
    *,
    samples: int,
    rtol: float | None,
    confidence: float,
    largest: tuple[str, float | None],
    method: str | None,
    seed: int,
    ids: Any,
    noise: Noise | None,
) -> SigmaResult:
    """Both searches. largest: the name of the argument that ends them, and its value."""
    start = time.perf_counter()
    law = laws.of(noise)
    samples = inputs.integer("samples", samples, 1, 2**20)
    confidence = inputs.fraction("confidence", confidence)
    name, asked = largest
    if asked is not None:
        asked = inputs.positive(name, asked)
        if law.largest is not None and asked > law.largest:
            raise ValueError(f"{name} must be at most {law.largest:g} for {law}, was {asked:g}")
    rtol = None if rtol is None else inputs.positive("rtol", rtol)
    error_rate = inputs.fraction("error_rate", error_rate)
    rare = error_rate * samples < 1 - 1e-9
    chosen = ("splitting" if rare else "quantile") if method is None else method
    note = f"splitting, as the error rate is below 1/samples = {1 / samples:g}"
    if inputs.choice("method", chosen, METHODS) == "splitting":
        where = "with method='splitting'" if method is not None else f"with {note}"
        inputs.left_out("rtol", rtol, where)
        if method is None and samples < LEAST_SAMPLES:
            least = min(math.ceil(1 / error_rate - 1e-9), LEAST_SAMPLES)
            raise ValueError(
                f"samples must be at least {least} for error_rate = {error_rate:g}, was {samples}"
            )
        x = engine.images(x)
        return splitting_sigma(
            engine,
            x,
            error_rate,
            y,
            samples=samples,
            confidence=confidence,
            sigma_max=engine.largest_scale(law, asked, x),
            note=note if method is None else None,
            seed=seed,
            ids=ids,
            noise=noise,
        )
    rate, method = inputs.rate_for(samples, error_rate), chosen
    if method == "bisection":
        inputs.left_out("rtol", rtol, "with method='bisection', which takes all samples")
    x = engine.images(x)
    sigma_max = engine.largest_scale(law, asked, x)
    evaluator = Evaluator(
        engine,
        x,
        y,
        ids=ids,
        seed=seed,
        noise=law,
        planned=len(x) * samples * LOOKS[method],
    )
    if evaluator.randomized:
        method = "bisection"
    clean = evaluator.clean_margins
    parts: dict[str, list[np.ndarray]] = {
        name: [] for name in ("sigma", "bracket", "bounds", "error_rate", "seen")
    }
    expected = int((clean > 0).sum()) * samples * LOOKS[method]
    with bar(expected, "evaluations", engine.progress) as shown:
        for first in range(0, len(clean), BLOCK):
            part = clean[first : first + BLOCK]
            arguments = part, rate, samples, sigma_max, confidence
            search: Bisection | Quantile
            if method == "quantile":
                search = Quantile(*arguments, rtol, law.rough)
            else:
                search = Bisection(*arguments, evaluator.randomized)
            while len((plan := search.plan())[0]):
                rows, sigma, draws = plan
                search.update(evaluator.margins(rows + first, sigma, draws, shown.update))
                shown.total = max(shown.total or 0, shown.n)
                shown.set_postfix_str(f"{first + int(search.finished.sum())} images done")
            for attribute, values in parts.items():
                values.append(getattr(search, attribute))
    settings = {
        "rtol": rtol,
        "sigma_max": sigma_max,
        "noise": repr(law),
    }
    columns = {attribute: np.concatenate(values, -1) for attribute, values in parts.items()}
    if rtol is not None:
        evaluator.notes += _wide(columns, rtol, clean > 0)
    return _sigma_result(
        columns,
        evaluator,
        rate,
        confidence,
        sigma_max,
        provenance(evaluator, method, samples, start, settings),
    )


def _wide(columns: dict[str, np.ndarray], rtol: float, right: np.ndarray) -> list[str]:
    """The note that intervals are wider than asked for, where one is."""
    low, high = columns["bounds"]
    known = right & np.isfinite(columns["sigma"])
    if not (known & ~(high - low <= 2 * rtol * columns["sigma"] * (1 + 1e-9))).any():
        return []
    return [
        f"rtol = {rtol:g} was not met for every image: sigma_low and sigma_high are as wide as "
        "these samples leave them"
    ]


def _sigma_result(
    columns: dict[str, np.ndarray],
    evaluator: Evaluator,
    rate: float,
    confidence: float,
    sigma_max: float,
    provenance: Provenance,
) -> SigmaResult:
    wrong = ~(evaluator.clean_margins > 0)
    censored = ~wrong & ~np.isfinite(columns["bracket"][1])
    sigma = np.where(wrong, 0.0, np.where(censored, np.inf, columns["sigma"]))
    low, high = np.where(wrong, 0.0, columns["bounds"])
    bracket_low, bracket_high = np.where(wrong, 0.0, columns["bracket"])
    return SigmaResult(
        ids=evaluator.ids.cpu().numpy(),
        labels=evaluator.labels.cpu().numpy(),
        sigma=sigma,
        sigma_low=np.minimum(low, sigma_max),
        sigma_high=np.where(censored, np.inf, high),
        bracket_low=np.minimum(bracket_low, sigma_max),
        bracket_high=bracket_high,
        error_rate=np.where(wrong, 1.0, columns["error_rate"]),
        status=np.where(wrong, "misclassified", np.where(censored, "censored", "found")),
        n_samples=np.where(wrong, 0, columns["seen"]),
        n_forward=evaluator.n_forward,
        n_backward=np.zeros_like(evaluator.n_forward),
        rate=rate,
        confidence=confidence,
        provenance=provenance,
    )
