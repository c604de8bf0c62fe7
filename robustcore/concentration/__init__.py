"""Noisy points, the isoperimetric bound of their distance to errors, and what it says of attacks.

The Gaussian isoperimetric inequality: for any set of errors that N(x, sigma^2 I) meets with
probability mu, half of all draws are within -sigma * Phi^-1(mu) of an error.
"""

from robustcore.concentration import adapters
from robustcore.concentration.audit import audit_attack
from robustcore.concentration.noisy_points import noisy_distance

__all__ = ["adapters", "audit_attack", "noisy_distance"]
