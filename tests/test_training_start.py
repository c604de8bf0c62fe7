"""Training that begins from given weights."""

import hashlib

import pytest
import torch
from safetensors.torch import load_file, save_file
from training_data import Narrow, toy

from robustcore import training

SMALL = {"epochs": 1, "lr": 1e-12, "batch_size": 32, "device": "cpu", "progress": False}
pytestmark = pytest.mark.usefixtures("toy_networks")


def test_training_goes_on_from_the_weights_of_a_file(tmp_path):
    begun = Narrow.seeded().state_dict()
    save_file(begun, tmp_path / "begun.safetensors")
    start = tmp_path / "begun.safetensors"
    card = training.train("narrow", toy(), out=tmp_path / "run", start=start, **SMALL).card
    ended = load_file(tmp_path / "run" / "weights.safetensors")
    torch.testing.assert_close(ended["0.weight"], begun["0.weight"])
    digest = hashlib.sha256(start.read_bytes()).hexdigest()
    assert card["start"] == {"name": "begun", "sha256": digest}
    assert training.train("narrow", toy(), out=tmp_path / "x", **SMALL).card["start"] == "random"
    with pytest.raises(ValueError, match="start must be that of the run in out"):
        training.train("narrow", toy(), out=tmp_path / "run", **SMALL)


@pytest.mark.parametrize("start", ["no-such", "cifar10-natural"])
def test_weights_that_do_not_fit_are_refused(tmp_path, start):
    message = "start must be one of .*cifar10-natural.* or a .safetensors file"
    with pytest.raises(ValueError, match=message):
        training.train("narrow", toy(), out=tmp_path / "run", start=start, **SMALL)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "network",
    [
        torch.nn.Linear(5, 3),
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(7, 3)),
        torch.nn.Conv2d(4, 3, 3),
        torch.nn.Embedding(4, 3),
    ],
)
def test_a_network_for_other_images_is_named(tmp_path, network):
    with pytest.raises(ValueError, match=r"network must take images \(2, 3, 8, 8\) of data"):
        training.train(network, toy(), out=tmp_path, progress=False)
    assert not list(tmp_path.iterdir())
