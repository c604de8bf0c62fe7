"""Draws around where gradients point: their law, and how far it is from the noise's."""

from __future__ import annotations

import torch
from torch import Tensor

from robustcore.rare.particles import spread

OWN = 0.4  # of a direction; the rest is the mean of its class
NARROW = 0.7  # deviation there: a half-space leaves the noise little room along its normal
TOGETHER = 128  # draws of a fold in a round
BLOCK = 2**17  # pixels of draws at a time: in float64 they stay in the cache
GLANCE = 16  # pixels, about, that tell whether two ways may be the same
PIXELS = 2**12  # of a draw and of all ways at a time, likewise
GRID = 2.0**20  # directions are multiples of 1/GRID: no rounding of a batch shows in a draw


class Mixture:
    """q of R images and both folds: Gaussians around shift (R,) times way (R, K, D), fold (R, K).

    Their deviation is NARROW along the way, of unit length, and 1 across. TOGETHER draws of a fold
    are spread evenly over its centres, and weighted so. bound (R,): log W. Least is computed where
    ways of a fold lie side by side, and equal ones among them.
    """

    def __init__(self, way: Tensor, shift: Tensor, fold: Tensor, bound: Tensor) -> None:
        self.way, number = distinct(way, fold)
        self.shift, self.bound = shift, bound
        chosen = [number.gather(1, spread(fold == side, TOGETHER)) for side in (0, 1)]
        self.chosen = torch.cat(chosen, 1)  # (R, 2 * TOGETHER)
        shape = 2, *self.way.shape[:2]
        count = torch.zeros(shape, dtype=torch.float64, device=fold.device)
        for side in (0, 1):
            count[side].scatter_add_(1, chosen[side], torch.ones_like(chosen[side]).double())
        self.weight = (count / (NARROW * TOGETHER)).log()  # (2, R, K)
        ends = [torch.stack([each.amin(), each.amax() + 1]).tolist() for each in chosen]
        self.ways = [slice(*each) for each in ends]  # in which all of a fold lie

    def placed(self, z: Tensor, image: Tensor, number: Tensor) -> Tensor:
        """Standard normal z (S, D) of images (S,) moved, in place, to draws of q.

        number (S,): of each draw of an image; in turn TOGETHER are fold 0's and as many fold 1's.
        """
        chosen = self.chosen[image, number % (2 * TOGETHER)] + image * self.way.shape[1]
        if bool((chosen == chosen[0]).all()):  # without a copy
            way = self.way.flatten(0, 1)[chosen[:1]].expand_as(z)
        else:
            way = self.way.flatten(0, 1).index_select(0, chosen)
        along = torch.zeros(len(z), dtype=torch.float64, device=z.device)
        size = max(1, BLOCK // len(z))
        for part, own in zip(z.split(size, 1), way.split(size, 1), strict=True):
            along += (part * own).sum(1, dtype=torch.float64)
        # on the grid, else the order of the sum would show in a draw
        far = ((NARROW - 1) * on_grid(along) + self.shift[image]).float()[:, None]
        return z.add_(way * far)

    def log_odds(self, z: Tensor, row: Tensor, image: Tensor, side: Tensor) -> Tensor:
        """log q/p at z[row] (S, D), of images (S,) in order, of the fold that side (S,) says."""
        out = torch.empty(len(row), dtype=torch.float64, device=z.device)
        for fold, ways in enumerate(self.ways):
            own = (side == fold).nonzero().flatten()
            if not len(own):
                continue
            present, place, count = image[own].unique_consecutive(
                return_inverse=True, return_counts=True
            )
            number = torch.arange(len(own), device=z.device) - (count.cumsum(0) - count)[place]
            shape = len(present), int(count.max())
            along = z.new_zeros(*shape, ways.stop - ways.start, dtype=torch.float64)
            whole = len(own) == len(present) * shape[1]  # as many of each image
            for part, way in zip(z.split(PIXELS, 1), self.way.split(PIXELS, 2), strict=True):
                points = part.index_select(0, row[own]).double()
                if not whole:
                    apart = points.new_zeros(*shape, points.shape[1])
                    points = apart.index_put_((place, number), points)
                toward = way[:, ways] if len(present) == len(way) else way[present, ways]
                along.baddbmm_(points.view(*shape, -1), toward.double().transpose(1, 2))
            past = (along - self.shift[present, None, None]) / NARROW
            along = (along.square() - past.square()) / 2
            along += self.weight[fold, present, None, ways]
            out[own] = along.logsumexp(2)[place, number]
        return out

    def log_bounded(self, z: Tensor, row: Tensor, image: Tensor, number: Tensor) -> Tensor:
        """log of a p/q = 1 / (q/p + 1/W), of draws that were `placed`, as `log_odds` wants them."""
        odds = self.log_odds(z, row, image, number // TOGETHER % 2)
        return -torch.logaddexp(odds, -self.bound[image])

    def share(self, z: Tensor, row: Tensor, image: Tensor, side: Tensor) -> Tensor:
        """a = 1 / (1 + p / (q W)), as `log_odds` wants them."""
        return torch.sigmoid(self.log_odds(z, row, image, side) + self.bound[image])


def ways(toward: Tensor, alike: Tensor, block: int) -> Tensor:
    """Unit ways (R, K, D): each between its direction and the mean of those alike (R, K, K)."""
    out = torch.empty_like(toward)
    first = alike.to(torch.int8).argmax(2)  # of those alike
    each = torch.arange(toward.shape[1], device=toward.device)
    number = ((first == each).cumsum(1) - 1).gather(1, first)  # (R, K), of what they are
    member = number[:, None] == each[: int(number.max()) + 1, None]
    step, rows = max(1, block // toward[0].numel()), max(1, block // toward[0, 0].numel() // 8)
    for start in range(0, len(toward), step):
        part = slice(start, start + step)
        mean = toward.new_zeros(*member[part].shape[:2], toward.shape[2], dtype=torch.float64)
        for own, near in zip(
            toward[part].split(rows, 1), member[part].split(rows, 2), strict=True
        ):  # exact, as all are on the grid
            mean.baddbmm_(near.double(), own.double())
        mean /= mean.norm(dim=2, keepdim=True).clamp(min=1e-12)
        image = torch.arange(len(mean), device=mean.device)[:, None]
        for own, near, to in zip(
            *(each[part].split(rows, 1) for each in (toward, number, out)), strict=True
        ):
            way = own.double().mul_(OWN).add_(mean[image, near], alpha=1 - OWN)
            length = way.norm(dim=2, keepdim=True)
            way /= length.clamp(min=1e-12)
            way[..., :1] += (length < 1e-12).double()  # where no gradient points, any way will do
            to.copy_(on_grid(way))
    return out


def distinct(way: Tensor, fold: Tensor) -> tuple[Tensor, Tensor]:
    """(ways (R, K', D) without those equal to the one before in their fold, where each is (R, K)).

    Where errors are a half-space a fold's ways are one.
    """
    same = torch.zeros_like(fold, dtype=torch.bool)
    some = way[..., :: max(1, way.shape[2] // GLANCE)]
    same[:, 1:] = (fold[:, 1:] == fold[:, :-1]) & (some[:, 1:] == some[:, :-1]).all(2)
    for image in same.any(1).nonzero().flatten().tolist():
        same[image, 1:] &= (way[image, 1:] == way[image, :-1]).all(1)
    number = (~same).cumsum(1) - 1
    if not same.any():
        return way, number
    first = torch.zeros(len(way), int(number.max()) + 1, dtype=torch.int64, device=way.device)
    each = torch.arange(way.shape[1], device=way.device).expand_as(number)
    first.scatter_reduce_(1, number, each, "amax")
    return way[torch.arange(len(way), device=way.device)[:, None], first], number


def on_grid(value: Tensor) -> Tensor:
    """The nearest multiples of 1 / GRID, in place."""
    return value.mul_(GRID).round_().div_(GRID)
