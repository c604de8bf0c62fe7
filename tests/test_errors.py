"""What an error is: margins against their definition, rates in closed form, and every measurement.

Rates of linear models in Gaussian noise are normal; other errors reduce to one margin.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import robustcore as rc
from robustcore.errors import of

K, D = 6, 8
WEIGHT = torch.randn(K, D, generator=torch.Generator().manual_seed(3))


class Linear(nn.Module):
    def __init__(self, rows: int = K) -> None:
        super().__init__()
        self.weight = nn.Parameter(WEIGHT[:rows].clone())

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T


class Single(Linear):
    """One logit, (S,)."""

    def __init__(self) -> None:
        super().__init__(1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, 0]


def inputs(count: int) -> Tensor:
    return torch.rand(count, D, generator=torch.Generator().manual_seed(5))


def plain_margin(error, outputs, y):
    """By the words of the docstrings, one input at a time."""
    if isinstance(error, rc.TopK):
        order = sorted(range(len(outputs)), key=lambda k: -outputs[k])
        others = [outputs[k] for k in order if k != y]
        return float(outputs[y] - others[error.k - 1])
    if isinstance(error, rc.AnyOf):
        if error.groups is not None:
            right = [k for k in range(len(outputs)) if int(error.groups[k]) == int(y)]
        elif y.dtype == torch.bool:
            right = [k for k in range(len(outputs)) if bool(y[k])]
        else:
            right = [int(k) for k in y if k >= 0]
        wrong = [k for k in range(len(outputs)) if k not in right]
        return float(max(outputs[k] for k in right) - max(outputs[k] for k in wrong))
    if isinstance(error, rc.OneLogit):
        above = float(outputs) - error.threshold
        return above if int(y) == 1 else -above
    away = (outputs - y).flatten()
    return error.atol - float(away.norm() if error.norm == 2 else away.abs().max())


GROUPS = torch.tensor([0, 0, 1, 1, 2, 2])
MASK = torch.zeros(20, K, dtype=torch.bool).index_fill(1, torch.tensor([1, 4]), True)
LABELS = torch.arange(20) % K
ERRORS = {
    "top 2": (rc.TopK(2), LABELS),
    "top 5": (rc.TopK(5), LABELS),
    "several": (rc.AnyOf(), torch.stack([LABELS, (LABELS + 2) % K], 1)),
    "one or two": (rc.AnyOf(), torch.stack([LABELS, torch.where(LABELS > 2, 0, -1)], 1)),
    "mask": (rc.AnyOf(), MASK),
    "groups": (rc.AnyOf(GROUPS), LABELS % 3),
    "near": (rc.Tolerance(1.5), torch.zeros(20, K)),
    "near by element": (rc.Tolerance(1.8, "Linf"), torch.zeros(20, K)),
}


@pytest.mark.parametrize("name", ERRORS)
def test_margins_are_those_of_the_definition(name):
    error, y = ERRORS[name]
    outputs = torch.randn(20, K, generator=torch.Generator().manual_seed(7))
    margins = error.margin(outputs, error.answers(y, 20, torch.device("cpu")))
    for i in range(20):
        assert float(margins[i]) == pytest.approx(plain_margin(error, outputs[i], y[i]), abs=1e-5)


def test_one_logit_is_right_on_its_side_of_the_threshold():
    outputs = torch.tensor([[1.2], [0.4], [0.5], [torch.nan]])
    error = rc.OneLogit(0.5)
    margins = error.margin(outputs, torch.tensor([1, 1, 1, 0]))
    assert margins[:2].tolist() == pytest.approx([0.7, -0.1])
    assert margins[2] == 0  # a tie is an error
    assert margins[3].isnan()
    assert error.predicted(outputs[:3]).tolist() == [1, 0, 0]


@pytest.mark.parametrize("name", ERRORS)
def test_ties_and_nan_are_errors(name):
    error, y = ERRORS[name]
    answers = error.answers(y, 20, torch.device("cpu"))
    logits = error.logits(torch.full((20, K), torch.nan), answers)
    assert logits[:, 0].isnan().all()
    if not isinstance(error, rc.Tolerance):
        flat = error.margin(torch.zeros(20, K), answers)
        assert (flat == 0).all()


def rate_by_hand(error, y, x, sigma, draws=4000):
    """Of a linear model's logits, which are normal: by other random numbers."""
    generator = np.random.default_rng(0)
    z = generator.standard_normal((draws, D)).astype(np.float32)
    wrong = []
    for i in range(len(x)):
        outputs = (x[i].numpy() + sigma * z) @ WEIGHT.numpy().T
        answers = error.answers(y[i : i + 1], 1, torch.device("cpu")).expand(
            draws, *error.answers(y[i : i + 1], 1, torch.device("cpu")).shape[1:]
        )
        wrong.append((~(error.margin(torch.from_numpy(outputs), answers) > 0)).double().mean())
    return np.array([float(each) for each in wrong])


