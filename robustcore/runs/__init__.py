"""Whole test sets: finished images on disk, interrupted runs resumed, many processes on one set.

    rc.sigma_at_error_rate(model, data, 0.01, run="runs/sigma")    # again: goes on, or reads

A run is measured in blocks of images. What a block gives depends on its images and the settings
alone, so it does not matter which process measures it, in which order, or after how many
interruptions. See docs/scale.md.
"""

from robustcore.runs.errors import RunError
from robustcore.runs.progress import Progress, command_of, progress
from robustcore.runs.ranks import alone, leads, together
from robustcore.runs.repair import repair
from robustcore.runs.store import Store, command
from robustcore.runs.whole import by_blocks, named

__all__ = [
    "Progress",
    "RunError",
    "Store",
    "alone",
    "by_blocks",
    "command",
    "command_of",
    "leads",
    "named",
    "progress",
    "repair",
    "together",
]
