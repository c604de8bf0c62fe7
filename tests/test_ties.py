"""A tie and a NaN are errors, of images and of draws, in every method."""

import numpy as np
import pytest
import torch
from models import grey
from torch import nn

import robustcore as rc

N = 6
X, Y = grey(4, (1, 1, N))


class Steps(nn.Module):
    """A half-space whose margin is 0 in a band before its errors, or is `instead` there."""

    def __init__(self, instead, distance=0.3, band=0.15):
        super().__init__()
        self.instead, self.distance, self.band = instead, distance, band

    def forward(self, x):
        height = self.distance - (x.double().flatten(1)[:, 0] - 0.5)
        tied = (height > 0) & (height <= self.band)
        margin = torch.where(tied, self.instead + 0 * height, height)
        return torch.stack([margin, torch.zeros_like(margin)], 1)


TIE, ERROR = Steps(0.0), Steps(-1e-9)
NAN, RIGHT = Steps(torch.nan), Steps(1e-9)
CALLS = {
    "rate": lambda model: rc.error_rate(model, X, [0.1, 0.2], Y, samples=200).n_errors,
    "splitting": lambda model: (
        rc.error_rate(model, X, [0.05, 0.1], Y, samples=200, method="splitting").rate
    ),
    "sigma": lambda model: rc.sigma_at_error_rate(model, X, 0.1, Y, samples=200).sigma,
    "bisection": lambda model: (
        rc.sigma_at_error_rate(model, X, 0.1, Y, samples=200, method="bisection").sigma
    ),
    "curve": lambda model: (
        rc.error_curve(model, X, Y, (0.1, 1e-3), samples=200, second_look=False, bridge=False).sigma
    ),
    "noisy": lambda model: (
        rc.noisy_distance(model, X, Y, sigma=0.15, points=20, samples=200).n_errors
    ),
    "audit": lambda model: (
        rc.audit_attack(
            model, X, Y, lambda model, x, y: x + 1, sigma=0.15, points=20, samples=200
        ).n_errors
    ),
    "windows": lambda model: (
        rc.church_windows(model, X, Y, sigma=0.15, up="orthogonal", samples=200, size=9).error_rate
    ),
    "certify": lambda model: rc.certify(model, X, Y, sigma=0.1, n0=10, n=200).n_top,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CALLS)
def test_a_draw_that_ties_or_is_nan_is_an_error(name):
    error = CALLS[name](ERROR)
    assert np.array_equal(CALLS[name](TIE), error)
    assert np.array_equal(CALLS[name](NAN), error)
    assert not np.array_equal(CALLS[name](RIGHT), error)  # the control


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("instead", [0.0, torch.nan, -1e-9])
def test_an_image_that_ties_or_is_nan_is_misclassified(instead):
    """Of four images the second lies where the margin is 0, or NaN."""
    x = X.clone()
    x[1, ..., 0] = 0.7
    model = Steps(instead)
    wrong = [False, True, False, False]
    sigma = rc.sigma_at_error_rate(model, x, 0.1, Y, samples=100)
    near = rc.distance_to_error(model, x, Y, effort=10)
    noisy = rc.noisy_distance(model, x, Y, sigma=0.1, points=10, samples=20)
    windows = rc.church_windows(model, x, Y, sigma=0.15, up="orthogonal", samples=200, size=9)
    records = [sigma, near, noisy, windows]
    if not np.isnan(instead):  # which splitting refuses
        records.append(rc.sigma_at_error_rate(model, x, 1e-3, Y, samples=200, method="splitting"))
    for record in records:
        assert (record.status == "misclassified").tolist() == wrong
    assert (sigma.sigma == 0).tolist() == (near.distance == 0).tolist() == wrong
    audit = rc.audit_attack(
        model, x, Y, lambda model, x, y: x + 1, sigma=0.1, points=10, samples=20
    )
    assert audit.misclassified.tolist() == wrong
    attack = rc.pgd(model, x, Y, eps=1e-3, norm=2, steps=1)
    assert attack.fooled[:, 0].tolist() == wrong
    benchmark = rc.corruption_benchmark(
        Pictures(model), x.view(4, 1, 1, N).expand(4, 3, N, N).repeat(1, 1, 6, 6), Y,
        corruptions="contrast", severities=1,
    )  # fmt: skip
    assert (~benchmark.clean_correct).tolist() == wrong


class Pictures(nn.Module):
    """The model of the first row of a picture's first channel."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x[:, :1, :1, :N])
