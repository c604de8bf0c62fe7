"""Searches for errors near images: state machines over slots, one slot a start of one image.

What a slot does rests on its own points alone, so slots may run together, apart, or in any order,
and come to the same answer.
"""

from robustcore.attack.found import Found, refine, verify
from robustcore.attack.minimum_norm import minimum_norm
from robustcore.attack.projected import projected, smallest_radius
from robustcore.attack.starts import Steps

__all__ = ["Found", "Steps", "minimum_norm", "projected", "refine", "smallest_radius", "verify"]
