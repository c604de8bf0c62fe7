"""`church_windows`: from arguments to a record."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustcore import inputs
from robustcore.distance import METHODS
from robustcore.engine import Engine
from robustcore.evaluator import Evaluator
from robustcore.network import Model
from robustcore.provenance import provenance
from robustcore.results import SigmaResult, SliceResult
from robustcore.results.provenance import refuse_other_images
from robustcore.runs import by_blocks
from robustcore.sigma import sigma_at_error_rate
from robustcore.slices.planes import DIRECTIONS, Planes
from robustcore.slices.record import record_of

LARGEST = 1000  # nodes a side
COARSE = 8
USUAL_SHARE = 0.1  # of nodes that are evaluated: decides whether compiling pays


@by_blocks({"sigma": 1, "across": 4, "up": 4}, smallest=1)
def church_windows(
    model: Model | Engine,
    x: Any,  # (B, *shape), or one input
    y: Any = None,  # (B,)
    *,
    across: str | Tensor = "noise",
    up: str | Tensor = "adversarial",
    sigma: Any = None,  # one, or (B,)
    rate: float = 0.01,
    samples: int = 1000,
    size: int = 300,
    extent: float = 1.25,
    coarse: int = COARSE,
    attack: str = "pgd",
    seed: int = 0,
    ids: Any = None,
    run: str | os.PathLike[str] | None = None,
) -> SliceResult:
    """The plane through each image and two points: class, margin, and the shape of the errors.

    model, x, y, ids, run: as in `error_rate`; the model must let gradients through where a
        direction is "adversarial".
    across, up: what spans the plane. "noise": the first of the draws at sigma that the model gets
        wrong, not clipped. "adversarial": an error found by an attack that aims at the class of the
        noise error, or at any wrong class where there is no noise error in the plane.
        "orthogonal": a random direction at right angles to the other. A tensor of x's shape: other
        points, such as errors found elsewhere. At most one of the two may be "orthogonal".
        The vertical axis runs to `up`, and the horizontal one towards `across`.
    sigma: standard deviation of the noise, in pixel units, one for all or one for each image, or
        what `sigma_at_error_rate` found for them; None finds sigma(x, rate) (rate is used for
        nothing else).
    samples: draws at sigma, those of `error_rate`.
    size: nodes a side, 2 to 1,000. extent: half-width of the window over sigma * sqrt(n), n the
        components of an image; a window grows where a point would lie outside it.
    coarse: step of the first lattice, a power of two up to 64: nodes in cells whose corners agree
        in class are not evaluated (robustcore.slices.grid); 1 evaluates every node.
    attack: "pgd" is the paper's, in a ball of radius max(1, 8.53 sigma) rounded up to a power of
        two; "minimum" looks for the nearest error.

    Cost: `samples` evaluations of each image, those of sigma and of the attack, and usually less
    than size^2 / 10. Deterministic: the same seed, ids and settings give the same record, image by
    image, up to the model's own rounding. Raises ValueError, TypeError or RuntimeError naming the
    argument.

    Source: Ford et al. (2019), Fig. 3 and appendix G; Warde-Farley and Goodfellow (2016).
    """
    start = time.perf_counter()
    engine = Engine.of(model)
    samples = inputs.integer("samples", samples, 1, 2**20)
    size = inputs.integer("size", size, 2, LARGEST)
    extent = inputs.positive("extent", extent)
    coarse = inputs.integer("coarse", coarse, 1, 64)
    if coarse & (coarse - 1):
        raise ValueError(f"coarse must be a power of two, was {coarse}")
    attack = inputs.choice("attack", attack, METHODS)
    for name, value in (("across", across), ("up", up)):
        if not isinstance(value, Tensor):
            inputs.choice(name, value, DIRECTIONS)
    names = tuple(value if isinstance(value, str) else "given" for value in (across, up))
    if names[0] == names[1] != "given":
        raise ValueError(f"across and up must differ, both were {across!r}")
    rate = inputs.fraction("rate", rate)
    batch = engine.images(x)
    for name, value in (("across", across), ("up", up)):
        if isinstance(value, Tensor):
            _points(name, value, batch)
    evaluator = Evaluator(
        engine,
        batch,
        y,
        ids=ids,
        seed=seed,
        planned=int(len(batch) * (samples + USUAL_SHARE * size**2)),
        exact=True,
    )
    planes = Planes(batch, evaluator, samples)
    planes.noise(_sigmas(sigma, rate, planes))
    planes.find((across, up), attack)
    planes.span()
    grid = planes.map(size, coarse, extent)
    settings = {
        **{"across": names[0], "up": names[1], "attack": attack, "coarse": coarse},
        **{"extent": extent, "rate": rate if sigma is None else None},
    }
    how = provenance(evaluator, "adaptive" if coarse > 1 else "full", samples, start, settings)
    return record_of(planes, grid, names, how)


def _points(name: str, value: Tensor, x: Tensor) -> None:
    """Raises ValueError for a point that cannot span a plane with an image of x."""
    shape = tuple(value.shape) if value.ndim == x.ndim else (1, *value.shape)
    if shape != tuple(x.shape) or not value.is_floating_point():
        raise ValueError(
            f"{name} must be floating-point points of x's shape {tuple(x.shape)}, was "
            f"{value.dtype} {tuple(value.shape)}"
        )
    if value.layout != torch.strided or value.device.type == "meta":
        raise ValueError(f"{name} must be dense, was {value.layout} on {value.device}")
    if not bool(torch.isfinite(value).all()):
        raise ValueError(f"{name} must be finite points, held NaN or inf")


def _sigmas(sigma: Any, rate: float, planes: Planes) -> np.ndarray:
    """Sigma of each image, float64 (B,): given, or found; 0 and inf where there is none."""
    ids, n = planes.evaluator.ids.cpu().numpy(), len(planes.x)
    if sigma is None:
        sigma = sigma_at_error_rate(
            planes.evaluator.engine,
            planes.x,
            rate,
            planes.evaluator.answers,
            samples=planes.samples,
            **planes.shared,
        )
        planes.n_forward += sigma.n_forward
    if isinstance(sigma, SigmaResult):
        if not np.array_equal(sigma.ids, ids):
            raise ValueError(f"sigma must hold the ids of x, {ids[:4]}..., held {sigma.ids[:4]}...")
        how = provenance(planes.evaluator, "", None, 0.0, {})
        refuse_other_images("sigma and x", sigma.provenance, how, ids.tolist())
        return sigma.sigma
    values = inputs.sigmas(sigma, planes.evaluator.engine.ranges)
    if len(values) not in (1, n):
        raise ValueError(f"sigma must be one, or one for each of {n} inputs, were {len(values)}")
    if values.min() <= 0:
        raise ValueError(f"sigma must be above 0, one was {values.min():g}")
    return np.broadcast_to(values, n).copy()
