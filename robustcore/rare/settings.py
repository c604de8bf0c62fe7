"""What a descent is asked for: how many particles, how they go down, and where it ends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robustcore import inputs
from robustcore.rare.path import LEVELS, LOWEST

Floats = NDArray[np.float64]

SAMPLES = 2**20  # at most: their names end where those of the moves begin
SURVIVORS = 20  # least that a level is expected to leave
COMMON = 0.1  # error rate to begin at
EACH, EACH_ALONE = 8, 3  # evaluations for each particle and power of e, with a bridge and without


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
        if self.probability < 2 * SURVIVORS / SAMPLES:
            raise ValueError(
                f"level_probability must be at least {2 * SURVIVORS / SAMPLES:.2g}, so that "
                f"{SURVIVORS} of {SAMPLES // 2} particles go on, was {self.probability:g}"
            )
        expected = self.particles * self.probability
        if expected < SURVIVORS:
            least = 2 * self.least
            raise ValueError(
                f"samples must be at least {least} for a level probability of "
                f"{self.probability:g}, was {self.samples}"
            )

    def check(self, rate: float) -> None:
        """Raises ValueError where LEVELS levels do not lead down to this rate."""
        most = (rate / COMMON) ** (1 / LEVELS)
        if self.probability > most:
            raise ValueError(
                f"level_probability must be at most {np.floor(most * 1e4) / 1e4:g}, so that "
                f"{LEVELS} levels lead down to {rate:g}, was {self.probability:g}"
            )

    @property
    def particles(self) -> int:
        """With a bridge fewer: what is saved pays for its draws."""
        half = self.samples // 2
        return max(self.samples // 5, min(half, self.least)) if self.bridge else half

    @property
    def least(self) -> int:
        return int(np.ceil(SURVIVORS / self.probability))

    def planned(self, rate: float = 1e-6) -> int:
        """Evaluations of an image down to a rate, about."""
        depth = max(1.0, float(np.log(COMMON / rate)))
        each = EACH if self.bridge else EACH_ALONE
        return self.samples + int(each * depth * self.particles)


@dataclass(frozen=True)
class Goal:
    """Where a descent ends: at a log rate, or at the least of sigmas, whichever comes first.

    common: the error rate to begin at. sigmas: all that are asked for, from above.
    """

    common: float
    log_rates: Floats
    sigmas: tuple[float, ...] = ()

    @property
    def log_rate(self) -> float:
        return float(self.log_rates.min())

    @property
    def sigma(self) -> float:
        """Without any, that of rates: 0."""
        return self.sigmas[-1] if self.sigmas else 0.0

    @staticmethod
    def at_rates(rates: Floats) -> Goal:
        return Goal(min(0.5, max(COMMON, 2 * float(rates.max()))), np.log(rates))

    @staticmethod
    def at_sigmas(sigmas: Floats) -> Goal:
        """Without a positive sigma nothing is below any start."""
        asked = np.unique(sigmas[sigmas > 0])[::-1].tolist() or [np.inf]
        return Goal(COMMON, np.array([LOWEST]), tuple(asked))
