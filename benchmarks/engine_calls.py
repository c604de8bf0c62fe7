"""What a second call with one engine saves: time outside the forward pass, and evaluations.

    python benchmarks/engine_calls.py

`error_rate` of 8 images by `cifar10-natural`, 20 draws at one sigma, so that the set-up counts: the
first call with a new engine and the second, 7 times, medians. Writes results/engine_calls.json.
"""

import json
import statistics
import time
from pathlib import Path

import torch
from machine import machine

import robustcore as rc

REPEATS = 7
RESULT = Path(__file__).parent / "results" / "engine_calls.json"


class Timed(torch.nn.Module):
    """A module that adds up the processor time of its forward passes, and their evaluations."""

    def __init__(self, net):
        super().__init__()
        self.net, self.seconds, self.evaluations = net, 0.0, 0

    def forward(self, x):
        start = time.process_time()
        out = self.net(x)
        self.seconds += time.process_time() - start
        self.evaluations += len(x)
        return out


def call(engine, x, y):
    """(seconds outside the forward pass, evaluations)."""
    timed = engine.model
    timed.seconds, timed.evaluations = 0.0, 0
    start = time.process_time()
    rc.error_rate(engine, x, 0.05, y, samples=20)
    return time.process_time() - start - timed.seconds, timed.evaluations


def main():
    torch.set_num_threads(1)
    net, x, y = rc.load_example("cifar10-natural", images=8)
    rc.error_rate(net, x, 0.05, y, samples=20)  # imports
    calls = []
    for _ in range(REPEATS):
        engine = rc.Engine(Timed(net).eval(), progress=False)
        calls.append((call(engine, x, y), call(engine, x, y)))
    row = {}
    for at, name in enumerate(("first", "second")):
        row[name] = {
            "seconds_outside": round(statistics.median(each[at][0] for each in calls), 5),
            "evaluations": calls[0][at][1],
        }
    row["share"] = round(row["second"]["seconds_outside"] / row["first"]["seconds_outside"], 3)
    print(json.dumps(row, indent=1))
    told = {"command": "python benchmarks/engine_calls.py", "machine": machine(), "calls": row}
    RESULT.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
