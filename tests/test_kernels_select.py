"""The table of kernels, and how a backend is chosen or refused."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import robustcore
from robustcore import kernels
from robustcore.kernels import native, reference


def test_the_table_is_full_and_signatures_agree():
    for kernel in kernels.KERNELS:
        definition = inspect.signature(getattr(reference, kernel)).parameters
        compiled = dict(inspect.signature(getattr(native, kernel)).parameters)
        compiled.pop("isa", None)
        assert list(compiled.values()) == list(definition.values())


def test_the_automatic_choice_on_cpu_is_native():
    chosen = kernels.select(None, "cpu")
    assert chosen.name == "native"
    assert chosen.perturb is native.perturb
    assert kernels.select("reference", torch.device("cpu")).margins is reference.margins


def test_an_unknown_backend_is_refused():
    with pytest.raises(
        ValueError, match=r"backend must be one of reference, native, triton, cuda.*'metal'"
    ):
        kernels.select("metal", "cpu")


def test_a_backend_that_cannot_run_is_refused_with_the_reason():
    with pytest.raises(
        RuntimeError, match=r"backend must be .* 'cuda'; got 'native', but .*cpu only"
    ):
        kernels.select("native", "cuda")
    assert "not on mps" in kernels.unavailable("triton", "mps")
    assert kernels.unavailable("reference", "mps") is None


def test_without_the_extension_native_says_why_and_the_choice_falls_to_reference(monkeypatch):
    monkeypatch.setattr(kernels, "_load", lambda module: f"No module named {module!r}")
    with pytest.raises(RuntimeError, match=r"No module named 'robustcore\._native'"):
        kernels.select("native", "cpu")
    with pytest.warns(RuntimeWarning, match=r"reference kernels .*: .*'robustcore\._native'"):
        assert kernels.select(None, "cpu").name == "reference"
    with pytest.warns(RuntimeWarning, match=r"'triton'; .*'robustcore\._cuda'"):
        assert kernels.select(None, "cuda").name == "reference"
    assert "No module named 'triton'" in kernels.unavailable("triton", "cuda")


def test_choosing_on_cpu_does_not_import_triton():
    code = f"""
import sys, types
package = sys.modules["robustcore"] = types.ModuleType("robustcore")
package.__path__ = [{str(Path(robustcore.__file__).parent)!r}]
import robustcore.kernels
robustcore.kernels.select(None, "cpu")
print("triton" in sys.modules)
"""
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "False\n"
