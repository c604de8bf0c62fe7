"""Inputs of any shape: the numbers of an input do not depend on the shape in which it comes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import robustcore as rc

SHAPES = {
    "rows": (24,),
    "signals": (2, 12),
    "pictures": (2, 3, 4),
    "volumes": (1, 2, 3, 4),
    "more": (1, 2, 1, 3, 4),
}


def network() -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    layers = nn.Sequential(nn.Flatten(), nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    with torch.no_grad():
        for each in layers.parameters():
            each.copy_(torch.randn(each.shape, generator=generator) * 0.5)
    return layers


NET = network()


def shaped(shape):
    """The same model and inputs in another shape; a model that insists on it."""

    def model(x):
        assert x.shape[1:] == shape
        return NET(x)

    x = torch.rand(5, 24, generator=torch.Generator().manual_seed(1)).view(5, *shape)
    return model, x


MEASURES = {
    "error_rate": lambda m, x: rc.error_rate(m, x, [0.2, 0.5], samples=100).n_errors,
    "uniform": lambda m, x: (
        rc.error_rate(m, x, [0.5], samples=100, noise=rc.Uniform("L2")).n_errors
    ),
    "sigma": lambda m, x: rc.sigma_at_error_rate(m, x, 0.1, samples=200).sigma,
    "curve": lambda m, x: rc.error_curve(m, x, None, [1e-3], samples=500).sigma,
    "distance": lambda m, x: rc.distance_to_error(m, x).distance,
    "certify": lambda m, x: rc.certify(m, x, sigma=0.2, n=200).n_top,
    "noisy": lambda m, x: rc.noisy_distance(m, x, sigma=0.3, points=10, samples=50).distance,
    "windows": lambda m, x: rc.church_windows(m, x, sigma=0.5, size=9).points,
    "audit": lambda m, x: (
        rc.audit_attack(
            m, x, None, lambda model, x, y: x + 1, sigma=0.3, points=20, samples=100
        ).n_errors
    ),
    "pgd": lambda m, x: rc.pgd(m, x, eps=0.3, norm=2).fooled,
}


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("shape", SHAPES)
def test_numbers_do_not_depend_on_the_shape(measure, shape):
    model, x = shaped(SHAPES[shape])
    rows, flat = shaped((24,))
    found, plain = MEASURES[measure](model, x), MEASURES[measure](rows, flat)
    assert np.array_equal(np.asarray(found), np.asarray(plain), equal_nan=True)


@pytest.mark.parametrize("shape", SHAPES)
def test_errors_have_the_shape_of_the_inputs(shape):
    model, x = shaped(SHAPES[shape])
    near = rc.distance_to_error(model, x)
    assert near.x_adv.shape == x.shape
    assert rc.noisy_copies(x, [0.1, 0.2]).shape == (5, 2, *SHAPES[shape])


@pytest.mark.parametrize("shape", SHAPES)
def test_a_run_keeps_inputs_of_any_shape(shape, tmp_path):
    model, x = shaped(SHAPES[shape])
    kept = rc.error_rate(model, x, 0.3, samples=50, run=tmp_path)
    read = rc.error_rate(model, x.numpy(), 0.3, samples=50)
    items = rc.error_rate(model, torch.utils.data.TensorDataset(x), 0.3, samples=50)
    plain = rc.error_rate(model, x, 0.3, samples=50)
    for each in (kept, read, items):
        assert (each.n_errors == plain.n_errors).all()


def test_one_input_is_taken_where_it_cannot_be_mistaken():
    model, x = shaped((2, 12))
    one = rc.error_rate(rc.Engine(model, shape=(2, 12)), x[0], 0.3, samples=50)
    assert len(one) == 1
    engine = rc.Engine(model)
    many = rc.error_rate(engine, x, 0.3, samples=50)  # the shape is known from now on
    assert (rc.error_rate(engine, x[0], 0.3, samples=50).n_errors == many.n_errors[:1]).all()
    picture = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(2 * 36, 3)).eval()
    assert len(rc.error_rate(picture, torch.rand(3, 8, 8), 0.1, samples=5)) == 1


REFUSED = {
    r"x must be a batch \(B, \*shape\), had shape \(24,\)": (lambda x: x[0].flatten(), {}),
    "which may be one picture or 3 signals": (lambda x: x[:3, :, None].expand(3, 24, 2), {}),
    r"x must be inputs of shape \(2, 12\), .* had shape \(5, 24\)": (
        lambda x: x,
        {"shape": (2, 12)},
    ),
    "shape must be the shape of one input": (lambda x: x, {"shape": (0, 3)}),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_may_be_one_input_or_several_is_refused(message):
    change, options = REFUSED[message]
    x = torch.rand(5, 24)
    with pytest.raises(ValueError, match=message):
        rc.error_rate(rc.Engine(NET, **options), change(x), 0.1, samples=5)


def test_the_search_scales_with_the_data():
    """Inputs and weights in other units: sigma in these units, the same draws and counts."""
    model, x = shaped((24,))

    def in_millivolts(u):
        return model(u / 1000)

    plain = rc.sigma_at_error_rate(rc.Engine(model, pixels=None), x, 0.1, samples=200)
    large = rc.sigma_at_error_rate(
        rc.Engine(in_millivolts, pixels=None), 1000 * x, 0.1, samples=200
    )
    assert large.sigma == pytest.approx(1000 * plain.sigma, rel=1e-4)
    assert large.provenance.settings["sigma_max"] == pytest.approx(
        float(1000 * (x.max() - x.min()))
    )
    usual = rc.sigma_at_error_rate(model, x, 0.1, samples=200)
    assert usual.provenance.settings["sigma_max"] == 1.0


def test_a_few_signals_are_no_picture():
    """(3, 2, 24): three signals of two channels for a module with 1-D convolutions."""
    net = nn.Sequential(nn.Conv1d(2, 3, 24), nn.Flatten()).eval()
    assert len(rc.error_rate(net, torch.rand(3, 2, 24), 0.1, samples=5)) == 3
    assert len(rc.error_rate(lambda x: net(x), torch.rand(4, 2, 24), 0.1, samples=5)) == 4
    assert len(rc.noisy_copies(torch.rand(3, 1, 24), 0.1)) == 3  # no picture is one pixel high
    with pytest.raises(ValueError, match="which may be one picture or 3 signals"):
        rc.error_rate(lambda x: net(x), torch.rand(3, 2, 24), 0.1, samples=5)


def test_an_error_of_the_model_says_how_inputs_were_read():
    """A signal (2, 64) alone looks like two rows of 64."""
    net = nn.Sequential(nn.Conv1d(2, 3, 5), nn.Flatten(), nn.Linear(180, 3)).eval()
    message = r"failed with .* \(x was read as a batch of inputs of shape \(64,\)\)"
    with pytest.raises(RuntimeError, match=message):
        rc.error_rate(net, torch.rand(2, 64), 0.1, samples=5)
