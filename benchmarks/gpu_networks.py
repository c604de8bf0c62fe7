"""The parts of benchmarks/gpu.py with networks: errors counted in noise, and an attack."""

import json
import time

import numpy as np
import torch
from gpu_kernels import limits
from limits import SHAPE, SIGMA, dense
from pgd_peers import peers

import robustcore as rc
from robustcore.evaluator import Evaluator
from robustcore.fused import pack
from robustcore.zoo.mnist import MnistNet
from robustcore.zoo.resnet import ResNet

# name: network, shape of an image, multiply-adds of one, the ratio to plain torch to reach
NETWORKS = {
    "ResNet-20": (lambda: rc.load_model("cifar10-natural"), (3, 32, 32), 40_810_000, 3.0),
    "linear 784-10": (lambda: dense(784, 10), SHAPE, 7840, 30.0),
    "MLP 784-256-10": (lambda: dense(784, 256, 10), SHAPE, 784 * 256 + 2560, 30.0),
    "MNIST, 2 convolutions and maxima": (lambda: MnistNet().eval(), SHAPE, 3_024_384, None),
}
WAITS = "cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy"


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


def waited(run, engine, grid):
    """How often the host waits in rounds of 16 and 64 batches, and the device's share of the time.

    The profiler's: as many in both, as none belongs to a batch.
    """
    if run.dry:
        return None
    from torch.profiler import ProfilerActivity, profile

    said = {}
    for batches in (16, 64):
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
            start = time.perf_counter()
            engine.counts(grid, batches * engine.batch_size, lambda n: None)
            torch.cuda.synchronize()
            took = time.perf_counter() - start
        events = seen.key_averages()
        said[f"{batches} batches"] = sum(each.count for each in events if each.key in WAITS)
        kernels = sum(
            each.self_device_time_total
            for each in events
            if each.device_type == torch.autograd.DeviceType.CUDA
        )
        said["device_busy"] = round(kernels / 1e6 / took, 3)
    return said


def tried(notes, name, make):
    """What `make` gives; or None, with the reason among the notes."""
    try:
        return make()
    except Exception as error:
        notes[name] = [f"failed: {type(error).__name__}: {error}"[:500]]
        print(f"{name} failed: {error}", flush=True)
        return None


def ratio(one, other):
    return None if one is None or other is None else round(one / other, 2)


def networks(run):
    """Nanoseconds a draw of errors counted in noise: plain torch, compiled torch, the engine."""
    rates, found = limits(run), {}
    for name, (make, shape, work, wanted) in NETWORKS.items():
        torch.manual_seed(0)
        model, x = make().to(run.device), torch.rand(1, *shape, device=run.device)
        small = name != "ResNet-20"
        if not small:  # trained, so that lower precision has leads as they are
            x = rc.load_images(1, device=run.device)[0]
        draws = run.size(2**23 if work < 2**20 else 2**20 if small else 2**17, 64)
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
        grid, engines, notes = np.array([SIGMA]), {}, {}
        compiled = tried(
            notes,
            "torch.compile",
            lambda: run.seconds(lambda: plain(quick, draws, batch), 3),  # noqa: B023
        )
        if compiled is not None:
            took["torch.compile"] = compiled

        def count(engine):
            return run.seconds(lambda: engine.counts(grid, draws, lambda n: None), 3)  # noqa: B023

        makes = {"engine": lambda: Evaluator(model, x)}  # noqa: B023
        if small:
            packed = pack(model, shape)
            for backend in run.backends:
                fused = rc.Engine(packed, backend=backend)
                makes[f"fused, {backend}"] = lambda e=fused: Evaluator(e, x)  # noqa: B023
                if packed.dense and backend != "reference":
                    features = rc.Engine(pack(model, shape, draws="features"), backend=backend)
                    makes[f"features, {backend}"] = lambda e=features: Evaluator(e, x)  # noqa: B023
        else:
            for lower in ("bfloat16",) if run.dry else ("tf32", "bfloat16"):
                coarse = rc.Engine(model, precision=lower)
                makes[f"engine, {lower}"] = lambda e=coarse: Evaluator(e, x)  # noqa: B023
        for which, make_engine in makes.items():
            engine = tried(notes, which, make_engine)
            if engine is None or (which.startswith("fused") and engine.fused is None):
                continue
            seconds = tried(notes, which, lambda engine=engine: count(engine))
            if seconds is not None:
                engines[which], took[which], notes[which] = engine, seconds, engine.notes
        size = min(engines["engine"].batch_size, draws)
        images = x.expand(size, -1, -1, -1).contiguous(
            memory_format=engines["engine"].network.layout
        )
        with torch.no_grad():
            alone = run.seconds(captured(run, model, images)) * draws / size
        same = [each for each in engines if not each.startswith("features")]
        ours = min(same, key=took.get)  # of those with the draws of pixels
        of_features = [took[each] for each in engines if each not in same]
        featured = min(of_features, default=None)
        flops = 2 * work * draws / took[ours] / 1e12
        found[name] = {
            "nanoseconds": {key: round(1e9 * each / draws, 2) for key, each in took.items()},
            "forward_alone_nanoseconds": round(1e9 * alone / draws, 2),
            "engine_overhead": round(took["engine"] / alone - 1, 3),
            "best": ours,
            "ratio_to_plain": round(took[best] / took[ours], 2),
            "ratio_of_features": ratio(took[best], featured),
            "ratio_to_compiled": ratio(compiled, took[ours]),
            "wanted_ratio": wanted,
            "million_normals_per_second": round(x.numel() * draws / took[ours] / 1e6),
            "share_of_fp32": round(flops / rates["fp32_teraflops"], 3),
            "share_of_bf16": round(flops / rates["bf16_teraflops"], 3),
            "waits": tried(notes, "waits", lambda: waited(run, engines["engine"], grid)),  # noqa: B023
            "notes": notes,
        }
        print(f"{name}: {json.dumps(found[name])}", flush=True)
        run.keep(found)
    return found


def fused_attacks(run):
    """Seconds of PGD on a packed MLP, 100 steps from 10 starts, by each body that descends."""
    torch.manual_seed(0)
    model = dense(784, 256, 10).to(run.device)
    x = torch.rand(run.size(1000, 2), *SHAPE, device=run.device)
    how = {"eps": 1e-6, "step_size": 1e-6 / 40, "steps": run.size(100, 3)}
    how["restarts"] = run.size(10, 2)
    packed, took = pack(model, SHAPE), {}
    for backend in run.backends:
        engine = rc.Engine(packed, backend=backend, progress=False)
        fused = Evaluator(engine, x[:1]).fused
        if fused is not None and fused.ascent is not None:
            took[backend] = run.seconds(lambda: rc.pgd(engine, x, **how), 3)  # noqa: B023
    plain = rc.Engine(lambda images: model(images), progress=False)
    took["not fused"] = run.seconds(lambda: rc.pgd(plain, x, **how), 3)
    best = min(each for name, each in took.items() if name != "not fused")
    return {
        "images": len(x),
        "seconds": {name: round(each, 5) for name, each in took.items()},
        "ratio_to_not_fused": round(took["not fused"] / best, 2),
    }


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
    engine = rc.Engine(model, progress=False)
    calls["robustcore"] = lambda: rc.pgd(
        engine, x, y, eps=eps, steps=steps, step_size=alpha, restarts=1
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
        "MLP 784-256-10, fused": fused_attacks(run),
    }
