"""Signals: how much noise does a classifier of chirps withstand, and how much in few directions?

    python examples/chirps.py [--out out/chirps]

The signals, of 256 values, are made here: their pitch rises (class 1) or falls (class 0), at any
phase and loudness. A small network of 1-D convolutions learns them in seconds. Printed: the noise
at which 1 % are wrong, over all 256 dimensions and in the 20 principal components of the signals
alone. Drawn: one signal, the same with that noise, and its nearest error.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

import robustcore as rc

LENGTH, COMPONENTS = 256, 20
SIGNALS, MEASURED = 2000, 30

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--out", type=Path, default=Path("out/chirps"))
args = parser.parse_args()


def chirps(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(count, 1, LENGTH) and their classes."""
    drawn = torch.Generator().manual_seed(seed)
    rising = torch.randint(2, (count, 1), generator=drawn)
    phase, loudness = torch.rand(2, count, 1, generator=drawn)
    time = torch.linspace(0, 1, LENGTH)
    pitch = torch.where(rising == 1, 10 + 5 * time, 20 - 5 * time)
    signal = (0.5 + loudness) * torch.sin(2 * math.pi * (phase + pitch * time))
    return signal[:, None], rising[:, 0]


torch.manual_seed(0)
net = nn.Sequential(
    nn.Conv1d(1, 16, 15, stride=4), nn.ReLU(),
    nn.Conv1d(16, 16, 7, stride=2), nn.ReLU(),
    nn.Flatten(), nn.Linear(16 * 28, 2),
)  # fmt: skip
x, y = chirps(SIGNALS, seed=0)
optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
for _ in range(10):
    for part in torch.randperm(SIGNALS).split(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x[part]), y[part]).backward()
        optimizer.step()
net.eval()

signals, classes = chirps(MEASURED, seed=1)
engine = rc.Engine(net, pixels=None)
white = rc.sigma_at_error_rate(engine, signals, 0.01, classes)
basis = rc.principal_components(x, COMPONENTS)
within = rc.scale_at_error_rate(engine, signals, 0.01, classes, noise=rc.Subspace(basis))
near = rc.distance_to_error(engine, signals, classes, box=None)
print(f"{MEASURED} signals of {LENGTH} values, medians")
print(f"  sigma at which 1 % are wrong                      {np.median(white.sigma):.3f}")
print(f"  the same in {COMPONENTS} principal components             {np.median(within.sigma):.3f}")
print(f"  distance (l2) to the nearest error                {np.median(near.distance):.3f}")

args.out.mkdir(parents=True, exist_ok=True)
sigma = float(white.sigma[0])
noisy = rc.noisy_copies(signals[:1], sigma, pixels=None)[0, 0]
figure = Figure(figsize=(8, 5), layout="constrained")
rows = figure.subplots(3, sharex=True, sharey=True)
drawn = (
    ("a signal", signals[0]),
    (f"in noise of sigma {sigma:.2f}, at which 1 % are wrong", noisy),
    (f"its nearest error found, at distance {near.distance[0]:.2f}", near.x_adv[0]),
)
for axes, (title, values) in zip(rows, drawn, strict=True):
    axes.plot(values.flatten(), linewidth=1)
    axes.set_title(title, loc="left", fontsize=10)
rows[-1].set_xlabel("time")
figure.savefig(args.out / "chirps.png", dpi=150)
print(f"wrote {args.out / 'chirps.png'}")
