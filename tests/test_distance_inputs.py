"""What distances refuse, and how they report gradients that are of no use."""

import math

import numpy as np
import pytest
import torch
from models import HalfSpace, Slab, grey
from torch import nn

from robustcore.distance import distance_to_error, pgd
from robustcore.distance.task import _held


class Masked(nn.Module):
    """A linear model whose gradient is zero (rounding) or NaN; "part": zero on bright images."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.body = kind, HalfSpace(48, 0.3)

    def forward(self, x):
        rounded = (x * 255).round() / 255
        if self.kind == "zero":
            return self.body(rounded)
        if self.kind == "part":
            bright = x.flatten(1).amax(1).view(-1, 1, 1, 1) > 0.7
            return self.body(torch.where(bright, rounded, x))
        return self.body(x + (x - x).sqrt())


@pytest.mark.parametrize("kind", ["zero", "nan"])
@pytest.mark.parametrize("how", [{}, {"method": "pgd"}, {"method": "pgd", "eps": "search"}])
def test_gradients_of_no_use_are_reported_and_not_called_robust(kind, how):
    x, y = grey(2, (3, 4, 4))
    near = distance_to_error(Masked(kind), x, y, **how)
    assert near.masked.all()
    assert np.isinf(near.distance).all()
    assert near.label_adv.tolist() == [-1, -1]
    result = pgd(Masked(kind), x, y, eps=0.01)
    assert result.masked.all()
    assert not result.fooled.any()


def test_each_image_is_masked_by_itself():
    x, y = grey(3, (3, 4, 4))
    x[1, 0, 0, 0] = 0.8
    near = distance_to_error(Masked("part"), x, y)
    assert near.status.tolist() == ["found", "masked", "found"]
    result = pgd(Masked("part"), x, y, eps=0.001, norm=2)
    assert result.masked.tolist() == [False, True, False]
    assert not result.fooled.any()


def test_what_is_robust_is_not_called_masked():
    x, y = grey(2, (3, 4, 4))
    result = pgd(HalfSpace(48, 0.3), x, y, eps=0.01, norm=2)
    assert not result.masked.any()
    near = distance_to_error(HalfSpace(48, 3.0), x, y, method="pgd", eps=0.5)
    assert near.status.tolist() == ["not_found"] * 2
    assert np.isinf(near.distance).all()


class Detached(HalfSpace):
    def forward(self, x):
        return super().forward(x.detach())


BAD = {
    "norm must be 2 or inf": {"norm": 1},
    "norm must be 2 or inf .*'l7'": {"norm": "l7"},
    "method must be one of": {"method": "fast"},
    "effort must be at least": {"effort": 0},
    r"restarts must be in \[1, .*was 0": {"restarts": 0},
    r"restarts must be in \[1, .*was -2": {"restarts": -2},
    "restarts must be an integer": {"restarts": 1.5},
    "eps must be left out": {"eps": 0.5},
    "steps must be left out": {"steps": 5},
    "step_size must be left out with method='minimum', was 0.1": {"step_size": 0.1},
    "loss must be left out with method='minimum', was 'dlr'": {"loss": "dlr"},
    "refine must be left out with method='minimum', was True": {"refine": True},
    "effort must be left out with method='pgd', was 60": {"method": "pgd", "effort": 60},
    "eps must be positive": {"method": "pgd", "eps": 0.0},
    "eps must be positive .* was -0.5": {"method": "pgd", "eps": -0.5},
    "eps must be positive .* was nan": {"method": "pgd", "eps": math.nan},
    "eps must be positive and finite": {"method": "pgd", "eps": math.inf},
    "eps must be a number or 'search'": {"method": "pgd", "eps": "find"},
    "steps must be at least 1, was -1": {"method": "pgd", "steps": -1},
    "steps must be at least 1, was 0": {"method": "pgd", "steps": 0},
    "step_size must be positive .* was -0.1": {"method": "pgd", "step_size": -0.1},
    "step_size must be positive .* was 0": {"method": "pgd", "step_size": 0},
    "loss must be one of": {"method": "pgd", "loss": "hinge"},
    "y must be below the model's 3 classes": {"y": [0, 3]},
    "y must .*-1": {"y": [-1, 0]},
    "targets must differ from the labels": {"targets": [1, 0]},
    r"targets must lie in \[0, 3\)": {"targets": [1, 3]},
    "targets must have one class": {"targets": [1]},
    "targets must be integer": {"targets": [1.0, 2.0]},
    r"x must lie in the box \[0, 0.4\], ranged from 0.5": {"box": (0, 0.4)},
    "box must be": {"box": (1, 0)},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_refused_by_name(message):
    x, y = grey(2, (3, 8, 8))
    with pytest.raises((ValueError, TypeError), match=message):
        distance_to_error(Slab(192, 0.4), x, **{"y": y, **BAD[message]})


@pytest.mark.parametrize(
    ("message", "change"),
    [
        ("eps must be positive", {"eps": [0.1, -1.0]}),
        ("eps must be a number", {"eps": "search"}),
        ("eps must be positive .* nan", {"eps": [0.1, math.nan]}),
        ("steps must be at least 1, was 0", {"steps": 0}),
        ("steps must be at least 1, was -3", {"steps": -3}),
        (r"restarts must be in \[1, .* was 0", {"restarts": 0}),
        (r"restarts must be in \[1, .* was -1", {"restarts": -1}),
        ("eps must be positive", {"eps": 0}),
        ("eps must be a number or a flat grid", {"eps": []}),
        ("y must be below the model's 3 classes", {"y": [0, 3]}),
        ("targets must differ from the labels", {"targets": [1, 0]}),
        ("step_size must be positive .* was 0", {"step_size": 0}),
        ("step_size must be positive .* was -0.1", {"step_size": -0.1}),
        ("norm must be", {"norm": 0}),
        ("loss must be one of", {"loss": "mse"}),
        (r"x must lie in the box \[0, 1\]", {"x": grey(2, (3, 8, 8))[0] + 1}),
    ],
)
def test_bad_input_to_pgd_is_refused_by_name(message, change):
    x, y = grey(2, (3, 8, 8))
    with pytest.raises((ValueError, TypeError), match=message):
        pgd(Slab(192, 0.4), **{"x": x, "y": y, "eps": 0.1, **change})


@pytest.mark.parametrize("how", [{}, {"method": "pgd"}, {"method": "pgd", "eps": "search"}])
def test_a_model_without_a_gradient_is_refused(how):
    x, y = grey(2, (3, 8, 8))
    message = r"model must let gradients through .* error rate"
    with pytest.raises(ValueError, match=message):
        distance_to_error(Detached(192, 0.4), x, y, **how)
    with pytest.raises(ValueError, match=message):
        pgd(Detached(192, 0.4), x, y, eps=0.1)


def test_norms_have_two_spellings():
    x, y = grey(1, (3, 8, 8))
    model = HalfSpace(192, 0.4)
    for spellings in ((2, "L2", "l2", 2.0), (math.inf, "Linf", "inf", np.inf)):
        results = [distance_to_error(model, x, y, norm=each) for each in spellings]
        assert len({r.norm for r in results}) == 1
        assert len({float(r.distance[0]) for r in results}) == 1


@pytest.mark.parametrize("box", [(0.1, 0.9), (-3.3, 5.7), (0.0, 1.0), (-2000.7, 3.14159)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_bounds_are_the_outermost_numbers_of_a_half_precision_within_the_box(box, dtype):
    low, high = _held(box, dtype)
    for bound, held, outward in ((box[0], low, -torch.inf), (box[1], high, torch.inf)):
        assert float(torch.tensor(held).to(dtype)) == held
        assert box[0] <= held <= box[1]
        one = torch.tensor(held, dtype=dtype)
        farther = float(torch.nextafter(one, torch.tensor(outward, dtype=dtype)))
        assert not box[0] <= farther <= box[1], bound
    assert _held(box, torch.float32) == box
    assert _held(None, dtype) is None
