"""The fused kernels in plain torch: the definition of correct. Contracts: `robustcore.fused`.

Each step is one that the engine takes without them: perturb, the network, the margin.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustcore.fused.packed import Layer, Packed
from robustcore.kernels import reference as kernels

CHUNK = 1024  # slots at a time: bounds memory


class ReferenceNet:
    """The fused kernels of one packed network, in float32 or, for tests, with wider sums."""

    name = "reference"

    def __init__(self, packed: Packed, dtype: torch.dtype = torch.float32) -> None:
        self.packed, self.dtype = packed, dtype

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
        parts = [x.new_empty(0, self.packed.n_classes, dtype=self.dtype)]
        for at in torch.arange(len(rows), device=x.device).split(CHUNK):
            row, scale, sample = rows[at], sigma[at], samples[at]
            if self.packed.draws == "features":
                parts.append(self._features(x, row, scale, sample, ids, seed, stream))
                continue
            noisy = x.new_empty(len(at), *x.shape[1:])
            kernels.perturb(x, row, scale, sample, ids, noisy, seed=seed, stream=stream, clip=clip)
            parts.append(self.packed(noisy.to(self.dtype)))
        return torch.cat(parts)

    def _features(
        self,
        x: Tensor,
        rows: Tensor,
        sigma: Tensor,
        samples: Tensor,
        ids: Tensor,
        seed: int,
        stream: int,
    ) -> Tensor:
        """A first layer's answer to an image, plus noise with the covariance of W z."""
        first, *rest = self.packed.layers
        factor = self.packed.factor().to(x.device)
        size = factor.shape[1]
        none = x.new_zeros(len(x), 1, 1, size)
        z = x.new_empty(len(rows), 1, 1, size)
        one = torch.ones_like(sigma)
        kernels.perturb(none, rows, one, samples, ids, z, seed=seed, stream=stream)
        linear = Layer(first.weight, first.bias)
        value = linear(x[rows].to(self.dtype))
        noise = z.flatten(1).to(self.dtype) @ factor.to(self.dtype).T
        value = value + sigma[:, None].to(self.dtype) * noise
        value = value.relu() if first.relu else value
        for layer in rest:
            value = layer(value)
        return value

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
        first, number = draws
        rows = torch.arange(len(x), device=x.device).repeat_interleave(number)
        samples = first + torch.arange(number, device=x.device).repeat(len(x))
        for g, each in enumerate(sigma):
            scale = each.expand(len(rows)).contiguous()
            logits = self.logits(x, rows, scale, samples, ids, seed=seed, stream=stream, clip=clip)
            column = counts[:, g].contiguous()
            kernels.count_errors(logits, labels, rows, column)
            counts[:, g] = column
