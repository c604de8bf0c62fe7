"""A step of training against a plain torch loop written with care, and what augmentation costs.

    OMP_WAIT_POLICY=passive pytest benchmarks/bench_training.py --benchmark-only \
        --benchmark-json=benchmarks/results/training.json

ResNet-20, batch 256, images in memory, channels last, on a GPU where there is one. Both loops train
the same network in turns of a few steps in one process, first one and then the other, so that both
meet the same machine; the ratio is the median over pairs of turns, with the standard error of their
mean, in wall time and in the CPU time of all threads. Natural training is gated on equal weights,
to the bit on a CPU. Neither side is compiled: that helps both alike.
"""

import statistics
import time

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from robustcore import training, zoo
from robustcore.training.settings import Settings
from robustcore.training.trainer import Trainer
from robustcore.training.world import World

BATCH, STEPS, TURNS = 256, 4, 20
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
RECIPES = {
    "natural": training.Natural(),
    "gaussian": training.Gaussian(0.1),
    "adversarial": training.Adversarial(steps=1),
}


def images():
    generator = torch.Generator().manual_seed(0)
    n = BATCH * STEPS * (TURNS + 1)
    x = torch.randint(0, 256, (n, 3, 32, 32), generator=generator, dtype=torch.uint8)
    y = torch.randint(0, 10, (n,), generator=generator)
    return training.Data("random", x, y, x[:10], y[:10], pad=4, mirror=True)


class Plain:
    """The loop by hand: vectorised crops, torch's schedule, noise and signs."""

    def __init__(self, data, recipe):
        torch.manual_seed(0)
        self.model = zoo.NETWORKS["resnet20"]().to(DEVICE, memory_format=torch.channels_last)
        decay = [p for p in self.model.parameters() if p.ndim > 1]
        rest = [p for p in self.model.parameters() if p.ndim <= 1]
        groups = [{"params": decay, "weight_decay": 5e-4}, {"params": rest}]
        self.optimizer = torch.optim.SGD(groups, lr=0.3, momentum=0.9, nesterov=True)
        steps = len(data.x) // BATCH
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, 0.3, total_steps=steps, pct_start=0.15, cycle_momentum=False,
            div_factor=10, final_div_factor=1e4,
        )  # fmt: skip
        self.padded, self.y = F.pad(data.x, (4, 4, 4, 4)).to(DEVICE), data.y.to(DEVICE)
        self.generator = torch.Generator().manual_seed(0)
        self.order = torch.randperm(len(data.x), generator=self.generator)
        self.recipe, self.taken = recipe, 0

    def crop(self, index):
        n, device = len(index), self.padded.device
        top, left = torch.randint(0, 9, (2, n, 1), generator=self.generator)
        cols = left + torch.arange(32)
        mirrored = torch.rand(n, generator=self.generator) < 0.5
        cols[mirrored] = cols[mirrored].flip(1)
        rows, cols = (top + torch.arange(32)).to(device), cols.to(device)
        crops = self.padded[
            index[:, None, None, None],
            torch.arange(3, device=device)[None, :, None, None],
            rows[:, None, :, None],
            cols[:, None, None, :],
        ]
        return crops.float().div_(255).contiguous(memory_format=torch.channels_last)

    def augmented(self, x, y):
        if self.recipe == "gaussian":
            sigma = torch.rand(len(x), 1, 1, 1, device=x.device) * 0.1
            return torch.randn_like(x).mul_(sigma).add_(x)
        if self.recipe == "adversarial":
            eps = 8 / 255
            self.model.eval()
            start = torch.empty_like(x).uniform_(-eps, eps).add_(x).clamp_(0, 1)
            start.requires_grad_(True)
            loss = F.cross_entropy(self.model(start), y, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, start)
            step = start.detach() + 1.25 * eps * gradient.sign()
            x = torch.minimum(torch.maximum(step, x - eps), x + eps).clamp_(0, 1)
            self.model.train()
        return x

    def step(self):
        index = self.order[self.taken * BATCH : (self.taken + 1) * BATCH].to(DEVICE)
        x, y = self.crop(index), self.y[index]
        loss = F.cross_entropy(self.model(self.augmented(x, y)), y)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        self.taken += 1


