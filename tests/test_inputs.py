"""Bad input: an error that names the argument, what it must be and what it was."""

import numpy as np
import pytest
import torch
from models import HalfSpace, grey

import robustcore as rc
from robustcore import inputs

X, Y = grey(3)
MODEL = HalfSpace(16, 0.5)


def bad(value):
    x = X.clone()
    x[1, 0, 2, 2] = value
    return x


@pytest.mark.parametrize("function", [rc.error_rate, rc.sigma_at_error_rate])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": X.int()}, TypeError, r"x must be floating point.*was torch\.int32"),
        ({"x": 3}, TypeError, "x must be a torch.Tensor, a numpy array, .* was int"),
        ({"x": X[:, 0, 0]}, RuntimeError, r"model must take inputs \(3, 4\) .* failed with"),
        ({"x": X[:, 0, 0, 0]}, ValueError, r"x must be a batch \(B, \*shape\), had shape \(3,\)"),
        ({"x": X[None]}, ValueError, r"y must have one label for each of 1 inputs, had \(3,\)"),
        ({"x": X[:1, 0]}, ValueError, r"x must be a batch .* had shape \(1, 4, 4\), which may be"),
        ({"x": X[:0]}, ValueError, "x must hold at least one element"),
        ({"x": bad(torch.nan)}, ValueError, "x must be finite, input 1 holds"),
        ({"x": bad(torch.inf)}, ValueError, "x must be finite, input 1 holds"),
        ({"y": Y[:2]}, ValueError, r"y must have one label for each of 3 inputs, had \(2,\)"),
        ({"y": Y.float()}, TypeError, r"y must be integer class indices, was torch\.float32"),
        ({"y": Y > 0}, TypeError, r"y must be integer class indices, was torch\.bool"),
        ({"y": Y + 2}, ValueError, "y must be below the model's 2 classes.* was 2"),
        ({"y": Y - 1}, ValueError, "y must not be negative.* was -1"),
        ({"ids": [0, 1, 1]}, ValueError, "ids must not repeat, 1 occurred"),
        ({"ids": [0, 1, -1]}, ValueError, r"ids must lie in \[0, 2\^32\), ranged from -1"),
        ({"ids": [0, 1, 2**32]}, ValueError, "ids must lie in"),
        ({"ids": [0, 1]}, ValueError, "ids must name each of 3 inputs"),
        ({"ids": [0.0, 1.0, 2.0]}, TypeError, "ids must be integers"),
        ({"seed": -1}, ValueError, "seed must be in"),
        ({"seed": 0.5}, TypeError, "seed must be an integer, was 0.5"),
        ({"samples": 0}, ValueError, "samples must be"),
        ({"samples": 10.0}, TypeError, "samples must be an integer, was 10.0"),
        ({"confidence": 1}, ValueError, "confidence must lie strictly between 0 and 1"),
        ({"noise": (1, 0)}, TypeError, "noise must be a law of noise"),
        ({"model": 3}, TypeError, "model must be callable, was int"),
        ({"model": lambda x: MODEL(x)[:, :1]}, ValueError, r"K at least 2, returned shape"),
        ({"model": lambda x: MODEL(x)[:-1]}, ValueError, "model must return logits .S, K."),
        ({"model": lambda x: MODEL(x)[0]}, ValueError, "model must return logits .S, K."),
        ({"model": lambda x: MODEL(x).argmax(1)}, TypeError, "floating-point logits"),
        ({"model": lambda x: MODEL(x).long()}, TypeError, "floating-point logits.*int64"),
        ({"model": lambda x: (MODEL(x),)}, TypeError, r"\.logits, returned tuple"),
        ({"model": lambda x: MODEL(x) * torch.nan}, ValueError, "model must.*NaN alone"),
    ],
)
def test_refusals_of_both(function, change, error, message):
    arguments = {"model": MODEL, "x": X, "y": Y, "samples": 100, **change}
    model, x = arguments.pop("model"), arguments.pop("x")
    with pytest.raises(error, match=message):
        function(model, x, 0.1, **arguments)


