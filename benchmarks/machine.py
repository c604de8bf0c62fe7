"""The machine and the versions that a number belongs to."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch


def machine():
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return {
        "processor": told.get("model name", platform.processor()),
        # a name may stand for several designs: AMD's Zen 4 is family 25, Zen 5 family 26
        "family_and_model": [told.get("cpu family"), told.get("model")],
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {each: version(each) for each in ("robustcore", "torch", "numpy")},
    }
