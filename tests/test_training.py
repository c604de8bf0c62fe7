"""Training: a plain loop's weights to the bit, the card, progress, refusals."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from training_data import SMALL, Narrow, same, toy

from robustcore import training, zoo
from robustcore.training import files

pytestmark = pytest.mark.usefixtures("toy_networks")


def plain_loop(model, data, epochs, lr, batch_size, weight_decay, seed):
    """Natural training as one writes it by hand, with torch's own schedule."""
    padded, x, y = F.pad(data.x, (data.pad,) * 4), data.x, data.y
    size = x.shape[-1]
    model = model.to(memory_format=torch.channels_last).train()
    decay = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": weight_decay}, {"params": plain}]
    optimizer = torch.optim.SGD(groups, lr=lr[0], momentum=0.9, nesterov=True)
    steps, last = len(x) // batch_size, 0
    for length, peak in zip(epochs, lr, strict=True):
        begin, last = last, last + length
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            peak,
            total_steps=length * steps,
            pct_start=0.15,
            cycle_momentum=False,
            div_factor=10,
            final_div_factor=1e4,
        )
        for epoch in range(begin, last):
            generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
            order = torch.randperm(len(x), generator=generator)
            for i in range(steps):
                index = order[i * batch_size : (i + 1) * batch_size]
                n = len(index)
                top, left = torch.randint(0, 2 * data.pad + 1, (2, n, 1), generator=generator)
                cols = left + torch.arange(size)
                mirrored = torch.rand(n, generator=generator) < 0.5
                cols[mirrored] = cols[mirrored].flip(1)
                rows = top + torch.arange(size)
                images = padded[
                    index[:, None, None, None],
                    torch.arange(3)[None, :, None, None],
                    rows[:, None, :, None],
                    cols[:, None, None, :],
                ]
                images = images.float().div_(255).to(memory_format=torch.channels_last)
                loss = F.cross_entropy(model(images), y[index])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
    return model.state_dict()


def test_natural_training_is_the_plain_loop_to_the_bit(tmp_path):
    data = toy()
    torch.manual_seed(3)
    expected = plain_loop(Narrow(), data, (2, 1), (0.1, 0.05), 32, 5e-4, seed=3)
    found = training.train("narrow", data, out=tmp_path, seed=3, average=False, **SMALL)
    assert same(found.model.state_dict(), expected)
    assert same(load_file(tmp_path / files.WEIGHTS), expected)
    assert not same(expected, Narrow().state_dict())
    assert found.history[-1]["loss"] < found.history[0]["loss"]


def test_weights_are_averaged_over_cycles_and_batch_norms_made_to_fit(tmp_path):
    data = toy()
    data = training.Data("plain", data.x, data.y, data.x_test, data.y_test)
    one = SMALL | {"epochs": 2, "lr": 0.1}
    first = training.train("narrow", data, out=tmp_path / "a", **one).model
    last = training.train("narrow", data, out=tmp_path / "b", average=False, **SMALL).model
    found = training.train("narrow", data, out=tmp_path / "c", **SMALL)
    mean = found.model
    for a, b, m in zip(*(net.parameters() for net in (first, last, mean)), strict=True):
        torch.testing.assert_close(m, (a + b) / 2, rtol=0, atol=1e-6)
    with torch.no_grad():
        seen = mean[0](data.x.float() / 255)
    torch.testing.assert_close(mean[1].running_mean, seen.mean((0, 2, 3)), rtol=0, atol=1e-5)
    torch.testing.assert_close(mean[1].running_var, seen.var((0, 2, 3)), rtol=1e-4, atol=0)
    assert found.card["recipe"].endswith(
        "schedules of the learning rate, mean of the weights at their ends"
    )
    assert same(mean.state_dict(), load_file(tmp_path / "c" / files.WEIGHTS))


