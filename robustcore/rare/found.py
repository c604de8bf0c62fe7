"""What descents found, image by image: levels, curve, warnings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustcore.rare.curve import Curve
from robustcore.rare.path import FIELDS, LEVELS, Path
from robustcore.rare.settings import Settings

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

FEW_FAMILIES = 1.5
ENDING = 0.9  # share of nested particles below which errors are said to end again


@dataclass
class Found:
    """Of all B images. start (B,): sigma of the first level, nan where there was none.

    wrong (B,): misclassified. uncommon (B,): no sigma had the error rate to begin at. reached
    (B, LEVELS): levels of the curve. unknown (B,): levels ran out before there was one of errors.
    belied (B,): no level was reached, but the second look saw more errors than were asked for.
    descent: the fields of results.rare.Descent. backward (B,): gradients spent. settings: those
    that could be kept.
    """

    start: Floats
    wrong: Bools
    uncommon: Bools
    curve: Curve
    reached: Bools
    unknown: Bools
    belied: Bools
    descent: dict[str, Any]
    backward: Ints
    settings: Settings

    def warn(self, word: str, where: Bools) -> None:
        told = self.descent["warning"]
        longer = np.char.strip(np.char.add(np.char.add(told, " "), word))
        self.descent["warning"] = np.where(where, longer, told).astype("<U40")


def joined(
    paths: list[tuple[Ints, Path]], start: Floats, wrong: Bools, uncommon: Bools, settings: Settings
) -> Found:
    """All paths, each of some images, as arrays of all; of two paths of an image the later one."""

    def whole(parts: list[Any], shape: tuple[int, ...] = (LEVELS,), fill: float = np.nan) -> Floats:
        out = np.full((len(start), *shape), fill)
        for (rows, _), part in zip(paths, parts, strict=True):
            out[rows] = part
        return out

    levels = {name: whole([each.levels[name] for _, each in paths]) for name in FIELDS}
    curves = [each.curve for _, each in paths]
    sigma, log_rate, variance, families = (
        whole([getattr(each, name) for each in curves])
        for name in ("sigma", "log_rate", "variance", "families")
    )
    slope = whole([each.slope for each in curves], (), 1.0)
    most = curves[0].particles if curves else 1
    curve = Curve(sigma, log_rate, variance, families, slope, most)
    reached = np.isfinite(curve.sigma)
    number = np.isfinite(levels["level_lineages"]).sum(1)
    last = np.maximum(number - 1, 0)[:, None]
    left = np.where(number > 0, np.take_along_axis(levels["level_lineages"], last, 1)[:, 0], 0.0)
    support = np.where(number > 0, curve.support(), 0.0)
    descent = levels | {"families": left, "warning": np.full(len(start), "", "<U40")}
    for name in ("log_rate", "variance"):
        parts = [each.by_level(getattr(each.curve, name)) for _, each in paths]
        descent[f"pooled_{name}"] = whole(parts)
    for name in ("log_rate", "variance", "share"):
        parts = [each.bridge.get(name, np.full(len(each.dead), np.nan)) for _, each in paths]
        descent[f"bridge_{name}"] = whole(parts, ())
    short = whole([each.short for _, each in paths], (), 0.0) > 0
    found = Found(
        start, wrong, uncommon, curve, reached, short & ~reached.any(1),
        np.zeros(len(start), bool), descent, np.zeros(len(start), np.int64), settings,
    )  # fmt: skip
    stood = whole([each.slow | each.dead for _, each in paths], (), 0.0) > 0
    found.warn("lineages", (number > 0) & (support < FEW_FAMILIES))
    # an image that withstands the largest sigma is not one whose moves were refused
    found.warn("moves", stood & reached.any(1))
    found.warn("rays", np.nan_to_num(levels["nested"], nan=1.0).min(1) < ENDING)
    found.warn("levels", short)
    return found
