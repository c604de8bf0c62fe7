"""Networks by name, and users' own models as models of pixels."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from robustcore import zoo
from robustcore.zoo.wide_resnet import WideResNet

SHAPES = {"mnist-cnn": (1, 28, 28), "resnet20": (3, 32, 32), "wrn-28-10": (3, 32, 32)}
PARAMETERS = {"mnist-cnn": 215_370, "resnet20": 269_700, "wrn-28-10": 36_480_000}


@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_networks_have_the_published_sizes(name):
    with torch.device("meta"):  # neither memory nor time for 36 million weights
        network = zoo.NETWORKS[name]()
        assert network(torch.empty(2, *SHAPES[name])).shape == (2, 10)
    count = sum(p.numel() for p in network.parameters())
    assert count == pytest.approx(PARAMETERS[name], rel=2e-3)


def test_wide_resnet_runs_and_names_a_bad_depth():
    model = WideResNet(10, 1).eval()
    assert torch.isfinite(model(torch.rand(2, 3, 32, 32))).all()
    with pytest.raises(ValueError, match=r"depth must be 6n \+ 4 with n >= 1, was 20"):
        WideResNet(20, 1)


def test_wrapped_models_normalise_pixels_and_keep_weights_and_mode():
    inner = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).eval()
    model = zoo.wrap(inner, (0.1, 0.2, 0.3), (0.5, 0.25, 2.0))
    x = torch.rand(4, 3, 2, 2)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.1, 0.2, 0.3), (0.5, 0.25, 2.0)))
    assert torch.equal(model(x), inner((x - mean) / std))
    assert model.model is inner
    assert not model.training
    assert not inner.training
    grey = zoo.wrap(nn.Flatten(), 0.5, 0.5)
    assert torch.equal(grey(x[:, :1]), (2 * x[:, :1] - 1).flatten(1))


def test_wrapped_models_may_be_any_callable_and_answer_with_logits():
    model = zoo.wrap(lambda x: SimpleNamespace(logits=x.flatten(1)), [0.0], [1.0])
    x = torch.rand(2, 1, 2, 2)
    assert torch.equal(model(x), x.flatten(1))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((3, 0.5, 0.5), TypeError, "model must be callable, was int"),
        ((abs, (0.1, 0.2), (1.0,)), ValueError, "mean and std must have one number for each"),
        ((abs, 0.5, 0.0), ValueError, "std must be positive"),
        ((abs, "a", 1.0), TypeError, "mean must be a number for each channel, was 'a'"),
        ((abs, float("nan"), 1.0), ValueError, "mean must be finite numbers"),
    ],
)
def test_bad_arguments_of_wrap_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        zoo.wrap(*arguments)


def test_images_of_other_data_lie_beside_those_of_cifar10(tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (80, 28, 28), dtype=np.uint8)
    sheet = pixels.reshape(2, 40, 28, 28).transpose(0, 2, 1, 3).reshape(56, 1120)
    Image.fromarray(sheet).save(tmp_path / "mnist-test-1000.png")
    labels = json.dumps({"labels": [k % 10 for k in range(80)]})
    (tmp_path / "mnist-test-1000.json").write_text(labels)
    monkeypatch.setattr(zoo, "FOLDER", tmp_path)
    x, y = zoo.load_images(50, data="mnist")
    assert torch.equal((x[:, 0] * 255).round().byte(), torch.from_numpy(pixels[:50]))
    assert y[:12].tolist() == [*range(10), 0, 1]
    with pytest.raises(ValueError, match="data must be one of mnist, was 'cifar10'"):
        zoo.load_images(1)
