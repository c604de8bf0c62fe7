"""Models that a command line names: of the zoo, of a Python file, or a saved program."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import types
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustcore import zoo

FORMS = "a network of the zoo, FILE.py:NAME, or a TorchScript or torch.export file"
# What the last Python file brought: its folder in sys.path, and modules from there
_folders: list[str] = []
_modules: list[str] = []


def named(name: str) -> str:
    """What a report calls the model: the name, or that of the file or the function."""
    path, _, function = name.rpartition(":")
    if path.endswith(".py"):
        return function
    return name if _in_zoo(name) else Path(name).stem


def names(given: Sequence[str]) -> list[str]:
    """A name for each model: that of `named`, and its file before it where two would be the same.

    Of files of one name as many folders are named as tell them apart. Raises ValueError for a model
    that comes twice.
    """
    files = [whole(name) for name in given]
    for name, file in zip(given, files, strict=True):
        if files.count(file) > 1:
            raise ValueError(f"--model must give each model once, {name} came twice")
    called = [named(file) for file in files]
    depths = [0] * len(files)
    while len(set(called)) < len(called):
        same = [i for i, name in enumerate(called) if called.count(name) > 1]
        for i in same:
            depths[i] += 1
            called[i] = _with_folders(files[i], depths[i])
    return called


def _with_folders(file: str, depth: int) -> str:
    """The last `depth` parts of a path, with what stands behind it; a name of the zoo as it is."""
    return "/".join(Path(file).parts[-depth:])


def whole(name: str) -> str:
    """The same name from any folder: paths made whole."""
    path, _, function = name.rpartition(":")
    if path.endswith(".py"):
        return f"{Path(path).resolve()}:{function}"
    return name if _in_zoo(name) else str(Path(name).resolve())


def program(name: str) -> Path | None:
    """The file that `load` runs, with all that it does; None for a network of the zoo."""
    path, _, _ = name.rpartition(":")
    if path.endswith(".py"):
        return Path(path)
    return None if _in_zoo(name) else Path(name)


def load(name: str, device: torch.device | str) -> Any:
    """A model in evaluation mode: pixels (S, C, H, W) in [0, 1] to logits, or an object with them.

    name: of the zoo; FILE.py:NAME, with any normalisation inside; or a file that torch.jit.save or
    torch.export.save wrote. NAME is the model, or is called without arguments and returns it: a
    function or a class that needs none. The file is run as Python runs a script, with the modules
    of its folder at hand, until another file is loaded. Raises ValueError, TypeError or OSError
    saying what is wrong. Whichever file it is, it is run with the user's rights: a TorchScript or
    torch.export file is a program too, and no safer than a Python file.
    """
    path, _, function = name.rpartition(":")
    if path.endswith(".py"):
        return _evaluated(_of_file(Path(path), function), name, device)
    if _in_zoo(name):
        return zoo.load_model(name, device)
    file = Path(name)
    if file.suffix == ".py":
        raise ValueError(f"--model must name a function too, {name}:FUNCTION, was {name}")
    if not file.is_file():
        raise FileNotFoundError(f"--model must be {FORMS}; there is no file {name}")
    kind = _kind(file)
    if kind is None:
        raise ValueError(
            f"--model must be {FORMS}; {name} is neither program. Weights alone need a function "
            "that builds the network and loads them: FILE.py:NAME"
        )
    if os.environ.get("RANK", "0") == "0":
        print(f"note: {name} is a program that runs with your rights", file=sys.stderr)
    with _naming(name):
        if kind == "script":
            return torch.jit.load(str(file), map_location=device).eval()
        return Exported(torch.export.load(str(file)).module(), name).to(device)


def _in_zoo(name: str) -> bool:
    """Whether it is to be looked for there; a name there may hold a point, as in gauss0.4."""
    return name in zoo.names() or not (Path(name).suffix or Path(name).exists())


def _kind(file: Path) -> str | None:
    if not zipfile.is_zipfile(file):
        return None
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
    if any("/code/" in each for each in names):
        return "script"
    exported = any(
        each.endswith(("archive_format", "serialized_exported_program.json")) for each in names
    )
    return "export" if exported else None


class Exported(nn.Module):
    """A program of torch.export, whose batches are of 2 or more, for batches of any size."""

    def __init__(self, program: nn.Module, name: str) -> None:
        super().__init__()
        self.program, self.name = program, name
        self.training = False

    def forward(self, x: Tensor) -> Any:
        batch = x if len(x) > 1 else torch.cat([x, x])
        try:
            answer = self.program(batch)
        except (AssertionError, RuntimeError) as error:
            raise ValueError(
                f"--model must take batches of any size, {self.name} did not: export it with "
                f'dynamic_shapes=({{0: torch.export.Dim("batch")}},). It said: {error}'
            ) from error
        return getattr(answer, "logits", answer)[: len(x)]


def _of_file(path: Path, name: str) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"--model must be {FORMS}; there is no file {path}")
    with _beside(path) as module:
        with _naming(str(path)):
            source = compile(path.read_bytes(), path.resolve(), "exec", dont_inherit=True)
            exec(source, vars(module))
        given = getattr(module, name, None)
        if given is None:
            known = sorted(each for each in vars(module) if callable(getattr(module, each)))
            raise ValueError(
                f"--model must name a function of {path}, or a model in it, had no {name!r}; it "
                f"has {', '.join(known)}"
            )
        if isinstance(given, nn.Module) or not _needs_nothing(given):
            return given
        with _naming(f"{name}() of {path}"):
            return given()


@contextmanager
def _beside(path: Path) -> Iterator[types.ModuleType]:
    """The module of a file that is about to be run, known to Python by its name.

    Within this it is `__main__` too, for objects that were pickled when it ran as a script. The
    modules that the file before brought are forgotten: another folder may have others of the same
    names.
    """
    for each in _modules:
        sys.modules.pop(each, None)
    for each in _folders:
        sys.path.remove(each)
    _folders[:] = [str(path.resolve().parent)]
    sys.path.insert(0, _folders[0])
    importlib.invalidate_caches()  # a file may be younger than Python's look at its folder
    before = set(sys.modules)
    stem = path.stem.replace(".", "_")
    module = types.ModuleType(f"_robustcore_model_{stem}" if stem in before else stem)
    module.__file__ = str(path.resolve())
    main = sys.modules["__main__"]
    sys.modules[module.__name__] = sys.modules["__main__"] = module
    try:
        yield module
    finally:
        sys.modules["__main__"] = main
        new = set(sys.modules) - before
        own = {each for each in new if "." not in each and _lies_in(_folders[0], each)}
        _modules[:] = [each for each in new if each.partition(".")[0] in own]


def _lies_in(folder: str, name: str) -> bool:
    file = getattr(sys.modules[name], "__file__", None)
    if file is None:
        return False
    path = Path(file).resolve()
    return folder in (str(path.parent), str(path.parent.parent))


def _needs_nothing(given: Any) -> bool:
    """Whether it can be called without arguments, as what returns a model can, and a model not."""
    try:
        inspect.signature(given).bind()
    except (TypeError, ValueError):  # no callable, one that needs more, one of C
        return False
    return True


@contextmanager
def _naming(what: str) -> Iterator[None]:
    """Any error of a user's file as one sentence that names it."""
    try:
        yield
    except (Exception, SystemExit) as error:
        raise ValueError(f"--model: {what} failed: {type(error).__name__}: {error}") from error


def _evaluated(model: Any, name: str, device: torch.device | str) -> Any:
    if not callable(model):
        raise TypeError(
            "--model must be a model, or a function that returns one, "
            f"{name} gave {type(model).__name__}"
        )
    return model.to(device).eval() if isinstance(model, nn.Module) else model
