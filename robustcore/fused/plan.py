"""A packed network as stages for csrc/fused: buffers of units, and tables of offsets between them.

A unit is one number of the network's state, for one slot. The image, each layer's answers and, for
gradients, the loss's derivatives by them are buffers. A stage reads units at from[p] + tap[t] and
writes one at row[c] + to[p]; csrc/fused/fused.h has the three kinds. That covers linear layers,
convolutions of any stride and padding, maxima, and the gradients of all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from robustcore.fused.packed import Layer, Packed

PRODUCT, MAXIMUM, ROUTE = 0, 1, 2
WINDOW = 4  # positions whose maximum the kernel keeps without writing them
Offsets = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]


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
class Grid:
    """Where the units of (C, H, W) lie in a buffer: `before` and `after` are its padding."""

    shape: tuple[int, int, int]
    before: tuple[int, int] = (0, 0)
    after: tuple[int, int] = (0, 0)
    fill: Floats | None = None  # (C,)

    @property
    def sides(self) -> tuple[int, int]:
        down, across = (
            b + n + a for b, n, a in zip(self.before, self.shape[1:], self.after, strict=True)
        )
        return down, across

    @property
    def units(self) -> int:
        return self.shape[0] * self.sides[0] * self.sides[1]

    def at(self, y: npt.NDArray[np.int64], x: npt.NDArray[np.int64]) -> Offsets:
        """Units of all pairs of y and x in channel 0, in C order."""
        rows = (y[:, None] + self.before[0]) * self.sides[1]
        return (rows + x[None, :] + self.before[1]).ravel().astype(np.int32)

    def rows(self) -> Offsets:
        return (np.arange(self.shape[0]) * self.sides[0] * self.sides[1]).astype(np.int32)

    def everywhere(self) -> Offsets:
        return self.at(*(np.arange(n) for n in self.shape[1:]))

    def every_unit(self) -> Offsets:
        return (self.rows()[:, None] + self.everywhere()[None, :]).ravel()

    def filled(self) -> Floats | None:
        """What the buffer holds at first, or None where nothing is padding."""
        if not any((*self.before, *self.after)):
            return None
        fill = np.zeros(self.shape[0], np.float32) if self.fill is None else self.fill
        return np.repeat(fill, self.sides[0] * self.sides[1])


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
        first, *rest = packed.layers
        order = np.arange(first.weight.shape[1]).reshape(packed.shape).transpose(1, 2, 0).ravel()
        layers = (replace(first, weight=first.weight[:, order]), *rest)
        packed, channels_last = replace(packed, layers=layers), False
    return _Planner(packed, gradient=True).plan(channels_last)


_NONE = np.zeros(0, np.float32)
_HERE = np.zeros(1, np.int32)


class _Planner:
    def __init__(self, packed: Packed, gradient: bool) -> None:
        self.packed, self.gradient = packed, gradient
        self.stages: list[Stage] = []
        shapes = _shapes(packed)
        # values[i] is what layer i reads; raw[i] what it answers before its maximum
        self.values = [Grid(shape) for shape in (packed.shape, *(after for _, after in shapes))]
        self.raw = [
            Grid(before) if self._apart(layer) else value
            for layer, (before, _), value in zip(
                packed.layers, shapes, self.values[1:], strict=True
            )
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
            _widen(raw, layer, value)
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
            tap, from_, to = value.every_unit(), _HERE, _HERE
        else:
            height, width = layer.weight.shape[2:]
            y, x = (np.arange(n) for n in _answered(layer, value.shape))
            if layer.pool > 1 and not self._apart(layer):
                window = WINDOW
                y, x = (n[: len(n) // layer.pool * layer.pool] for n in (y, x))
            down, across = layer.stride
            tap = _taps(value, *(np.arange(n) * d for n, d in zip(
                (height, width), layer.dilation, strict=True)))  # fmt: skip
            from_ = _shifted(value, layer, y * down, x * across)
            to = raw.at(y, x) if window == 1 else raw.everywhere()
            if window > 1:  # the positions of each window side by side
                sides = (len(y) // layer.pool, layer.pool, len(x) // layer.pool, layer.pool)
                from_ = from_.reshape(sides).transpose(0, 2, 1, 3).ravel()
        tables = (tap, from_, to, raw.rows(), _HERE)
        buffers = (self._buffer(value), into, -1, -1)
        bias = layer.bias.numpy()
        self.stages.append(Stage(PRODUCT, layer.relu, buffers, window, tables, weight, bias))
        if self._apart(layer):
            tables = (*_pooled(layer, raw, after), after.rows(), raw.rows())
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
                tables = (*_pooled(layer, raw, after), after.rows(), raw.rows())
                buffers = (
                    *(slope[id(after)], slope[id(raw)]),
                    *(self._buffer(raw), self._buffer(after)),
                )
                self.stages.append(Stage(ROUTE, False, buffers, 1, tables, _NONE, _NONE))
            before = self.packed.layers[i - 1]
            masked = i > 0 and before.relu and not self._apart(before)
            mask = self._buffer(value) if masked else -1
            for tables, weight in _transposed(layer, value, raw):
                bias = np.zeros(len(weight), np.float32)
                buffers = (slope[id(raw)], slope[id(value)], mask, -1)
                self.stages.append(Stage(PRODUCT, False, buffers, 1, tables, weight, bias))
        return slope[id(self.values[-1])], slope[id(self.values[0])]

    def _twin(self, grid: Grid) -> int:
        """A buffer for the gradient by a buffer, laid out alike, with zeros for padding."""
        return self._buffer(Grid(grid.shape, grid.before, grid.after))


def _answered(layer: Layer, shape: tuple[int, int, int]) -> tuple[int, int]:
    """Height and width of a convolution's answer."""
    down, across = (
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(
            shape[1:], layer.padding, layer.dilation, layer.weight.shape[2:], layer.stride,
            strict=True,
        )
    )  # fmt: skip
    return down, across


