"""What a GPU gives: measured limits, and each kernel, network and attack as a share of them.

    python benchmarks/gpu.py PART ... [--out FILE] [--dry-run]

Parts: limits, digest, kernels, networks, attacks. Each is added to FILE, a table of all printed.
benchmarks/gpu.sh builds, tests and runs all of them. Every ratio is of times of one run. --dry-run
takes tiny sizes on the CPU: then numbers mean nothing, and everything but the device is tried.
"""

import argparse
import hashlib
import json
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from bench_fused import SHAPE, SIGMA, dense, peers
from machine import machine

import robustcore as rc
from robustcore.evaluator import Evaluator
from robustcore.fused import pack
from robustcore.kernels import select, unavailable
from robustcore.zoo.resnet import ResNet

RESULTS = Path(__file__).parent / "results"
# name: network, shape of an image, multiply-adds of one, the ratio to plain torch to reach
NETWORKS = {
    "linear 784-10": (lambda: dense(784, 10), SHAPE, 7840, 30.0),
    "MLP 784-256-10": (lambda: dense(784, 256, 10), SHAPE, 784 * 256 + 2560, 30.0),
    "ResNet-20": (lambda: ResNet(20).eval(), (3, 32, 32), 40_810_000, 3.0),
}


@dataclass(frozen=True)
class Run:
    """A device, and sizes that fill it, or tiny ones."""

    dry: bool
    keep: Callable[[dict], object] = lambda found: None  # called with what a part has so far

    @property
    def device(self):
        return "cpu" if self.dry else "cuda"

    def size(self, full, tiny):
        return tiny if self.dry else full

    @property
    def backends(self):
        named = ("native", "reference") if self.dry else ("triton", "cuda", "reference")
        return [each for each in named if unavailable(each, self.device) is None]

    def seconds(self, call, rounds=9):
        """Median of single calls, after three to warm up; on a GPU by its own clock."""
        rounds, times = self.size(rounds, 1), []
        for _ in range(self.size(3, 1)):
            call()
        for _ in range(rounds):
            if self.dry:
                start = time.perf_counter()
                call()
                times.append(time.perf_counter() - start)
                continue
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            call()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) / 1e3)
        return statistics.median(times)


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
    device, copy = run.device, limits(run)["copy_gigabytes"]
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
        engine = Evaluator(pack(dense(elements, 2), shape), x[:1], backend=backend)
        if engine.fused is not None:  # normals of which nothing is written
            grid = np.array([SIGMA])
            took = run.seconds(lambda: engine.counts(grid, draws, lambda n: None))  # noqa: B023
            alone = draws * elements / took
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
            took = run.seconds(call)
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
        run.keep(found)
    return found


