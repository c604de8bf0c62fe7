"""benchmarks/gpu.sh, as far as a machine without a GPU can run it."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parent.parent / "benchmarks/gpu.sh"


def script(*arguments, python=sys.executable):
    environment = {**os.environ, "PYTHON": str(python), "OMP_NUM_THREADS": "1"}
    command = ["bash", str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so():
    done = script()
    assert done.returncode == 2
    assert done.stderr == "gpu.sh needs a GPU: torch.cuda.is_available() is False\n"
    assert done.stdout == ""


@pytest.mark.slow
def test_a_dry_run_measures_every_part(tmp_path):
    out = tmp_path / "dry.json"
    done = script("--dry-run", "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    for part in ("limits and kernels", "digest", "networks", "attacks"):
        assert f"\n{part}: passed, " in done.stdout
    done = script("--sets", "--dry-run", "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\nwhole sets: passed, " in done.stdout
    found = json.loads(out.read_text())
    assert {"limits", "digest", "kernels", "networks", "attacks", "sets", "machine"} <= {*found}
    assert found["limits"]["copy_gigabytes"] > 0
    assert found["digest"]["bodies"] == ["native on cpu", "reference on cpu"]
    row = found["kernels"]["perturb, native"]
    assert row["share_of_copy"] > 0
    assert row["share_of_noise_alone"] > 0
    network = found["networks"]["MLP 784-256-10"]
    assert "fused from noise to counts" in network["notes"]["fused, native"][0]
    assert network["ratio_to_plain"] > 0
    assert network["ratio_of_features"] > 0
    assert found["failed"] == {}
    assert found["attacks"]["ratio_to_fastest"] > 0
    fused = found["attacks"]["MLP 784-256-10, fused"]
    assert "native" in fused["seconds"]
    assert fused["ratio_to_not_fused"] > 0
    assert found["sets"]["sigma, ResNet-20, bfloat16"]["brackets_apart"] == 0


def test_a_part_that_fails_stops_no_other(tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\ncase "$*" in *digest*) exit 3 ;; *) echo "ran $*" ;; esac\n')
    python.chmod(0o755)
    done = script("--dry-run", python=python)
    assert done.returncode == 1
    assert "digest: failed with status 3, 0 s" in done.stdout
    assert "attacks: passed, 0 s" in done.stdout
    assert script("--wet").returncode == 2


def test_a_part_that_breaks_is_told_and_loses_nothing(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import gpu

    def breaks(run):
        run.keep({"half": 1})
        raise RuntimeError("broke")

    out = tmp_path / "some.json"
    monkeypatch.setitem(gpu.PARTS, "attacks", breaks)
    for parts, code in ((("attacks", "digest"), 1), (("digest",), 0)):
        monkeypatch.setattr(sys, "argv", ["gpu.py", *parts, "--dry-run", "--out", str(out)])
        with pytest.raises(SystemExit) as done:
            gpu.main()
        assert done.value.code == code
        found = json.loads(out.read_text())
        assert found["attacks"] == {"half": 1}
        assert found["failed"] == {"attacks": "RuntimeError: broke"}
        assert found["digest"]["normals"] == 2**13


def test_a_kernel_that_breaks_leaves_the_others_measured(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import gpu_kernels as gpu
    from gpu_run import Run

    kept, chosen = [], gpu.select

    def broken(*arguments, **names):
        raise ValueError("no such kernel")

    def some(backend, device):
        kernels = chosen(backend, device)
        return replace(kernels, margins=broken) if backend == "native" else kernels

    monkeypatch.setattr(gpu, "select", some)
    with pytest.raises(RuntimeError, match="these failed: margins, 10 classes, native, margins"):
        gpu.kernels(Run(dry=True, keep=kept.append))
    assert kept[-1]["margins, 10 classes, native"] == {"failed": "ValueError: no such kernel"}
    assert kept[-1]["margins, 10 classes, reference"]["microseconds"] > 0
    assert kept[-1]["count_errors, 1000 classes, native"]["microseconds"] > 0


def test_a_digest_that_differs_is_an_error(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import gpu_kernels as gpu
    from gpu_run import Run

    right = gpu.digest(Run(dry=True))
    assert right["normals"] == 2**13
    chosen = gpu.select

    def other(backend, device):
        kernels = chosen(backend, device)
        if backend != "reference":
            return kernels

        class Wrong:
            @staticmethod
            def perturb(*arguments, seed, stream):
                return kernels.perturb(*arguments, seed=seed, stream=stream + 1)

        return Wrong

    monkeypatch.setattr(gpu, "select", other)
    with pytest.raises(SystemExit, match="normals are not the same bits everywhere"):
        gpu.digest(Run(dry=True))
