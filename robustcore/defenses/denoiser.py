"""A denoiser guided by what a classifier sees (Liao et al., 2018, arXiv:1712.02976), small."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn import functional as F

from robustcore import inputs, training
from robustcore.defenses.base import MAX_SEED, Defense
from robustcore.training.batches import Batch
from robustcore.training.judge import logits_of
from robustcore.training.recipes import Tools, attacked

WIDEST = 2**14  # channels
FOLDER = Path(__file__).parent  # of NAME-denoiser.safetensors and its card


def _convolutions(c_in: int, c_out: int, count: int, stride: int = 1) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i in range(count):
        conv = nn.Conv2d(c_in if i == 0 else c_out, c_out, 3, stride if i == 0 else 1, 1)
        layers += [conv, nn.BatchNorm2d(c_out), nn.ReLU()]
    return nn.Sequential(*layers)


class Denoiser(nn.Module):
    """Images (S, C, H, W) less the noise that a U-net finds in them.

    The authors' DUNET with fewer and narrower stages: widths holds the channels of each, the first
    at full resolution, each next one at half of the one before. Joined across by concatenation,
    upwards by bilinear resizing. 72,675 parameters by default. Untrained, it changes nothing.
    """

    def __init__(self, channels: int = 3, widths: Sequence[int] = (16, 32, 32)) -> None:
        super().__init__()
        inputs.integer("channels", channels, 1, WIDEST)
        if not isinstance(widths, Sequence) or len(widths) < 2:
            raise ValueError(f"widths must hold at least 2 stages, was {inputs.shown(widths)}")
        first, *rest = (inputs.integer("widths", width, 1, WIDEST) for width in widths)
        down, up, c = [_convolutions(channels, first, 2)], [], first
        for width in rest:
            down.append(_convolutions(c, width, 2, stride=2))
            c = width
        for width in reversed([first, *rest[:-1]]):
            up.append(_convolutions(c + width, width, 2))
            c = width
        self.down, self.up = nn.ModuleList(down), nn.ModuleList(up)
        self.noise = nn.Conv2d(c, channels, 1)
        nn.init.zeros_(self.noise.weight)
        nn.init.zeros_(self.noise.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        stages, out = [], x
        for stage in self.down:
            out = stage(out)
            stages.append(out)
        for stage, across in zip(self.up, reversed(stages[:-1]), strict=True):
            wide = F.interpolate(out, across.shape[2:], mode="bilinear", align_corners=False)
            out = stage(torch.cat([wide, across], 1))
        return x - self.noise(out)


class Denoised(Defense):
    """A model behind a denoiser; gradients are exact, through both.

    The model stays in evaluation mode and learns nothing; the denoiser follows train() and eval().
    """

    def __init__(self, model: Callable[[Tensor], Any], denoiser: nn.Module) -> None:
        super().__init__(model)
        if not isinstance(denoiser, nn.Module):
            raise TypeError(f"denoiser must be a torch.nn.Module, was {type(denoiser).__name__}")
        self.denoiser = denoiser
        self.training = denoiser.training

    @property
    def learnt(self) -> nn.Module:
        return self.denoiser

    def train(self, mode: bool = True) -> Denoised:
        self.training = mode
        self.denoiser.train(mode)
        if isinstance(self.model, nn.Module):
            self.model.eval()
        return self

    def change(self, x: Tensor) -> Tensor:
        return self.denoiser(x)


@dataclass(frozen=True)
class Guided:
    """Recipe for a `Denoised` network: its logits of attacked images are to be those that the
    classifier gives the clean ones (mean absolute difference, the authors' LGD).

    Every other example is attacked, by one or more linf steps from a random start against the
    classifier alone; its radius is uniform in [0, eps). The others stay clean.
    """

    classifier: nn.Module
    eps: float = 16 / 255
    steps: int = 1

    def __call__(self, batch: Batch, tools: Tools) -> Tensor:
        def losses(images: Tensor, labels: Tensor) -> Tensor:
            logits = logits_of(self.classifier(images.permute(0, 3, 1, 2)))
            return F.cross_entropy(logits.float(), labels, reduction="none")

        eps = batch.level * self.eps * (batch.place % 2 == 0)
        return attacked(
            replace(tools, losses=losses),
            batch.images,
            batch.labels,
            batch.ids,
            eps=eps,
            step=eps * (1.25 if self.steps == 1 else 2.5 / self.steps),
            steps=self.steps,
            first=batch.epoch,
        )

    @torch.no_grad()
    def targets(self, batch: Batch) -> Tensor:
        return logits_of(self.classifier(batch.images.permute(0, 3, 1, 2))).float()

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return (logits - targets).abs().mean()

    def settings(self) -> dict[str, Any]:
        return {"kind": "guided denoiser", "norm": "inf", "eps": self.eps, "steps": self.steps}

    def text(self) -> str:
        return (
            f"denoiser guided by a classifier: mean absolute difference of logits, every other "
            f"example attacked by linf PGD of radius up to {self.eps:.4g} ({self.steps} steps)"
        )


def train_denoiser(
    model: nn.Module,
    data: training.Data,
    denoiser: nn.Module | None = None,
    *,
    out: str | Path,
    eps: float = 16 / 255,
    steps: int = 1,
    epochs: int | Sequence[int] = 10,
    lr: float | Sequence[float] = 0.01,
    seed: int = 0,
    **more: Any,
) -> training.Trained:
    """Train a denoiser for a classifier, which is left as it is. Returns the two as `Denoised`.

    model: pixels (S, C, H, W) in [0, 1] to logits. denoiser: a module of images to images, trained
    in place; None is Denoiser() of the data's channels, drawn from the seed. eps: the largest
    radius of the attacks, 16/255 as published for ImageNet. Files, resuming, other arguments and
    errors are those of `robustcore.training.train`; weights.safetensors holds the denoiser alone.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, was {type(model).__name__}")
    if not isinstance(data, training.Data):
        raise TypeError(f"data must be a training.Data, was {type(data).__name__}")
    eps = inputs.positive("eps", eps)
    steps = inputs.integer("steps", steps, 1)
    if denoiser is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(inputs.integer("seed", seed, 0, MAX_SEED))
            denoiser = Denoiser(data.x.shape[1])
    learnt = denoiser.parameters() if isinstance(denoiser, nn.Module) else ()
    if not any(p.requires_grad for p in learnt):
        raise ValueError("denoiser must be a module with parameters that learn, had none")
    learns = [p.requires_grad for p in model.parameters()]
    model.requires_grad_(False)
    try:
        return training.train(
            Denoised(model, denoiser),
            data,
            Guided(model, eps, steps),
            out=out,
            epochs=epochs,
            lr=lr,
            seed=seed,
            **more,
        )
    finally:
        for parameter, before in zip(model.parameters(), learns, strict=True):
            parameter.requires_grad_(before)


def denoisers() -> list[str]:
    """Networks of the zoo that `load_denoiser` has a denoiser for."""
    ending = "-denoiser.safetensors"
    return sorted(path.name.removesuffix(ending) for path in FOLDER.glob(f"*{ending}"))


def load_denoiser(name: str, device: torch.device | str = "cpu") -> Denoiser:
    """The denoiser that was trained for a network of the zoo, in evaluation mode.

    Raises ValueError for a network without one, with those that have, and RuntimeError for weights
    that are not those of the card.
    """
    where = inputs.device("device", device)
    stem = f"{inputs.choice('name', name, denoisers())}-denoiser"
    weights = (FOLDER / f"{stem}.safetensors").read_bytes()
    card = json.loads((FOLDER / f"{stem}.json").read_text())
    if hashlib.sha256(weights).hexdigest() != card["sha256"]:
        raise RuntimeError(f"the weights of {stem} are not those of its card: install again")
    with torch.device("cpu"):
        denoiser = Denoiser().float()
    denoiser.load_state_dict(load(weights))
    return denoiser.to(where).eval()
