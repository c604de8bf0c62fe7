"""Layers one after the other, with affine steps folded into their neighbours."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from robustcore.fused.packed import Layer, Packed

MOST_LINEAR, MOST_CONVOLUTIONS = 4, 3
WIDEST = 1024  # of a linear layer


class NotPackable(ValueError):
    """The module holds something that the fused kernels do not take; the message names it."""


class Chain:
    """Layers so far, and an affine step of the current value that waits for the next layer."""

    def __init__(self, image: tuple[int, int, int]) -> None:
        self.image = image
        self.shape: tuple[int, ...] = image
        self.layers: list[Layer] = []
        self.node = ""  # what is being appended
        self.names: list[str] = []  # of the layers
        self.scale: Tensor | None = None  # (C,) or (K,), of the current value
        self.shift: Tensor | None = None

    def affine(self, scale: Tensor, shift: Tensor) -> None:
        """value * scale + shift, for each channel."""
        scale, shift = (v.double().expand(self.shape[0]) for v in (scale, shift))
        last = self.layers[-1] if self.layers else None
        if last is None or last.relu or last.pool > 1 or len(last.bias) != self.shape[0]:
            if self.scale is not None and self.shift is not None:
                scale, shift = scale * self.scale, scale * self.shift + shift
            self.scale, self.shift = scale, shift
            return
        weight = last.weight.double() * scale.view(-1, *[1] * (last.weight.ndim - 1))
        bias = last.bias.double() * scale + shift
        self.layers[-1] = replace(last, weight=weight, bias=bias)

    def folded(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """The next layer's weight and bias after the affine step that waits."""
        weight = weight.detach().cpu().double()
        bias = weight.new_zeros(len(weight)) if bias is None else bias.detach().cpu().double()
        if self.scale is not None and self.shift is not None:
            rest = [1] * (weight.ndim - 2)
            bias = bias + (weight * self.shift.view(1, -1, *rest)).flatten(1).sum(1)
            weight = weight * self.scale.view(1, -1, *rest)
        return weight, bias

    def flatten(self) -> None:
        if self.scale is not None and self.shift is not None:
            each = math.prod(self.shape[1:])
            self.scale = self.scale.repeat_interleave(each)
            self.shift = self.shift.repeat_interleave(each)
        self.shape = (math.prod(self.shape),)

    def linear(self, weight: Tensor, bias: Tensor | None) -> None:
        if len(self.shape) != 1 or weight.shape[1] != self.shape[0]:
            raise NotPackable(f"takes {weight.shape[1]} numbers, was given {self.shape}")
        if len(weight) > WIDEST:
            raise NotPackable(f"has a width of {len(weight)}, of at most {WIDEST}")
        if sum(not layer.convolution for layer in self.layers) == MOST_LINEAR:
            raise NotPackable(f"is linear layer {MOST_LINEAR + 1}, of at most {MOST_LINEAR}")
        weight, bias = self.folded(weight, bias)
        self._append(Layer(weight, bias))
        self.shape, self.scale, self.shift = (len(weight),), None, None

    def convolution(self, conv: nn.Conv2d) -> None:
        if conv.groups != 1 or conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            raise NotPackable("has groups, a padding mode other than zeros, or padding in words")
        if len(self.shape) != 3 or any(not layer.convolution for layer in self.layers):
            raise NotPackable("comes after a flattening")
        if len(self.layers) == MOST_CONVOLUTIONS:
            most = MOST_CONVOLUTIONS
            raise NotPackable(f"is convolution {most + 1}, of at most {most}")
        if conv.in_channels != self.shape[0]:
            raise NotPackable(f"takes {conv.in_channels} channels, was given {self.shape}")
        fill = None
        padding = (int(conv.padding[0]), int(conv.padding[1]))
        if self.scale is not None and self.shift is not None and max(padding):
            if bool(((self.scale == 0) & (self.shift != 0)).any()):
                raise NotPackable("pads what was multiplied by zero")
            fill = torch.where(self.shift == 0, 0.0, -self.shift / self.scale)
        weight, bias = self.folded(conv.weight, conv.bias)
        layer = Layer(weight, bias, _pair(conv.stride), padding, _pair(conv.dilation), fill)
        size = [
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(
                self.shape[1:], padding, layer.dilation, conv.kernel_size, layer.stride, strict=True
            )
        ]
        self._left(*size)
        self._append(layer)
        self.shape, self.scale, self.shift = (len(weight), *size), None, None

    def _append(self, layer: Layer) -> None:
        self.layers.append(layer)
        self.names.append(self.node)

    def _left(self, *sides: int) -> None:
        if min(sides) < 1:
            raise NotPackable(f"leaves nothing of {self.shape}")

    def relu(self) -> None:
        self.after(relu=True)

    def maximum(self, size: Any, stride: Any, padding: Any, dilation: Any, ceil: Any) -> None:
        sides = {*_pair(size), *_pair(size if stride is None else stride)}
        if len(sides) != 1 or max(_pair(padding)) or max(_pair(dilation)) > 1 or ceil:
            raise NotPackable("is not a maximum over squares side by side")
        if self.layers and self.layers[-1].pool > 1:
            raise NotPackable("follows another maximum")
        side = sides.pop()
        self.after(pool=side)
        left = [n // side for n in self.shape[1:]]
        self._left(*left)
        self.shape = (self.shape[0], *left)

    def after(self, **change: Any) -> None:
        """ReLU and maximum commute with each other, and with nothing that waits."""
        if not self.layers or self.scale is not None:
            raise NotPackable("does not come after a linear layer or a convolution")
        if "pool" in change and not self.layers[-1].convolution:
            raise NotPackable("comes after a flattening")
        self.layers[-1] = replace(self.layers[-1], **change)

    def packed(self, draws: str) -> Packed:
        """The network that the layers are, if the kernels take it."""
        layers = [
            replace(
                each,
                weight=each.weight.float().contiguous(),
                bias=each.bias.float(),
                fill=None if each.fill is None else each.fill.float(),
            )
            for each in self.layers
        ]
        for name, layer in zip(self.names, layers, strict=True):
            kept = [each for each in (layer.weight, layer.fill) if each is not None]
            if not all(bool(each.isfinite().all()) for each in kept):
                raise NotPackable(
                    f"model must have finite weights to be packed, its {name!r} has others"
                )
        if not layers or layers[-1].convolution:
            raise NotPackable("model must end with a linear layer to be packed, had none")
        last = f"linear layer {self.names[-1]!r}"
        if layers[-1].relu or self.scale is not None:
            raise NotPackable(f"model must end with its {last} to be packed, had more after it")
        if len(layers[-1].bias) < 2:
            raise NotPackable(f"model must have 2 logits or more, its {last} makes one")
        packed = Packed(self.image, tuple(layers), draws)
        if draws == "features" and not packed.dense:
            raise NotPackable(
                "draws must be 'pixels' where the first layer is a convolution, was 'features'"
            )
        return packed


def _pair(value: Any) -> tuple[int, int]:
    first, second = value if isinstance(value, (tuple, list)) else (value, value)
    return int(first), int(second)
