"""What speaks against tracing a module: tracing runs its code, which must not notice."""

from __future__ import annotations

import dis
from types import MethodType
from typing import Any

from torch import Tensor, nn

from robustcore.fused.trace import ordinary

# What a forward method may name beside the module's own layers and numbers.
NAMES = {
    *("torch", "nn", "F", "functional", "flatten", "view", "reshape", "size", "shape"),
    *("contiguous", "relu", "relu_", "max_pool2d", "dropout", "linear", "training"),
    *("add", "sub", "mul", "div"),
}

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def surprise(model: nn.Module) -> str | None:
    """What stands in the way, as words that follow "model must hold layers that pack knows"."""
    names = {*NAMES, *(part for name, _ in model.named_modules() for part in name.split("."))}
    for name, module in model.named_modules():
        reason = _surprise(module, names)
        if reason is not None:
            return f"its {name!r} {reason}" if name else f"it {reason}"
    return None


def _surprise(module: nn.Module, names: set[str]) -> str | None:
    if any(getattr(module, hooks) for hooks in HOOKS):
        return "had hooks"
    if "forward" in vars(module):
        return "had a forward method of its own, beside its class's"
    if ordinary(module):
        return None
    if type(module).__module__.startswith("torch.") and not isinstance(module, nn.Sequential):
        return f"was a {type(module).__name__}"
    return _side_effect(module, type(module).forward, names)


def _words(function: Any) -> set[str]:
    """The strings in a function's code."""
    found = {each for each in function.__code__.co_consts if isinstance(each, str)}
    return found - {function.__doc__}


def _side_effect(module: nn.Module, function: Any, names: set[str]) -> str | None:
    """What a forward method does beside calling layers, as far as its code tells."""
    code = getattr(function, "__code__", None)
    if code is None or {*code.co_freevars} - {"__class__"}:
        return "was no plain method"
    for each in dis.get_instructions(code):
        if each.opname.startswith(("STORE_ATTR", "STORE_GLOBAL", "STORE_SUBSCR", "STORE_DEREF")):
            return f"stored {each.argval}"
        if each.opname.startswith(("MAKE_FUNCTION", "IMPORT", "YIELD", "RAISE")):
            return "was no chain of layers"
    for name in code.co_names:
        own = getattr(module, name, None)
        if name in names or isinstance(own, (nn.Module, Tensor, int, float, tuple)):
            continue
        if name == "getattr" and _words(function) <= {"logits"}:  # as rc.wrap asks an answer
            continue
        if not isinstance(own, MethodType):
            return f"used {name!r}"
        found = _side_effect(module, own.__func__, names | {name})
        if found is not None:
            return found
    return None
