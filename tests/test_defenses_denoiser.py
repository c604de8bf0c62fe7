"""The guided denoiser: exact gradients, learns, leaves its classifier alone."""

import hashlib

import pytest
import torch
from safetensors.torch import load_file, save
from torch import nn
from training_data import Narrow, toy

import robustcore as rc
from robustcore import defenses, training
from robustcore.defenses import denoiser as denoisers
from robustcore.training import files

RUN = {"batch_size": 32, "device": "cpu", "progress": False}


def test_an_untrained_denoiser_changes_nothing_and_is_small():
    denoiser = defenses.Denoiser().eval()
    x = torch.rand(2, 3, 21, 18, generator=torch.Generator().manual_seed(0))
    assert torch.equal(denoiser(x), x)
    assert sum(p.numel() for p in denoiser.parameters()) < 80_000
    assert defenses.Denoiser(1, (4, 8)).eval()(x[:, :1]).shape == (2, 1, 21, 18)
    with pytest.raises(ValueError, match="widths must hold at least 2 stages"):
        defenses.Denoiser(widths=(4,))


def test_the_gradient_of_a_denoised_model_is_exact():
    torch.manual_seed(0)
    denoiser = defenses.Denoiser(1, (2, 3)).double().eval()
    nn.init.normal_(denoiser.noise.weight)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)).double()
    defended = defenses.Denoised(model, denoiser)
    assert not defended.training
    # smooth at this point: no ReLU input is within the step of gradcheck from 0
    x = torch.rand(1, 1, 6, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(defended, (x,))
    assert not torch.equal(defended(x), model(x))


def attacked_images(model, x, y, eps):
    """One step of the gradient's sign."""
    x = x.clone().requires_grad_(True)
    nn.functional.cross_entropy(model(x), y, reduction="sum").backward()
    return (x.detach() + eps * x.grad.sign()).clamp(0, 1)


def test_training_brings_the_logits_closer_and_leaves_the_classifier(tmp_path):
    data = toy()
    classifier = training.train(
        Narrow.seeded(), data, out=tmp_path / "c", epochs=4, lr=0.1, **RUN
    ).model
    before = {k: v.clone() for k, v in classifier.state_dict().items()}
    guided = {"eps": 0.2, "epochs": 30, "lr": 0.01} | RUN

    def denoiser():
        torch.manual_seed(0)
        return defenses.Denoiser(3, (16, 16))

    found = defenses.train_denoiser(classifier, data, denoiser(), out=tmp_path / "d", **guided)
    assert all(torch.equal(v, before[k]) for k, v in classifier.state_dict().items())
    assert all(p.requires_grad for p in classifier.parameters())
    x, y = data.x_test.float() / 255, data.y_test
    x_adv = attacked_images(classifier, x, y, 0.1)
    with torch.no_grad():
        goal, bare, denoised = classifier(x), classifier(x_adv), found.model(x_adv)
    assert float((denoised - goal).abs().mean()) < 0.8 * float((bare - goal).abs().mean())
    held = load_file(tmp_path / "d" / files.WEIGHTS)
    assert held.keys() == found.model.denoiser.state_dict().keys()
    assert found.card["training"] == {
        "kind": "guided denoiser", "norm": "inf", "eps": 0.2, "steps": 1,
    }  # fmt: skip
    again = defenses.train_denoiser(classifier, data, denoiser(), out=tmp_path / "d", **guided)
    assert all(torch.equal(v, held[k]) for k, v in again.model.denoiser.state_dict().items())


def test_the_classifier_stays_in_evaluation_mode():
    model = Narrow().train()
    defended = defenses.Denoised(model, defenses.Denoiser()).train()
    assert defended.denoiser.training
    assert not model.training
    assert not defended.eval().denoiser.training


def test_bad_arguments_are_named(tmp_path):
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, was int"):
        defenses.train_denoiser(3, toy(), out=tmp_path)
    with pytest.raises(ValueError, match="eps must be positive"):
        defenses.train_denoiser(Narrow(), toy(), out=tmp_path, eps=0)


@pytest.mark.parametrize("name", defenses.denoisers())
def test_shipped_denoisers_bring_the_logits_closer(name):
    model, x, y = rc.load_example(name, images=100)
    denoiser = defenses.load_denoiser(name)
    assert (denoisers.FOLDER / f"{name}-denoiser.safetensors").stat().st_size <= 1_300_000
    x_adv = attacked_images(model, x, y, 4 / 255)
    defended = defenses.Denoised(model, denoiser)
    with torch.no_grad():
        goal, bare, denoised = model(x), model(x_adv), defended(x_adv)
        clean = (defended(x).argmax(1) == y).float().mean()
    assert float((denoised - goal).abs().mean()) < 0.7 * float((bare - goal).abs().mean())
    assert float(clean) > 0.8


def test_networks_without_a_denoiser_are_named(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="name must be one of"):
        defenses.load_denoiser("cifar10-none")
    weights = save(defenses.Denoiser().state_dict())
    (tmp_path / "a-denoiser.safetensors").write_bytes(weights)
    (tmp_path / "a-denoiser.json").write_text('{"sha256": "0"}')
    monkeypatch.setattr(denoisers, "FOLDER", tmp_path)
    assert defenses.denoisers() == ["a"]
    with pytest.raises(RuntimeError, match="not those of its card"):
        defenses.load_denoiser("a")
    about = f'{{"sha256": "{hashlib.sha256(weights).hexdigest()}"}}'
    (tmp_path / "a-denoiser.json").write_text(about)
    assert not defenses.load_denoiser("a").training
