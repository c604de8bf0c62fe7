"""Numbers of small calls, as they were: the alarm that some number changed.

pinned.json was written by `python tests/test_pinned.py` when the tests of theory, coverage and
exact counts held. Whoever changes a number on purpose writes it again, and says so. Models compute
in float64 and image by image, so that no other processor's rounding comes near the tolerance; of
long arrays their sum, their sum of squares and one that tells places apart are kept.
"""

import json
import warnings
from dataclasses import fields
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from rare_models import Pieces, shell, two_planes
from torch import nn

import robustcore as rc
from robustcore.corruptions import ALEXNET, NAMES, corrupt
from robustcore.results.corruptions import better_and_worse, gain, side_by_side

FILE = Path(__file__).parent / "pinned.json"
LONG = 24
RTOL = 1e-6
# Of float32: margins of windows, and corrupted pixels, of whose sum one level of
# 8 bits of one pixel is 1e-6.
COARSE, IN_FLOAT32 = 2e-5, {*NAMES, "windows", "windows, orthogonal"}
MADE = ("method", "samples", "seed", "settings", "notes", "randomized", "batch_size")


class Bent(nn.Module):
    """Four classes of 12 pixels with curved boundaries."""

    def __init__(self, sharp=1.0):
        super().__init__()
        chance = torch.Generator().manual_seed(11)
        self.w = torch.randn(2, 4, 12, generator=chance, dtype=torch.float64) / 12**0.5
        self.sharp = sharp

    def forward(self, x):
        flat = x.double().flatten(1)[:, None]
        return self.sharp * ((flat * self.w[0]).sum(2) + torch.sin(2 * (flat * self.w[1]).sum(2)))


def softmax(x):
    return Bent(300.0)(x).softmax(1)


def one_hot(x):
    return nn.functional.one_hot(Bent()(x).argmax(1), 4).double()


def images(count, shape=(3, 2, 2), seed=5):
    chance = torch.Generator().manual_seed(seed)
    return 0.2 + 0.6 * torch.rand(count, *shape, generator=chance, dtype=torch.float64)


def grey(count, n):
    return torch.full((count, 1, 1, n), 0.5, dtype=torch.float64), torch.zeros(count, dtype=int)


MODEL, X = Bent(), images(5)
Y = MODEL(X).argmax(1)
WRONG = torch.cat([Y[:4], (Y[4:] + 1) % 4])  # the last is misclassified
OTHER = (Y + 2) % 4
THREE = X[:3], Y[:3]
PLANES, SHELL = two_planes(0.5, 0.6), shell(0.9, 1.1, 5)
NEAR_AND_FAR = Pieces(None, *shell(0.06, 0.14, 3).pieces, *two_planes(1.0, 1.0).pieces)


def outward(model, x, y):
    """An attack of one step."""
    x = x.clone().requires_grad_()
    logits = model(x)
    lead = logits.gather(1, y[:, None])[:, 0] - logits.scatter(1, y[:, None], -torch.inf).amax(1)
    (slope,) = torch.autograd.grad(lead.sum(), x)
    size = slope.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return (x - 1.2 * lead.view(-1, 1, 1, 1) * slope / size**2).detach()


def spot(x):
    """Pictures, by twelve of their pixels."""
    return Bent(5.0)(4 * x[:, :, 11:13, 7:9].double() - 1.5)


class Seeded:
    """Measurements with another seed than that of the defaults."""

    def __getattr__(self, name):
        return partial(getattr(rc, name), seed=3)


seeded = Seeded()


def compared():
    near = seeded.distance_to_error(MODEL, X.flip(0), ids=[4, 3, 2, 1, 0])
    return rc.compare(seeded.sigma_at_error_rate(MODEL, X, 0.05), near)


def gained():
    benchmarks = [
        seeded.corruption_benchmark(model, PICTURES, LABELS, severities=(2, 4))
        for model in (spot, lambda x: spot(x.flip(0).flip(0) * 0.9))
    ]
    attack = seeded.pgd(MODEL, X, eps=[0.1, 0.3], norm=2, steps=5)
    one, other = benchmarks
    return {
        "gain": list(gain(one, other, ["fog", "frost"])),
        "better and worse": [list(each.items()) for each in better_and_worse(one, other)],
        "mce": [one.mce(ALEXNET), one.mce(other, exclude=["fog"])],
        "mean": one.mean_accuracy(["fog"]),
        "side by side": {
            name: kept(column)
            for name, column in side_by_side(
                {"one": one, "other": other}, {"other": [attack]}
            ).items()
        },
    }


