"""Images without meaning, with and without structure."""

import torch


def images(n=5, shape=(3, 12, 12), seed=0):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


def smooth(n=4, size=16):
    """Images with structure that JPEG, wavelets and total variation can keep."""
    t = torch.linspace(0, 1.2, size)
    return torch.stack(
        [
            0.5 + 0.4 * torch.sin(t[:, None] * (i + 1) + t[None] * (c + 1))
            for i in range(n)
            for c in range(3)
        ]
    ).view(n, 3, size, size)
