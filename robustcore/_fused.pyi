"""Fused networks in C++. Tensors arrive as addresses; see robustcore/fused/native.py."""

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

_Clip = tuple[float, float] | None

def isas() -> list[str]: ...

class Net:
    def __init__(
        self,
        isa: str,
        places: Sequence[npt.NDArray[Any]],
        fills: Sequence[npt.NDArray[Any] | None],
        sizes: Sequence[int],
        stages: Sequence[tuple[Any, ...]],
        forward: int,
        classes: int,
        ends: Sequence[int],
        dense: bool,
    ) -> None: ...
    def evaluate(
        self,
        tensors: Sequence[int],  # x, base, ids, sigma, rows, samples, labels, out
        sizes: Sequence[int],  # slots, images, sigmas, first draw, draws
        names: tuple[int, int],  # seed, stream
        clip: _Clip,
        threads: int,
    ) -> None: ...
    def differentiate(
        self,
        slots: tuple[int, int, int, int],  # rows, goal, wanted, points
        results: tuple[int, int, int, int],  # margin, gain, found, gradient
        sizes: tuple[int, int],  # slots, images
        targeted: bool,
        loss: int,
        threads: int,
    ) -> None: ...
    def descend(
        self,
        slots: tuple[int, int, int, int],
        results: tuple[int, int, int, int],  # margin, gain, found, age
        sizes: tuple[int, int],
        targeted: bool,
        loss: int,
        ball: tuple[int, int, int, int],  # x, radius, size, order
        usable: int,
        steps: int,
        adapts: bool,
        l2: bool,
        box: _Clip,
        threads: int,
    ) -> None: ...
