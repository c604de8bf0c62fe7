"""From an ordinary nn.Module to a packed network, or the name of the layer that cannot be fused."""

from __future__ import annotations

import dis
import math
import operator
from dataclasses import replace
from types import MethodType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from robustcore.fused.packed import Layer, Packed

DRAWS = ("pixels", "features")
MOST_LINEAR, MOST_CONVOLUTIONS = 4, 3
WIDEST = 1024  # of a linear layer
MOST_UNITS = 2**17  # of all layers together: what a core's cache holds of one register of slots
KNOWN = (
    *(nn.Flatten, nn.Identity, nn.Sequential, nn.ReLU, nn.Linear, nn.Conv2d, nn.MaxPool2d),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.Dropout, nn.Dropout1d, nn.Dropout2d),
)

# What a forward method may name beside the module's own layers and numbers.
NAMES = {
    *(
        "torch",
        "nn",
        "F",
        "functional",
        "flatten",
        "view",
        "reshape",
        "size",
        "shape",
        "contiguous",
    ),
    *("relu", "relu_", "max_pool2d", "dropout", "linear", "training", "add", "sub", "mul", "div"),
}


class NotPackable(ValueError):
    """The module holds something that the fused kernels do not take; the message names it."""


def pack(model: nn.Module, shape: tuple[int, ...], draws: str = "pixels") -> Packed:
    """The packed network that computes what `model` does on images of `shape`, (C, H, W).

    Takes what torch.fx can trace into a chain of Flatten, Linear, ReLU, Conv2d, MaxPool2d, batch
    norms and dropout in evaluation mode, Identity, and arithmetic with constants for each channel
    (a normalisation): at most 3 convolutions, then at most 4 linear layers, of widths to 1,024.
    Affine steps are folded into their neighbours. Weights are copied: later changes of `model` do
    not reach the packed network.

    draws: see `Packed`. "features" needs a linear first layer.
    Raises NotPackable, a ValueError, naming the layer that cannot be packed.
    """
    if draws not in DRAWS:
        raise ValueError(f"draws must be one of {', '.join(DRAWS)}, was {draws!r}")
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module to be packed, was {type(model).__name__}")
    known_names = {*NAMES, *(part for name, _ in model.named_modules() for part in name.split("."))}
    for name, module in model.named_modules():
        reason = _surprise(module, known_names)
        if reason is not None:
            where = f"its {name!r} " if name else "it "
            raise NotPackable(f"model must hold layers that pack knows, {where}{reason}")
    try:
        graph = fx.Tracer().trace(model)
    except Exception as error:  # anything may go wrong in code that expects tensors
        raise NotPackable(f"model must be traced by torch.fx to be packed: {error}") from None
    chain = _Chain(tuple(shape))
    known: dict[fx.Node, Any] = {}
    with torch.no_grad():
        for node in graph.nodes:
            known[node] = _step(chain, model, node, known)
    return _finished(chain, draws)


def _surprise(module: nn.Module, names: set[str]) -> str | None:
    """What speaks against tracing a module: tracing runs its code, which must not notice."""
    if any(getattr(module, hooks) for hooks in ("_forward_hooks", "_forward_pre_hooks")):
        return "had hooks"
    if any(isinstance(module, k) and type(module).forward is k.forward for k in KNOWN):
        return None
    if type(module).__module__.startswith("torch.") and not isinstance(module, nn.Sequential):
        return f"was a {type(module).__name__}"
    return _side_effect(module, type(module).forward, names)


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
        if not isinstance(own, MethodType):
            return f"used {name!r}"
        found = _side_effect(module, own.__func__, names | {name})
        if found is not None:
            return found
    return None


