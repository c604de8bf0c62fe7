"""Colours that everyone can tell apart."""

from typing import Any

import numpy as np
from matplotlib.colors import to_rgb

from robustcore.plot.style import SERIES, tint

PROTAN = [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]]
DEUTAN = [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]]
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def seen(colour: str, eye: Any) -> Any:
    """CIELAB of a colour as an eye sees it."""
    c = np.array(to_rgb(colour))
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    ratio = XYZ @ np.clip(np.array(eye) @ linear, 0, 1) / XYZ.sum(1)
    f = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_colours_are_told_apart_by_the_colour_blind_and_on_white() -> None:
    def apart(one: str, other: str, eye: Any) -> float:
        return float(np.linalg.norm(seen(one, eye) - seen(other, eye)))

    for eye in (np.eye(3), PROTAN, DEUTAN):
        for i, one in enumerate(SERIES):
            for other in (*SERIES[:i], "#ffffff"):
                assert apart(one, other, eye) > 10, (one, other)
    assert apart("#c05a00", "#6f8500", DEUTAN) < 10  # the check sees a pair that is confused
    assert apart("#c05a00", "#6f8500", np.eye(3)) > 40
    assert seen(tint(SERIES[0]), np.eye(3))[0] > seen(SERIES[0], np.eye(3))[0]
