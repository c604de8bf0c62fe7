"""Rare errors: the records of `error_curve` and of `method="splitting"`."""

# ruff: noqa: RUF009 (per_image and shared make dataclass fields)

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from robustcore.arguments import fraction
from robustcore.geometry import half_space_distance, half_space_sigma
from robustcore.results.noise import ErrorRate, SigmaResult
from robustcore.results.record import Record, counted, per_image, shared

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Strings = npt.NDArray[np.str_]

STATUSES = (*SigmaResult.statuses, "undecided")
WARNINGS = {
    "lineages": "the descendants of one first draw bear the answer: the interval is wide",
    "moves": "the acceptance rate was near zero: what was found may be one corner of the errors",
    "rays": "errors end again along rays: sigma is one of several with this rate",
    "levels": "levels ended above the rate asked for: the margin tells draws apart no more, or "
    "the steps are too small",
    "missed": "errors around the nearest one alone are more probable than the interval allows",
}


@dataclass(frozen=True, repr=False, eq=False, kw_only=True)
class Descent:
    """How splitting went down in sigma, level by level: (B, L), nan beyond an image's last.

    level_sigma: of each level, from above; level_log_rate: natural logarithm of the error rate
    there, by splitting alone; level_margin: the margin that counted as reached, 0 for an error.
    level_variance: of level_log_rate; level_lineages: effective number of families of the first
    draws left. pooled_log_rate and pooled_variance: of levels of errors, by splitting and all
    bridges together, which is what the answer rests on.
    acceptance: share of the moves accepted there; correlation: how much of a particle was left
    after them, 1 where none moved; nested: share of the level's particles that are errors at the
    level above too. families (B,): level_lineages at the last level. bridge_log_rate and
    bridge_variance (B,): of the last level again, by draws around its errors, and bridge_share: of
    its particles, as errors that these draws meet; nan without a bridge. warning (B,): words of
    WARNINGS, separated by a space; empty where nothing speaks against the answer.
    """

    level_sigma: Floats = per_image(np.float64, "L")
    level_log_rate: Floats = per_image(np.float64, "L")
    level_margin: Floats = per_image(np.float64, "L")
    level_variance: Floats = per_image(np.float64, "L")
    level_lineages: Floats = per_image(np.float64, "L")
    pooled_log_rate: Floats = per_image(np.float64, "L")
    pooled_variance: Floats = per_image(np.float64, "L")
    acceptance: Floats = per_image(np.float64, "L")
    correlation: Floats = per_image(np.float64, "L")
    nested: Floats = per_image(np.float64, "L")
    families: Floats = per_image(np.float64)
    bridge_log_rate: Floats = per_image(np.float64)
    bridge_variance: Floats = per_image(np.float64)
    bridge_share: Floats = per_image(np.float64)
    warning: Strings = per_image(np.str_)

    def warnings(self) -> list[str]:
        """A sentence for each kind of warning, with the number of images that it concerns."""
        told = []
        for word, sentence in WARNINGS.items():
            count = int(np.sum([word in each.split() for each in self.warning.tolist()]))
            if count:
                told.append(f"{counted(count, 'image')}: {sentence}")
        return told


@dataclass(frozen=True, repr=False, eq=False, kw_only=True)
class RareSigma(Descent, SigmaResult):
    """A SigmaResult found by splitting, and how. n_samples counts the first draws.

    error_rate is the one estimated at sigma, rate itself; bracket_low and bracket_high are the
    levels on both sides of it, bracket_low 0 where the descent ended above it. Where "censored", no
    level on the way down from sigma_max met the rate: an image may err more often in less noise.
    "undecided": nothing is known of sigma, which is inf, from 0 on, as levels ended before an error
    (warning "levels"), or none was met but the second look saw the rate in less noise ("missed").
    """

    statuses: ClassVar[tuple[str, ...]] = STATUSES

    def _summary(self) -> str:
        return "; ".join([super()._summary(), *self.warnings()])


