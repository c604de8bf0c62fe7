"""Models of the user's files load as Python loads a script; each error is one sentence."""

import pickle
import re
import sys

import pytest
import torch

import robustcore as rc
from robustcore import blame
from robustcore.cli import main, models

X = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
POOL = """
from torch import nn
class Pool(nn.Module):
    def forward(self, x):
        return SCALE * x.mean((2, 3))
"""


@pytest.fixture(autouse=True)
def as_it_was():
    """What loading leaves for the model's sake is not for other tests."""
    yield
    for name in models._modules:
        sys.modules.pop(name, None)
    for folder in models._folders:
        sys.path.remove(folder)
    models._folders.clear()
    models._modules.clear()


def logits(folder, name):
    return models.load(f"{folder}/{name}", "cpu")(X)


def test_a_file_may_import_its_neighbours(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "__init__.py").write_text("from parts.scale import SCALE\n")
    (tmp_path / "parts" / "scale.py").write_text("SCALE = 3\n")
    (tmp_path / "net.py").write_text("from parts import SCALE\n" + POOL)
    assert torch.equal(logits(tmp_path, "net.py:Pool"), 3 * X.mean((2, 3)))


def test_neighbours_of_one_name_are_not_mixed_up(tmp_path):
    for scale in (2, 5):
        folder = tmp_path / str(scale)
        folder.mkdir()
        (folder / "neighbour.py").write_text(f"SCALE = {scale}\n")
        (folder / "net.py").write_text("from neighbour import SCALE\n" + POOL)
    both = {scale: models.load(f"{tmp_path}/{scale}/net.py:Pool", "cpu") for scale in (2, 5)}
    for scale, model in both.items():  # the first one too, once the second is loaded
        assert torch.equal(model(X), scale * X.mean((2, 3)))
    (tmp_path / "net.py").write_text("import neighbour\n" + POOL)
    with pytest.raises(ValueError, match=r"net\.py failed: ModuleNotFoundError.*neighbour"):
        models.load(f"{tmp_path}/net.py:Pool", "cpu")


def test_a_neighbour_imported_when_the_model_is_called(tmp_path):
    (tmp_path / "late.py").write_text("SCALE = 4\n")
    (tmp_path / "net.py").write_text(
        "def make():\n    def model(x):\n        from late import SCALE\n"
        "        return SCALE * x.mean((2, 3))\n    return model\n"
    )
    assert torch.equal(logits(tmp_path, "net.py:make"), 4 * X.mean((2, 3)))


def test_dataclasses_with_postponed_annotations(tmp_path):
    (tmp_path / "net.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import KW_ONLY, dataclass\n"
        "from typing import ClassVar\n@dataclass\nclass Config:\n"
        "    kind: ClassVar[str] = 'a'\n    _: KW_ONLY\n    scale: float = 2.0\n"
        "SCALE = Config(scale=3.0).scale\n" + POOL
    )
    assert torch.equal(logits(tmp_path, "net.py:Pool"), 3 * X.mean((2, 3)))


def test_annotations_are_postponed_only_where_the_file_says_so(tmp_path):
    (tmp_path / "net.py").write_text(
        "def f(x: int): ...\nSCALE = f.__annotations__['x'](2)\n" + POOL
    )
    assert torch.equal(logits(tmp_path, "net.py:Pool"), 2 * X.mean((2, 3)))


@pytest.mark.parametrize("module", ["net", "__main__"])
def test_a_pickled_network_is_read_by_the_file_of_its_class(tmp_path, module):
    (tmp_path / "net.py").write_text(
        "import pathlib, pickle\nSCALE = 2\n" + POOL + "def make():\n"
        "    file = pathlib.Path(__file__).parent / 'class.pkl'\n"
        "    return pickle.loads(file.read_bytes())\n"
    )
    # the class Pool() of this module, as pickle writes it: a script that pickles is __main__
    name = b"\x8c" + bytes([len(module)]) + module.encode()
    (tmp_path / "class.pkl").write_bytes(b"\x80\x04" + name + b"\x8c\x04Pool\x93)R.")
    model = models.load(f"{tmp_path}/net.py:make", "cpu")
    assert torch.equal(model(X), 2 * X.mean((2, 3)))
    assert type(pickle.loads(pickle.dumps(model))) is type(model)
    assert "Pool" not in vars(sys.modules["__main__"])


