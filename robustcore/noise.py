"""Laws of noise: each draw is a path from the clean input that grows with one scale.

A draw is named by (seed, stream, id of the input, sample) and made by a counter generator, so it
can be made again at any scale, in any batch and on any device. A law must be *coupled* in its
scale: the same draw at a larger scale lies further along the same path, which the searches need.

A new law is a class with one method:

    class Rayleigh(rc.Noise):
        def points(self, x, scale, draws):
            return x + scale * (-2 * draws.uniforms().log()).sqrt()
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from robustcore import inputs
from robustcore.arguments import integer, pair, positive, shown
from robustcore.kernels import Backend
from robustcore.streams import Stream

Interval = tuple[float, float]

STREAM_STEP = 2**20  # between the streams of the arrays that a law draws
TEST_DRAWS = 8
TEST_SCALE = 0.1  # of draws that are compared by themselves, in units of the range or the largest
TEST_STEPS, TEST_RATIO = 20, 1.37  # of a ladder of scales, from the largest down
GROWTH = 1e-3  # of a scale, over which a coupled draw moves by about so much of its offset
OTHER_DRAW = 0.5  # of an offset: further away lies another draw, at about 1.4
ALIKE = 0.3  # cosine of offsets at neighbouring scales: of other draws it is near 0
ROUNDING = 1e-4  # of an offset: of a law in float32, in batches of different sizes


class Draws:
    """The random numbers of S named draws, for inputs of one shape, on the device of the inputs.

    Each call returns new numbers, the first, the second and so on of every draw: a function of
    (seed, stream, id, sample) and of the number of the call alone, with the same bits in any batch
    and from any backend. Cost: one pass of the kernel `perturb`.
    """

    def __init__(
        self,
        kernels: Backend,
        shape: torch.Size,
        ids: Tensor,
        samples: Tensor,
        seed: int,
        stream: int,
    ) -> None:
        self._kernels, self._shape = kernels, shape
        self._ids, self._samples = ids, samples
        self._seed, self._stream = seed, stream

    def normals(self, *shape: int) -> Tensor:
        """Standard normals (S, *shape) float32; shape is by default that of one input."""
        return self._drawn("gaussian", shape)

    def uniforms(self, *shape: int) -> Tensor:
        """Uniform in (0, 1], (S, *shape) float32; shape is by default that of one input."""
        return (self._drawn("uniform", shape) + 1) / 2

    def _drawn(self, law: str, shape: tuple[int, ...]) -> Tensor:
        wanted = shape or tuple(self._shape)
        count, stream = len(self._ids), self._stream
        self._stream += STREAM_STEP
        elements = int(torch.Size(wanted).numel())
        device = self._ids.device
        zeros = torch.zeros(1, 1, 1, elements, dtype=torch.float32, device=device)
        out = torch.empty(count, 1, 1, elements, dtype=torch.float32, device=device)
        slots = torch.arange(count, device=device)
        self._kernels.perturb(
            zeros.expand(count, -1, -1, -1).contiguous(),
            slots,
            torch.ones(count, dtype=torch.float32, device=device),
            self._samples,
            self._ids,
            out,
            seed=self._seed,
            stream=stream,
            law=law,
        )
        return out.view(count, *wanted)


class Noise:
    """A law of noise. Subclasses define `points`, and may set `largest`, `clip` and `rough`.

    largest: the scale at which a search ends; None: as `scale_at_error_rate` says.
    rough: whether a draw moves in many steps as its scale grows, element by element, and not
        smoothly: a search then predicts margins with larger standard errors.
    clip: (low, high), to which noisy inputs are clipped, and in which inputs must lie; None does
        not clip.

    The scale is in the units of the inputs unless the law says otherwise. Each measurement first
    makes some test draws of a subclass, and raises ValueError where they are not finite, depend on
    the batch, are not the input at scale 0, or are not coupled in the scale. How to write one:
    docs/extending.md.
    """

    largest: float | None = None
    rough: bool = False
    clip: Interval | None = None

    def points(self, x: Tensor, scale: Tensor, draws: Draws) -> Tensor:
        """Noisy inputs (S, *shape) from inputs x (S, *shape) at scale (S, 1, ...), all float32.

        Noisy input s depends on x[s], scale[s] and the draws of s alone; at scale 0 it is x[s].
        """
        raise NotImplementedError(f"{type(self).__name__} must define points(x, scale, draws)")

    def perturb(
        self,
        kernels: Backend,
        x: Tensor,
        rows: Tensor,
        scale: Tensor,
        samples: Tensor,
        ids: Tensor,
        out: Tensor,
        *,
        shape: torch.Size,
        seed: int,
        stream: int,
    ) -> Tensor:
        """Writes noisy copies of x[rows] to out (S, C, H, W), and returns it.

        x (B, C, H, W) float32; rows, samples (S,) and ids (B,) int64; scale (S,) float32; seed and
        stream as in `robustcore.kernels`. shape: of one input. Where that is not (C, H, W), x is
        (B, 1, 1, D).
        """
        draws = Draws(kernels, shape, ids[rows], samples, seed, stream)
        clean = x[rows].reshape(-1, *shape)
        points = self.points(clean, scale.view(-1, *(1 for _ in shape)), draws)
        if not isinstance(points, Tensor) or points.shape != clean.shape:
            was = tuple(points.shape) if isinstance(points, Tensor) else shown(points)
            raise ValueError(
                f"noise must return noisy inputs of shape {tuple(clean.shape)}, returned {was}"
            )
        points = points.reshape(out.shape)
        if self.clip is not None:
            points = points.clamp(*self.clip)
        return out.copy_(points)

    def check(self, kernels: Backend, x: Tensor, ids: Tensor, shape: torch.Size) -> None:
        """Raises ValueError where test draws are not those of a law that a search can use.

        x (B, C, H, W), ids and shape are as in `perturb`. Cost: TEST_DRAWS draws at 40 scales, and
        at one more by themselves.
        """
        rows = torch.arange(TEST_DRAWS, device=x.device) % len(x)
        samples = torch.arange(TEST_DRAWS, device=x.device)
        low, high = (float(end) for end in torch.aminmax(x))
        top = self.largest or (high - low) or 1.0

        def offsets(scale: float, part: slice = slice(None)) -> Tensor:
            at = rows[part]
            points = self.perturb(
                kernels,
                x,
                at,
                torch.full((len(at),), scale, dtype=torch.float32, device=x.device),
                samples[part],
                ids,
                torch.empty_like(x[at]),
                shape=shape,
                seed=0,
                stream=Stream.PROBE,
            )
            if not bool(torch.isfinite(points).all()):
                raise ValueError(f"noise must return finite inputs, {self} at {scale:g} did not")
            return (points.double() - x[at].double()).flatten(1)

        together = offsets(TEST_SCALE * top)
        size = together.norm(dim=1)
        parts = (slice(k, k + 1) for k in range(TEST_DRAWS))
        alone = torch.cat([offsets(TEST_SCALE * top, part) for part in parts])
        if bool(((alone - together).norm(dim=1) > ROUNDING * size).any()):
            raise ValueError(
                f"noise must draw each input by its name alone, {self} gave others to inputs that "
                "were drawn together: take random numbers from `draws`, and nothing over the batch"
            )
        if bool((offsets(0.0) != 0).any()):
            raise ValueError(f"noise must leave inputs as they are at scale 0, {self} did not")
        before = torch.zeros_like(together)
        for step in reversed(range(TEST_STEPS)):
            scale = top * TEST_RATIO**-step
            here = offsets(scale)
            near = offsets(scale * (1 - GROWTH))
            alike = (before * here).sum() >= ALIKE * before.norm() * here.norm()
            longer = here.norm() >= (1 - ROUNDING) * before.norm()
            if not bool(alike & longer & ((here - near).norm() <= OTHER_DRAW * here.norm())):
                raise ValueError(
                    f"noise must be coupled in its scale, draws of {self} did not grow with it "
                    f"near {scale:.3g}: the same draw at a larger scale must lie further along the "
                    "same path"
                )
            before = here

    def of_normals(self, z: Tensor) -> Tensor:
        """Offsets (S, ...) at scale 1, as a function of standard normals z (S, ...).

        Splitting moves draws a little by moving these normals. Raises ValueError for a law that is
        not made of them.
        """
        raise ValueError(f"noise must be Gaussian or uniform for rare errors, was {self}")

    def check_clip(self, x: Tensor) -> None:
        """Raises ValueError where x does not lie in `clip`."""
        inputs.clip_range(self.clip, x)

    def __repr__(self) -> str:
        clip = "" if self.clip is None else f"clip={self.clip}"
        return f"{type(self).__name__}({clip})"


class _KernelLaw(Noise):
    """A law that the kernel `perturb` draws, with the same bits from every backend."""

    law: ClassVar[str]
    levels: Interval | None = None

    def __init__(self, clip: Any = None) -> None:
        self.clip = inputs.clip_range(clip)

    def perturb(
        self,
        kernels: Backend,
        x: Tensor,
        rows: Tensor,
        scale: Tensor,
        samples: Tensor,
        ids: Tensor,
        out: Tensor,
        *,
        shape: torch.Size,
        seed: int,
        stream: int,
    ) -> Tensor:
        return kernels.perturb(
            x,
            rows,
            scale,
            samples,
            ids,
            out,
            seed=seed,
            stream=stream,
            law=self.law,
            levels=self.levels,
            clip=self.clip,
        )

    def check(self, kernels: Backend, x: Tensor, ids: Tensor, shape: torch.Size) -> None:
        """Nothing: the tests of the kernels do."""


class Gaussian(_KernelLaw):
    """N(x, scale^2 I): scale is the standard deviation, sigma. The default.

    clip: (low, high), to which noisy inputs are clipped and in which x must lie; None, as in Ford
    et al. (2019), does not clip. Source: the method of Box and Muller (1958).
    """

    law = "gaussian"

    def of_normals(self, z: Tensor) -> Tensor:
        return z


class Uniform(_KernelLaw):
    """Uniform in the ball of radius scale around x.

    norm: "Linf" or inf, each element of the offset is uniform in (-scale, scale) by itself; "L2" or
    2, the offset is uniform in the Euclidean ball. clip: as in `Gaussian`. Raises ValueError or
    TypeError naming norm or clip. Cost in L2: a second pass over memory. Source: Harman and
    Lacko (2010) in L2.
    """

    law = "uniform"

    def __init__(self, norm: float | str, clip: Any = None) -> None:
        super().__init__(clip)
        self.norm = inputs.norm(norm)

    def perturb(
        self,
        kernels: Backend,
        x: Tensor,
        rows: Tensor,
        scale: Tensor,
        samples: Tensor,
        ids: Tensor,
        out: Tensor,
        *,
        shape: torch.Size,
        seed: int,
        stream: int,
    ) -> Tensor:
        if self.norm != 2:
            return super().perturb(
                kernels, x, rows, scale, samples, ids, out, shape=shape, seed=seed, stream=stream
            )
        offset = torch.empty(len(rows), x[0].numel(), dtype=torch.float32, device=x.device)
        kernels.random_start(scale, samples, ids[rows], offset, norm=2.0, seed=seed, stream=stream)
        points = x[rows] + offset.view(len(rows), *x.shape[1:])
        return out.copy_(points if self.clip is None else points.clamp_(*self.clip))

    def of_normals(self, z: Tensor) -> Tensor:
        if self.norm != 2:
            return torch.erf(z / math.sqrt(2))
        length = z.flatten(1).double().norm(dim=1)
        half = torch.full_like(length, z[0].numel() / 2)
        radius = torch.special.gammainc(half, length.square() / 2) ** (0.5 / half)
        return z * (radius / length).float().view(-1, *(1 for _ in z.shape[1:]))

    def __repr__(self) -> str:
        clip = "" if self.clip is None else f", clip={self.clip}"
        return f"Uniform({'L2' if self.norm == 2 else 'Linf'!r}{clip})"


class Laplace(_KernelLaw):
    """x + t, each element of t with the density exp(-|t| / scale) / (2 scale).

    Its standard deviation is sqrt(2) * scale. clip: as in `Gaussian`.
    """

    law = "laplace"


class Speckle(_KernelLaw):
    """x + x * z, each element of z normal with standard deviation scale, which has no unit.

    clip: as in `Gaussian`.
    """

    law = "speckle"


class SaltAndPepper(_KernelLaw):
    """Each element by itself is replaced with probability scale: by low or high, with equal chance.

    levels: (low, high), the values of pepper and salt, in the units of x. An element replaced at
    one scale is replaced at every larger one, by the same value. Raises ValueError or TypeError
    naming levels.
    """

    law = "salt_and_pepper"
    largest = 1.0
    rough = True

    def __init__(self, levels: Interval = (0.0, 1.0)) -> None:
        super().__init__(None)
        self.levels = pair("levels", levels, "(low, high)")

    def __repr__(self) -> str:
        return f"SaltAndPepper({self.levels})"


class Subspace(Noise):
    """Gaussian noise in a subspace: x + scale * basis.T z, z standard normal (k,).

    basis: (k, *shape) or (k, D) orthonormal directions, such as `principal_components` returns; D
    is the number of elements of an input. scale is the standard deviation along each of them. clip:
    as in `Gaussian`. Cost: 2 k D float64 operations a draw. Raises ValueError or TypeError naming
    basis or clip.
    """

    def __init__(self, basis: Tensor, clip: Any = None) -> None:
        self.clip = inputs.clip_range(clip)
        self.basis = inputs.orthonormal("basis", basis)

    def points(self, x: Tensor, scale: Tensor, draws: Draws) -> Tensor:
        size = x[0].numel()
        if self.basis.shape[1] != size:
            raise ValueError(
                f"noise must have a basis of directions with {size} elements, as inputs have, had "
                f"{self.basis.shape[1]}"
            )
        basis = self.basis.to(x.device)
        z = draws.normals(len(basis))
        moved = z.double() @ basis.double()  # float32 sums would depend on the batch
        return x + scale * moved.float().view_as(x)

    def __repr__(self) -> str:
        clip = "" if self.clip is None else f", clip={self.clip}"
        return f"Subspace({len(self.basis)} of {self.basis.shape[1]} dimensions{clip})"


class FromNormals(Noise):
    """The same law by other draws: its `of_normals` of standard normals, as splitting needs."""

    def __init__(self, law: Noise) -> None:
        self.law, self.clip, self.largest = law, law.clip, law.largest

    def of_normals(self, z: Tensor) -> Tensor:
        return self.law.of_normals(z)

    def points(self, x: Tensor, scale: Tensor, draws: Draws) -> Tensor:
        return x + scale * self.of_normals(draws.normals())

    def __repr__(self) -> str:
        return repr(self.law)


def principal_components(x: Tensor, k: int) -> Tensor:
    """The k orthonormal directions of the largest variance of inputs x: (k, *shape) float32.

    x: (B, *shape) floating point, finite; its mean is subtracted. k: from 1 to min(B, D), D being
    the elements of one input. Directions are ordered by variance, the largest first; each has its
    element of largest magnitude positive. Raises ValueError or TypeError naming the argument. Cost:
    a singular value decomposition of (B, D) in float64, on the device of x. Source: Pearson (1901).
    """
    if isinstance(x, Tensor) and x.ndim < 2:
        raise ValueError(f"x must be inputs (B, *shape), had shape {tuple(x.shape)}")
    batch = inputs.images(x, shape=x.shape[1:] if isinstance(x, Tensor) else None)
    rows = batch.flatten(1).double()
    k = integer("k", k, 1, min(rows.shape))
    basis = torch.linalg.svd(rows - rows.mean(0), full_matrices=False).Vh[:k]
    largest = basis.gather(1, basis.abs().argmax(1, keepdim=True))
    return (basis * largest.sign()).float().view(k, *batch.shape[1:])


def of(noise: Any) -> Noise:
    """The law that was asked for; None is Gaussian noise."""
    if noise is None:
        return Gaussian()
    if isinstance(noise, type) and issubclass(noise, Noise):
        raise TypeError(f"noise must be a law of noise, was the class {noise.__name__}: add ()")
    if not isinstance(noise, Noise):
        raise TypeError(f"noise must be a law of noise, such as Gaussian(), was {shown(noise)}")
    if noise.largest is not None:
        positive("noise.largest", noise.largest)
    return noise
