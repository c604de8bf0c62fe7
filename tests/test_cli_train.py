"""robustcore train: what the library does, bad input in one line, an interrupted run goes on."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file
from training_data import toy

from robustcore import training
from robustcore.cli import main
from robustcore.cli import train as command

SMALL = ["--epochs", "2", "--lr", "0.1", "--batch-size", "32", "--device", "cpu", "--seed", "3"]


@pytest.fixture(autouse=True)
def _small(monkeypatch, toy_networks):
    def load(folder=None):
        if folder is not None and not folder.is_dir():
            raise ValueError(f"folder must be a folder that exists, was {folder}")
        return toy()

    monkeypatch.setitem(command.DATA, "cifar10", (load, command.DATA["cifar10"][1]))


def run(out, *more):
    return main(["train", "--network", "narrow", "--out", str(out), *SMALL, *more])


def test_it_is_one_call_of_the_library(tmp_path, capsys):
    assert run(tmp_path / "a", "--recipe", "gaussian", "--sigma-max", "0.2", "--half") == 0
    printed = capsys.readouterr().out
    card = json.loads((tmp_path / "a" / "card.json").read_text())
    assert f"test accuracy {card['test_accuracy']:.4f} on 200 images" in printed
    training.train(
        "narrow", toy(), training.Gaussian(0.2, half=True), out=tmp_path / "b", epochs=2, lr=0.1,
        batch_size=32, device="cpu", seed=3, progress=False,
    )  # fmt: skip
    assert card == json.loads((tmp_path / "b" / "card.json").read_text())


def test_radii_may_be_fractions_and_robust_accuracy_is_told(tmp_path, capsys):
    options = ("--recipe", "adversarial", "--eps", "8/255", "--steps", "2", "--ramp", "1")
    assert run(tmp_path, *options) == 0
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["training"]["eps"] == pytest.approx(8 / 255)
    robust = card["robust_accuracy"]["accuracy"]
    assert f"20 steps of radius 0.03137: {robust:.4f}" in capsys.readouterr().out


def test_the_same_command_goes_on_after_an_interrupt(tmp_path, capsys, monkeypatch):
    assert run(tmp_path / "whole") == 0
    calls, step = [0], training.Natural.__call__

    def interrupt(self, batch, tools):
        calls[0] += 1
        if calls[0] == 15:  # of 10 steps an epoch
            raise KeyboardInterrupt
        return step(self, batch, tools)

    with monkeypatch.context() as patch:
        patch.setattr(training.Natural, "__call__", interrupt)
        assert run(tmp_path / "cut") == 130
    assert "goes on from the last finished epoch" in capsys.readouterr().err
    assert run(tmp_path / "cut") == 0
    whole, cut = (load_file(tmp_path / n / "weights.safetensors") for n in ("whole", "cut"))
    assert all(torch.equal(whole[k], cut[k]) for k in whole)


def test_peaks_follow_the_number_of_cycles(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(training, "train", lambda **given: seen.append(given) or 1 / 0)
    for epochs, peaks in ((["3"], (0.3,)), (["3", "2", "2"], (0.3, 0.1, 0.1))):
        assert main(["train", "--out", str(tmp_path), "--epochs", *epochs]) == 2
        assert seen[-1]["lr"] == peaks
        assert seen[-1]["network"] == "resnet20"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--network", "resnet18"], "network must be one of mnist-cnn, narrow, plain"),
        (["--folder", "no/such"], "folder must be a folder that exists"),
        (["--sigma-max", "0.1"], "--sigma-max must be given with --recipe gaussian alone"),
        (["--recipe", "gaussian"], "--sigma-max must be given with --recipe gaussian"),
        (["--recipe", "gaussian", "--sigma-max", "-1"], "sigma_max must be positive"),
        (["--recipe", "gaussian", "--eps", "1"], "--eps must be given with --recipe adversarial"),
        (["--recipe", "adversarial", "--steps", "0"], "steps must be at least 1, was 0"),
        (["--epochs", "2", "2", "--lr", "0.1"], "epochs and lr must have one number for each"),
        (["--lr", "nan"], "lr must be"),
        (["--start", "natural"], "start must be one of .*cifar10-natural"),
        (["--device", "quantum"], "device must name a torch device"),
        (["--seed", "-1"], "seed must be"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, capsys, more, message):
    assert run(tmp_path / "out", *more) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("robustcore: ")
    assert re.search(message, error)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--eps=1/0", "--recipe=noise", "--schedule=step"])
def test_options_that_cannot_be_read_end_with_2(tmp_path, option):
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path / "out", option)
    assert stopped.value.code == 2


def test_the_folder_of_another_run_is_refused(tmp_path, capsys):
    assert run(tmp_path) == 0
    assert run(tmp_path, "--recipe", "gaussian", "--sigma-max", "0.1") == 2
    assert "recipe must be that of the run in out" in capsys.readouterr().err
