"""What makes a run this run and no other: model, data, settings, by the names of arguments."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import math
import sys
import types
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustcore.engine import Engine
from robustcore.errors import Criterion
from robustcore.noise import Noise
from robustcore.results import Record
from robustcore.runs.behaviour import Behaviour, difference
from robustcore.runs.errors import Changed
from robustcore.runs.rows import rows_of
from robustcore.sources import digest

HOLDERS = (Engine, nn.Module, Tensor, types.FunctionType, types.MethodType, functools.partial)
PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)
MEANING = {
    "x": "the images",
    "torch": "the version of torch",
    "python": "the version of Python, which compiled the code of the model",
    "structure": "its modules",
    "weights": "the weights",
    "code": "its code",
}


def of_model(model: Any) -> dict[str, str]:
    """What a model is: hashes of its modules, of their weights and buffers, and of its code.

    Of a callable that is no module: of its code and of what that holds. Numbers and functions that
    a module or an object has as attributes may be counters and callbacks, and are no part of it: a
    run knows them by what the model does.
    """
    return _hashes(model, settings=False)


def of_attack(attack: Any) -> dict[str, str]:
    """What an attack is: as `of_model`, and every plain value that it holds at any depth.

    It may be too dear to be asked what it does, so its settings are all that tells it from another.
    """
    return _hashes(attack, settings=True)


def _hashes(value: Any, settings: bool) -> dict[str, str]:
    parts = _Parts([], [], [], settings)
    _describe(value, parts, {})
    return {
        "structure": digest(*parts.structure),
        "weights": digest(*parts.weights),
        "code": digest(*parts.code),
    }


@dataclass
class _Parts:
    structure: list[Any]
    weights: list[Any]
    code: list[Any]
    settings: bool  # whether plain values count that an object, a list or a mapping holds

    def counts(self, value: Any) -> bool:
        if self.settings:
            return not isinstance(value, (types.ModuleType, logging.Logger))
        return isinstance(value, (*HOLDERS, tuple))


def _describe(value: Any, parts: _Parts, seen: dict[int, int]) -> None:
    if isinstance(value, PLAIN):
        parts.code.append(repr(value))
        return
    if id(value) in seen:
        parts.structure.append(f"the same as {seen[id(value)]}")
        return
    seen[id(value)] = len(seen)
    if isinstance(value, Engine):
        for each in (value.model, tuple(value.settings.items())):
            _describe(each, parts, seen)
    elif isinstance(value, nn.Module):
        _describe_module(getattr(value, "_orig_mod", value), parts, seen)  # of torch.compile
    elif isinstance(value, Tensor):
        parts.weights.append(value)
    elif isinstance(value, functools.partial):
        parts.structure.append("partial")
        for each in (value.func, value.args, tuple(value.keywords.items())):
            _describe(each, parts, seen)
    elif isinstance(value, types.MethodType):
        _describe(value.__func__, parts, seen)
        _describe(value.__self__, parts, seen)
    elif isinstance(value, types.FunctionType):
        _describe_function(value, parts, seen)
    elif isinstance(value, Mapping):
        for name, each in value.items():
            if parts.counts(each):
                parts.structure.append(str(name))
                _describe(each, parts, seen)
    elif isinstance(value, list):  # numbers in it may be a log of what was done
        for each in value:
            if parts.counts(each):
                _describe(each, parts, seen)
    elif isinstance(value, tuple):
        parts.structure.append(f"tuple {len(value)}")
        for each in value:
            _describe(each, parts, seen)
    elif isinstance(value, (np.ndarray, np.generic)):
        parts.weights.append(plain(value))
    elif isinstance(value, type):
        parts.structure.append(_name(value))
    else:
        parts.structure.append(_name(type(value)))
        call = type(value).__dict__.get("__call__")
        if isinstance(call, types.FunctionType):
            _describe(call, parts, seen)
        for name, each in getattr(value, "__dict__", {}).items():
            if isinstance(each, HOLDERS) or (parts.settings and parts.counts(each)):
                parts.structure.append(name)
                _describe(each, parts, seen)


def _describe_module(module: nn.Module, parts: _Parts, seen: dict[int, int]) -> None:
    parts.structure += [type(module).__qualname__, repr(module)]
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        parts.weights += [name, tensor]
    for each in module.modules():
        forward = getattr(type(each), "forward", None)
        if isinstance(forward, types.FunctionType) and not _of_torch(forward):
            _describe(forward, parts, seen)
        for held in vars(each).values():  # modules that torch does not know of
            if isinstance(held, (tuple, list)):
                for inner in held:
                    if isinstance(inner, nn.Module):
                        _describe(inner, parts, seen)


def _describe_function(function: types.FunctionType, parts: _Parts, seen: dict[int, int]) -> None:
    code = function.__code__
    parts.code += [function.__qualname__, *_code(code, function.__doc__)]
    inner = [cell.cell_contents for cell in function.__closure__ or () if _filled(cell)]
    held = function.__globals__
    inner += [held[name] for name in sorted(_names(code)) if name in held]
    inner += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    for each in inner:
        if isinstance(each, (*HOLDERS, *PLAIN)):
            if not (isinstance(each, types.FunctionType) and _of_torch(each)):
                _describe(each, parts, seen)
        elif (
            isinstance(each, (tuple, list, Mapping))
            or callable(getattr(each, "forward", None))
            or (parts.settings and parts.counts(each))
        ):
            _describe(each, parts, seen)


def _code(code: types.CodeType, doc: str | None) -> list[Any]:
    """Instructions, names and constants, those of inner functions too; no lines and no words."""
    parts: list[Any] = [code.co_code, code.co_names]
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            parts += _code(each, None)
        elif isinstance(each, frozenset):  # whose order is that of a process
            parts.append(sorted(map(repr, each)))
        elif doc is None or each != doc:
            parts.append(repr(each))
    return parts


def _names(code: types.CodeType) -> set[str]:
    inner = (each for each in code.co_consts if isinstance(each, types.CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _of_torch(function: Any) -> bool:
    return str(getattr(function, "__module__", "")).partition(".")[0] == "torch"


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
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, (Noise, Criterion)):
        body = type(value).points if isinstance(value, Noise) else type(value).margin
        return {"name": repr(value)} | of_attack((body, tuple(vars(value).items())))
    if callable(value):
        name = getattr(value, "__qualname__", type(value).__qualname__)
        return {"callable": name} | of_attack(value)
    return repr(value)


def versions() -> dict[str, str]:
    return {
        "robustcore": version("robustcore"),
        "torch": torch.__version__,
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
    }


def settings_hash(identity: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def refuse_change(held: dict[str, Any], given: dict[str, Any], folder: Any) -> None:
    """Raises Changed naming the first argument that is not that of the run in `folder`."""
    for name in [*held, *(each for each in given if each not in held)]:
        was, now = held.get(name), given.get(name)
        if was == now:
            continue
        part = name
        if isinstance(was, dict) and isinstance(now, dict):
            part = next(each for each in {**was, **now} if was.get(each) != now.get(each))
            was, now = was.get(part), now.get(part)
        what = f" ({MEANING[part]})" if part in MEANING else ""
        raise Changed(
            f"{name}{what} must be that of the run in {folder}, {was}, was {now}: "
            "give another folder"
        )


def refuse_other(held: Behaviour, given: Behaviour, folder: Any) -> None:
    """Raises Changed where the model does something else than that of the run in `folder`."""
    why = difference(held, given)
    if why is not None:
        raise Changed(
            f"model (what it does) must be that of the run in {folder}, but {why}: "
            "give another folder"
        )
