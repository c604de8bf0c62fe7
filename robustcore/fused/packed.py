"""A small network as plain numbers: convolutions, then linear layers, with ReLU between.

`Packed` is what `pack` makes of a module and what the fused kernels are made from. It is itself a
model: called with images it computes their logits in plain torch, the definition of correct.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

Pair = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Layer:
    """One linear layer or convolution, and what follows it.

    weight: (N, K), or (N, C, h, w) of a convolution; bias: (N,); both float32 on a CPU.
    A convolution pads its input by `padding` with `fill` (C,), a number for each channel.
    relu, pool: what follows, in this order; pool is the side and stride of a square maximum, or 1.
    """

    weight: Tensor
    bias: Tensor
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    fill: Tensor | None = None
    relu: bool = False
    pool: int = 1

    @property
    def convolution(self) -> bool:
        return self.weight.ndim == 4

    def to(self, device: torch.device | str) -> Layer:
        fill = None if self.fill is None else self.fill.to(device)
        return replace(self, weight=self.weight.to(device), bias=self.bias.to(device), fill=fill)

    def __call__(self, x: Tensor) -> Tensor:
        """(S, C, H, W) or (S, K) to the next such, in the dtype of x."""
        weight, bias = self.weight.to(x), self.bias.to(x)
        if self.convolution:
            if self.fill is None:
                x = F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation)
            else:
                down, across = self.padding
                fill = self.fill.to(x).view(-1, 1, 1)
                x = F.pad(x - fill, (across, across, down, down)) + fill
                x = F.conv2d(x, weight, bias, self.stride, 0, self.dilation)
        else:
            x = F.linear(x.flatten(1), weight, bias)
        x = x.relu() if self.relu else x
        return F.max_pool2d(x, self.pool) if self.pool > 1 else x


@dataclass(frozen=True, eq=False)
class Packed:
    """A network that the fused kernels take, and a model like any other.

    shape: of an image, (C, H, W). draws: "pixels", the draws of every other model; or "features",
    noise drawn in the image of the first layer, which must be linear: of the same law, so error
    rates agree in distribution, from other and far fewer numbers. An error rate of the one is
    therefore not draw by draw that of the other.
    """

    shape: tuple[int, int, int]
    layers: tuple[Layer, ...]
    draws: str = "pixels"

    @property
    def dense(self) -> bool:
        return not self.layers[0].convolution

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def n_classes(self) -> int:
        return len(self.layers[-1].bias)

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (S, K) of images (S, C, H, W), in their dtype and on their device."""
        if tuple(images.shape[1:]) != self.shape:
            raise ValueError(
                f"x must hold images of the packed network's shape {self.shape}, "
                f"were {tuple(images.shape[1:])}"
            )
        for layer in self.layers:
            images = layer(images)
        return images

    def __str__(self) -> str:
        """Such as "1x28x28, conv 16 5x5, pool 2, 128, 10"."""
        words = ["x".join(map(str, self.shape))]
        for layer in self.layers:
            width = str(len(layer.bias))
            if layer.convolution:
                width = f"conv {width} {layer.weight.shape[2]}x{layer.weight.shape[3]}"
            words += [width] + [f"pool {layer.pool}"] * (layer.pool > 1)
        return ", ".join(words)

    def channels_last(self) -> Packed:
        """A dense network that takes an image's elements in the order of channels_last."""
        first, *rest = self.layers
        order = (
            torch.arange(self.elements, device="cpu").view(self.shape).permute(1, 2, 0).flatten()
        )
        return replace(self, layers=(replace(first, weight=first.weight[:, order]), *rest))

    def base(self, x: Tensor) -> Tensor:
        """What a linear first layer answers to images x, (B, N) float32: noise is added to it."""
        weight, bias = (
            v.to(x.device).double() for v in (self.layers[0].weight, self.layers[0].bias)
        )
        return (x.flatten(1).double() @ weight.T + bias).float().contiguous()

    def factor(self) -> Tensor:
        """(N, R >= 1) float64 whose product with its transpose is W W^T of the first layer W."""
        weight = self.layers[0].weight.double()
        values, vectors = torch.linalg.eigh(weight @ weight.T)
        kept = values > values.max().clamp(min=0) * len(values) * torch.finfo(torch.float64).eps
        kept[-1] = True  # the largest: of zero alone where W is
        return vectors[:, kept] * values[kept].clamp(min=0).sqrt()
