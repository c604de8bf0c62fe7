"""robustcore devices: which backends can run here, and why the others cannot."""

from __future__ import annotations

import argparse

import torch

from robustcore import kernels

ABOUT = "which backends can run here, and why not"


def add_options(parser: argparse.ArgumentParser) -> None:
    """It has none."""


def run(args: argparse.Namespace) -> int:
    found = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    for device in found:
        name = "" if device == "cpu" else f"  {torch.cuda.get_device_name(device)}"
        threads = f"  {torch.get_num_threads()} threads" if device == "cpu" else ""
        print(f"{device}{name}{threads}")
        default = kernels.select(None, device).name
        for backend in kernels.BACKENDS:
            reason = kernels.unavailable(backend, device)
            mark = "default" if backend == default else "runs" if reason is None else "no"
            print(f"  {backend:<10} {mark:<8} {reason or ''}".rstrip())
    if len(found) == 1:
        print("cuda\n  no CUDA device is visible to torch")
    return 0
