"""Strange arguments to every public function: an answer, or an error that names an argument.

Each call is a good one with one to three of its arguments replaced by strange values. Allowed are
a result, and a ValueError, TypeError, RuntimeError or OSError whose message names an argument of
the function. Calls are a function of the seed and their number, of which there are CALLS:
`FUZZ_SECONDS=600 FUZZ_SEED=7 pytest tests/test_fuzz.py` goes on for as long, with others. A failure
says the call that makes it again.
"""

import functools
import inspect
import os
import re
import time
import types
import warnings
from fractions import Fraction

import matplotlib
import numpy as np
import torch
from torch import nn

import robustcore as rc
from robustcore import corruptions, defenses, training, zoo

CALLS = 20_000  # about 25 s; a number, so that a slower machine makes the same ones
SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))  # at least so long
SEED = int(os.environ.get("FUZZ_SEED", "0"))
MODULES = (rc, rc.adapters, rc.geometry, rc.plot, rc.stats, corruptions, defenses, training, zoo)
ALLOWED = (ValueError, TypeError, RuntimeError, OSError)
# Records are made by functions, from arrays that those checked; the rest is not for calling, is the
# machinery of runs and recipes, asks for a network, or needs a package that may not be there.
LEFT_OUT = {
    "CrossEntropy", "Recipe", "Defense", "Trained", "Report", "RandomizedModelWarning",
    "PixelRangeWarning", "load_cifar10", "load_mnist", "art", "foolbox",
}  # fmt: skip


LONG = {
    "error_rate", "certify", "predict", "train", "train_denoiser", "pgd", "distance_to_error",
    "noisy_distance", "audit_attack", "report", "TotalVariation", "PixelDeflection", "Denoiser",
    "RandomResizePad", "Adversarial",
}  # fmt: skip


def images(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


class Linear(nn.Module):
    """Three classes of images (3, 6, 6), near enough to one another for errors to be met."""

    def __init__(self, n):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(3, n, generator=generator) / n**0.5)

    def forward(self, x):
        return (x.flatten(1) - 0.5) @ self.weight.T


MODEL, X = Linear(108), images(2, 3, 6, 6)
LARGE, LARGE_X = Linear(3072), images(2, 3, 32, 32)


@functools.cache
def records():
    """One of each, as figures take them."""
    sigma = rc.sigma_at_error_rate(MODEL, X, 0.1, samples=50)
    near = rc.distance_to_error(MODEL, X, effort=5)
    return {
        "SigmaResult": sigma,
        "DistanceResult": near,
        "NoiseAndDistance": rc.compare(sigma, near),
        "ErrorRate": rc.error_rate(MODEL, X, [0.1, 0.5], samples=20),
        "PGDResult": rc.pgd(MODEL, X, eps=[0.05, 0.1], steps=3),
        "ErrorCurve": rc.error_curve(MODEL, X, rates=[0.1, 0.01], samples=200),
        "NoisyDistance": rc.noisy_distance(MODEL, X, sigma=0.2, points=10, samples=30),
        "SliceResult": rc.church_windows(MODEL, X, sigma=0.5, samples=20, size=9),
        "CorruptionResult": rc.corruption_benchmark(
            LARGE, LARGE_X, corruptions=["fog", "contrast"], severities=[1]
        ),
    }


def folder(path):
    """Two pictures and their labels."""
    from PIL import Image

    path.mkdir(exist_ok=True)
    for i in range(2):
        Image.fromarray((X[i].permute(1, 2, 0) * 255).byte().numpy()).save(path / f"{i}.png")
    (path / "labels.csv").write_text("file,label\n0.png,0\n1.png,1\n")
    return path