@dataclass(frozen=True, repr=False, eq=False, kw_only=True)
class RareErrorRate(Descent, ErrorRate):
    """An ErrorRate found by splitting, and how.

    n_errors and n_samples are those of plain draws, where sigma is so large that these were enough,
    and where margins led to no error (warning "levels"); 0 where splitting went on from there. A
    rate below 1e-15 is 0, with rate_high 1e-14. Where a descent ended above a sigma, rate goes on
    along its last slope and rate_low is 0. Where it met no error but the second look did (warning
    "missed"), rate is 0 and rate_high 1.
    """

    def _summary(self) -> str:
        return "; ".join([super()._summary(), *self.warnings()])


@dataclass(frozen=True, repr=False, eq=False, kw_only=True)
class ErrorCurve(Descent, Record):
    """sigma against the error rate for B images at G rates: each the noise of that rate.

    sigma, with bounds sigma_low and sigma_high at `confidence`, each by itself. status (B, G) as in
    RareSigma: "found", "misclassified" (sigma 0), "censored" (the rate is not reached at sigma_max,
    nor on the way to it from the sigma of rate 0.1: sigma and sigma_high inf, sigma_low at most
    sigma_max), "undecided" (the same, with sigma_low 0).
    """

    rates: Floats = shared(np.float64, "G")
    sigma: Floats = per_image(np.float64, "G")
    sigma_low: Floats = per_image(np.float64, "G")
    sigma_high: Floats = per_image(np.float64, "G")
    status: Strings = per_image(np.str_, "G")
    n_forward: Ints = per_image(np.int64)
    n_backward: Ints = per_image(np.int64)
    confidence: float

    statuses: ClassVar[tuple[str, ...]] = STATUSES

    def nearest_rate(self, through: float = 0.01) -> float:
        """The rate of the record nearest to `through`, by ratio: the first of those as near.

        Raises ValueError for a `through` outside (0, 1).
        """
        through = fraction("through", through)
        away = np.abs(np.log(self.rates / through)).round(9)
        return float(self.rates[np.argmin(away)])

    def half_space_sigma(self, through: float = 0.01) -> Floats:
        """(B, G): sigma of the linear model with the same sigma at the rate nearest to `through`.

        nan where that sigma is 0 or infinite, and for noise other than Gaussian.
        """
        at = int(np.argmax(self.rates == self.nearest_rate(through)))
        known = np.isfinite(self.sigma[:, at]) & (self.sigma[:, at] > 0) & self.gaussian
        base = np.where(known, self.sigma[:, at], 1.0)
        distance = np.asarray(half_space_distance(base, self.rates[at]))
        line = np.asarray(half_space_sigma(distance[:, None], self.rates))
        return np.where(known[:, None], line, np.nan)

    def ratio(self, through: float = 0.01) -> Floats:
        """(B, G): sigma over that of the linear model. Below 1: errors are nearer than it says."""
        line = self.half_space_sigma(through)
        return np.where(np.isfinite(self.sigma), self.sigma, np.nan) / line

    def _summary(self) -> str:
        ends = range(len(self.rates)) if len(self.sigma) else ()
        at = ", ".join(
            f"{np.median(self.sigma[:, i]):.3g} at {self.rates[i]:g}"
            for i in ends
            if i in (0, len(self.rates) - 1)
        )
        parts = [f"{super()._summary()}, {counted(len(self.rates), 'rate')}"]
        wrong = int((self.status == "misclassified").all(1).sum())
        censored = int((self.status == "censored").any(1).sum())
        parts += [f"{wrong} misclassified"] if wrong else []
        parts += [f"{censored} censored at some rate"] if censored else []
        undecided = int((self.status == "undecided").any(1).sum())
        parts += [f"{undecided} undecided at some rate"] if undecided else []
        return "; ".join([*parts, *([f"median sigma {at}"] if at else []), *self.warnings()])
