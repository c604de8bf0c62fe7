"""Counts of fused networks: those of the unfused path, however their draws are grouped."""

import numpy as np
import pytest
import torch
from fused_models import MODELS, in_doubt, model, slots

import robustcore as rc
from robustcore.evaluator import Evaluator
from robustcore.fused import pack
from robustcore.fused.native import ISAS, NativeNet
from robustcore.fused.reference import ReferenceNet

WIDE = [name for name in MODELS if name != "strided"]  # whose leads are hardly above the band
pytestmark = pytest.mark.usefixtures("strange_memory")


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", WIDE)
def test_counts_of_each_instruction_set_are_the_reference_outside_the_rounding_band(name, isa):
    module, shape = model(name)
    packed, x, ids = pack(module, shape), slots(shape)[0], torch.arange(5)
    grid, labels, names = torch.tensor([0.1, 0.4, 1.5]), packed(x).argmax(1), {"seed": 5}
    counts, expected, other = torch.full((3, 5, 3), 100)
    net, exact = NativeNet(packed, isa), ReferenceNet(packed, torch.float64)
    for first, n in ((0, 70), (70, 50)):
        net.count_errors(x, labels, grid, ids, (first, n), counts, **names)
    net.count_errors(x, labels, grid, ids, (0, 120), other, seed=6)
    exact.count_errors(x, labels, grid, ids, (0, 120), expected, **names)
    inside = in_doubt(packed, x, labels, grid, 120, **names)
    assert bool(((counts - expected).abs() <= inside).all())
    assert float(inside.double().mean()) < 0.02 * 120
    assert not bool(((other - expected).abs() <= inside).all())


@pytest.mark.usefixtures("batches_not_compared")
@pytest.mark.parametrize("clip", [None, (0.0, 1.0)])
@pytest.mark.parametrize("name", ["linear", "mlp", "awkward", "chain"])
def test_counts_are_those_of_the_unfused_path_outside_the_rounding_band(name, clip):
    module, shape = model(name)
    x = slots(shape)[0]
    grid, samples = [0.0, 0.1, 0.4, 1.5], 300
    how = {"samples": samples, "seed": 5, "noise": rc.Gaussian(clip)}
    fused = rc.error_rate(module, x, grid, **how)
    plain = rc.error_rate(lambda images: module(images), x, grid, **how)
    assert any("fused" in note for note in fused.provenance.notes)
    assert not any("fused" in note for note in plain.provenance.notes)
    np.testing.assert_array_equal(fused.labels, plain.labels)
    np.testing.assert_array_equal(fused.n_forward[1:], plain.n_forward[1:])
    assert fused.n_forward[0] - plain.n_forward[0] in (0, 1), "a module's memory format is tried"
    labels = torch.tensor(plain.labels)
    inside = in_doubt(pack(module, shape), x, labels, grid, samples, seed=5, clip=clip).numpy()
    assert np.all(np.abs(fused.n_errors - plain.n_errors) <= inside)
    assert inside[:, 1:].mean() < 0.02 * samples  # without noise all draws are one
    other = rc.error_rate(module, x, grid, **{**how, "seed": 6})
    assert not np.all(np.abs(other.n_errors - plain.n_errors) <= inside)


@pytest.mark.parametrize(
    "change", [{}, {"stream": 5}, {"seed": 3}, {"noise": rc.Gaussian((0.0, 1.0))}]
)
def test_margins_are_those_of_the_unfused_draws_of_any_seed_and_stream(change):
    module, shape = model("mlp")
    x = slots(shape)[0]
    table = np.arange(len(x)).repeat(20), np.full(20 * len(x), 0.3), np.tile(np.arange(20), len(x))
    fused, plain = (
        Evaluator(each, x, **change) for each in (module, lambda images: module(images))
    )
    assert fused.fused is not None
    assert plain.fused is None
    margins = fused.margins(*table)
    np.testing.assert_allclose(margins, plain.margins(*table), rtol=1e-4, atol=1e-4)
    counts = fused.counts(np.array([0.3, 1.0]), 50, lambda n: None)
    assert np.abs(counts - plain.counts(np.array([0.3, 1.0]), 50, lambda n: None)).max() <= 1
    if change:
        assert not np.allclose(margins, Evaluator(module, x).margins(*table), atol=1e-2)


def test_a_grid_counts_what_each_sigma_counts_alone():
    module, shape = model("mlp")
    x = slots(shape)[0]
    how = {"samples": 200}
    grid = rc.error_rate(module, x, [0.1, 0.3, 0.9], **how)
    for g, sigma in enumerate(grid.sigma):
        alone = rc.error_rate(module, x, float(sigma), **how)
        np.testing.assert_array_equal(alone.n_errors.ravel(), grid.n_errors[:, g])


@pytest.mark.parametrize("most", [1, 7, 40, 100])
def test_counts_do_not_depend_on_how_draws_are_grouped(monkeypatch, most):
    module, shape = model("mlp")
    engine = Evaluator(module, slots(shape)[0], seed=4)
    grid, shown = np.array([0.3, 0.9]), []
    want = engine.counts(grid, 40, lambda n: None)
    monkeypatch.setattr("robustcore.fused.AT_ONCE", most)
    np.testing.assert_array_equal(engine.counts(grid, 40, shown.append), want)
    assert sum(shown) == want.size * 40
    assert max(shown) <= most * len(grid)


def test_counts_and_margins_of_the_engine_agree():
    module, shape = model("chain")
    x = slots(shape)[0]
    engine = Evaluator(module, x, seed=4)
    assert engine.fused is not None
    counts = engine.counts(np.array([0.5]), 150, lambda n: None)
    rows = np.arange(len(x)).repeat(150)
    margins = engine.margins(rows, np.full(len(rows), 0.5), np.tile(np.arange(150), len(x)))
    wrong = ~(margins > 0)
    np.testing.assert_array_equal(np.bincount(rows, wrong), counts[:, 0])
