"""Where to evaluate an image's next draws: near the sigma sought, by what the last ones showed."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri

from robustcore.search.bisection import FIRST_GUESS
from robustcore.search.radii import Floats, Ints, Radii

STEEP, ORDINARY = (0.3, 15.0), 5.0  # falls of z per log sigma: believable, of most networks
LINEAR = 0.5  # of the fall of a linear model, which is z: the least that is believed


class Aim:
    """`guess` (B,): the next sigma of each image. z is mean / deviation of margins over draws.

    `steep` (B,) is the fall of z per unit of log sigma; what is learnt of it is told to the radii.
    z_target belongs to the error rate sought, z_aim to `share`, a little above it.
    """

    def __init__(self, radii: Radii, rate: float, share: float) -> None:
        n = len(radii.slope)
        self.radii, self.share = radii, share
        self.z_target, self.z_aim = -float(ndtri(rate)), -float(ndtri(share))
        self.believed = max(STEEP[0], LINEAR * self.z_target), STEEP[1]
        self.guess = np.full(n, FIRST_GUESS * radii.sigma_max)
        self.steep = np.full(n, ORDINARY)
        self.previous = np.full((2, n), np.nan)  # sigma and z of the guess before

    def learn(self, images: Ints, z: Floats, deviation: Floats) -> None:
        """The slope, from z at this guess and at the one before."""
        sigma, (before, z_before) = self.guess[images], self.previous[:, images]
        with np.errstate(all="ignore"):
            # z is nearly linear in 1 / sigma, and is exactly so for a linear model
            steep = (z - z_before) / (1 / sigma - 1 / before) / sigma
            far = np.abs(np.log(sigma / before)) > 0.1
        known = np.isfinite(steep) & far & (deviation > 0)
        steep = np.where(known, np.clip(steep, *self.believed), self.steep[images])
        self.steep[images], self.radii.slope[images] = steep, deviation * steep
        self.radii.deviation[images] = deviation
        self.previous[:, images] = sigma, z

    def restart(self, images: Ints, share: float) -> None:
        """At a share of the guess, with nothing learnt."""
        self.guess[images] *= share
        self.steep[images] = ORDINARY
        self.previous[:, images] = np.nan

    def set_steep(self, images: Ints, deviation: Floats) -> None:
        with np.errstate(all="ignore"):
            steep = self.radii.slope[images] / deviation
        self.steep[images] = np.where(steep > 0, np.clip(steep, *STEEP), ORDINARY)

    def step(self, images: Ints, z: Floats, aim: float, most: float) -> None:
        """To where z should be `aim`, by at most `most` in log sigma upwards."""
        step = np.clip((z - aim) / self.steep[images], -1.2, most)
        guess = self.guess[images] * np.exp(step)
        self.guess[images] = np.minimum(guess, self.radii.sigma_max)

    def place(self, images: Ints, seen: Ints) -> None:
        """To where a share `share` of the draws seen is inferred to err."""
        radius = np.sort(self.radii.infer(images), 1)
        rank = np.ceil(self.share * seen).astype(np.int64)
        at = radius[np.arange(len(images)), np.minimum(rank, seen) - 1]
        sigma = self.guess[images]
        self.guess[images] = np.minimum(np.clip(at, sigma / 2, 2 * sigma), self.radii.sigma_max)
