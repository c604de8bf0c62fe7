"""A packed network as stages for csrc/fused: buffers of units, and tables of offsets between them.

A unit is one number of the network's state, for one slot. The image, each layer's answers and, for
gradients, the loss's derivatives by them are buffers. A stage reads units at from[p] + tap[t] and
writes one at row[c] + to[p]; csrc/fused/fused.h has the three kinds. That covers linear layers,
convolutions of any stride and padding, maxima, and the gradients of all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from robustcore.fused.grids import (
    HERE,
    Floats,
    Grid,
    Offsets,
    answered,
    pooled,
    shapes,
    shifted,
    taps,
    transposed,
    widen,
)  # fmt: skip
from robustcore.fused.packed import Layer, Packed

PRODUCT, MAXIMUM, ROUTE = 0, 1, 2
WINDOW = 4  # positions whose maximum the kernel keeps without writing them


@dataclass(frozen=True)
class Stage:
    kind: int
    relu: bool
    buffers: tuple[int, int, int, int]  # in, out, mask, value
    window: int
    tables: tuple[Offsets, Offsets, Offsets, Offsets, Offsets]  # tap, from, to, row, plane
    weight: Floats  # (C, T)
    bias: Floats  # (C,)


@dataclass
class Plan:
    """What the C++ network is made from."""

    place: Offsets  # units of the elements of an image, in C order
    memory: Offsets  # and in the order of points
    grids: list[Grid]
    stages: list[Stage]
    forward: int = 0
    ends: tuple[int, int, int] = (-1, -1, -1)  # logits, their gradient, the input's

    def with_first(self, weight: Floats) -> Plan:
        """Another matrix (N, R) in the first stage, for R numbers in place of an image's."""
        count = np.arange(weight.shape[1], dtype=np.int32)
        first = self.stages[0]
        tables = (count, *first.tables[1:])
        stage = replace(first, tables=tables, weight=weight)
        image = Grid((weight.shape[1], 1, 1))
        grids, stages = [image, *self.grids[1:]], [stage, *self.stages[1:]]
        return replace(self, place=count, memory=count, grids=grids, stages=stages)

    def fills(self) -> list[Floats | None]:
        return [grid.filled() for grid in self.grids]

    def sizes(self) -> list[int]:
        return [grid.units for grid in self.grids]


def forward_plan(packed: Packed) -> Plan:
    """Stages from an image to logits; maxima of four positions are part of their convolution."""
    return _Planner(packed, gradient=False).plan()


def gradient_plan(packed: Packed, channels_last: bool = False) -> Plan:
    """Stages from an image to logits, then from the gradient at the logits to that at the image.

    channels_last: the order of points. A dense network's first layer takes them as they are.
    """
    if channels_last and packed.dense:
        packed, channels_last = packed.channels_last(), False
    return _Planner(packed, gradient=True).plan(channels_last)


_NONE = np.zeros(0, np.float32)


