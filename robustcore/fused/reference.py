"""The fused kernels in plain torch: the definition of correct. Contracts: `robustcore.fused`.

Each step is one that the engine takes without them: perturb, the network, the margin.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustcore.fused.body import Call, Stepwise
from robustcore.fused.packed import Layer, Packed
from robustcore.kernels import reference as kernels


class ReferenceNet(Stepwise):
    """The fused kernels of one packed network, in float32 or, for tests, with wider sums."""

    name, at_once = "reference", 1024

    def __init__(self, packed: Packed, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(packed)
        self.dtype = dtype

    def _count(self, logits: Tensor, labels: Tensor, rows: Tensor, counts: Tensor) -> None:
        kernels.count_errors(logits, labels, rows, counts)

    def _answers(self, call: Call, rows: Tensor, sigma: Tensor, samples: Tensor) -> Tensor:
        x, ids, (seed, stream) = call.x, call.ids, call.names
        if self.packed.draws == "features":
            return self._features(call, rows, sigma, samples)
        noisy = x.new_empty(len(rows), *x.shape[1:])
        kernels.perturb(
            x, rows, sigma, samples, ids, noisy, seed=seed, stream=stream, clip=call.clip
        )
        return self.packed(noisy.to(self.dtype))

    def _features(self, call: Call, rows: Tensor, sigma: Tensor, samples: Tensor) -> Tensor:
        """A first layer's answer to an image, plus noise with the covariance of W z."""
        first, *rest = self.packed.layers
        x, (seed, stream) = call.x, call.names
        factor = self.packed.factor().to(x.device)
        size = factor.shape[1]
        none = x.new_zeros(len(x), 1, 1, size)
        z = x.new_empty(len(rows), 1, 1, size)
        one = torch.ones_like(sigma)
        kernels.perturb(none, rows, one, samples, call.ids, z, seed=seed, stream=stream)
        linear = Layer(first.weight, first.bias)
        value = linear(x[rows].to(self.dtype))
        noise = z.flatten(1).to(self.dtype) @ factor.to(self.dtype).T
        value = value + sigma[:, None].to(self.dtype) * noise
        value = value.relu() if first.relu else value
        for layer in rest:
            value = layer(value)
        return value
