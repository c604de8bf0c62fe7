"""The rate of a level once more: draws around its errors, and a bridge to its particles.

The particles of a level are errors as the noise makes them, but how probable errors are is a
product of many shares. Draws q around where gradients point meet errors often, at known densities,
but only some kinds of them. Both together tell the rate: for any function a,

    rate = E_q[error, a p/q] / E_particles[a]

and a = 1 / (1 + p / (W q)) bounds every term by W, counts errors that q meets, and has the
particles say what share of the errors these are. W is near the one of least variance.

q is a mixture of Gaussians, each narrower along the way to its centre. Particles of one half of the
families make it and those of the other half are asked, both ways round, so that none vouches for
itself.

Sources: Meng and Wong, Statistica Sinica 6 (1996); Owen and Zhou, JASA 95 (2000), on mixtures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustcore.gradients import Gradients
from robustcore.rare.curve import height
from robustcore.rare.mixture import TOGETHER, Mixture, on_grid, ways
from robustcore.rare.particles import BRIDGE, Particles

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FIRST, LAST = 32, 256  # gradients, at most: at the first errors, at those of a level
GRADIENT = 3  # evaluations that one costs, forward and back
LENGTH = 0.9  # of a shift, in units of -Phi^-1(rate): errors lie so far along a mean gradient
WORTH = 3.0  # independent particles, as which a family counts in the choice of W
BOTH_WAYS = 2.0  # variance of the share: where one fold is near the other, so is that one to it
MET = 0.1  # share of the errors, at least, that q must meet: else the draws know too little
SMALLER = 0.05  # of the particles, at least, in the smaller fold: else nothing vouches
BLOCK = {"cpu": 2**20, "cuda": 2**24}  # elements at a time: on a CPU they stay in the cache
DIRECTIONS = 2**24  # elements of all directions of an image, at most


@dataclass(frozen=True)
class Crossing:
    """Of R images: the log rate by bridge, its variance, the number of terms that it rests on.

    nan where there is none. share: of the particles, as errors that q meets.
    """

    log_rate: Floats
    variance: Floats
    terms: Floats
    share: Floats


class Bridge:
    """Made where a descent begins, crossed at some of its levels (crossings.Crossings).

    Raises NoGradients for a model without them.
    """

    def __init__(self, particles: Particles, sigma: Floats) -> None:
        self.particles = particles
        self.gradients = Gradients(particles.evaluator, None, 2.0)
        self.block = BLOCK.get(particles.device.type, BLOCK["cuda"])
        self.backward = np.zeros(len(sigma), np.int64)
        self.used = np.zeros(len(sigma), np.int64)  # names of draws
        self.first = self._directions(np.arange(len(sigma)), sigma, FIRST)

    def cross(
        self, at: Ints, sigma: Floats, log_rate: Floats, families: Floats, spent: Ints
    ) -> Crossing:
        """Of images `at`, whose particles are errors at sigma (R,).

        log_rate, families (R,): what splitting found; they set W. spent (R,): evaluations to be
        made, about, gradients among them.
        """
        own = self.particles
        most = max(FIRST, DIRECTIONS // own.z[0].numel())
        last = self._directions(at, sigma, min(LAST, own.n, most))
        place = torch.as_tensor(at, device=own.device)
        parts = [torch.cat([a[place], b], 1) for a, b in zip(self.first, last, strict=True)]
        toward, kind, family = parts
        stage = torch.arange(toward.shape[1], device=own.device) >= self.first[0].shape[1]
        fold = _folds(own.family[place], 1 + int(max(own.family.max(), family.max())))
        # ways of a fold side by side
        mine, order = fold.gather(1, family).sort(dim=1, stable=True)
        toward = toward[torch.arange(len(at), device=own.device)[:, None], order]
        each = kind.gather(1, order), mine, stage[order]
        alike = torch.stack([one[:, :, None] == one[:, None] for one in each]).all(0)
        way = ways(toward, alike, self.block)
        shift = torch.as_tensor(LENGTH * np.maximum(height(log_rate), 1.0), device=own.device)
        draws = spent - GRADIENT * toward.shape[1]
        rounds = np.maximum(2, -(-draws // (2 * TOGETHER)))
        bound = np.log(rounds * 2 * TOGETHER / (WORTH * families)) + log_rate  # log W
        mixture = Mixture(way, shift, mine, torch.as_tensor(bound, device=own.device))
        # each fold counts as its mixture's share is asked for: by the particles of the other one
        asked_of = fold.gather(1, own.family[place]).double().mean(1)
        weight = torch.stack([asked_of, 1 - asked_of], 1)
        both = (mine.amin(1) < mine.amax(1)) & (weight.amin(1) >= SMALLER)
        share, share_variance, asked = self._by_particles(place, fold, mixture)
        known = both.cpu().numpy() & (share >= MET) & (asked > 1)
        rounds = np.where(known, rounds, 0)  # nothing is spent on what will not be believed
        value, value_variance, terms = self._by_draws(at, sigma, log_rate, mixture, rounds, weight)
        known &= value > 0
        value, share = np.where(known, value, 1.0), np.where(known, share, 1.0)
        drawn, told = (
            np.log1p(value_variance / value**2),
            np.log1p(BOTH_WAYS * share_variance / share**2),
        )
        variance = np.where(known, drawn + told, np.nan)
        per_freedom = drawn**2 / np.maximum(terms - 1, 1) + told**2 / np.maximum(asked - 1, 1)
        terms = np.where(known, 1 + (drawn + told) ** 2 / np.maximum(per_freedom, 1e-300), np.nan)
        found = np.where(known, log_rate + np.log(value) - np.log(share), np.nan)
        # the last digits depend on how images are batched
        found, variance, terms, share = (
            np.asarray(np.round(each, 9), np.float64) for each in (found, variance, terms, share)
        )
        return Crossing(found, variance, terms, np.where(known, share, np.nan))

    def _directions(self, at: Ints, sigma: Floats, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """(unit directions (R, K, D) float32, classes, families (R, K)) at some particles."""
        own = self.particles
        slots = own.slots(at, count)
        numbers, noise = slots.numbers, own.by_slot(sigma, count).float()
        toward = own.z.new_empty(len(slots.image), own.pixels)
        kind = torch.empty_like(slots.image)

        def one(part: slice) -> None:
            flat = self.gradients.flat(own.points(slots, part, own.held(slots, part), noise))
            found = torch.zeros_like(flat)
            _, _, kind[part] = self.gradients(slots.image[part], flat, found, "margin", None)
            way = self.gradients.images(found).contiguous().flatten(1).nan_to_num_(0.0, 0.0, 0.0)
            length = torch.linalg.vector_norm(way, dim=1, keepdim=True, dtype=torch.float64)
            toward[part] = on_grid(way.div_(length.clamp(min=1e-38).float()))

        own.batches(len(toward), one)
        own.evaluator.n_forward[own.images[at]] += count
        self.backward[at] += count
        place = torch.as_tensor(at, device=own.device)
        toward, kind = (each.view(*numbers.shape, *each.shape[1:]) for each in (toward, kind))
        return toward, kind, own.family[place].gather(1, numbers)

    def _by_draws(
        self,
        at: Ints,
        sigma: Floats,
        log_rate: Floats,
        mixture: Mixture,
        rounds: Ints,
        weight: Tensor,
    ) -> tuple[Floats, Floats, Floats]:
        """E_q[error, a p/q] over exp(log_rate), its variance, effective number of terms; (R,)."""
        own, width = self.particles, 2 * TOGETHER
        device = own.device
        total, square = (
            torch.zeros(len(at), width, dtype=torch.float64, device=device) for _ in range(2)
        )
        scale = torch.as_tensor(log_rate, device=device)
        done, z = 0, own.z[:0]
        while (on := np.flatnonzero(rounds > done)).size:
            many = max(1, own.evaluator.batch_size // (len(on) * width))
            many = int(min(many, (rounds[on] - done).min()))
            names = BRIDGE + torch.arange(many * width, device=device)
            names = names + torch.as_tensor(self.used[at[on]], device=device)[:, None]
            self.used[at[on]] += many * width
            term = torch.empty(names.shape, dtype=torch.float64, device=device)
            images = min(len(on), max(1, self.block // (many * width * own.pixels)))
            if len(z) < images * many * width:
                z = own.z.new_empty(images * many * width, *own.z.shape[1:])
            for start in range(0, len(on), images):
                part = slice(start, start + images)
                term[part] = self._terms(at, sigma, scale, mixture, on[part], names[part], z)
            row = torch.as_tensor(on, device=device)
            term = term.view(len(on), many, width)
            total[row] += term.sum(1)
            square[row] += term.square().sum(1)
            done += many
        n = torch.as_tensor(np.maximum(rounds, 2), device=device).double()[:, None]
        spread_of = (square - total.square() / n).clamp(min=0) / (n - 1) / n
        each = (weight / TOGETHER).repeat_interleave(TOGETHER, 1)
        terms = (each * total).sum(1).square() / (each**2 * square).sum(1).clamp(min=1e-300)
        value, variance = (each * total / n).sum(1), (each**2 * spread_of).sum(1)
        return value.cpu().numpy(), variance.cpu().numpy(), terms.cpu().numpy()

    def _terms(
        self,
        at: Ints,
        sigma: Floats,
        scale: Tensor,
        mixture: Mixture,
        on: Ints,
        names: Tensor,
        z: Tensor,
    ) -> Tensor:
        """a p/q over exp(scale), 0 where no error is, of draws of images at[on] by names; in z."""
        own, count = self.particles, names.shape[1]
        image = torch.as_tensor(on, device=own.device).repeat_interleave(count)
        number = torch.arange(count, device=own.device).repeat(len(on))

        def place(z: Tensor, part: slice) -> None:
            mixture.placed(z.flatten(1), image[part], number[part])

        margin = own.judge_draws(at[on], names, sigma[on], z, place)
        error = (~(margin > 0)).nonzero().flatten()
        image, number = image[error], number[error]
        log_term = mixture.log_bounded(z.flatten(1), error, image, number) - scale[image]
        term = torch.zeros_like(margin)
        term[error] = log_term.exp()
        return term.view(names.shape)

    def _by_particles(
        self, place: Tensor, fold: Tensor, mixture: Mixture
    ) -> tuple[Floats, Floats, Floats]:
        """E_particles[a], its variance between families, effective number of families; (R,)."""
        own = self.particles
        family = own.family[place]
        side = 1 - fold.gather(1, family)
        a = torch.empty(len(place), own.n, dtype=torch.float64, device=own.device)
        row = place[:, None] * own.n + torch.arange(own.n, device=own.device)
        image = torch.arange(len(place), device=own.device)[:, None].expand_as(row)
        step = max(1, self.block // (own.n * own.pixels))
        for start in range(0, len(place), step):
            of = (each[start : start + step].flatten() for each in (row, image, side))
            a[start : start + step] = mixture.share(own.z.flatten(1), *of).view(-1, own.n)
        count = torch.zeros(len(place), fold.shape[1], dtype=torch.float64, device=own.device)
        sums = torch.zeros_like(count)
        count.scatter_add_(1, family, torch.ones_like(a))
        sums.scatter_add_(1, family, a)
        share = a.mean(1)
        effective = own.n**2 / count.square().sum(1)
        off = (sums - share[:, None] * count).square().sum(1) / own.n**2
        off *= effective / (effective - 1).clamp(min=1e-9)
        return share.cpu().numpy(), off.cpu().numpy(), effective.cpu().numpy()


def _folds(family: Tensor, first: int) -> Tensor:
    """(R, first): 0 or 1, half of the families each, of like sizes; family (R, N): of particles."""
    count = torch.zeros(len(family), first, dtype=torch.int64, device=family.device)
    count.scatter_add_(1, family, torch.ones_like(family))
    order = count.argsort(dim=1, descending=True, stable=True)
    rank = torch.arange(first, device=family.device).expand_as(order)
    return torch.zeros_like(count).scatter_(1, order, (rank + 1) // 2 % 2)
