"""What is asked for sets no size of memory: neither the batch size nor the number of draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from models import Small
from torch import nn

import robustcore as rc
from robustcore import inputs
from robustcore.evaluator import Evaluator
from robustcore.rounds import PART, ROUND, TOGETHER, Rounds, in_rounds

X = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
HUGE = [10**8, 2**31, 2**63, 10**30]


def watched():
    """A model of 8 x 8 pixels that is not fused, and the sizes of the batches that it saw."""
    net, sizes = Small(nn.Softplus()).eval(), []

    def model(t):
        sizes.append(len(t))
        step = t.shape[-1] // 8
        return net(t[..., ::step, ::step])

    return model, sizes


METHODS = {
    "error_rate": lambda m: rc.error_rate(m, X, 0.5, samples=40),
    "sigma": lambda m: rc.sigma_at_error_rate(m, X, 0.1, samples=60),
    "certify": lambda m: rc.certify(m, X, sigma=0.3, n0=10, n=60),
    "pgd": lambda m: rc.pgd(m, X, eps=0.5, norm=2, steps=3),
    "noisy": lambda m: rc.noisy_distance(m, X, sigma=0.3, points=10, samples=40),
    "corruptions": lambda m: rc.corruption_benchmark(
        m, X.repeat(1, 1, 4, 4), corruptions="contrast", severities=5
    ),
}


@pytest.mark.parametrize("batch_size", HUGE)
@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_never_larger_than_what_is_to_be_evaluated(method, batch_size):
    model, sizes = watched()
    record = METHODS[method](rc.Engine(model, batch_size=batch_size))
    assert max(sizes) <= 70 * len(X)
    assert record.provenance.batch_size == PART
    usual = METHODS[method](model)
    for name in record._arrays():
        mine, want = (np.asarray(getattr(each, name)) for each in (record, usual))
        if mine.dtype.kind == "f":
            np.testing.assert_allclose(mine, want, rtol=1e-3, atol=1e-5, err_msg=name)
        else:
            np.testing.assert_array_equal(mine, want, err_msg=name)


@pytest.mark.parametrize(
    ("planned", "largest"), [(0, 8192), (100, 100), (5, 32), (10**9, PART // 2**9)]
)
def test_a_model_is_compiled_on_a_batch_that_is_to_come(monkeypatch, planned, largest):
    sizes = []
    monkeypatch.setattr(
        torch, "compile", lambda model, **_: lambda t: sizes.append(len(t)) or model(t)
    )
    asked = 2**63 if planned < 10**9 else PART // 2**9
    x = torch.rand(2, 1, 2, 2)
    Evaluator(rc.Engine(lambda t: t.flatten(1), batch_size=asked, compile=True), x, planned=planned)
    assert sizes == [largest]


def test_without_compilation_no_batch_is_made_for_it():
    model, sizes = watched()
    Evaluator(rc.Engine(model, batch_size=2**63, compile=False), X)
    assert max(sizes) == 4


@pytest.mark.parametrize("batch_size", [1, 100, 512, 700, 3000])
def test_noisy_images_made_at_once_are_a_batch_or_a_few_usual_ones(batch_size):
    x = torch.rand(2, 3, 32, 32)
    engine = Evaluator(rc.Engine(lambda t: t.flatten(1)[:, :3], batch_size=batch_size), x)
    assert engine.usual_batch == 128
    engine.counts(np.array([0.1]), 4000, lambda evaluations: None)
    made = len(engine._images)
    assert made == min(TOGETHER, max(1, TOGETHER * 128 // batch_size)) * batch_size
    assert made <= max(batch_size, TOGETHER * 128)


class Enough(Exception):
    """Enough has been seen."""


DRAWS = {
    "noisy": lambda m, n: rc.noisy_distance(m, X, sigma=3.0, points=10, samples=n),
    "audit": lambda m, n: rc.audit_attack(
        m, X, None, lambda model, x, y: x, sigma=3.0, points=10, samples=n
    ),
    "certify": lambda m, n: rc.certify(m, X, sigma=0.3, n=min(n, 2**31)),
    "certify, n0": lambda m, n: rc.certify(m, X, sigma=0.3, n0=min(n, 2**31)),
    "predict": lambda m, n: rc.predict(m, X, sigma=0.3, n=min(n, 2**31)),
    "error_rate": lambda m, n: rc.error_rate(m, X, [0.3, 0.4], samples=n),
    "precision": lambda m, n: rc.error_rate(rc.Engine(m, precision="bfloat16"), X, 0.3, samples=n),
}


@pytest.mark.parametrize("method", DRAWS)
@pytest.mark.parametrize("samples", [2**31, 2**32])
def test_draws_are_named_round_by_round(monkeypatch, method, samples):
    parts = []

    def stop(self, index, make, reduce, progress=None, coarse=None):
        first = make(index[:8])
        parts.append(len(index))
        assert len(first.rows) == min(8, len(index))
        if len(index) > 1000:
            raise Enough
        return judge(self, index, make, reduce, coarse=coarse)

    judge = Rounds._pass
    monkeypatch.setattr(Rounds, "_pass", stop)
    model, _ = watched()
    with pytest.raises(Enough):
        DRAWS[method](model, samples)
    assert 1000 < max(parts) <= PART


def test_rounds_hold_every_draw_once(monkeypatch):
    monkeypatch.setattr("robustcore.rounds.ROUND", 10)
    seen = [
        pair for each in in_rounds(np.array([2, 5, 6]), 4, 21) for pair in zip(*each, strict=True)
    ]
    assert sorted(seen) == [(row, draw) for row in (2, 5, 6) for draw in range(4, 21)]
    assert max(len(rows) for rows, _ in in_rounds(np.array([2, 5, 6]), 4, 21)) <= 10
    assert ROUND == 2**20


@pytest.mark.parametrize("method", ["noisy", "audit"])
def test_counts_do_not_depend_on_the_rounds(monkeypatch, method):
    model, _ = watched()
    want = DRAWS[method](model, 100)
    monkeypatch.setattr("robustcore.rounds.ROUND", 37)
    got = DRAWS[method](model, 100)
    np.testing.assert_array_equal(got.n_errors, want.n_errors)
    assert 0 < want.n_errors.sum() < 400


def test_images_are_looked_at_in_parts(monkeypatch):
    seen = []
    finite = torch.isfinite
    monkeypatch.setattr(torch, "isfinite", lambda t: seen.append(t.numel()) or finite(t))
    x = torch.zeros(70, 3, 224, 224)
    inputs.images(x)
    assert sum(seen) == x.numel()
    assert max(seen) <= inputs.CHECKED
    x[33, 1, 5, 5], x[60, 0, 0, 0] = torch.nan, torch.inf
    with pytest.raises(ValueError, match=r"input 33 holds NaN or inf .* \(2 such\)"):
        inputs.images(x)
