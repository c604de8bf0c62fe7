"""The machine and the versions that a number belongs to."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch


def machine():
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {each: version(each) for each in ("robustcore", "torch", "numpy")},
    }