@pytest.mark.parametrize("name", ERRORS)
def test_rates_agree_with_other_draws(name):
    """20 inputs: differences of 5 standard errors come once in 90,000 runs."""
    error, y = ERRORS[name]
    x = inputs(20)
    record = rc.error_rate(rc.Engine(Linear(), error=error), x, 0.4, y, samples=4000)
    by_hand = rate_by_hand(error, y, x, 0.4)
    spread = np.sqrt(2 * np.maximum(by_hand * (1 - by_hand), 1e-4) / 4000)
    assert (np.abs(record.rate[:, 0] - by_hand) < 5 * spread).all()
    assert 0.02 < record.rate.mean() < 0.98
    if name.startswith("top"):
        other = rc.error_rate(rc.Engine(Linear(), error=rc.TopK(3)), x, 0.4, y, samples=4000)
        assert (np.abs(other.rate[:, 0] - by_hand) > 5 * spread).any()


def test_one_logit_in_noise_in_closed_form():
    """The logit of a linear model is normal; 2,000 intervals of 95 % hold in 94 to 98 %."""
    x = inputs(1).expand(2000, D)
    engine = rc.Engine(Single(), error=rc.OneLogit(0.2))
    record = rc.error_rate(engine, x, 0.3, samples=300)
    logit = float(x[0] @ WEIGHT[0])
    truth = stats.norm.cdf(-abs(logit - 0.2) / (0.3 * float(WEIGHT[0].norm())))
    held = (record.rate_low[:, 0] <= truth) & (truth <= record.rate_high[:, 0])
    assert 0.94 <= held.mean() <= 0.98
    sigma = rc.sigma_at_error_rate(engine, x[:50], 0.05, samples=2000)
    exact = abs(logit - 0.2) / (stats.norm.isf(0.05) * float(WEIGHT[0].norm()))
    assert (sigma.sigma_low <= exact).mean() > 0.8
    assert np.median(sigma.sigma) == pytest.approx(exact, rel=0.02)
    near = rc.distance_to_error(engine, x[:3])
    assert near.distance == pytest.approx(abs(logit - 0.2) / float(WEIGHT[0].norm()), rel=1e-3)


def test_top_one_by_its_long_name_has_the_same_numbers():
    x, y = inputs(12), LABELS[:12]
    short = rc.error_rate(Linear(), x, [0.1, 0.4], y, samples=500)
    long = rc.error_rate(rc.Engine(Linear(), error=rc.TopK(1)), x, [0.1, 0.4], y, samples=500)
    assert (short.n_errors == long.n_errors).all()
    assert (short.labels == long.labels).all()
    near, same = (
        rc.distance_to_error(model, x, y).distance
        for model in (Linear(), rc.Engine(Linear(), error=rc.TopK(1)))
    )
    assert same == pytest.approx(near, rel=0.02)


def lead(outputs, y):
    """The caller's: the label's logit is above the mean of all."""
    return outputs.gather(1, y[:, None])[:, 0] - outputs.mean(1)


MEASURES = {
    "error_rate": lambda e, x, y: rc.error_rate(e, x, 0.3, y, samples=50).n_errors,
    "sigma": lambda e, x, y: rc.sigma_at_error_rate(e, x, 0.1, y, samples=100).sigma,
    "rare": lambda e, x, y: rc.error_curve(e, x, y, [1e-3], samples=500).sigma,
    "distance": lambda e, x, y: rc.distance_to_error(e, x, y).distance,
    "pgd": lambda e, x, y: rc.pgd(e, x, y, eps=0.5, norm=2, box=None).fooled,
    "noisy": lambda e, x, y: rc.noisy_distance(e, x, y, sigma=0.2, points=10, samples=50).distance,
    "audit": lambda e, x, y: (
        rc.audit_attack(
            e, x, y, lambda model, x, y: x + 1, sigma=0.2, points=20, samples=100
        ).n_errors
    ),
    "windows": lambda e, x, y: rc.church_windows(e, x, y, sigma=0.3, size=9).points,
    "certify": lambda e, x, y: rc.certify(e, x, y, sigma=0.2, n=200).radius,
    "predict": lambda e, x, y: rc.predict(e, x, y, sigma=0.2, n=200).label,
}


