"""Rare errors: error rates far below 1/samples, by splitting."""

from robustcore.rare.measure import (
    LEAST_SAMPLES,
    RATES,
    error_curve,
    monotone,
    splitting_rate,
    splitting_sigma,
)

__all__ = [
    "LEAST_SAMPLES",
    "RATES",
    "error_curve",
    "monotone",
    "splitting_rate",
    "splitting_sigma",
]
