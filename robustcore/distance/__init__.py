"""The nearest error of each image, and whether there is one within a radius."""

from robustcore.distance.nearest import EFFORT, METHODS, UNUSED, distance_to_error
from robustcore.distance.within import pgd

__all__ = ["EFFORT", "METHODS", "UNUSED", "distance_to_error", "pgd"]
