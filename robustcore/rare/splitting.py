"""Splitting: from a sigma at which errors are common down to one at which they are rare.

At each level a population of draws is spread over the errors at sigma. The share of it that is
still in error at a smaller sigma multiplies the rate; those that are take the places of the others;
then all move, by steps that leave the Gaussian as it is and are taken only into errors. The next
sigma is chosen before the share is seen, so the product of shares is an unbiased estimate; but for
a share below SCARCE, which is seldom: then a nearer sigma is tried.

Where errors end again along a ray, the errors at the smaller sigma are not part of those at the
larger one. The share of the new population that is an error at the level above sets that right:
rate(s') / rate(s) = P(error at s' | error at s) / P(error at s | error at s').

Where even the largest sigma has few errors, levels of the margin at that sigma come first.

Sources: Kahn and Harris (1951); Au and Beck, Probabilistic Engineering Mechanics 16 (2001); Cérou,
Del Moral, Furon and Guyader, Statistics and Computing 22 (2012).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustcore.rare.curve import FLATTEST, Curve, family_variance, height, log_rate_of
from robustcore.rare.particles import FIRST, Particles
from robustcore.rare.path import FIELDS, LEVELS, LOWEST, Path

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

COMMON = 0.05  # least share of errors to start from
ACCEPTED = 0.35  # share of moves to be taken, by the choice of beta
BETA = (0.02, 0.99)
CHECKED = 64  # particles asked whether they are errors at the level above
NESTED = 0.97  # below this share, longer chains: what lies outside must be found
ALIKE = 2.0  # particles of one family answer alike: variance of that share, over a binomial's
LONGER = 6  # times the moves, every other one along the ray
SCARCE = 0.05  # of the particles, at least so many must go on: else a nearer sigma is tried
TRIES = 8
NEAR = 0.3  # in the log rate: so near the goal, the curve's slope does the rest
FIRST_STEP = 0.35  # of a level: the first slope is a guess, and rates fall faster
ALMOST = 0.15  # of a level: not worth one more
STEEPEST = 3.0  # slope of h in 1/sigma, in units of the line through the origin; 1/2 at least


class Splitting:
    """R images at once, from sigma (R,) down to log rate or sigma (R,), whichever comes first."""

    def __init__(
        self,
        particles: Particles,
        sigma: Floats,
        draws: int,
        probability: float,
        moves: int,
        goal_log_rate: float,
        goal_sigma: float,
    ) -> None:
        self.particles, self.draws, self.moves = particles, draws, moves
        self.depth = -np.log(probability)  # of a level, in the log rate
        count = len(sigma)
        self.goal = np.full(count, max(goal_log_rate, LOWEST))
        self.goal_sigma = np.full(count, goal_sigma)
        self.sigma, self.above = sigma.copy(), np.full(count, np.nan)
        self.level = np.zeros(count)
        self.log_rate, self.slope = np.zeros(count), np.zeros(count)
        self.variance, self.families = np.zeros(count), np.full(count, float(draws))
        self.doubt = np.zeros(count)  # variance of what corrects for errors that end again
        self.beta = np.full(count, 0.5)
        self.ending = np.zeros(count, bool)  # errors were seen to end again along rays
        self.number = np.zeros(count, np.int64)
        self.first = np.zeros(count, np.int64)
        self.slow, self.dead, self.short = (np.zeros(count, bool) for _ in range(3))
        self.active = np.ones(count, bool)
        self.found = {name: np.full((count, LEVELS), np.nan) for name in FIELDS}

    def run(self, settled: Callable[[Ints], None] = lambda at: None) -> Path:
        """All levels, after `begin`. settled: told of images whose errors have moved."""
        while self.active.any():
            at = np.flatnonzero(self.active)
            self._move(at)
            margins = self.level[at] > 0
            self._check(at[~margins & np.isfinite(self.above[at])])
            settled(at[~margins])
            self._finish(at[~margins])
            at, margins = at[self.active[at]], margins[self.active[at]]
            self._lower_margin(at[margins])
            self._lower_sigma(at[~margins])
        return Path(self.found, self._curve(), self.first, self.slow, self.dead, self.short)

    # -- levels ------------------------------------------------------------------------------

    def begin(self) -> None:
        """The first draws, at the first sigma: errors, or the lowest margins where they are few."""
        own, device = self.particles, self.particles.device
        rows = np.arange(len(self.sigma))
        names = torch.arange(FIRST, FIRST + self.draws, device=device)
        tiled = np.tile(names.cpu().numpy(), len(rows))
        image = own.images.repeat(self.draws)
        seen = own.evaluator.margins(image, self.sigma.repeat(self.draws), tiled, own.progress)
        margin = torch.as_tensor(np.where(np.isnan(seen), -np.inf, seen), device=device)
        margin = margin.view(len(rows), self.draws)
        few = (~(margin > 0)).double().mean(1).cpu().numpy() < COMMON
        inside = self._reach(rows, margin, few)
        own.begin(names, inside, margin)
        # families are numbered by place among the first draws
        self._note(rows, inside, torch.arange(self.draws, device=device).expand_as(inside))
        self.slope = self.sigma * np.maximum(height(self.log_rate), FLATTEST)
        self._give_up(rows)
        self._finish(rows[self.level == 0])

    def _reach(self, at: Ints, margin: Tensor, few: Bools) -> Tensor:
        """Set the level of the margin, 0 where errors are not few; who is inside; the rate."""
        finite, wanted = margin.clamp(-3e38, 3e38), float(np.exp(-self.depth))
        rank = int(wanted * (margin.shape[1] - 1))
        lowest = finite.sort(dim=1).values[:, rank : rank + 1]
        # where far more share that margin, those below it go on
        tied = (finite <= lowest).double().mean(1, keepdim=True) > (1 + wanted) / 2
        below = torch.where(finite < lowest, finite, -torch.inf).amax(1, keepdim=True)
        lowest = torch.where(tied & below.isfinite(), below, lowest)
        self.short[at] |= few & (tied & ~below.isfinite())[:, 0].cpu().numpy()
        self.level[at] = level = np.where(few, lowest[:, 0].clamp(min=0).cpu().numpy(), 0.0)
        inside = ~(margin > torch.as_tensor(level, device=margin.device)[:, None])
        share = inside.double().mean(1).cpu().numpy()
        self.log_rate[at] += np.log(np.maximum(share, 1e-12))
        return inside

    def _note(self, at: Ints, inside: Tensor, family: Tensor) -> None:
        """Write down a level of images `at`, whose survivors are `inside`."""
        shares = torch.zeros(len(at), self.draws, dtype=torch.float64, device=inside.device)
        shares.scatter_add_(1, family, inside.double())
        shares /= shares.sum(1, keepdim=True).clamp(min=1)
        self.variance[at], self.families[at] = family_variance(shares.cpu().numpy())
        number = self.number[at]
        for name, value in (
            ("sigma", self.sigma), ("log_rate", self.log_rate), ("margin", self.level),
            ("lineages", self.families), ("variance", self.variance + self.doubt),
        ):  # fmt: skip
            self.found[f"level_{name}"][at, number] = value[at]
        self.first[at] = np.where(self.level[at] > 0, number + 1, self.first[at])
        self.number[at] += 1

    def _move(self, at: Ints, times: int = 1, radial: bool = False) -> None:
        self.particles.settle()
        taken = np.zeros(len(at))
        for step in range(self.moves * times):
            along = radial and step % 2 == 1
            share = self.particles.move(at, self.sigma[at], self.level[at], self.beta[at], along)
            taken += share / (self.moves * times)
            if not along:
                self.beta[at] = np.clip(self.beta[at] * np.exp(share - ACCEPTED), *BETA)
        last = self.number[at] - 1
        self.found["acceptance"][at, last] = taken
        kept = self.particles.kept.mean(1).cpu().numpy()[at]
        self.found["correlation"][at, last] = kept
        self.slow[at] |= (taken < 0.1) | (self.beta[at] <= BETA[0])

    def _check(self, at: Ints) -> None:
        """Are the particles errors at the level above? Longer chains where some are not."""
        if not len(at):
            return
        share, asked = self._nested(at, CHECKED), np.full(len(at), min(CHECKED, self.particles.n))
        again = self.ending[at] | (share < NESTED)
        if again.any():
            self._move(at[again], LONGER, radial=True)
            share[again], asked[again] = self._nested(at[again]), self.particles.n
            self.ending[at] = again & (share < NESTED)
        last = self.number[at] - 1
        self.found["nested"][at, last] = share
        share = np.maximum(share, 0.5 / asked)
        self.log_rate[at] -= np.log(share)
        self.doubt[at] += ALIKE * (1 - share) / share / asked
        self.found["level_log_rate"][at, last] = self.log_rate[at]
        self.found["level_variance"][at, last] = self.variance[at] + self.doubt[at]

    def _nested(self, at: Ints, some: int | None = None) -> Floats:
        margin = self.particles.judge(at, self.above[at], some)
        return np.asarray((~(margin > 0)).double().mean(1).cpu().numpy())

    def _finish(self, at: Ints) -> None:
        done = (self.log_rate[at] - self.goal[at] < NEAR) | (self.sigma[at] <= self.goal_sigma[at])
        self.short[at] |= ~done & (self.number[at] >= LEVELS)
        self.active[at[done | self.short[at]]] = False

    def _give_up(self, at: Ints) -> None:
        """Images that are still at levels of the margin when their rate is below every goal."""
        below = self.log_rate[at] < self.goal[at] - 1
        self.short[at] |= (self.level[at] > 0) & ~below & (self.number[at] >= LEVELS - 1)
        lost = (self.level[at] > 0) & (below | self.short[at])
        self.dead[at[lost]] = True
        self.active[at[lost]] = False

    def _lower_margin(self, at: Ints) -> None:
        if not len(at):
            return
        margin = self.particles.margin[torch.as_tensor(at, device=self.particles.device)]
        errors = (~(margin > 0)).double().mean(1).cpu().numpy()
        inside = self._reach(at, margin, errors < np.exp(-self.depth))
        self._note(
            at, inside, self.particles.family[torch.as_tensor(at, device=self.particles.device)]
        )
        self.particles.multiply(at, inside)
        self.slope[at] = self.sigma[at] * np.maximum(height(self.log_rate[at]), FLATTEST)
        self._give_up(at)

    def _lower_sigma(self, at: Ints) -> None:
        if not len(at):
            return
        own = self.particles
        before = self.log_rate[at]
        inverse = 1 / self._next(at)
        margin = own.judge(at, 1 / inverse)
        share = (~(margin > 0)).double().mean(1).cpu().numpy()
        for _ in range(TRIES):
            again = share < SCARCE
            if not again.any():
                break
            inverse[again] = (inverse[again] + 1 / self.sigma[at][again]) / 2
            part = own.judge(at[again], 1 / inverse[again])
            margin[torch.as_tensor(again, device=own.device)] = part
            share[again] = (~(part > 0)).double().mean(1).cpu().numpy()
        lost = share == 0
        self.dead[at[lost]], self.active[at[lost]] = True, False
        at, inverse, share, before = (a[~lost] for a in (at, inverse, share, before))
        margin = margin[torch.as_tensor(~lost, device=own.device)]
        if not len(at):
            return
        inside = ~(margin > 0)
        self.log_rate[at] = before + np.log(share)
        rise = (height(self.log_rate[at]) - height(before)) / (inverse - 1 / self.sigma[at])
        line = np.maximum(height(self.log_rate[at]), FLATTEST) / inverse
        self.slope[at] = np.clip(rise, 0.5 * line, STEEPEST * line)
        lower, goal = 1 / inverse, self.goal_sigma[at]
        lower = np.where(lower <= goal * (1 + 1e-12), goal, lower)  # 1 / (1 / goal) may be above
        self.above[at], self.sigma[at] = self.sigma[at], lower
        place = torch.as_tensor(at, device=own.device)
        own.margin[place] = margin
        self._note(at, inside, own.family[place])
        own.multiply(at, inside)
        self._finish_unless_checked(at)

    def _finish_unless_checked(self, at: Ints) -> None:
        """Stop before the moves of the last level, where nothing asks for its check."""
        trusted = ~(np.nan_to_num(self.found["nested"][at], nan=1.0) < 1).any(1)
        self._finish(at[trusted])

    def _next(self, at: Ints) -> Floats:
        """The sigma at which the rate should be a level lower, by the slope of the last level."""
        log_rate, sigma = self.log_rate[at], self.sigma[at]
        h, slope = height(log_rate), self.slope[at]
        with np.errstate(divide="ignore"):
            inverse_goal = 1 / self.goal_sigma[at]
        bounded = np.minimum(inverse_goal, 1e12)
        at_goal = log_rate_of(h + slope * (bounded - 1 / sigma))
        left = log_rate - np.maximum(self.goal[at], at_goal)
        step = left / np.maximum(1.0, np.ceil(left / self.depth - ALMOST))
        # the first slope is that of a line through the origin: be careful
        step = np.where(np.isnan(self.above[at]), np.minimum(step, FIRST_STEP * self.depth), step)
        inverse = 1 / sigma + (height(log_rate - np.maximum(step, 0.05)) - h) / slope
        return np.maximum(1 / inverse, self.goal_sigma[at])

    def errors(self, value: Floats) -> Floats:
        """Of values (R, LEVELS) those of levels of error, moved to the front; nan behind them."""
        place = np.arange(LEVELS) + self.first[:, None]
        found = np.take_along_axis(value, np.minimum(place, LEVELS - 1), 1)
        return np.where(place < self.number[:, None], found, np.nan)

    def _curve(self) -> Curve:
        sigma, log_rate, variance, families = (
            self.errors(self.found[f"level_{each}"])
            for each in ("sigma", "log_rate", "variance", "lineages")
        )
        return Curve(sigma, log_rate, variance, families, self.slope, self.particles.n)
