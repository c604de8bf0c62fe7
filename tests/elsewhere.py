"""Runs tests written for CPU tensors on another device: ROBUSTCORE_TEST_DEVICE=cuda.

Arguments are copied there with their strides, and what was written comes back. Triton is then
compiled, not interpreted.
"""

import os

import torch
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else os.environ.get("ROBUSTCORE_TEST_DEVICE", "cpu")


def few(many, interpreted):
    """`many` slots or sizes; in the interpreter, which takes 60 ms for a slot, `interpreted`."""
    return interpreted if INTERPRETED else many


def _there(own: Tensor, device: str) -> Tensor:
    if any(s == 0 and n > 1 for s, n in zip(own.stride(), own.shape, strict=True)):
        return own.detach().to(device, copy=True)
    return torch.empty_strided(own.shape, own.stride(), dtype=own.dtype, device=device).copy_(own)


class Elsewhere:
    """What `inside` has, a module or an object, with its functions run on `device`."""

    def __init__(self, inside, device=DEVICE):
        self.inside, self.device = inside, device

    def __getattr__(self, name):
        found = getattr(self.inside, name)
        return self._run(found) if callable(found) else found

    def _run(self, function):
        def run(*args, **kwargs):
            pairs: dict[int, tuple[Tensor, Tensor]] = {}

            def move(value):
                if not isinstance(value, Tensor):
                    return value
                if id(value) not in pairs:
                    pairs[id(value)] = value, _there(value, self.device)
                return pairs[id(value)][1]

            def back(value):
                if isinstance(value, tuple):
                    return tuple(back(each) for each in value)
                own = [mine for mine, copy in pairs.values() if copy is value]
                return own[0] if own else value.cpu() if isinstance(value, Tensor) else value

            result = function(*map(move, args), **{k: move(v) for k, v in kwargs.items()})
            for mine, copy in pairs.values():
                if not torch.equal(mine.nan_to_num(), copy.cpu().nan_to_num()) or (
                    mine.is_floating_point() and bool((mine.isnan() != copy.cpu().isnan()).any())
                ):
                    mine.copy_(copy)
            return back(result)

        return run
