"""The Triton bodies of the corruptions: the tests of test_corruptions_kernels.py that use `fast`,
in the interpreter. test_kernels_triton.py compiles them for GPUs.
"""

import re
from pathlib import Path

import pytest
from test_kernels_triton import run

from robustcore.kernels import unavailable

TESTS = Path(__file__).with_name("test_corruptions_kernels.py")

pytestmark = pytest.mark.skipif(
    unavailable("triton", "cuda") is not None, reason=str(unavailable("triton", "cuda"))
)


def test_bodies_agree_in_the_interpreter():
    chosen = "have_the_same_bits or counts or orders or tap or (make_the_same_images and 5)"
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", TESTS, "-k", chosen, interpret=True)
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"(\d+) passed", done.stdout).group(1)) == 39
    assert "skipped" not in done.stdout
