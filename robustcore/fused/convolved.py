"""What the fused kernels of convolutional networks on GPUs share. Contracts: `robustcore.fused`.

One kernel makes the noisy images on chip, then the first convolution of them, its ReLU and, where
it is over squares of 2 x 2, its maximum: nothing but those answers goes to memory. The layers
after it are torch's, and a kernel counts. Gradients are left to torch.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from robustcore.fused.body import Call, Stepwise
from robustcore.fused.grids import shapes
from robustcore.fused.packed import Packed
from robustcore.fused.plan import forward_plan

CHANNELS = 8  # of a thread: it uses a number that it read as often
POSITIONS = 4  # of a thread, at which it uses a weight
MOST = 24_576  # numbers of an image with its padding: the least memory a block may have on chip
ANSWERS = 2**24  # of the first layer, at once in memory


def units(packed: Packed) -> int:
    """Numbers of an image with its padding."""
    channels, *sides = packed.shape
    return channels * math.prod(
        n + 2 * p for n, p in zip(sides, packed.layers[0].padding, strict=True)
    )


class ConvolvedNet(Stepwise):
    """A packed network that begins with a convolution, on one device.

    Tables, on the device, for elements e, taps t and positions p in the order of the answers:
    place (E,) is where an element of the image lies on chip, fill (U,) what is there before;
    the input that weight[c, t] meets at p lies at start[p] + tap[t]. Positions are in POSITIONS
    rows of `columns`: side by side what one thread answers, the last repeated where they do not
    fill the table; with a maximum, the members of one square.
    weight (blocks of CHANNELS, T, CHANNELS), bias (blocks x CHANNELS,): channels beyond are zero.
    """

    def __init__(self, packed: Packed, device: torch.device | str) -> None:
        if packed.dense:
            raise ValueError(f"packed must begin with a convolution, was {packed}")
        super().__init__(packed, device)
        self.units = units(packed)
        if self.units > MOST:
            raise ValueError(
                f"packed must take images of at most {MOST} numbers with their padding, "
                f"was {packed}, with {self.units}"
            )
        plan = forward_plan(packed)
        stage, fill = plan.stages[0], plan.fills()[0]
        first, *rest = (layer.to(device) for layer in packed.layers)
        maximum = stage.window > 1
        self.relu, self.maximum, self.rest = stage.relu, maximum, rest
        self.pool = 1 if maximum else first.pool  # left to torch
        self.shape = shapes(packed)[0][maximum]
        tap, start = stage.tables[:2]
        if maximum:
            start = start.reshape(-1, POSITIONS).T.ravel()
        self.columns = -(-len(start) // POSITIONS)
        start = np.pad(start, (0, POSITIONS * self.columns - len(start)), mode="edge")
        self.channels, self.taps = stage.weight.shape
        more = -self.channels % CHANNELS
        weight = np.pad(stage.weight, ((0, more), (0, 0))).reshape(-1, CHANNELS, self.taps)

        def there(array: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device)

        self.place, self.tap, self.start = there(plan.place), there(tap), there(start)
        self.fill = None if fill is None else there(fill)
        self.weight = there(weight.transpose(0, 2, 1))
        self.bias = there(np.pad(stage.bias, (0, more)))
        self.at_once = max(1, min(2**16, ANSWERS // math.prod(self.shape)))

    def _answers(self, call: Call, rows: Tensor, sigma: Tensor, samples: Tensor) -> Tensor:
        value = torch.empty(len(rows), *self.shape, dtype=torch.float32, device=call.x.device)
        self._convolve(call, rows, sigma, samples, value)
        value = F.max_pool2d(value, self.pool) if self.pool > 1 else value
        for layer in self.rest:
            value = layer(value)
        return value

    def _convolve(
        self, call: Call, rows: Tensor, sigma: Tensor, samples: Tensor, out: Tensor
    ) -> None:
        """out (S, C, H, W): what the first layer answers to noisy images."""
        raise NotImplementedError
