"""Every option of every public measurement reaches what it governs.

Each option is changed by itself; the record, or its provenance, must then be another one. A call
that is made twice with nothing changed gives the same record: the control.
"""

import inspect
import warnings
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import robustcore as rc


@dataclass(frozen=True)
class With:
    """A value, and what must be said beside it, in the call that it is compared with too."""

    value: Any
    beside: dict[str, Any]


@dataclass(frozen=True)
class Instead:
    """A value, and what it takes the place of."""

    value: Any
    of: str


NOT_OPTIONS = {"model", "x", "y"}  # the question itself
# of an engine: how many images are measured at a time, where a warning is due, and a bar
NO_NUMBER = {"block": 2, "pixels": (-1.0, 0.0), "progress": True}


class Curved(nn.Module):
    """Five classes of 12 pixels, their logits a little curved; gradients everywhere."""

    def __init__(self):
        super().__init__()
        chance = torch.Generator().manual_seed(3)
        self.register_buffer("first", torch.randn(12, 16, generator=chance) / 3)
        self.register_buffer("last", torch.randn(16, 5, generator=chance) / 4)

    def forward(self, x):
        return torch.tanh(x.flatten(1) @ self.first) @ self.last


MODEL = Curved()
X = torch.rand((4, 3, 2, 2), generator=torch.Generator().manual_seed(1)) * 0.6 + 0.2
Y = MODEL(X).argmax(1)
LARGE = X.repeat(1, 1, 16, 16)


def PICTURES(x):
    return MODEL(x[:, :, 11:13, 7:9])


