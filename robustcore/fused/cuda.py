"""Small networks fused with their noise in CUDA C++. Contracts are in `robustcore.fused`.

Sums are made in the order of the C++ kernels on a CPU with contraction, so what the kernels answer
has the same bits as there: logits of dense networks, their gradients and descents (up to what the
device's exponential rounds otherwise, and in l2 those of AVX-512), first layers of convolutional
networks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustcore import _cuda
from robustcore.fused.ascent import Ascent, Ascents, Descent
from robustcore.fused.body import Call, Clip
from robustcore.fused.convolved import ConvolvedNet
from robustcore.fused.dense import DenseNet
from robustcore.fused.packed import Packed
from robustcore.kernels import cuda as kernels
from robustcore.kernels.cuda import addresses, call


def memory(packed: Packed, device: torch.device | str) -> tuple[int, int]:
    """Bytes of a block's memory that a dense network's kernels take at most, and that it has."""
    place = torch.device(device)
    index = place.index
    if index is None:
        index = torch.cuda.current_device() if place.type == "cuda" else 0
    *needs, most = _cuda.memory([len(layer.bias) for layer in packed.layers], index)
    return max(needs), most


class CudaNet(DenseNet, Ascents):
    """The fused kernels of one packed dense network, on one device.

    A gradient takes no memory but its own, a descent as much as its points.
    """

    name, language = "cuda", "CUDA"

    def __init__(self, packed: Packed, device: torch.device | str) -> None:
        super().__init__(packed, device)
        need, most = memory(packed, device)
        if need > most:
            raise ValueError(
                f"packed must take at most the {most} bytes that a block has on {device}, "
                f"was {packed}, with {need}"
            )
        self._layers = self._told(self.weights, self.biases)

    def _told(self, *tensors: list[Tensor]) -> list[tuple[int, bool, tuple[int, ...]]]:
        """Each layer's width, whether ReLU follows, and the addresses of what it has in tensors."""
        layers = self.packed.layers
        return [
            (len(layer.bias), layer.relu, addresses(*own))
            for layer, *own in zip(layers, *tensors, strict=True)
        ]

    def _launch(self, given: Call) -> None:
        pointers, elements = given.addresses(self.base(given.x, given.clip)), len(self.weights[0])
        if given.slots:
            call(_cuda.dense, given.x, elements, self._layers, pointers, given.sizes, given.names)

    def _differentiate(self, ascent: Ascent, gradient: Tensor) -> None:
        self._start(ascent, gradient, (0,) * 5, (0, False, False), None)

    def _descend(self, ascent: Ascent, descent: Descent) -> None:
        d, gradient = descent, torch.empty_like(ascent.points)
        ball = addresses(d.x, d.radius, d.size, d.age, d.usable)
        self._start(ascent, gradient, ball, (d.steps, d.adapts, d.l2), d.box)

    def _start(
        self,
        a: Ascent,
        gradient: Tensor,
        ball: tuple[int, ...],
        how: tuple[int, bool, bool],
        box: Clip | None,
    ) -> None:
        if not len(a.rows):
            return
        weights, back = self.both(a.channels_last)
        layers = self._told(weights, self.biases, back)
        next_ = torch.zeros(1, dtype=torch.int64, device=gradient.device)  # slot to be taken
        given = (a.points, a.rows, a.goal, a.wanted, gradient, a.margin, a.gain, a.found, next_)
        raised = len(a.rows), a.targeted, a.loss
        call(
            _cuda.ascent, gradient, self.packed.elements, layers, addresses(*given), *raised, ball,
            how, box,
        )  # fmt: skip


class CudaConvolvedNet(ConvolvedNet):
    """The fused kernels of one packed convolutional network, on one device."""

    name = "cuda"

    def __init__(self, packed: Packed, device: torch.device | str) -> None:
        super().__init__(packed, device)
        tables = self.place, self.fill, self.tap, self.start, self.weight, self.bias
        self._tables = addresses(*tables)
        self._sizes = (self.units, self.taps, self.columns, *self.shape)

    def _count(self, logits: Tensor, labels: Tensor, rows: Tensor, counts: Tensor) -> None:
        kernels.count_errors(logits, labels, rows, counts)

    def _convolve(
        self, given: Call, rows: Tensor, sigma: Tensor, samples: Tensor, out: Tensor
    ) -> None:
        tensors = addresses(given.x, rows, sigma, samples, given.ids, out)
        sizes = (len(rows), given.x.shape[1], given.x[0, 0].numel())
        how = self._tables, self._sizes, self.relu, self.maximum
        call(_cuda.convolution, given.x, tensors, sizes, given.names, given.clip, *how)
