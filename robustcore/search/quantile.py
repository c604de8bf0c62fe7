"""The default search for sigma(x0, mu): a quantile of radii, each draw evaluated about once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robustcore.search.aim import Aim
from robustcore.search.brackets import Brackets, passed_below
from robustcore.search.looks import Looks
from robustcore.search.margin_fit import MarginFit, bell_shaped, moments
from robustcore.search.radii import Floats, Ints, Plan, Radii

PILOT = 16  # draws at each guess until the neighbourhood is found
FIRST, SECOND = 128, 384  # draws that place the sigma at which the next are evaluated
SLOPE = 32  # of them, the nearest to an error, evaluated again, with rtol, for their slope
PROBES, PROBE, CHECK = 2, 32, 128  # guesses passed on the way, draws at each, at a doubtful one
LOST = 0.9  # in z: the pilot goes on
PILOTS = 8  # guesses of a pilot
DEEPER, LOWEST = 1e-3, 1e-30  # a pilot that ends in too much noise begins again so far below
PROBE_DOUBTFUL = 0.3
DOUBTFUL = 0.15  # in z: a rate no more than this below the target at a smaller sigma is followed
ROUNDS = 40  # of a refinement; after them nothing is inferred, and brackets are halved
APART = 0.15  # in log sigma, of evaluations that tell the slope

PILOTING, DRAWING, SLOPING, REFINING, PROBING, CHECKING, DONE = range(7)


class Quantile:
    """sigma(x0, mu) as the k-th smallest of N radii, k = floor(mu N) + 1, with bounds of rank l, u.

    A pilot of 16 draws finds the neighbourhood; 128 draws there, then 256 more, place a sigma at
    which the rest are evaluated, once; then only draws whose side of a bracket's end is not sure
    are evaluated there. The bracket is that of the paper's bisection of the same draws, and
    narrower; guesses that bisection passes well below it are looked at by themselves, as the rate
    need not be monotone.

    With `rtol`, draws are added until the half-width of the interval is at most rtol * sigma: that
    of a fit to the margins where they look normal, else that of ranks whose coverage holds at all
    planned numbers of draws at once.

    rough: of the margins along a ray (Radii).
    `bracket` (2, B) holds rank k, `bounds` (2, B) are those of the interval.
    """

    def __init__(
        self,
        clean: Floats,
        rate: float,
        samples: int,
        sigma_max: float,
        confidence: float,
        rtol: float | None = None,
        rough: bool = False,
    ) -> None:
        n = len(clean)
        self.samples, self.sigma_max, self.rtol = samples, sigma_max, rtol
        self.radii = Radii(clean, samples, sigma_max, rough)
        self.brackets = Brackets(self.radii)
        self.fit = MarginFit(rate, confidence)
        self.looks = Looks(samples, rate, confidence, rtol)
        self.look = np.zeros(n, np.int64)
        # the sigma of most draws lies a little high, where rank u is
        share = float(np.clip(self.looks.ranks[-1, 2] / samples, rate, 0.97))
        self.aim = Aim(self.radii, rate, share)
        self.z_target = self.aim.z_target

        self.phase = np.where(clean > 0, PILOTING, DONE)
        self.seen = np.zeros(n, np.int64)
        self.goal = np.full(n, min(FIRST, samples))
        self.aside = np.full(n, np.nan)  # sigma of the draws evaluated for the slope
        self.passed = np.full((n, PROBES), np.nan)  # guesses of the way, to be looked at
        self.rounds = np.zeros(n, np.int64)
        self.by_rank = np.full(n, rtol is None)
        self.restarted = np.zeros(n, bool)
        self.restart = np.full(n, np.inf)  # the guess at which the pilot last began again
        self._parts: list[tuple[int, Ints, Floats, Ints]] = []

    @property
    def finished(self) -> NDArray[np.bool_]:
        return self.phase == DONE

    @property
    def bracket(self) -> Floats:
        return self.brackets.found[:, 1].T

    @property
    def bounds(self) -> Floats:
        return np.stack([self.brackets.found[:, 0, 0], self.brackets.found[:, 2, 1]])

    @property
    def sigma(self) -> Floats:
        return self.bracket.mean(0)

    @property
    def error_rate(self) -> Floats:
        """Share of the draws seen that err at sigma, or at sigma_max where that is nearer."""
        radius = self.radii.infer(np.arange(len(self.seen)))
        at = np.minimum(self.sigma, self.sigma_max)
        return (radius <= at[:, None]).sum(1) / np.maximum(self.seen, 1)

    # -- a round -----------------------------------------------------------------------------

    def plan(self) -> Plan:
        self._parts = []
        self._refine(self._in(REFINING))
        pilot, check = self._in(PILOTING), self._in(CHECKING)
        self._add_range(PILOTING, pilot, self.aim.guess[pilot], 0, min(PILOT, self.samples))
        drawing, again = self._in(DRAWING), self._in(SLOPING)
        goal = self.goal[drawing]
        self._add_range(DRAWING, drawing, self.aim.guess[drawing], self.seen[drawing], goal)
        near = np.argsort(np.abs(self.radii.margin[0, again, :FIRST]), 1)[:, :SLOPE]
        rows = again.repeat(near.shape[1])
        self._add(SLOPING, rows, self.aside[rows], near.ravel())
        probed = self._in(PROBING)
        row, which = np.nonzero(np.isfinite(self.passed[probed]))
        at = self.passed[probed[row], which]
        self._add_range(PROBING, probed[row], at, 0, min(PROBE, self.samples))
        self._add_range(CHECKING, check, self.passed[check, 0], 0, min(CHECK, self.samples))
        if not self._parts:
            return np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64)
        _, *columns = zip(*self._parts, strict=True)
        rows, sigma, samples = (np.concatenate(column) for column in columns)
        return rows, sigma, samples

    def _in(self, phase: int) -> Ints:
        return np.flatnonzero(self.phase == phase)

    def _add_range(
        self, phase: int, images: Ints, sigma: Floats, first: Ints | int, last: Ints | int
    ) -> None:
        """Draws first to last - 1 of each image, at one sigma each."""
        first, last = np.broadcast_to(first, images.shape), np.broadcast_to(last, images.shape)
        count = last - first
        start = (np.cumsum(count) - count - first).repeat(count)
        self._add(phase, images.repeat(count), sigma.repeat(count), np.arange(len(start)) - start)

    def _add(self, phase: int, rows: Ints, sigma: Floats, samples: Ints) -> None:
        if len(rows):
            self._parts.append((phase, rows, sigma, samples))

    def update(self, margins: Floats) -> None:
        start = 0
        for phase, rows, sigma, samples in self._parts:
            part = margins[start : start + len(rows)]
            start += len(rows)
            if phase == REFINING:
                self.radii.learn(rows, sigma, samples, part)
            elif phase in (PILOTING, DRAWING):
                self.radii.record(rows, sigma, samples, part)
            if phase == PILOTING:
                self._after_pilot(rows, part)
            elif phase == DRAWING:
                self._after_draws(rows, part)
            elif phase == SLOPING:
                self._after_slope(rows, sigma, samples, part)
            elif phase == PROBING:
                self._after_probe(rows, sigma, part)
            elif phase == CHECKING:
                self._after_check(rows, part)

    # -- what each phase leads to ------------------------------------------------------------

    def _after_pilot(self, rows: Ints, margins: Floats) -> None:
        images, z, deviation = moments(rows, margins)
        sigma, before = self.aim.guess[images], self.aim.previous[0, images]
        self.aim.learn(images, z, deviation)
        self.aim.step(images, z, self.z_target, 1.2)
        # two guesses well apart tell the slope
        alone = np.isnan(before) & (np.abs(np.log(self.aim.guess[images] / sigma)) < APART)
        apart = np.where((z > self.z_target) & (sigma < self.sigma_max), APART, -APART)
        self.aim.guess[images] = np.where(alone, sigma * np.exp(apart), self.aim.guess[images])
        at_top = (self.aim.guess[images] >= self.sigma_max) & (sigma >= self.sigma_max)
        self.rounds[images] += 1
        late = self.rounds[images] >= PILOTS
        guess = self.aim.guess[images]
        high = late & (z <= self.z_target - LOST) & (guess > LOWEST)
        high &= guess < self.restart[images] / 2  # else it climbed back: less noise errs no more
        near = (np.abs(z - self.z_target) < LOST) | at_top | late
        near &= ~np.isnan(before) & ~high
        self.phase[images[near]] = DRAWING
        self.restart[images[high]] = guess[high]
        self.aim.restart(images[high], DEEPER)
        self.rounds[images[high]] = 0

    def _after_draws(self, rows: Ints, margins: Floats) -> None:
        images, z, deviation = moments(rows, margins)
        self.radii.blind[images[~bell_shaped(rows, margins)]] = True
        self.radii.deviation[images] = deviation
        self.aim.set_steep(images, deviation)
        first = self.seen[images] == 0
        lost = first & (np.abs(z - self.z_target) > LOST) & (self.rounds[images] < PILOTS)
        sigma = self.aim.guess[images]
        self.aim.learn(images[lost], z[lost], deviation[lost])
        self.aim.step(images, z, self.aim.z_aim, 0.5)
        self.rounds[images[lost]] += 1  # and the first draws once more, at the next guess
        placed = ~lost & ~first
        self.aim.place(images[placed], self.goal[images[placed]])
        images, first, sigma, z = (v[~lost] for v in (images, first, sigma, z))
        self.seen[images] = self.goal[images]
        if self.rtol is None:
            goal = np.where(first & (self.samples / 2 > SECOND), SECOND, self.samples)
            self._draw_or_refine(images, goal)
            return
        aside = sigma * np.exp(np.where(z > self.z_target, APART, -APART))
        self.aside[images[first]] = aside[first]
        self.phase[images[first]] = SLOPING
        self._decide(images[~first])

    def _after_slope(self, rows: Ints, sigma: Floats, samples: Ints, margins: Floats) -> None:
        images, index, n = np.unique(rows, return_inverse=True, return_counts=True)
        at, margin = self.radii.at[0, rows, samples], self.radii.margin[0, rows, samples]
        fall = margin + (margin - margins) / (sigma / at - 1)
        deviation = self.radii.margin[0, images, :FIRST].std(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            steep = np.bincount(index, fall) / n / deviation
        self.radii.slope[images] = deviation * np.clip(steep, *self.aim.believed)
        self.aim.set_steep(images, deviation)
        self._decide(images)

    def _draw_or_refine(self, images: Ints, goal: Ints) -> None:
        self.goal[images] = goal
        complete = self.seen[images] >= goal
        self.phase[images] = np.where(complete, REFINING, DRAWING)
        self.rounds[images[complete]] = 0

    def _decide(self, images: Ints) -> None:
        """With rtol: finish by the fit where it is narrow, else set the number of draws to see."""
        assert self.rtol is not None
        reciprocal = self.radii.reciprocal(images)
        reciprocal[np.arange(reciprocal.shape[1]) >= self.seen[images, None]] = np.nan
        sigma, low, high, steep, normal = self.fit(reciprocal, self.radii.at[0, images])
        normal &= (sigma < self.sigma_max) & ~self.by_rank[images]
        done = normal & (high - low <= 2 * self.rtol * sigma)
        ends = np.stack([low, sigma, high], 1)[done]
        self.brackets.found[images[done]] = ends[:, :, None]
        self._probe(images[done])

        go = images[~done]
        goal = self.fit.draws_needed(steep[~done], self.rtol, self.samples)
        goal = np.maximum(goal, self.seen[go] + 32)
        self.by_rank[go] |= ~normal[~done] | (goal > self.samples)
        look = self.looks.first_narrow(self.aim.steep[go], self.seen[go], self.rtol)
        self.look[go] = np.where(self.by_rank[go], look, self.look[go])
        goal = np.where(self.by_rank[go], self.looks.draws[look], goal)
        self._draw_or_refine(go, goal)

    def _refine(self, images: Ints) -> None:
        if not len(images):
            return
        sigma, done = self.brackets.plan(
            images, self.looks.ranks[self.look[images]], self.rounds[images]
        )
        row, sample = np.nonzero(np.isfinite(sigma))
        self._add(REFINING, images[row], sigma[row, sample], sample)
        self.rounds[images] += 1
        self.radii.blind[images[self.rounds[images] >= ROUNDS]] = True
        self._after_refinement(images[done])

    def _after_refinement(self, images: Ints) -> None:
        if self.rtol is not None:
            low, high = self.bounds[:, images]
            with np.errstate(invalid="ignore"):
                wide = ~(high - low <= 2 * self.rtol * self.sigma[images])
            wide &= self.look[images] < len(self.looks.draws) - 1
            more, images = images[wide], images[~wide]
            self.look[more] += 1
            self._draw_or_refine(more, self.looks.draws[self.look[more]])
        self._probe(images)

    def _probe(self, images: Ints) -> None:
        """Look at guesses well below sigma that bisection passes: the rate need not be monotone."""
        if not len(images):
            return
        passed = passed_below(
            np.minimum(self.sigma[images], self.sigma_max), self.sigma_max, PROBES
        )
        self.passed[images] = np.where(self.restarted[images, None], np.nan, passed)
        some = np.isfinite(self.passed[images]).any(1)
        self.phase[images] = np.where(some, PROBING, DONE)

    def _after_probe(self, rows: Ints, sigma: Floats, margins: Floats) -> None:
        draws = min(PROBE, self.samples)
        _, z, _ = moments(np.arange(len(rows) // draws).repeat(draws), margins)
        images, at = rows[::draws], sigma[::draws]
        self.phase[images] = DONE
        doubtful = z < self.z_target + PROBE_DOUBTFUL
        # of two, the lower: bisection comes there from above
        for image, guess in zip(images[doubtful][::-1], at[doubtful][::-1], strict=True):
            self.passed[image, 0], self.phase[image] = guess, CHECKING

    def _after_check(self, rows: Ints, margins: Floats) -> None:
        images, z, _ = moments(rows, margins)
        again = z < self.z_target + DOUBTFUL
        self.phase[images] = np.where(again, PILOTING, DONE)
        back, at = images[again], self.passed[images[again], 0]
        self.aim.previous[:, back] = at, z[again]
        self.aim.guess[back] = at * np.exp(-APART)
        self.seen[back] = self.rounds[back] = self.look[back] = 0
        self.goal[back] = min(FIRST, self.samples)
        self.by_rank[back] = self.rtol is None
        self.restarted[back] = True
