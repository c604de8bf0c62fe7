"""What is known of the radii at which draws come to err along their rays, and what is inferred.

Draw i of an image errs along x0 + sigma z_i from the radius r_i on, or nearly so. An evaluation at
sigma shows on which side of sigma the radius lies; its margin, roughly, how far away. A draw
evaluated twice has a slope of its own, and predicts margins more than twice as well.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Plan = tuple[Ints, Floats, Ints]  # rows, sigma, samples of a round

# Standard error of a margin predicted over one unit of log sigma, in standard deviations of the
# margins: from the slope of the image, and from the draw's own. As measured on a ResNet-20.
SPREAD, OWN_SPREAD = 1.6, 0.7
SURE = 3.0  # of these errors; their tails are heavier than the normal's
FAR = 0.7  # of an evaluation's sigma: below, a line to the margin at 0 may predict better
TOGETHER = 0.3  # in log sigma: two evaluations closer than this make a slope
FLAT = 0.2  # least fall per log sigma, in standard deviations of the margins
FARTHEST = (
    20.0  # no radius is inferred beyond this multiple of an evaluation's sigma, or its inverse
)
# evaluations of a draw from which on its bracket is relied upon, up to this factor away
OFTEN, CLOSE = 3, 1.1
PRIOR = 8  # evaluations that SPREAD counts for, against those of the image
DOWN = 16.0  # of a blind step, at most: half of it in log sigma
SURPRISED = 3.0  # times the usual error: nothing is inferred any more
NOT_TOO_CLOSE = 0.01  # in log sigma, for a slope


class Radii:
    """The last two evaluations of B images x N draws, and brackets [low, high] around radii.

    clean (B,): margins at sigma 0, which all rays begin with. rough: along a ray, margins move in
    many small steps and not smoothly, as in salt and pepper.
    """

    def __init__(self, clean: Floats, samples: int, sigma_max: float, rough: bool = False) -> None:
        images = len(clean)
        shape = images, samples
        self.clean, self.rough = clean, rough
        self.sigma_max = sigma_max
        self.at, self.margin = np.full((2, *shape), np.nan), np.full((2, *shape), np.nan)
        self.low, self.high = np.zeros(shape), np.full(shape, np.inf)
        self.times = np.zeros(shape, np.int8)  # evaluated, at most 127
        self.slope = np.full(images, np.nan)  # fall of a margin per unit of log sigma
        self.deviation = np.full(images, np.nan)  # of the margins over draws
        self.weight = np.full(images, float(PRIOR))  # evaluations that the slope rests on
        self.surprise = np.full((2, images), float(PRIOR))  # squared errors, and their number
        self.blind = np.zeros(images, bool)  # margins tell nothing of distances

    def record(self, rows: Ints, sigma: Floats, samples: Ints, margins: Floats) -> None:
        """Learn from distinct draws evaluated at sigma."""
        draw = rows, samples
        right = margins > 0
        # errors may come and go along a ray: the last crossing seen counts, or where nothing is
        # inferred the first one
        gone = right & (sigma >= self.high[draw]) & ~self.blind[rows]
        back = ~right & (sigma <= self.low[draw])
        self.high[rows[gone], samples[gone]] = np.inf
        self.low[rows[back], samples[back]] = 0
        up, down = right & (sigma > self.low[draw]), ~right & (sigma < self.high[draw])
        self.low[rows[up], samples[up]] = sigma[up]
        self.high[rows[down], samples[down]] = sigma[down]
        self.times[draw] = np.minimum(self.times[draw], 126) + 1
        new = sigma != self.at[0][draw]
        draw = rows[new], samples[new]
        self.at[1][draw], self.margin[1][draw] = self.at[0][draw], self.margin[0][draw]
        self.at[0][draw], self.margin[0][draw] = sigma[new], margins[new]

    def learn(self, rows: Ints, sigma: Floats, samples: Ints, margins: Floats) -> None:
        """`record`, and how well the margins were predicted."""
        at, margin = self.at[:, rows, samples], self.margin[:, rows, samples]
        slope, deviation, clean = (v[rows] for v in (self.slope, self.deviation, self.clean))
        mean, error = _predict(at, margin, slope, deviation, clean, sigma, self.rough)
        with np.errstate(all="ignore"):
            off = np.clip((margins - mean) / error, -4, 4)
            # the slope at which a model linear in sigma would have given both margins
            fall = margin[0] + (margin[0] - margins) / (sigma / at[0] - 1)
            apart = np.abs(np.log(sigma / at[0]))
        n, known = len(self.slope), np.isfinite(off) & ~self.blind[rows]
        self.surprise[0] += np.bincount(rows[known], off[known] ** 2, n)
        self.surprise[1] += np.bincount(rows[known], minlength=n)
        self.blind |= self.spread > SURPRISED
        known &= (apart > NOT_TOO_CLOSE) & (apart < TOGETHER) & (not self.rough)
        total = self.slope * self.weight + np.bincount(rows[known], fall[known], n)
        self.weight += np.bincount(rows[known], minlength=n)
        learnt = total / self.weight
        self.slope = np.where(learnt > 0, learnt, self.slope)
        self.record(rows, sigma, samples, margins)

    @property
    def spread(self) -> Floats:
        """Of the errors of the predicted margins of each image, as a multiple of the usual (B,)."""
        return np.sqrt(self.surprise[0] / self.surprise[1])

    def infer(self, images: Ints) -> Floats:
        """The best guess at each radius (len(images), N), inf where a draw was never evaluated."""
        at, margin = self.at[:, images], self.margin[:, images]
        slope, deviation = self.slope[images, None], self.deviation[images, None]
        with np.errstate(all="ignore"):
            nearer = np.abs(margin[1]) < np.abs(margin[0])
            base, m = (np.where(nearer, v[1], v[0]) for v in (at, margin))
            fall, _ = _fall(at, margin, slope, deviation, base, m, self.rough)
            radius = np.clip(base + m / fall, base / FARTHEST, base * FARTHEST)
            clean = self.clean[images, None]
            chord = np.minimum(base * clean / (clean - m), FAR * base)
            radius = np.where(radius < FAR * base, np.maximum(radius, chord), radius)
        low, high = self.low[images], self.high[images]
        if self.blind[images].any():
            # an interval that holds 0 is halved in log sigma, as far down as it takes
            floor = np.maximum(low, np.minimum(1e-4 * self.sigma_max, high / DOWN))
            middle = np.where(np.isinf(high), 2 * floor, np.sqrt(floor * high))
            radius = np.where(self.blind[images, None], middle, radius)
        often = self.times[images] >= OFTEN
        radius = np.where(often, np.clip(radius, np.nextafter(low, np.inf), high), radius)
        radius[np.isnan(at[0])] = np.inf
        return radius

    def certainty(self, images: Ints, sigma: Floats) -> Floats:
        """How sure the side of sigma (I,) is of each draw (I, N): below -1 it surely errs there.

        Above 1 it surely does not; NaN where a draw was never evaluated.
        """
        at, margin, sigma = self.at[:, images], self.margin[:, images], sigma[:, None]
        slope, deviation = self.slope[images, None], self.deviation[images, None]
        clean = self.clean[images, None]
        mean, error = _predict(at, margin, slope, deviation, clean, sigma, self.rough)
        with np.errstate(all="ignore"):
            sure = mean / (SURE * self.spread[images, None] * error)
        sure[(error == 0) & ~(mean > 0)] = -np.inf
        # of some draws the bracket is taken at its word
        blind, times = self.blind[images, None], self.times[images]
        row, draw = np.nonzero((times >= OFTEN) | blind & (times > 0))
        low, high, end = self.low[images[row], draw], self.high[images[row], draw], sigma[row, 0]
        known = np.where(high <= end, -np.inf, np.where(low >= end, np.inf, 0.0))
        close = 1.0 if self.rough else CLOSE  # errors come and go by a step
        near = (known != 0) & (end <= close * high) & (low <= close * end)
        trusted = near & (times[row, draw] >= OFTEN) | blind[row, 0]
        sure[row[trusted], draw[trusted]] = known[trusted]
        return sure

    def reciprocal(self, images: Ints) -> Floats:
        """1 / r_i by the last evaluation and the slope alone, (len(images), N): NaN where unseen.

        Normal for a linear model, with mean 0.
        """
        with np.errstate(all="ignore"):
            return (1 - self.margin[0, images] / self.slope[images, None]) / self.at[0, images]


def _fall(
    at: Floats,
    margin: Floats,
    slope: Floats,
    deviation: Floats,
    base: Floats,
    m: Floats,
    rough: bool,
) -> tuple[Floats, Bools]:
    """Fall of a margin per unit of sigma: of the line through two evaluations, or through one.

    Second, where it is of two. Margins are nearly linear in sigma, and are exactly so for a linear
    model; for rough ones two evaluations near each other determine no slope.
    """
    apart = at[0] / at[1]
    together = (apart < np.exp(TOGETHER)) & (apart > np.exp(-TOGETHER)) & (not rough)
    own = (margin[1] - margin[0]) / (at[0] - at[1])
    fall = np.where(together, own, (slope - m) / base)
    return np.maximum(fall, FLAT * deviation / base), together


def _predict(
    at: Floats,
    margin: Floats,
    slope: Floats,
    deviation: Floats,
    clean: Floats,
    sigma: Floats,
    rough: bool,
) -> tuple[Floats, Floats]:
    """Margins predicted at sigma, with their standard errors, from (2, ...) evaluations."""
    with np.errstate(all="ignore"):
        beyond = sigma**2 - at[0] * at[1]  # the middle of both, in log sigma
        nearer = beyond * (at[1] - at[0]) > 0
        base, m = (np.where(nearer, v[1], v[0]) for v in (at, margin))
        fall, together = _fall(at, margin, slope, deviation, base, m, rough)
        mean = m - fall * (sigma - base)
        chord = clean + (m - clean) * sigma / base
        mean = np.where((m <= 0) & (sigma < FAR * base), np.maximum(mean, chord), mean)
        away = np.abs(np.log(sigma / base))
        if rough:
            # a margin that is a sum of steps has a variance that grows with their number
            return mean, deviation * np.sqrt((SPREAD * away) ** 2 + away)
        return mean, np.where(together, OWN_SPREAD, SPREAD) * deviation * away
