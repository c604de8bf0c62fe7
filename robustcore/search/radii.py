"""What is known of the radii at which draws first err along their rays, and what can be inferred.

Draw i of an image errs along x0 + sigma z_i from the radius r_i on. An evaluation at sigma tells on
which side of sigma the radius lies; its margin tells, roughly, how far away. Inferred brackets are
kept apart from proven ones, and a contradiction makes an image's inference more careful.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Plan = tuple[Ints, Floats, Ints]  # rows, sigma, samples of a round

# An inferred radius lies at this factor of its inferred log distance from the evaluation, or at
# one over it, for most draws of a ResNet-20: their margins fall at slopes of their own.
DOUBT = 1.4
TINY = 1e-5
FARTHEST = 0.05  # no radius is inferred beyond 20 times the sigma of the evaluation


class Radii:
    """Brackets [low, high] around r_i for B images x N draws; `clean` (B,) are margins at x0."""

    def __init__(self, clean: Floats, samples: int, sigma_max: float) -> None:
        shape = len(clean), samples
        self.clean, self.sigma_max = clean, sigma_max
        self.low, self.low_margin = np.zeros(shape), np.repeat(clean[:, None], samples, 1)
        self.high, self.high_margin = np.full(shape, np.inf), np.full(shape, np.nan)
        self.at, self.margin = np.full(shape, np.nan), np.full(shape, np.nan)
        self.slope = np.full(len(clean), np.nan)  # fall of a margin per unit of log sigma
        self.doubt = np.full(len(clean), DOUBT)  # inf: nothing is inferred

    def record(self, rows: Ints, sigma: Floats, samples: Ints, margins: Floats) -> None:
        """Learn from distinct draws evaluated at sigma."""
        draw = rows, samples
        right = margins > 0
        up = right & (sigma > self.low[draw]) & (sigma < self.high[draw])
        self.low[rows[up], samples[up]] = sigma[up]
        self.low_margin[rows[up], samples[up]] = margins[up]
        down = ~right & (sigma < self.high[draw])
        # an error below a sigma at which the draw was right: the first error counts
        again = down & (sigma <= self.low[draw])
        self.low[rows[again], samples[again]] = 0
        self.low_margin[rows[again], samples[again]] = self.clean[rows[again]]
        self.high[rows[down], samples[down]] = sigma[down]
        self.high_margin[rows[down], samples[down]] = margins[down]
        self.at[draw], self.margin[draw] = sigma, margins

    def infer(self, images: Ints) -> tuple[Floats, Floats, Floats]:
        """(radius, low, high), each (len(images), N): a best guess within an inferred bracket.

        Draws that were never evaluated have all three at inf.
        """
        low, high, at = self.low[images], self.high[images], self.at[images]
        low_margin, high_margin = self.low_margin[images], self.high_margin[images]
        with np.errstate(all="ignore"):
            # margins are nearly linear in sigma, and are exactly so for a linear model
            between = low + (high - low) * low_margin / (low_margin - high_margin)
            beyond = 1 / np.maximum(self.reciprocal(images), FARTHEST / at)
            both = (low > 0) & np.isfinite(high)
            radius = np.where(both, between, beyond)
            doubt = self.doubt[images, None]
            away = np.abs(np.log(radius / at))
            nearest = np.minimum(np.log(radius / low), np.log(high / radius))
            inward = np.where(both, nearest, away) * (1 - 1 / doubt)
            outward = np.where(both, inward, away * (doubt - 1))
            right = radius > at
            inferred_low = radius * np.exp(-np.where(right, inward, outward) - TINY)
            inferred_high = radius * np.exp(np.where(right, outward, inward) + TINY)
            inferred_low = np.maximum(low, inferred_low)
            inferred_high = np.minimum(high, inferred_high)
        blind = ~np.isfinite(radius) | np.isinf(self.doubt[images, None])
        floor = np.maximum(low, 1e-4 * self.sigma_max)
        middle = np.where(np.isinf(high), 2 * floor, np.sqrt(floor * high))
        radius = np.where(blind, middle, radius)
        inferred_low = np.where(blind, low, inferred_low)
        inferred_high = np.where(blind, high, inferred_high)
        # beyond sigma_max nothing is evaluated, so nothing is inferred
        inferred_high = np.where(inferred_high > self.sigma_max, high, inferred_high)
        radius = np.clip(radius, inferred_low, inferred_high)
        unseen = np.isnan(at)
        for value in (radius, inferred_low, inferred_high):
            value[unseen] = np.inf
        return radius, inferred_low, inferred_high

    def reciprocal(self, images: Ints) -> Floats:
        """1 / r_i by the last evaluation and the slope alone, (len(images), N): NaN where unseen.

        Normal for a linear model, with mean 0.
        """
        with np.errstate(all="ignore"):
            return (1 - self.margin[images] / self.slope[images, None]) / self.at[images]

    def contradicted(self, rows: Ints, sigma: Floats, samples: Ints, margins: Floats) -> Ints:
        """Images for which an evaluation falls outside what had been inferred for its draw."""
        images, index = np.unique(rows, return_inverse=True)
        _, low, high = self.infer(images)
        draw = index, samples
        wrong = np.where(margins > 0, sigma > high[draw] * 1.0001, sigma < low[draw] * 0.9999)
        return np.unique(rows[wrong])

    def open_at(self, images: Ints, sigma: Floats) -> NDArray[np.bool_]:
        """Draws of which no evaluation tells whether they err at sigma (I, 1): bool (I, N)."""
        seen = ~np.isnan(self.at[images])
        return seen & (self.low[images] < sigma) & (self.high[images] > sigma)

    def certainty(self, images: Ints, sigma: Floats) -> Floats:
        """The least doubt under which the side of sigma (I, 1) is open, (I, N); inf if proven."""
        radius, _, _ = self.infer(images)
        with np.errstate(all="ignore"):
            at = self.at[images]
            ratio = np.log(sigma / at) / np.log(radius / at)
            factor = np.where(ratio > 1, ratio, 1 / ratio)
        factor = np.where(factor >= 1, factor, np.inf)
        return np.where(self.open_at(images, sigma), factor, np.inf)
