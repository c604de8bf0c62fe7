"""Models whose nearest errors are known, or curved; and what must hold of every found point."""

import numpy as np
import torch
from torch import nn

NORMS = [2, "Linf"]


class Linear(nn.Module):
    """Logits W x + b of images near `x`, with class 0 the answer by a small lead."""

    def __init__(self, x, classes=10):
        super().__init__()
        n = x[0].numel()
        generator = torch.Generator().manual_seed(n)
        weight = torch.randn(classes, n, generator=generator, dtype=torch.float64) / n**0.5
        lead = 0.05 + 0.1 * torch.rand(classes, generator=generator, dtype=torch.float64)
        lead[0] = 0.0
        bias = -weight @ x[0].double().flatten() - lead
        self.register_buffer("weight", weight.float())
        self.register_buffer("bias", bias.float())

    def forward(self, x):
        return x.flatten(1) @ self.weight.T + self.bias

    def distances(self, x, norm, box=None):
        """True distances, in float64: to the nearest of the half-spaces, inside the box."""
        x = x.double().flatten(1).numpy()
        weight, bias = self.weight.double().numpy(), self.bias.double().numpy()
        order = 2 if norm == 2 else np.inf
        found = np.full(len(x), np.inf)
        for k in range(1, len(weight)):
            normal = weight[k] - weight[0]
            lead = x @ -normal - (bias[k] - bias[0])
            direction = normal if norm == 2 else np.sign(normal)
            for i, point in enumerate(x):
                low, high = 0.0, 1e3

                def at(grown, point=point, direction=direction):
                    moved = point + grown * direction
                    return (moved if box is None else moved.clip(*box)) - point

                for _ in range(60):
                    middle = (low + high) / 2
                    crossed = normal @ at(middle) >= lead[i]
                    low, high = (low, middle) if crossed else (middle, high)
                if high < 999:
                    found[i] = min(found[i], np.linalg.norm(at(high), order))
        return found


class Waves(nn.Module):
    """Curved boundaries; each image is computed by itself, to the bit."""

    def __init__(self, n=48, classes=4):
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        self.register_buffer("w", torch.randn(2, classes, n, generator=generator) / n**0.5)
        self.gain = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        flat = x.flatten(1)[:, None]
        return (flat * self.w[0]).sum(2) + torch.sin(self.gain * (flat * self.w[1]).sum(2))


def images(count, shape=(3, 4, 4), seed=0):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


def assert_seen(model, x, y, near):
    """Every found point is an error, and its distance is that of the point."""
    found = near.status == "found"
    assert found.any()
    rows, y = torch.arange(len(x)), torch.as_tensor(y)
    logits = model(near.x_adv).detach()
    other = logits[rows, torch.tensor(near.label_adv)]
    assert (other >= logits[rows, y])[found].all()  # a tie is an error
    assert (near.label_adv != y.numpy())[found].all()
    away = (near.x_adv.double() - x.double()).flatten(1).numpy()
    order = 2 if near.norm == "L2" else np.inf
    assert np.allclose(near.distance[found], np.linalg.norm(away, order, axis=1)[found], rtol=1e-12)
