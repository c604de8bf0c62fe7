"""Moves along gradients: trajectories that keep the noise's law under a tilt towards errors.

A trajectory turns a draw z and a fresh momentum v about each other, by angles at which the Gaussian
of both stays as it is, and between turns kicks v along the margin's gradient. It ends far from
where it began for a few gradients. A Metropolis step makes it exact: what a kick misses of the tilt
is refused. Any function of z may kick: turns and kicks keep volumes.

Sources: Duane, Kennedy, Pendleton and Roweth, Physics Letters B 195 (1987); Beskos, Pinski,
Sanz-Serna and Stuart, Stochastic Processes and their Applications 121 (2011), on Gaussian laws.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr
from torch import Tensor

from robustcore.gradients import Gradients
from robustcore.rare.particles import BRIDGE, MOVES, Particles, Slots, normals

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

BEND = 0.3, 0.2  # width of a tilt's bend: so much of its depth, and so much at least
ACCEPTED = 0.7  # share of trajectories to be accepted, by the choice of angle
ANGLES = (0.01, np.pi / 2)  # of a whole trajectory: at most until nothing is left
START = 1.2


@dataclass(frozen=True)
class Tilt:
    """Of R images: beta (R,), in units of one over the margin, and depth (R,), in those of beta.

    Its potential of a margin is linear outside errors and flat deeper in them than `depth`; 0 where
    beta is.
    """

    beta: Floats
    depth: Floats

    def of(self, at: Ints | Bools) -> Tilt:
        return Tilt(self.beta[at], self.depth[at])

    def potential(self, margin: Floats) -> Floats:
        """Of margins (R, N)."""
        beta = self.beta[:, None]
        depth, bend = self.depth[:, None], (BEND[0] * self.depth + BEND[1])[:, None]
        with np.errstate(invalid="ignore"):  # 0 times inf
            found = bend * np.logaddexp(0.0, (beta * margin + depth) / bend)
        return np.where(beta > 0, found, 0.0)


class Trajectories:
    """Of all particles; steps: gradients of each trajectory. angle (R,): that of a whole one.

    Raises NoGradients, when one is run, for a model without them.
    """

    def __init__(self, particles: Particles, steps: int) -> None:
        self.particles, self.steps = particles, steps
        self.gradients = Gradients(particles.evaluator, None, 2.0)
        count = len(particles.rows)
        self.angle = np.full(count, START)
        self.chances = np.zeros(count, np.int64)  # names of draws spent on them

    def uniforms(self, at: Ints, count: int) -> Floats:
        """(len(at), count) numbers in (0, 1), of images `at`."""
        own = self.particles
        each = -(-count // own.pixels)
        names = BRIDGE + self.chances[at][:, None] + np.arange(each)
        self.chances[at] += each
        images = own.rows[torch.as_tensor(at, device=own.device)]
        out = own.z.new_empty(len(at) * each, *own.z.shape[1:])
        owner = torch.arange(len(out), device=own.device) // each
        flat = torch.as_tensor(names, device=own.device).flatten()
        normals(own.evaluator, images, owner, flat, out)
        return np.asarray(ndtr(out.view(len(at), -1)[:, :count].double().cpu().numpy()))

    def run(self, at: Ints, sigma: Floats, tilt: Tilt) -> tuple[Floats, Floats]:
        """One trajectory of each particle of images `at`, at sigma (len(at),) under a tilt.

        Returns (share accepted, mean cosine between where they begin and end), (len(at),) each.
        """
        own, steps = self.particles, self.steps
        place = torch.as_tensor(at, device=own.device)
        slots = own.slots(at)
        total = len(slots.image)
        noise = own.by_slot(sigma).float()
        beta, depth = own.by_slot(tilt.beta), own.by_slot(tilt.depth)
        turn = own.by_slot(self.angle[at] / steps)
        first = torch.as_tensor(MOVES + own.used[at], device=own.device)
        names = (slots.numbers + first[:, None]).flatten()
        own.used[at] += own.n
        own.evaluator.n_forward[own.images[at]] += own.n * (3 * steps + 1)  # a gradient is three
        chance = torch.as_tensor(self.uniforms(at, own.n), device=own.device).flatten()
        before = own.margin[place].flatten()
        after, accepted = torch.empty_like(before), torch.empty(total, dtype=torch.bool)
        accepted = accepted.to(own.device)
        cosine = torch.empty_like(before)

        def whole(part: slice) -> None:
            z = own.held(slots, part).clone()
            v = torch.empty_like(z)
            own._drawn(slots, part, names, v)
            energy = _squares(z) + _squares(v)
            begun, length = z.clone(), _squares(z)
            b, d = beta[part], depth[part]
            angle = turn[part].view(-1, 1, 1, 1)
            for step in range(steps):
                z, v = _turned(z, v, angle / 2 if step == 0 else angle)
                self._kick(slots, part, z, v, noise, b, d, angle)
            z, v = _turned(z, v, angle / 2)
            margin = own._judged(slots, part, z, noise).double().nan_to_num(nan=-torch.inf)
            rise = (_squares(z) + _squares(v) - energy) / 2
            old, new = (_potential(b * each, d) for each in (before[part], margin))
            change = (rise + new - old).nan_to_num(nan=torch.inf)
            good = chance[part].log() < -change
            after[part], accepted[part] = margin, good
            cosine[part] = torch.where(
                good,
                (z.double() * begun.double()).flatten(1).sum(1) / (length * _squares(z)).sqrt(),
                1.0,
            )
            kept = good.nonzero().flatten()
            own.z.index_copy_(0, slots.place[part][kept], z.index_select(0, kept))

        own.batches(total, whole)
        own.margin[place] = torch.where(accepted, after, before).view(len(at), -1)
        shape = (len(at), own.n)
        share = accepted.view(shape).double().mean(1).cpu().numpy()
        self.angle[at] = np.clip(self.angle[at] * np.exp(share - ACCEPTED), *ANGLES)
        return share, cosine.view(shape).mean(1).cpu().numpy()

    def _kick(
        self,
        slots: Slots,
        part: slice,
        z: Tensor,
        v: Tensor,
        noise: Tensor,
        b: Tensor,
        d: Tensor,
        angle: Tensor,
    ) -> None:
        """v towards errors, in place: minus angle times the gradient of the potential in z."""
        own = self.particles
        points = own.points(slots, part, z, noise)
        flat = self.gradients.flat(points)
        found = torch.zeros_like(flat)
        margin, _, _ = self.gradients(slots.image[part], flat, found, "margin", None)
        own.progress(len(z))
        steep = b * torch.sigmoid((b * margin.double() + d) / (BEND[0] * d + BEND[1]))
        force = (steep.float() * noise[part]).nan_to_num(0.0, 0.0, 0.0).view(
            -1, 1, 1, 1
        ) * angle.float()
        toward = self.gradients.images(found).nan_to_num(0.0, 0.0, 0.0)
        if own.evaluator.clip is not None:
            low, high = own.evaluator.clip
            toward = toward * ((points > low) & (points < high))
        v.addcmul_(force, toward)


def _turned(z: Tensor, v: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    cosine, sine = angle.cos().float(), angle.sin().float()
    return z * cosine + v * sine, v * cosine - z * sine


def _squares(z: Tensor) -> Tensor:
    return z.flatten(1).double().square().sum(1)


def _potential(scaled: Tensor, depth: Tensor) -> Tensor:
    bend = BEND[0] * depth + BEND[1]
    past = (scaled + depth) / bend
    return bend * torch.logaddexp(past, torch.zeros_like(past))
