"""Compiles every Triton kernel ahead of time, without a GPU; prints registers, blocks and spills.

    python tests/triton_aot.py [--arch 80 90 100]

Each is compiled for numbers of any kind, and "aligned": for sizes and addresses that 16 divides,
which Triton makes other code for as it meets them, and meets most.

Exits with status 1 if a kernel spills, or if a multiply and an add were contracted. The compiler
does not work in a process that runs Triton's interpreter: TRITON_INTERPRET must be unset.
"""

import argparse
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from cuda_registers import occupancy
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from robustcore.corruptions import triton as corruptions
from robustcore.fused import triton as fused
from robustcore.fused import triton_ascent as ascents
from robustcore.fused import triton_convolved as convolved
from robustcore.kernels import LAWS
from robustcore.kernels import triton as kernels
from robustcore.kernels import triton_ball as balls
from robustcore.kernels.triton_start import random_start_kernel

# An fma, or a multiply or add that the assembler may make one: those with .rn it leaves apart.
# Two may have one, as they promise no bits: Poisson counts, in a logarithm of CUDA's library, and
# products of matrices.
CONTRACTED = re.compile(r"\bfma\.rn\.f(32|64)|\b(mul|add|sub)\.f(32|64)")

OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}
PRODUCTS = ("dense", "ascent", "convolution")  # of matrices
LOGITS = {"labels": "*i64", "rows": "*i64"}
SIZES = {"slots": "i32", "classes": "i32", "stride": "i32"}
PERTURB = {
    **{"x": "*fp32", "rows": "*i64", "sigma": "*fp32", "samples": "*i64", "ids": "*i64"},
    **{"out": "*fp32", "tiles": "i32", "elements": "i32", "channels": "i32", "pixels": "i32"},
    **{"k0": "i32", "k1": "i32", "stream": "i32", "pepper": "fp32", "salt": "fp32"},
    **{"low": "fp32", "high": "fp32", "mean": "*fp32", "inv_std": "*fp32"},
}
BALL = {"x": "*fp32", "rows": "*i64", "offset": "*fp32", "gradient": "*fp32"}
BOX = {"elements": "i32", "low": "fp32", "high": "fp32"}
STEP = {
    **{**BALL, "scale": "*fp32", "step": "*fp32", "radius": "*fp32", "points": "*fp32"},
    **{"usable": "*i8", **BOX},
}
BEST = {
    **{"x": "*fp32", "rows": "*i64", "points": "*fp32", "margin": "*fp64", "distance": "*fp64"},
    **{"best": "*fp32", "found": "*fp64", "elements": "i32"},
}
START = {
    **{"radius": "*fp32", "restarts": "*i64", "ids": "*i64", "out": "*fp32", "elements": "i32"},
    **{"stream": "i32", "k0": "i32", "k1": "i32"},
}
WIDE = {"elements": "i64", "pixels": "i64"}
NAMED = {"sample": "i32", "stream": "i32", "k0": "i32", "k1": "i32"}
PLANES = {"tiles": "i32", "height": "i32", "width": "i32"}
TAPS = {
    **{"x": "*fp32", "dy": "*i64", "dx": "*i64", "weight": "*fp32", "out": "*fp32"},
    **{**PLANES, "channels": "i32", "taps": "i32"},
}
DENSE = {
    **{"base": "*fp32", "rows": "*i64", "samples": "*i64", "ids": "*i64", "sigma": "*fp32"},
    **{"labels": "*i64", "out": "*i64", "scratch": "*fp32"},
    **dict.fromkeys(("w0", "w1", "w2", "w3", "b1", "b2", "b3"), "*fp32"),
    **dict.fromkeys(("n0", "n1", "n2", "n3", "classes", "slots", "elements", "grid"), "i32"),
    **dict.fromkeys(("first", "draws", "k0", "k1", "stream", "tiles"), "i32"),
    **dict.fromkeys(("memory", "widest"), "i32"),
}