def good(path):
    """Arguments of a call that is quick and succeeds, by the function's name."""
    shared = {"model": MODEL, "x": X, "y": [0, 1], "seed": 1, "ids": [3, 4], "run": None}
    without_model = {name: each for name, each in shared.items() if name != "model"}
    found = records()
    sigma, near, rate = found["SigmaResult"], found["DistanceResult"], found["ErrorRate"]
    small = types.SimpleNamespace(**{
        name: images(8, 3, 8, 8).mul(255).byte() if "x" in name else torch.arange(8) % 3
        for name in ("x", "y", "x_test", "y_test")
    })  # fmt: skip
    data = training.Data("toy", **vars(small))
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    trained = {"data": data, "out": path / "trained", "epochs": 1, "lr": 0.1, "batch_size": 8}
    trained |= {"seed": 0, "device": "cpu", "progress": False, "compile": None, "average": True}
    half = {"model": LARGE, "gradient": "hidden", "seed": 0}
    return {
        "Engine": {"model": MODEL, "batch_size": None, "block": None, "backend": None}
        | {"error": "top1", "shape": None}
        | {"compile": None, "precision": None, "pixels": None, "progress": False},
        "Laplace": {"clip": None},
        "Speckle": {"clip": (0, 1)},
        "Uniform": {"norm": "L2", "clip": None},
        "SaltAndPepper": {"levels": (0, 1)},
        "Subspace": {"basis": torch.eye(12)[:2], "clip": None},
        "Noise": {},
        "TopK": {"k": 2},
        "AnyOf": {"groups": [0, 1, 1]},
        "OneLogit": {"threshold": 0.5},
        "Tolerance": {"atol": 0.1, "norm": 2},
        "principal_components": {"x": X, "k": 2},
        "error_rate": shared | {"sigma": [0.1], "samples": 20, "confidence": 0.9}
        | {"method": "counting", "noise": None},
        "sigma_at_error_rate": shared | {"error_rate": 0.1, "samples": 30, "rtol": None}
        | {"confidence": 0.9, "sigma_max": 1.0, "method": None, "noise": None},
        "scale_at_error_rate": shared | {"error_rate": 0.1, "samples": 30, "rtol": None}
        | {"confidence": 0.9, "scale_max": 1.0, "method": None, "noise": rc.Laplace()},
        "error_curve": shared | {"rates": [0.1, 0.02], "samples": 200, "moves": 2}
        | {"level_probability": 0.2, "confidence": 0.9, "sigma_max": 1.0, "noise": None}
        | {"second_look": False, "bridge": False},
        "certify": shared | {"sigma": 0.1, "n0": 10, "n": 40, "alpha": 0.01, "radius": None},
        "predict": shared | {"sigma": 0.1, "n": 40, "alpha": 0.01, "early": True},
        "distance_to_error": shared | {"norm": 2, "method": "pgd", "box": None, "steps": 3}
        | {"effort": None, "restarts": 1, "targets": None, "eps": 1.0, "step_size": 0.1}
        | {"loss": "ce", "refine": False},
        "pgd": shared | {"eps": [0.1], "norm": "Linf", "steps": 2, "restarts": 1, "box": None}
        | {"step_size": None, "loss": "ce", "targets": [1, 2], "random_start": True},
        "noisy_distance": shared | {"sigma": 0.2, "error_rate": None, "points": 10}
        | {"samples": 20, "confidence": 0.9, "method": "pgd", "eps": 1.0, "steps": 2}
        | {"sigma_max": 1.0},
        "audit_attack": shared | {"attack": lambda model, x, y: x + 0.1, "sigma": 0.2}
        | {"error_rates": 0.1, "points": 12, "samples": 20, "confidence": 0.9, "eps": 1.0}
        | {"sigma_max": 1.0},
        "church_windows": shared | {"sigma": 0.5, "across": "noise", "up": "orthogonal"}
        | {"rate": 0.1, "samples": 20, "size": 5, "extent": 1.0, "coarse": 4, "attack": "pgd"},
        "noisy_copies": {"x": X, "sigma": [0.1, 0.2], "sample": 0, "seed": 1, "ids": None}
        | {"pixels": None, "noise": None, "backend": None},
        "corrupt": {"x": LARGE_X, "name": "fog", "severity": 1, "seed": 0, "ids": None}
        | {"parameters": None, "backend": None},
        "corruption_benchmark": shared | {"model": LARGE, "x": LARGE_X, "severities": [1]}
        | {"corruptions": ["contrast"], "storage": "uint8", "quality": 80, "confidence": 0.9}
        | {"parameters": None},
        "corruption_benchmark_files": {"model": LARGE, "folder": path, "x": LARGE_X, "y": None}
        | {"corruptions": ["fog"], "severities": [1], "confidence": 0.9},
        "report": without_model | {"models": {"a": MODEL}, "out": path / "out", "data": "toy"}
        | {"classes": ["a", "b", "c"], "sections": ["settings"], "rate": 0.1, "samples": 20}
        | {"effort": 5, "points": 10, "windows": 0, "size": 5, "records": None},
        "compare": {"noise": sigma, "near": near},
        "pack": {"model": network, "shape": (3, 8, 8), "draws": "pixels"},
        "wrap": {"model": MODEL, "mean": 0.0, "std": [1.0]},
        "LabelledFolder": {"folder": folder(path / "folder"), "labels": None, "size": None}
        | {"images": 1},
        "load_example": {"name": "mnist-natural", "images": 2, "device": "cpu"},
        "load_images": {"images": 2, "device": "cpu", "data": "mnist"},
        "load_model": {"name": "mnist-natural", "device": "cpu"},
        "card": {"name": "mnist-natural"},
        "classes": {"name": "mnist-natural"},
        "names": {},
        "denoisers": {},
        "boxed": {"make": lambda span: lambda model, x, y: x, "room": 1.0},
        "torchattacks": {"kind": print},
        "autoattack": {"kind": print, "eps": 0.1},
        "half_space_distance": {"sigma": 0.1, "rate": [0.1, 0.2]},
        "half_space_sigma": {"distance": 0.1, "rate": 0.1},
        "half_space_rate": {"distance": 0.1, "sigma": 0.1},
        "half_space_ratio": {"distance": 0.1, "sigma": 0.1, "rate": 0.1},
        "isoperimetric_bound": {"sigma": 0.1, "rate": 0.1},
        "typical_noise_norm": {"sigma": 0.1, "n": 10},
        "clopper_pearson": {"errors": 1, "samples": 3, "confidence": 0.9},
        "confidence_sequence": {"errors": 1, "samples": 3, "confidence": 0.9, "rate": 0.1},
        "group_coverage": {"looks": [3, 6], "probability": 0.5, "low": [0, 1], "high": [3, 5]},
        "group_ranks": {"looks": [3, 6], "probability": 0.5, "confidence": 0.9, "weights": [1, 2]},
        "order_ranks": {"samples": 9, "probability": 0.5, "confidence": 0.9},
        "rank_coverage": {"samples": 9, "probability": 0.5, "low": 2, "high": 7},
        "target_rank": {"samples": 9, "probability": 0.5},
        "accuracy_in_noise": {"records": rate},
        "accuracy_over_trials": {"trials": {"a": [rate, rate]}},
        "church_window": {"record": found["SliceResult"], "image": 0, "names": None, "eps": 0.03}
        | {"legend": True},
        "margin_window": {"record": found["SliceResult"], "image": 0, "names": None, "eps": 0.03}
        | {"legend": True},
        "corruption_accuracy": {"models": {"a": found["CorruptionResult"]}},
        "corruption_groups": {"models": {"a": found["CorruptionResult"]} | {
            "b": found["CorruptionResult"]}, "robust": {"a": [found["PGDResult"]]}},
        "distance_histograms": {"models": near, "bins": 5},
        "half_space": {"sigma": 0.1, "rate": 0.1, "n": 5},
        "image_row": {"images": X, "words": ["a", "b"]},
        "nearness_by_dimension": {"rates": [0.1]},
        "nearness_by_rate": {"dimensions": {"a": 5}},
        "noisy_distance_at_rate": {"models": found["NoisyDistance"], "rate": 0.1},
        "noisy_distance_at_sigma": {"models": found["NoisyDistance"]},
        "noisy_images": {"panels": X[:, None], "sigma": [0.1], "rows": ["a", "b"]},
        "ratio_to_half_space": {"record": found["ErrorCurve"], "through": 0.1},
        "robust_accuracy": {"models": found["PGDResult"]},
        "sigma_against_distance": {"models": found["NoiseAndDistance"], "every": 1},
        "sigma_against_rate": {"record": found["ErrorCurve"], "through": 0.1, "shown": 2},
        "sigma_histogram": {"record": sigma},
        "sigma_histograms": {"models": sigma, "bins": 5},
        "sigma_intervals": {"record": sigma},
        "ArrayFile": {"path": path / "none.npy", "first": 0, "last": None},
        "ImageFiles": {"paths": [path / "folder" / "0.png"], "size": (4, 4)},
        "BitDepth": {"model": LARGE, "bits": 3, "gradient": "hidden"},
        "JPEG": {"model": LARGE, "quality": 50, "gradient": "hidden"},
        "Denoised": {"model": LARGE, "denoiser": nn.Identity()},
        "Denoiser": {"channels": 3, "widths": (4, 8)},
        "PixelDeflection": half | {"deflections": 2, "window": 2, "sigma": None, "wavelet": "db1"},
        "RandomResizePad": {"model": LARGE, "low": 6, "high": 8, "seed": 0},
        "TotalVariation": half | {"drop": 0.5, "weight": 0.1, "iterations": 2},
        "load_denoiser": {"name": "cifar10-natural", "device": "cpu"},
        "published": {"model": LARGE, "height": 8, "width": 8, "denoiser": None},
        "train_denoiser": trained | {"model": network, "denoiser": nn.Conv2d(3, 3, 1)}
        | {"eps": 0.1, "steps": 1},
        "Adversarial": {"eps": 0.1, "steps": 2, "step_size": None, "restarts": 1, "ramp": 0.0}
        | {"on_overfitting": "stop"},
        "Gaussian": {"sigma_max": 0.1, "half": False},
        "Natural": {},
        "Data": {"name": "toy", **vars(small), "pad": 0, "mirror": False},
        "train": trained | {"network": network, "recipe": None, "start": None}
        | {"schedule": "cosine", "weight_decay": 0.0, "precision": "float32"},
    }  # fmt: skip


