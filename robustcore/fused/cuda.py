"""Dense networks fused with their noise in CUDA C++. Contracts are in `robustcore.fused`.

Sums are made in the order of the C++ kernels on a CPU with contraction, so logits have the same
bits as there.
"""

from __future__ import annotations

import torch

from robustcore import _cuda
from robustcore.fused.dense import Call, DenseNet
from robustcore.fused.packed import Packed
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
        pointers = addresses(
            given.base, given.ids, given.sigma, given.rows, given.samples, given.labels
        )
        grid = 0 if given.labels is None else len(given.sigma)
        sizes = (given.slots, grid, given.first, given.draws)
        out, elements = given.out.data_ptr(), len(self.weights[0])
        call(_cuda.dense, given.base, elements, self._layers, pointers, out, sizes, given.names)