@pytest.mark.parametrize("name", ["Pool", "make", "pool", "plain", "held", "partial"])
def test_what_a_name_may_be(tmp_path, name):
    (tmp_path / "net.py").write_text(
        "import functools\nSCALE = 2\n" + POOL + "def make(scale=1): return Pool()\n"
        "pool = Pool()\ndef plain(x): return SCALE * x.mean((2, 3))\n"
        "class Held:\n    def __call__(self, x): return plain(x)\nheld = Held()\n"
        "partial = functools.partial(make, 3)\n"
    )
    model = models.load(f"{tmp_path}/net.py:{name}", "cpu")
    assert torch.equal(model(X), 2 * X.mean((2, 3)))
    assert not getattr(model, "training", False)


def test_a_file_of_a_module_that_is_known_already(tmp_path):
    (tmp_path / "json.v2.py").write_text("SCALE = 2\n" + POOL)
    assert torch.equal(logits(tmp_path, "json.v2.py:Pool"), 2 * X.mean((2, 3)))
    (tmp_path / "json.v2.py").rename(tmp_path / "pickle.py")
    assert torch.equal(logits(tmp_path, "pickle.py:Pool"), 2 * X.mean((2, 3)))
    assert sys.modules["pickle"] is pickle


# -- errors ----------------------------------------------------------------------------------------

RAISING = """
from torch import nn
import torch
def make(error):
    class Broken(nn.Module):
        def forward(self, x):
            raise error
    return lambda: Broken()
key = make(KeyError("head"))
value = make(ValueError("wrong size"))
asserted = make(AssertionError())
missing = make(NotImplementedError("no such layer"))
shapes = lambda: nn.Sequential(nn.Flatten(), nn.Linear(7, 3))
def leaves(): raise SystemExit(3)
number = 3
"""


def run(tmp_path, name, *more):
    command = ["sigma", "--model", f"{tmp_path}/net.py:{name}", "--images", "2", "--samples"]
    return main([*command, "100", "--rate", "0.1", "--out", str(tmp_path / "out"), *more])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("key", r"--model \S+:key failed: KeyError: 'head' \(--traceback shows where\)"),
        ("value", r"--model \S+:value failed: ValueError: wrong size \(--traceback"),
        ("asserted", r"--model \S+:asserted failed: AssertionError: "),
        ("missing", r"--model \S+:missing failed: NotImplementedError: no such layer"),
        ("shapes", r"--model \S+:shapes failed: RuntimeError: mat1 and mat2 shapes cannot"),
        ("leaves", r"--model: leaves\(\) of \S+ failed: SystemExit: 3"),
        ("number", r"--model must be a model, or a function that returns one, \S+ gave int"),
        ("gone", r"--model must name a function of \S+, or a model in it, had no 'gone'"),
    ],
)
def test_an_error_of_the_model_is_one_sentence_that_names_it(tmp_path, capsys, name, message):
    (tmp_path / "net.py").write_text(RAISING)
    assert run(tmp_path, name) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert re.search(f"^robustcore: {message}", error.strip().splitlines()[-1]), error


