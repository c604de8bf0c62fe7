"""Runs that are interrupted, killed, finished, another's, or shared by processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from training_data import SMALL, Interrupted, Narrow, same, toy

from robustcore import training
from robustcore.training import files

pytestmark = pytest.mark.usefixtures("toy_networks")


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


def test_two_processes_share_every_batch(tmp_path):
    """Without batch norm, the weights of one process, but for the order of sums."""
    script = tmp_path / "two.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from training_data import Plain, toy\nfrom robustcore import training, zoo\n"
        "zoo.NETWORKS['plain'] = Plain\n"
        "training.train('plain', toy(), training.Gaussian(0.2, half=True), epochs=2, lr=0.05, "
        f"batch_size=32, device='cpu', progress=False, out={str(tmp_path / 'two')!r})\n"
        # DistributedDataParallel keeps gloo's threads alive past destroy_process_group, and what
        # they hold may abort the interpreter as it ends (pytorch/pytorch pull request 179291)
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
