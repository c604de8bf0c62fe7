"""Fused networks against plain torch, and PGD against foolbox and torchattacks.

    pip install foolbox && pip install --no-deps torchattacks
    OMP_WAIT_POLICY=passive python benchmarks/bench_fused.py

Noise: `x + sigma * torch.randn`, forward, argmax, count, in batches of 1,000, against the engine's
counts, taking turns in one process; medians. Counts are first compared with the plain path's.
The limit is what noise and multiply-adds take one after the other, at the best rates measured here
on networks that the first cache holds; beside the rate of normals stands that of `perturb`.
PGD: 100 steps, 10 restarts, linf, on a network trained here for a few seconds; all attacks take the
same steps. Its limit is both matrix products at the core's peak (peak.cpp, where there is a
compiler), for each attack its share of that. Peers that are not installed are left out and said to
be. With one thread times are processor time, else wall time.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from machine import machine
from torch import nn

import robustcore as rc
from robustcore.evaluator import Evaluator
from robustcore.fused import pack
from robustcore.fused.native import NativeNet
from robustcore.kernels.native import perturb
from robustcore.zoo.mnist import MnistNet

SIGMA, BATCH = 0.3, 1000
SHAPE = (1, 28, 28)
STEPS, RESTARTS, IMAGES = 100, 10, 100


def dense(*widths):
    layers = [nn.Flatten()]
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


def strided():
    """The convolutional network of the verification literature (Wong and Kolter, 2018)."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(32 * 49, 100), nn.ReLU(), nn.Linear(100, 10)),
    ).eval()


# name: network, multiply-adds of an image, draws, the ratio to reach
NETWORKS = {
    "linear 784-10": (lambda: dense(784, 10), 784 * 10, 40_000, 10.0),
    "MLP 784-256-10": (lambda: dense(784, 256, 10), 784 * 256 + 2560, 20_000, 2.5),
    "MNIST, 2 convolutions and maxima": (
        lambda: MnistNet().eval(),
        25 * 16 * 784 + 25 * 16 * 32 * 196 + 1568 * 128 + 1280,
        4_000,
        1.5,
    ),
    "MNIST, 2 strided convolutions": (
        strided,
        16 * 16 * 196 + 256 * 32 * 49 + 1568 * 100 + 1000,
        8_000,
        1.5,
    ),
    "MLP 784-1024-1024-10": (
        lambda: dense(784, 1024, 1024, 10),
        784 * 1024 + 1024 * 1024 + 10240,
        4_000,
        None,
    ),
}


