"""CUDA C++ without a GPU: its blocks run by one thread of the CPU, and compiled for each device.

csrc/cuda/emulated.cpp runs what csrc/cuda/kernels.cu launches; only the launch itself is not tried.
With ROBUSTCORE_TEST_DEVICE=cuda it is: see elsewhere.py.
"""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cuda_registers import taken
from elsewhere import DEVICE

from robustcore import kernels
from robustcore.kernels import reference

HERE = Path(__file__).parent
built = pytest.mark.skipif(
    importlib.util.find_spec("robustcore._cuda") is None, reason="built without nvcc"
)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (2, 33, 31), (5, 16, 16)])
def test_perturb_has_the_bits_of_the_reference(cuda, batch, shape, layout):
    arguments = batch(shape)
    mean, inv_std = torch.rand(shape[0]), 1 + torch.rand(shape[0])
    for more in ({}, {"clip": (0.2, 0.7)}, {"mean": mean, "inv_std": inv_std, "seed": 2**63 - 9}):
        got = arguments.run(cuda.perturb, arguments.out(layout), **more)
        want = arguments.run(reference.perturb, arguments.out(layout), **more)
        assert torch.equal(got, want)
    other = arguments.run(cuda.perturb, seed=8)
    assert not torch.equal(other, arguments.run(reference.perturb))


@pytest.mark.parametrize("law", kernels.LAWS[1:])
def test_each_law_has_the_bits_of_the_reference(cuda, batch, law):
    levels = (-0.25, 1.5) if law == "salt_and_pepper" else None
    for shape in ((1, 1, 1), (1, 7, 9), (1, 8, 8), (1, 5, 13), (3, 5, 7), (3, 32, 32)):
        arguments = batch(shape)
        mean, inv_std = torch.rand(shape[0]), 1 + torch.rand(shape[0])
        for layout in (torch.contiguous_format, torch.channels_last):
            for more in ({}, {"clip": (0.2, 0.7), "mean": mean, "inv_std": inv_std}):
                given = {"law": law, "levels": levels, "stream": 3, **more}
                got = arguments.run(cuda.perturb, arguments.out(layout), **given)
                want = arguments.run(reference.perturb, **given)
                assert torch.equal(got, want), (shape, layout, more)


def logits(rows, classes, dtype):
    """Few values, so that ties abound; infinities and NaN here and there."""
    generator = torch.Generator().manual_seed(classes)
    values = torch.randint(-2, 3, (rows, classes), generator=generator).to(dtype)
    strange = torch.rand(rows, classes, generator=generator)
    values[strange < 0.05 / classes] = torch.nan
    values[strange > 1 - 0.05 / classes] = torch.inf
    return values


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("classes", [2, 3, 31, 32, 33, 100, 1000])
def test_margins_and_counts_are_those_of_the_reference(cuda, classes, dtype):
    values = logits(200, classes, dtype)
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(classes, (7,), generator=generator)
    rows = torch.randint(7, (200,), generator=generator)
    for mine, right in zip(
        cuda.margins(values, labels, rows), reference.margins(values, labels, rows), strict=True
    ):
        torch.testing.assert_close(mine, right, rtol=0, atol=0, equal_nan=True)
    rows[::9] = -1
    counts, expected = torch.full((7,), 5), torch.full((7,), 5)
    cuda.count_errors(values, labels, rows, counts)
    reference.count_errors(values, labels, rows, expected)
    assert torch.equal(counts, expected)
    assert int(counts.sum()) > 35


