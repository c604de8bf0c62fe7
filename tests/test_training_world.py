"""Training by several processes: the network of one, and a group that is left in good order."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from training_data import SMALL, Plain, toy

from robustcore import training, zoo

SCRIPT = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import torch
torch.set_num_threads(1)
import torch.distributed as dist
from training_data import SMALL, Plain, toy
from robustcore import training, zoo
zoo.NETWORKS["plain"] = Plain
out = sys.argv[1]
for _ in range(3):  # those after the first find a finished run, and join anew
    card = training.train("plain", toy(), out=out, **SMALL).card
    assert not dist.is_initialized()
print(f"rank {{os.environ['RANK']}}: {{card['processes']}} processes, {{card['test_accuracy']}}")
sys.stdout.flush()
os._exit(0)  # gloo's threads may outlive the interpreter and abort it
"""


def test_two_processes_train_the_network_of_one(tmp_path, monkeypatch):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", str(tmp_path / "script.py"), str(tmp_path / "two")]
    quiet = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | quiet
    )
    assert done.returncode == 0, done.stderr
    monkeypatch.setitem(zoo.NETWORKS, "plain", Plain)
    card = training.train("plain", toy(), out=tmp_path / "one", **SMALL).card
    for rank in (0, 1):
        assert f"rank {rank}: 2 processes, {card['test_accuracy']}" in done.stdout
    one, two = (load_file(tmp_path / each / "weights.safetensors") for each in ("one", "two"))
    for name, weight in one.items():  # sums in another order
        torch.testing.assert_close(two[name], weight, rtol=1e-3, atol=1e-4)
