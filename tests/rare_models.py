"""Error sets around images of 0.5 with known rates in noise; class 0 is right."""

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.stats import chi2, ncx2, norm
from torch import nn


class Pieces(nn.Module):
    """A class for each function of u = x - 0.5 (S, D): errors where any is above 0."""

    def __init__(self, rate, *pieces):
        super().__init__()
        self.rate, self.pieces = rate, pieces

    def forward(self, x):
        u = x.flatten(1) - 0.5
        found = [piece(u) for piece in self.pieces]
        return torch.stack([torch.zeros_like(found[0]), *found], 1)

    def sigma(self, rate, low, high):
        """Where the rate is reached, between two sigmas at which it is below and above."""
        log = brentq(lambda s: np.log(self.rate(np.exp(s)) / rate), np.log(low), np.log(high))
        return np.exp(log)


def two_planes(near, far):
    """Half-spaces at right angles."""

    def rate(sigma):
        a, b = norm.sf(near / sigma), norm.sf(far / sigma)
        return a + b - a * b

    return Pieces(rate, lambda u: u[:, 0] - near, lambda u: u[:, 1] - far)


def shell(low, high, n):
    """Errors between two radii: along a ray they end again."""

    def rate(sigma):
        return chi2.sf((low / sigma) ** 2, n) - chi2.sf((high / sigma) ** 2, n)

    def piece(u):
        radius = u.norm(dim=1)
        return torch.minimum(radius - low, high - radius)

    return Pieces(rate, piece)


def ball(distance, radius, n):
    """A ball of errors, whose rate may never be large."""

    def rate(sigma):
        return ncx2.cdf((radius / sigma) ** 2, n, (distance / sigma) ** 2)

    def piece(u):
        return radius - torch.cat([u[:, :1] - distance, u[:, 1:]], 1).norm(dim=1)

    return Pieces(rate, piece)


def islands(distance, apart):
    """Beyond a plane, errors in narrow columns alone: few moves reach another. Rate unknown."""

    def piece(u):
        columns = torch.cos(u[:, 1:] / apart).amin(1) - 0.8
        return torch.minimum(u[:, 0] - distance, columns)

    return Pieces(None, piece)


def hidden_plane(outside, n, distance):
    """Errors beyond a radius in n components, common in much noise, and a half-space that is what
    remains of them in little noise, but rare in much: easily missed."""

    def rate(sigma):
        a, b = chi2.sf((outside / sigma) ** 2, n), norm.sf(distance / sigma)
        return a + b - a * b

    return Pieces(
        rate, lambda u: u[:, 1 : 1 + n].norm(dim=1) - outside, lambda u: u[:, 0] - distance
    )
