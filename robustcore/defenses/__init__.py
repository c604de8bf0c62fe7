"""Defences that change the input and are known to fail, each a wrapper around a model.

    import robustcore as rc
    model, x, y = rc.load_example("cifar10-natural")
    rc.error_rate(rc.defenses.JPEG(model, quality=75), x, 0.1, y)

Parameters default to those published. What is rounded, coded or searched for shows attacks either
the identity's gradient (BPDA, the default) or none, as published: `gradient="hidden"`. Randomised
ones take a seed.
"""

from collections.abc import Callable
from typing import Any

from torch import nn

from robustcore import inputs
from robustcore.defenses.base import Defense
from robustcore.defenses.deflection import PixelDeflection
from robustcore.defenses.denoiser import (
    Denoised,
    Denoiser,
    denoisers,
    load_denoiser,
    train_denoiser,
)
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
    "denoisers",
    "load_denoiser",
    "published",
    "train_denoiser",
]

PUBLISHED_SIDE = 224  # of the images that PixelDeflection's 200 deflections were published for


def published(
    model: Callable[[Any], Any], height: int, width: int, denoiser: nn.Module | None = None
) -> dict[str, Defense]:
    """A model of images of this size behind each defence, by name, with parameters as published.

    What is a count of pixels is scaled with the area. With a denoiser trained for the model there
    is one more.
    """
    height = inputs.integer("height", height, 1, 2**20)
    width = inputs.integer("width", width, 1, 2**20)
    deflections = max(1, round(200 * height * width / PUBLISHED_SIDE**2))
    found = {
        "bit depth": BitDepth(model),
        "JPEG": JPEG(model),
        "pixel deflection": PixelDeflection(model, deflections),
        "total variation": TotalVariation(model),
        "resize and pad": RandomResizePad(model),
    }
    return found if denoiser is None else found | {"guided denoiser": Denoised(model, denoiser)}
