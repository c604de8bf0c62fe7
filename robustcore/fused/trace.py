"""What each node of a traced module does to a chain of layers."""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from robustcore.fused.chain import Chain, NotPackable

KNOWN = (
    *(nn.Flatten, nn.Identity, nn.Sequential, nn.ReLU, nn.Linear, nn.Conv2d, nn.MaxPool2d),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.Dropout, nn.Dropout1d, nn.Dropout2d),
)


def ordinary(module: nn.Module) -> bool:
    """Whether a module is one of KNOWN, with its own forward method."""
    return any(isinstance(module, k) and type(module).forward is k.forward for k in KNOWN)


def append(chain: Chain, model: nn.Module, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    """Append what a node does; what it stands for: the value, a constant, or its batch size."""
    chain.node = str(node.target) if node.op == "call_module" else node.name
    try:
        return _do(chain, model, node, values)
    except NotPackable as error:
        reason = str(error)
    except Exception as error:  # what torch would refuse as well, or what is not foreseen here
        reason = f"could not be followed: {type(error).__name__}: {error}"
    raise NotPackable(f"model must hold layers that pack knows, its {chain.node!r} {reason}")


class _Mark:
    """What a node stands for where it is no constant."""


VALUE, BATCH = _Mark(), _Mark()


def _do(chain: Chain, model: nn.Module, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    if node.op == "placeholder":
        if VALUE in values.values() and node.args == ():
            raise NotPackable("is a second argument")
        return node.args[0] if VALUE in values.values() else VALUE
    if node.op == "get_attr":
        return operator.attrgetter(str(node.target))(model)
    args = fx.map_arg(node.args, lambda n: values[n])
    kwargs = fx.map_arg(node.kwargs, lambda n: values[n])
    if node.op == "output":
        if args[0] is not VALUE:
            raise NotPackable("is not one tensor of logits")
        return None
    consumed = [each for each in node.all_input_nodes if values[each] is VALUE]
    target: Any = node.target
    if node.op == "call_module":
        target = model.get_submodule(str(node.target))
    if not consumed:
        return _constant(node, target, args, kwargs)
    if _asks_size(node, args):
        return BATCH
    if len(consumed) > 1 or len([u for u in consumed[0].users if not _asks_size_of(u)]) > 1:
        raise NotPackable("is part of a branch")
    if node.op == "call_module":
        _module(chain, target)
    elif target is not getattr or args[1] != "logits":  # a tensor has none: itself is asked for
        _function(chain, target, args, kwargs)
    return VALUE


def _constant(node: fx.Node, target: Any, args: Any, kwargs: Any) -> Any:
    if any(each is BATCH for each in args) or node.op == "call_module":
        if target is operator.getitem or not isinstance(target, nn.Module):
            return BATCH
        raise NotPackable("is no chain of layers")
    return getattr(args[0], target)(*args[1:], **kwargs) if node.op == "call_method" else target(
        *args, **kwargs
    )  # fmt: skip


def _asks_size(node: fx.Node, args: Any) -> bool:
    return _asks_size_of(node) and args[0] is VALUE


def _asks_size_of(node: fx.Node) -> bool:
    if node.op == "call_method":
        return node.target == "size" and node.args[1:] == (0,)
    return node.target is getattr and node.args[1] == "shape"


def _module(chain: Chain, module: nn.Module) -> None:
    if not ordinary(module):
        raise NotPackable(f"was a {type(module).__name__}")
    if isinstance(module, nn.Linear):
        chain.linear(module.weight, module.bias)
    elif isinstance(module, nn.Conv2d):
        chain.convolution(module)
    elif isinstance(module, nn.ReLU):
        chain.relu()
    elif isinstance(module, nn.MaxPool2d):
        if module.return_indices:
            raise NotPackable("returns indices")
        chain.maximum(
            module.kernel_size, module.stride, module.padding, module.dilation, module.ceil_mode
        )
    elif isinstance(module, nn.Flatten):
        _flatten(chain, module.start_dim, module.end_dim)
    elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
        _norm(chain, module)
    elif isinstance(module, nn.modules.dropout._DropoutNd) and module.training and module.p > 0:
        raise NotPackable("drops at random: call model.eval()")


def _norm(chain: Chain, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
    if norm.training or norm.running_mean is None or norm.running_var is None:
        raise NotPackable("takes its statistics from the batch: call model.eval()")
    mean, var = (v.detach().cpu().double() for v in (norm.running_mean, norm.running_var))
    scale = (var + norm.eps).rsqrt()
    if norm.affine:
        scale = scale * norm.weight.detach().cpu().double()
    bias = norm.bias.detach().cpu().double() if norm.affine else 0.0
    chain.affine(scale, bias - mean * scale)


def _flatten(chain: Chain, start: int = 0, end: int = -1) -> None:
    if start != 1 or end not in (-1, len(chain.shape)):
        raise NotPackable("does not flatten each image by itself")
    chain.flatten()


def _reshape(chain: Chain, *sizes: Any) -> None:
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
        sizes = tuple(sizes[0])
    numbers = math.prod(chain.shape)
    if len(sizes) != 2 or not (
        (sizes[0] is BATCH and sizes[1] in (-1, numbers)) or tuple(sizes) == (-1, numbers)
    ):
        raise NotPackable("does not flatten each image by itself")
    chain.flatten()


def _arithmetic(chain: Chain, target: Any, args: Any) -> None:
    """A constant for all or for each channel, on either side."""
    left, right = args[:2]
    constant = right if left is VALUE else left
    if isinstance(constant, _Mark):
        raise NotPackable("is no arithmetic with a constant")
    value = torch.as_tensor(constant, device="cpu").detach().cpu().double()
    per_channel = (len(chain.shape) == 3) * [1, 1]
    if value.numel() != 1:
        shape = list(value.shape)
        shape = shape[1:] if len(shape) == len(chain.shape) + 1 and shape[0] == 1 else shape
        if shape != [chain.shape[0], *per_channel]:
            raise NotPackable(f"has a constant of shape {tuple(value.shape)}")
    value, one, none = value.flatten(), value.new_ones(1), value.new_zeros(1)
    name = target if isinstance(target, str) else target.__name__
    name = name.strip("_").removesuffix("_").removeprefix("i")
    if name in ("truediv", "true_divide", "divide"):
        name = "div"
    if name in ("sub", "subtract"):
        sign = 1.0 if left is VALUE else -1.0
        chain.affine(one * sign, -value * sign)
    elif name == "add":
        chain.affine(one, value)
    elif name in ("mul", "multiply"):
        chain.affine(value, none)
    elif name == "div" and left is VALUE:
        chain.affine(1 / value, none)
    else:
        raise NotPackable("is no arithmetic with a constant")


def _function(chain: Chain, target: Any, args: Any, kwargs: Any) -> None:
    name = target if isinstance(target, str) else getattr(target, "__name__", str(target))
    rest = args[1:]
    if name in ("relu", "relu_"):
        chain.relu()
    elif name == "flatten":
        _flatten(chain, *rest, **{{"start_dim": "start", "end_dim": "end"}[k]: v
                                  for k, v in kwargs.items() if k != "input"})  # fmt: skip
    elif name in ("view", "reshape"):
        _reshape(chain, *rest)
    elif name in ("boolean_dispatch", "max_pool2d", "fn") and target is F.max_pool2d:
        names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
        given = {**dict(zip(names, rest, strict=False)), **kwargs}
        defaults = (None, None, 0, 1, False)
        chain.maximum(*(given.get(n, d) for n, d in zip(names, defaults, strict=True)))
    elif name == "dropout":
        given = {**dict(zip(("p", "training"), rest, strict=False)), **kwargs}
        if given.get("training", True) and given.get("p", 0.5) > 0:
            raise NotPackable("drops at random: call model.eval()")
    elif name == "linear":
        given = {**dict(zip(("weight", "bias"), rest, strict=False)), **kwargs}
        chain.linear(given["weight"], given.get("bias"))
    elif name not in ("contiguous",):
        if kwargs or len(args) != 2:
            raise NotPackable("is not among the layers that pack knows")
        _arithmetic(chain, target, args)