def seconds(call):
    """Of wall time; of processor time with one thread, which other jobs do not change."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    call()
    return clock() - start


def in_turns(calls, rounds):
    """Median seconds of each call, after one to warm up; all meet the same machine."""
    times = {name: [] for name in calls}
    for call in calls.values() if rounds > 1 else ():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(seconds(call))
    return {name: statistics.median(each) for name, each in times.items()}


def rates():
    """Normals and multiply-adds a second, at their best: small networks that the first cache holds.

    Two networks differ by two layers of 96; a linear one of two classes is nearly noise alone.
    """
    labels = ids = torch.zeros(1, dtype=torch.int64)
    draws, grid, least = 20_000, torch.tensor([SIGMA]), []
    for widths in ((784, 2), (64, 96, 2), (64, 96, 96, 96, 2)):
        x, net = torch.rand(1, 1, 1, widths[0]), dense(*widths)
        body, counts = NativeNet(pack(net, x.shape[1:])), torch.zeros(1, 1, dtype=torch.int64)
        call = lambda: body.count_errors(x, labels, grid, ids, (0, draws), counts, seed=0)  # noqa: B023, E731
        least.append(min(seconds(call) for _ in range(9)))
    madds = draws * 2 * 96 * 96 / (least[2] - least[1])
    return 784 / (least[0] / draws - 784 * 2 / madds), madds


def perturb_rate():
    """Normals a second of perturb, into memory that the second cache holds."""
    x, slots = torch.rand(1, *SHAPE), 100
    none, out = torch.zeros(slots, dtype=torch.int64), torch.empty(slots, *SHAPE)
    arguments = x, none, torch.full((slots,), SIGMA), torch.arange(slots), none[:1], out

    def call():
        for _ in range(20):
            perturb(*arguments, seed=0)

    return 20 * out.numel() / min(seconds(call) for _ in range(9))


def peak():
    """Multiply-adds a second of this many cores at most, or None without a compiler."""
    compiler = shutil.which("g++")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        flags = "-O3", "-march=native", "-ffp-contract=fast"
        command = [compiler, *flags, str(Path(__file__).with_name("peak.cpp")), "-o"]
        subprocess.run([*command, f"{folder}/peak"], check=True)
        said = subprocess.run([f"{folder}/peak"], check=True, capture_output=True, text=True)
    return torch.get_num_threads() * float(said.stdout)


def plain_count(model, x, label, draws):
    wrong = 0
    with torch.no_grad():
        for _ in range(draws // BATCH):
            noisy = x + SIGMA * torch.randn(BATCH, *SHAPE)
            wrong += int((model(noisy).argmax(1) != label).sum())
    return wrong


def noise_table(rounds):
    normals, madds = rates()
    rows = {}
    for name, (make, work, draws, wanted) in NETWORKS.items():
        torch.manual_seed(0)
        model, x = make(), torch.rand(1, *SHAPE)
        engine, unfused = Evaluator(model, x), Evaluator(lambda z, m=model: m(z), x)
        assert engine.fused is not None
        assert unfused.fused is None
        grid, label, few = np.array([SIGMA]), int(engine.y), 2000
        counts = [each.counts(grid, few, lambda n: None).item() for each in (engine, unfused)]
        assert abs(counts[0] - counts[1]) <= 2, counts  # of 2,000 draws, those in the rounding
        calls = {
            "plain": lambda: plain_count(model, x, label, draws),  # noqa: B023
            "unfused": lambda: unfused.counts(grid, draws, lambda n: None),  # noqa: B023
            "fused": lambda: engine.counts(grid, draws, lambda n: None),  # noqa: B023
        }
        more = {"8 sigmas": lambda: engine.counts(np.linspace(0.1, 0.8, 8), draws, lambda n: None)}  # noqa: B023
        if engine.fused.packed.dense:
            other = Evaluator(pack(model, SHAPE, draws="features"), x)
            more["features"] = lambda: other.counts(grid, draws, lambda n: None)  # noqa: B023
        took = in_turns({**calls, **more}, rounds)
        each = {key: 1e6 * value / draws for key, value in took.items()}
        limit = 1e6 * (784 / normals + work / madds)
        rows[name] = {
            "microseconds": {key: round(value, 3) for key, value in each.items()},
            "limit_microseconds": round(limit, 3),
            "share_of_limit": round(limit / each["fused"], 2),
            "ratio_to_plain": round(each["plain"] / each["fused"], 2),
            "ratio_to_unfused": round(each["unfused"] / each["fused"], 2),
            "wanted_ratio": wanted,
        }
        print(f"{name}: {json.dumps(rows[name])}", flush=True)
    return {
        "million_normals_per_second": round(normals / 1e6),
        "million_normals_per_second_of_perturb": round(perturb_rate() / 1e6),
        "giga_multiply_adds_per_second": round(madds / 1e9, 1),
        "networks": rows,
    }


def trained():
    """The MLP, trained on the zoo's test images: enough to have errors worth an attack."""
    x, y = rc.load_images(data="mnist")
    torch.manual_seed(0)
    model = dense(784, 256, 10).train()
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(300):
        some = torch.randint(len(x), (128,))
        loss = nn.functional.cross_entropy(model(x[some]), y[some])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval()
    with torch.no_grad():
        right = (model(x).argmax(1) == y).nonzero().flatten()[:IMAGES]
    return model, x[right].contiguous(), y[right]


