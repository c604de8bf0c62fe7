"""The work that a method announces: evaluations to come, by which it compiles, and its bars."""

import numpy as np
import pytest
from test_pinned import LABELS, MODEL, PICTURES, WRONG, X, Y, outward, spot

import robustcore as rc
from robustcore import provenance
from robustcore.engine import Engine
from robustcore.evaluator import Evaluator
from robustcore.network import Network


class Bar:
    """What tqdm is told."""

    made: list["Bar"]

    def __init__(self, total, unit, disable):
        self.first = self.total = total
        self.unit, self.disable, self.n = unit.strip(), disable, 0
        self.made.append(self)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def update(self, more=1):
        self.n += more

    def set_postfix_str(self, said):
        pass


@pytest.fixture
def work(monkeypatch):
    """(bars, evaluations planned of each engine, those of looks that nobody asked for)."""
    planned, looks, asked, compared = [], [], Engine.compiled_for, Network.compared_since

    def compiled_for(self, evaluations, images):
        planned.append(evaluations)
        return asked(self, evaluations, images)

    def compared_since(self):
        looks.append(compared(self))
        return looks[-1]

    monkeypatch.setattr(Engine, "compiled_for", compiled_for)
    monkeypatch.setattr(Network, "compared_since", compared_since)
    monkeypatch.setattr(provenance, "tqdm", Bar)
    Bar.made = []
    return Bar.made, planned, looks


# call: (bars as (unit, first total, how far at the end), evaluations planned). Of five images the
# last is misclassified: nothing is searched about it. None: as far as evaluations were spent.
NOISE = {"samples": 50, "sigma": 0.1, "points": 20}
CALLS = {
    "rate": (
        lambda: rc.error_rate(MODEL, X, [0.1, 0.3], WRONG, samples=50),
        [("evaluations", 5 * 2 * 50, 500)],
        5 * 2 * 50,
    ),
    "sigma": (
        lambda: rc.sigma_at_error_rate(MODEL, X, 0.1, WRONG, samples=100),
        [("evaluations", 4 * 100, None)],
        5 * 100,
    ),
    "bisection": (
        lambda: rc.sigma_at_error_rate(MODEL, X, 0.1, WRONG, samples=100, method="bisection"),
        [("evaluations", 4 * 8 * 100, None)],
        5 * 8 * 100,
    ),
    "certify": (
        lambda: rc.certify(MODEL, X, Y, sigma=0.3, n0=7, n=40),
        [("evaluations", 5 * (7 + 40), 235)],
        5 * (7 + 40),
    ),
    "certify, a radius": (
        lambda: rc.certify(MODEL, X, Y, sigma=0.3, n0=7, n=400, radius=0.1),
        [("evaluations", 5 * (7 + 400), None)],
        5 * (7 + 400),
    ),
    "predict": (
        lambda: rc.predict(MODEL, X, Y, sigma=0.3, n=40),
        [("evaluations", 5 * 40, 200)],
        5 * 40,
    ),
    "distance": (
        lambda: rc.distance_to_error(MODEL, X, WRONG, effort=20),
        [("images", 4, 4)],
        0,
    ),
    "distance, pgd": (
        lambda: rc.distance_to_error(MODEL, X, WRONG, method="pgd", eps=0.1, steps=3),
        [("images", 4, 4)],
        0,
    ),
    "distance, radius": (
        lambda: rc.distance_to_error(MODEL, X, WRONG, method="pgd", eps="search", steps=3),
        [("images", 4, 4)],
        0,
    ),
    "pgd": (
        lambda: rc.pgd(MODEL, X, WRONG, eps=[0.1, 0.2, 0.3], norm=2, steps=3),
        [("images", 3 * 5, 15)],
        0,
    ),
    "noisy": (
        lambda: rc.noisy_distance(MODEL, X, WRONG, **NOISE),
        [("images", 5, 5)],
        5 * (50 + 9 * 20),
    ),
    "audit": (
        lambda: rc.audit_attack(MODEL, X, WRONG, outward, **NOISE | {"sigma": [0.1, 0.2]}),
        [("attacks", 4 * (2 * 20 + 1), 164)],  # no noisy image is an error
        5 * 2 * 50,
    ),
    "curve": (
        lambda: rc.error_curve(
            MODEL, X, WRONG, (0.1, 1e-3), samples=200, second_look=False, bridge=False
        ),
        # half of the samples are particles: three evaluations of each for every power of e from 0.1
        # down, to 1e-6 where compilation is decided
        [("evaluations", 5 * (200 + int(3 * np.log(0.1 / 1e-3) * 100)), None)],
        5 * (200 + int(3 * np.log(0.1 / 1e-6) * 100)),
    ),
    "windows": (
        lambda: rc.church_windows(MODEL, X, WRONG, sigma=0.5, samples=50, size=21),
        [("noisy images", 4 * 50, 200), ("images", 4, 4), ("nodes", 0, 684)],
        int(5 * (50 + 0.1 * 21**2)),
    ),
    "corruptions": (
        lambda: rc.corruption_benchmark(
            spot, PICTURES, LABELS, corruptions="fog", severities=(1, 2)
        ),
        [("evaluations", 12 * 3, 36)],
        12 * 3,
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_bars_end_where_they_said_and_engines_know_what_is_to_come(name, work):
    call, expected, evaluations = CALLS[name]
    bars, planned, looks = work
    record = call()
    assert planned[0] == evaluations
    assert [(bar.unit, bar.first) for bar in bars] == [each[:2] for each in expected]
    for bar, (_, _, end) in zip(bars, expected, strict=True):
        if end is None:
            end = int((record.n_forward - Evaluator(MODEL, X, WRONG).n_forward).sum()) - sum(looks)
        assert bar.n == end
        assert bar.n <= bar.total


def test_a_bar_is_shown_on_a_terminal_alone_unless_asked_for(work):
    bars, *_ = work
    for progress in (None, True, False):
        rc.error_rate(rc.Engine(MODEL, progress=progress), X, 0.1, samples=5)
    assert [bar.disable for bar in bars] == [None, False, True]
