"""What the fused kernels of dense networks on GPUs share. Contracts are in `robustcore.fused`.

Noise with a clip is left to torch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustcore.fused.body import Body, Clip
from robustcore.fused.packed import Packed


class DenseNet(Body):
    """A packed dense network on one device; a body says how it is launched."""

    language: str

    def __init__(self, packed: Packed, device: torch.device | str) -> None:
        if not packed.dense:
            raise ValueError(f"packed must begin with a linear layer, was {packed}")
        super().__init__(packed, device)
        weights = [layer.weight for layer in packed.layers]
        if packed.draws == "features":
            weights[0] = packed.factor().float()
        self.weights = [each.T.contiguous().to(device) for each in weights]
        self.biases = [layer.bias.to(device) for layer in packed.layers]
        self._transposed: dict[bool, tuple[list[Tensor], list[Tensor]]] = {}

    def both(self, channels_last: bool) -> tuple[list[Tensor], list[Tensor]]:
        """The weights (inputs, width) and (width, inputs) of each layer, for gradients."""
        if channels_last not in self._transposed:
            packed = self.packed.channels_last() if channels_last else self.packed
            wide = [layer.weight.contiguous().to(self.device) for layer in packed.layers]
            self._transposed[channels_last] = [each.T.contiguous() for each in wide], wide
        return self._transposed[channels_last]

    def base(self, x: Tensor, clip: Clip | None) -> Tensor:
        if clip is not None:
            raise ValueError(
                f"clip must be None for a dense fused network in {self.language}, was {clip}"
            )
        based = super().base(x, None)
        assert based is not None  # a dense network without a clip has one
        return based
