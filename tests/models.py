"""Models with known answers."""

import torch
from scipy.stats import norm
from torch import nn


def direction(n, seed=0):
    w = torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return w / w.norm()


class HalfSpace(nn.Module):
    """Two classes; class 0 is right on one side of a plane at `distance` from images of 0.5."""

    def __init__(self, n, distance):
        super().__init__()
        self.register_buffer("w", direction(n).float())
        self.distance = distance

    def forward(self, x):
        height = (x.flatten(1) - 0.5) @ self.w + self.distance
        return torch.stack([height, torch.zeros_like(height)], 1)

    def rate(self, sigma):
        return norm.cdf(-self.distance / sigma)

    def sigma(self, rate):
        return -self.distance / norm.ppf(rate)


class Slab(HalfSpace):
    """Three classes; class 0 is right within `distance` of a plane, so that any rate is reached."""

    def forward(self, x):
        height = (x.flatten(1) - 0.5) @ self.w
        return torch.stack([torch.full_like(height, self.distance), height, -height], 1)

    def rate(self, sigma):
        return 2 * norm.cdf(-self.distance / sigma)

    def sigma(self, rate):
        return super().sigma(rate / 2)


class Small(nn.Module):
    """An untrained convolutional network, the same each time."""

    def __init__(self, *extra):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.layers = nn.Sequential(
                nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), *extra, nn.Flatten(), nn.Linear(8 * 16, 5)
            )

    def forward(self, x):
        return self.layers(x)


def grey(images, shape=(1, 4, 4)):
    """(x, y): images of 0.5 with label 0, as HalfSpace and Slab take them."""
    return torch.full((images, *shape), 0.5), torch.zeros(images, dtype=torch.int64)
