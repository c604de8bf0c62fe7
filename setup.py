"""Builds robustcore's extensions from csrc/; everything else is in pyproject.toml.

The CPU kernels are compiled once for each instruction set, each file with flags of its own, and
chosen at run time: so no flag here follows the machine that builds.
"""

import os
import platform
import shutil
import subprocess
from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension
from setuptools import setup
from setuptools.command.build_ext import build_ext

# No contraction: a fused multiply-add rounds once where every other backend rounds twice.
FLAGS = ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-Wall", "-Wextra"]
# Chains that stand side by side (csrc/cpu/normals.h) are mixed, as far as registers allow. Products
# of matrices are in order as they are written, so the flags are not for every file.
MIX = ["-fschedule-insns", "-fsched-pressure", "--param=sched-pressure-algorithm=2"]
ISA_FLAGS = {
    "baseline": [],
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
    f"{kernel}_{isa}.cpp": [*flags, *own]
    for kernel, own in {"perturb": MIX, "ball": [], "fused": [], "noise": MIX}.items()
    for isa, flags in ISA_FLAGS.items()
}
FILE_FLAGS["fused_avx2.cpp"].append("-mfma")  # products of matrices name their contraction

# ROBUSTCORE_SANITIZE="address,undefined" builds with those checks: see tests/sanitize.sh.
SANITIZERS = os.environ.get("ROBUSTCORE_SANITIZE", "")
CHECKS = []
if SANITIZERS:
    CHECKS = [f"-fsanitize={SANITIZERS}", "-fno-sanitize-recover=all"]
    FLAGS += ["-O1", "-g", "-fno-omit-frame-pointer", *CHECKS]

# CUDA is built where nvcc is found; ROBUSTCORE_CUDA=0 leaves it out, =1 fails without nvcc.
# ROBUSTCORE_CUDA_ARCHS="90" builds for one device alone, in a third of the time.
WANTED = os.environ.get("ROBUSTCORE_CUDA", "")
NVCC = None if WANTED == "0" else shutil.which("nvcc")
NVCC_FLAGS = ["-O3", "-std=c++17", "-fmad=false", "-Xcompiler", "-fPIC", "--threads", "2"]
ARCHS = (os.environ.get("ROBUSTCORE_CUDA_ARCHS") or "80 90 100").split()
for arch in ARCHS:
    NVCC_FLAGS += ["-gencode", f"arch=compute_{arch},code=sm_{arch}"]
# PTX for whatever else there is
NVCC_FLAGS += ["-gencode", f"arch=compute_{ARCHS[0]},code=compute_{ARCHS[0]}"]
if WANTED == "1" and NVCC is None:
    raise SystemExit("ROBUSTCORE_CUDA=1 needs nvcc on the path; there was none")


def cuda_libraries():
    """Where the toolkit of NVCC keeps its libraries, as it says itself."""
    said = subprocess.run([NVCC, "--dryrun", "x.cu"], capture_output=True, text=True).stderr
    top = next(line.split("=", 1)[1] for line in said.splitlines() if "TOP=" in line)
    folders = [Path(top.strip(), name) for name in ("lib64", "lib", "targets/x86_64-linux/lib")]
    return [str(each) for each in folders if (each / "libcudart_static.a").exists()]


class BuildExt(build_ext):
    """Adds each source's own flags to the command that compiles it."""

    def build_extensions(self):
        compile_one = self.compiler._compile
        unknown = () if self.accepts(MIX) else MIX

        def compile_with_flags(obj, src, ext, cc_args, postargs, pp_opts):
            if ext == ".cu":
                self.spawn([NVCC, *NVCC_FLAGS, "-c", src, "-o", obj])
                return
            own = [flag for flag in FILE_FLAGS.get(Path(src).name, []) if flag not in unknown]
            compile_one(obj, src, ext, cc_args, [*postargs, *own], pp_opts)

        self.compiler._compile = compile_with_flags
        self.compiler.src_extensions.append(".cu")
        super().build_extensions()

    def accepts(self, flags):
        """Whether this compiler knows the flags: not every one knows all of gcc's."""
        command = [*self.compiler.compiler_so, *flags, "-E", "-x", "c++", os.devnull]
        return subprocess.run(command, capture_output=True).returncode == 0


x86 = platform.machine().lower() in ("x86_64", "amd64")


def sources(folder):
    """What this kind of processor compiles."""
    paths = sorted(Path("csrc", folder).glob("*.cpp"))
    return [str(path) for path in paths if x86 or "_avx" not in path.name]


POOL = "csrc/cpu/parallel.cpp"


def extension(name, sources):
    return Pybind11Extension(
        name,
        sources,
        depends=[str(path) for path in Path("csrc").rglob("*") if path.suffix in (".h", ".inc")],
        cxx_std=17,
        extra_compile_args=FLAGS,
        extra_link_args=["-pthread", *CHECKS],
    )


def cuda_extension():
    """Linked statically, so that it is imported where there is neither toolkit nor driver."""
    made = extension("robustcore._cuda", ["csrc/cuda/bindings.cpp", "csrc/cuda/kernels.cu"])
    made.library_dirs += cuda_libraries()
    made.libraries += ["cudart_static", "dl", "rt"]
    return made


if NVCC is None:
    print("CUDA kernels are left out: nvcc was not found")

setup(
    ext_modules=[
        *([] if NVCC is None else [cuda_extension()]),
        extension("robustcore._native", ["csrc/bindings.cpp", *sources("cpu")]),
        extension("robustcore._corruptions", [*sources("corruptions"), POOL]),
        extension("robustcore._fused", [*sources("fused"), POOL]),
    ],
    cmdclass={"build_ext": BuildExt},
)
