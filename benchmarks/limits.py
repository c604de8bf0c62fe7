"""What a machine gives small networks: clocks that take turns, and the rates that bound them."""

import shutil
import statistics
import subprocess
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from robustcore.fused import pack
from robustcore.fused.native import NativeNet
from robustcore.kernels.native import perturb

SIGMA, SHAPE = 0.3, (1, 28, 28)


def dense(*widths):
    layers = [nn.Flatten()]
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


def seconds(call):
    """Of wall time; of processor time with one thread, which other jobs do not change."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    call()
    return clock() - start


def in_turns(calls, rounds):
    """Median seconds of each call, after one to warm up; all meet the same machine."""
    times = {name: [] for name in calls}
    for call in calls.values() if rounds > 1 else ():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(seconds(call))
    return {name: statistics.median(each) for name, each in times.items()}


def rates():
    """Normals and multiply-adds a second, at their best: small networks that the first cache holds.

    Two networks differ by two layers of 96; a linear one of two classes is nearly noise alone.
    """
    labels = ids = torch.zeros(1, dtype=torch.int64)
    draws, grid, least = 20_000, torch.tensor([SIGMA]), []
    for widths in ((784, 2), (64, 96, 2), (64, 96, 96, 96, 2)):
        x, net = torch.rand(1, 1, 1, widths[0]), dense(*widths)
        body, counts = NativeNet(pack(net, x.shape[1:])), torch.zeros(1, 1, dtype=torch.int64)
        call = lambda: body.count_errors(x, labels, grid, ids, (0, draws), counts, seed=0)  # noqa: B023, E731
        least.append(min(seconds(call) for _ in range(9)))
    madds = draws * 2 * 96 * 96 / (least[2] - least[1])
    return 784 / (least[0] / draws - 784 * 2 / madds), madds


def perturb_rate():
    """Normals a second of perturb, into memory that the second cache holds."""
    x, slots = torch.rand(1, *SHAPE), 100
    none, out = torch.zeros(slots, dtype=torch.int64), torch.empty(slots, *SHAPE)
    arguments = x, none, torch.full((slots,), SIGMA), torch.arange(slots), none[:1], out

    def call():
        for _ in range(20):
            perturb(*arguments, seed=0)

    return 20 * out.numel() / min(seconds(call) for _ in range(9))


def peak():
    """Multiply-adds a second of this many cores at most, or None without a compiler."""
    compiler = shutil.which("g++")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        flags = "-O3", "-march=native", "-ffp-contract=fast"
        command = [compiler, *flags, str(Path(__file__).with_name("peak.cpp")), "-o"]
        subprocess.run([*command, f"{folder}/peak"], check=True)
        said = subprocess.run([f"{folder}/peak"], check=True, capture_output=True, text=True)
    return torch.get_num_threads() * float(said.stdout)
