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
    @property
    def isa(self) -> str: ...
    @property
    def slots_at_once(self) -> int: ...
    def logits(
        self,
        table: tuple[int, int, int, int],  # rows, sigma, samples, ids
        x: int,
        base: int,
        out: int,
        sizes: tuple[int, int],
        names: tuple[int, int],  # seed, stream
        clip: _Clip,
        threads: int,
    ) -> None: ...
    def count_errors(
        self,
        x: int,
        base: int,
        ids: int,
        labels: int,
        grid: int,
        counts: int,
        sizes: tuple[int, int, int, int],  # images, sigmas, first draw, draws
        names: tuple[int, int],
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