@pytest.mark.parametrize("sphere", [False, True])
@pytest.mark.parametrize("norm", [2.0, torch.inf])
@pytest.mark.parametrize("elements", [1, 255, 257, 1000])
def test_steps_in_balls_have_the_bits_of_the_reference(cuda, elements, norm, sphere):
    if sphere and norm != 2:
        return
    generator = torch.Generator().manual_seed(elements)
    x = torch.rand(3, elements, generator=generator)
    rows = torch.randint(3, (9,), generator=generator)
    offset, gradient = torch.randn(2, 9, elements, generator=generator) / 5
    gradient[2], gradient[3, 0] = 0, torch.nan
    scale, step, radius = torch.rand(3, 9, generator=generator)
    answers = []
    for body in (cuda, reference):
        own, points = offset.clone(), torch.full_like(offset, torch.nan)
        given = (x, rows, own, gradient.clone(), scale, step, radius, points)
        usable = body.ball_step(*given, norm=norm, box=(0.1, 0.8), sphere=sphere)
        margin = torch.linspace(-1, 1, 9)
        margin[4] = torch.nan
        distance, best = (
            torch.full((9,), 0.3 if norm == torch.inf else 2.0).double(),
            offset.clone(),
        )
        points[5, -1] = torch.nan
        away = body.update_best(x, rows, points, margin, distance, best, norm=norm)
        answers.append((usable, own, points, away, distance, best))
    for mine, right in zip(*answers, strict=True):
        torch.testing.assert_close(mine, right, rtol=0, atol=0, equal_nan=True)
    assert answers[0][3][5].isnan()


def test_wrong_tensors_are_refused(cuda):
    with pytest.raises(ValueError, match=r"logits must be \(S, K >= 2\)"):
        cuda.margins(torch.zeros(3, 1), torch.zeros(1).long(), torch.zeros(3).long())
    rows, two, one = torch.zeros(2).long(), torch.zeros(2, 4), torch.zeros(2)
    with pytest.raises(ValueError, match=r"radius must be torch.float32 of shape \(2,\)"):
        cuda.ball_step(two, rows, two, two, one, one, two[0], two, norm=2.0)


def test_where_cuda_cannot_run_it_says_why(monkeypatch):
    assert kernels.unavailable("cuda", "cpu") == "the cuda backend runs on cuda only, not on cpu"
    monkeypatch.setattr(kernels, "_load", lambda module: f"No module named {module!r}")
    said = kernels.unavailable("cuda", "cuda")
    assert said == (
        "the CUDA extension cannot be imported, it is built where nvcc is: "
        "No module named 'robustcore._cuda'"
    )
    monkeypatch.setattr(kernels, "_load", lambda module: kernels if "_cuda" in module else "none")
    assert kernels.unavailable("cuda", "cuda") is None


@built
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_the_extension_is_imported_without_a_driver_and_a_launch_raises():
    code = """
from robustcore import _cuda
print(_cuda.device_count())
_cuda.margins_float32((0, 0, 0), (1, 2, 2), 0, 0, 0)
"""
    # not from the root, whose sources would hide the package that was built
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=HERE)
    assert done.stdout == "0\n"
    assert "RuntimeError: a CUDA kernel could not be started" in done.stderr


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
def test_every_kernel_compiles_for_each_architecture_without_spills(capsys):
    script = [sys.executable, str(HERE / "cuda_registers.py")]
    done = subprocess.run(script, capture_output=True, text=True)
    with capsys.disabled():
        print(f"\n{done.stdout}")
    assert done.returncode == 0, done.stdout + done.stderr
    for arch in (80, 90, 100):
        assert len(re.findall(taken(arch), done.stdout, re.M)) == 19
    # what a launch asks for counts: registers alone would leave room for two blocks
    assert re.search("sm_90 dense 16 slots, .* 135168 bytes shared, 1 blocks", done.stdout)


@built
@pytest.mark.skipif(DEVICE != "cpu", reason="built for the device alone")
def test_the_extension_holds_each_architecture_and_ptx_for_later_ones():
    triton = pytest.importorskip("triton")
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    if not tool.exists():
        pytest.skip("this triton has no cuobjdump")
    (extension,) = Path(kernels.__file__).parents[1].glob("_cuda*.so")
    command = [tool, "--list-elf", "--list-ptx", extension]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    parts = sorted(re.findall(r"sm_\d+\.\w+$", said, re.M))
    assert parts == ["sm_100.cubin", "sm_80.cubin", "sm_80.ptx", "sm_90.cubin"]
