"""What is known of the radii at which draws come to err along their rays, and what is inferred.

Draw i of an image errs along x0 + sigma z_i from the radius r_i on, or nearly so. An evaluation at
sigma tells on which side of sigma the radius lies; its margin tells, roughly, how far away.
Inferred brackets are kept apart from proven ones, and a contradiction makes an image's inference
more careful.
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
        # errors may come and go along a ray: the crossing nearest to the last evaluation counts,
        # or where nothing is inferred the first one found
        gone = right & (sigma >= self.high[draw]) & np.isfinite(self.doubt[rows])
        back = ~right & (sigma <= self.low[draw])
        self.high[rows[gone], samples[gone]] = np.inf
        self.low[rows[back], samples[back]] = 0
        self.low_margin[rows[back], samples[back]] = self.clean[rows[back]]
        up, down = right & (sigma > self.low[draw]), ~right & (sigma < self.high[draw])
        self.low[rows[up], samples[up]] = sigma[up]
        self.low_margin[rows[up], samples[up]] = margins[up]
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
            radius = np.clip(np.where(both, between, beyond), low, high)
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

    def contradicted(
        self, rows: Ints, sigma: Floats, samples: Ints, margins: Floats
    ) -> tuple[Ints, Ints]:
        """Images in which an evaluation falls outside the bracket of its draw.

        Second, those of them where the bracket was inferred from a margin.
        """
        images, index = np.unique(rows, return_inverse=True)
        _, low, high = self.infer(images)
        draw = index, samples
        wrong = np.where(margins > 0, sigma > high[draw] * 1.0001, sigma < low[draw] * 0.9999)
        inferred = wrong & (sigma > self.low[rows, samples]) & (sigma < self.high[rows, samples])
        return np.unique(rows[wrong]), np.unique(rows[inferred])

    def open_at(self, images: Ints, sigma: Floats) -> NDArray[np.bool_]:
        """Draws of which no evaluation tells whether they err at sigma (I, 1): bool (I, N)."""
        seen = ~np.isnan(self.at[images])
        return seen & (self.low[images] < sigma) & (self.high[images] > sigma)

    def certainty(self, images: Ints, sigma: Floats) -> Floats:
        """How sure the side of sigma (I, 1) is for each draw (I, N); 0 is not at all.

        Where it was inferred: the factor by which the inferred distance may be off, less 1. Where
        it only follows from errors that stay along a ray: the margin over its usual change.
        """
        radius, _, _ = self.infer(images)
        at = self.at[images]
        with np.errstate(all="ignore"):
            change = np.abs(np.log(sigma / at))
            ratio = np.log(sigma / at) / np.log(radius / at)
            inferred = np.maximum(ratio, 1 / ratio) - 1
            stays = np.abs(self.margin[images]) / (self.slope[images, None] * change)
        inferred = np.where(inferred >= 0, inferred, np.inf)
        sure = np.where(self.open_at(images, sigma), inferred, stays)
        return np.where((change > TINY) & np.isfinite(sure), sure, np.inf)
