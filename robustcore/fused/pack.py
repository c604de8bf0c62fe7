"""From an ordinary nn.Module to a packed network, or the name of the layer that cannot be fused."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx, nn

from robustcore.fused.chain import Chain, NotPackable
from robustcore.fused.packed import Packed
from robustcore.fused.trace import append
from robustcore.fused.trust import surprise

DRAWS = ("pixels", "features")


def pack(model: nn.Module, shape: tuple[int, ...], draws: str = "pixels") -> Packed:
    """The packed network that computes what `model` does on images of `shape`, (C, H, W).

    Takes what torch.fx can trace into a chain of Flatten, Linear, ReLU, Conv2d, MaxPool2d, batch
    norms and dropout in evaluation mode, Identity, and arithmetic with constants for each channel
    (a normalisation): at most 3 convolutions, then at most 4 linear layers, of widths to 1,024.
    Weights must be finite. Affine steps are folded into their neighbours. Weights are copied: later
    changes of `model` do not reach the packed network.

    draws: see `Packed`. "features" needs a linear first layer.
    Raises NotPackable, a ValueError, naming the layer that cannot be packed.
    """
    image = _image(shape)
    if not isinstance(draws, str) or draws not in DRAWS:
        raise ValueError(f"draws must be one of {', '.join(DRAWS)}, was {draws!r}")
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module to be packed, was {type(model).__name__}")
    reason = surprise(model)
    if reason is not None:
        raise NotPackable(f"model must hold layers that pack knows, {reason}")
    try:
        graph = fx.Tracer().trace(model)
    except Exception as error:  # anything may go wrong in code that expects tensors
        raise NotPackable(f"model must be traced by torch.fx to be packed: {error}") from None
    chain = Chain(image)
    values: dict[fx.Node, Any] = {}
    with torch.no_grad():
        for node in graph.nodes:
            values[node] = append(chain, model, node, values)
    return chain.packed(draws)


def _image(shape: Any) -> tuple[int, int, int]:
    try:
        channels, height, width = map(operator.index, shape)
    except (TypeError, ValueError):
        channels = height = width = 0
    if min(channels, height, width) < 1:
        raise ValueError(f"shape must be (C, H, W), each a whole number from 1 on, was {shape!r}")
    return channels, height, width
