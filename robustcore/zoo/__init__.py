"""Small trained networks and samples of test images, loaded by name.

Each network is NAME.safetensors beside its card NAME.json: recipe, seed, accuracy, hash.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load
from torch import Tensor, nn

from robustcore import inputs
from robustcore.zoo.mnist import MnistNet
from robustcore.zoo.resnet import ResNet
from robustcore.zoo.wide_resnet import WideResNet
from robustcore.zoo.wrap import wrap

FOLDER = Path(__file__).parent
TILES = 40  # images in a row of a sheet
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mnist-cnn": MnistNet,
    "resnet20": lambda: ResNet(20),
    "wrn-28-10": lambda: WideResNet(28, 10),
}
CLASSES = {  # of each data set, which is the first word of a network's name
    "cifar10": [
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    ],
    "mnist": list("0123456789"),
}

__all__ = ["card", "classes", "load_example", "load_images", "load_model", "names", "wrap"]


def names() -> list[str]:
    """The names that `load_model` knows."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def card(name: str) -> dict[str, Any]:
    """How a network was trained, its accuracy, and the sha256 of its weights."""
    if not isinstance(name, str) or name not in names():
        near = difflib.get_close_matches(str(name), names(), 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(
            f"name of a model must be one of {', '.join(names())}, was {inputs.shown(name)}{hint}"
        )
    text: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return text


def classes(name: str) -> list[str]:
    """The classes of a network of the zoo, or of its data, in the order of its logits."""
    data = name.partition("-")[0] if isinstance(name, str) else None
    if data not in CLASSES:
        raise ValueError(
            f"name must begin with one of {', '.join(CLASSES)}, was {inputs.shown(name)}"
        )
    return CLASSES[data]


def network(name: str) -> nn.Module:
    """One of NETWORKS, in float32 on the CPU whatever torch's defaults."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)  # its first weights are drawn in it
    try:
        with torch.device("cpu"):
            return NETWORKS[name]()
    finally:
        torch.set_default_dtype(default)


def load_model(name: str, device: torch.device | str = "cpu") -> nn.Module:
    """A network of the zoo in evaluation mode: pixels (S, C, H, W) in [0, 1] to logits (S, 10).

    Raises ValueError for an unknown name, with the known ones, and RuntimeError for weights that
    are not those of the card.
    """
    where = inputs.device("device", device)
    about = card(name)
    weights = (FOLDER / f"{name}.safetensors").read_bytes()
    if hashlib.sha256(weights).hexdigest() != about["sha256"]:
        raise RuntimeError(f"the weights of {name} are not those of its card: install again")
    model = network(about["network"])
    model.load_state_dict(load(weights))
    return model.to(where).eval()


def load_images(
    images: int = 1000, device: torch.device | str = "cpu", data: str = "cifar10"
) -> tuple[Tensor, Tensor]:
    """The first `images` (at most 1,000) test images of a data set, in its order.

    data: "cifar10", or the first word of a network's name. Returns float32 (N, C, H, W) in [0, 1]
    and int64 labels (N,). Raises ValueError, with the known ones, for data without a sample here.
    """
    known = sorted(path.name.partition("-")[0] for path in FOLDER.glob("*-test-1000.json"))
    sample = f"{inputs.choice('data', data, known)}-test-1000"
    labels = json.loads((FOLDER / f"{sample}.json").read_text())["labels"]
    n = inputs.integer("images", images, 1, len(labels))
    where = inputs.device("device", device)
    with Image.open(FOLDER / f"{sample}.png") as sheet:
        size = sheet.width // TILES
        tiles = np.asarray(sheet).reshape(-1, size, TILES, size, len(sheet.getbands()))
    pixels = tiles.transpose(0, 2, 4, 1, 3).reshape(-1, tiles.shape[-1], size, size)[:n]
    x = torch.from_numpy(pixels.copy()).to(where).float() / 255
    return x, torch.tensor(labels[:n], device=where)


def load_example(
    name: str, images: int = 64, device: torch.device | str = "cpu"
) -> tuple[nn.Module, Tensor, Tensor]:
    """A network of the zoo with test images and labels: `load_model` and `load_images` in one."""
    model = load_model(name, device)
    return model, *load_images(images, device, name.partition("-")[0])
