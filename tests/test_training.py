"""Training: a plain loop's weights to the bit, exact resume, the card, refusals."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from training_data import Narrow, Plain, toy

from robustcore import training, zoo
from robustcore.training import files
from robustcore.training.trainer import broke_down

SMALL = {"epochs": (2, 1), "lr": (0.1, 0.05), "batch_size": 32, "device": "cpu", "progress": False}


@pytest.fixture(autouse=True)
def _networks(monkeypatch):
    monkeypatch.setitem(zoo.NETWORKS, "narrow", Narrow)
    monkeypatch.setitem(zoo.NETWORKS, "plain", Plain)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


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


class Interrupted(Exception):
    pass


@pytest.mark.parametrize(
    "recipe",
    [training.Natural(), training.Gaussian(0.2, half=True), training.Adversarial(steps=1)],
    ids=["natural", "gaussian", "adversarial"],
)
def test_an_interrupted_run_ends_in_the_same_weights(tmp_path, monkeypatch, recipe):
    data, network = toy(), nn.Sequential(Narrow(), nn.Dropout(0.2))
    state = {k: v.clone() for k, v in network.state_dict().items()}
    whole = training.train(network, data, recipe, out=tmp_path / "whole", **SMALL)

    network.load_state_dict(state)
    calls, step = [0], type(recipe).__call__

    def interrupt(self, batch, tools):
        calls[0] += 1
        if calls[0] == 15:  # the second epoch
            raise Interrupted
        return step(self, batch, tools)

    with monkeypatch.context() as patch:
        patch.setattr(type(recipe), "__call__", interrupt)
        with pytest.raises(Interrupted):
            training.train(network, data, recipe, out=tmp_path / "cut", **SMALL)
    assert not (tmp_path / "cut" / files.WEIGHTS).exists()
    network = nn.Sequential(Narrow(), nn.Dropout(0.2))
    again = training.train(network, data, recipe, out=tmp_path / "cut", **SMALL)
    assert same(
        load_file(tmp_path / "cut" / files.WEIGHTS), load_file(tmp_path / "whole" / files.WEIGHTS)
    )
    assert [line["loss"] for line in again.history] == [line["loss"] for line in whole.history]


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from training_data import Narrow, toy
from robustcore import training, zoo
zoo.NETWORKS["narrow"] = Narrow
step, calls = training.Natural.__call__, [0]
def kill(self, batch, tools):
    calls[0] += 1
    if calls[0] == 15:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batch, tools)
training.Natural.__call__ = kill
training.train("narrow", toy(), out={out!r}, epochs=(2, 1), lr=(0.1, 0.05), batch_size=32,
               device="cpu", progress=False)
"""


