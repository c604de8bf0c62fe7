"""The ball kernels in Triton, one program for each slot. Contracts: `robustcore.kernels`.

Same bits as the reference: float64 sums in its order of lanes and halves, nothing contracted.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from robustcore.kernels.triton import _launch

LANES = 256


@triton.jit
def _half(lanes, WIDTH: tl.constexpr):
    """Lanes i and i + WIDTH to lane i: a sum of two, so of no order of its own."""
    return tl.sum(tl.reshape(lanes, (2, WIDTH)), 0)


@triton.jit
def _sum_of_16(lanes):
    return tl.sum(_half(_half(_half(_half(lanes, 8), 4), 2), 1), 0)


@triton.jit
def _sum_of_lanes(lanes):
    return _sum_of_16(_half(_half(_half(_half(lanes, 128), 64), 32), 16))


@triton.jit
def _clip(value, low, high):
    value = tl.where(value < low, low, value)
    return tl.where(value > high, high, value)


@triton.jit
def ball_step_kernel(
    x, rows, offset, gradient, scale, step, radius, points, usable, elements, low, high,
    L2: tl.constexpr, BOX: tl.constexpr, SPHERE: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    slot = tl.program_id(0).to(tl.int64)
    x += tl.load(rows + slot) * elements
    offset += slot * elements
    gradient += slot * elements
    points += slot * elements
    squares = tl.zeros((LANES,), tl.float64)
    products = tl.zeros((LANES,), tl.float64)
    offsets = tl.zeros((LANES,), tl.float64)
    for start in range(0, elements, LANES):
        e = start + tl.arange(0, LANES)
        g = tl.load(gradient + e, mask=e < elements, other=0.0).to(tl.float64)
        o = tl.load(offset + e, mask=e < elements, other=0.0).to(tl.float64)
        squares += g * g
        products += o * g
        offsets += o * o
    squared = _sum_of_lanes(squares)
    ok = (squared > 0.0) & (squared < float("inf"))
    tl.store(usable + slot, ok.to(tl.int8))
    squared = tl.where(ok, squared, 1.0)
    factor32 = tl.load(scale + slot)
    step32 = tl.load(step + slot)
    reach32 = tl.load(radius + slot)
    factor = factor32.to(tl.float64)
    reach = reach32.to(tl.float64)
    along = tl.where(ok, step32.to(tl.float64) / tl.sqrt(squared), 0.0)
    product = tl.where(ok, _sum_of_lanes(products), 0.0)
    grown = factor * factor * _sum_of_lanes(offsets) + 2.0 * (factor * (along * product))
    grown = grown + tl.where(ok, along * along * squared, 0.0)
    length = tl.sqrt(tl.where(grown > 0.0, grown, 0.0))
    beyond = length > 0.0 if SPHERE else length > reach
    shrink = tl.where(beyond, reach / tl.where(beyond, length, 1.0), 1.0)
    kept, move = factor * shrink, along * shrink
    for start in range(0, elements, LANES):
        e = start + tl.arange(0, LANES)
        mask = e < elements
        g = tl.load(gradient + e, mask=mask, other=0.0)
        o = tl.load(offset + e, mask=mask, other=0.0)
        if L2:
            moved = o.to(tl.float64) * kept + tl.where(ok, g.to(tl.float64) * move, 0.0)
            moved = moved.to(tl.float32)
        else:
            sign = tl.where(g > 0, 1.0, tl.where(g < 0, -1.0, 0.0))
            moved = factor32 * o + step32 * tl.where(ok, sign, 0.0)
            moved = tl.where(moved > reach32, reach32, tl.where(moved < -reach32, -reach32, moved))
        clean = tl.load(x + e, mask=mask, other=0.0)
        point = clean + moved
        if BOX:
            point = _clip(point, low, high)
        tl.store(points + e, point, mask=mask)
        if not SPHERE:
            moved = point - clean
        tl.store(offset + e, moved, mask=mask)


@triton.jit
def ball_slope_kernel(
    x, rows, offset, gradient, slope, elements, low, high, L2: tl.constexpr, BOX: tl.constexpr,
    LANES: tl.constexpr,
):  # fmt: skip
    slot = tl.program_id(0).to(tl.int64)
    x += tl.load(rows + slot) * elements
    offset += slot * elements
    gradient += slot * elements
    norms = tl.zeros((LANES,), tl.float64)
    products = tl.zeros((LANES,), tl.float64)
    for start in range(0, elements, LANES):
        e = start + tl.arange(0, LANES)
        mask = e < elements
        g = tl.load(gradient + e, mask=mask, other=0.0).to(tl.float64)
        o = tl.load(offset + e, mask=mask, other=0.0)
        norms += g * g if L2 else tl.abs(g)
        term = g * o.to(tl.float64)
        if BOX:
            value = tl.load(x + e, mask=mask, other=0.0) + o
            term = tl.where((value > low) & (value < high), term, 0.0)
        products += term
    dual = _sum_of_lanes(norms)
    if L2:
        dual = tl.sqrt(dual)
    tl.store(slope + 2 * slot, dual)
    tl.store(slope + 2 * slot + 1, _sum_of_lanes(products))


@triton.jit
def update_best_kernel(
    x, rows, points, margin, distance, best, found, elements, L2: tl.constexpr, LANES: tl.constexpr
):
    slot = tl.program_id(0).to(tl.int64)
    x += tl.load(rows + slot) * elements
    points += slot * elements
    lanes = tl.zeros((LANES,), tl.float64)
    for start in range(0, elements, LANES):
        e = start + tl.arange(0, LANES)
        mask = e < elements
        point = tl.load(points + e, mask=mask, other=0.0).to(tl.float64)
        away = point - tl.load(x + e, mask=mask, other=0.0).to(tl.float64)
        if L2:
            lanes += away * away
        else:
            size = tl.abs(away)
            lanes = tl.where((size > lanes) | (size != size), size, lanes)
    if L2:
        length = tl.sqrt(_sum_of_lanes(lanes))
    else:
        length = tl.max(tl.where(lanes == lanes, lanes, 0.0), 0)
        length = tl.where(tl.max((lanes != lanes).to(tl.int32), 0) == 1, float("nan"), length)
    tl.store(found + slot, length)
    right = tl.load(margin + slot) > 0.0  # false for ties and NaN
    if (length < tl.load(distance + slot)) & (right == 0):
        tl.store(distance + slot, length)
        for start in range(0, elements, LANES):
            e = start + tl.arange(0, LANES)
            point = tl.load(points + e, mask=e < elements)
            tl.store(best + slot * elements + e, point, mask=e < elements)


def _box(box: tuple[float, float] | None) -> tuple[float, float]:
    return (0.0, 0.0) if box is None else (float(box[0]), float(box[1]))


def ball_step(
    x: Tensor,
    rows: Tensor,
    offset: Tensor,
    gradient: Tensor,
    scale: Tensor,
    step: Tensor,
    radius: Tensor,
    points: Tensor,
    *,
    norm: float,
    box: tuple[float, float] | None = None,
    sphere: bool = False,
) -> Tensor:
    usable = torch.empty(len(rows), dtype=torch.int8, device=x.device)
    _launch(
        ball_step_kernel, len(rows), x.device, x, rows, offset, gradient, scale, step, radius,
        points, usable, x.shape[1], *_box(box), L2=norm == 2, BOX=box is not None, SPHERE=sphere,
        LANES=LANES,
    )  # fmt: skip
    return usable.bool()


def ball_slope(
    x: Tensor,
    rows: Tensor,
    offset: Tensor,
    gradient: Tensor,
    *,
    norm: float,
    box: tuple[float, float] | None = None,
) -> Tensor:
    slope = torch.empty(len(rows), 2, dtype=torch.float64, device=x.device)
    _launch(
        ball_slope_kernel, len(rows), x.device, x, rows, offset, gradient, slope, x.shape[1],
        *_box(box), L2=norm == 2, BOX=box is not None, LANES=LANES,
    )  # fmt: skip
    return slope


def update_best(
    x: Tensor,
    rows: Tensor,
    points: Tensor,
    margin: Tensor,
    distance: Tensor,
    best: Tensor,
    *,
    norm: float,
) -> Tensor:
    found = torch.empty_like(distance)
    _launch(
        update_best_kernel, len(rows), x.device, x, rows, points, margin.double(), distance, best,
        found, x.shape[1], L2=norm == 2, LANES=LANES,
    )  # fmt: skip
    return found