PICTURES = images(12, (3, 32, 32))
LABELS = spot(PICTURES).argmax(1)
LABELS[5] = (LABELS[5] + 1) % 4
CALLS = {
    "error_rate": lambda: seeded.error_rate(MODEL, X, [0.1, 0.3, 1.0], WRONG, samples=300, seed=3),
    "error_rate, clipped": lambda: seeded.error_rate(
        MODEL,
        X,
        0.5,
        Y,
        samples=300,
        ids=[7, 3, 9, 1, 4],
        noise=rc.Gaussian((0, 1)),
        confidence=0.8,
    ),
    "sigma": lambda: seeded.sigma_at_error_rate(
        MODEL, X, 0.05, WRONG, samples=400, sigma_max=2.0, confidence=0.9
    ),
    "sigma, near its end": lambda: seeded.sigma_at_error_rate(
        MODEL, X, 0.02, samples=500, sigma_max=0.2
    ),
    "sigma, rtol": lambda: seeded.sigma_at_error_rate(
        MODEL, X, 0.03, samples=4000, rtol=0.06, sigma_max=3.0
    ),
    "sigma, rtol by ranks": lambda: seeded.sigma_at_error_rate(
        one_hot, X, 0.1, samples=2000, rtol=0.15, sigma_max=3.0
    ),
    "sigma, blind": lambda: seeded.sigma_at_error_rate(one_hot, X, 0.1, samples=300),
    "sigma, not monotone": lambda: seeded.sigma_at_error_rate(
        SHELL, grey(3, 5)[0], 0.02, grey(3, 5)[1], samples=400, sigma_max=1.0
    ),
    "sigma, passed on the way": lambda: seeded.sigma_at_error_rate(
        NEAR_AND_FAR, grey(3, 3)[0], 0.12, grey(3, 3)[1], samples=600, sigma_max=3.0
    ),
    "sigma, bisection": lambda: seeded.sigma_at_error_rate(
        MODEL, X, 0.05, WRONG, samples=200, method="bisection", confidence=0.8
    ),
    "curve": lambda: seeded.error_curve(
        MODEL, *THREE, (0.1, 1e-3, 1e-6), samples=500, sigma_max=2.0
    ),
    "curve, two planes": lambda: seeded.error_curve(
        PLANES, *grey(3, 5), (1e-2, 1e-5, 1e-8), samples=500, confidence=0.8
    ),
    "curve, a shell": lambda: seeded.error_curve(
        SHELL, *grey(3, 5), (1e-3, 1e-4), samples=500, sigma_max=0.4
    ),
    "curve, levels of the margin": lambda: seeded.error_curve(
        PLANES, *grey(3, 5), (1e-4, 1e-6), samples=500, sigma_max=0.2, bridge=False
    ),
    "rate, splitting": lambda: seeded.error_rate(
        MODEL,
        X,
        [0.0, 0.05, 0.1, 0.5],
        WRONG,
        samples=500,
        method="splitting",
        noise=rc.Gaussian((0, 1)),
    ),
    "sigma, splitting": lambda: seeded.sigma_at_error_rate(MODEL, X[:3], 1e-5, samples=500),
    "distance": lambda: seeded.distance_to_error(MODEL, X, WRONG),
    "distance, linf": lambda: seeded.distance_to_error(
        MODEL, X, Y, norm="Linf", box=(0.1, 0.9), restarts=2, seed=4
    ),
    "distance, effort 5": lambda: seeded.distance_to_error(MODEL, X, effort=5, targets=OTHER),
    "distance, effort 200": lambda: seeded.distance_to_error(MODEL, X, effort=200, box=(0.0, 1.0)),
    "distance, saturated": lambda: seeded.distance_to_error(softmax, X, Y),
    "distance, saturated, linf": lambda: seeded.distance_to_error(softmax, X, Y, norm="Linf"),
    "distance, pgd": lambda: seeded.distance_to_error(
        MODEL, X, method="pgd", eps=2.0, restarts=2, refine=True, loss="dlr"
    ),
    "distance, radius": lambda: seeded.distance_to_error(
        MODEL, X, method="pgd", eps="search", steps=20, restarts=2, norm="Linf"
    ),
    "pgd": lambda: seeded.pgd(
        MODEL, X, WRONG, eps=[0.05, 0.2, 0.6], norm="L2", steps=12, restarts=3, box=None
    ),
    "pgd, linf": lambda: seeded.pgd(
        MODEL, X, Y, eps=[0.02, 0.2], norm="Linf", steps=9, step_size=0.01, loss="ce", targets=OTHER
    ),
    "noisy": lambda: seeded.noisy_distance(MODEL, X, WRONG, sigma=0.2, points=30, samples=200),
    "noisy, at a rate": lambda: seeded.noisy_distance(
        MODEL, *THREE, error_rate=0.05, points=20, samples=100, confidence=0.8
    ),
    "noisy, pgd": lambda: seeded.noisy_distance(
        MODEL, *THREE, sigma=[0.1, 0.2, 0.3], points=20, samples=100, method="pgd", steps=150
    ),
    "audit": lambda: seeded.audit_attack(MODEL, X, WRONG, outward, points=60, samples=400),
    "audit, within a radius": lambda: seeded.audit_attack(
        MODEL, X, Y, outward, sigma=[0.2, 0.3], points=60, samples=400, eps=0.4, confidence=0.8
    ),
    "certify": lambda: seeded.certify(MODEL, X, WRONG, sigma=1.0, n0=20, n=500, alpha=0.02),
    "certify, a radius": lambda: seeded.certify(
        MODEL, X, Y, sigma=0.5, n0=20, n=1000, alpha=0.05, radius=0.37
    ),
    "predict": lambda: seeded.predict(MODEL, X, Y, sigma=2.5, n=300, alpha=0.05),
    "predict, early": lambda: seeded.predict(MODEL, X, Y, sigma=2.0, n=900, alpha=0.05, early=True),
    "windows": lambda: seeded.church_windows(MODEL, X, WRONG, sigma=0.5, samples=200, size=21),
    "windows, orthogonal": lambda: seeded.church_windows(
        MODEL, *THREE, across="adversarial", up="orthogonal", rate=0.1, samples=200, size=33,
        coarse=4, attack="minimum", extent=1.5,
    ),
    "benchmark": lambda: seeded.corruption_benchmark(
        spot, PICTURES, LABELS, severities=(1, 3, 5), storage="uint8", confidence=0.8
    ),
    "benchmark, jpeg": lambda: seeded.corruption_benchmark(
        spot, PICTURES, corruptions=("fog", "snow"), storage="jpeg", quality=40, seed=2
    ),
    "compare": compared,
    "gains": gained,
}  # fmt: skip


