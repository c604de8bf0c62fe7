"""torch's defaults, and modes, are the caller's: no number here may depend on them."""

import contextlib
from dataclasses import fields, is_dataclass

import numpy as np
import pytest
import torch
import training_data
from torch import nn

import robustcore as rc
from robustcore import corruptions, defenses, training, zoo


@pytest.fixture(params=["float64", "bfloat16", "meta"])
def defaults(request):
    """Sets one when called; a device where nothing can be read stands for all others."""
    dtype = torch.get_default_dtype()

    def change():
        if request.param == "meta":
            torch.set_default_device("meta")
        else:
            torch.set_default_dtype(getattr(torch, request.param))

    yield change
    torch.set_default_dtype(dtype)
    torch.set_default_device(None)


def arrays(record):
    if not is_dataclass(record):
        return [np.asarray(record)]
    values = (getattr(record, each.name) for each in fields(record))
    return [np.asarray(each) for each in values if isinstance(each, (np.ndarray, torch.Tensor))]


def same(measure, change):
    wanted = arrays(measure())
    change()
    found = arrays(measure())
    assert len(wanted) == len(found) > 0
    for a, b in zip(wanted, found, strict=True):
        assert a.dtype == b.dtype
        assert np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def uniform(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


MEASURES = {
    "error_rate": {"sigma": [0.1, 0.3], "samples": 200},
    "sigma_at_error_rate": {"error_rate": 0.01, "samples": 200},
    "error_curve": {"rates": (0.01, 1e-4), "samples": 200},
    "distance_to_error": {"norm": 2, "effort": 25},
    "distance_to_error linf": {"norm": "Linf", "effort": 25},
    "distance_to_error pgd": {"method": "pgd", "steps": 5, "restarts": 2},
    "pgd": {"eps": 0.1, "steps": 5, "restarts": 2},
    "pgd l2": {"eps": 0.5, "norm": 2, "steps": 5, "restarts": 2, "step_size": 0.1},
    "noisy_distance": {"error_rate": 0.05, "points": 20, "samples": 200},
    "certify": {"sigma": 0.1, "n": 500},
    "church_windows": {"size": 20, "samples": 200},
}


def of_mlp(name, fused, x):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    model = network if fused else lambda x: network(x)
    return lambda: getattr(rc, name.split()[0])(model, x, **MEASURES[name])


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", MEASURES)
def test_measurements(name, fused, defaults):
    same(of_mlp(name, fused, uniform(2, 3, 4, 4)), defaults)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", MEASURES)
def test_modes_of_the_caller(name, fused):
    with torch.inference_mode():
        x = uniform(2, 3, 4, 4)
    measure = of_mlp(name, fused, x)
    with contextlib.ExitStack() as modes:

        def enter():
            modes.enter_context(torch.inference_mode())
            modes.enter_context(np.errstate(all="raise"))

        same(measure, enter)


def test_the_reference_kernels(defaults):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 3)).eval()
    x = uniform(2, 3, 4, 4)

    def measure():
        engine = rc.Engine(network, backend="reference")
        yield from arrays(rc.error_rate(engine, x, 0.2, samples=200))
        yield from arrays(rc.distance_to_error(engine, x, effort=25))

    same(lambda: np.concatenate([each.ravel() for each in measure()]), defaults)


@pytest.mark.parametrize("name", corruptions.NAMES)
def test_corruptions(name, defaults):
    x = uniform(2, 3, 32, 32)
    same(lambda: rc.corrupt(x, name, 3), defaults)


@pytest.mark.parametrize("name", ["cifar10-natural", "mnist-natural"])
def test_the_zoo(name, defaults):
    def answers():
        model, x, _ = rc.load_example(name, 2)
        with torch.no_grad():
            return model(x)

    same(answers, defaults)


@pytest.mark.parametrize(
    "make",
    [
        *(getattr(defenses, name) for name in ("JPEG", "PixelDeflection", "RandomResizePad")),
        *(lambda model: defenses.BitDepth(model, 5), defenses.TotalVariation),
        lambda model: defenses.Denoised(model, defenses.load_denoiser("cifar10-natural")),
    ],
)
def test_defenses(make, defaults):
    model, x, _ = rc.load_example("cifar10-natural", 2)

    def answers():
        with torch.no_grad():
            return make(model).eval()(x)

    same(answers, defaults)


@pytest.mark.parametrize(
    "recipe", [training.Natural(), training.Gaussian(0.2), training.Adversarial(8 / 255)]
)
def test_training(recipe, defaults, monkeypatch, tmp_path):
    monkeypatch.setitem(zoo.NETWORKS, "narrow", training_data.Narrow)
    data = training_data.toy()

    def weights(out):
        how = training_data.SMALL | {"epochs": 1, "lr": 0.1, "average": False}
        return training.train("narrow", data, recipe, out=out, **how).model.state_dict()

    wanted = weights(tmp_path / "a")
    defaults()
    assert training_data.same(wanted, weights(tmp_path / "b"))