def strange():
    """What an argument may be in place of what it should."""
    nan, inf = float("nan"), float("inf")
    numbers = [0, 1, 2, -1, 3, 7, 0.5, -0.5, 1e-3, 1e-50, 1e39, nan, inf, -inf, 1j, 2**31, 2**63]
    numbers += [10**400, True, False, Fraction(1, 3), np.float32(0.3), np.int8(3), np.uint64(5)]
    numbers += [np.longdouble(0.5), np.datetime64(3, "D"), np.timedelta64(3, "D"), np.ma.masked]
    numbers += [torch.tensor(0.5), torch.tensor(2), torch.tensor(1j), torch.tensor(True)]
    numbers += [torch.tensor(0.5, dtype=torch.bfloat16), torch.empty((), device="meta")]
    texts = ["", "01", "abc", b"abc", "2", "linf", "noise", "search", "adversarial", "\0", "cpu"]
    texts += ["cuda:99", "/dev/null", "/proc/none", np.str_("x"), "x" * 5000]
    lists = [[], [0.1], [0.1, 0.2], [0, 1], [1, 0, 2], [[0.1], [0.2]], [[1], [1, 2]], (0, 1)]
    lists += [(1, 0), (-inf, inf), (0, nan), ["a"], [None], [True, False], [0.1, "a"], range(2)]
    lists += [{}, {"a": 1}, {1: 2}, {1, 2}, {"a": [1]}, {"a": MODEL}, iter([1, 2]), [2**63, 0]]
    arrays = [np.zeros(0), np.array([1, 0], ">i4"), np.array([0, 1], np.uint16)[::-1]]
    arrays += [np.array(["a", "b"]), np.array([0, None], object), np.ma.array([0, 1], mask=[0, 1])]
    arrays += [np.zeros((2, 2)), np.array([0.1, 0.2]), np.array([1, 2], "m8[s]"), np.eye(3) > 0]
    tensors = [X[0], X[:1], X.double(), X.half(), X.bfloat16(), X * 255, X - 5, X[:, :0], X[:0]]
    tensors += [X[:, 0], X[None], X.to_sparse(), X.to("meta"), X.int(), X > 0, X * nan, X * 1j]
    tensors += [X.numpy(), X.tolist(), (X * 255).byte(), X.to(torch.float8_e5m2), X[:, :, ::2]]
    tensors += [LARGE_X, LARGE_X[:, :2], torch.tensor([1, 0])[[1, 0]], torch.zeros(2, 0)]
    odd = [None, object(), type, len, MODEL, nn.Identity(), Ellipsis, NotImplemented, slice(1)]
    odd += [Linear(5), Linear(108).half(), Linear(108).double(), lambda x: x, lambda x: None]
    odd += [lambda x: MODEL(x) * nan, lambda x: MODEL(x).int(), Broken(), torch.float32]
    odd += [rc.Engine(MODEL), {"a": rc.Engine(LARGE)}]
    odd += [torch.device("meta"), records()["SigmaResult"], records()["ErrorRate"]]
    return [*numbers, *texts, *lists, *arrays, *tensors, *odd]