class _Planner:
    def __init__(self, packed: Packed, gradient: bool) -> None:
        self.packed, self.gradient = packed, gradient
        self.stages: list[Stage] = []
        sides = shapes(packed)
        # values[i] is what layer i reads; raw[i] what it answers before its maximum
        self.values = [Grid(shape) for shape in (packed.shape, *(after for _, after in sides))]
        self.raw = [
            Grid(before) if self._apart(layer) else value
            for layer, (before, _), value in zip(packed.layers, sides, self.values[1:], strict=True)
        ]
        convolutions = [
            each
            for each in zip(packed.layers, self.values, self.raw, strict=False)
            if each[0].convolution
        ]
        for layer, value, _ in convolutions:
            value.before, value.after = layer.padding, layer.padding
            value.fill = None if layer.fill is None else layer.fill.numpy()
        for layer, value, raw in convolutions if gradient else ():
            widen(raw, layer, value)
        self.grids: list[Grid] = []
        self.index: dict[int, int] = {}
        for grid in (*self.values, *self.raw):
            self._buffer(grid)

    def _apart(self, layer: Layer) -> bool:
        """Whether a layer's answers are kept from before their maximum."""
        return layer.pool > 1 and (self.gradient or layer.pool**2 != WINDOW)

    def _buffer(self, grid: Grid) -> int:
        if id(grid) not in self.index:
            self.index[id(grid)] = len(self.grids)
            self.grids.append(grid)
        return self.index[id(grid)]

    def plan(self, channels_last: bool = False) -> Plan:
        for layer, value, raw, after in zip(
            self.packed.layers, self.values, self.raw, self.values[1:], strict=False
        ):
            self._product(layer, value, raw, after)
        forward, logits = len(self.stages), self._buffer(self.values[-1])
        ends = (logits, -1, -1)
        if self.gradient:
            ends = (logits, *self._backward())
        place = self.values[0].every_unit()
        memory = place
        if channels_last:
            memory = place.reshape(self.packed.shape).transpose(1, 2, 0).ravel()
        return Plan(place, memory, self.grids, self.stages, forward, ends)

    # -- forward -----------------------------------------------------------------------------

    def _product(self, layer: Layer, value: Grid, raw: Grid, after: Grid) -> None:
        weight = layer.weight.numpy().reshape(len(layer.bias), -1)
        into, window = self._buffer(raw), 1
        if not layer.convolution:
            tap, from_, to = value.every_unit(), HERE, HERE
        else:
            height, width = layer.weight.shape[2:]
            y, x = (np.arange(n) for n in answered(layer, value.shape))
            if layer.pool > 1 and not self._apart(layer):
                window = WINDOW
                y, x = (n[: len(n) // layer.pool * layer.pool] for n in (y, x))
            down, across = layer.stride
            tap = taps(value, *(np.arange(n) * d for n, d in zip(
                (height, width), layer.dilation, strict=True)))  # fmt: skip
            from_ = shifted(value, layer, y * down, x * across)
            to = raw.at(y, x) if window == 1 else raw.everywhere()
            if window > 1:  # the positions of each window side by side
                sides = (len(y) // layer.pool, layer.pool, len(x) // layer.pool, layer.pool)
                from_ = from_.reshape(sides).transpose(0, 2, 1, 3).ravel()
        tables = (tap, from_, to, raw.rows(), HERE)
        buffers = (self._buffer(value), into, -1, -1)
        bias = layer.bias.numpy()
        self.stages.append(Stage(PRODUCT, layer.relu, buffers, window, tables, weight, bias))
        if self._apart(layer):
            tables = (*pooled(layer, raw, after), after.rows(), raw.rows())
            buffers = (into, self._buffer(after), -1, -1)
            self.stages.append(Stage(MAXIMUM, False, buffers, 1, tables, _NONE, _NONE))

    # -- gradients ---------------------------------------------------------------------------

    def _backward(self) -> tuple[int, int]:
        """Appends the stages; the buffers of the gradients at the logits and at the image."""
        slope = {id(grid): self._twin(grid) for grid in tuple(self.grids)}
        for i in reversed(range(len(self.packed.layers))):
            layer, value, raw, after = (
                self.packed.layers[i], self.values[i], self.raw[i], self.values[i + 1],
            )  # fmt: skip
            if self._apart(layer):
                tables = (*pooled(layer, raw, after), after.rows(), raw.rows())
                buffers = (
                    *(slope[id(after)], slope[id(raw)]),
                    *(self._buffer(raw), self._buffer(after)),
                )
                self.stages.append(Stage(ROUTE, layer.relu, buffers, 1, tables, _NONE, _NONE))
            before = self.packed.layers[i - 1]
            masked = i > 0 and before.relu and not self._apart(before)
            mask = self._buffer(value) if masked else -1
            for tables, weight in transposed(layer, value, raw):
                bias = np.zeros(len(weight), np.float32)
                buffers = (slope[id(raw)], slope[id(value)], mask, -1)
                self.stages.append(Stage(PRODUCT, False, buffers, 1, tables, weight, bias))
        return slope[id(self.values[-1])], slope[id(self.values[0])]

    def _twin(self, grid: Grid) -> int:
        """A buffer for the gradient by a buffer, laid out alike, with zeros for padding."""
        return self._buffer(Grid(grid.shape, grid.before, grid.after))
