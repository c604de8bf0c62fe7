"""Small data with something to learn, and small networks to learn it."""

import torch
from torch import nn

from robustcore.training import Data

SMALL = {"epochs": (2, 1), "lr": (0.1, 0.05), "batch_size": 32, "device": "cpu", "progress": False}


class Interrupted(Exception):
    pass


def same(a, b):
    """Whether two sets of weights are equal to the bit."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def toy(images=320, tests=200, size=8):
    """Ten classes, each four squares of colour in noise."""
    generator = torch.Generator().manual_seed(0)
    quarters = torch.randint(0, 256, (10, 3, 2, 2), generator=generator)
    patterns = quarters.repeat_interleave(size // 2, 2).repeat_interleave(size // 2, 3)
    parts = []
    for n in (images, tests):
        y = torch.randint(0, 10, (n,), generator=generator)
        noise = torch.randint(-60, 61, (n, 3, size, size), generator=generator)
        parts += [(patterns[y] + noise).clamp(0, 255).byte(), y]
    return Data("toy", *parts, pad=2, mirror=True)


class Narrow(nn.Sequential):
    """With a batch norm, and so with buffers."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 8, 3, 1, 1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, 2, 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(64, 10),
        )

    @classmethod
    def seeded(cls):
        torch.manual_seed(0)
        return cls()


class Plain(nn.Sequential):
    """Judges each image by itself."""

    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 10))