class Broken:
    """No number, whatever it says."""

    def __array__(self, *args, **kwargs):
        raise KeyError("broken")

    def __float__(self):
        raise ArithmeticError


def functions():
    """Everything public that can be called, by name."""
    found = {}
    for module in MODULES:
        names = getattr(module, "__all__", None) or [
            name for name, each in vars(module).items()
            if inspect.isfunction(each) and each.__module__ == module.__name__
            and not name.startswith("_")
        ]  # fmt: skip
        for name in names:
            each = getattr(module, name)
            is_record = isinstance(each, type) and issubclass(each, rc.Record)
            if callable(each) and not is_record and name not in LEFT_OUT:
                found[name] = each
    return found | {"Engine": measured}


def measured(**options):
    """What an engine is given counts where it measures."""
    return rc.error_rate(rc.Engine(**options), X, 0.1, samples=20)


measured.__signature__ = inspect.signature(rc.Engine)


def complaint(function, arguments):
    """What is wrong with how a call ended, or None."""
    names = inspect.signature(function).parameters
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", category=RuntimeWarning, module="robustcore")
        try:
            function(**arguments)
        except ALLOWED as error:
            if any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", str(error)) for name in names):
                return None
            return f"{type(error).__name__} names no argument: {error}"
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return None


def said(value):
    try:
        return f"{value!r:.60}"
    except Exception:
        return type(value).__name__


