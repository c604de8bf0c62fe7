"""Models that a command line names: of the zoo, of a Python file, or a saved program."""

from __future__ import annotations

import importlib.util
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustcore import zoo

FORMS = "a network of the zoo, FILE.py:FUNCTION, or a TorchScript or torch.export file"


def named(name: str) -> str:
    """What a report calls the model: the name, or that of the file or the function."""
    path, _, function = name.rpartition(":")
    if path.endswith(".py"):
        return function
    return name if _in_zoo(name) else Path(name).stem


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

    name: of the zoo; FILE.py:FUNCTION, whose FUNCTION() returns the model, with any normalisation
    inside; or a file that torch.jit.save or torch.export.save wrote. Raises ValueError, TypeError
    or OSError saying what is wrong. Whichever file it is, it is run with the user's
    rights: a TorchScript or torch.export file is a program too, and no safer than a Python file.
    """
    path, _, function = name.rpartition(":")
    if path.endswith(".py"):
        return _evaluated(_called(Path(path), function), device)
    if _in_zoo(name):
        return zoo.load_model(name, device)
    file = Path(name)
    if file.suffix == ".py":
        raise ValueError(f"--model must name a function too, {name}:FUNCTION, was {name}")
    if not file.is_file():
        raise FileNotFoundError(f"--model must be {FORMS}; there is no file {name}")
    kind = _kind(file)
    if kind is not None and os.environ.get("RANK", "0") == "0":
        print(f"note: {name} is a program that runs with your rights", file=sys.stderr)
    if kind == "script":
        return torch.jit.load(str(file), map_location=device).eval()
    if kind == "export":
        return Exported(torch.export.load(str(file)).module(), name).to(device)
    raise ValueError(
        f"--model must be {FORMS}; {name} is neither program. Weights alone need a function that "
        "builds the network and loads them: FILE.py:FUNCTION"
    )


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


def _called(path: Path, function: str) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"--model must be {FORMS}; there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"_robustcore_model_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"--model must name a Python file, was {path}")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"--model: {path} failed: {type(error).__name__}: {error}") from error
    make = getattr(module, function, None)
    if not callable(make):
        known = sorted(each for each in vars(module) if callable(getattr(module, each)))
        raise ValueError(
            f"--model must name a function of {path}, had no {function!r}; it has "
            f"{', '.join(known)}"
        )
    try:
        return make()
    except Exception as error:
        raise ValueError(
            f"--model: {function}() of {path} failed: {type(error).__name__}: {error}"
        ) from error


def _evaluated(model: Any, device: torch.device | str) -> Any:
    if not callable(model):
        raise TypeError(
            f"--model must give a callable, its function returned {type(model).__name__}"
        )
    return model.to(device).eval() if isinstance(model, nn.Module) else model
