"""Defences that change the input and are known to fail, each a wrapper around a model.

    import robustcore as rc
    model, x, y = rc.load_example("cifar10-natural")
    rc.error_rate(rc.defenses.JPEG(model, quality=75), x, 0.1, y)

Parameters default to those published. What is rounded, coded or searched for shows attacks either
the identity's gradient (BPDA, the default) or none, as published: `gradient="hidden"`. Randomised
ones take a seed.
"""

from robustcore.defenses.base import Defense
from robustcore.defenses.deflection import PixelDeflection
from robustcore.defenses.denoiser import Denoised, Denoiser, train_denoiser
from robustcore.defenses.quantize import JPEG, BitDepth
from robustcore.defenses.resize import RandomResizePad
from robustcore.defenses.variation import TotalVariation

__all__ = [
    "JPEG",
    "BitDepth",
    "Defense",
    "Denoised",
    "Denoiser",
    "PixelDeflection",
    "RandomResizePad",
    "TotalVariation",
    "train_denoiser",
]