ELSEWHERE = (Y + 1) % 5
ENGINE = {"batch_size": 3, "backend": "reference", "compile": True, "error": rc.TopK(2)}
LOWER = {"precision": "bfloat16"}  # of draws of noise
DRAWN = ("error_rate", "sigma_at_error_rate", "scale_at_error_rate", "certify", "predict")
ALL = {"seed": 7, "ids": [5, 6, 7, 8], "run": "folder"}
NOISE = {"samples": 200}
BY_PGD = {"method": "pgd", "effort": None}
# function: what it is called with, then each option's other value (with what else it needs)
CASES = {
    "error_rate": (
        {"sigma": 0.3, "samples": 200},
        {
            **ALL,
            "sigma": 0.4,
            "samples": 210,
            "confidence": 0.9,
            "method": "splitting",
            "noise": rc.Gaussian((0.1, 0.9)),
        },
    ),
    "sigma_at_error_rate": (
        {"error_rate": 0.05, **NOISE},
        {
            **ALL,
            "error_rate": 0.1,
            "samples": 210,
            "rtol": 0.3,
            "confidence": 0.9,
            "sigma_max": 0.05,
            "method": "bisection",
            "noise": rc.Gaussian((0.2, 0.8)),
        },
    ),
    "scale_at_error_rate": (
        {"error_rate": 0.05, **NOISE},
        {
            **ALL,
            "error_rate": 0.1,
            "samples": 210,
            "rtol": 0.3,
            "confidence": 0.9,
            "scale_max": 0.05,
            "method": "bisection",
            "noise": rc.Uniform("Linf"),
        },
    ),
    "error_curve": (
        {"rates": (0.1, 1e-3), **NOISE},
        {
            **ALL,
            "rates": (0.1, 1e-4),
            "samples": 220,
            "level_probability": 0.3,
            "moves": 5,
            "confidence": 0.9,
            "sigma_max": 0.05,
            "second_look": False,
            "bridge": False,
            "noise": rc.Gaussian((0.1, 0.9)),
        },
    ),
    "distance_to_error": (
        {"effort": 20},
        {
            **ALL,
            "seed": With(7, {**BY_PGD, "eps": 2.0, "steps": 1, "restarts": 3}),
            "norm": "Linf",
            "method": Instead("pgd", "effort"),
            "box": With((0.2, 0.8), {"targets": ELSEWHERE}),
            "effort": 5,
            "restarts": 3,
            "targets": ELSEWHERE,
            "eps": With(2.0, BY_PGD),
            "steps": With(3, BY_PGD),
            "step_size": With(0.01, BY_PGD),
            "loss": With("margin", BY_PGD),
            "refine": With(True, BY_PGD),
        },
    ),
    "pgd": (
        {"eps": 0.3, "norm": "L2", "steps": 4},
        {
            **ALL,
            "eps": 0.2,
            "norm": "Linf",
            "steps": With(5, {"eps": 0.02}),
            "restarts": 2,
            "step_size": 0.01,
            "loss": "dlr",
            "targets": ELSEWHERE,
            "random_start": False,
            "box": (0.2, 0.8),
        },
    ),
    "noisy_distance": (
        {"sigma": 0.3, "points": 20, "samples": 100},
        {
            **ALL,
            "sigma": 0.25,
            "error_rate": Instead(0.1, "sigma"),
            "points": 21,
            "samples": 110,
            "confidence": 0.9,
            "method": "pgd",
            "eps": With(2.0, {"method": "pgd"}),
            "steps": With(3, {"method": "pgd"}),
            "sigma_max": With(0.05, {"error_rate": 0.1, "sigma": None}),
        },
    ),
    "audit_attack": (
        {"attack": lambda model, x, y: x + 0.3, "sigma": 0.3, "points": 20, "samples": 100},
        {
            **ALL,
            "attack": lambda model, x, y: x - 0.3,
            "sigma": 0.25,
            "error_rates": Instead(0.1, "sigma"),
            "points": 22,
            "samples": 110,
            "confidence": 1 - 2e-6,
            "eps": 2.0,
            "sigma_max": With(0.05, {"error_rates": 0.1, "sigma": None}),
        },
    ),
    "certify": (
        {"sigma": 0.3, "n0": 10, "n": 100, "alpha": 0.01},
        {
            **ALL,
            "sigma": 0.25,
            "n0": 11,
            "n": 110,
            "alpha": 0.02,
            "radius": 0.1,
        },
    ),
    "predict": (
        {"sigma": 0.3, "n": 1000, "alpha": 0.01},
        {
            **ALL,
            "sigma": 0.25,
            "n": 110,
            "alpha": With(0.5, {"n": 5, "sigma": 0.05}),
            "early": True,
        },
    ),
    "church_windows": (
        {"samples": 200, "size": 20, "sigma": 0.3},
        {
            **ALL,
            "across": "orthogonal",
            "up": "orthogonal",
            "sigma": 0.25,
            "rate": With(0.1, {"sigma": None}),
            "samples": With(210, {"sigma": None}),
            "size": 22,
            "extent": 1.5,
            "coarse": 4,
            "attack": "minimum",
        },
    ),
    "corruption_benchmark": (
        {"corruptions": ("gaussian_noise", "contrast", "pixelate")},
        {
            **ALL,
            "corruptions": ("gaussian_noise",),
            "severities": (2,),
            "storage": "jpeg",
            "quality": With(20, {"storage": "jpeg"}),
            "confidence": 0.9,
            "parameters": "imagenet",
        },
    ),
}


def told(record):
    """All that a record says of its numbers and of how they were made, but for the time it took."""
    values = {}
    for field in fields(record):
        value = getattr(record, field.name)
        if isinstance(value, torch.Tensor):
            value = value.float().cpu().numpy()
        if isinstance(value, np.ndarray):
            value = (str(value.dtype), value.shape, value.tobytes())
        values[field.name] = value
    for name, value in inspect.getmembers(type(record), lambda held: isinstance(held, property)):
        values[f"{name}, derived"] = repr(np.asarray(value.fget(record)).tolist())
    values["columns"] = repr({name: each.tolist() for name, each in record.columns().items()})
    made = asdict(record.provenance)
    for name in ("seconds", "compile_seconds", "versions"):
        del made[name]
    return values | {"provenance": made}


