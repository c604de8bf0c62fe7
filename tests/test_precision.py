"""Lower precision: the counts are those of the model as it is, and a control where they are not."""

import numpy as np
import pytest
import torch
from torch import nn

import robustcore as rc
from robustcore import precision
from robustcore.evaluator import Evaluator


class Rounded(nn.Module):
    """A linear model whose logits are off by up to `error` where it computes coarsely."""

    def __init__(self, error):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(5, 48, generator=generator))
        self.error, self.coarse = error, 0

    def forward(self, x):
        if not torch.is_autocast_enabled("cpu"):
            return x.flatten(1) @ self.weight.T
        self.coarse += len(x)
        with torch.autocast("cpu", enabled=False):
            logits = x.flatten(1) @ self.weight.T
        return logits + self.error * torch.sin(1e4 * logits)


def setting(error=0.3, n=6):
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(n, 3, 4, 4, generator=generator)
    return Rounded(error).eval(), x


def table(n, draws, sigma=0.3):
    rows = np.repeat(np.arange(n), draws)
    return rows, np.full(len(rows), sigma), np.tile(np.arange(draws), n)


def test_counts_margins_and_classes_are_those_of_full_precision():
    model, x = setting()
    full, lower = Evaluator(model, x), Evaluator(rc.Engine(model, precision="bfloat16"), x)
    grid = np.array([0.1, 0.3])
    counts = full.counts(grid, 500, lambda n: None)
    assert counts.sum() > 100
    assert (lower.counts(grid, 500, lambda n: None) == counts).all()
    slots = table(len(x), 500)
    exact, near = full.margins(*slots), lower.margins(*slots)
    assert ((near > 0) == (exact > 0)).all()
    again = near == exact  # each draw in doubt was looked at again, and few were not in doubt
    assert again[np.abs(exact) < 0.5].all()
    assert not again.all()
    assert (full.classes(*slots) == lower.classes(*slots)).all()
    assert model.coarse > 0


def test_without_a_second_look_they_are_not(monkeypatch):
    monkeypatch.setattr(precision, "SAFE", 0.0)
    model, x = setting()
    slots = table(len(x), 500)
    full, lower = Evaluator(model, x), Evaluator(rc.Engine(model, precision="bfloat16"), x)
    assert ((lower.margins(*slots) > 0) != (full.margins(*slots) > 0)).any()


@pytest.mark.usefixtures("batches_not_compared")
def test_bfloat16_of_a_network_keeps_its_counts():
    """Three images at a sigma where one draw in six has a margin under 0.03: rounding could decide.

    Few draws, as a CPU without bfloat16 takes 20 ms for each.
    """
    model, x, y = rc.load_example("cifar10-adv", 12)
    close = [6, 7, 9]
    x, y = x[close], y[close]
    full, lower = (
        rc.error_rate(rc.Engine(model, compile=False, precision=name), x, 0.05, y, samples=100)
        for name in (None, "bfloat16")
    )
    assert (lower.n_errors == full.n_errors).all()
    assert (lower.n_forward == full.n_forward).all()
    assert "bfloat16" in " ".join(lower.provenance.notes)


def test_sigma_and_radius_take_it():
    model, x = setting()
    how = {"samples": 400}
    full = rc.sigma_at_error_rate(model, x, 0.05, **how)
    lower = rc.sigma_at_error_rate(rc.Engine(model, precision="bfloat16"), x, 0.05, **how)
    assert (lower.status == full.status).all()
    assert (lower.bracket_low <= full.bracket_high).all()
    assert (full.bracket_low <= lower.bracket_high).all()
    how = {"sigma": 0.2, "n": 600}
    lower = rc.certify(rc.Engine(model, precision="bfloat16"), x, **how)
    assert (lower.n_top == rc.certify(model, x, **how).n_top).all()


def test_answers_that_are_not_finite_are_in_doubt():
    coarse = precision.Coarse("bfloat16", torch.device("cpu"))
    logits = torch.tensor([[3.0, 1.0], [torch.nan, 1.0], [torch.inf, torch.inf], [1.2, 1.0]])
    coarse.learn(torch.tensor([1.0]), torch.tensor([0]), torch.tensor([[1.25, 0.0]]))
    assert coarse.band == 0.5
    assert coarse.doubtful(logits)[0].tolist() == [False, True, True, True]


def test_a_fused_network_has_no_need_of_it():
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 5)).eval()
    x = torch.rand(2, 3, 4, 4)
    engine = Evaluator(rc.Engine(model, precision="bfloat16"), x)
    assert engine.fused is not None
    assert engine.coarse is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"precision": "float8"}, "precision must be one of bfloat16, tf32 or None, was 'float8'"),
        ({"precision": "tf32"}, "precision must be 'bfloat16' or None on cpu, was 'tf32'"),
        ({"model": setting()[0].double()}, "left out for images in torch.float64"),
    ],
)
def test_what_cannot_be_is_named(change, message):
    model, x = setting()
    model, name = change.pop("model", model), change.pop("precision", "bfloat16")
    with pytest.raises(ValueError, match=message):
        rc.sigma_at_error_rate(rc.Engine(model, precision=name), x, **change)


def test_a_randomised_model_is_refused():
    _, x = setting()
    with pytest.raises(ValueError, match="precision must be left out for a randomised model"):
        rc.error_rate(rc.Engine(lambda x: torch.rand(len(x), 3), precision="bfloat16"), x, 0.1)
