"""The default search for sigma(x0, mu): a quantile of radii, each draw evaluated about once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from robustcore.search.bisection import FIRST_GUESS, RESOLUTION
from robustcore.search.looks import Looks
from robustcore.search.margin_fit import MarginFit, bell_shaped, moments
from robustcore.search.radii import Floats, Ints, Plan, Radii

FINE = 0.008  # brackets of the ranks are narrower than this share of sigma
PILOT = 16  # draws at each guess until the neighbourhood is found
FIRST = 128  # draws that place the sigma at which the others are evaluated
SLOPE = 32  # of them evaluated again, with rtol, for the slope of the margins
AUDIT = 24  # draws whose side of sigma is least certain, evaluated there
SURE = 1.5  # certainty above which a draw needs no audit
PROBE, PROBED = 8, np.array([0.6, 0.35, 0.2])  # draws, and the shares of sigma they are seen at
LOST = 0.9  # in z: the pilot goes on
CLEARLY = 0.3  # in z: a rate this much above the target at a smaller sigma starts another search
ROUNDS = 24  # of a refinement; after them nothing is inferred, and brackets are halved
MOST_DOUBT = 5.0
APART = 0.15  # in log sigma, of evaluations that tell the slope
STEEP, ORDINARY = (0.3, 15.0), 5.0  # falls of z per log sigma: believable, of most networks

PILOTING, DRAWING, SLOPING, REFINING, AUDITING, PROBING, DONE = range(7)


class Quantile:
    """sigma(x0, mu) as the k-th smallest of N radii, k = floor(mu N) + 1, with bounds of rank l, u.

    A pilot of 16 draws finds the neighbourhood; 128 draws there place a sigma at which the rest are
    evaluated, once; then only draws that can still change rank l, k or u are evaluated again. An
    audit of the 16 draws whose inferred side of sigma is least certain guards the inference: an
    image that fails it is searched on with more doubt, and audited again.

    With `rtol`, draws are added until the half-width of the interval is at most rtol * sigma: that
    of a fit to the margins where they look normal, else that of ranks whose coverage holds at all
    planned numbers of draws at once.

    `bracket` (2, B) holds rank k, as far as is proven or inferred; `bounds` (2, B) are those of the
    interval.
    """

    def __init__(
        self,
        clean: Floats,
        rate: float,
        samples: int,
        sigma_max: float,
        confidence: float,
        rtol: float | None = None,
    ) -> None:
        n = len(clean)
        self.samples, self.sigma_max, self.rtol = samples, sigma_max, rtol
        self.radii = Radii(clean, samples, sigma_max)
        self.fit = MarginFit(rate, confidence)
        self.audits, self.restarted = np.zeros(n, np.int64), np.zeros(n, bool)
        self.looks = Looks(samples, rate, confidence, rtol)
        self.look = np.zeros(n, np.int64)
        # the sigma of most draws lies a little high, where rank u is: what errs there is proven
        share = np.clip(self.looks.ranks[-1, 2] / samples, rate, 0.97)
        self.z_target, self.z_aim = -float(ndtri(rate)), -float(ndtri(share))

        self.phase = np.where(clean > 0, PILOTING, DONE)
        self.guess = np.full(n, FIRST_GUESS * sigma_max)
        self.seen = np.zeros(n, np.int64)
        self.goal = np.full(n, min(FIRST, samples))
        self.steep = np.full(
            n, ORDINARY
        )  # fall of z = mean / deviation of the margins per log sigma
        self.previous = np.full((2, n), np.nan)  # sigma and z of the last pilot
        self.aside = np.full(n, np.nan)  # sigma of the draws evaluated for the slope
        self.rounds = np.zeros(n, np.int64)
        self.found = np.zeros((n, 3, 2))  # brackets of ranks l, k, u
        self.by_rank = np.full(n, rtol is None)
        self._parts: list[tuple[int, Ints, Floats, Ints]] = []

    @property
    def finished(self) -> NDArray[np.bool_]:
        return self.phase == DONE

    @property
    def bracket(self) -> Floats:
        return self.found[:, 1].T

    @property
    def bounds(self) -> Floats:
        return np.stack([self.found[:, 0, 0], self.found[:, 2, 1]])

    @property
    def sigma(self) -> Floats:
        return self.found[:, 1].mean(1)

    @property
    def error_rate(self) -> Floats:
        """Share of the draws seen that err at sigma, or at sigma_max where that is nearer."""
        radius, _, _ = self.radii.infer(np.arange(len(self.seen)))
        at = np.minimum(self.sigma, self.sigma_max)
        return (radius <= at[:, None]).sum(1) / np.maximum(self.seen, 1)

    # -- a round -----------------------------------------------------------------------------

    def plan(self) -> Plan:
        self._parts = []
        pilot = np.flatnonzero(self.phase == PILOTING)
        self._add_range(PILOTING, pilot, np.zeros(len(pilot), np.int64), min(PILOT, self.samples))
        drawing = np.flatnonzero(self.phase == DRAWING)
        self._add_range(DRAWING, drawing, self.seen[drawing], self.goal[drawing])
        sloping = np.flatnonzero(self.phase == SLOPING)
        again = min(SLOPE, self.samples)
        self._add(
            SLOPING,
            rows := sloping.repeat(again),
            self.aside[rows],
            np.tile(np.arange(again), len(sloping)),
        )
        refining = np.flatnonzero(self.phase == REFINING)
        if len(refining):
            sigma = self._refine(refining)
            row, sample = np.nonzero(np.isfinite(sigma))
            self._add(REFINING, refining[row], sigma[row, sample], sample)
        auditing = np.flatnonzero(self.phase == AUDITING)
        if len(auditing):
            sigma = np.minimum(self.sigma[auditing], self.sigma_max)
            certainty = self.radii.certainty(auditing, sigma[:, None])
            sample = np.argsort(certainty, 1, kind="stable")[:, :AUDIT].ravel()
            row = np.arange(len(auditing)).repeat(len(sample) // len(auditing))
            unsure = certainty[row, sample] < SURE
            row, sample = row[unsure], sample[unsure]
            self._add(AUDITING, auditing[row], sigma[row], sample)
        probing = np.flatnonzero(self.phase == PROBING)
        draws, share = min(PROBE, self.samples), PROBED[:, None]
        at = (self.sigma[probing, None, None] * share).repeat(draws, 2)
        sample = np.broadcast_to(np.arange(draws), at.shape)
        self._add(PROBING, probing.repeat(draws * PROBED.size), at.ravel(), sample.ravel())
        if not self._parts:
            self._after_audit(auditing, np.zeros(0, np.int64))  # with nothing left to audit
            if not self.finished.all():
                return self.plan()
            return np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64)
        _, *columns = zip(*self._parts, strict=True)
        rows, sigma, samples = (np.concatenate(column) for column in columns)
        return rows, sigma, samples

    def _add(self, phase: int, rows: Ints, sigma: Floats, samples: Ints) -> None:
        if len(rows):
            self._parts.append((phase, rows, sigma, samples))

    def _add_range(self, phase: int, images: Ints, first: Ints, last: Ints | int) -> None:
        count = last - first
        rows = images.repeat(count)
        start = (np.cumsum(count) - count).repeat(count)
        self._add(phase, rows, self.guess[rows], np.arange(len(rows)) - start + first.repeat(count))

    def update(self, margins: Floats) -> None:
        auditing, start = np.flatnonzero(self.phase == AUDITING), 0
        failed = np.zeros(0, np.int64)
        for phase, rows, sigma, samples in self._parts:
            part = margins[start : start + len(rows)]
            start += len(rows)
            if phase in (REFINING, AUDITING):
                wrong, inferred = self.radii.contradicted(rows, sigma, samples, part)
                doubt = self.radii.doubt[inferred] * (1.25 if phase == REFINING else 1.5)
                self.radii.doubt[inferred] = np.where(doubt > MOST_DOUBT, np.inf, doubt)
                failed = wrong if phase == AUDITING else failed
            if phase in (SLOPING, PROBING):
                (self._after_slope if phase == SLOPING else self._after_probe)(rows, part)
                continue
            self.radii.record(rows, sigma, samples, part)
            if phase == PILOTING:
                self._after_pilot(rows, part)
            elif phase == DRAWING:
                self._after_draws(rows, part)
        self._after_audit(auditing, failed)

    # -- what each phase leads to ------------------------------------------------------------

    def _after_pilot(self, rows: Ints, margins: Floats) -> None:
        images, z, deviation = moments(rows, margins)
        sigma, (before, z_before) = self.guess[images], self.previous[:, images]
        with np.errstate(all="ignore"):
            # z is nearly linear in 1 / sigma, and is exactly so for a linear model
            steep = (z - z_before) / (1 / sigma - 1 / before) / sigma
            far = np.abs(np.log(sigma / before)) > 0.05
        known = np.isfinite(steep) & far & (deviation > 0)
        steep = np.where(known, np.clip(steep, *STEEP), self.steep[images])
        self.steep[images], self.radii.slope[images] = steep, deviation * steep
        self.previous[:, images] = sigma, z
        self._step(images, z, self.z_target, 1.2)
        # two guesses well apart tell the slope
        alone = np.isnan(before) & (np.abs(np.log(self.guess[images] / sigma)) < APART)
        apart = np.where((z > self.z_target) & (sigma < self.sigma_max), APART, -APART)
        self.guess[images] = np.where(alone, sigma * np.exp(apart), self.guess[images])
        at_top = (self.guess[images] >= self.sigma_max) & (sigma >= self.sigma_max)
        self.rounds[images] += 1
        near = (np.abs(z - self.z_target) < LOST) | at_top | (self.rounds[images] >= 8)
        near &= ~np.isnan(before)
        self.phase[images[near]] = DRAWING

    def _after_draws(self, rows: Ints, margins: Floats) -> None:
        images, z, deviation = moments(rows, margins)
        self.radii.doubt[images[~bell_shaped(rows, margins)]] = np.inf
        self._set_steep(images, deviation)
        first = self.seen[images] == 0
        lost = first & (np.abs(z - self.z_target) > LOST) & (self.rounds[images] < 8)
        sigma = self.guess[images]
        self._step(images, z, self.z_aim, 0.5)
        self.phase[images[lost]] = PILOTING
        images, first, sigma, z = (v[~lost] for v in (images, first, sigma, z))
        self.seen[images] = self.goal[images]
        if self.rtol is None:
            self._draw_or_refine(images, np.full(len(images), self.samples))
            return
        aside = sigma * np.exp(np.where(z > self.z_target, APART, -APART))
        self.aside[images[first]] = aside[first]
        self.phase[images[first]] = SLOPING
        self._decide(images[~first])

    def _after_slope(self, rows: Ints, margins: Floats) -> None:
        images, z, _ = moments(rows, margins)
        draws = np.ix_(images, np.arange(len(rows) // len(images)))
        _, z_before, deviation_before = moments(rows, self.radii.margin[draws].ravel())
        sigma, before = self.aside[images], self.radii.at[images, 0]
        steep = np.clip((z - z_before) / (1 / sigma - 1 / before) / before, *STEEP)
        self.radii.slope[images] = deviation_before * steep
        self._set_steep(images, self.radii.margin[images, :FIRST].std(1))
        self._decide(images)

    def _set_steep(self, images: Ints, deviation: Floats) -> None:
        with np.errstate(all="ignore"):
            steep = self.radii.slope[images] / deviation
        self.steep[images] = np.where(steep > 0, np.clip(steep, *STEEP), ORDINARY)

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
        sigma, low, high, steep, normal = self.fit(reciprocal)
        normal &= (sigma < self.sigma_max) & ~self.by_rank[images]
        done = normal & (high - low <= 2 * self.rtol * sigma)
        ends = np.stack([low, sigma, high], 1)[done]
        self.found[images[done]] = ends[:, :, None]
        self.phase[images[done]] = PROBING

        go = images[~done]
        goal = self.fit.draws_needed(steep[~done], self.rtol, self.samples)
        goal = np.maximum(goal, self.seen[go] + 32)
        self.by_rank[go] |= ~normal[~done] | (goal > self.samples)
        look = self.looks.first_narrow(self.steep[go], self.seen[go], self.rtol)
        self.look[go] = np.where(self.by_rank[go], look, self.look[go])
        goal = np.where(self.by_rank[go], self.looks.draws[look], goal)
        self._draw_or_refine(go, goal)

    def _step(self, images: Ints, z: Floats, aim: float, most: float) -> None:
        step = np.clip((z - aim) / self.steep[images], -1.2, most)
        self.guess[images] = np.minimum(self.guess[images] * np.exp(step), self.sigma_max)

    def _after_audit(self, images: Ints, failed: Ints) -> None:
        self.audits[images] += 1
        back = np.isin(images, failed) & (self.audits[images] < ROUNDS)
        reached = np.isfinite(self.sigma[images])
        self.phase[images] = np.where(back, REFINING, np.where(reached, PROBING, DONE))
        self.rounds[images[back]] = 0
        if self.rtol is not None:
            done = images[~back]
            low, high = self.bounds[:, done]
            with np.errstate(invalid="ignore"):
                wide = ~(high - low <= 2 * self.rtol * self.sigma[done])
            more = done[wide & (self.look[done] < len(self.looks.draws) - 1)]
            self.look[more] += 1
            self._draw_or_refine(more, self.looks.draws[self.look[more]])

    def _after_probe(self, rows: Ints, margins: Floats) -> None:
        """Search below where the rate is above the target there too: it need not be monotone."""
        images = np.unique(rows)
        draws = len(rows) // len(images) // PROBED.size
        _, z, deviation = moments(np.arange(len(images) * PROBED.size).repeat(draws), margins)
        z = np.where(deviation > 0, z, np.inf).reshape(len(images), -1)
        again = (z.min(1) < self.z_target - CLEARLY) & ~self.restarted[images]
        self.phase[images] = np.where(again, PILOTING, DONE)
        back = images[again]
        self.guess[back] = self.sigma[back] * PROBED[z.argmin(1)[again]]
        self.previous[:, back] = np.nan
        self.seen[back] = self.rounds[back] = self.look[back] = 0
        self.goal[back] = min(FIRST, self.samples)
        self.by_rank[back] = self.rtol is None
        self.restarted[back] = True

    def _refine(self, images: Ints) -> Floats:
        """Sigma at which to evaluate each draw (I, N), inf for none; images done go to the audit.

        The brackets of rank t are the t-th smallest ends of the draws' brackets; a draw is in play
        while its own bracket reaches into them.
        """
        radius, low, high = self.radii.infer(images)
        by_rank = [np.sort(v, 1) for v in (low, high, radius)]
        plan, done = np.full(radius.shape, np.inf), np.ones(len(images), bool)
        slow = self.rounds[images] % 4 == 3
        for j in (1, 0, 2):
            rank = self.looks.ranks[self.look[images], j]
            first, last, middle = (_ranked(v, rank) for v in by_rank)
            last = np.where(first >= self.sigma_max, np.inf, last)
            first = np.where(first >= self.sigma_max, np.inf, first)
            self.found[images, j] = np.stack([first, last], 1)
            narrow = np.minimum(FINE * middle, RESOLUTION * self.sigma_max)
            with np.errstate(invalid="ignore"):
                ready = (first == last) | (last - first <= narrow)
                half = np.maximum(first, 1e-4 * self.sigma_max) * np.minimum(last, self.sigma_max)
            half = np.sqrt(half)
            at = np.where(slow, half, np.minimum(middle, self.sigma_max))
            reaches = (low < last[:, None]) & (high > first[:, None]) & ~ready[:, None]
            play = reaches & self.radii.open_at(images, at[:, None])
            stuck = ~ready & ~play.any(1)
            at = np.where(stuck, half, at)
            play = reaches & self.radii.open_at(images, at[:, None])
            plan = np.where(play & np.isinf(plan), at[:, None], plan)
            done &= ready | ~play.any(1)
        self.rounds[images] += 1
        self.radii.doubt[images[self.rounds[images] >= ROUNDS]] = np.inf
        self.phase[images[done]] = AUDITING
        plan[done] = np.inf
        return plan


def _ranked(ordered: Floats, rank: Ints) -> Floats:
    """Entry of 1-based rank of each row; 0 for rank 0, inf for a rank beyond the last."""
    n = ordered.shape[1]
    value = np.take_along_axis(ordered, np.clip(rank - 1, 0, n - 1)[:, None], 1)[:, 0]
    return np.where(rank < 1, 0.0, np.where(rank > n, np.inf, value))
