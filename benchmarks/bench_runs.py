"""What a run costs: many processes, the store, growth with images, memory of a streamed set.

    python benchmarks/bench_runs.py [ranks] [store] [growth] [memory]    # all by default

Each part writes its numbers into benchmarks/results/runs.json, with the machine. Every measurement
is a process of its own with one thread, cifar10-natural, eager, 1,000 draws an image where not said
otherwise; times are of the work alone, without the start of Python.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from machine import machine

RESULTS = Path(__file__).parent / "results" / "runs.json"
GROWTH = (25, 50, 100, 200, 400)
WORK = """
import json, os, resource, sys, time
import torch
torch.set_num_threads(1)
import robustcore as rc
from robustcore import runs
folder, images, samples, kept = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
with runs.together():
    model, x, y = rc.load_example("cifar10-natural", images=images)
    block, run = 4 if kept == "memory" else None, folder if kept == "blocks" else None
    engine = rc.Engine(model, block=block, compile=False, progress=False)
    torch.randn(8, 3, 32, 32)
    warm = rc.Engine(model, compile=False, progress=False)
    rc.error_rate(warm, x[:8], 0.1, y[:8], samples=64) \\
        if os.environ.get("WORLD_SIZE", "1") == "1" else None
    start = time.perf_counter()
    found = rc.sigma_at_error_rate(
        engine, x, max(0.01, 1 / samples), y, samples=samples, run=run
    )
    seconds = time.perf_counter() - start
    if os.environ.get("RANK", "0") == "0":
        found.save(f"{folder}/found.npz")
        with open(f"{folder}/seconds.json", "w") as file:
            json.dump({"seconds": seconds, "evaluations": int(found.n_forward.sum())}, file)
sys.stdout.flush()
os._exit(0)
"""
STREAM = """
import json, resource, sys, time
import torch
torch.set_num_threads(1)
import robustcore as rc
from torch import nn
from torch.utils.data import Dataset

class Pictures(Dataset):
    def __len__(self):
        return int(sys.argv[2])
    def __getitem__(self, i):
        return torch.full((3, 224, 224), (i % 255) / 255), i % 10

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 10)
    def forward(self, x):
        return self.layer(x[:, :, ::16, ::16].mean((2, 3)))

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

model = Model()
before, start = resident(), time.perf_counter()
engine = rc.Engine(model, batch_size=64, block=64, progress=False)
found = rc.error_rate(engine, Pictures(), 0.1, samples=1, run=sys.argv[1])
print(json.dumps({
    "images": len(found),
    "resident above the model's (MiB)": round(
        (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / 2**20
    ),
    "file (MiB)": round(__import__("os").path.getsize(sys.argv[1] + "/run.sqlite") / 2**20, 1),
    "seconds": round(time.perf_counter() - start, 1),
}))
"""
QUIET = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}


def measure(images: int, samples: int = 1000, kept: str = "blocks", ranks: int = 1):
    """(seconds, evaluations, record) of sigma on so many images."""
    import robustcore as rc

    with tempfile.TemporaryDirectory() as name:
        script = Path(name) / "work.py"
        script.write_text(WORK)
        command = [sys.executable]
        if ranks > 1:
            command += ["-m", "torch.distributed.run", "--standalone"]
            command += ["--nproc-per-node", str(ranks)]
        command += [str(script), name, str(images), str(samples), kept]
        subprocess.run(command, check=True, env=QUIET, stderr=subprocess.DEVNULL)
        found = json.loads((Path(name) / "seconds.json").read_text())
        return found["seconds"], found["evaluations"], rc.Record.load(Path(name) / "found.npz")


def ranks() -> dict:
    """2 processes of one thread against one, 200 images, and that both records are the same."""
    samples = int(os.environ.get("SAMPLES", "1000"))
    one, evaluations, first = measure(200, samples)
    two, _, second = measure(200, samples, ranks=2)
    same = all(np.array_equal(getattr(first, k), getattr(second, k)) for k in first._arrays())
    return {
        "images": 200, "samples": samples, "evaluations": evaluations,
        "1 process (s)": one, "2 processes (s)": two, "times the images a second": one / two,
        "same record": same,
    }  # fmt: skip


def store() -> dict:
    """Time in the store of a run of 200 images: every commit, and reading it all at the end."""
    import robustcore as rc
    from robustcore.runs import Store, rows, whole

    spent = {"commit": 0.0, "begin": 0.0, "rows": 0.0, "rows_of": 0.0}

    def timed(owner, name):
        inner = getattr(owner, name)

        def call(*args, **more):
            start = time.perf_counter()
            try:
                return inner(*args, **more)
            finally:
                spent[name] += time.perf_counter() - start

        setattr(owner, name, call)

    for name in ("commit", "begin", "rows"):
        timed(Store, name)
    timed(whole, "rows_of")
    del rows
    torch.set_num_threads(1)
    samples = int(os.environ.get("SAMPLES", "200"))
    model, x, y = rc.load_example("cifar10-natural", images=200)
    with tempfile.TemporaryDirectory() as name:
        start = time.perf_counter()
        rc.sigma_at_error_rate(
            rc.Engine(model, compile=False, progress=False), x, 0.01, y, samples=samples, run=name
        )
        seconds = time.perf_counter() - start
    total = sum(spent.values())
    return {
        "images": 200, "samples": samples, "run (s)": seconds, "in the store (s)": total,
        "share": total / seconds, **{f"{k} (s)": v for k, v in spent.items()},
    }  # fmt: skip


def growth() -> dict:
    """Time against images, as a power of their number; and that of the first and last blocks."""
    samples = 50
    times = [measure(n, samples)[0] for n in GROWTH]
    exponent = float(np.polyfit(np.log(GROWTH), np.log(times), 1)[0])
    return {"samples": samples, "images": GROWTH, "seconds": times, "exponent": exponent}


def blocks() -> dict:
    """The cost of blocks: 64 images in blocks against one call on them all."""
    whole, evaluations, _ = measure(64, 300, kept="whole")
    cut, more, _ = measure(64, 300)
    return {
        "images": 64, "samples": 300, "one call (s)": whole, "blocks (s)": cut,
        "ratio": cut / whole, "evaluations": [evaluations, more],
    }  # fmt: skip


def memory() -> dict:
    """Resident memory of a run on 50,000 images of 3 x 224 x 224 that come one by one."""
    with tempfile.TemporaryDirectory() as name:
        script = Path(name) / "stream.py"
        script.write_text(STREAM)
        images = os.environ.get("IMAGES", "50000")
        command = [sys.executable, str(script), f"{name}/run", images]
        done = subprocess.run(command, check=True, env=QUIET, capture_output=True, text=True)
        return json.loads(done.stdout)


PARTS = {"ranks": ranks, "store": store, "blocks": blocks, "growth": growth, "memory": memory}


def main(wanted: list[str]) -> int:
    for name in wanted or PARTS:
        found = PARTS[name]()
        held = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        held["machine"] = machine()
        held[name] = found
        RESULTS.write_text(json.dumps(held, indent=1) + "\n")
        print(name, json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