def plain(step, draws, batch):
    with torch.no_grad():
        wrong = sum(step(batch) for _ in range(max(1, draws // batch)))
    return int(wrong)


def captured(run, model, images):
    """A call of the forward pass alone: on a GPU, of its CUDA graph."""
    if run.dry:
        return lambda: model(images)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            model(images)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        model(images)
    return graph.replay


def networks(run):
    """Nanoseconds a draw of errors counted in noise: plain torch, compiled torch, the engine."""
    rates, found = limits(run), {}
    for name, (make, shape, work, wanted) in NETWORKS.items():
        torch.manual_seed(0)
        model, x = make().to(run.device), torch.rand(1, *shape, device=run.device)
        small = name != "ResNet-20"
        draws = run.size(2**23 if small else 2**18, 64)
        with torch.no_grad():
            label = int(model(x).argmax(1))

        def step(batch, model=model, x=x, label=label):
            noisy = x + SIGMA * torch.randn(batch, *x.shape[1:], device=x.device)
            return (model(noisy).argmax(1) != label).sum()

        batches = run.size([1000, 8192, 65536], [64])
        batches = batches[: None if small else 2]
        took = {
            f"plain torch, batches of {batch}": run.seconds(
                lambda batch=batch: plain(step, draws, batch),  # noqa: B023
                3,
            )
            for batch in batches
        }
        best = min(took, key=took.get)
        batch = batches[[*took].index(best)]
        quick = torch.compile(step, backend="eager" if run.dry else "inductor")
        took["torch.compile"] = run.seconds(lambda: plain(quick, draws, batch), 3)  # noqa: B023
        grid = np.array([SIGMA])
        engines, notes = {}, {}
        if small:
            packed = pack(model, shape)
            for backend in run.backends:
                engine = Evaluator(packed, x, backend=backend)
                if engine.fused is not None:
                    engines[f"fused, {backend}"] = engine
        engines["engine"] = Evaluator(model, x)
        for which, engine in engines.items():
            took[which] = run.seconds(
                lambda engine=engine: engine.counts(grid, draws, lambda n: None),  # noqa: B023
                3,
            )
            notes[which] = engine.notes
        size = min(engines["engine"].batch_size, draws)
        images = x.expand(size, -1, -1, -1).contiguous(
            memory_format=engines["engine"].network.layout
        )
        with torch.no_grad():
            alone = run.seconds(captured(run, model, images)) * draws / size
        ours = min(engines, key=took.get)
        flops = 2 * work * draws / took[ours] / 1e12
        found[name] = {
            "nanoseconds": {key: round(1e9 * each / draws, 2) for key, each in took.items()},
            "forward_alone_nanoseconds": round(1e9 * alone / draws, 2),
            "engine_overhead": round(took["engine"] / alone - 1, 3),
            "best": ours,
            "ratio_to_plain": round(took[best] / took[ours], 2),
            "ratio_to_compiled": round(took["torch.compile"] / took[ours], 2),
            "wanted_ratio": wanted,
            "million_normals_per_second": round(x.numel() * draws / took[ours] / 1e6),
            "share_of_fp32": round(flops / rates["fp32_teraflops"], 3),
            "share_of_bf16": round(flops / rates["bf16_teraflops"], 3),
            "notes": notes,
        }
        print(f"{name}: {json.dumps(found[name])}", flush=True)
        run.keep(found)
    return found


def attacks(run):
    """Seconds of PGD, 100 steps, no image fooled: all take every step."""
    torch.manual_seed(0)
    model = ResNet(20).eval().to(run.device)
    x = torch.rand(run.size(1000, 2), 3, 32, 32, device=run.device)
    with torch.no_grad():
        y = model(x).argmax(1)
    steps, eps = run.size(100, 3), 1e-6
    alpha = eps / 40

    def by_hand():
        points = (x + eps * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
        for _ in range(steps):
            points.requires_grad_(True)
            loss = torch.nn.functional.cross_entropy(model(points), y)
            (slope,) = torch.autograd.grad(loss, points)
            with torch.no_grad():
                points = (points + alpha * slope.sign() - x).clamp(-eps, eps)
                points = (points + x).clamp(0, 1)

    calls, missing = peers(model, x, y, eps, alpha, steps, 1)
    calls["plain torch"] = by_hand
    calls["robustcore"] = lambda: rc.pgd(
        model, x, y, eps=eps, steps=steps, step_size=alpha, restarts=1, progress=False
    )
    took = {name: run.seconds(call, 3) for name, call in calls.items()}
    fastest = min(each for name, each in took.items() if name != "robustcore")
    return {
        "images": len(x),
        "steps": steps,
        "seconds": {name: round(each, 4) for name, each in took.items()},
        "ratio_to_fastest": round(fastest / took["robustcore"], 2),
        "wanted_ratio": 2.0,
        "missing": missing,
    }


PARTS = {each.__name__: each for each in (limits, digest, kernels, networks, attacks)}


def name_of(dry):
    name = "dry-run" if dry else torch.cuda.get_device_name()
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def software(run):
    import importlib.metadata as known

    there = {}
    for name in ("triton", "foolbox", "torchattacks"):
        try:
            there[name] = known.version(name)
        except known.PackageNotFoundError:
            there[name] = None
    if not run.dry:
        memory = torch.cuda.get_device_properties(0).total_memory
        there |= {"gpu": torch.cuda.get_device_name(), "gigabytes": round(memory / 1e9, 1)}
        there |= {"cuda": torch.version.cuda, "tf32": torch.backends.cudnn.allow_tf32}
    return there


def table(result):
    """A short table of what was measured."""
    lines = []
    for key, value in result.get("limits", {}).items():
        lines.append(f"{key:44} {value:>10}")
    if "digest" in result:
        known = result["digest"]
        lines.append(f"{known['normals']} normals, one digest: {', '.join(known['bodies'])}")
    for name, row in result.get("kernels", {}).items():
        rate, share = row["gigabytes_per_second"], row["share_of_copy"]
        lines.append(f"{name:44} {rate:>10} GB/s  {100 * share:5.1f} % of a copy")
    for name, row in result.get("networks", {}).items():
        lines.append(
            f"{name:44} {row['ratio_to_plain']:>10} times plain torch, "
            f"{row['ratio_to_compiled']} times compiled, overhead "
            f"{100 * row['engine_overhead']:.1f} %, {100 * row['share_of_bf16']:.1f} % of bf16"
        )
    if "attacks" in result:
        ratio = result["attacks"]["ratio_to_fastest"]
        lines.append(f"{'PGD on ResNet-20':44} {ratio:>10} times the fastest other")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--dry-run", action="store_true")
    given = parser.parse_args()
    for part in given.parts:
        if part not in PARTS:
            parser.error(f"PART must be one of {', '.join(PARTS)}, was {part}")
    if not given.dry_run and not torch.cuda.is_available():
        raise SystemExit("no GPU: torch.cuda.is_available() is False")
    out = given.out or RESULTS / f"gpu_{name_of(given.dry_run)}.json"
    result = json.loads(out.read_text()) if out.exists() else {}
    for part in given.parts:

        def keep(found, part=part):
            result[part] = found
            out.write_text(json.dumps(result, indent=1) + "\n")

        run = Run(given.dry_run, keep)
        result["machine"] = {**machine(), **software(run)}
        keep(PARTS[part](run))
    print(table(result))


if __name__ == "__main__":
    main()
