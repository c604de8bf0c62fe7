"""The Triton bodies: the tests of test_kernels.py in the interpreter, and compilation for GPUs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cuda_registers import taken

import robustcore
from robustcore.kernels import unavailable

HERE = Path(__file__).parent
PACKAGE = str(Path(robustcore.__file__).parents[1])


pytestmark = pytest.mark.skipif(
    unavailable("triton", "cuda") is not None, reason=str(unavailable("triton", "cuda"))
)


def run(*command, interpret):
    environment = {**os.environ, "PYTHONPATH": PACKAGE}
    environment.pop("TRITON_INTERPRET", None)
    if interpret:
        environment["TRITON_INTERPRET"] = "1"
    return subprocess.run(
        [sys.executable, *map(str, command)],
        env=environment,
        cwd=HERE,  # -m puts it first on the path; the root's robustcore/ may not be built
        capture_output=True,
        text=True,
        check=False,
    )


def test_all_bodies_agree_in_the_interpreter():
    names = "test_kernels.py", "test_kernels_ball.py", "test_kernels_laws.py"
    files = [HERE / name for name in names]
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", *files, interpret=True)
    assert done.returncode == 0, done.stdout
    passed = int(re.search(r"(\d+) passed", done.stdout).group(1))
    assert passed >= 220  # it was Triton, and all of it, that ran
    assert "skipped" not in done.stdout


def test_the_interpreter_is_chosen_only_when_asked_for():
    code = "from robustcore.kernels import select; print(select('triton', 'cpu').name)"
    assert run("-c", code, interpret=True).stdout == "triton\n"
    refused = run("-c", code, interpret=False)
    assert "RuntimeError: backend must be" in refused.stderr
    assert "TRITON_INTERPRET=1" in refused.stderr


def test_every_kernel_compiles_for_each_architecture_without_spills(capsys):
    done = run(HERE / "triton_aot.py", interpret=False)
    with capsys.disabled():
        print(f"\n{done.stdout}")
    assert done.returncode == 0, done.stdout + done.stderr
    for arch in (80, 90, 100):
        lines = re.findall(taken(arch), done.stdout, re.M)
        assert len(lines) == 108
        assert sum(", aligned: " in line for line in lines) == 54


def test_the_check_for_contraction_sees_it():
    """Negative control: with fusion allowed, the compiled perturb is refused."""
    code = """
import sys
import triton_aot
sys.argv = ["triton_aot.py", "--arch", "90"]
triton_aot.OPTIONS["enable_fp_fusion"] = True
one = [case for case in triton_aot.cases() if case[0] == "perturb"]
triton_aot.cases = lambda: one
sys.exit(triton_aot.main())
"""
    done = run("-c", f"import sys; sys.path.insert(0, {str(HERE)!r})\n{code}", interpret=False)
    assert done.returncode == 1, done.stderr
    assert "perturb" in done.stdout
    assert "contracted" in done.stdout
