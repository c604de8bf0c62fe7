"""Particles of many images: draws held on the device, moved and judged in full batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustcore.batches import out_of_memory
from robustcore.evaluator import Evaluator

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# Names of draws, as sample numbers: the search for the start, the first draws, the moves, the
# bridge, the second look. Each image counts for itself, so how images are grouped changes no draw.
FIRST, MOVES, BRIDGE, LOOK = 2**20, 2**24, 2**30, 2**31


def normals(
    evaluator: Evaluator, images: Tensor, rows: Tensor, samples: Tensor, out: Tensor
) -> Tensor:
    """Standard normal draws to out (S, C, H, W) float32, of images[rows[s]] by name samples[s]."""
    return evaluator.kernels.perturb(
        evaluator.x.new_zeros(len(images), *evaluator.x.shape[1:]),
        rows,
        torch.ones(len(rows), dtype=torch.float32, device=rows.device),
        samples,
        evaluator.ids[images],
        out,
        seed=evaluator.seed,
        stream=evaluator.stream,
    )


@dataclass(frozen=True)
class Slots:
    """`count` of each of images `at`, ascending, one image after another.

    image (S,): in x. place (S,): in z. numbers (len(at), count): of the particles.
    """

    at: Ints
    count: int
    image: Tensor
    place: Tensor
    numbers: Tensor

    def ends(self, part: slice) -> tuple[int, int]:
        """Which of images `at` the first slot of a part is of, and which the last."""
        return part.start // self.count, (part.stop - 1) // self.count


class Particles:
    """N particles of each of some images: standard normals z (R, N, C, H, W), at x + sigma z.

    In uniform noise they lie at x + sigma * noise.of_normals(z).

    rows (R,): the images. margin (R, N) float64: where each was last judged, NaN as -inf, so that
    an error is one that is not > 0. kept (R, N): how much of each is left since `settle`, the
    product of the weights that accepted moves gave it. family (R, N): the first draw that each
    comes from.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        rows: Ints,
        particles: int,
        progress: Callable[[int], object] = lambda evaluations: None,
    ) -> None:
        self.evaluator, self.n, self.progress = evaluator, particles, progress
        self.device = evaluator.device
        self.images, self.rows = rows, torch.as_tensor(rows, device=self.device)
        count, shape = len(rows), evaluator.x.shape[1:]
        self.pixels = shape.numel()
        self.z = evaluator.x.new_empty((count * particles, *shape))
        self.margin = torch.zeros(count, particles, dtype=torch.float64, device=self.device)
        self.kept = torch.ones_like(self.margin)
        self.family = torch.zeros(count, particles, dtype=torch.int64, device=self.device)
        self.used = np.zeros(count, np.int64)  # draws spent on moves
        self._rooms = [self.z[:0]] * 2

    def begin(self, draws: Tensor, inside: Tensor, margin: Tensor) -> None:
        """From the first draws: names (F,), which of them count (R, F), and their margins."""
        chosen = spread(inside, self.n)
        self.family = chosen
        self.margin = margin.gather(1, chosen)
        names, slots = draws[chosen].flatten(), self.slots(np.arange(len(self.rows)))

        def draw(part: slice) -> None:
            self._drawn(slots, part, names, self.z[part])

        self.batches(len(names), draw)

    def multiply(self, at: Ints, inside: Tensor) -> None:
        """Of images `at`, the particles inside (len(at), N) take the places of all, evenly."""
        chosen = spread(inside, self.n)
        local = torch.as_tensor(at, device=self.device)
        source = (local[:, None] * self.n + chosen).flatten()
        place = (local[:, None] * self.n + torch.arange(self.n, device=self.device)).flatten()
        self.margin[local] = self.margin[local].gather(1, chosen)
        self.family[local] = self.family[local].gather(1, chosen)
        moved = (source != place).nonzero().flatten()
        # `spread` keeps order, so a place's source never lies before sources still wanted on the
        # same side of it; copies go through a buffer of one batch all the same
        self._copy(source[moved], place[moved])

    def _copy(self, source: Tensor, place: Tensor) -> None:
        down = place < source  # these are filled from the first, the others from the last
        for half, order in ((down, 1), (~down, -1)):
            of, to = source[half], place[half]
            if order < 0:
                of, to = of.flip(0), to.flip(0)
            for start in range(0, len(of), self.evaluator.batch_size):
                part = slice(start, start + self.evaluator.batch_size)
                self.z.index_copy_(0, to[part], self.z.index_select(0, of[part]))

    def settle(self) -> None:
        self.kept.fill_(1.0)

    def move(
        self, at: Ints, sigma: Floats, level: Floats, beta: Floats, radial: bool = False
    ) -> Floats:
        """One preconditioned Crank-Nicolson step of each particle of images `at`.

        sqrt(1 - beta^2) z + beta xi with a fresh draw xi, taken where its margin at sigma is not
        above level; radial: only the length of z takes that step. Leaves N(0, I) on the set as it
        is. Returns the share taken of each image. Source: Cotter et al., Statistical Science 2013.
        """
        slots = self.slots(at)
        total, reach, share = len(slots.image), self.by_slot(level), self.by_slot(beta)
        left = (1 - share.square()).sqrt()
        noise, shorter, longer = (each.float() for each in (self.by_slot(sigma), left, share))
        first = torch.as_tensor(MOVES + self.used[at], device=self.device)
        names, ids = (slots.numbers + first[:, None]).flatten(), self.evaluator.ids[slots.image]
        self.used[at] += self.n
        self.evaluator.n_forward[self.images[at]] += self.n
        found = torch.empty(total, dtype=torch.float64, device=self.device)
        taken = torch.empty(total, dtype=torch.bool, device=self.device)

        def step(part: slice) -> None:
            old = self.held(slots, part)
            scaled, new = (self._room(each, len(old)) for each in (0, 1))
            self.evaluator.kernels.perturb(
                torch.mul(old, shorter[part].view(-1, 1, 1, 1), out=scaled),
                torch.arange(len(old), device=self.device),
                longer[part],
                names[part],
                ids[part],
                new,
                seed=self.evaluator.seed,
                stream=self.evaluator.stream,
            )
            if radial:
                ratio = (_length(new) / _length(old)).float()
                torch.mul(old, ratio.view(-1, 1, 1, 1), out=new)
            found[part] = self._judged(slots, part, new, noise)
            taken[part] = ~(found[part] > reach[part])
            good = taken[part].nonzero().flatten()
            self.z.index_copy_(0, slots.place[part][good], new.index_select(0, good))

        self.batches(total, step)
        place = torch.as_tensor(at, device=self.device)
        margin, good, left = (each.view(len(at), -1) for each in (_ordered(found), taken, left))
        self.margin[place] = torch.where(good, margin, self.margin[place])
        if not radial:
            self.kept[place] *= torch.where(good, left, 1.0)
        return good.double().mean(1).cpu().numpy()

    def judge(self, at: Ints, sigma: Floats, some: int | None = None) -> Tensor:
        """Margins (len(at), N) of the particles of images `at` at sigma; of `some`, evenly."""
        slots = self.slots(at, None if some is None else min(some, self.n))
        self.evaluator.n_forward[self.images[at]] += slots.count
        noise = self.by_slot(sigma, slots.count).float()
        out = torch.empty(len(slots.image), dtype=torch.float64, device=self.device)

        def one(part: slice) -> None:
            out[part] = self._judged(slots, part, self.held(slots, part), noise)

        self.batches(len(out), one)
        return _ordered(out).view(len(at), -1)

    def judge_draws(
        self,
        at: Ints,
        names: Tensor,
        sigma: Floats,
        z: Tensor,
        change: Callable[[Tensor, slice], object],
    ) -> Tensor:
        """Margins (S,) at sigma of draws of images `at`, by names (len(at), S / len(at)).

        z (S, C, H, W) takes the draws; each batch is changed by change(z, slots), in place, as soon
        as it is drawn.
        """
        slots, flat = self.slots(at, names.shape[1]), names.flatten()
        self.evaluator.n_forward[self.images[at]] += slots.count
        noise = self.by_slot(sigma, slots.count).float()
        out = torch.empty(len(flat), dtype=torch.float64, device=self.device)

        def one(part: slice) -> None:
            self._drawn(slots, part, flat, z[part])
            change(z[part], part)
            out[part] = self._judged(slots, part, z[part], noise)

        self.batches(len(out), one)
        return _ordered(out)

    def slots(self, at: Ints, count: int | None = None) -> Slots:
        """Of `count` particles of each of images `at`, evenly; of all."""
        count = self.n if count is None else count
        local = torch.as_tensor(at, device=self.device)[:, None]
        each = torch.arange(count, device=self.device) * self.n // count
        numbers = each.expand(len(at), -1)
        image = self.rows[local].expand(-1, count).flatten().contiguous()
        return Slots(at, count, image, (local * self.n + numbers).flatten(), numbers)

    def by_slot(self, value: Floats, count: int | None = None) -> Tensor:
        return torch.as_tensor(value, device=self.device).repeat_interleave(count or self.n)

    def held(self, slots: Slots, part: slice) -> Tensor:
        """z of a part of slots, without a copy where they lie side by side."""
        first, last = slots.ends(part)
        if slots.count == self.n and slots.at[last] - slots.at[first] == last - first:
            start = int(slots.at[first] - first) * self.n
            return self.z[start + part.start : start + part.stop]
        return self.z.index_select(0, slots.place[part])

    def points(self, slots: Slots, part: slice, z: Tensor, sigma: Tensor) -> Tensor:
        """The noisy images of a part of slots, as z makes them. Holds until it is called again."""
        engine, (first, last) = self.evaluator, slots.ends(part)
        offset = engine.noise.of_normals(z)
        points = torch.mul(offset, sigma[part].view(-1, 1, 1, 1), out=self._room(0, len(z)))
        if first == last:
            points += engine.x[self.images[slots.at[first]]]
        else:
            points += engine.x.index_select(0, slots.image[part])
        return points if engine.noise.clip is None else points.clamp_(*engine.noise.clip)

    def _judged(self, slots: Slots, part: slice, z: Tensor, sigma: Tensor) -> Tensor:
        engine, points = self.evaluator, self.points(slots, part, z, sigma)
        points = points.contiguous(memory_format=engine.network.layout)
        images = slots.image[part]
        margin, _ = engine.kernels.margins(engine.logits(points, images), engine.y, images)
        self.progress(len(z))
        return margin

    def _drawn(self, slots: Slots, part: slice, names: Tensor, out: Tensor) -> None:
        first, last = slots.ends(part)
        images = self.rows[torch.as_tensor(slots.at[first : last + 1], device=self.device)]
        owner = torch.arange(part.start, part.stop, device=self.device) // slots.count - first
        normals(self.evaluator, images, owner, names[part], out)

    def _room(self, which: int, count: int) -> Tensor:
        """Memory for the work of a batch, kept for the next."""
        if len(self._rooms[which]) < count:
            self._rooms[which] = self.z.new_empty(count, *self.z.shape[1:])
        return self._rooms[which][:count]

    def batches(self, total: int, body: Callable[[slice], None]) -> None:
        start = 0
        with torch.no_grad():
            while start < total:
                part = slice(start, min(start + self.evaluator.batch_size, total))
                try:
                    body(part)
                except RuntimeError as error:
                    if self.evaluator.batch_size == 1 or not out_of_memory(error):
                        raise
                    self.evaluator.halve()
                    continue
                start = part.stop


def spread(inside: Tensor, n: int) -> Tensor:
    """(R, n): places of those inside (R, M), in order, each as often as any other but for one."""
    order = (~inside).to(torch.int8).argsort(dim=1, stable=True)
    count = inside.sum(1, keepdim=True).clamp(min=1)
    return order.gather(1, torch.arange(n, device=inside.device) * count // n)


def _length(z: Tensor) -> Tensor:
    return z.flatten(1).double().norm(dim=1)


def _ordered(margin: Tensor) -> Tensor:
    return margin.nan_to_num_(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