def peers(model, x, y, eps, alpha, steps=STEPS, restarts=RESTARTS):
    """Attacks of others, calls that return how many images are fooled; and who is missing."""
    found, missing = {}, []
    try:
        import foolbox

        def with_foolbox():
            attack = foolbox.attacks.LinfPGD(steps=steps, abs_stepsize=alpha, random_start=True)
            wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
            return int(attack.repeat(restarts)(wrapped, x, y, epsilons=eps)[2].sum())

        found["foolbox"] = with_foolbox
    except ImportError as error:
        missing.append(f"foolbox: {error}")
    try:
        import torchattacks

        def with_torchattacks():
            attack = torchattacks.PGD(model, eps=eps, alpha=alpha, steps=steps, random_start=True)
            fooled = torch.zeros_like(y, dtype=torch.bool)
            for _ in range(restarts):
                points = attack(x, y)
                with torch.no_grad():
                    fooled |= model(points).argmax(1) != y
            return int(fooled.sum())

        found["torchattacks"] = with_torchattacks
    except ImportError as error:
        missing.append(f"torchattacks: {error}")
    return found, missing


def pgd_table(rounds):
    model, x, y = trained()
    most = peak() or rates()[1]
    rows, missing = {}, []
    for name, eps in (("no image fooled", 0.001), ("eps 0.03", 0.03), ("eps 0.1", 0.1)):
        alpha = eps / 40
        how = {"eps": eps, "steps": STEPS, "restarts": RESTARTS, "step_size": alpha}

        def ours(model=model, how=how):
            return rc.pgd(model, x, y, **how, progress=False)

        calls, missing = peers(model, x, y, eps, alpha)
        fooled: dict[str, int] = {}
        record, plain = ours(), ours(lambda z: model(z))
        assert abs(int(record.fooled.sum()) - int(plain.fooled.sum())) <= 1
        fooled["robustcore"] = int(record.fooled.sum())
        for each, call in tuple(calls.items()):
            calls[each] = lambda each=each, call=call: fooled.update({each: call()})  # noqa: B023
        calls["robustcore"] = ours
        calls["robustcore, not fused"] = lambda: ours(lambda z: model(z))
        took = in_turns(calls, rounds)
        each = 2 * (784 * 256 + 2560)  # multiply-adds of a gradient
        full = len(x) * RESTARTS * STEPS * each  # by those whose images never leave
        rows[name] = {
            "seconds": {key: round(value, 3) for key, value in took.items()},
            "fooled_of": len(x),
            "fooled": fooled,
            "gradients": int(record.n_backward.sum()),
            "microseconds_a_gradient": round(
                1e6 * took["robustcore"] / int(record.n_backward.sum()), 2
            ),
            "limit_seconds": round(int(record.n_backward.sum()) * each / most, 3),
            "share_of_peak_of_peers": {
                key: round(full / most / value, 2)
                for key, value in took.items()
                if not key.startswith("robustcore")
            },
            "ratios": {key: round(v / took["robustcore"], 2) for key, v in took.items()},
        }
        print(f"PGD, {name}: {json.dumps(rows[name])}", flush=True)
    return {"giga_multiply_adds_per_second": round(most / 1e9, 1), "rows": rows, "missing": missing}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("noise", "pgd"))
    out = Path(__file__).parent / "results" / "fused.json"
    parser.add_argument("--out", type=Path, default=out)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    given = parser.parse_args()
    result = json.loads(given.out.read_text()) if given.out.exists() else {}
    for threads in given.threads:
        torch.set_num_threads(threads)
        for name, table in (("noise", noise_table), ("pgd", pgd_table)):
            if given.only in (None, name):
                key = f"{name}, {threads} thread{'s' * (threads > 1)}"
                result[key] = {"machine": machine(), **table(given.rounds)}
                given.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