ASCENT = {
    **{"points": "*fp32", "rows": "*i64", "goal": "*i64", "wanted": "*i64", "margins": "*fp32"},
    **{"gains": "*fp32", "founds": "*i64", "gradient": "*fp32", "x": "*fp32", "radii": "*fp32"},
    **{"sizes": "*fp32", "ages": "*i64", "usables": "*i8", "scratch": "*fp32"},
    **dict.fromkeys((f"{kind}{i}" for kind in "wbv" for i in range(4)), "*fp32"),
    **dict.fromkeys(("n0", "n1", "n2", "classes", "slots", "elements", "widest"), "i32"),
    **{"hidden": "i32", "memory": "i32", "tiles": "i32", "steps": "i32"},
    **{"low": "fp32", "high": "fp32"},
}
CONVOLUTION = {
    **{"x": "*fp32", "rows": "*i64", "sigma": "*fp32", "samples": "*i64", "ids": "*i64"},
    **{"out": "*fp32", "scratch": "*fp32", "place": "*i32", "tap": "*i32", "start": "*i32"},
    **{"weight": "*fp32", "bias": "*fp32", "slots": "i32", "elements": "i32", "units": "i32"},
    **{"taps": "i32", "columns": "i32", "channels": "i32", "answers": "i32", "k0": "i32"},
    **{"k1": "i32", "stream": "i32", "low": "fp32", "high": "fp32"},
}


def dense(layers, narrow, table):
    """The constants of a dense network."""
    relu = {f"RELU{i}": i < layers - 1 for i in range(3)}
    sizes = {"SLOTS": fused.SLOTS, "COLUMNS": fused.COLUMNS}
    return {"TABLE": table, "LAYERS": layers, **relu, "NARROW": narrow, **sizes}


def cases():
    """(name, kernel, signature, constants): the variants that a GPU would run."""
    words = {"counter": "*i64", "words": "*i64", "n": "i32", "k0": "i32", "k1": "i32"}
    yield "philox", kernels.philox_kernel, words, {"BLOCK": 256}
    everything = {"CLIP": True, "NORMALISE": True, "CHANNELS_LAST": True}
    for name, flags in {
        "perturb": {},
        "perturb clip": {"CLIP": True},
        "perturb all": everything,
        "perturb wide": {"CHANNELS_LAST": True, "WIDE": True},
        **{f"perturb {law}": {**everything, "LAW": law} for law in LAWS[1:]},
    }.items():
        off = {"CLIP": False, "NORMALISE": False, "CHANNELS_LAST": False, "WIDE": False}
        off["LAW"] = LAWS[0]
        signature = {**PERTURB, **(WIDE if "WIDE" in flags else {})}
        yield name, kernels.perturb_kernel, signature, {**off, **flags, "BLOCK": 256}
    for l2, name in ((True, "l2"), (False, "linf")):
        lanes = {"L2": l2, "LANES": balls.LANES}
        for sphere in (True, False):
            constants = {**lanes, "BOX": sphere, "SPHERE": sphere}
            yield f"ball_step {name} {sphere}", balls.ball_step_kernel, STEP, constants
        slope = {**BALL, "slope": "*fp64", **BOX}
        yield f"ball_slope {name}", balls.ball_slope_kernel, slope, {**lanes, "BOX": True}
        yield f"update_best {name}", balls.update_best_kernel, BEST, lanes
        yield f"random_start {name}", random_start_kernel, START, {"L2": l2}
    row = {"ids": "*i64", "out": "*fp32", "tiles": "i32", "elements": "i32", **NAMED}
    yield "uniforms", corruptions.uniforms_kernel, row, {"BLOCK": 256}
    yield "poisson", corruptions.poisson_kernel, {"means": "*fp32", **row}, {"BLOCK": 256}
    order = {"ids": "*i64", "order": "*i64", **PLANES, "reach": "i32", "passes": "i32", **NAMED}
    yield "shuffle_order", corruptions.shuffle_order_kernel, order, {"BLOCK": 256}
    for mirror in (True, False):
        yield f"taps {mirror}", corruptions.taps_kernel, TAPS, {"MIRROR": mirror, "BLOCK": 512}
    networks = (1, True, False), (2, False, False), (4, False, False), (4, False, True)
    for layers, narrow, table in networks:
        constants = dense(layers, narrow, table)
        yield f"dense {layers} layers {table}", fused.dense_kernel, DENSE, constants
    for layers, loss in ((1, 0), (2, 2), (4, 2), (4, 0)):
        for descends in (True, False):
            flags = {"LOSS": loss, "TARGETED": loss == 2, "WANTED": not descends}
            flags |= {"DESCEND": descends, "ADAPTS": descends, "L2": layers > 2, "BOX": True}
            flags |= {"LAYERS": layers, **{f"RELU{i}": i < layers - 1 for i in range(3)}}
            flags |= {"SLOTS": fused.SLOTS, "COLUMNS": fused.COLUMNS}
            constants = {**flags, "ELEMENTS": ascents.ELEMENTS}
            name = f"ascent {layers} layers {loss} {descends}"
            yield name, ascents.ascent_kernel, ASCENT, constants
    at_once = ("COUNTERS", "COLUMNS", "UNITS", "TAPS", "POSITIONS")
    for maximum in (True, False):
        constants = {"CLIP": not maximum, "RELU": True, "MAXIMUM": maximum}
        constants |= {each: getattr(convolved, each) for each in at_once}
        constants["BLOCK"] = convolved.CHANNELS
        yield f"convolution {maximum}", convolved.convolution_kernel, CONVOLUTION, constants
    for dtype in ("fp32", "fp64", "fp16", "bf16"):
        out = "fp64" if dtype == "fp64" else "fp32"
        for classes in (16, 1024):
            constants = {"ROWS": 1024 // classes, "BLOCK": classes}
            label = f"{dtype} K <= {classes}"
            results = {"margin": f"*{out}", "runner_up": "*i64"}
            signature = {"logits": f"*{dtype}", **LOGITS, **results, **SIZES}
            yield f"margins {label}", kernels.margins_kernel, signature, constants
            signature = {"logits": f"*{dtype}", **LOGITS, "counts": "*i64", **SIZES}
            yield f"count_errors {label}", kernels.count_errors_kernel, signature, constants


def assemble(ptx: str) -> tuple[int, int]:
    """Registers and bytes spilled, as ptxas reports them."""
    target = re.search(r"^\.target (\w+)", ptx, re.M).group(1)
    folder = Path(triton.__file__).parent / "backends/nvidia/bin"
    blackwell = folder / "ptxas-blackwell"
    new = int(re.search(r"\d+", target).group()) >= 100 and blackwell.exists()
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch, "kernel.ptx")
        source.write_text(ptx)
        command = [blackwell if new else folder / "ptxas", "-v", "--fmad=false"]
        done = subprocess.run(
            [*map(str, command), f"--gpu-name={target}", str(source), "-o", f"{scratch}/cubin"],
            check=True,
            capture_output=True,
            text=True,
        )
    registers = int(re.search(r"Used (\d+) registers", done.stderr).group(1))
    spilled = sum(int(n) for n in re.findall(r"(\d+) bytes spill", done.stderr))
    return registers, spilled