def without(told, option):
    """What remains when the record no longer says what the option was."""
    made = {name: value for name, value in told["provenance"].items() if name != option}
    del made["settings"]
    told = {name: value for name, value in told.items() if name not in (option, "provenance")}
    return told | {"provenance": made}


def called(function, options, engine=None):
    """The record of a call with these options, and those of its engine."""
    options = {name: value for name, value in options.items() if value is not None}
    model, x = (PICTURES, LARGE) if function == "corruption_benchmark" else (MODEL, X)
    if engine is not None:
        model = rc.Engine(model, **engine)
    return told(getattr(rc, function)(model, x, y=Y, **options))


def options_of(function):
    return set(inspect.signature(getattr(rc, function)).parameters) - NOT_OPTIONS


@pytest.fixture(autouse=True)
def without_a_compiler(monkeypatch):
    """That compile=True reaches torch.compile is what counts here, not what that makes."""
    monkeypatch.setattr(torch, "compile", lambda model, **options: model)


@pytest.fixture(scope="module")
def baseline():
    kept = {}

    def of(function, options):
        key = function, tuple(sorted(map(str, options.items())))
        if key not in kept:
            kept[key] = called(function, options)
        return kept[key]

    return of


@pytest.mark.parametrize("function", CASES)
def test_every_option_is_tried(function):
    assert options_of(function) == CASES[function][1].keys()


@pytest.mark.parametrize("function", CASES)
def test_the_same_call_gives_the_same_record(function):
    options = CASES[function][0]
    again = called(function, options)
    assert again == called(function, options)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("function", "option"),
    [(function, option) for function, (_, others) in CASES.items() for option in others],
)
def test_an_option_changes_the_record(function, option, baseline, tmp_path):
    options, others = CASES[function]
    other = others[option]
    if isinstance(other, With):
        options, other = {**options, **other.beside}, other.value
    changed = {**options, option: other}
    if isinstance(other, Instead):
        changed = {**options, option: other.value, other.of: None}
    if option == "run":
        changed["run"] = tmp_path
    found, before = called(function, changed), baseline(function, options)
    assert without(found, option) != without(before, option)


def test_every_option_of_an_engine_is_tried():
    options = set(inspect.signature(rc.Engine).parameters) - NOT_OPTIONS
    # what tells one input from several, and where inputs are put: test_shapes.py, test_engine.py
    assert options - {"shape", "device"} == ENGINE.keys() | LOWER.keys() | NO_NUMBER.keys()


@pytest.mark.parametrize(
    ("function", "option"),
    [
        *((function, option) for function in CASES for option in ENGINE),
        *((function, option) for function in DRAWN for option in LOWER),
    ],
)
def test_an_option_of_the_engine_changes_the_record(function, option, baseline):
    options = CASES[function][0]
    changed = called(function, options, {option: (ENGINE | LOWER)[option]})
    assert changed != baseline(function, options)


@pytest.mark.parametrize("function", sorted(CASES.keys() - DRAWN))
def test_attacks_and_rare_errors_use_the_model_as_it_is(function, baseline):
    options = CASES[function][0]
    assert called(function, options, LOWER) == baseline(function, options)


@pytest.mark.parametrize("option", NO_NUMBER)
@pytest.mark.parametrize("function", CASES)
def test_what_changes_no_number_does_what_it_is_for(function, option, baseline, capsys):
    options = CASES[function][0]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = called(function, options, {option: NO_NUMBER[option]})
    want = baseline(function, options)
    drawn = capsys.readouterr().err
    assert ("it/s" in drawn or "%" in drawn) == (option == "progress")
    ranges = any(each.category is rc.PixelRangeWarning for each in said)
    assert ranges == (option == "pixels")
    notes = found["provenance"]["notes"]
    assert any("2 blocks" in note for note in notes) == (option == "block")
    if option == "block":  # the set-up is paid by another image, and rounding is of other batches
        assert found["ids"] == want["ids"]
        assert found["labels"] == want["labels"]
    else:
        assert found == want
