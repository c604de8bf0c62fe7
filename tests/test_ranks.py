"""Many processes on one set: under torchrun with gloo, the record of one process, bit for bit."""

import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_runs import rate, same

import robustcore as rc
from robustcore import runs
from robustcore.runs.errors import FILE

HERE = str(Path(__file__).parent)
BEGIN = f"""
import os, signal, sys, time
sys.path.insert(0, {HERE!r})
import torch
torch.set_num_threads(1)
import torch.distributed as dist
from robustcore import runs
from test_runs import Counted, Small, rate, X
group = runs.together()
group.__enter__()
rank, attempt = dist.get_rank(), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
folder = sys.argv[1]
"""
# gloo's threads may outlive the interpreter and abort it
END = "\ngroup.__exit__(None, None, None)\nsys.stdout.flush()\nos._exit(0)\n"


def torchrun(tmp_path, body, processes=2, restarts=0):
    """Run a script on so many ranks; returns the finished process."""
    script = tmp_path / "script.py"
    script.write_text(BEGIN + body + END)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes), "--max-restarts", str(restarts)]
    quiet = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    return subprocess.run(
        [*command, str(script), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | quiet,
        timeout=300,
    )


def test_every_rank_gets_the_record_of_one_process(tmp_path):
    body = """
found = rate()
found.save(f"{folder}/{rank}.npz")
kept = rate(f"{folder}/run")
assert kept.rate.tolist() == found.rate.tolist()
with runs.alone():
    if rank == 1:
        rate(x=X[:3], block=None)  # a call of one rank, which the other need not join
import robustcore as rc
near = rc.distance_to_error(Small(), X, effort=5)
near.save(f"{folder}/near{rank}.npz")
try:
    rate(samples=60 + rank)
except Exception as error:
    print(f"rank {rank}: {type(error).__name__}: {error}")
"""
    done = torchrun(tmp_path, body)
    assert done.returncode == 0, done.stderr
    want = rate()
    for rank in (0, 1):
        assert same(rc.Record.load(tmp_path / f"{rank}.npz"), want)
        near = rc.Record.load(tmp_path / f"near{rank}.npz")
        assert near.x_adv.shape == (20, 3, 8, 8)
    (progress,) = runs.progress(tmp_path / "run")
    assert (progress.images, progress.ranks) == (20, 2)
    assert "rank 1: ValueError: samples must be the same on every rank, was 60 on" in done.stdout
    assert "rank 0: RuntimeError: rank 1 failed: samples must be" in done.stdout


def test_a_killed_rank_is_restarted_and_goes_on(tmp_path):
    """SIGKILL of rank 1, then of rank 0, each in its second block; there the other waits for it,
    so that neither is done with all blocks before."""
    body = """
def die():
    os.kill(os.getpid(), signal.SIGKILL)

def wait():
    time.sleep(300)  # torchrun ends it when the other is dead

victim = rank == 1 - attempt  # of the first two attempts
model = Counted(350 if attempt < 2 else None, die if victim else wait)
found = rate(f"{folder}/run", model, block=2)
found.save(f"{folder}/{rank}.npz")
"""
    done = torchrun(tmp_path, body, restarts=3)
    assert done.returncode == 0, done.stderr
    from test_runs import Counted

    want = rate(model=Counted(), block=2)
    for rank in (0, 1):
        assert same(rc.Record.load(tmp_path / f"{rank}.npz"), want)
    with sqlite3.connect(tmp_path / "run" / FILE) as db:
        sessions = db.execute("SELECT images FROM sessions ORDER BY session").fetchall()
        taken = {row[0] for row in db.execute("SELECT rank FROM blocks")}
    assert len(sessions) == 3
    assert sum(images for (images,) in sessions) == 20  # no image twice
    assert taken == {0, 1}


def test_a_rank_that_fails_says_so_to_the_others(tmp_path):
    body = """
def fail():
    raise RuntimeError("a broken disk")

try:
    rate(f"{folder}/run", Counted(300 if rank == 1 else None, fail, pause=0.03))
except RuntimeError as error:
    print(f"rank {rank}: {error}", flush=True)
if rank == 0:
    open(f"{folder}/full", "w").close()
try:
    rate(f"{folder}/full/run")
except OSError as error:
    print(f"rank {rank}: {error}", flush=True)
"""
    done = torchrun(tmp_path, body)
    assert done.returncode == 0, done.stderr
    assert re.search("rank 0: rank 1 failed: model .*a broken disk", done.stdout)
    assert re.search("rank 1: model .*a broken disk", done.stdout)
    assert "rank 0: [Errno 20] run must be a folder that can be written" in done.stdout
    assert "rank 1: rank 0: [Errno 20] run must be" in done.stdout


def test_an_interrupt_of_one_rank_stops_all_and_loses_nothing(tmp_path):
    body = """
def interrupt():
    signal.raise_signal(signal.SIGINT)

try:
    model = Counted(100 if rank == 1 else None, interrupt, pause=0.3)  # in its first block
    rate(f"{folder}/run", model, block=2)
    print("whole", flush=True)
except KeyboardInterrupt as error:
    print(f"rank {rank}: {error}", flush=True)
"""
    done = torchrun(tmp_path, body)
    assert done.returncode == 0, done.stderr
    assert "whole" not in done.stdout
    assert done.stdout.count("go on with `robustcore resume") == 2
    (progress,) = runs.progress(tmp_path / "run")
    assert 4 <= progress.images < 20  # the blocks in flight on both are there
    from test_runs import Counted

    assert same(rate(tmp_path / "run", Counted(), block=2), rate(model=Counted(), block=2))


@pytest.mark.parametrize("processes", [1, 3])
def test_the_command_line_under_torchrun(tmp_path, processes):
    """sigma of a model on a folder of images, by one command."""
    from PIL import Image

    from robustcore.cli import main

    (tmp_path / "model.py").write_text(
        f"import sys\nsys.path.insert(0, {HERE!r})\nfrom models import Small as make\n"
    )
    rng = np.random.default_rng(1)
    rows = ["file,label"]
    for i in range(9):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,{i % 5}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    asked = f"distance --model {tmp_path / 'model.py'}:make --data {tmp_path} --effort 5 --run-dir"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes), "-m", "robustcore", *asked.split()]
    done = subprocess.run(
        [*command, str(tmp_path / "many")],
        capture_output=True,
        text=True,
        check=False,
        cwd=HERE,  # not the root, whose sources would hide the package that was built
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("wrote") == 1
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert main([*asked.split(), str(tmp_path / "one")]) == 0
    finally:
        torch.set_num_threads(threads)
    found = [rc.Record.load(tmp_path / each / "distance.npz") for each in ("many", "one")]
    assert same(*found)
    assert len(found[0]) == 9
