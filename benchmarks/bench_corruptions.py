"""How long the corruptions take: against imagecorruptions, against a network, and in what memory.

    OMP_WAIT_POLICY=passive python benchmarks/bench_corruptions.py --data ../shared/data \
        --peer PYTHON --out benchmarks/results/corruptions.json

--peer: the Python of an environment made as `corruption_peer.py` says; without it the peer is left
out. Each speed is printed beside a check of what was timed: a deterministic corruption must be the
peer's (the imagenet set, which is the only one that the peer has), any must be what the reference
makes. The peer runs in one process, as its users do; its outputs and ours come from one run, the
peer first, then ours, three times each (glass_blur's peer once), the fastest of each kept. CPU time
counts all threads: on a machine that others use, its ratio is that of one thread each.
--cifar 0 or --photos 0 leaves that set out; results/corruptions_cifar.json and _photos.json came
from two such runs with --repeats 1, corruptions_memory.json from one with --stream 50000, no peer.
"""

import argparse
import json
import os
import platform
import resource
import shlex
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from corruption_fidelity import DETERMINISTIC, peer_run
from networks import load
from PIL import Image

from robustcore.corruptions import COMMON, NAMES, ImageFiles, corrupt, corruption_benchmark

SEVERITIES = (1, 2, 3, 4, 5)
CLOCKS = ("wall", "cpu")


def fastest(call, repeats=3):
    """Least wall time and least CPU time, in seconds, (2,)."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter(), time.process_time()
        call()
        times.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    return np.min(times, 0)


def floats(pixels):
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(255).contiguous()


def check(x, name):
    """Ours must be the reference's, at one severity on a few images."""
    few = x[:2]
    sets = {"parameters": "imagenet"}
    torch.testing.assert_close(
        corrupt(few, name, 3, **sets),
        corrupt(few, name, 3, backend="reference", **sets),
        atol=1e-4,
        rtol=0,
    )


def against_peer(python, x, pixels, names, repeats):
    rows = []
    for name in names:
        check(x, name)
        runs = [
            peer_run(python, pixels, [name], SEVERITIES, source="imagecorruptions", keep=not repeat)
            for repeat in range(1 if name == "glass_blur" else repeats)
        ]
        theirs = np.min([np.sum([*seconds.values()], 0) for _, seconds in runs], 0)
        if name in DETERMINISTIC:
            for severity in SEVERITIES:
                out = corrupt(x, name, severity, parameters="imagenet").movedim(1, -1) * 255
                off = abs(out.numpy() - runs[0][0][name, severity])
                assert off.mean() <= 1.01, (name, severity, off.mean())  # it cuts to 8 bits
        ours = fastest(lambda name=name: all_severities(x, name))
        each = 1e3 / len(x) / len(SEVERITIES)
        row = {"name": name}
        for i, clock in enumerate(CLOCKS):
            row[f"ours_{clock}_ms"] = round(ours[i] * each, 4)
            row[f"peer_{clock}_ms"] = round(theirs[i] * each, 4)
        rows.append(row)
        print(f"{name:18} {ratios(row)}", flush=True)
    common = [row for row in rows if row["name"] in COMMON]
    total = {key: sum(row[key] for row in common) for key in common[0] if key != "name"}
    print(f"all {5 * len(common)} conditions {ratios(total)}")
    return rows


def ratios(row):
    return ", ".join(
        f"{clock} {row[f'ours_{clock}_ms']:.3f} ms, peer {row[f'peer_{clock}_ms']:.3f} ms: "
        f"{row[f'peer_{clock}_ms'] / row[f'ours_{clock}_ms']:.1f} times as fast"
        for clock in CLOCKS
    )


def all_severities(x, name):
    for severity in SEVERITIES:
        corrupt(x, name, severity, parameters="imagenet")


def against_network(x, data):
    model = load("resnet20", data).to(memory_format=torch.channels_last)
    large = x.contiguous(memory_format=torch.channels_last)
    found = {}
    with torch.no_grad():
        model(large)
        found["resnet20"] = fastest(lambda: model(large))
    for name in COMMON:
        times = [fastest(lambda s=s, n=name: corrupt(x, n, s)) for s in SEVERITIES]
        found[name] = np.mean(times, 0)
    for i, clock in enumerate(CLOCKS):
        print(
            f"{clock}, ms: " + ", ".join(f"{k} {1e3 * v[i] / len(x):.3f}" for k, v in found.items())
        )
        cheaper = sum(found[name][i] < found["resnet20"][i] for name in COMMON)
        print(f"{cheaper} of {len(COMMON)} corruptions cost less than ResNet-20's forward")
    return {name: (1e3 * both / len(x)).round(4).tolist() for name, both in found.items()}


class Thumbnail(torch.nn.Module):
    """A cheap classifier for photos: what is measured is the rest."""

    def forward(self, x):
        return torch.nn.functional.avg_pool2d(x, 32).flatten(1)


def memory(pixels, images):
    """Peak memory of the benchmark on so many photos that stay on disk."""
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for i, each in enumerate(pixels):
            paths.append(Path(folder, f"{i}.png"))
            Image.fromarray(each).save(paths[-1], compress_level=1)
        files = ImageFiles([paths[i % len(paths)] for i in range(images)])
        start = time.perf_counter()
        corruption_benchmark(
            Thumbnail(), files, corruptions=["fog", "gaussian_noise"], severities=[3]
        )
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{images} photos from disk, 2 conditions: peak {peak:.2f} GiB, {seconds:.0f} s")
    return {"images": images, "peak_gib": round(peak, 3), "seconds": round(seconds)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--peer")
    parser.add_argument("--cifar", type=int, default=200)
    parser.add_argument("--photos", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3, help="of the peer")
    parser.add_argument("--stream", type=int, default=0, help="photos of the memory test")
    parser.add_argument("--names", nargs="*", default=NAMES)
    parser.add_argument("--out", help="a JSON file")
    arguments = parser.parse_args()
    data = Path(arguments.data)
    about = {
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        **{each: version(each) for each in ("torch", "numpy", "pillow", "robustcore")},
    }
    print(about)
    found = {"command": shlex.join(["python", *sys.argv]), "about": about}
    files = sorted((data / "imagenet_nips17/images").glob("*.webp"))
    photos = [
        np.asarray(Image.open(each).convert("RGB")) for each in files[: arguments.photos or 50]
    ]
    if arguments.stream:
        found["memory"] = memory(photos, arguments.stream)
    with np.load(data / "cifar10/test.npz") as test:
        cifar = test["images"][: max(arguments.cifar, 500)]
    sets = {"cifar": cifar[: arguments.cifar], "photos": np.stack(photos)[: arguments.photos]}
    for name, pixels in sets.items():
        if len(pixels) and arguments.peer:
            x = floats(pixels)
            print(f"\n{len(x)} images of {x.shape[2]} pixels")
            found[name] = against_peer(
                arguments.peer, x, pixels, arguments.names, arguments.repeats
            )
    if arguments.cifar:
        found["network"] = against_network(floats(cifar[:500]), data)
    if arguments.out:
        Path(arguments.out).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
