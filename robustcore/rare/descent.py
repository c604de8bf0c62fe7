"""Down from common errors to rare ones, for every image of an engine: what the methods share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from robustcore import noise as laws
from robustcore.engine import Engine
from robustcore.evaluator import Evaluator
from robustcore.gradients import Gradients, NoGradients
from robustcore.noise import FromNormals, Gaussian, Noise
from robustcore.rare.bridge import Bridge
from robustcore.rare.crossings import Crossings
from robustcore.rare.found import Found, joined
from robustcore.rare.particles import Particles
from robustcore.rare.path import LOWEST, Path
from robustcore.rare.second_look import look_again
from robustcore.rare.settings import Goal, Settings
from robustcore.rare.splitting import Splitting
from robustcore.search import Quantile
from robustcore.streams import Stream

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

PILOT = 256  # draws that find where errors are common
FAINT = 0.01  # error rate to begin at, of images that meet no more
STEP, STEPS = 0.8, 30  # of a ladder of sigmas, down to a thousandth
PAST = 0.3  # in the log rate: so far below a goal a bridge is best, which moves the last level
MEMORY = 2**26  # pixels of all particles held at a time


def evaluator_of(
    engine: Engine,
    x: Any,
    y: Any,
    settings: Settings,
    *,
    noise: Noise | None = None,
    **names: Any,
) -> Evaluator:
    """The images on their way down.

    Raises ValueError for a law of noise without `of_normals`, a randomised model, one that
    draws its noise in features, and margins that are not finite.
    """
    law = laws.of(noise)
    law.of_normals(torch.ones(1, 1))  # raises for a law that cannot
    if not isinstance(law, Gaussian):
        law = FromNormals(law)
    x = engine.images(x)
    images = len(x)
    planned = images * settings.planned()
    evaluator = Evaluator(
        engine, x, y, stream=Stream.RARE_ERRORS, planned=planned, exact=True, noise=law, **names
    )
    if evaluator.randomized:
        raise ValueError(
            "model must give one answer to one input for splitting, was randomised: what a "
            "particle was judged to be would not hold when it is judged again"
        )
    if evaluator.fused is not None and evaluator.fused.packed.draws == "features":
        raise ValueError(
            "model must draw its noise in pixels for splitting, was packed with draws='features': "
            "particles are noise of pixels"
        )
    infinite = np.flatnonzero(~np.isfinite(evaluator.clean_margins))
    if len(infinite):
        raise ValueError(
            "model must have a finite margin at every image for splitting, that of image "
            f"{infinite[0]} was {evaluator.clean_margins[infinite[0]]}"
        )
    return evaluator


def descend(
    evaluator: Evaluator, settings: Settings, goal: Goal, shown: Any, confidence: float
) -> Found:
    """Every image that is right, down to the goal; with warnings."""
    wrong = ~(evaluator.clean_margins > 0)
    if not isinstance(evaluator.noise, Gaussian) and (settings.bridge or settings.second_look):
        settings = replace(settings, bridge=False, second_look=False)
        evaluator.notes.append("no bridge and no second look, which know Gaussian noise alone")
    if settings.bridge and not _differentiable(evaluator):
        settings = replace(settings, bridge=False)
    start = _common(evaluator, settings, goal.common, ~wrong, shown)
    uncommon = np.isnan(start) & ~wrong
    start[uncommon] = goal.sigmas[0] if goal.sigmas else settings.sigma_max
    start[wrong | (start < goal.sigma)] = np.nan
    paths: list[tuple[Ints, Path]] = []
    backward = np.zeros(len(start), np.int64)
    rows = np.flatnonzero(np.isfinite(start))
    while len(rows):
        new = _down(evaluator, settings, goal, start, rows, backward, shown)
        paths += new
        # errors may be more frequent in less noise: of images that met none, or hardly any
        empty = [at[_faint(each, settings) & ~each.short] for at, each in new]
        again = np.zeros(len(start), bool)
        again[np.concatenate(empty)] = True
        less = _less(evaluator, settings, goal, start, again & uncommon, shown)
        rows = np.flatnonzero(np.isfinite(less))
        start[rows] = less[rows]
    found = joined(paths, start, wrong, uncommon, settings)
    found.backward += backward
    rows = np.flatnonzero(np.isfinite(start) & ~found.unknown)
    if settings.second_look and len(rows):
        look_again(evaluator, found, rows, goal, confidence)
    return found


def _down(
    evaluator: Evaluator,
    settings: Settings,
    goal: Goal,
    start: Floats,
    rows: Ints,
    backward: Ints,
    shown: Any,
) -> list[tuple[Ints, Path]]:
    """Paths of images rows from their starts, in blocks; their gradients are added to backward."""
    together = max(1, MEMORY // (settings.particles * evaluator.x[0].numel()))
    paths = []
    for first in range(0, len(rows), together):
        part = rows[first : first + together]
        particles = Particles(evaluator, part, settings.particles, shown.update)
        down = Splitting(
            particles, start[part], settings.samples, settings.probability, settings.moves,
            goal.log_rate - (PAST if settings.bridge else 0.0), goal.sigma,
        )  # fmt: skip
        down.begin()
        bridge = Bridge(particles, down.sigma) if settings.bridge else None
        if bridge is None:
            paths.append((part, down.run()))
        else:
            crossings = Crossings(bridge, down, goal.log_rates)
            paths.append((part, crossings.ended(down.run(crossings.settled))))
            backward[part] += bridge.backward
        shown.total = max(shown.total or 0, shown.n)
    return paths


def _faint(path: Path, settings: Settings) -> Bools:
    """Which images met no errors, or at once such as are hardly told apart from none (R,)."""
    first = np.nan_to_num(path.curve.log_rate[:, 0], nan=-np.inf)
    return np.asarray(first < LOWEST + 2 * -np.log(settings.probability))


def _differentiable(evaluator: Evaluator) -> bool:
    """Whether a bridge can be built; else the record's notes say why not."""
    gradients = Gradients(evaluator, None, 2.0)
    point = gradients.x[:1].clone()
    try:
        gradients(
            torch.zeros(1, dtype=torch.int64, device=point.device), point, point, "margin", None
        )
    except NoGradients as error:
        evaluator.notes.append(f"no bridge at the last level: {error}")
        return False
    return True


