"""Down from common errors to rare ones, for every image of an engine: what the methods share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from robustcore import inputs
from robustcore.evaluator import Evaluator
from robustcore.gradients import Gradients, NoGradients
from robustcore.network import Model
from robustcore.rare import second_look as look
from robustcore.rare.bridge import Bridge
from robustcore.rare.crossings import Crossings
from robustcore.rare.curve import Curve
from robustcore.rare.particles import Particles
from robustcore.rare.path import FIELDS, LEVELS, LOWEST, Path
from robustcore.rare.splitting import Splitting
from robustcore.search import Quantile

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

STREAM = 5  # its draws share nothing with those of other methods
SAMPLES = 2**20  # at most: their names end where those of the moves begin
SURVIVORS = 20  # least that a level is expected to leave
PILOT = 256  # draws that find where errors are common
COMMON = 0.1  # error rate there
PAST = 0.3  # in the log rate: so far below a goal a bridge is best, which moves the last level
MEMORY = 2**26  # pixels of all particles held at a time
FEW_FAMILIES = 1.5
ENDING = 0.9  # share of nested particles below which errors are said to end again
EACH = 20  # evaluations for each of the first draws, about: what is planned


@dataclass(frozen=True)
class Settings:
    """Of a descent. Raises ValueError for too few samples, and for too many."""

    samples: int
    probability: float
    moves: int
    sigma_max: float
    second_look: bool
    bridge: bool = True

    def __post_init__(self) -> None:
        inputs.integer("samples", self.samples, 2, SAMPLES)
        expected = self.particles * self.probability
        if expected < SURVIVORS:
            least = 2 * self.least
            raise ValueError(
                f"samples must be at least {least} for a level probability of "
                f"{self.probability:g}, so that {SURVIVORS} particles go on, was {self.samples}"
            )

    def check(self, rate: float) -> None:
        """Raises ValueError where LEVELS levels do not lead down to this rate."""
        most = (rate / COMMON) ** (1 / LEVELS)
        if self.probability > most:
            raise ValueError(
                f"level_probability must be at most {most:.2g}, so that {LEVELS} levels lead down "
                f"to {rate:g}, was {self.probability:g}"
            )

    @property
    def particles(self) -> int:
        """With a bridge fewer: what is saved pays for its draws."""
        half = self.samples // 2
        return max(self.samples // 5, min(half, self.least)) if self.bridge else half

    @property
    def least(self) -> int:
        return int(np.ceil(SURVIVORS / self.probability))

    @property
    def planned(self) -> int:
        return EACH * self.samples


@dataclass(frozen=True)
class Goal:
    """Where a descent ends: at a log rate, or at a sigma, whichever comes first.

    common: the error rate to begin at.
    """

    common: float
    log_rates: Floats
    sigma: float = 0.0

    @property
    def log_rate(self) -> float:
        return float(self.log_rates.min())

    @staticmethod
    def at_rates(rates: Floats) -> Goal:
        return Goal(min(0.5, max(COMMON, 2 * float(rates.max()))), np.log(rates))

    @staticmethod
    def at_sigmas(sigmas: Floats) -> Goal:
        """Without a positive sigma nothing is below any start."""
        return Goal(COMMON, np.array([LOWEST]), float(sigmas[sigmas > 0].min(initial=np.inf)))


@dataclass
class Found:
    """Of all B images. start (B,): sigma of the first level, nan where there was none.

    wrong (B,): misclassified. reached (B, LEVELS): levels of the curve. unknown (B,): levels ran
    out before there was one of errors. descent: the fields of results.rare.Descent. backward (B,):
    gradients spent.
    """

    start: Floats
    wrong: Bools
    curve: Curve
    reached: Bools
    unknown: Bools
    descent: dict[str, Any]
    backward: Ints

    def warn(self, word: str, where: Bools) -> None:
        told = self.descent["warning"]
        longer = np.char.strip(np.char.add(np.char.add(told, " "), word))
        self.descent["warning"] = np.where(where, longer, told).astype("<U40")


def engine_of(model: Model, x: Any, y: Any, settings: Settings, **how: Any) -> Evaluator:
    """The engine.

    Raises ValueError for a randomised model, one that draws its noise in features, and margins that
    are not finite.
    """
    images = 1 if getattr(x, "ndim", 4) == 3 else len(x)
    evaluator = Evaluator(model, x, y, stream=STREAM, planned=images * settings.planned, **how)
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
    if settings.bridge and not _differentiable(evaluator):
        settings = replace(settings, bridge=False)
    start = _common(evaluator, settings, goal.common, shown)
    start[wrong | (start < goal.sigma)] = np.nan
    rows = np.flatnonzero(np.isfinite(start))
    together = max(1, MEMORY // (settings.particles * evaluator.x[0].numel()))
    paths, backward = [], np.zeros(len(start), np.int64)
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
            paths.append(down.run())
        else:
            crossings = Crossings(bridge, down, goal.log_rates)
            paths.append(crossings.ended(down.run(crossings.settled)))
            backward[part] += bridge.backward
        shown.total = max(shown.total or 0, shown.n)
    found = _joined(paths, rows, start, wrong)
    found.backward += backward
    rows = rows[found.reached[rows].any(1)]
    if settings.second_look and len(rows):
        _look_again(evaluator, found, rows, goal, confidence)
    return found


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


def _common(evaluator: Evaluator, settings: Settings, rate: float, shown: Any) -> Floats:
    """The sigma at which errors have about this rate, sigma_max at most."""
    search = Quantile(evaluator.clean_margins, rate, PILOT, settings.sigma_max, 0.95)
    while len((plan := search.plan())[0]):
        search.update(evaluator.margins(*plan, shown.update))
    sigma = np.where(np.isfinite(search.bracket[1]), search.sigma, settings.sigma_max)
    return np.where(sigma > 0, np.minimum(sigma, settings.sigma_max), settings.sigma_max)


def _joined(paths: list[Path], rows: Ints, start: Floats, wrong: Bools) -> Found:
    """All paths as arrays of all images."""

    def whole(parts: list[Any], shape: tuple[int, ...] = (LEVELS,), fill: float = np.nan) -> Floats:
        out = np.full((len(start), *shape), fill)
        if parts:
            out[rows] = np.concatenate(parts)
        return out

    levels = {name: whole([each.levels[name] for each in paths]) for name in FIELDS}

    def joined(curves: list[Curve]) -> Curve:
        sigma, log_rate, variance, families = (
            whole([getattr(each, name) for each in curves])
            for name in ("sigma", "log_rate", "variance", "families")
        )
        slope = whole([each.slope for each in curves], (), 1.0)
        return Curve(
            sigma, log_rate, variance, families, slope, curves[0].particles if curves else 1
        )

    curve = joined([each.curve for each in paths])
    reached = np.isfinite(curve.sigma)
    number = np.isfinite(levels["level_lineages"]).sum(1)
    last = np.maximum(number - 1, 0)[:, None]
    left = np.where(number > 0, np.take_along_axis(levels["level_lineages"], last, 1)[:, 0], 0.0)
    support = np.where(number > 0, curve.support(), 0.0)
    descent = levels | {"families": left, "warning": np.full(len(start), "", "<U40")}
    for name in ("log_rate", "variance", "share"):
        parts = [each.bridge.get(name, np.full(len(each.dead), np.nan)) for each in paths]
        descent[f"bridge_{name}"] = whole(parts, ())
    short = whole([each.short for each in paths], (), 0.0) > 0
    unknown = short & ~reached.any(1)
    found = Found(start, wrong, curve, reached, unknown, descent, np.zeros(len(start), np.int64))
    stood = whole([each.slow | each.dead for each in paths], (), 0.0) > 0
    found.warn("lineages", (number > 0) & (support < FEW_FAMILIES))
    # an image that stands the largest sigma is not one whose moves stood still
    found.warn("moves", stood & reached.any(1))
    found.warn("rays", np.nan_to_num(levels["nested"], nan=1.0).min(1) < ENDING)
    found.warn("levels", short)
    return found


def _look_again(
    evaluator: Evaluator, found: Found, rows: Ints, goal: Goal, confidence: float
) -> None:
    """The warning "missed", where the nearest error says that the interval at the goal is wrong."""
    count = len(found.start)
    if goal.sigma > 0:
        sigma = np.full(count, goal.sigma)
        most = found.curve.rate_interval(sigma[:, None], confidence)[2][:, 0]
    else:  # at the least sigma of the interval the rate must not be above the one asked for
        most = np.full(count, goal.log_rate)
        sigma = found.curve.sigma_interval(most[:, None], confidence)[1][:, 0]
    try:
        points, distance, forward, backward = look.nearest(evaluator, rows)
    except NoGradients as error:
        evaluator.notes.append(f"no second look from the nearest error: {error}")
        return
    evaluator.n_forward[rows] += forward
    found.backward[rows] += backward
    low = np.full(count, -np.inf)
    low[rows] = look.log_lower_rate(evaluator, rows, points, distance, sigma[rows])
    found.warn("missed", low > most)
