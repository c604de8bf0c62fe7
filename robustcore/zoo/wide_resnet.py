"""The wide ResNet of Zagoruyko and Komodakis (2016, arXiv:1605.07146), WRN-depth-width."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from robustcore.zoo.resnet import CIFAR10_MEAN, CIFAR10_STD, Normalize


class WideBlock(nn.Module):
    """Batch norm, ReLU and convolution, twice; a 1 x 1 shortcut where the width changes."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        wider = c_in != c_out
        self.shortcut = nn.Conv2d(c_in, c_out, 1, stride, bias=False) if wider else None

    def forward(self, x: Tensor) -> Tensor:
        first = F.relu(self.bn1(x))
        if self.shortcut is not None:
            x = self.shortcut(first)
        return x + self.conv2(F.relu(self.bn2(self.conv1(first))))


class WideResNet(nn.Module):
    """(S, 3, 32, 32) pixels in [0, 1] to (S, n_classes) logits; normalisation is inside."""

    def __init__(self, depth: int = 28, width: int = 10, n_classes: int = 10) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"depth must be 6n + 4 with n >= 1, was {depth}")
        n = (depth - 4) // 6
        self.normalize = Normalize(CIFAR10_MEAN, CIFAR10_STD)
        self.conv = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        blocks, c = [], 16
        for stage, c_out in enumerate((16 * width, 32 * width, 64 * width)):
            for i in range(n):
                blocks.append(WideBlock(c, c_out, 2 if stage and i == 0 else 1))
                c = c_out
        self.blocks = nn.Sequential(*blocks)
        self.bn = nn.BatchNorm2d(c)
        self.linear = nn.Linear(c, n_classes)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.conv(self.normalize(x)))
        return self.linear(F.relu(self.bn(x)).mean((2, 3)))