def _common(
    evaluator: Evaluator, settings: Settings, rate: float, among: Bools, shown: Any
) -> Floats:
    """The sigma at which errors of images `among` (B,) have about this rate; nan where none has."""
    clean = np.where(among, evaluator.clean_margins, -1.0)  # as if wrong: nothing is searched
    search = Quantile(clean, rate, PILOT, settings.sigma_max, 0.95)
    while len((plan := search.plan())[0]):
        search.update(evaluator.margins(*plan, shown.update))
    known = among & np.isfinite(search.bracket[1]) & (search.sigma > 0)
    return np.where(known, np.minimum(search.sigma, settings.sigma_max), np.nan)


def _less(
    evaluator: Evaluator, settings: Settings, goal: Goal, start: Floats, among: Bools, shown: Any
) -> Floats:
    """A start in less noise than the last one, of images `among` (B,); nan where there is none.

    The next sigma that is asked for; else one at which the first draws err at all, by a search for
    it, or, as that may pass by errors between two of its guesses, by a look at many.
    """
    if not among.any():
        return np.full(len(start), np.nan)
    if goal.sigmas:
        asked = np.array(goal.sigmas)
        lower = np.where(asked < start[:, None], asked, np.nan)
        known = among & np.isfinite(lower).any(1)
        return np.where(known, np.fmax.reduce(lower, 1), np.nan)
    faint = max(FAINT, 2 * float(np.exp(goal.log_rates.max())))
    less = _common(evaluator, settings, min(faint, goal.common), among, shown)
    less = np.where(less < start * (1 - 1e-9), less, np.nan)
    seen = _most_errors(evaluator, start, among & np.isnan(less), shown)
    return np.where(np.isnan(less), seen, less)


def _most_errors(evaluator: Evaluator, start: Floats, among: Bools, shown: Any) -> Floats:
    """The sigma, of a ladder down from the start, at which most draws err; nan where none does."""
    rows = np.flatnonzero(among)
    ladder = start[rows, None] * STEP ** np.arange(1, STEPS + 1)
    slots = rows.repeat(STEPS * PILOT)
    draws = np.tile(np.arange(PILOT), len(rows) * STEPS)
    margins = evaluator.margins(slots, ladder.ravel().repeat(PILOT), draws, shown.update)
    errors = (~(margins.reshape(len(rows), STEPS, PILOT) > 0)).sum(2)
    out = np.full(len(start), np.nan)
    some = errors.any(1)
    at = errors.argmax(1)  # of equal ones the largest
    out[rows[some]] = ladder[np.arange(len(rows)), at][some]
    return out
