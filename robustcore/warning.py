"""Warnings that point at the caller's line."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

PACKAGE = str(Path(__file__).parent)


class PixelRangeWarning(UserWarning):
    """x, or an amount of noise, is not of the range in which pixels were said to lie."""


def warn(message: str, category: type[Warning]) -> None:
    """As warnings.warn, at the innermost frame outside this package and torch: the caller's."""
    torch = getattr(sys.modules.get("torch"), "__file__", None)
    ours = (PACKAGE, str(Path(torch).parent)) if torch else (PACKAGE,)
    level = 2
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(ours):
        frame = frame.f_back
        level += 1
    warnings.warn(message, category, stacklevel=level)