def test_traceback_shows_all_of_it(tmp_path, capsys):
    (tmp_path / "net.py").write_text(RAISING)
    assert run(tmp_path, "key", "--traceback") == 2
    error = capsys.readouterr().err
    assert error.startswith("Traceback (most recent call last)")
    assert 'net.py", line 7, in forward' in error
    assert re.search(r"robustcore: --model \S+:key failed: KeyError: 'head'$", error.strip())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda", "must be one that torch can use here, was 'cuda': torch sees 0 CUDA devices"),
        ("cuda:3", "must be one that torch can use here, was 'cuda:3': torch sees 0 CUDA"),
        ("meta", "must be one that torch can use here, was 'meta': "),
        ("xpu", "must be one that torch can use here, was 'xpu': "),
        ("quantum", "must name a torch device, was 'quantum'"),
    ],
)
def test_a_device_that_is_not_here_is_named(tmp_path, capsys, device, message):
    folder = str(tmp_path / "out")
    for command in (
        ["sigma", "--model", "cifar10-natural", "--out", folder],
        ["report", "--model", "cifar10-natural", "--out", folder],
        ["train", "--out", folder],
    ):
        assert main([*command, "--device", device]) == 2
        error = capsys.readouterr().err.strip().splitlines()
        assert len(error) == 1
        assert error[0].startswith(f"robustcore: --device {message}")
    assert not (tmp_path / "out").exists()


def test_errors_of_ours_are_told_from_others():
    def caught(call):
        try:
            call()
        except Exception as error:
            return error
        return pytest.fail("it raised nothing")

    ours = caught(lambda: rc.error_rate(lambda x: x, X, -1))
    assert blame.is_ours(ours)
    assert blame.sentence(ours).startswith("sigma must be")
    theirs = caught(lambda: torch.zeros(3).view(torch.zeros(2, 2)))
    assert not blame.is_ours(theirs)
    assert not blame.is_of_model(theirs)
    strange = caught(lambda: rc.error_rate(lambda x: {}["a"], X, 0.1))
    assert blame.is_of_model(strange)
    assert blame.sentence(strange) == "KeyError: 'a'"


# -- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (["a.py:make", "b.py:other"], ["make", "other"]),
        (["a.py:make", "b.py:make"], ["a.py:make", "b.py:make"]),
        (["x/a.py:make", "y/a.py:make", "b.py:f"], ["x/a.py:make", "y/a.py:make", "f"]),
        (["x/z/a.py:make", "y/z/a.py:make"], ["x/z/a.py:make", "y/z/a.py:make"]),
        (
            ["x/a.py:make", "y/a.py:make", "y/b.py:make"],
            ["x/a.py:make", "y/a.py:make", "b.py:make"],
        ),
        (["x/net.pt", "y/net.pt"], ["x/net.pt", "y/net.pt"]),
        (["net.pt", "net.pt2"], ["net.pt", "net.pt2"]),
        (["cifar10-natural", "a.py:make"], ["cifar10-natural", "make"]),
        (["cifar10-natural", "cifar10-natural.pt"], ["cifar10-natural", "cifar10-natural.pt"]),
    ],
)
def test_models_of_one_name_are_named_by_their_files(given, names):
    assert models.names(given) == names
    assert models.names([models.whole(each) for each in given]) == names  # as `resume` has them


@pytest.mark.parametrize("again", ["a.py:make", "./a.py:make", "x/../a.py:make"])
def test_a_model_that_comes_twice_is_refused(again):
    with pytest.raises(ValueError, match=r"must give each model once, \S+ came twice"):
        models.names(["a.py:make", again])


def test_two_functions_of_one_name_are_compared(tmp_path):
    for scale in (1, 2):
        wide = POOL.replace("(2, 3))", "(2, 3)).repeat(1, 4)")  # 10 classes and 2
        (tmp_path / f"net{scale}.py").write_text(f"SCALE = {scale}\n" + wide)
    names = [str(tmp_path / f"net{scale}.py:Pool") for scale in (1, 2)]
    command = ["report", "--out", str(tmp_path / "out"), "--sections", "settings", "--images", "2"]
    assert main([*command, "--model", *names]) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Robustness of net1.py:Pool, net2.py:Pool" in page


def test_the_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"robustcore {rc.__version__}\n"
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", rc.__version__)
