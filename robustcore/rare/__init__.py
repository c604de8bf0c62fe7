"""Rare errors: error rates far below 1/samples, by splitting."""

from robustcore.rare.measure import error_curve, rates_of, splitting_rate, splitting_sigma

__all__ = ["error_curve", "rates_of", "splitting_rate", "splitting_sigma"]
