"""csrc/cuda run by one thread of the CPU in place of the extension; on a GPU, the extension."""

import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from contextlib import contextmanager
from pathlib import Path

import pytest
from elsewhere import DEVICE, Elsewhere

SOURCES = Path(__file__).parent.parent / "csrc/cuda"
NAMES = ("robustcore._cuda", "robustcore.kernels.cuda", "robustcore.fused.cuda")
NETWORKS = ("CudaNet", "CudaConvolvedNet")


def build(folder):
    """The emulation, compiled once; with the checks that ROBUSTCORE_SANITIZE names."""
    library = folder / "_cuda.so"
    if library.exists():
        return library
    pybind11 = pytest.importorskip("pybind11")
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    includes = [f"-I{pybind11.get_include()}", f"-I{sysconfig.get_paths()['include']}"]
    command = ["g++", "-O1", "-std=c++17", "-ffp-contract=off", "-shared", "-fPIC", *includes]
    sanitizers = os.environ.get("ROBUSTCORE_SANITIZE")
    if sanitizers:
        command += ["-g", f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all"]
    sources = [str(SOURCES / name) for name in ("emulated.cpp", "bindings.cpp")]
    subprocess.run([*command, *sources, "-o", str(library)], check=True)
    return library


def networks(doors, made):
    """`doors` with the classes of fused networks."""
    for name in NETWORKS:
        setattr(doors, name, made(getattr(importlib.import_module("robustcore.fused.cuda"), name)))
    return doors


@contextmanager
def emulated(path):
    """robustcore.kernels.cuda and the fused networks, for CPU tensors."""
    import robustcore
    import robustcore.fused
    import robustcore.kernels

    before = {name: sys.modules.get(name) for name in NAMES}
    own = getattr(robustcore, "_cuda", None)
    spec = importlib.util.spec_from_file_location("robustcore._cuda", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in NAMES:
        sys.modules.pop(name, None)
    sys.modules["robustcore._cuda"] = robustcore._cuda = module
    doors = importlib.import_module("robustcore.kernels.cuda")
    doors.DEVICE = "cpu"
    try:
        yield networks(doors, lambda made: made)
    finally:
        robustcore._cuda = own
        for name, kept in before.items():
            sys.modules.pop(name, None)
            if kept is not None:
                sys.modules[name] = kept


def launched():
    """The same, on the device."""
    doors = Elsewhere(importlib.import_module("robustcore.kernels.cuda"))
    return networks(doors, lambda made: lambda packed, _: Elsewhere(made(packed, DEVICE)))
