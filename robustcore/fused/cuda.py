"""Dense networks fused with their noise in CUDA C++. Contracts are in `robustcore.fused`.

Gradients and convolutions are left to torch; noise with a clip, too. Sums are made in the order of
the C++ kernels on a CPU with contraction, so logits have the same bits as there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustcore import _cuda
from robustcore.fused.packed import Packed
from robustcore.kernels import cuda
from robustcore.kernels.cuda import addresses, call, check


class CudaNet:
    """The fused kernels of one packed dense network, on one device."""

    name = "cuda"

    def __init__(self, packed: Packed, device: torch.device | str) -> None:
        if not packed.dense:
            raise ValueError(f"packed must begin with a linear layer, was {packed}")
        self.packed = packed
        layers = packed.layers
        weights = [layer.weight for layer in layers]
        if packed.draws == "features":
            weights[0] = packed.factor().float()
        self._weights = [each.T.contiguous().to(device) for each in weights]
        self._biases = [layer.bias.to(device) for layer in layers]
        self._layers = [
            (len(layer.bias), layer.relu, *addresses(weight, bias))
            for layer, weight, bias in zip(layers, self._weights, self._biases, strict=True)
        ]
        self._based: tuple[Tensor, Tensor] | None = None

    def base(self, x: Tensor) -> Tensor:
        if self._based is None or self._based[0] is not x:
            first = self.packed.layers[0]
            weight, bias = (v.to(x.device).double() for v in (first.weight, first.bias))
            self._based = x, (x.flatten(1).double() @ weight.T + bias).float().contiguous()
        return self._based[1]

    def _run(
        self,
        x: Tensor,
        tensors: tuple[Tensor | None, ...],
        out: Tensor,
        sizes: tuple[int, int, int, int],
        names: tuple[int, int],
        clip: tuple[float, float] | None,
    ) -> None:
        check("x", x, torch.float32, (len(x), *self.packed.shape))
        if clip is not None:
            raise ValueError(f"clip must be None for a fused network on {cuda.DEVICE}, was {clip}")
        elements = len(self._weights[0])
        pointers = addresses(self.base(x), *tensors)
        if sizes[0]:
            call(_cuda.dense, x, elements, self._layers, pointers, out.data_ptr(), sizes, names)

    def logits(
        self,
        x: Tensor,
        rows: Tensor,
        sigma: Tensor,
        samples: Tensor,
        ids: Tensor,
        *,
        seed: int,
        stream: int = 0,
        clip: tuple[float, float] | None = None,
    ) -> Tensor:
        slots = len(rows)
        check("rows", rows, torch.int64, (slots,))
        check("sigma", sigma, torch.float32, (slots,))
        check("samples", samples, torch.int64, (slots,))
        check("ids", ids, torch.int64, (len(x),))
        out = torch.empty(slots, self.packed.n_classes, device=x.device)
        tensors = (ids, sigma, rows, samples, None)
        self._run(x, tensors, out, (slots, 0, 0, 0), (seed, stream), clip)
        return out

    def count_errors(
        self,
        x: Tensor,
        labels: Tensor,
        sigma: Tensor,
        ids: Tensor,
        draws: tuple[int, int],
        counts: Tensor,
        *,
        seed: int,
        stream: int = 0,
        clip: tuple[float, float] | None = None,
    ) -> None:
        check("labels", labels, torch.int64, (len(x),))
        check("sigma", sigma, torch.float32, (len(sigma),))
        check("ids", ids, torch.int64, (len(x),))
        check("counts", counts, torch.int64, (len(x), len(sigma)))
        tensors = (ids, sigma, None, None, labels)
        sizes = (len(x) * draws[1], len(sigma), *draws)
        self._run(x, tensors, counts, sizes, (seed, stream), clip)
