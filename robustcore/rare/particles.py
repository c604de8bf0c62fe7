"""Particles of many images: draws held on the device, moved and judged in full batches."""

from __future__ import annotations

from collections.abc import Callable

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


def normals(evaluator: Evaluator, rows: Tensor, samples: Tensor) -> Tensor:
    """Standard normal draws (S, C, H, W) float32, named by images rows (S,) and samples (S,)."""
    shape = evaluator.x.shape[1:]
    zero = evaluator.x.new_zeros(1, *shape)
    out = evaluator.x.new_empty((len(rows), *shape))
    return evaluator.kernels.perturb(
        zero.expand(len(rows), *shape).contiguous(),
        torch.arange(len(rows), device=rows.device),
        torch.ones(len(rows), dtype=torch.float32, device=rows.device),
        samples,
        evaluator.ids[rows],
        out,
        seed=evaluator.seed,
        stream=evaluator.stream,
    )


class Particles:
    """N particles of each of some images: standard normal z (R, N, C, H, W), at x + sigma z.

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

    def begin(self, draws: Tensor, inside: Tensor, margin: Tensor) -> None:
        """From the first draws: names (F,), which of them count (R, F), and their margins."""
        chosen = spread(inside, self.n)
        self.family = chosen
        self.margin = margin.gather(1, chosen)
        names = draws[chosen].flatten()
        owners = self.rows.repeat_interleave(self.n)

        def draw(at: slice) -> None:
            self.z[at] = normals(self.evaluator, owners[at], names[at])

        self._batches(len(names), draw)

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
                self.z[to[part]] = self.z[of[part]]

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
        slots, image, names = self.slots(at)
        noise, reach, share = (self.by_slot(each) for each in (sigma, level, beta))
        names = names + torch.as_tensor(MOVES + self.used[at], device=self.device)[:, None]
        self.used[at] += self.n
        self.evaluator.n_forward[self.images[at]] += self.n
        draws = names.flatten().contiguous()
        taken = torch.zeros(len(slots), dtype=torch.bool, device=self.device)
        margins, kept = self.margin.view(-1), self.kept.view(-1)
        left = (1 - share.square()).sqrt()

        def step(part: slice) -> None:
            old, b = self.z[slots[part]], share[part].float()
            new = torch.empty_like(old)
            self.evaluator.kernels.perturb(
                old * left[part].float().view(-1, 1, 1, 1),
                torch.arange(len(old), device=self.device),
                b,
                draws[part],
                self.evaluator.ids[image[part]],
                new,
                seed=self.evaluator.seed,
                stream=self.evaluator.stream,
            )
            if radial:
                new = old * (_length(new) / _length(old)).float().view(-1, 1, 1, 1)
            margin = self._judged(image[part], new, noise[part])
            good = ~(margin > reach[part])
            to = slots[part][good]
            self.z[to] = new[good]
            margins[to] = margin[good]
            kept[to] *= 1.0 if radial else left[part][good]
            taken[part] = good

        self._batches(len(slots), step)
        return taken.view(len(at), self.n).double().mean(1).cpu().numpy()

    def judge(self, at: Ints, sigma: Floats, some: int | None = None) -> Tensor:
        """Margins (len(at), N) of the particles of images `at` at sigma; of `some`, evenly."""
        count = self.n if some is None else min(some, self.n)
        self.evaluator.n_forward[self.images[at]] += count
        slots, image, _ = self.slots(at, count)
        noise = self.by_slot(sigma, count)
        out = torch.empty(len(slots), dtype=torch.float64, device=self.device)

        def one(part: slice) -> None:
            out[part] = self._judged(image[part], self.z[slots[part]], noise[part])

        self._batches(len(slots), one)
        return out.view(len(at), count)

    def draws(self, at: Ints, names: Tensor) -> Tensor:
        """Standard normal draws (len(at), S, D) of images `at`, by names (len(at), S)."""
        owners = self.rows[torch.as_tensor(at, device=self.device)]
        owners, flat = owners.repeat_interleave(names.shape[1]), names.flatten()
        out = self.z.new_empty((len(flat), *self.z.shape[1:]))

        def draw(part: slice) -> None:
            out[part] = normals(self.evaluator, owners[part], flat[part])

        self._batches(len(flat), draw)
        return out.view(*names.shape, -1)

    def judge_drawn(self, at: Ints, sigma: Floats, z: Tensor) -> Tensor:
        """Margins (len(at), S) of draws z (len(at), S, D) of images `at` at sigma."""
        count = z.shape[1]
        self.evaluator.n_forward[self.images[at]] += count
        image = self.rows[torch.as_tensor(at, device=self.device)].repeat_interleave(count)
        noise, flat = self.by_slot(sigma, count), z.reshape(-1, *self.z.shape[1:])
        out = torch.empty(len(flat), dtype=torch.float64, device=self.device)

        def one(part: slice) -> None:
            out[part] = self._judged(image[part], flat[part], noise[part])

        self._batches(len(flat), one)
        return out.view(len(at), count)

    def slots(self, at: Ints, count: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """(places in z, images, (len(at), count) numbers of the particles) of images `at`."""
        count = self.n if count is None else count
        local = torch.as_tensor(at, device=self.device)[:, None]
        each = torch.arange(count, device=self.device) * self.n // count
        numbers = each.expand(len(at), -1)
        image = self.rows[local].expand(-1, count).flatten().contiguous()
        return (local * self.n + numbers).flatten(), image, numbers

    def by_slot(self, value: Floats, count: int | None = None) -> Tensor:
        return torch.as_tensor(value, device=self.device).repeat_interleave(count or self.n)

    def _judged(self, image: Tensor, z: Tensor, sigma: Tensor) -> Tensor:
        engine = self.evaluator
        points = engine.x[image] + sigma.float().view(-1, 1, 1, 1) * z
        if engine.clip is not None:
            points = points.clamp(*engine.clip)
        points = points.contiguous(memory_format=engine.network.layout)
        margin, _ = engine.kernels.margins(engine.network(points), engine.y, image)
        self.progress(len(image))
        return margin.double().nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)

    def _batches(self, total: int, body: Callable[[slice], None]) -> None:
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
