"""Compiles the CUDA kernels for each architecture, without a GPU, and prints what they take.

    python tests/cuda_registers.py [--arch 80 90 100]

Exits with status 1 if a kernel spills or keeps numbers in local memory. Occupancy is how many
blocks of its threads a multiprocessor has room for: registers, and shared memory, of which fused
kernels ask for more with each launch: here for the widest layers, or the largest image, they take.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "csrc/cuda/kernels.cu"
THREADS = {"margins": 32, "count_errors": 32}  # else 256
REGISTERS, MOST_THREADS, MOST_BLOCKS = 65536, 2048, 32
SHARED = {80: 164 * 1024, 90: 228 * 1024, 100: 228 * 1024}  # bytes of a multiprocessor
RESERVED = 1024  # of them, by the system for each block
WIDEST = {"4 units": 128, "8 units": 256, "32 slots, 16 units": 512, "16 slots, 16 units": 1024}
KIND = {"f": " float32", "d": " float64"}


def asked(name):
    """Bytes of shared memory that a launch asks for."""
    from robustcore import _cuda, fused

    if name == "convolution":
        return 4 * fused.convolved.MOST
    kind, _, shape = name.partition(" ")
    if kind not in ("dense", "ascent"):
        return 0
    width = next(most for ending, most in WIDEST.items() if shape.endswith(ending))
    return _cuda.memory([width] * 4, 0)[kind == "ascent"]


def compiled(arch):
    """(kernel, registers, bytes of shared memory, bytes spilled or kept in local memory)."""
    from robustcore.kernels import LAWS

    with tempfile.TemporaryDirectory() as folder:
        command = ["nvcc", "-O3", "-std=c++17", "-fmad=false", f"-arch=sm_{arch}", "-Xptxas", "-v"]
        done = subprocess.run(
            [*command, "-cubin", str(SOURCE), "-o", f"{folder}/kernels.cubin"],
            check=True,
            capture_output=True,
            text=True,
        )
    for part in done.stderr.split("Compiling entry function")[1:]:
        name, kind = re.search(r"\d+([a-z_]+)_kernel(?:I(\w+?)EEv|E)?", part).groups()
        units = re.findall(r"Li(\d+)E", part.split("'")[1])
        name += KIND.get(kind, "") if kind else ""
        name += f" {units[0]} slots, {units[1]} units" if units else ""
        law = re.search(r"3LawE(\d)E", part.split("'")[1])
        name += f" {LAWS[int(law.group(1))]}" if law else ""
        registers = int(re.search(r"Used (\d+) registers", part).group(1))
        shared = re.search(r"(\d+) bytes smem", part)
        local = sum(int(n) for n in re.findall(r"(\d+) bytes (?:stack|spill)", part))
        yield name, registers, asked(name) + (int(shared.group(1)) if shared else 0), local


def occupancy(arch, registers, threads, shared):
    """Blocks to a multiprocessor, in words; registers come in eights to a thread."""
    held = REGISTERS // (-(-registers // 8) * 8 * threads)
    held = min(held, MOST_THREADS // threads, MOST_BLOCKS, SHARED[arch] // (shared + RESERVED))
    share = 100 * held * threads // MOST_THREADS
    return f"{shared} bytes shared, {held} blocks of {threads} threads ({share} %)"


def taken(arch):
    """A line of this script, or of triton_aot.py, on a kernel that passes, as an expression."""
    return rf"^sm_{arch} .*: \d+ registers, \d+ bytes shared, [1-9]\d* blocks .*, 0 bytes spilled$"


def main():
    parser = argparse.ArgumentParser(description="compile the CUDA kernels without a GPU")
    parser.add_argument("--arch", type=int, nargs="+", default=[80, 90, 100])
    if shutil.which("nvcc") is None:
        raise SystemExit("nvcc was not found")
    failed = 0
    for arch in parser.parse_args().arch:
        for name, registers, shared, local in compiled(arch):
            threads = THREADS.get(name.split()[0], 256)
            held = occupancy(arch, registers, threads, shared)
            print(f"sm_{arch} {name}: {registers} registers, {held}, {local} bytes spilled")
            failed += local > 0
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
