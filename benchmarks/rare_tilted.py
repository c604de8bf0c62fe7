"""Another design than splitting and bridges, measured beside them: tilted levels.

    python benchmarks/rare_tilted.py [--model cifar10-natural ...] [--images 12] [--rate 1e-6]
        [--runs 300]

Prints, for each network, what bench_rare writes of splitting, and of known sets in how many runs
the interval holds. docs/rare_errors.md says how the two compare.

At each level particles follow the noise's law tilted towards errors, p(z) exp(-u(beta m)), m being
the margin at the level's sigma and u linear outside errors and flat deep in them. The next level
has a smaller sigma and a tilt that has a third of its particles in error. What its law holds of the
last one's, and the other way round, tells the ratio of their totals (Bennett, 1976); the total and
the errors among the particles tell the error rate, Z E_tilted[error, exp(u)]. No level need hold
the errors of the next: where errors end again along rays nothing is put right. Where noise hardly
meets errors, the tilt grows at one sigma until it does.

Sources: Bennett, Journal of Computational Physics 22 (1976); Del Moral, Doucet and Jasra, JRSS B 68
(2006); Sinha, O'Kelly, Tedrake and Duchi, NeurIPS 2020, who tilt by margins and bridge too.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path as File

import numpy as np
import torch
from numpy.typing import NDArray
from rare_networks import of_images
from rare_trajectories import ANGLES, Tilt, Trajectories
from scipy.special import expit, logsumexp

import robustcore as rc
from robustcore.rare import descent
from robustcore.rare.curve import FLATTEST, Curve, height, log_rate_of
from robustcore.rare.particles import FIRST, Particles
from robustcore.rare.path import FIELDS, LEVELS, LOWEST, Path

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

COMMON = 0.05  # least share of errors among the first draws that is told without a tilt
IN_ERROR = 0.35  # share of the next particles, at most, by the choice of their tilt
MET = 0.15  # least share of errors at a level that sigma is lowered from
LAST_ERROR = 0.5
LIKE = 0.3  # effective share of the last particles that the next law leaves, at least
UNLIKE = 0.2  # where no tilt leaves so much, a nearer sigma is tried
ALIKE = 0.5  # as many are to be left, by what the last step left of its particles
REACH = 0.25, 2.0  # times the last step
TRIES = 8
TILTS = np.exp2(np.arange(-8, 8.01, 0.125))  # in units of one over the margins' deviation
NEAR = 0.3  # in the log rate: so near the goal the curve's slope does the rest
FIRST_STEP = 0.35  # of a level: the first slope is a guess, and rates fall faster
ALMOST = 0.15  # of a level: not worth one more
STEEPEST = 3.0  # slope of h in 1/sigma, in units of the line through the origin; 1/2 at least
STILL = 0.5  # share accepted below which another trajectory follows
AGAIN = 4  # at most
DEPTH, LAST_DEPTH = 1.5, 0.5  # of a tilt: at the last level all errors weigh much alike


class Median(Curve):
    """Its log rates, not its rates, are unbiased."""

    def sigma_interval(self, log_rate: Floats, confidence: float) -> tuple[Floats, Floats, Floats]:
        _, variance, _ = self.at_rate(log_rate)
        return super().sigma_interval(log_rate + variance / 2, confidence)


class Tilting:
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
        self.particles, self.draws = particles, draws
        self.fall = -np.log(probability)  # of the log rate, from level to level
        self.trajectories = Trajectories(particles, moves)
        count = len(sigma)
        self.goal = np.full(count, max(goal_log_rate, LOWEST))
        self.goal_sigma = np.full(count, goal_sigma)
        self.sigma, self.tilt = sigma.copy(), Tilt(np.zeros(count), np.full(count, DEPTH))
        self.log_total, self.log_rate = np.zeros(count), np.zeros(count)
        self.told = np.zeros((count, draws))  # by each family, of the error of log_total
        self.wider = np.ones(count)  # times the variance, where few are left
        self.slope = np.zeros(count)  # of h in 1/sigma
        self.reach = np.full(count, np.inf)  # in 1/sigma, of the next step
        self.known, self.ending = np.zeros(count, bool), np.zeros(count, bool)
        self.number = np.zeros(count, np.int64)  # of the sigma
        self.steps = np.zeros(count, np.int64)
        self.slow, self.dead, self.short = (np.zeros(count, bool) for _ in range(3))
        self.active = np.ones(count, bool)
        self.found = {name: np.full((count, LEVELS), np.nan) for name in FIELDS}
        self.freedom = np.full((count, LEVELS), np.nan)

    def begin(self) -> None:
        pass

    def run(self) -> Path:
        rows = np.arange(len(self.sigma))
        margin = self._judge_draws(rows, self.sigma)
        family = np.tile(np.arange(self.draws), (len(rows), 1))
        share = self._tell(rows, margin, family)
        self._know(rows, share >= COMMON)
        self.slope = self._line(rows)
        self._finish(rows)
        if self.active.any():
            self._step(np.flatnonzero(self.active), margin[self.active], family[self.active])
        while self.active.any():
            at = np.flatnonzero(self.active)
            self._step(at, self._margins(at))
        self._end(np.flatnonzero(self.ending & self.known & (self.sigma > self.goal_sigma)))
        return Path(
            self.found, self._curve(), np.zeros_like(self.number), self.slow, self.dead, self.short
        )

    # -- a level -----------------------------------------------------------------------------

    def _step(self, at: Ints, margin: Floats, drawn: Ints | None = None) -> None:
        """To the next level: a lower sigma where the rate is known, more tilt where it is not.

        margin (len(at), F): of the particles at sigma. drawn: the families of the first draws,
        which have not been made particles yet.
        """
        sigma = np.where(self.known[at], self._next(at), self.sigma[at])
        ahead, tilt, left = self._look(at, sigma, margin, drawn)
        for _ in range(TRIES):
            far = (left < UNLIKE) & (sigma < self.sigma[at])
            if not far.any():
                break
            sigma[far] = 2 / (1 / sigma[far] + 1 / self.sigma[at][far])
            there, less, left[far] = self._look(
                at[far], sigma[far], margin[far], None if drawn is None else drawn[far]
            )
            ahead[far], tilt.beta[far] = there, less.beta
        lost = tilt.beta == 0  # no margin differs from another
        self.short[at[lost]], self.active[at[lost]] = True, False
        at, ahead, sigma, margin, left = (a[~lost] for a in (at, ahead, sigma, margin, left))
        tilt = tilt.of(~lost)
        if not len(at):
            return
        own, old, above = self.particles, self.tilt.of(at), self.sigma[at]
        forward = _difference(tilt.potential(ahead), old.potential(margin))
        before = self._families(at) if drawn is None else drawn[~lost]
        chosen = self._chosen(at, forward)
        kept = np.take_along_axis(ahead, chosen, 1)
        few = np.maximum(left * margin.shape[1], 2.0)
        self.wider[at] *= few / (few - 1)
        take(own, at, chosen, None if drawn is None else FIRST, kept)
        lower, known = sigma < above, self.known[at]
        self.number[at] += lower
        self.sigma[at], self.tilt.beta[at], self.tilt.depth[at] = sigma, tilt.beta, tilt.depth
        self._move(at)
        margin, family = self._margins(at), self._families(at)
        back = margin.copy()
        if lower.any():
            back[lower] = self._judge(at[lower], above[lower])
        reverse = _difference(old.potential(back), tilt.potential(margin))
        ratio, gone, come = bennett(forward, reverse)
        self.log_total[at] += ratio
        _add(self.told, at, before, gone)
        _add(self.told, at, family, come)
        h, inverse = height(self.log_rate[at]), 1 / above
        share = self._tell(at, margin, family, back)
        self._know(at, share >= MET)
        line = self._line(at)
        with np.errstate(divide="ignore", invalid="ignore"):
            rise = (height(self.log_rate[at]) - h) / (1 / sigma - inverse)
        rise = np.where(lower & known & np.isfinite(rise), rise, line)
        rise = np.clip(rise, 0.5 * line, STEEPEST * line)
        self.slope[at] = np.where(self.known[at], rise, self.slope[at])
        # what is left falls with the square of the step; chosen by levels passed, none by its luck
        times = np.sqrt(np.log(ALIKE) / np.minimum(np.log(left), -0.01))
        reach = (1 / sigma - inverse) * np.clip(times, *REACH)
        self.reach[at] = np.where(lower, reach, self.reach[at])
        self.steps[at] += 1
        self._finish(at)

    def _end(self, at: Ints) -> None:
        """The last rate by the same particles at the sigma that should have the one wanted."""
        if not len(at):
            return
        gap = height(self.goal[at]) - height(self.log_rate[at])
        sigma = np.maximum(1 / (1 / self.sigma[at] + gap / self.slope[at]), self.goal_sigma[at])
        self.sigma[at] = sigma
        self._tell(at, self._judge(at, sigma), self._families(at), tilted=self._margins(at))

    def _look(
        self, at: Ints, sigma: Floats, margin: Floats, drawn: Ints | None
    ) -> tuple[Floats, Tilt, Floats]:
        """(margins at sigma, the tilt there, effective share of the particles that it leaves)."""
        lower = sigma < self.sigma[at]
        ahead = margin.copy()
        if lower.any():
            judge = self._judge if drawn is None else self._judge_draws
            ahead[lower] = judge(at[lower], sigma[lower])
        last = self.ending[at]
        depth = np.where(last, LAST_DEPTH, DEPTH)
        before = self.tilt.of(at).potential(margin)
        tilt, left = chosen_tilt(ahead, before, depth, np.where(last, LAST_ERROR, IN_ERROR))
        return ahead, tilt, left

    def _move(self, at: Ints) -> None:
        own, number = self.trajectories, self.number[at]
        accepted, kept = own.run(at, self.sigma[at], self.tilt.of(at))
        for _ in range(AGAIN):
            again = np.flatnonzero(accepted < STILL)
            if not len(again):
                break
            more = at[again]
            share, cosine = own.run(more, self.sigma[more], self.tilt.of(more))
            accepted[again], kept[again] = share, kept[again] * cosine
        self.found["acceptance"][at, number], self.found["correlation"][at, number] = accepted, kept
        self.slow[at] |= (accepted < 0.1) | (own.angle[at] <= ANGLES[0])

    def _tell(
        self,
        at: Ints,
        margin: Floats,
        family: Ints,
        above: Floats | None = None,
        tilted: Floats | None = None,
    ) -> Floats:
        """Write down the level that images `at` are at; the share of errors among its particles.

        above: margins at the level above, where there is one. tilted: those that tilt the law,
        where it is not that of this level.
        """
        error, many = ~(margin > 0), margin.shape[1]
        tilted = margin if tilted is None else tilted
        weight = np.where(error, np.exp(self.tilt.of(at).potential(tilted)), 0.0)
        mean = np.maximum(weight.mean(1), 1e-300)
        self.log_rate[at] = np.minimum(self.log_total[at] + np.log(mean), 0.0)
        told = self.told[at].copy()
        _add(told, np.arange(len(at)), family, (weight / mean[:, None] - 1) / many)
        members = np.zeros_like(told)
        _add(members, np.arange(len(at)), family, np.full(family.shape, 1 / many))
        number = self.number[at]
        for name, value in (
            ("sigma", self.sigma[at]), ("log_rate", self.log_rate[at]),
            ("margin", self.tilt.beta[at]),
            ("variance", self.wider[at] * np.square(told).sum(1)),
            ("lineages", 1 / np.square(members).sum(1)),
        ):  # fmt: skip
            self.found[f"level_{name}"][at, number] = value
        self.freedom[at, number] = degrees(told)
        if above is not None:
            inside = (weight * ~(above > 0)).mean(1) / mean
            self.found["nested"][at, number] = np.where(weight.any(1), inside, np.nan)
        return np.asarray(error.mean(1))

    def _know(self, at: Ints, known: Bools) -> None:
        """Whether enough errors were met for a rate: else the level tells none."""
        self.known[at] = known
        unknown = at[~known]
        self.found["level_log_rate"][unknown, self.number[unknown]] = np.nan

    def _line(self, at: Ints) -> Floats:
        """The slope of h in 1/sigma, if errors were a half-space."""
        return self.sigma[at] * np.maximum(height(self.log_rate[at]), FLATTEST)

    def _finish(self, at: Ints) -> None:
        there = (self.log_rate[at] - self.goal[at] < NEAR) | (self.sigma[at] <= self.goal_sigma[at])
        done = self.ending[at] & self.known[at]
        self.ending[at] |= there & self.known[at]
        # of errors that are not met the rate is at most this
        most = self.log_total[at] + self.tilt.of(at).potential(np.zeros((len(at), 1)))[:, 0]
        below = ~self.known[at] & (most < self.goal[at] - 1)
        self.dead[at[below]] = True
        late = (self.steps[at] >= LEVELS - 1) & ~done & ~below
        self.short[at[late]] = True
        self.active[at[done | below | late]] = False

    def _next(self, at: Ints) -> Floats:
        """The sigma at which the rate should be a level lower, by the slope of the last level."""
        log_rate, sigma = self.log_rate[at], self.sigma[at]
        h, slope = height(log_rate), np.maximum(self.slope[at], 1e-300)
        with np.errstate(divide="ignore"):
            inverse_goal = 1 / self.goal_sigma[at]
        bounded = np.minimum(inverse_goal, 1e12)
        at_goal = log_rate_of(h + slope * (bounded - 1 / sigma))
        left = log_rate - np.maximum(self.goal[at], at_goal)
        steps = np.maximum(1.0, np.ceil(left / self.fall - ALMOST))
        step = left / steps
        step = np.where(self.number[at] == 0, np.minimum(step, FIRST_STEP * self.fall), step)
        inverse = 1 / sigma + (height(log_rate - np.maximum(step, 0.05)) - h) / slope
        lower = 1 / np.minimum(inverse, 1 / sigma + self.reach[at])
        goal = self.goal_sigma[at]
        lower = np.where(lower <= goal * (1 + 1e-12), goal, lower)  # 1 / (1 / goal) may be above
        return np.where(self.ending[at], sigma, lower)

    def _curve(self) -> Curve:
        """Of the sigmas at which the rate is known, moved to the front."""
        log_rate = self.found["level_log_rate"]
        order = np.argsort(np.isnan(log_rate), axis=1, kind="stable")
        known = np.take_along_axis(~np.isnan(log_rate), order, 1)
        sigma, log_rate, variance, families = (
            np.where(known, np.take_along_axis(each, order, 1), np.nan)
            for each in (
                self.found["level_sigma"],
                log_rate,
                self.found["level_variance"],
                self.freedom,
            )
        )
        last = np.maximum(known.sum(1) - 1, 0)
        first, rows = np.maximum(last - 2, 0), np.arange(len(last))
        with np.errstate(invalid="ignore", divide="ignore"):
            rise = height(log_rate[rows, last]) - height(log_rate[rows, first])
            run = 1 / sigma[rows, last] - 1 / sigma[rows, first]
            slope = np.where((last >= 2) & (rise > 0), rise / run, self.slope)
        variance_of = sigma, log_rate, variance, families, slope, self.particles.n
        return Median(*variance_of)

    # -- particles ---------------------------------------------------------------------------

    def _margins(self, at: Ints) -> Floats:
        own = self.particles
        return np.asarray(own.margin[torch.as_tensor(at, device=own.device)].cpu().numpy())

    def _families(self, at: Ints) -> Ints:
        own = self.particles
        return np.asarray(own.family[torch.as_tensor(at, device=own.device)].cpu().numpy())

    def _judge(self, at: Ints, sigma: Floats) -> Floats:
        return np.asarray(self.particles.judge(at, sigma).double().cpu().numpy())

    def _judge_draws(self, at: Ints, sigma: Floats) -> Floats:
        """Margins (len(at), draws) of the first draws at sigma; NaN as -inf."""
        own = self.particles
        names = np.tile(np.arange(FIRST, FIRST + self.draws), len(at))
        rows = np.repeat(own.images[at], self.draws)
        seen = own.evaluator.margins(rows, np.repeat(sigma, self.draws), names, own.progress)
        return np.where(np.isnan(seen), -np.inf, seen).reshape(len(at), -1)

    def _chosen(self, at: Ints, work: Floats) -> Ints:
        """Places of the next particles among the last, each about as often as exp(-work) says."""
        weight = np.exp(-work - logsumexp(-work, axis=1, keepdims=True))
        edges = np.cumsum(weight, axis=1)
        offset = self.trajectories.uniforms(at, 1)
        want = (np.arange(self.particles.n) + offset) / self.particles.n * edges[:, -1:]
        rows = [np.searchsorted(a, b) for a, b in zip(edges, want, strict=True)]
        return np.minimum(np.array(rows), work.shape[1] - 1)


def chosen_tilt(margin: Floats, before: Floats, depth: Floats, most: Floats) -> tuple[Tilt, Floats]:
    """(tilt, effective share of the particles that it leaves) of margins (R, N) at a next level.

    The most that leaves a share LIKE of them and no more than `most` of the weight in error; beta 0
    where no margin differs from another. before (R, N): their potential at the last level.
    """
    unit = np.nanstd(np.where(np.isfinite(margin), margin, np.nan), axis=1)
    error = ~(margin > 0)
    best, left, fits = np.zeros(len(margin)), np.zeros(len(margin)), np.zeros(len(margin), bool)
    for each in TILTS:
        tilt = Tilt(each / np.where(unit > 0, unit, 1.0), depth)
        work = _difference(tilt.potential(margin), before)
        weight = np.exp(work.min(1, keepdims=True) - work)
        total = weight.sum(1)
        like = total**2 / np.square(weight).sum(1) / margin.shape[1]
        wrong = (weight * error).sum(1) / total
        good = (like >= LIKE) & ((wrong <= most) | ~fits)
        better = good | (~fits & (like > left))
        best, left = np.where(better, tilt.beta, best), np.where(better, like, left)
        fits |= good
    return Tilt(np.where(unit > 0, best, 0.0), depth), left


def bennett(forward: Floats, reverse: Floats) -> tuple[Floats, Floats, Floats]:
    """(log of the ratio of two totals, what each particle adds to its error, below and above).

    forward (R, N): the potential of the next law less that of the last, of particles of the last;
    reverse (R, M): the other way round, of particles of the next.
    """
    odds = np.log(forward.shape[1] / reverse.shape[1])
    low, high = np.full(len(forward), -1e4), np.full(len(forward), 1e4)
    for _ in range(70):
        middle = (low + high) / 2
        more = expit(middle[:, None] - forward - odds).sum(1)
        less = expit(-middle[:, None] - reverse + odds).sum(1)
        low, high = np.where(more < less, middle, low), np.where(more < less, high, middle)
    free = (low + high) / 2
    gone, come = (
        expit(free[:, None] - forward - odds), expit(-free[:, None] - reverse + odds)
    )  # fmt: skip
    steep = (gone * (1 - gone)).sum(1) + (come * (1 - come)).sum(1)
    steep = np.maximum(steep, 1e-300)[:, None]
    return (
        -free,
        (gone - gone.mean(1, keepdims=True)) / steep,
        -(come - come.mean(1, keepdims=True)) / steep,
    )


def _difference(after: Floats, before: Floats) -> Floats:
    """inf - inf is inf: what both laws leave out is not in the next."""
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(after - before, nan=np.inf, posinf=np.inf, neginf=-np.inf)


def _add(told: Floats, at: Ints, family: Ints, what: Floats) -> None:
    """To told (R, F), rows `at`, what particles (len(at), N) tell, family by family."""
    np.add.at(told, (at[:, None], family), what)


def degrees(told: Floats) -> Floats:
    """Degrees of freedom (R,) of the sum of squares of what F families tell (R, F).

    Those of a scaled chi-square with its mean and variance. Source: Satterthwaite (1946).
    """
    square = np.square(told)
    total, present = square.sum(1), np.maximum((square > 0).sum(1), 1)
    spread = np.square(square).sum(1) - total**2 / present
    return 2 * total**2 / np.maximum(spread, 2 * total**2 / present + 1e-300)


def take(own: Particles, at: Ints, chosen: Ints, names: int | None, margin: Floats) -> None:
    """Of images `at`, those chosen (len(at), N), ascending, take the places of all.

    names: of the first draws, where these are chosen from; else particles are. margin (len(at), N).
    """
    local = torch.as_tensor(at, device=own.device)
    places = torch.as_tensor(chosen, device=own.device)
    own.margin[local] = torch.as_tensor(margin, device=own.device)
    if names is None:
        own.family[local] = own.family[local].gather(1, places)
        start = local[:, None] * own.n
        source = (start + places).flatten()
        place = (start + torch.arange(own.n, device=own.device)).flatten()
        moved = (source != place).nonzero().flatten()
        own._copy(source[moved], place[moved])
        return
    own.family[local] = places
    slots, drawn = own.slots(at), (names + places).flatten()

    def draw(part: slice) -> None:
        new = own.z.new_empty(part.stop - part.start, *own.z.shape[1:])
        own._drawn(slots, part, drawn, new)
        own.z.index_copy_(0, slots.place[part], new)

    own.batches(len(drawn), draw)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", nargs="*", default=[])
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--rate", type=float, default=1e-6)
    parser.add_argument("--runs", type=int, default=0)
    args = parser.parse_args()
    descent.Splitting = Tilting
    descent.Settings.particles = property(lambda own: max(own.samples // 7, own.least))
    for name in args.model:
        model, x, y = rc.load_example(name, args.images * 2)
        right = (model(x).argmax(1) == y).nonzero().flatten()[: args.images]
        curve = rc.error_curve(model, x[right], y[right], [args.rate], ids=right, bridge=False)
        print(name, json.dumps(of_images(curve, 0)), flush=True)
    sys.path.insert(0, str(File(__file__).resolve().parent.parent / "tests"))
    import rare_models
    from models import HalfSpace, grey

    sets = {
        "half-space": (HalfSpace(3, 0.5), 3, None, 1.0),
        "two half-spaces": (rare_models.two_planes(0.5, 0.6), 5, (0.02, 0.6), 1.0),
        "shell": (rare_models.shell(0.9, 1.1, 5), 5, (0.08, 0.35), 0.4),
        "ball": (rare_models.ball(0.5, 0.3, 3), 3, (0.03, 0.2), 0.25),
        "small ball": (rare_models.ball(0.5, 0.1, 3), 3, (0.06, 0.2), 0.2),
    }
    for name, (model, n, ends, sigma_max) in sets.items() if args.runs else ():
        curve = rc.error_curve(
            model, *grey(args.runs, (1, 1, n)), [args.rate], sigma_max=sigma_max,
            second_look=False, bridge=False, progress=False,
        )  # fmt: skip
        truth = model.sigma(args.rate, *ends) if ends else model.sigma(args.rate)
        holds = (curve.sigma_low <= truth) & (truth <= curve.sigma_high)
        off = np.median(np.abs(curve.sigma / truth - 1))
        spent = np.median(curve.n_forward)
        print(f"{name}: {holds.mean():.3f} hold, sigma {off:.2%} off, {spent:.0f} evaluations")


if __name__ == "__main__":
    main()