@pytest.mark.parametrize("name", ["several", "near", "a user's", "one logit"])
@pytest.mark.parametrize("measure", MEASURES)
def test_every_measurement_takes_every_error(measure, name):
    x = inputs(3)
    if name == "one logit":
        engine, y = rc.Engine(Single(), error=rc.OneLogit()), None
    elif name == "a user's":
        engine, y = rc.Engine(Linear(), error=lead), (x @ WEIGHT.T).argmax(1)
    elif name == "near":
        engine, y = rc.Engine(Linear(), error=rc.Tolerance(1.0)), None
    else:
        engine = rc.Engine(Linear(), error=rc.AnyOf())
        y = (x @ WEIGHT.T).topk(2, 1).indices
    found = np.asarray(MEASURES[measure](engine, x, y))
    again = np.asarray(MEASURES[measure](engine, x, y))
    assert len(found) == 3
    assert np.array_equal(found, again, equal_nan=found.dtype.kind == "f")


def test_the_nearest_output_out_of_tolerance_is_found():
    """Of a linear map W: the distance is atol over its largest singular value."""
    near = rc.distance_to_error(rc.Engine(Linear(), error=rc.Tolerance(0.5)), inputs(4))
    exact = 0.5 / float(torch.linalg.matrix_norm(WEIGHT, 2))
    assert (near.distance >= exact * (1 - 1e-5)).all()
    assert near.distance == pytest.approx(exact, rel=0.05)
    assert (near.labels == -1).all()
    assert (near.label_adv == -1).all()


def test_a_run_knows_its_error(tmp_path):
    x, y = inputs(6), LABELS[:6]
    first = rc.error_rate(
        rc.Engine(Linear(), error=rc.TopK(2)), x, 0.3, y, samples=50, run=tmp_path
    )
    again = rc.error_rate(
        rc.Engine(Linear(), error=rc.TopK(2)), x, 0.3, y, samples=50, run=tmp_path
    )
    assert (first.n_errors == again.n_errors).all()
    with pytest.raises(rc.runs.RunError, match="error must be that of the run"):
        rc.error_rate(rc.Engine(Linear(), error=rc.TopK(3)), x, 0.3, y, samples=50, run=tmp_path)
    sets = torch.stack([y, (y + 1) % K], 1)
    kept = rc.error_rate(
        rc.Engine(Linear(), error=rc.AnyOf()), x, 0.3, sets, samples=50, run=tmp_path / "sets"
    )
    plain = rc.error_rate(rc.Engine(Linear(), error=rc.AnyOf()), x, 0.3, sets, samples=50)
    assert (kept.n_errors == plain.n_errors).all()


def no_gradient(outputs, y):
    return (outputs.argmax(1) == y).float() - 0.5


BAD = {
    "error must be 'top1', TopK": lambda: rc.Engine(Linear(), error=3),
    "error must be 'top1' or a criterion such as TopK.5., was 'top5'": lambda: rc.Engine(
        Linear(), error="top5"
    ),
    "error must be an error, was the class TopK": lambda: rc.Engine(Linear(), error=rc.TopK),
    "k must be": lambda: rc.TopK(0),
    "atol must be": lambda: rc.Tolerance(0),
    "threshold must be finite": lambda: rc.OneLogit(float("inf")),
    "groups must hold a group": lambda: rc.AnyOf([0]),
    "model must return at least 7 logits": lambda: rate(rc.TopK(6), LABELS[:3]),
    "model must return one logit for each input": lambda: rate(rc.OneLogit(), LABELS[:3] % 2),
    "model must return a logit for each of the 3 classes": lambda: rate(
        rc.AnyOf([0, 1, 1]), LABELS[:3] % 2
    ),
    "y must be below the model's 6 classes": lambda: rate(rc.TopK(2), LABELS[:3] + 5),
    "y must be 0 or 1 for each of 3 inputs with error=OneLogit": lambda: rc.error_rate(
        rc.Engine(Single(), error=rc.OneLogit()), inputs(3), 0.1, [0, 1, 2]
    ),
    "one logit give Engine.model, error=OneLogit": lambda: rc.error_rate(Single(), inputs(3), 0.1),
    "y must be one of the groups 0 to 1, its largest was 2": lambda: rate(
        rc.AnyOf([0, 0, 0, 1, 1, 1]), [0, 1, 2]
    ),
    "in a column for each class: give y.bool": lambda: rate(
        rc.AnyOf(), torch.eye(K)[LABELS[:3]].long()
    ),
    "error must judge each input by itself, and alike each time: the margin of input 0": lambda: (
        rate(lambda outputs, y: lead(outputs, y) - lead(outputs, y).mean(), LABELS[:3])
    ),
    "by itself, and alike each time": lambda: rate(
        lambda outputs, y: lead(outputs, y) + torch.randn(len(outputs)), LABELS[:3]
    ),
    r"y must be \(B, M\) for 3 inputs": lambda: rate(rc.AnyOf(), torch.zeros(2, 2).long()),
    "y must name a right class of each input": lambda: rate(rc.AnyOf(), -torch.ones(3, 2).long()),
    "y must have a column for each of 6 classes": lambda: rate(
        rc.AnyOf(), torch.ones(3, 4, dtype=torch.bool)
    ),
    "y must have the shape of the model's outputs": lambda: rate(
        rc.Tolerance(1), torch.zeros(3, 2)
    ),
    "y must have one answer for each of 3 inputs": lambda: rate(rc.Tolerance(1), torch.zeros(2, K)),
    "y must be finite": lambda: rate(rc.Tolerance(1), torch.full((3, K), torch.nan)),
    "y must be given for error=lead": lambda: rate(lead, None),
    "error must return a margin for each of 3 inputs": lambda: rate(
        lambda outputs, y: outputs, LABELS[:3]
    ),
    "error must return a floating-point margin": lambda: rate(
        lambda outputs, y: outputs.argmax(1) == y, LABELS[:3]
    ),
    "carried none": lambda: rc.distance_to_error(
        rc.Engine(Linear(), error=no_gradient), inputs(3), (inputs(3) @ WEIGHT.T).argmax(1)
    ),
    "targets must be left out": lambda: rc.distance_to_error(
        rc.Engine(Linear(), error=rc.TopK(2)), inputs(3), LABELS[:3], targets=1
    ),
    "loss must be 'ce' or 'margin'": lambda: rc.pgd(
        rc.Engine(Linear(), error=rc.TopK(2)), inputs(3), LABELS[:3], eps=0.1, loss="dlr"
    ),
}