def aligned(kernel, signature):
    """Addresses, and the integers that Triton makes a kernel for, as multiples of 16."""
    found = {}
    for name, kind in signature.items():
        at = kernel.arg_names.index(name)
        integer = kind.startswith("i") and not kernel.params[at].do_not_specialize
        if kind.startswith("*") or integer:
            found[(at,)] = [["tt.divisibility", 16]]
    return found


def report(arch, number, whole) -> tuple[str, bool]:
    """What a case takes, aligned where `whole`, and whether it passes."""
    name, kernel, signature, constants = list(cases())[number]
    source = ASTSource(
        fn=kernel,
        signature={**signature, **dict.fromkeys(constants, "constexpr")},
        constexprs={(kernel.arg_names.index(k),): v for k, v in constants.items()},
        attrs=aligned(kernel, signature) if whole else {},
    )
    product = name.startswith(PRODUCTS)
    options = {**OPTIONS, **(fused.REGISTERS if product else {})}
    options |= ascents.WARPS if name.startswith("ascent") else {}
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    ptx = compiled.asm["ptx"]
    registers, spilled = assemble(ptx)
    free = name == "poisson" or product
    contracted = CONTRACTED.search(ptx) is not None and not free
    note = ", contracted" if contracted else ""
    threads = 32 * compiled.metadata.num_warps
    held = occupancy(arch, registers, threads, compiled.metadata.shared)
    name += ", aligned" if whole else ""
    said = f"sm_{arch} {name}: {registers} registers, {held}, {spilled} bytes spilled{note}"
    return said, spilled == 0 and not contracted


def main() -> int:
    parser = argparse.ArgumentParser(description="compile the Triton kernels ahead of time")
    parser.add_argument("--arch", type=int, nargs="+", default=[80, 90, 100])
    numbers = range(len(list(cases())))
    every = [(a, n, w) for a in parser.parse_args().arch for n in numbers for w in (False, True)]
    failed = 0
    with multiprocessing.get_context("fork").Pool(os.cpu_count()) as pool:
        for said, passes in pool.starmap(report, every, chunksize=1):
            print(said)
            failed += not passes
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
