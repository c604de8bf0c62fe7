"""The fused kernels in C++ (csrc/fused), on CPU. Contracts are in `robustcore.fused`.

As in robustcore/kernels/native.py: addresses are passed, the number of threads is torch's and
changes no result, and `isa` names an instruction set for tests.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from robustcore import _fused
from robustcore.fused.packed import Packed
from robustcore.fused.plan import Plan, forward_plan

ISAS: tuple[str, ...] = tuple(_fused.isas())
Clip = tuple[float, float]


def _check(name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    right = tensor.dtype == dtype and tuple(tensor.shape) == shape
    if not (right and tensor.device.type == "cpu" and tensor.is_contiguous()):
        raise ValueError(
            f"{name} must be {dtype} of shape {shape}, contiguous on cpu; got {tensor.dtype} of "
            f"shape {tuple(tensor.shape)}, strides {tensor.stride()}, on {tensor.device}"
        )


class NativeNet:
    """The fused kernels of one packed network."""

    name = "native"

    def __init__(self, packed: Packed, isa: str = "") -> None:
        self.packed, self.isa = packed, isa
        self._based: tuple[Tensor, Tensor] | None = None

    @cached_property
    def _forward(self) -> _fused.Net:
        plan = forward_plan(self.packed)
        if self.packed.draws == "features":
            factor = self.packed.factor().float().numpy()
            plan = plan.with_first(factor)
        return self._made(plan)

    def _made(self, plan: Plan) -> _fused.Net:
        stages = [
            (s.kind, s.relu, list(s.buffers), s.window, list(s.tables), s.weight, s.bias)
            for s in plan.stages
        ]
        places = [plan.place, plan.memory]
        sizes = (plan.sizes(), stages, plan.forward, self.packed.n_classes, list(plan.ends))
        return _fused.Net(self.isa, places, plan.fills(), *sizes, self.packed.dense)

    def base(self, x: Tensor, clip: Clip | None) -> Tensor | None:
        """What a linear first layer answers to the images, (B, N): noise is then added to it.

        None where noise must be added to the images: before a convolution, and with a clip.
        """
        if not self.packed.dense or (clip is not None and self.packed.draws == "pixels"):
            return None
        if self._based is None or self._based[0] is not x:
            first = self.packed.layers[0]
            wide = x.flatten(1).double() @ first.weight.double().T + first.bias.double()
            self._based = x, wide.float().contiguous()
        return self._based[1]

    def logits(
        self,
        x: Tensor,
        rows: Tensor,
        sigma: Tensor,
        samples: Tensor,
        ids: Tensor,
        *,
        seed: int,
        stream: int = 0,
        clip: Clip | None = None,
    ) -> Tensor:
        batch, slots = len(x), len(rows)
        _check("x", x, torch.float32, (batch, *self.packed.shape))
        for name, tensor, dtype in (
            ("rows", rows, torch.int64),
            ("sigma", sigma, torch.float32),
            ("samples", samples, torch.int64),
        ):
            _check(name, tensor, dtype, (slots,))
        _check("ids", ids, torch.int64, (batch,))
        base, out = self.base(x, clip), torch.empty(slots, self.packed.n_classes)
        self._forward.logits(
            (rows.data_ptr(), sigma.data_ptr(), samples.data_ptr(), ids.data_ptr()),
            x.data_ptr(),
            0 if base is None else base.data_ptr(),
            out.data_ptr(),
            (slots, batch),
            (seed, stream),
            clip,
            torch.get_num_threads(),
        )
        return out

    def count_errors(
        self,
        x: Tensor,
        labels: Tensor,
        sigma: Tensor,
        ids: Tensor,
        draws: tuple[int, int],
        counts: Tensor,
        *,
        seed: int,
        stream: int = 0,
        clip: Clip | None = None,
    ) -> None:
        batch, grid = len(x), len(sigma)
        _check("x", x, torch.float32, (batch, *self.packed.shape))
        _check("labels", labels, torch.int64, (batch,))
        _check("sigma", sigma, torch.float32, (grid,))
        _check("ids", ids, torch.int64, (batch,))
        _check("counts", counts, torch.int64, (batch, grid))
        base = self.base(x, clip)
        self._forward.count_errors(
            x.data_ptr(),
            0 if base is None else base.data_ptr(),
            ids.data_ptr(),
            labels.data_ptr(),
            sigma.data_ptr(),
            counts.data_ptr(),
            (batch, grid, *draws),
            (seed, stream),
            clip,
            torch.get_num_threads(),
        )
