"""A small network for MNIST: two convolutions, two linear layers."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class MnistNet(nn.Module):
    """(S, 1, 28, 28) pixels in [0, 1] to (S, n_classes) logits; 215,370 parameters.

    The network of Madry et al. (2018, arXiv:1706.06083) with half and less of its widths: 5 x 5
    convolutions, each with a 2 x 2 maximum, then a hidden layer. No batch norm.
    """

    def __init__(
        self, channels: tuple[int, int] = (16, 32), hidden: int = 128, n_classes: int = 10
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels[0], 5, padding=2)
        self.conv2 = nn.Conv2d(channels[0], channels[1], 5, padding=2)
        self.linear1 = nn.Linear(channels[1] * 7 * 7, hidden)
        self.linear2 = nn.Linear(hidden, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.linear2(F.relu(self.linear1(x.flatten(1))))
