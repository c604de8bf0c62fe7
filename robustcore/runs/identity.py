"""What makes a run this run and no other: model, data, settings, by the names of arguments."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import types
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustcore.results import Record
from robustcore.runs.errors import Changed
from robustcore.runs.rows import rows_of
from robustcore.sources import digest

MEANING = {"x": "the images", "model": "the weights", "torch": "the version of torch"}


def of_model(model: Any) -> str:
    """A hash of weights, buffers and structure.

    Of a callable that is no module: of its code and the modules and tensors that it holds.
    """
    parts: list[Any] = []
    _describe(model, parts, set())
    return digest(*parts)


def _describe(value: Any, parts: list[Any], seen: set[int]) -> None:
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, nn.Module):
        value = getattr(value, "_orig_mod", value)  # of torch.compile
        parts += [type(value).__qualname__, repr(value)]
        for name, tensor in [*value.named_parameters(), *value.named_buffers()]:
            parts += [name, tensor]
    elif isinstance(value, Tensor):
        parts.append(value)
    elif isinstance(value, functools.partial):
        for each in (value.func, *value.args, *(value.keywords or {}).items()):
            _describe(each, parts, seen)
    elif isinstance(value, types.MethodType):
        parts.append(value.__qualname__)
        _describe(value.__self__, parts, seen)
    elif isinstance(value, types.FunctionType):
        code = value.__code__
        parts += [value.__qualname__, code.co_code, code.co_names, _constants(code)]
        inner = [cell.cell_contents for cell in value.__closure__ or () if _filled(cell)]
        inner += [value.__globals__[name] for name in code.co_names if name in value.__globals__]
        for each in inner:
            if isinstance(each, (nn.Module, Tensor, types.FunctionType, functools.partial)):
                _describe(each, parts, seen)
            elif isinstance(each, (bool, int, float, str)):
                parts.append(each)
    else:
        parts.append(type(value).__qualname__)
        for name, each in getattr(value, "__dict__", {}).items():
            if isinstance(each, (nn.Module, Tensor, types.FunctionType, bool, int, float, str)):
                parts.append(name)
                _describe(each, parts, seen)
        if isinstance(value, (bool, int, float, str)):
            parts.append(repr(value))


def _constants(code: types.CodeType) -> list[str]:
    return [
        each.co_code.hex() if isinstance(each, types.CodeType) else repr(each)
        for each in code.co_consts
    ]


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018 (raises where the cell is empty)
    except ValueError:
        return False
    return True


def plain(value: Any) -> Any:
    """A setting as a JSON value: arrays, records, callables by a hash, an infinity by its name."""
    if isinstance(value, Tensor):
        return f"array {digest(value)}" if value.ndim else plain(value.item())
    if isinstance(value, np.ndarray):
        return plain(torch.from_numpy(np.ascontiguousarray(value)))
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, Record):
        rows = rows_of(value)
        return f"record {digest(rows.form, torch.from_numpy(rows.as_bytes()))}"
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if callable(value):
        return f"callable {of_model(value)}"
    return repr(value)


def versions() -> dict[str, str]:
    return {"robustcore": version("robustcore"), "torch": torch.__version__}


def settings_hash(identity: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def refuse_change(held: dict[str, Any], given: dict[str, Any], folder: Any) -> None:
    """Raises Changed naming the first argument that is not that of the run in `folder`."""
    for name in [*held, *(each for each in given if each not in held)]:
        was, now = held.get(name), given.get(name)
        if was != now:
            what = f" ({MEANING[name]})" if name in MEANING else ""
            raise Changed(
                f"{name}{what} must be that of the run in {folder}, {was}, was {now}: "
                "give another folder"
            )
