"""The shipped network and images: loaded by name, checked by hash, as good as their card says."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

import robustcore as rc
from robustcore import zoo

SHARED = Path(__file__).parents[1] / "../shared/data"
DATA, MNIST = SHARED / "cifar10/test.npz", SHARED / "mnist/test.npz"


@pytest.mark.parametrize("name", zoo.names())
def test_weights_are_those_of_the_card(name):
    weights = (zoo.FOLDER / f"{name}.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == zoo.card(name)["sha256"]
    assert len(weights) <= 1_300_000


@pytest.mark.parametrize("name", zoo.names())
def test_accuracy_on_the_shipped_images_agrees_with_the_card(name):
    model, x, y = rc.load_example(name, images=1000)
    with torch.no_grad():
        right = int(
            sum(
                (model(a).argmax(1) == b).sum()
                for a, b in zip(x.split(250), y.split(250), strict=True)
            )
        )
    claimed = zoo.card(name)["test_accuracy"]
    # false-alarm rate 1e-4; an accuracy 5 points off would be seen
    assert binomtest(right, 1000, claimed).pvalue > 1e-4
    assert binomtest(right, 1000, claimed - 0.05).pvalue < 1e-4


ROBUST = [name for name in zoo.names() if "robust_accuracy" in zoo.card(name)]


def robust(name, images, eps, steps):
    """Images that PGD leaves right, as the card's attack: of 2.5 eps / steps, one random start."""
    model, x, y = rc.load_example(name, images)
    found = rc.pgd(model, x, y, eps=eps, steps=steps, step_size=2.5 * eps / steps)
    return int((~found.fooled).sum())


@pytest.mark.parametrize("name", ROBUST)
def test_robust_accuracy_on_the_shipped_images_agrees_with_the_card(name):
    claimed = zoo.card(name)["robust_accuracy"]
    right = robust(name, 400, claimed["eps"], claimed["steps"])
    # false-alarm rate 1e-4; the card counts errors at the last step alone, which is 1 point at most
    assert binomtest(right, 400, claimed["accuracy"]).pvalue > 1e-4
    assert binomtest(right, 400, max(claimed["accuracy"] - 0.15, 0)).pvalue < 1e-4
    natural = name.partition("-")[0] + "-natural"
    assert binomtest(robust(natural, 40, claimed["eps"], 20), 40, claimed["accuracy"]).pvalue < 1e-4


@pytest.mark.parametrize(("name", "clean", "under_attack"), [("cifar10-adv", 0.65, 0.33)])
def test_the_adversarial_network_meets_its_bars(name, clean, under_attack):
    if name not in zoo.names():
        pytest.skip(f"{name} is not in the zoo")
    card = zoo.card(name)
    assert card["test_accuracy"] >= clean
    assert card["robust_accuracy"]["accuracy"] >= under_attack
    assert card["robust_accuracy"]["eps"] == pytest.approx(8 / 255)


def test_the_natural_network_meets_its_bar():
    card = zoo.card("cifar10-natural")
    assert card["test_accuracy"] >= 0.915
    assert card["test_images"] == 10_000
    assert sum(p.numel() for p in rc.load_model("cifar10-natural").parameters()) < 300_000


def test_images_are_the_first_of_the_test_set():
    x, y = rc.load_images(1000)
    assert x.shape == (1000, 3, 32, 32)
    assert x.dtype == torch.float32
    if not DATA.is_file():
        pytest.skip("the whole CIFAR-10 test set is not at ../shared/data")
    whole = np.load(DATA)
    assert torch.equal(
        (x * 255).round().byte(), torch.from_numpy(whole["images"][:1000]).permute(0, 3, 1, 2)
    )
    np.testing.assert_array_equal(y.numpy(), whole["labels"][:1000])


def test_a_sample_of_mnist_lies_beside():
    x, y = rc.load_images(1000, data="mnist")
    assert x.shape == (1000, 1, 28, 28)
    assert zoo.classes("cifar10-natural")[int(rc.load_images(1)[1])] == "cat"
    if not MNIST.is_file():
        pytest.skip("the whole MNIST test set is not at ../shared/data")
    whole = np.load(MNIST)
    np.testing.assert_array_equal((x[:, 0] * 255).round().byte(), whole["images"][:1000])
    np.testing.assert_array_equal(y, whole["labels"][:1000])


def test_unknown_names_list_the_known():
    with pytest.raises(ValueError, match=r"model must be one of .*did you mean cifar10-natural"):
        rc.load_model("cifar10-natral")
    with pytest.raises(ValueError, match=r"images must be in \[1, 1000\], was 1001"):
        rc.load_images(1001)


def test_weights_that_were_changed_are_refused(monkeypatch, tmp_path):
    about = json.loads((zoo.FOLDER / "cifar10-natural.json").read_text())
    (tmp_path / "cifar10-natural.json").write_text(json.dumps(about))
    weights = bytearray((zoo.FOLDER / "cifar10-natural.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "cifar10-natural.safetensors").write_bytes(weights)
    monkeypatch.setattr(zoo, "FOLDER", tmp_path)
    with pytest.raises(RuntimeError, match="not those of its card"):
        rc.load_model("cifar10-natural")
