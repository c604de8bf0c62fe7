"""The parts of benchmarks/gpu.py below a network: limits of the device, bits, single kernels."""

import hashlib

import numpy as np
import torch
from limits import SIGMA, dense

from robustcore.engine import Engine
from robustcore.evaluator import Evaluator
from robustcore.fused import pack
from robustcore.kernels import select


def limits(run):
    """Bytes a second of a copy, read and written, and operations a second of square products."""
    n, side = run.size(2**28, 2**16), run.size(8192, 64)
    source = torch.rand(n, device=run.device)
    target = torch.empty_like(source)
    found = {"copy_gigabytes": 8 * n / run.seconds(lambda: target.copy_(source)) / 1e9}
    before = torch.backends.cuda.matmul.allow_tf32
    for name, dtype, tf32 in (
        ("fp32", torch.float32, False),
        ("tf32", torch.float32, True),
        ("bf16", torch.bfloat16, False),
    ):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        a, b = torch.randn(2, side, side, device=run.device).to(dtype)
        took = run.seconds(lambda: a @ b)  # noqa: B023
        found[f"{name}_teraflops"] = 2 * side**3 / took / 1e12
    torch.backends.cuda.matmul.allow_tf32 = before
    if "triton" in run.backends:
        from gpu_normals import normals_a_second

        try:
            found["million_normals"] = normals_a_second(run) / 1e6
        except Exception as error:  # what else is here does not need it
            print(f"no limit of normals: {type(error).__name__}: {error}", flush=True)
    return {key: float(f"{value:.4g}") for key, value in found.items()}


def digest(run):
    """SHA-256 of more than 10^9 normals by each backend of the device, and by the CPU."""
    chunk, chunks = run.size(2**26, 2**12), run.size(16, 2)
    found = {}
    names = [(each, run.device) for each in run.backends if run.dry or each != "reference"]
    for backend, device in {("native", "cpu"): None, **dict.fromkeys(names)}:
        kernels, hashed = select(backend, device), hashlib.sha256()
        x = torch.zeros(1, 1, 1, chunk, device=device)
        none = torch.zeros(1, dtype=torch.int64, device=device)
        one = torch.ones(1, device=device)
        out = torch.empty_like(x)
        for sample in range(chunks):
            kernels.perturb(x, none, one, none + sample, none + 5, out, seed=2**63 - 25, stream=3)
            hashed.update(memoryview(out.cpu().numpy().reshape(-1)).cast("B"))
        found[f"{backend} on {device}"] = hashed.hexdigest()
    if len(found) < 2 or len({*found.values()}) > 1:
        raise SystemExit(f"normals are not the same bits everywhere: {found}")
    return {"normals": chunk * chunks, "bodies": [*found], "sha256": found.popitem()[1]}


def kernels(run):
    """Microseconds of a call, bytes that it must move a second, and their share of a copy's."""
    device, most = run.device, limits(run)
    copy, noise = most["copy_gigabytes"], most.get("million_normals")
    slots, draws = run.size(2**14, 16), run.size(2**20, 64)
    shape, elements = (3, 32, 32), 3072
    x = torch.rand(slots, *shape, device=device)
    rows = torch.arange(slots, device=device)
    sigma, out = torch.full((slots,), 0.1, device=device), torch.empty_like(x)
    flat, same = x.flatten(1), torch.zeros_like(rows)
    offset, gradient = torch.randn(2, slots, elements, device=device)
    points, best = torch.empty_like(flat), torch.empty_like(flat)
    one, label = torch.ones(slots, device=device), rows % 10
    logits = {k: torch.randn(run.size(2**20, 64), k, device=device) for k in (10, 1000)}
    draw = torch.zeros(logits[10].shape[0], dtype=torch.int64, device=device)
    counts = torch.zeros(slots, dtype=torch.int64, device=device)
    far = torch.full((slots,), torch.inf, dtype=torch.float64, device=device)
    wide = 4 * slots * elements
    found = {}
    for backend in run.backends:
        k, alone = select(backend, device), None
        try:
            engine = Evaluator(Engine(pack(dense(elements, 2), shape), backend=backend), x[:1])
            if engine.fused is not None:  # normals of which nothing is written
                grid = np.array([SIGMA])
                took = run.seconds(lambda: engine.counts(grid, draws, lambda n: None))  # noqa: B023
                alone = draws * elements / took
        except Exception as error:
            found[f"fused, {backend}"] = {"failed": f"{type(error).__name__}: {error}"[:500]}
        calls = {  # and the bytes that each has to read and write
            "perturb": (2 * wide, lambda: k.perturb(x, rows, sigma, rows, rows, out, seed=1)),  # noqa: B023
            "perturb, one image": (
                wide,
                lambda: k.perturb(x[:1], same, sigma, rows, rows[:1], out, seed=1),  # noqa: B023
            ),
            "ball_step, linf": (
                5 * wide,
                lambda: k.ball_step(  # noqa: B023
                    flat, rows, offset, gradient, one, sigma, one, points, norm=torch.inf
                ),
            ),
            "ball_step, l2": (
                5 * wide,
                lambda: k.ball_step(  # noqa: B023
                    flat, rows, offset, gradient, one, sigma, one, points, norm=2.0
                ),
            ),
            "update_best": (
                3 * wide,
                lambda: k.update_best(flat, rows, points, -one, far.clone(), best, norm=2.0),  # noqa: B023
            ),
            "random_start, linf": (
                wide,
                lambda: k.random_start(one, rows, rows, points, norm=torch.inf, seed=1),  # noqa: B023
            ),
        }
        for classes, some in logits.items():
            moved = some.numel() * 4
            calls[f"margins, {classes} classes"] = (
                moved,
                lambda some=some: k.margins(some, label, draw),  # noqa: B023
            )
            calls[f"count_errors, {classes} classes"] = (
                moved,
                lambda some=some: k.count_errors(some, label, draw, counts),  # noqa: B023
            )
        for name, (moved, call) in calls.items():
            try:
                took = run.seconds(call)
            except Exception as error:  # the others are measured all the same
                failure = f"{type(error).__name__}: {error}"[:500]
                found[f"{name}, {backend}"] = {"failed": failure}
                continue
            rate = moved / took / 1e9
            found[f"{name}, {backend}"] = {
                "microseconds": round(1e6 * took, 1),
                "gigabytes_per_second": round(rate, 1),
                "share_of_copy": round(rate / copy, 3),
            }
            if name.startswith("perturb"):
                row, normals = found[f"{name}, {backend}"], slots * elements / took
                row["million_normals_per_second"] = round(normals / 1e6)
                row["share_of_noise_alone"] = None if alone is None else round(normals / alone, 3)
                row["share_of_normals"] = None if noise is None else round(normals / 1e6 / noise, 3)
        run.keep(found)
    failed = [name for name, row in found.items() if "failed" in row]
    if failed:
        raise RuntimeError(f"these failed: {', '.join(failed)}")
    return found