def kept(value):
    """A number, a word, or the numbers that stand for an array."""
    if isinstance(value, torch.Tensor):
        value = value.numpy()
    if not isinstance(value, np.ndarray):
        return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
    if value.dtype.kind in "US":
        return value.tolist()
    flat = value.astype(float).ravel()
    if len(flat) > LONG:
        finite = np.nan_to_num(flat, nan=-3.0, posinf=-2.0, neginf=-1.0)
        place = 1 + np.arange(len(flat)) % 97
        flat = np.array([finite.sum(), (finite**2).sum(), (finite * place).sum()])
    return [str(value.shape), *(float(f"{each:.9g}") for each in flat.tolist())]


def told(record):
    """All that a record says but for the time it took and the machine."""
    kind = type(record)
    names = [field.name for field in fields(record) if field.name != "provenance"]
    names += [name for name in dir(kind) if isinstance(getattr(kind, name), property)]
    found = {name: kept(getattr(record, name)) for name in names}
    found |= {f"column {name}": kept(value) for name, value in record.columns().items()}
    made = record.provenance
    found |= {f"made {name}": str(getattr(made, name)) for name in MADE}
    for name in ("half_space_sigma", "ratio"):
        if callable(method := getattr(record, name, None)):
            found[name] = kept(method())
    return found | {"repr": repr(record)}


def corrupted(name):
    """Small images, wide or high, at severities of both sets of parameters."""
    small = images(2, (3, 32, 44), seed=8).float()
    large = images(1, (3, 72, 56), seed=9).float()
    found = {
        f"{severity}": kept(corrupt(small, name, severity, seed=3, parameters="cifar"))
        for severity in (1, 3, 5)
    }
    for severity in (2, 4):
        found[f"imagenet {severity}"] = kept(corrupt(large, name, severity, parameters="imagenet"))
    return found


def called(name):
    """As JSON gives it back."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = corrupted(name) if name in NAMES else CALLS[name]()
    return json.loads(json.dumps(found if isinstance(found, dict) else told(found)))


def assert_same(want, got, rtol, place=()):
    if isinstance(want, dict):
        assert got.keys() == want.keys(), place
        pairs = [(want[key], got[key], (*place, key)) for key in want]
    elif isinstance(want, list):
        assert len(got) == len(want), place
        pairs = [(*each, (*place, at)) for at, each in enumerate(zip(want, got, strict=True))]
    elif isinstance(want, float):
        assert got == pytest.approx(want, rel=rtol, abs=1e-9, nan_ok=True), place
        return
    else:
        assert got == want, place
        return
    for pair in pairs:
        assert_same(*pair[:2], rtol, pair[2])


@pytest.fixture(scope="module")
def pinned():
    return json.loads(FILE.read_text())


@pytest.mark.parametrize("name", [*CALLS, *NAMES])
def test_the_numbers_are_those_that_were_pinned(name, pinned):
    assert_same(pinned[name], called(name), COARSE if name in IN_FLOAT32 else RTOL)


def test_every_pinned_call_is_made(pinned):
    assert pinned.keys() == {*CALLS, *NAMES}


def test_another_seed_is_another_number(pinned):
    """The control."""
    other = rc.error_rate(MODEL, X, [0.1, 0.3, 1.0], WRONG, samples=300, seed=4)
    with pytest.raises(AssertionError):
        assert_same(pinned["error_rate"], json.loads(json.dumps(told(other))), RTOL)


if __name__ == "__main__":
    lines = [f"{json.dumps(name)}: {json.dumps(called(name))}" for name in [*CALLS, *NAMES]]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