def test_a_killed_run_ends_in_the_same_weights(tmp_path):
    code = KILLED.format(tests=str(Path(__file__).parent), out=str(tmp_path / "killed"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == -9, done.stderr
    state = torch.load(tmp_path / "killed" / files.CHECKPOINT, weights_only=True)
    assert state["epoch"] == 1
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        again = training.train("narrow", toy(), out=tmp_path / "killed", **SMALL)
        whole = training.train("narrow", toy(), out=tmp_path / "whole", **SMALL)
    finally:
        torch.set_num_threads(threads)
    assert same(again.model.state_dict(), whole.model.state_dict())


def test_a_finished_run_is_not_trained_again_and_cycles_can_be_added(tmp_path):
    data = toy()
    first = training.train("narrow", data, out=tmp_path, **(SMALL | {"epochs": 2, "lr": 0.1}))
    again = training.train("narrow", data, out=tmp_path, **(SMALL | {"epochs": 2, "lr": 0.1}))
    assert same(first.model.state_dict(), again.model.state_dict())
    longer = training.train("narrow", data, out=tmp_path, **SMALL)
    whole = training.train("narrow", data, out=tmp_path / "whole", **SMALL)
    assert same(longer.model.state_dict(), whole.model.state_dict())
    assert len(longer.history) == 3


def test_torchs_generator_is_left_alone(tmp_path):
    before = torch.get_rng_state()
    training.train("narrow", toy(), out=tmp_path, **SMALL)
    assert torch.equal(before, torch.get_rng_state())


def test_two_processes_share_every_batch(tmp_path):
    """Without batch norm, the weights of one process, but for the order of sums."""
    script = tmp_path / "two.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from training_data import Plain, toy\nfrom robustcore import training, zoo\n"
        "zoo.NETWORKS['plain'] = Plain\n"
        "training.train('plain', toy(), training.Gaussian(0.2, half=True), epochs=2, lr=0.05, "
        f"batch_size=32, device='cpu', progress=False, out={str(tmp_path / 'two')!r})\n"
        # gloo's threads may outlive the interpreter and abort it, with all results on disk
        "import os\nos._exit(0)\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*command, "--nproc-per-node", "2", str(script)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    recipe = training.Gaussian(0.2, half=True)
    one = training.train(
        "plain", toy(), recipe, out=tmp_path / "one", **(SMALL | {"epochs": 2, "lr": 0.05})
    )
    two = load_file(tmp_path / "two" / files.WEIGHTS)
    for name, weights in one.model.state_dict().items():
        # 20 steps of float32 sums in another order; a lost half of a batch moves them by 1e-2
        torch.testing.assert_close(two[name], weights, rtol=0, atol=2e-5)
    assert json.loads((tmp_path / "two" / files.CARD).read_text())["processes"] == 2


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
        training.train("narrow", toy(), out=tmp_path, **(SMALL | {"lr": (1e30, 1e30)}))
    assert not (tmp_path / files.WEIGHTS).exists()


def test_broke_down_needs_half_of_the_best_lost_and_more_than_chance():
    assert broke_down(0.05, 0.4, 256)
    assert not broke_down(0.25, 0.4, 256)
    assert not broke_down(0.05, 0.12, 256)  # within 4 standard errors of 0.02
    assert not broke_down(0.0, 0.0, 256)


@pytest.mark.parametrize("reaction", ["fall back", "stop", "ignore"])
def test_one_step_training_that_breaks_down(tmp_path, monkeypatch, reaction):
    """The watch is told 0.6 after the first epoch, 0 after the second."""
    answers = iter([0.6, 0.0, 0.0, 0.0])
    monkeypatch.setattr(
        "robustcore.training.judge.Judge.robust_accuracy", lambda *arguments: next(answers)
    )
    steps = []
    attack = training.Adversarial.__call__

    def watched(self, batch, tools):
        steps.append((batch.epoch, self.steps))
        return attack(self, batch, tools)

    monkeypatch.setattr(training.Adversarial, "__call__", watched)
    recipe = training.Adversarial(0.05, steps=1, on_overfitting=reaction)
    found = training.train("narrow", toy(), recipe, out=tmp_path, average=False, **SMALL)
    epochs = [line["epoch"] for line in found.history]
    ran = sorted(set(steps))
    if reaction == "ignore":
        assert (epochs, ran, found.card["notes"]) == ([1, 2, 3], [(0, 1), (1, 1), (2, 1)], [])
        return
    assert "one-step training broke down in epoch 2" in found.card["notes"][0]
    state = torch.load(tmp_path / files.CHECKPOINT, weights_only=True)
    if reaction == "stop":
        assert (epochs, ran) == ([1], [(0, 1), (1, 1)])
        assert same(state["model"], found.model.state_dict())
    else:
        assert (epochs, ran) == ([1, 2, 3], [(0, 1), (1, 1), (1, 3), (2, 3)])
        assert "done again with 3 steps" in found.card["notes"][0]


def test_an_interrupted_run_that_fell_back_ends_in_the_same_weights(tmp_path, monkeypatch):
    recipe = training.Adversarial(0.05, steps=1)
    results = []
    for name, cut in (("whole", None), ("cut", 25)):
        answers, calls = iter([0.6, 0.0, 0.5]), []
        attack = training.Adversarial.__call__

        def counted(self, batch, tools, cut=cut, calls=calls, attack=attack):
            calls.append(self.steps)
            if len(calls) == cut:
                raise Interrupted
            return attack(self, batch, tools)

        with monkeypatch.context() as patch:
            patch.setattr(
                "robustcore.training.judge.Judge.robust_accuracy",
                lambda *arguments, answers=answers: next(answers),
            )
            patch.setattr(training.Adversarial, "__call__", counted)
            if cut is not None:
                with pytest.raises(Interrupted):
                    training.train("narrow", toy(), recipe, out=tmp_path / name, **SMALL)
                assert calls[-1] == 3
            results.append(training.train("narrow", toy(), recipe, out=tmp_path / name, **SMALL))
    assert same(results[0].model.state_dict(), results[1].model.state_dict())
    assert results[0].card["notes"] == results[1].card["notes"] != []


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


def test_the_folder_of_another_run_is_refused(tmp_path):
    training.train("narrow", toy(), out=tmp_path, **SMALL)
    with pytest.raises(ValueError, match=r"seed must be that of the run in out, 0, was 1"):
        training.train("narrow", toy(), out=tmp_path, seed=1, **SMALL)
    with pytest.raises(ValueError, match=r"recipe must be that of the run in out"):
        training.train("narrow", toy(), training.Gaussian(0.1), out=tmp_path, **SMALL)
    (tmp_path / files.CHECKPOINT).write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="cannot be read"):
        training.train("narrow", toy(), out=tmp_path, **SMALL)
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OSError, match="out must be a folder that can be written"):
        training.train("narrow", toy(), out=blocked, **SMALL)