def test_card_tells_how_and_how_well(tmp_path):
    data = toy()
    found = training.train("narrow", data, training.Gaussian(0.1), out=tmp_path, **SMALL)
    card = json.loads((tmp_path / files.CARD).read_text())
    assert card == found.card
    weights = (tmp_path / files.WEIGHTS).read_bytes()
    assert card["sha256"] == hashlib.sha256(weights).hexdigest()
    with torch.no_grad():
        right = (found.model(data.x_test.float() / 255).argmax(1) == data.y_test).float().mean()
    assert card["test_accuracy"] == pytest.approx(float(right), abs=1e-6)
    assert card["test_images"] == len(data.x_test)
    assert card["training"] == {"kind": "gaussian", "sigma_max": 0.1, "half": False}
    shipped = zoo.card("cifar10-natural")
    assert set(shipped) <= set(card)
    natural = training.train("narrow", data, out=tmp_path / "n", **SMALL).card
    assert natural["recipe"].startswith("natural: cross-entropy, random crop (pad 2) and mirror, ")
    assert natural["epochs"] == [2, 1]


def test_torchs_generator_is_left_alone(tmp_path):
    before = torch.get_rng_state()
    training.train("narrow", toy(), out=tmp_path, **SMALL)
    assert torch.equal(before, torch.get_rng_state())


def test_progress_tells_loss_accuracy_and_time_left(tmp_path, capsys):
    training.train("narrow", toy(), out=tmp_path / "a", **(SMALL | {"progress": None}))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all(word in lines[0] for word in ("epoch   1/3", "loss", "test accuracy", "s left"))
    training.train("narrow", toy(), out=tmp_path / "b", **SMALL)
    assert capsys.readouterr() == ("", "")


def test_a_compiled_run_goes_on_uncompiled_when_that_fails(tmp_path, monkeypatch):
    def broken(function):
        def fails(*_):
            raise RuntimeError("no compiler")

        return fails

    monkeypatch.setattr(torch, "compile", broken)
    monkeypatch.setattr("robustcore.training.trainer.COMPILE_FLOPS", 0)
    found = training.train("narrow", toy(), out=tmp_path / "a", **SMALL)
    assert found.card["notes"] == ["not compiled, as that failed: RuntimeError"]
    assert found.card["compiled"] is False
    with pytest.raises(RuntimeError, match="no compiler"):
        training.train("narrow", toy(), out=tmp_path / "b", compile=True, **SMALL)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_epoch_before(tmp_path):
    with pytest.raises(RuntimeError, match=r"the loss became (nan|inf) .*a smaller lr"):
        training.train("narrow", toy(), out=tmp_path, **(SMALL | {"lr": (1e14, 1e14)}))
    assert not (tmp_path / files.WEIGHTS).exists()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"network": "narow"}, ValueError, "network must be one of"),
        ({"data": 3}, TypeError, "data must be a training.Data, was int"),
        ({"recipe": training.Natural}, TypeError, "recipe must be Natural"),
        ({"epochs": (2,)}, ValueError, "epochs and lr must have one number for each cycle"),
        ({"epochs": (2, 0)}, ValueError, "epochs must be at least 1, was 0"),
        ({"lr": (0.1, -1)}, ValueError, "lr must be positive"),
        ({"schedule": "step"}, ValueError, "schedule must be one of one-cycle, cosine"),
        ({"batch_size": 1000}, ValueError, r"batch_size must be in \[1, 320\], was 1000"),
        ({"weight_decay": -1}, ValueError, r"weight_decay must be in \[0, 1\)"),
        ({"seed": -1}, ValueError, "seed must be in"),
        ({"device": "gpu"}, ValueError, "device must name a torch device, was 'gpu'"),
        ({"precision": "half"}, ValueError, "precision must be one of"),
        ({"precision": "float16"}, ValueError, "precision must be float32 or bfloat16 on cpu"),
        ({"network": nn.Identity()}, ValueError, "network must have parameters that learn"),
        ({"network": nn.Conv2d(3, 8, 3)}, ValueError, "network must return logits"),
    ],
)
def test_bad_arguments_are_named(tmp_path, change, error, message):
    with pytest.raises(error, match=message):
        training.train(**({"network": "narrow", "data": toy(), "out": tmp_path} | SMALL | change))
