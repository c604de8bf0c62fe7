"""Builds robustcore's extensions from csrc/; everything else is in pyproject.toml.

The CPU kernels are compiled once for each instruction set, each file with flags of its own, and
chosen at run time: so no flag here follows the machine that builds.
"""

import platform
from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension
from setuptools import setup
from setuptools.command.build_ext import build_ext

# No contraction: a fused multiply-add rounds once where every other backend rounds twice.
FLAGS = ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-Wall", "-Wextra"]
ISA_FLAGS = {
    "avx2": ["-mavx2"],
    "avx512": [
        "-mavx512f",
        "-mavx512dq",
        "-mavx512bw",
        "-mavx512vl",
        "-mprefer-vector-width=512",
        "-Wno-uninitialized",  # gcc 12's own intrinsics set them off
        "-Wno-maybe-uninitialized",
    ],
}
FILE_FLAGS = {
    f"{kernel}_{isa}.cpp": flags
    for kernel in ("perturb", "ball", "fused")
    for isa, flags in ISA_FLAGS.items()
}
FILE_FLAGS["fused_avx2.cpp"] = ["-mavx2", "-mfma"]  # products of matrices name their contraction


class BuildExt(build_ext):
    """Adds each source's own flags to the command that compiles it."""

    def build_extensions(self):
        compile_one = self.compiler._compile

        def compile_with_flags(obj, src, ext, cc_args, postargs, pp_opts):
            own = FILE_FLAGS.get(Path(src).name, [])
            compile_one(obj, src, ext, cc_args, [*postargs, *own], pp_opts)

        self.compiler._compile = compile_with_flags
        super().build_extensions()


x86 = platform.machine().lower() in ("x86_64", "amd64")


def sources(folder):
    """What this kind of processor compiles."""
    paths = sorted(Path("csrc", folder).glob("*.cpp"))
    return [str(path) for path in paths if x86 or path.name not in FILE_FLAGS]


POOL = "csrc/cpu/parallel.cpp"


def extension(name, sources):
    return Pybind11Extension(
        name,
        sources,
        depends=[str(path) for path in Path("csrc").rglob("*") if path.suffix in (".h", ".inc")],
        cxx_std=17,
        extra_compile_args=FLAGS,
        extra_link_args=["-pthread"],
    )


setup(
    ext_modules=[
        extension("robustcore._native", ["csrc/bindings.cpp", *sources("cpu")]),
        extension("robustcore._corruptions", [*sources("corruptions"), POOL]),
        extension("robustcore._fused", [*sources("fused"), POOL]),
    ],
    cmdclass={"build_ext": BuildExt},
)
