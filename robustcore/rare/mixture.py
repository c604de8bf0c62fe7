"""Draws around where gradients point: their law, and how far it is from the noise's."""

from __future__ import annotations

import torch
from torch import Tensor

from robustcore.rare.particles import spread

OWN = 0.4  # of a direction; the rest is the mean of its class
NARROW = 0.7  # deviation there: a half-space leaves the noise little room along its normal
TOGETHER = 128  # draws of a fold in a round
PIXELS = 2**13  # of a draw at a time: in float64 they stay in the cache
GRID = 2.0**20  # directions are multiples of 1/GRID: no rounding of a batch shows in a draw


class Mixture:
    """q of R images and both folds: Gaussians around shift (R,) times way (R, K, D), fold (R, K).

    Their deviation is NARROW along the way, of unit length, and 1 across. TOGETHER draws of a fold
    are spread evenly over its centres, and weighted so. bound (R,): log W.
    """

    def __init__(self, way: Tensor, shift: Tensor, fold: Tensor, bound: Tensor) -> None:
        self.way, self.shift, self.bound, self.fold = way, shift, bound, fold
        chosen = [spread(fold == side, TOGETHER) for side in (0, 1)]
        self.chosen = torch.cat(chosen, 1)  # (R, 2 * TOGETHER)
        count = torch.zeros(2, *fold.shape, dtype=torch.float64, device=fold.device)
        for side in (0, 1):
            count[side].scatter_add_(1, chosen[side], torch.ones_like(chosen[side]).double())
        self.weight = (count / (NARROW * TOGETHER)).log()  # (2, R, K)

    def of(self, row: Tensor) -> Mixture:
        """That of some images alone."""
        return Mixture(*(each[row] for each in (self.way, self.shift, self.fold, self.bound)))

    def placed(self, z: Tensor) -> Tensor:
        """Standard normal z (R, S, D) moved, in place, to draws of q.

        S is a multiple of 2 * TOGETHER; of these in turn the first half is fold 0's.
        """
        image = torch.arange(len(z), device=z.device)[:, None]
        chosen = self.chosen.repeat(1, z.shape[1] // (2 * TOGETHER))
        parts = list(zip(z.split(PIXELS, 2), self.way.split(PIXELS, 2), strict=True))
        along = torch.zeros(z.shape[:2], dtype=torch.float64, device=z.device)
        for part, way in parts:
            along += (part * way[image, chosen]).sum(2, dtype=torch.float64)
        # on the grid, else the order of the sum would show in a draw
        far = ((NARROW - 1) * on_grid(along) + self.shift[:, None]).float()[..., None]
        for part, way in parts:
            part += far * way[image, chosen]
        return z

    def log_odds(self, z: Tensor, side: Tensor) -> Tensor:
        """log q/p at z (R, S, D), of the fold that side (R, S) says."""
        along = torch.zeros(*z.shape[:2], self.way.shape[1], dtype=torch.float64, device=z.device)
        for part, way in zip(z.split(PIXELS, 2), self.way.split(PIXELS, 2), strict=True):
            along.baddbmm_(part.double(), way.double().transpose(1, 2))
        past = (along - self.shift[:, None, None]) / NARROW
        along = (along.square() - past.square()) / 2
        first, second = ((along + each[:, None]).logsumexp(2) for each in self.weight)
        return torch.where(side == 0, first, second)

    def log_bounded(self, z: Tensor) -> Tensor:
        """log of a p/q = 1 / (q/p + 1/W), of draws that were `placed`."""
        side = torch.arange(z.shape[1], device=z.device) // TOGETHER % 2
        odds = self.log_odds(z, side.expand(len(z), -1))
        return -torch.logaddexp(odds, -self.bound[:, None].expand_as(odds))

    def share(self, z: Tensor, side: Tensor) -> Tensor:
        """a = 1 / (1 + p / (q W))."""
        return torch.sigmoid(self.log_odds(z, side) + self.bound[:, None])


def ways(toward: Tensor, alike: Tensor, block: int) -> Tensor:
    """Unit ways (R, K, D): each between its direction and the mean of those alike (R, K, K)."""
    out = torch.empty_like(toward)
    step = max(1, block // toward[0].numel())
    for start in range(0, len(toward), step):
        own, near = (each[start : start + step].double() for each in (toward, alike))
        mean = near @ own
        mean /= mean.norm(dim=2, keepdim=True).clamp(min=1e-12)
        way = own.mul_(OWN).add_(mean, alpha=1 - OWN)
        length = way.norm(dim=2, keepdim=True)
        way /= length.clamp(min=1e-12)
        way[..., :1] += (length < 1e-12).double()  # where no gradient points, any way will do
        out[start : start + step] = on_grid(way)
    return out


def on_grid(value: Tensor) -> Tensor:
    """The nearest multiples of 1 / GRID."""
    return value.mul(GRID).round_().div_(GRID)
