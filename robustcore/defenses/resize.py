"""Random resizing and padding (Xie et al., 2018, arXiv:1711.01991)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from robustcore import inputs
from robustcore.defenses.base import Defense, Draws

PUBLISHED = 331 / 299


class RandomResizePad(Defense):
    """Each image is resized to a random size and put at a random place in a larger black square.

    low, high: sizes are uniform in [low, high), and the result is high x high. None is the image's
    own size, and 331/299 of it: 299 to 330 in 331 as published; 32 to 34 in 35 on CIFAR-10. The
    model must take images of that size. Each value is the nearest one: row i of the
    result is row floor(i * H / size) of the image. The gradient is exact, through the draw made.
    The draws differ from call to call and from image to image; `draws.restart()` begins again.
    """

    def __init__(
        self,
        model: Callable[[Tensor], Any],
        low: int | None = None,
        high: int | None = None,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__(model)
        self.low = None if low is None else inputs.integer("low", low, 1)
        self.high = None if high is None else inputs.integer("high", high, (self.low or 1) + 1)
        self.draws = Draws(seed)

    @torch.compiler.disable
    def change(self, x: Tensor) -> Tensor:
        images, _, height, width = x.shape
        if height != width:
            raise ValueError(f"x must hold square images, was {height} x {width}")
        low = self.low or height
        high = self.high or max(low + 1, round(low * PUBLISHED))
        if high <= low:
            raise ValueError(f"high must be above the images' size {low}, was {high}")
        generator = self.draws.next()
        size = torch.randint(low, high, (images, 1), generator=generator, device="cpu")
        part = torch.rand(2, images, 1, generator=generator, dtype=torch.float64, device="cpu")
        place = torch.arange(high, device="cpu")
        source, inside = [], []
        for offset in (part * (high - size + 1)).long():
            at = place - offset
            inside.append((at >= 0) & (at < size))
            source.append((at * height // size).clamp(0, height - 1))
        rows, columns = (each.to(x.device) for each in source)
        shown = (inside[0][:, :, None] & inside[1][:, None, :]).to(x.device)
        slots = torch.arange(images, device=x.device)[:, None, None]
        seen = x.permute(0, 2, 3, 1)[slots, rows[:, :, None], columns[:, None, :]]
        return torch.where(shown[..., None], seen, 0).permute(0, 3, 1, 2)