def rate(error, y):
    return rc.error_rate(rc.Engine(Linear(), error=error), inputs(3), 0.1, y, samples=10)


@pytest.mark.parametrize("message", BAD)
def test_bad_errors_and_answers_are_named(message):
    with pytest.raises((ValueError, TypeError), match=message):
        BAD[message]()


def test_top1_is_served_by_kernels():
    assert of("top1") is None


# -- what certificates and scalar outputs are of ----------------------------------------------


@pytest.mark.parametrize("error", [rc.OneLogit(), rc.AnyOf([0, 1]), lambda out, y: _signed(out, y)])
def test_what_is_certified_to_be_wrong_is_no_accuracy(error):
    """A model far from its boundary: right everywhere, or, with the other labels, nowhere."""
    x = torch.tensor([[-3.0], [3.0], [4.0], [5.0]])
    y = torch.tensor([0, 1, 1, 1])

    def model(x):
        return x if isinstance(error, rc.OneLogit) else torch.cat([-x, x], 1)

    engine = rc.Engine(model, error=error, pixels=None)
    right = rc.certify(engine, x, y, sigma=0.5, n=500)
    assert right.accuracy(0.1) == 1
    assert (right.label == 0).all()
    wrong = rc.certify(engine, x, 1 - y, sigma=0.5, n=500)
    assert wrong.accuracy() == 0
    assert (wrong.label == 1).all()
    assert rc.predict(engine, x, y, sigma=0.5, n=200).accuracy == 1
    assert rc.predict(engine, x, 1 - y, sigma=0.5, n=200).accuracy == 0


def _signed(outputs, y):
    return (outputs[:, 1] - outputs[:, 0]) * (2 * y - 1)


@pytest.mark.parametrize("outputs", [lambda x: x[:, 0], lambda x: x[:, :1]])
@pytest.mark.parametrize("y", [torch.zeros(3), [0, 0, 0], torch.zeros(3, 1)])
def test_a_regression_of_one_number(outputs, y):
    """|N(0, sigma^2)| above 0.5: of 2,000 draws each, 5 standard errors."""
    engine = rc.Engine(outputs, error=rc.Tolerance(0.5), pixels=None)
    record = rc.error_rate(engine, torch.zeros(3, 4), 0.4, y, samples=2000)
    truth = 2 * stats.norm.sf(0.5 / 0.4)
    assert abs(record.rate.mean() - truth) < 5 * np.sqrt(truth * (1 - truth) / 6000)


@pytest.mark.parametrize("form", [torch.Tensor.bool, torch.Tensor.float, torch.Tensor.tolist])
def test_labels_of_one_logit_are_0_and_1_of_any_type(form):
    engine = rc.Engine(Single(), error=rc.OneLogit())
    y = LABELS[:3] % 2
    want = rc.error_rate(engine, inputs(3), 0.3, y, samples=50)
    assert (rc.error_rate(engine, inputs(3), 0.3, form(y), samples=50).rate == want.rate).all()
