"""Robustness of classifiers: random noise and adversarial examples, two views of one error set."""

from robustcore import geometry, plot, stats
from robustcore.evaluator import RandomizedModelWarning
from robustcore.noise import error_rate, sigma_at_error_rate
from robustcore.results import ErrorRate, Record, SigmaResult
from robustcore.zoo import load_example, load_images, load_model

__all__ = [
    "ErrorRate",
    "RandomizedModelWarning",
    "Record",
    "SigmaResult",
    "error_rate",
    "geometry",
    "load_example",
    "load_images",
    "load_model",
    "plot",
    "sigma_at_error_rate",
    "stats",
]
