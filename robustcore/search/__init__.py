"""Where the error rate in Gaussian noise reaches mu: state machines over images.

A search plans a round, `plan() -> (rows, sigma, samples)`, and learns from it, `update(margins)`,
until a plan is empty. What it decides about an image rests on that image's own draws alone, so
images may be searched together, apart, or in any order, and come to the same answer.
"""

from robustcore.search.bisection import Bisection
from robustcore.search.quantile import Quantile

__all__ = ["Bisection", "Quantile"]
