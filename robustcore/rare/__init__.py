"""Rare errors: error rates far below 1/samples, by splitting."""

from robustcore.rare.measure import RATES, error_curve, splitting_rate, splitting_sigma

__all__ = ["RATES", "error_curve", "splitting_rate", "splitting_sigma"]