class Ours:
    def __init__(self, data, recipe):
        torch.manual_seed(0)
        steps = (len(data.x) // BATCH,)
        chosen = Settings((1,), (0.3,), "one-cycle", BATCH, 5e-4, 0, "float32")
        model = zoo.NETWORKS["resnet20"]()
        world = World(0, 1, DEVICE)
        self.trainer = Trainer(model, data, RECIPES[recipe], chosen, world, compile=False)
        self.epoch, self.taken, self.steps = self.trainer.batches.epoch(0), 0, steps

    def step(self):
        self.trainer._step(self.epoch[self.taken], self.taken)
        self.taken += 1


def turn(loop):
    """Wall and CPU seconds of one step, over a turn of STEPS."""
    start = np.array([time.perf_counter(), time.process_time()])
    for _ in range(STEPS):
        loop.step()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return (np.array([time.perf_counter(), time.process_time()]) - start) / STEPS


def seconds(call, repeats=15):
    """CPU seconds of a call; wall seconds on a GPU."""
    clock = time.perf_counter if DEVICE.type == "cuda" else time.process_time
    times = []
    for _ in range(repeats):
        start = clock()
        call()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        times.append(clock() - start)
    return statistics.median(times)


@pytest.mark.parametrize("recipe", RECIPES)
def test_step(benchmark, capsys, recipe):
    data = images()
    plain, ours = Plain(data, recipe), Ours(data, recipe)
    turn(plain), turn(ours)  # to warm up
    times = {"plain": [], "ours": []}
    loops = [("plain", plain), ("ours", ours)]
    for _ in range(TURNS):
        for name, loop in loops:
            times[name].append(turn(loop))
        loops.reverse()
    if recipe == "natural" and DEVICE.type == "cpu":
        pairs = zip(
            plain.model.state_dict().values(),
            ours.trainer.model.state_dict().values(),
            strict=True,
        )
        assert all(torch.equal(a, b) for a, b in pairs)

    steps = {name: np.median(turns, 0) for name, turns in times.items()}  # (wall, CPU)
    ratios = np.array(times["plain"]) / np.array(times["ours"])
    ratio, error = np.median(ratios, 0), ratios.std(0, ddof=1) / np.sqrt(TURNS)
    step = steps["ours"][0 if DEVICE.type == "cuda" else 1]
    batch, tools = ours.epoch[0], ours.trainer.judge.tools
    augmented = seconds(lambda: RECIPES[recipe](batch, tools)) if recipe == "gaussian" else 0.0
    share = augmented / step
    cropped = seconds(lambda: ours.epoch[0]) / step
    benchmark.pedantic(lambda: ours.epoch[0], rounds=5)
    benchmark.extra_info.update(
        recipe=recipe,
        device=str(DEVICE),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        seconds_a_step=[round(float(each), 4) for each in steps["ours"]],
        ratio_to_plain=[round(float(each), 3) for each in ratio],
        its_standard_error=[round(float(each), 3) for each in error],
        noise_share=round(share, 4),
        crop_share=round(cropped, 4),
    )
    with capsys.disabled():
        noise = f", noise {100 * share:.2f} % of it" if recipe == "gaussian" else ""
        print(
            f"\n{recipe} on {DEVICE}, {torch.get_num_threads()} threads: {1e3 * step:.1f} ms a "
            f"step, {ratio[0]:.3f} +- {error[0]:.3f} times as fast as plain torch by the clock, "
            f"{ratio[1]:.3f} +- {error[1]:.3f} in CPU time; crops {100 * cropped:.2f} %{noise}"
        )
