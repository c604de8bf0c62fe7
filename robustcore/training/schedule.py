"""The learning rate as a function of the step: no state to keep or to lose."""

from __future__ import annotations

import math

SCHEDULES = ("one-cycle", "cosine")

WARM = 0.15  # share of a one-cycle in which the rate rises
START, END = 10.0, 1e4  # the peak over the first rate; that over the last


def rate(schedule: str, step: int, steps: int, peak: float) -> float:
    """Learning rate of step 0 <= step < steps of one cycle that reaches `peak`.

    "one-cycle": from peak/10 up to the peak in 15 % of the steps, then down to peak/100,000, both
    along a half cosine (Smith and Topin, 2017; the numbers of torch's OneCycleLR, to the bit).
    "cosine": from the peak down towards 0 (Loshchilov and Hutter, 2017).
    """
    if schedule == "cosine":
        return 0.5 * peak * (1.0 + math.cos(math.pi * step / steps))
    low = peak / START
    top, last = WARM * steps - 1.0, steps - 1.0
    if step <= top:
        return _half_cosine(low, peak, step / top if top else 1.0)
    return _half_cosine(peak, low / END, (step - top) / (last - top))


def _half_cosine(start: float, end: float, part: float) -> float:
    return end + (start - end) / 2.0 * (math.cos(math.pi * part) + 1)
