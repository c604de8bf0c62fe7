"""CIFAR-10 networks of a data folder beside the checkout: natural and adversarially trained ones.

The architectures are those that the folder's README describes; only weights are read.
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from robustcore.zoo.resnet import Normalize, ResNet

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR10 = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)


class Block(nn.Module):
    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1)
        straight = stride == 1 and c_in == c_out
        self.shortcut = nn.Sequential(*([] if straight else [nn.Conv2d(c_in, c_out, 1, stride)]))

    def forward(self, x):
        return F.relu(self.shortcut(x) + self.conv2(F.relu(self.conv1(x))))


class Residual(nn.Module):
    """Blocks without batch norm: stages is a list of lists of (c_in, c_out, stride)."""

    def __init__(self, width, stages, features):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 2, 1)
        for number, stage in enumerate(stages, 1):
            setattr(self, f"layer{number}", nn.Sequential(*(Block(*each) for each in stage)))
        self.stages = len(stages)
        self.linear1, self.linear2 = nn.Linear(features, 100), nn.Linear(100, 10)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        for number in range(1, self.stages + 1):
            x = getattr(self, f"layer{number}")(x)
        return self.linear2(F.relu(self.linear1(x.flatten(1))))


def _weights(path):
    stored = torch.load(path, map_location="cpu", weights_only=True)
    while isinstance(stored, list) or "state_dict" in stored:
        stored = stored[0] if isinstance(stored, list) else stored["state_dict"]
    return stored


def _resnet20(folder):
    """akamaster's names to ours."""
    model, found = ResNet(20), {}
    for name, value in _weights(folder / "akamaster_resnet20-12fca82f.th").items():
        parts = name.removeprefix("module.").split(".")
        if parts[0].startswith("layer"):
            block = 3 * (int(parts[0][5:]) - 1) + int(parts[1])
            parts = ["blocks", str(block), *parts[2:]]
        parts[0] = {"conv1": "conv", "bn1": "bn"}.get(parts[0], parts[0])
        found[".".join(parts)] = value
    for name, value in zip(("mean", "std"), IMAGENET, strict=True):
        found[f"normalize.{name}"] = torch.tensor(value).view(-1, 1, 1)
    model.load_state_dict(found)
    return model


def _residual(file, *shape):
    def load(folder):
        body = Residual(*shape)
        body.load_state_dict(_weights(folder / file))
        return nn.Sequential(Normalize(*CIFAR10), body)

    return load


def _plain(file, channels=3, features=2048):
    def load(folder):
        body = nn.Sequential(
            *(nn.Conv2d(channels, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(features, 100), nn.ReLU(), nn.Linear(100, 10)),
        )
        body.load_state_dict(_weights(folder / file))
        return body if channels == 1 else nn.Sequential(Normalize(*CIFAR10), body)

    return load


LOADERS = {
    "resnet20": _resnet20,
    "resnet2b": _residual("abcrown_resnet2b.pth", 8, [[(8, 16, 2), (16, 16, 1)]], 1024),
    "resnet4b": _residual(
        "abcrown_resnet4b.pth", 16, [[(16, 32, 2), (32, 32, 1)], [(32, 32, 2), (32, 32, 1)]], 512
    ),
    "cnn_a_mix": _plain("abcrown_cifar_cnn_a_mix.model"),
    "cnn_a_adv4": _plain("abcrown_cifar_cnn_a_adv4.model"),
    "mnist_cnn_a_adv": _plain("../mnist/abcrown_mnist_cnn_a_adv.model", 1, 1568),
}


def load(name, data):
    """A network in evaluation mode; data: the folder that holds models/cifar10."""
    return LOADERS[name](Path(data) / "models/cifar10").eval()


def images(data, count, name=""):
    """The first test images of the network's data set, (x, y): CIFAR-10, or MNIST by name."""
    test = np.load(Path(data) / ("mnist" if name.startswith("mnist") else "cifar10") / "test.npz")
    x = test["images"][:count]
    x = x.reshape(*x.shape[:3], -1).transpose(0, 3, 1, 2).astype(np.float32) / 255
    y = test["labels"][:count].astype(np.int64)
    return torch.from_numpy(x).contiguous(), torch.from_numpy(y)
