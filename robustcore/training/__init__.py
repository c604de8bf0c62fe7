"""Training networks to measure: natural, with Gaussian augmentation, adversarial.

    from robustcore import training
    data = training.load_cifar10("data/cifar10")
    training.train("resnet20", data, training.Gaussian(0.1), out="runs/cifar10-gauss0.1")

Under torchrun the processes share each batch: `torchrun --standalone --nproc-per-node 2 script.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robustcore import inputs, zoo
from robustcore.training import files
from robustcore.training.data import Data, load_cifar10, load_mnist
from robustcore.training.recipes import Adversarial, CrossEntropy, Gaussian, Natural, Recipe
from robustcore.training.settings import MAX_SEED, Settings, identity, settings
from robustcore.training.trainer import Trainer
from robustcore.training.world import world

__all__ = [
    "Adversarial",
    "CrossEntropy",
    "Data",
    "Gaussian",
    "Natural",
    "Recipe",
    "Trained",
    "load_cifar10",
    "load_mnist",
    "train",
]

ATTACKED, ATTACK_STEPS = 1000, 20  # first test images and PGD steps of the card's robust accuracy


@dataclass(frozen=True)
class Trained:
    """The network in evaluation mode, its card, and loss and accuracy after each epoch."""

    model: nn.Module = field(repr=False)
    card: dict[str, Any]
    history: list[dict[str, Any]] = field(repr=False)


def train(
    network: str | nn.Module,
    data: Data,
    recipe: Recipe | None = None,
    *,
    out: str | Path,
    start: str | Path | None = None,
    epochs: int | Sequence[int] = (45, 12),
    lr: float | Sequence[float] = (0.3, 0.1),
    schedule: str = "one-cycle",
    batch_size: int = 256,
    weight_decay: float = 5e-4,
    seed: int = 0,
    device: torch.device | str | None = None,
    compile: bool | None = None,
    precision: str | None = None,
    average: bool = True,
    progress: bool | None = None,
) -> Trained:
    """Train a network and write weights.safetensors, card.json and checkpoint.pt to `out`.

    network: a name of `zoo.NETWORKS`, its weights drawn from the seed, or a module, trained on from
    its weights in place: pixels (S, C, H, W) in [0, 1] to logits (S, K). Of a module with a part
    `learnt`, that part alone is written.
    recipe: Natural() (the default), Gaussian(sigma_max) or Adversarial(...).
    start: weights to begin from: a name of the zoo, or a .safetensors file of the same network.
    epochs, lr: length and peak learning rate of each cycle. schedule: "one-cycle" or "cosine".
    batch_size: over all processes; what is left of an epoch after full batches is not seen.
    average: where there are several cycles, take the mean of the weights at their ends.
    weight_decay: on weights with two or more dimensions alone. SGD, Nesterov momentum 0.9.
    device: None is a GPU where there is one. compile: None compiles on a CPU where the run is long
    enough to gain by it. precision: "float32", "bfloat16" or "float16"; None is bfloat16 on a GPU
    that has it. progress: a bar on a terminal (None), always or never; False prints nothing.

    The checkpoint is written after each epoch. The same call goes on from it and, on the CPU of one
    machine with as many threads, ends in the weights of a run that was not interrupted. Cycles may
    be added. torch's own generator is left as it was.
    Under torchrun, `out` must be one folder for all processes, batch norms see their own process's
    part of a batch, and weights differ from those of one process by rounding and by that.

    Raises TypeError or ValueError that names the argument at fault, ValueError where `out` holds
    another run, OSError where it cannot be written, RuntimeError when the loss is not finite.
    """
    recipe = Natural() if recipe is None else recipe
    if not isinstance(data, Data):
        raise TypeError(f"data must be a training.Data, was {type(data).__name__}")
    if not callable(recipe) or isinstance(recipe, type) or not hasattr(recipe, "settings"):
        raise TypeError(
            "recipe must be Natural(), Gaussian(...) or Adversarial(...), was "
            f"{inputs.shown(recipe)}"
        )
    progress = inputs.optional_flag("progress", progress)
    compile = inputs.optional_flag("compile", compile)
    with world(device) as here:
        chosen = settings(
            data,
            epochs,
            lr,
            schedule,
            batch_size,
            weight_decay,
            seed,
            precision,
            average,
            here.device,
            here.size,
        )
        name, model = _network(network, chosen.seed)
        _takes(model, data)
        begun = None if start is None else files.begin(model, start)
        folder = inputs.folder("out", out)
        about = identity(chosen, name, data, recipe) | {"start": begun}
        state = files.load_checkpoint(folder, about)
        trainer = Trainer(model, data, recipe, chosen, here, compile)
        if state is not None:
            trainer.load(state)

        def save() -> None:
            if here.leads:
                files.save_checkpoint(folder, trainer.state() | {"identity": about})

        trainer.run(save, progress)
        if trainer.averages:
            trainer.average()
        card = _card(trainer, about)
        if here.leads:
            card = files.save_result(folder, model, card)
        here.wait()
    return Trained(model.eval(), card, trainer.history)


def _network(network: str | nn.Module, seed: int) -> tuple[str, nn.Module]:
    if isinstance(network, nn.Module):
        if not any(p.requires_grad for p in network.parameters()):
            raise ValueError("network must have parameters that learn, had none")
        return type(network).__name__, network
    inputs.choice("network", network, sorted(zoo.NETWORKS))
    inputs.integer("seed", seed, 0, MAX_SEED)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return network, zoo.network(network)


def _takes(model: nn.Module, data: Data) -> None:
    """ValueError where the network cannot evaluate these images."""
    parameter = next(model.parameters())
    images = data.x[:2].to(parameter.device, parameter.dtype) / 255
    own = copy.deepcopy(model).eval()
    try:
        with torch.no_grad():
            own(images)
    except (RuntimeError, TypeError, IndexError) as error:
        raise ValueError(
            f"network must take images {tuple(images.shape)} of data, failed with {error}"
        ) from error


def _card(trainer: Trainer, about: dict[str, Any]) -> dict[str, Any]:
    data, recipe, chosen = trainer.data, trainer.recipe, trainer.settings
    accuracy = trainer.judge.accuracy(data.x_test, data.y_test)
    card = {
        "network": about["network"],
        "data": f"{data.name} train, {len(data.x):,} images",
        "recipe": f"{recipe.text()}, {_augmentation(data)}SGD with Nesterov momentum 0.9, "
        + _schedule(chosen, trainer.averages),
        "epochs": list(chosen.epochs),
        "batch_size": chosen.batch_size,
        "lr": list(chosen.lr),
        "start": about["start"] or "random",
        "weight_decay": chosen.weight_decay,
        "seed": chosen.seed,
        **files.versions(),
        "training": about["recipe"],
        "schedule": chosen.schedule,
        "precision": chosen.precision,
        "device": trainer.device.type,
        "processes": trainer.world.size,
        "compiled": trainer.compiled,
        "notes": trainer.notes,
        "test_accuracy": accuracy,
        "test_images": len(data.x_test),
    }
    if isinstance(recipe, Adversarial):
        x, y = data.x_test[:ATTACKED], data.y_test[:ATTACKED]
        card["robust_accuracy"] = {
            "attack": "linf PGD, 2.5 eps / steps, one random start",
            "eps": recipe.eps,
            "steps": ATTACK_STEPS,
            "test_images": len(x),
            "accuracy": trainer.judge.robust_accuracy(x, y, recipe.eps, ATTACK_STEPS),
        }
    return card


def _augmentation(data: Data) -> str:
    crop = f"random crop (pad {data.pad})" if data.pad else ""
    parts = " and ".join(part for part in (crop, "mirror" if data.mirror else "") if part)
    return parts + ", " if parts else ""


def _schedule(chosen: Settings, averages: bool) -> str:
    if len(chosen.epochs) == 1:
        return f"a {chosen.schedule} schedule of the learning rate"
    mean = ", mean of the weights at their ends" if averages else ""
    return f"{chosen.schedule} schedules of the learning rate{mean}"
