"""What an attack raises, and its step in a ball, for a tile of slots in Triton.

As csrc/core/loss.h and csrc/core/ball.h have them; lengths are summed in float64.
"""

import triton
import triton.language as tl

from robustcore.kernels.triton import _margin
from robustcore.kernels.triton_ball import _clip


@triton.jit
def _highest(row, one, two, three, classes, SLOTS: tl.constexpr, COLUMNS: tl.constexpr):
    """The first class with the largest logit, but for classes one, two and three."""
    at = tl.zeros((SLOTS,), tl.int32)
    most = tl.full((SLOTS,), float("-inf"), tl.float32)
    for start in range(0, classes, COLUMNS):
        column = (start + tl.arange(0, COLUMNS))[None, :]
        asked = (column < classes) & (column != one[:, None]) & (column != two[:, None])
        asked = asked & (column != three[:, None])
        value = tl.load(row[:, None] + column, mask=asked, other=float("-inf"))
        largest = tl.max(value, 1)
        at = tl.where(largest > most, start + tl.argmax(value, 1), at)
        most = tl.maximum(largest, most)
    return at


@triton.jit
def _gain(
    logits, slope, label, wanted, classes, LOSS: tl.constexpr, TARGETED: tl.constexpr,
    WANTED: tl.constexpr, SLOTS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """(margin, gain, class found) of each slot, as csrc/core/loss.h; slope: the gain's gradient."""
    lane = tl.arange(0, SLOTS)
    row = logits + lane * classes
    margin, best = _margin(row, label, lane >= 0, classes, COLUMNS)
    top = tl.load(row + best)
    pick = best
    if WANTED:
        pick = tl.where(wanted >= 0, wanted, best)
    gain = tl.load(row + pick)
    total = tl.full((SLOTS,), 1.0, tl.float32)
    if LOSS == 0:
        total = tl.zeros((SLOTS,), tl.float32)
        for start in range(0, classes, COLUMNS):
            column = (start + tl.arange(0, COLUMNS))[None, :]
            other = (column < classes) & (column != label[:, None])
            value = tl.load(row[:, None] + column, mask=other, other=float("-inf"))
            total += tl.sum(tl.where(other, tl.exp(value - top[:, None]), 0.0), 1)
        whole = top + tl.log(total)
        gain = tl.where(wanted >= 0, gain, whole) if WANTED else whole
    gain = gain - tl.load(row + label)
    first, third, fourth = best, best, best
    spread = tl.full((SLOTS,), 1.0, tl.float32)
    if LOSS == 2:
        none = tl.full((SLOTS,), -1, tl.int32)
        first = _highest(row, none, none, none, classes, SLOTS, COLUMNS)
        second = _highest(row, first, none, none, classes, SLOTS, COLUMNS)
        third = second
        if classes > 2:
            third = _highest(row, first, second, none, classes, SLOTS, COLUMNS)
        fourth = third
        if TARGETED:
            fourth = _highest(row, first, second, third, classes, SLOTS, COLUMNS)
            fourth = tl.where(classes > 3, fourth, third)
        low = (tl.load(row + third) + tl.load(row + fourth)) * 0.5
        spread = tl.load(row + first) - low + 1e-12
        gain = gain / spread
    for start in range(0, classes, COLUMNS):
        column = (start + tl.arange(0, COLUMNS))[None, :]
        known, goal = column < classes, column == label[:, None]
        by = tl.where(column == pick[:, None], 1.0, 0.0)
        if LOSS == 0:
            other = known & (goal == 0)
            value = tl.load(row[:, None] + column, mask=other, other=float("-inf"))
            soft = tl.where(other, tl.exp(value - top[:, None]), 0.0) / total[:, None]
            by = tl.where(wanted[:, None] >= 0, by, soft) if WANTED else soft
        by = tl.where(goal, by - 1.0, by)
        if LOSS == 2:
            by, share = by / spread[:, None], (gain / spread)[:, None]
            by = tl.where(column == first[:, None], by - share, by)
            share = tl.where((third == fourth)[:, None], share, share * 0.5)
            lowest = (column == third[:, None]) | (column == fourth[:, None])
            by = tl.where(lowest, by + share, by)
        if TARGETED:
            by = -by
        tl.store(slope + lane[:, None] * classes + column, by, mask=known)
    found = best.to(tl.int64)
    if TARGETED:
        gain = -gain
        behind = tl.where(margin == margin, -margin, float("inf"))
        behind = tl.where(behind > 1.17549435e-38, behind, 1.17549435e-38)
        margin, found = tl.where(margin > 0, -margin, behind), label
    return margin, gain, found


@triton.jit
def _step(
    point, slope, x, row, live, size, radius, elements, low, high, L2: tl.constexpr,
    BOX: tl.constexpr, SLOTS: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    """Move the points of slots that live, as `ball_step` does; whether the gradient was of use."""
    at = tl.arange(0, SLOTS)[:, None] * elements
    x += row[:, None] * elements
    some = tl.zeros((SLOTS,), tl.int32)
    wrong = tl.zeros((SLOTS,), tl.int32)
    squared = tl.zeros((SLOTS,), tl.float64)
    product = tl.zeros((SLOTS,), tl.float64)
    length = tl.zeros((SLOTS,), tl.float64)
    tl.debug_barrier()
    for start in range(0, elements, ELEMENTS):
        e = (start + tl.arange(0, ELEMENTS))[None, :]
        g = tl.load(slope + at + e, mask=e < elements, other=0.0)
        if L2:
            clean = tl.load(x + e, mask=e < elements, other=0.0)
            offset = tl.load(point + at + e, mask=e < elements, other=0.0) - clean
            wide, old = g.to(tl.float64), offset.to(tl.float64)
            squared += tl.sum(wide * wide, 1)
            product += tl.sum(old * wide, 1)
            length += tl.sum(old * old, 1)
        else:
            some = tl.maximum(some, tl.max(tl.where(g != 0.0, 1, 0), 1))
            wrong = tl.maximum(wrong, tl.max(tl.where(g - g != 0.0, 1, 0), 1))
    usable = (squared > 0.0) & (squared < float("inf")) if L2 else (some > 0) & (wrong == 0)
    kept = tl.full((SLOTS,), 1.0, tl.float64)
    move = tl.zeros((SLOTS,), tl.float64)
    if L2:
        squared = tl.where(usable, squared, 1.0)
        reach = radius.to(tl.float64)
        along = tl.where(usable, size.to(tl.float64) / tl.sqrt(squared), 0.0)
        grown = length + 2.0 * (along * tl.where(usable, product, 0.0))
        grown = grown + tl.where(usable, along * along * squared, 0.0)
        away = tl.sqrt(tl.where(grown > 0.0, grown, 0.0))
        kept = tl.where(away > reach, reach / tl.where(away > reach, away, 1.0), 1.0)
        move = along * kept
    for start in range(0, elements, ELEMENTS):
        e = (start + tl.arange(0, ELEMENTS))[None, :]
        g = tl.load(slope + at + e, mask=e < elements, other=0.0)
        clean = tl.load(x + e, mask=e < elements, other=0.0)
        offset = tl.load(point + at + e, mask=e < elements, other=0.0) - clean
        if L2:
            by = tl.where(usable[:, None], g.to(tl.float64) * move[:, None], 0.0)
            moved = (offset.to(tl.float64) * kept[:, None] + by).to(tl.float32)
        else:
            sign = tl.where(g > 0, 1.0, tl.where(g < 0, -1.0, 0.0))
            moved = offset + size[:, None] * tl.where(usable[:, None], sign, 0.0)
            moved = _clip(moved, -radius[:, None], radius[:, None])
        value = clean + moved
        if BOX:
            value = _clip(value, low, high)
        tl.store(point + at + e, value, mask=(e < elements) & (live[:, None] > 0))
    tl.debug_barrier()
    return usable
