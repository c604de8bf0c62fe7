"""What a model does: its outputs on a few fixed inputs, by which a run knows it again.

The inputs are the first images of the set, these with little and with much noise, and noise alone.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from robustcore import inputs
from robustcore.engine import Engine
from robustcore.network import Network
from robustcore.sources import Source

IMAGES = 4  # of the set; each is an input by itself, twice with noise, and once as noise alone
SEED = 0  # of the noise, and of torch's generators while the model is asked
LEVELS = (0.05, 0.3)  # standard deviations of the noise, as parts of the images' range
# Half a unit in the last place: what one operation may add, relative to its result. Convolutions
# of float32 on a GPU are computed in TF32 by default.
ROUNDOFF = {torch.float64: 2**-53, torch.float32: 2**-24, torch.float16: 2**-11}
TF32, OTHER = 2**-11, 2**-8
# Networks add up their operations' errors: those of the zoo differ by 2e-6 at most between thread
# counts, layouts and compilation in float32. A change of 1 in 4,000 of the logits is seen.
LEAST, OPERATIONS = 2**-12, 16
TIMES = 4  # one difference of two outputs is a rough measure of how far others may differ


@dataclass(frozen=True)
class Behaviour:
    """outputs (S, K) float32; spread (K,): how far they moved when the inputs were rounded."""

    outputs: np.ndarray
    spread: np.ndarray
    rounding: float

    def to_text(self) -> str:
        return json.dumps(
            {
                "shape": self.outputs.shape,
                "outputs": base64.b64encode(self.outputs.tobytes()).decode(),
                "spread": base64.b64encode(self.spread.tobytes()).decode(),
                "rounding": self.rounding,
            }
        )

    @staticmethod
    def from_text(text: str) -> Behaviour:
        held = json.loads(text)
        outputs, spread = (
            np.frombuffer(base64.b64decode(held[name]), np.float32)
            for name in ("outputs", "spread")
        )
        return Behaviour(outputs.reshape(held["shape"]), spread, held["rounding"])


def behaviour(engine: Engine, source: Source) -> Behaviour:
    """Asked twice, the second time with inputs that are one rounding error larger.

    A model that draws from torch's generators is asked with one seed; the state of the generators
    is as before. Errors are those of a measurement.
    """
    x, _ = source.block(0, min(source.n, IMAGES))
    x = x.to(engine.device or x.device, inputs.type_of(engine.model) or x.dtype)
    network = Network(engine.model, x.device, x.dtype, x.shape[1:], engine.error)
    rounding = _roundoff(x)
    size = engine.asked_batch or len(LEVELS) * IMAGES
    asked = probes(x)
    first = _answers(network, asked, size)
    second = _answers(network, asked * (1 + 4 * rounding), size)
    with np.errstate(invalid="ignore"):
        moved = np.abs(first - second)
    moved[~np.isfinite(moved)] = 0
    return Behaviour(first, moved.max(0), rounding)


def probes(x: Tensor) -> Tensor:
    """(S, C, H, W) float32, the same on every device but for rounding."""
    images = x.detach().cpu().float()
    generator = torch.Generator().manual_seed(SEED)
    low, high = float(images.min()), float(images.max())
    scale = high - low or 1.0
    parts = [images]
    for level in LEVELS:
        noise = torch.randn(images.shape, generator=generator, dtype=torch.float32, device="cpu")
        parts.append(images + level * scale * noise)
    uniform = torch.rand(images.shape, generator=generator, dtype=torch.float32, device="cpu")
    parts.append(low + scale * uniform)
    return torch.cat(parts).to(x.device)


def difference(held: Behaviour, now: Behaviour) -> str | None:
    """Where two models differ by more than rounding and randomness explain, in words."""
    if held.outputs.shape != now.outputs.shape:
        return f"its logits had shape {held.outputs.shape}, have {now.outputs.shape}"
    was, found = held.outputs.astype(np.float64), now.outputs.astype(np.float64)
    known = np.isfinite(was) & np.isfinite(found)
    sizes = _sizes(was, found, known)
    # what all logits have in common, as log-densities have, says nothing of how they differ
    apart = _sizes(_without_median(was, known), _without_median(found, known), known)
    rounding = OPERATIONS * max(held.rounding, now.rounding)
    spread = held.spread.astype(np.float64) + now.spread
    explained = LEAST * np.minimum(sizes, apart) + rounding * sizes + TIMES * spread
    allowed = np.broadcast_to(explained, was.shape)
    with np.errstate(invalid="ignore"):
        apart = np.where(known, np.abs(was - found) - allowed, -np.inf)
        same = known | (was == found) | (np.isnan(was) & np.isnan(found))
    apart = np.where(same, apart, np.inf)
    i, k = np.unravel_index(int(apart.argmax()), apart.shape)
    if apart[i, k] <= 0:
        return None
    return (
        f"logit {k} of input {i} of {len(was)} was {was[i, k]:.6g}, is {found[i, k]:.6g}; rounding "
        f"and randomness explain {allowed[i, k]:.2g}"
    )


def _sizes(was: np.ndarray, found: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(K,): how large each logit becomes, at least the median of all.

    A logit near 0 everywhere is a sum of terms as large as those of the others; the median, as one
    huge logit must not hide the rest.
    """
    sizes = np.where(known, np.maximum(np.abs(was), np.abs(found)), 0).max(0)
    return np.maximum(sizes, np.median(sizes))


def _without_median(outputs: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Each row less the median of its known logits."""
    masked = np.ma.masked_array(outputs, ~known)
    return np.asarray((masked - np.ma.median(masked, axis=1, keepdims=True)).filled(0.0))


def _answers(network: Network, asked: Tensor, size: int) -> np.ndarray:
    device = asked.device
    cuda = device.type == "cuda"
    parts: list[np.ndarray] = []
    with torch.no_grad(), torch.random.fork_rng([device] if cuda else []):
        torch.default_generator.manual_seed(SEED)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(SEED)
        for part in asked.split(size):
            answer = network(part.clone())
            parts.append(answer.float().reshape(len(part), -1).cpu().numpy().copy())
    return np.concatenate(parts)


def _roundoff(x: Tensor) -> float:
    if x.device.type == "cuda" and x.dtype == torch.float32:
        return TF32
    return ROUNDOFF.get(x.dtype, OTHER)
