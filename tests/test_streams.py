"""Streams: no two methods share a draw."""

import re
from pathlib import Path

import pytest
import torch
from models import HalfSpace, grey

import robustcore as rc
from robustcore import kernels
from robustcore.corruptions import NAMES
from robustcore.evaluator import Evaluator
from robustcore.streams import Stream

SOURCES = Path(rc.__file__).parent
MODEL = HalfSpace(192, 0.3)
X, Y = grey(3, (3, 8, 8))
METHODS = {
    "error_rate": (
        {Stream.NOISE},
        lambda **names: rc.error_rate(MODEL, X, 0.2, Y, samples=20, **names),
    ),
    "sigma": (
        {Stream.NOISE},
        lambda **names: rc.sigma_at_error_rate(MODEL, X, 0.1, Y, samples=50, **names),
    ),
    "pgd": (
        {Stream.NOISE, Stream.STARTS},  # the clean pass adds no noise
        lambda **names: rc.pgd(MODEL, X, Y, eps=0.1, norm=2, steps=2, **names),
    ),
    "distance": (
        {Stream.NOISE, Stream.STARTS, Stream.NEAREST_ERROR},
        lambda **names: rc.distance_to_error(MODEL, X, Y, effort=300, restarts=2, **names),
    ),
    "noisy": (
        {Stream.NOISY_POINTS},
        lambda **names: rc.noisy_distance(MODEL, X, Y, sigma=0.1, points=20, samples=50, **names),
    ),
    "audit": (
        {Stream.AUDIT},
        lambda **names: rc.audit_attack(
            MODEL, X, Y, lambda model, x, y: x, sigma=0.3, points=20, samples=50, **names
        ),
    ),
    "curve": (
        {Stream.RARE_ERRORS},
        lambda **names: rc.error_curve(
            MODEL, X, Y, rates=(0.1, 1e-3), samples=200, second_look=False, **names
        ),
    ),
    "certify": (
        {Stream.CERTIFY},
        lambda **names: rc.certify(MODEL, X, Y, sigma=0.1, n0=10, n=20, **names),
    ),
    "predict": (
        {Stream.CERTIFY},
        lambda **names: rc.predict(MODEL, X, Y, sigma=0.1, n=20, **names),
    ),
    "windows": (
        {Stream.NOISE, Stream.STARTS, Stream.SLICES},
        lambda **names: rc.church_windows(
            MODEL, X, Y, across="orthogonal", samples=200, size=20, **names
        ),
    ),
}


@pytest.fixture
def drawn(monkeypatch):
    """(stream, seed, ids) of every draw that a kernel makes."""
    used = []

    def watched(name, default, ids):
        body = getattr(kernels.select("reference", torch.device("cpu")), name)

        def call(*arguments, **options):
            used.append((options.get("stream", default), options["seed"], arguments[ids].tolist()))
            return body(*arguments, **options)

        return call

    bodies = kernels.select("reference", torch.device("cpu"))
    watched_bodies = type(bodies)(
        **{
            **vars(bodies),
            "perturb": watched("perturb", Stream.NOISE, 4),
            "random_start": watched("random_start", Stream.STARTS, 2),
        }
    )
    monkeypatch.setattr("robustcore.engine.select", lambda backend, device: watched_bodies)
    monkeypatch.setattr("robustcore.engine.fuse", lambda *arguments: None)
    return used


@pytest.mark.parametrize("method", METHODS)
def test_a_method_draws_from_its_own_streams_of_the_seed_and_the_ids(drawn, method):
    own, call = METHODS[method]
    call(seed=7, ids=[11, 5, 9])
    assert {stream for stream, _, _ in drawn} == own | {Stream.PROBE}
    assert {seed for _, seed, _ in drawn} == {7}
    assert {each for _, _, ids in drawn for each in ids} <= {11, 5, 9}


def test_streams_are_disjoint():
    of_corruptions = {Stream.CORRUPTIONS + i for i in range(len(NAMES))}
    others = {int(stream) for stream in Stream} - {int(Stream.CORRUPTIONS)}
    assert len(others) == len(Stream) - 1
    assert not others & of_corruptions
    assert Stream["NOISE"] == 0
    assert Stream["STARTS"] == 1, "the contract of random_start"


def test_no_stream_is_named_elsewhere():
    """A literal stream in the sources would not be in the table."""
    literal = re.compile(r"\b(stream=\d|STREAM\b)")
    contracts = ("kernels/", "fused/", "corruptions/kernels", "corruptions/triton")
    for file in SOURCES.rglob("*.py"):
        name = str(file.relative_to(SOURCES))
        if not name.startswith((*contracts, "streams")):
            assert not literal.search(file.read_text()), name
    assert literal.search("perturb(x, stream=2)")


def test_draws_of_two_streams_are_independent():
    """The correlation of 120,000 pairs is beyond 4.4 / sqrt(n) once in 100,000 tries."""
    x, _ = grey(1, (3, 100, 400))

    def noise(stream):
        engine = Evaluator(lambda t: t.flatten(1)[:, :2], x, stream=stream)
        rows = torch.zeros(1, dtype=torch.int64)
        return (engine.noisy(rows, torch.ones(1), rows) - x).flatten().double()

    def correlation(a, b):
        return float(torch.corrcoef(torch.stack([noise(a), noise(b)]))[0, 1])

    bound = 4.4 / x.numel() ** 0.5
    assert abs(correlation(Stream.NOISE, Stream.CERTIFY)) < bound
    assert abs(correlation(Stream.NOISY_POINTS, Stream.NEAREST_ERROR)) < bound
    assert abs(correlation(Stream.AUDIT, Stream.SLICES)) < bound
    assert correlation(Stream.CERTIFY, Stream.CERTIFY) > 0.99, "a control: the same draws"
