"""Where the units of a layer lie in a buffer, and tables of offsets between two such."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from robustcore.fused.packed import Layer, Packed

Offsets = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]
HERE = np.zeros(1, np.int32)


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


def answered(layer: Layer, shape: tuple[int, int, int]) -> tuple[int, int]:
    """Height and width of a convolution's answer."""
    down, across = (
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(
            shape[1:], layer.padding, layer.dilation, layer.weight.shape[2:], layer.stride,
            strict=True,
        )
    )  # fmt: skip
    return down, across


def shapes(packed: Packed) -> list[tuple[tuple[int, int, int], tuple[int, int, int]]]:
    """The shape of each layer's answer before its maximum and after."""
    found, shape = [], packed.shape
    for layer in packed.layers:
        before = (len(layer.bias), 1, 1)
        if layer.convolution:
            before = (len(layer.bias), *answered(layer, shape))
        shape = (before[0], before[1] // layer.pool, before[2] // layer.pool)
        found.append((before, shape))
    return found


def taps(grid: Grid, y: npt.NDArray[np.int64], x: npt.NDArray[np.int64]) -> Offsets:
    """Offsets of (channel, y, x) from a position."""
    inside = y[:, None] * grid.sides[1] + x[None, :]
    return (grid.rows()[:, None] + inside.ravel()[None, :]).ravel().astype(np.int32)


def shifted(
    grid: Grid, layer: Layer, y: npt.NDArray[np.int64], x: npt.NDArray[np.int64]
) -> Offsets:
    """Units of positions that count from the start of the convolution's own padding."""
    return grid.at(y - layer.padding[0], x - layer.padding[1])


def pooled(layer: Layer, raw: Grid, after: Grid) -> tuple[Offsets, Offsets, Offsets]:
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


def widen(raw: Grid, layer: Layer, value: Grid) -> None:
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


def transposed(
    layer: Layer, value: Grid, raw: Grid
) -> list[tuple[tuple[Offsets, Offsets, Offsets, Offsets, Offsets], Floats]]:
    """Tables and weights of the products from the gradient of a layer's answer to its input's."""
    weight = layer.weight
    if not layer.convolution:
        tables = (raw.every_unit(), HERE, HERE, value.every_unit(), HERE)
        return [(tables, np.ascontiguousarray(weight.numpy().T))]
    stages = []
    for down, ys, taps_y, shifts_y in _reach(layer, 0, value.shape[1]):
        for across, xs, taps_x, shifts_x in _reach(layer, 1, value.shape[2]):
            from_ = raw.at(
                (np.array(ys) + layer.padding[0]) // down,
                (np.array(xs) + layer.padding[1]) // across,
            )
            tap = taps(raw, np.array(shifts_y), np.array(shifts_x))
            some = weight[:, :, taps_y][:, :, :, taps_x]  # (N, C, y, x)
            matrix = some.transpose(0, 1).flatten(1).contiguous().numpy()
            to = value.at(np.array(ys), np.array(xs))
            stages.append(((tap, from_, to, value.rows(), HERE), matrix))
    return stages
