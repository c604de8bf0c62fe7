"""A run is killed again and again: SIGKILL at 30 random moments, a rank at 10. Nothing is lost.

    OMP_NUM_THREADS=1 python benchmarks/fault.py [processes] [ranks] ['full disk']

After every kill the file is opened, and every image that was there before must be there as it was.
At the end the record must be that of a run which nobody killed, bit for bit. The rest: a disk that
fills up (a file system of 1 MiB, where it may be mounted). Writes benchmarks/results/fault.json.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import robustcore as rc

RESULTS = Path(__file__).parent / "results" / "fault.json"
KILLS, RANK_KILLS, IMAGES = 30, 10, 64
WORK = f"""
import os, sys, time
import torch
torch.set_num_threads(1)
import robustcore as rc
from robustcore import runs
folder = sys.argv[1]
with runs.together():
    with open(f"{{folder}}/pids", "a") as file:
        file.write(f"{{os.environ.get('RANK', 0)}} {{os.getpid()}}\\n")
    model, x, y = rc.load_example("cifar10-natural", images={IMAGES})
    engine = rc.Engine(model, compile=False, progress=False)
    found = rc.sigma_at_error_rate(engine, x, 0.05, y, samples=100, run=f"{{folder}}/run")
    if os.environ.get("RANK", "0") == "0":
        found.save(f"{{folder}}/found.npz")
sys.stdout.flush()
os._exit(0)
"""


def main(wanted: list[str]) -> int:
    parts = {"processes": killed, "ranks": ranks_killed, "full disk": full_disk}
    rng = np.random.default_rng(8)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        script = root / "work.py"
        script.write_text(WORK)
        (root / "whole").mkdir()
        subprocess.run([sys.executable, str(script), str(root / "whole")], check=True)
        seconds = rc.runs.progress(root / "whole" / "run")[0].seconds
        want = rc.Record.load(root / "whole" / "found.npz")
        for part in wanted or parts:
            (root / part).mkdir()
            found = parts[part](root / part, script, want, rng, seconds)
            held = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
            held |= {"images": IMAGES, part: found}
            held["machine"] = (
                f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}"
            )
            RESULTS.write_text(json.dumps(held, indent=1) + "\n")
            print(part, json.dumps(found, indent=1), flush=True)
    return 0


def killed(folder: Path, script: Path, want: rc.Record, rng: np.random.Generator, seconds: float):
    """SIGKILL at moments spread over the run, each counted from when the process begins to work."""
    watch, moments = Watch(folder / "run"), []
    while len(moments) < KILLS:
        (folder / "pids").unlink(missing_ok=True)
        process = subprocess.Popen([sys.executable, str(script), str(folder)])
        while not (folder / "pids").exists():
            time.sleep(0.01)
        # few blocks are finished between two kills, so that the run lasts for all of them
        moment = rng.uniform(0, 2.5 * seconds / KILLS)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            moments.append(round(moment, 3))
        watch.look()
        if watch.images == IMAGES:
            break
    subprocess.run([sys.executable, str(script), str(folder)], check=True)
    watch.look()
    return {
        "kills": len(moments),
        "after seconds": moments,
        **watch.summary(),
        **equal(folder, want),
    }


def ranks_killed(
    folder: Path, script: Path, want: rc.Record, rng: np.random.Generator, seconds: float
):
    """SIGKILL of one of two ranks under torchrun, which begins both again."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "--max-restarts", str(RANK_KILLS + 2)]
    watch, victims, known = Watch(folder / "run"), [], 0
    process = subprocess.Popen(
        [*command, str(script), str(folder)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    pids = folder / "pids"
    while process.poll() is None and len(victims) < RANK_KILLS:
        lines = pids.read_text().split("\n")[:-1] if pids.exists() else []
        if len(lines) < known + 2:
            time.sleep(0.02)
            continue
        known = len(lines)
        time.sleep(rng.uniform(0, 1.5 * seconds / RANK_KILLS))
        rank, pid = rng.choice(lines[-2:]).split()
        if process.poll() is None and watch.images < IMAGES:
            with contextlib.suppress(ProcessLookupError):  # torchrun was faster
                os.kill(int(pid), signal.SIGKILL)
                victims.append(int(rank))
        watch.look()
    status = process.wait()
    watch.look()
    return {
        "kills": len(victims), "ranks": victims, "status": status, **watch.summary(),
        **equal(folder, want),
    }  # fmt: skip


def full_disk(
    folder: Path, script: Path, want: rc.Record, rng: np.random.Generator, seconds: float
):
    """A run on a file system with no room: a clear error, and it goes on elsewhere."""
    size = "168k"
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        return "not tried: no file system could be mounted"
    try:
        done = subprocess.run(
            [sys.executable, str(script), str(folder)], capture_output=True, text=True, check=False
        )
        watch = Watch(folder / "run")
        watch.look()
        kept = watch.images
        subprocess.run(["mount", "-o", "remount,size=8m", str(folder)], check=True)
        subprocess.run([sys.executable, str(script), str(folder)], check=True)
        watch.look()
        said = done.stderr.strip().splitlines()[-1].replace(str(folder), "DIR")
        return {"size": size, "images kept": kept, "said": said, **equal(folder, want)}
    finally:
        subprocess.run(["umount", str(folder)], check=False)


class Watch:
    """Every image that was ever seen in the file must stay there as it was."""

    def __init__(self, run: Path) -> None:
        self.path, self.seen, self.opened = run / "run.sqlite", {}, 0
        self.lost = self.changed = 0

    @property
    def images(self) -> int:
        return len(self.seen)

    def look(self) -> None:
        if not self.path.exists():
            return
        with contextlib.closing(sqlite3.connect(self.path)) as db:
            assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
            found = db.execute("SELECT name FROM sqlite_master WHERE name = 'images'").fetchone()
            now = dict(db.execute("SELECT id, record FROM images")) if found else {}
        self.opened += 1
        self.lost += len(self.seen.keys() - now.keys())
        self.changed += sum(now[k] != v for k, v in self.seen.items() if k in now)
        self.seen = now

    def summary(self) -> dict:
        return {"opened": self.opened, "images lost": self.lost, "images changed": self.changed}


def equal(folder: Path, want: rc.Record) -> dict:
    found = rc.Record.load(folder / "found.npz")
    same = all(np.array_equal(getattr(found, k), getattr(want, k)) for k in want._arrays())
    assert same, "the record is not that of a run which nobody killed"
    return {"record is that of a run not killed": same}


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