@pytest.mark.parametrize("function", [rc.error_rate, rc.sigma_at_error_rate])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, was 0"),
        ({"block": 0}, ValueError, "block must be at least 1, was 0"),
        ({"backend": "cublas"}, ValueError, "backend must be one of.*'cublas'"),
        ({"compile": 1}, TypeError, "compile must be True or False, was 1"),
        ({"precision": "float8"}, ValueError, "precision must be one of.*'float8'"),
        ({"pixels": (1, 0)}, ValueError, "pixels must be .low, high. with low < high"),
        ({"progress": "yes"}, TypeError, "progress must be True or False, was 'yes'"),
    ],
)
def test_refusals_of_an_engine(function, change, error, message):
    with pytest.raises(error, match=message):
        function(rc.Engine(MODEL, **change), X, 0.1, Y, samples=100)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"error_rate": 0}, ValueError, "error_rate must lie strictly between 0 and 1, was 0"),
        ({"error_rate": 1}, ValueError, "error_rate must lie strictly between 0 and 1, was 1"),
        ({"error_rate": np.nan}, ValueError, "error_rate must lie strictly.* was nan"),
        ({"error_rate": "1 %"}, TypeError, "error_rate must be a number, was '1 %'"),
        (
            {"error_rate": 0.005, "method": "quantile"},
            ValueError,
            r"at least 1/samples = 0.01.*give samples=200",
        ),
        ({"sigma_max": 0}, ValueError, "sigma_max must be positive and finite, was 0"),
        ({"sigma_max": np.inf}, ValueError, "sigma_max must be positive and finite, was inf"),
        ({"rtol": 0}, ValueError, "rtol must be positive"),
        ({"method": "newton"}, ValueError, "method must be one of quantile, bisection, splitting"),
        ({"noise": rc.Laplace()}, ValueError, "noise must be Gaussian, was Laplace"),
    ],
)
def test_refusals_of_sigma_at_error_rate(change, error, message):
    with pytest.raises(error, match=message):
        rc.sigma_at_error_rate(MODEL, X, y=Y, **{"error_rate": 0.1, "samples": 100, **change})


@pytest.mark.parametrize(
    ("sigma", "error", "message"),
    [
        (-0.1, ValueError, "sigma must be finite and not negative, one was -0.1"),
        ([0.1, np.nan], ValueError, "sigma must be finite and not negative, one was nan"),
        (np.inf, ValueError, "sigma must be finite"),
        ([], ValueError, "sigma must be a number or a flat grid"),
        ([[0.1]], ValueError, "sigma must be a number or a flat grid"),
        ("big", TypeError, "sigma must be a number or a list of numbers"),
    ],
)
def test_refusals_of_error_rate(sigma, error, message):
    with pytest.raises(error, match=message):
        rc.error_rate(MODEL, X, sigma, Y, samples=10)


def test_a_device_without_float64(monkeypatch):
    monkeypatch.setattr(rc.inputs, "WITHOUT_FLOAT64", ("cpu",))
    for measure in (rc.error_rate, rc.sigma_at_error_rate):
        with pytest.raises(ValueError, match="a device that knows float64, was on cpu"):
            measure(MODEL, X, 0.1, Y)
    with pytest.raises(ValueError, match="a device that knows float64, was on cpu"):
        rc.distance_to_error(MODEL, X, Y)


def test_model_and_x_on_different_devices():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2)).to("meta")
    with pytest.raises(ValueError, match=r"one device: parameter '1.weight' was on meta, x on cpu"):
        rc.error_rate(model, X, 0.1, Y)


def test_a_backend_that_cannot_run_says_why(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(RuntimeError, match=r"backend must be able to run on device 'cpu'.*triton"):
        rc.error_rate(rc.Engine(MODEL, backend="triton"), X, 0.1, Y)


def test_what_is_accepted_is_not_refused():
    one = rc.Engine(MODEL, shape=(1, 4, 4))
    record = rc.error_rate(one, X[0], torch.tensor(0.3), 0, samples=10, ids=7)
    assert record.ids.tolist() == [7]
    rc.error_rate(MODEL, X, np.array([0.1, 0.2]), Y.tolist(), samples=10, ids=np.array([5, 1, 9]))
    # 29 % of 100 draws: 0.29 * 100 is below 29 in floating point
    rc.sigma_at_error_rate(MODEL, X, 0.29, Y, samples=100, sigma_max=5)


def test_images_made_in_inference_mode_are_copied_for_autograd_refuses_them():
    with torch.inference_mode():
        x = torch.rand(2, 1, 4, 4)
    taken = inputs.images(x, HalfSpace(16, 0.3))
    assert not taken.is_inference()
    assert torch.equal(taken, x)
    own = torch.rand(2, 1, 4, 4)
    assert inputs.images(own, HalfSpace(16, 0.3)).data_ptr() == own.data_ptr()  # no copy for others