def _shapes(packed: Packed) -> list[tuple[tuple[int, int, int], tuple[int, int, int]]]:
    """The shape of each layer's answer before its maximum and after."""
    shapes, shape = [], packed.shape
    for layer in packed.layers:
        before = (len(layer.bias), 1, 1)
        if layer.convolution:
            before = (len(layer.bias), *_answered(layer, shape))
        shape = (before[0], before[1] // layer.pool, before[2] // layer.pool)
        shapes.append((before, shape))
    return shapes


def _taps(grid: Grid, y: npt.NDArray[np.int64], x: npt.NDArray[np.int64]) -> Offsets:
    """Offsets of (channel, y, x) from a position."""
    inside = y[:, None] * grid.sides[1] + x[None, :]
    return (grid.rows()[:, None] + inside.ravel()[None, :]).ravel().astype(np.int32)


def _shifted(
    grid: Grid, layer: Layer, y: npt.NDArray[np.int64], x: npt.NDArray[np.int64]
) -> Offsets:
    """Units of positions that count from the start of the convolution's own padding."""
    return grid.at(y - layer.padding[0], x - layer.padding[1])


def _pooled(layer: Layer, raw: Grid, after: Grid) -> tuple[Offsets, Offsets, Offsets]:
    """tap, from and to of a maximum."""
    side = np.arange(layer.pool)
    tap = (side[:, None] * raw.sides[1] + side[None, :]).ravel().astype(np.int32)
    from_ = raw.at(*(np.arange(n) * layer.pool for n in after.shape[1:]))
    return tap, from_, after.everywhere()


def _reach(layer: Layer, axis: int, size: int) -> list[tuple[int, list[int], list[int], list[int]]]:
    """For each remainder of an input position: positions, and kernel taps that reach them.

    Of input position i, tap k and answer o: i + padding = stride * o + dilation * k. Returned are,
    for each phase, the phase's positions i, the o that belongs to k = 0 rounded down, the taps k
    and the shift of o that each brings.
    """
    stride, padding = layer.stride[axis], layer.padding[axis]
    dilation, kernel = layer.dilation[axis], layer.weight.shape[2 + axis]
    phases = []
    for phase in range(stride):
        positions = [i for i in range(size) if (i + padding) % stride == phase]
        taps = [k for k in range(kernel) if (phase - dilation * k) % stride == 0]
        if positions and taps:
            phases.append(
                (stride, positions, taps, [(phase - dilation * k) // stride for k in taps])
            )
    return phases


def _widen(raw: Grid, layer: Layer, value: Grid) -> None:
    """Padding that the gradient of a convolution reads beyond its answers, all zeros."""
    before, after = list(raw.before), list(raw.after)
    for axis in range(2):
        size, answers = value.shape[1 + axis], raw.shape[1 + axis]
        for stride, positions, _, shifts in _reach(layer, axis, size):
            first = (positions[0] + layer.padding[axis]) // stride + min(shifts)
            last = (positions[-1] + layer.padding[axis]) // stride + max(shifts)
            before[axis] = max(before[axis], -first)
            after[axis] = max(after[axis], last - answers + 1)
    raw.before, raw.after = (before[0], before[1]), (after[0], after[1])


def _transposed(
    layer: Layer, value: Grid, raw: Grid
) -> list[tuple[tuple[Offsets, Offsets, Offsets, Offsets, Offsets], Floats]]:
    """Tables and weights of the products from the gradient of a layer's answer to its input's."""
    weight = layer.weight
    if not layer.convolution:
        tables = (raw.every_unit(), _HERE, _HERE, value.every_unit(), _HERE)
        return [(tables, np.ascontiguousarray(weight.numpy().T))]
    stages = []
    for down, ys, taps_y, shifts_y in _reach(layer, 0, value.shape[1]):
        for across, xs, taps_x, shifts_x in _reach(layer, 1, value.shape[2]):
            from_ = raw.at(
                (np.array(ys) + layer.padding[0]) // down,
                (np.array(xs) + layer.padding[1]) // across,
            )
            tap = _taps(raw, np.array(shifts_y), np.array(shifts_x))
            some = weight[:, :, taps_y][:, :, :, taps_x]  # (N, C, y, x)
            matrix = some.transpose(0, 1).flatten(1).contiguous().numpy()
            to = value.at(np.array(ys), np.array(xs))
            stages.append(((tap, from_, to, value.rows(), _HERE), matrix))
    return stages
