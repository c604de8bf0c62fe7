"""Robustness of classifiers: random noise and adversarial examples, two views of one error set."""

from robustcore.noise import error_rate, sigma_at_error_rate
from robustcore.results import ErrorRate, SigmaResult

__all__ = ["ErrorRate", "SigmaResult", "error_rate", "sigma_at_error_rate"]