def test_every_public_function_has_a_good_call(tmp_path):
    calls = good(tmp_path)
    assert set(functions()) == set(calls)
    np.save(tmp_path / "none.npy", np.zeros((2, 4, 4, 3), np.uint8))
    for name, function in functions().items():
        parameters = inspect.signature(function).parameters
        missing = set(calls[name]) - set(parameters)
        assert not missing or "more" in parameters, name
        if name in ("corruption_benchmark_files", "train_denoiser", "train"):
            continue  # its files are not there; tested elsewhere
        function(**calls[name])


def test_the_check_sees_what_is_not_allowed():
    def key(x):
        raise KeyError("x")

    def nameless(x):
        raise ValueError("an index is out of range")

    def warned(x):
        with np.errstate(all="warn"):
            np.float64(1) / x
            warnings.warn_explicit("divide", RuntimeWarning, "noise.py", 1, "robustcore.noise")

    def named(x):
        raise ValueError("x must be positive, was 0")

    assert complaint(key, {"x": 0}) == "KeyError: 'x'"
    assert "names no argument" in complaint(nameless, {"x": 0})
    assert complaint(warned, {"x": np.float64(0)}).startswith("RuntimeWarning")
    assert complaint(named, {"x": 0}) is None
    assert complaint(lambda x: x, {"x": 0}) is None


def test_strange_arguments_are_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a path such as "abc" is one
    matplotlib.rcParams["figure.max_open_warning"] = 0
    known, calls, values = functions(), good(tmp_path), strange()
    np.save(tmp_path / "none.npy", np.zeros((2, 4, 4, 3), np.uint8))
    rng = np.random.default_rng(SEED)
    names, count, wrong = sorted(known), 0, {}
    end = time.monotonic() + SECONDS
    while count < CALLS or time.monotonic() < end:
        name = names[count % len(names)]
        count += 1
        arguments = dict(calls[name])
        parameters = [each for each in inspect.signature(known[name]).parameters if each != "more"]
        if not parameters:
            continue
        size = min(len(parameters), int(rng.choice([1, 1, 1, 2, 3])))
        for each in rng.choice(len(parameters), size, replace=False):
            arguments[parameters[each]] = values[rng.integers(len(values))]
        if too_long(name, arguments):
            continue
        before = time.monotonic()
        why = complaint(known[name], arguments)
        seconds = time.monotonic() - before
        if why is None and seconds > 60:
            why = f"took {seconds:.0f} s"
        if why is not None:
            changed = {
                each: said(value) for each, value in arguments.items()
                if value is not calls[name].get(each, inspect)
            }  # fmt: skip
            wrong.setdefault(f"{name}: {why[:80]}", f"{name}({changed})\n    {why[:300]}")
    assert not wrong, f"{len(wrong)} of {count} calls:\n" + "\n".join(wrong.values())
    assert count > 100


def too_long(name, arguments):
    """Whether what was asked for is right, and long: a compiled model, or many draws or steps."""
    if arguments.get("compile") is True:
        return True
    many = any(isinstance(value, int) and value >= 2**31 for value in arguments.values())
    return many and name in LONG
