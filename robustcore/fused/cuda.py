"""Small networks fused with their noise in CUDA C++. Contracts are in `robustcore.fused`.

Sums are made in the order of the C++ kernels on a CPU with contraction, so what the kernels answer
has the same bits as there: logits of dense networks, first layers of convolutional ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustcore import _cuda
from robustcore.fused.body import Call
from robustcore.fused.convolved import ConvolvedNet
from robustcore.fused.dense import DenseNet
from robustcore.fused.packed import Packed
from robustcore.kernels import cuda as kernels
from robustcore.kernels.cuda import addresses, call


class CudaNet(DenseNet):
    """The fused kernels of one packed dense network, on one device."""

    name, language = "cuda", "CUDA"

    def __init__(self, packed: Packed, device: torch.device | str) -> None:
        super().__init__(packed, device)
        self._layers = [
            (len(layer.bias), layer.relu, *addresses(weight, bias))
            for layer, weight, bias in zip(packed.layers, self.weights, self.biases, strict=True)
        ]

    def _launch(self, given: Call) -> None:
        pointers, elements = given.addresses(self.base(given.x, given.clip)), len(self.weights[0])
        if given.slots:
            call(_cuda.dense, given.x, elements, self._layers, pointers, given.sizes, given.names)


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