class _Chain:
    """Layers so far, and an affine step of the current value that waits for the next layer."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.image, self.shape = shape, shape
        self.layers: list[Layer] = []
        self.scale: Tensor | None = None  # (C,) or (K,), of the current value
        self.shift: Tensor | None = None

    def affine(self, scale: Tensor, shift: Tensor) -> None:
        """value * scale + shift, for each channel."""
        scale, shift = (v.double().expand(self.shape[0]) for v in (scale, shift))
        last = self.layers[-1] if self.layers else None
        if last is None or last.relu or last.pool > 1 or len(last.bias) != self.shape[0]:
            if self.scale is not None and self.shift is not None:
                scale, shift = scale * self.scale, scale * self.shift + shift
            self.scale, self.shift = scale, shift
            return
        weight = last.weight.double() * scale.view(-1, *[1] * (last.weight.ndim - 1))
        bias = last.bias.double() * scale + shift
        self.layers[-1] = replace(last, weight=weight, bias=bias)

    def folded(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """The next layer's weight and bias after the affine step that waits."""
        weight = weight.detach().cpu().double()
        bias = weight.new_zeros(len(weight)) if bias is None else bias.detach().cpu().double()
        if self.scale is not None and self.shift is not None:
            rest = [1] * (weight.ndim - 2)
            bias = bias + (weight * self.shift.view(1, -1, *rest)).flatten(1).sum(1)
            weight = weight * self.scale.view(1, -1, *rest)
        return weight, bias

    def flatten(self) -> None:
        if self.scale is not None and self.shift is not None:
            each = math.prod(self.shape[1:])
            self.scale = self.scale.repeat_interleave(each)
            self.shift = self.shift.repeat_interleave(each)
        self.shape = (math.prod(self.shape),)

    def linear(self, weight: Tensor, bias: Tensor | None) -> None:
        if len(self.shape) != 1 or weight.shape[1] != self.shape[0]:
            raise NotPackable(f"takes {weight.shape[1]} numbers, was given {self.shape}")
        weight, bias = self.folded(weight, bias)
        self.layers.append(Layer(weight, bias))
        self.shape, self.scale, self.shift = (len(weight),), None, None

    def convolution(self, conv: nn.Conv2d) -> None:
        if conv.groups != 1 or conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            raise NotPackable("has groups, a padding mode other than zeros, or padding in words")
        if len(self.shape) != 3 or any(not layer.convolution for layer in self.layers):
            raise NotPackable("comes after a flattening")
        fill = None
        padding = (int(conv.padding[0]), int(conv.padding[1]))
        if self.scale is not None and self.shift is not None and max(padding):
            if bool(((self.scale == 0) & (self.shift != 0)).any()):
                raise NotPackable("pads what was multiplied by zero")
            fill = torch.where(self.shift == 0, 0.0, -self.shift / self.scale)
        weight, bias = self.folded(conv.weight, conv.bias)
        layer = Layer(weight, bias, _pair(conv.stride), padding, _pair(conv.dilation), fill)
        size = [
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(
                self.shape[1:], padding, layer.dilation, conv.kernel_size, layer.stride, strict=True
            )
        ]
        self.layers.append(layer)
        self.shape, self.scale, self.shift = (len(weight), *size), None, None

    def relu(self) -> None:
        self.after(relu=True)

    def maximum(self, size: Any, stride: Any, padding: Any, dilation: Any, ceil: Any) -> None:
        sides = {*_pair(size), *_pair(size if stride is None else stride)}
        if len(sides) != 1 or max(_pair(padding)) or max(_pair(dilation)) > 1 or ceil:
            raise NotPackable("is not a maximum over squares side by side")
        if self.layers and self.layers[-1].pool > 1:
            raise NotPackable("follows another maximum")
        side = sides.pop()
        self.after(pool=side)
        self.shape = (self.shape[0], *(n // side for n in self.shape[1:]))

    def after(self, **change: Any) -> None:
        """ReLU and maximum commute with each other, and with nothing that waits."""
        if not self.layers or self.scale is not None:
            raise NotPackable("does not come after a linear layer or a convolution")
        if "pool" in change and not self.layers[-1].convolution:
            raise NotPackable("comes after a flattening")
        self.layers[-1] = replace(self.layers[-1], **change)


def _pair(value: Any) -> tuple[int, int]:
    first, second = value if isinstance(value, (tuple, list)) else (value, value)
    return int(first), int(second)


def _step(chain: _Chain, model: nn.Module, node: fx.Node, known: dict[fx.Node, Any]) -> Any:
    """Append what a node does; what it stands for: the value, a constant, or its batch size."""
    try:
        return _do(chain, model, node, known)
    except NotPackable as error:
        name = str(node.target) if node.op == "call_module" else node.name
        raise NotPackable(f"model must hold layers that pack knows, its {name!r} {error}") from None


class _Mark:
    """What a node stands for where it is no constant."""


VALUE, BATCH = _Mark(), _Mark()


def _do(chain: _Chain, model: nn.Module, node: fx.Node, known: dict[fx.Node, Any]) -> Any:
    if node.op == "placeholder":
        if VALUE in known.values() and node.args == ():
            raise NotPackable("is a second argument")
        return node.args[0] if VALUE in known.values() else VALUE
    if node.op == "get_attr":
        return operator.attrgetter(str(node.target))(model)
    args = fx.map_arg(node.args, lambda n: known[n])
    kwargs = fx.map_arg(node.kwargs, lambda n: known[n])
    if node.op == "output":
        if args[0] is not VALUE:
            raise NotPackable("is not one tensor of logits")
        return None
    consumed = [each for each in node.all_input_nodes if known[each] is VALUE]
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
    else:
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


def _module(chain: _Chain, module: nn.Module) -> None:
    if not any(isinstance(module, k) and type(module).forward is k.forward for k in KNOWN):
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


def _norm(chain: _Chain, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
    if norm.training or norm.running_mean is None or norm.running_var is None:
        raise NotPackable("takes its statistics from the batch: call model.eval()")
    mean, var = (v.detach().cpu().double() for v in (norm.running_mean, norm.running_var))
    scale = (var + norm.eps).rsqrt()
    if norm.affine:
        scale = scale * norm.weight.detach().cpu().double()
    bias = norm.bias.detach().cpu().double() if norm.affine else 0.0
    chain.affine(scale, bias - mean * scale)


def _flatten(chain: _Chain, start: int = 0, end: int = -1) -> None:
    if start != 1 or end not in (-1, len(chain.shape)):
        raise NotPackable("does not flatten each image by itself")
    chain.flatten()


def _reshape(chain: _Chain, *sizes: Any) -> None:
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
        sizes = tuple(sizes[0])
    numbers = math.prod(chain.shape)
    if len(sizes) != 2 or not (
        (sizes[0] is BATCH and sizes[1] in (-1, numbers)) or tuple(sizes) == (-1, numbers)
    ):
        raise NotPackable("does not flatten each image by itself")
    chain.flatten()


def _arithmetic(chain: _Chain, target: Any, args: Any) -> None:
    """A constant for all or for each channel, on either side."""
    left, right = args[:2]
    constant = right if left is VALUE else left
    if isinstance(constant, _Mark):
        raise NotPackable("is no arithmetic with a constant")
    value = torch.as_tensor(constant).detach().cpu().double()
    per_channel = (len(chain.shape) == 3) * [1, 1]
    if value.numel() != 1:
        shape = list(value.shape)
        shape = shape[1:] if len(shape) == len(chain.shape) + 1 and shape[0] == 1 else shape
        if shape != [chain.shape[0], *per_channel]:
            raise NotPackable(f"has a constant of shape {tuple(value.shape)}")
    value, one, none = value.flatten(), torch.ones(1).double(), torch.zeros(1).double()
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


def _function(chain: _Chain, target: Any, args: Any, kwargs: Any) -> None:
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
        chain.linear(*rest, *kwargs.values())
    elif name not in ("contiguous",):
        if kwargs or len(args) != 2:
            raise NotPackable("is not among the layers that pack knows")
        _arithmetic(chain, target, args)


def _finished(chain: _Chain, draws: str) -> Packed:
    layers = [
        replace(
            each,
            weight=each.weight.float().contiguous(),
            bias=each.bias.float(),
            fill=None if each.fill is None else each.fill.float(),
        )
        for each in chain.layers
    ]

    def refuse(found: str) -> None:
        raise NotPackable(
            f"model must have at most {MOST_CONVOLUTIONS} convolutions, then 1 to {MOST_LINEAR} "
            f"linear layers of widths to {WIDEST}, had {found}"
        )

    linear = [each for each in layers if not each.convolution]
    if not 1 <= len(linear) <= MOST_LINEAR or len(layers) - len(linear) > MOST_CONVOLUTIONS:
        refuse(f"{len(layers) - len(linear)} convolutions and {len(linear)} linear layers")
    if max(len(each.bias) for each in linear) > WIDEST:
        refuse(f"a width of {max(len(each.bias) for each in linear)}")
    if linear[-1].relu or chain.scale is not None or len(chain.shape) != 1:
        refuse("something after its last linear layer")
    if len(linear[-1].bias) < 2:
        refuse("a single logit")
    packed = Packed(chain.image, tuple(layers), draws)  # type: ignore[arg-type]
    if draws == "features" and not packed.dense:
        raise NotPackable(
            "draws must be 'pixels' where the first layer is a convolution, was 'features'"
        )
    return packed
