"""Class and margin maps of many windows at once, evaluated only where classes meet.

A window is a square of N x N nodes. All its nodes on a coarse lattice are evaluated first. A cell,
at any level of halving, whose known nodes disagree in class is split: the nodes at its half steps
are evaluated. A node found on the edge of a neighbour counts for the neighbour too, so a boundary
is followed from cell to cell, also back into coarse ones. What is left lies in cells whose nodes
all agree: it takes their class, and a margin interpolated between them. A region of another class
that no known node meets, thinner than the coarse step, is not seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
UNKNOWN = np.iinfo(np.int16).min


class Grid:
    """A state machine over B windows: `plan` the nodes of a round, `update` with what they are.

    size: N nodes a side. coarse: a power of two, the step of the first lattice; 1 evaluates every
    node. The lattice ends at or past the last node: nodes beyond it are evaluated and cut off.
    """

    def __init__(self, windows: int, size: int, coarse: int) -> None:
        self.size, self.coarse = size, coarse
        side = coarse * -(-(size - 1) // coarse) + 1
        self.classes = np.full((windows, side, side), UNKNOWN, np.int16)
        self.margin = np.full((windows, side, side), np.nan, np.float32)
        self.n_evaluated = np.zeros(windows, np.int64)  # those cut off included
        self._active = np.arange(windows)
        self._wanted = np.zeros((windows, side, side), bool)
        self._wanted[:, ::coarse, ::coarse] = True

    def plan(self) -> tuple[Array, ...]:
        """Windows and nodes (window, up, across) of the next round, each (S,); empty at the end."""
        nodes = np.nonzero(self._wanted)
        return self._active[nodes[0]], nodes[1], nodes[2]

    def update(self, classes: Array, margin: Array) -> None:
        """classes and margin (S,) of the nodes that `plan` named, in its order."""
        at = self.plan()
        self.classes[at], self.margin[at] = classes, margin
        self.n_evaluated += np.bincount(at[0], minlength=len(self.n_evaluated))
        self._wanted = self._unsettled(self.classes[self._active])
        left = self._wanted.any((1, 2))
        self._active, self._wanted = self._active[left], self._wanted[left]

    def _unsettled(self, classes: Array) -> npt.NDArray[np.bool_]:
        """Unknown nodes at the half steps of cells, of every level, whose known nodes disagree."""
        known = classes != UNKNOWN
        top = np.where(known, classes, np.iinfo(np.int16).min)
        low = np.where(known, classes, np.iinfo(np.int16).max)
        wanted = np.zeros_like(known)
        step = self.coarse
        while step > 1:
            split = _cells(top, step, np.maximum) > _cells(low, step, np.minimum)
            step //= 2
            half = wanted[:, ::step, ::step]
            ends = 2 * split.shape[1]
            for i, j in np.ndindex(3, 3):
                half[:, i : i + ends : 2, j : j + ends : 2] |= split
        return wanted & ~known

    @property
    def evaluated(self) -> npt.NDArray[np.bool_]:
        """Which nodes were evaluated, (B, N, N)."""
        return self.classes[:, : self.size, : self.size] != UNKNOWN

    def filled(self) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.float32]]:
        """Class and margin of every node, (B, N, N): known, or from the cell around it."""
        step = self.coarse
        classes = self.classes[:, ::step, ::step]
        margin = self.margin[:, ::step, ::step]
        while step > 1:
            step //= 2
            exact, value = self.classes[:, ::step, ::step], self.margin[:, ::step, ::step]
            known = exact != UNKNOWN
            classes = np.where(known, exact, _between(classes, np.maximum))
            margin = np.where(known, value, _between(margin, lambda a, b: (a + b) / 2))
        cut = slice(self.size)
        return classes[:, cut, cut].astype(np.int16), margin[:, cut, cut].astype(np.float32)


def _cells(values: Array, step: int, of: np.ufunc) -> Array:
    """`of` over the nodes of each closed cell of side `step`, edges included: (B, n, n)."""
    for axis in (1, 2):
        values = np.moveaxis(values, axis, 1)
        windows, side, other = values.shape
        inside = of.reduce(values[:, :-1].reshape(windows, side // step, step, other), axis=2)
        values = np.moveaxis(of(inside, values[:, step::step]), 1, axis)
    return values


def _between(values: Array, of: Callable[[Array, Array], Array]) -> Array:
    """A lattice of twice the fineness: the new nodes are `of` their two neighbours."""
    for axis in (1, 2):
        values = np.moveaxis(values, axis, 1)
        fine = np.empty((len(values), 2 * values.shape[1] - 1, values.shape[2]), values.dtype)
        fine[:, ::2] = values
        fine[:, 1::2] = of(values[:, :-1], values[:, 1:])
        values = np.moveaxis(fine, 1, axis)
    return values
