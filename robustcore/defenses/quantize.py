"""Defences that round: fewer bits of a pixel, and JPEG."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from robustcore import inputs
from robustcore.defenses.base import Opaque


class BitDepth(Opaque):
    """Each pixel to the nearest of 2^bits equally spaced levels of [0, 1] (Xu et al., 2018,
    arXiv:1704.01155; Guo et al., 2018, arXiv:1711.00117, with 3 bits).

    bits: 1 to 8. Pixels outside [0, 1] go to its ends. gradient: see `Opaque`.
    """

    def __init__(
        self, model: Callable[[Tensor], Any], bits: int = 3, *, gradient: str = "straight-through"
    ) -> None:
        super().__init__(model, gradient)
        self.bits = inputs.integer("bits", bits, 1, 8)

    def changed(self, x: Tensor) -> Tensor:
        top = 2**self.bits - 1
        return x.clamp(0, 1).mul_(top).round_().div_(top)


class JPEG(Opaque):
    """Each image written as JPEG and read again (Dziugaite et al., 2016, arXiv:1608.00853; Guo et
    al., 2018, with quality 75).

    quality: 1 to 95, that of libjpeg through Pillow, with its halved resolution of colours. Images
    have 1 or 3 channels and are rounded to 8 bits, pixels outside [0, 1] to its ends. Runs on the
    CPU, on as many threads as torch. gradient: see `Opaque`.
    """

    def __init__(
        self,
        model: Callable[[Tensor], Any],
        quality: int = 75,
        *,
        gradient: str = "straight-through",
    ) -> None:
        super().__init__(model, gradient)
        self.quality = inputs.integer("quality", quality, 1, 95)

    def changed(self, x: Tensor) -> Tensor:
        if x.shape[1] not in (1, 3):
            raise ValueError(f"x must have 1 or 3 channels for JPEG, had {x.shape[1]}")
        pixels = x.clamp(0, 1).mul_(255).round_().byte().permute(0, 2, 3, 1).cpu().numpy()
        threads = min(torch.get_num_threads(), max(1, len(pixels) // 16))
        if threads == 1:
            done = [self._coded(image) for image in pixels]
        else:
            with ThreadPoolExecutor(threads) as pool:
                done = list(pool.map(self._coded, pixels))
        read = torch.from_numpy(np.stack(done)).to(x.device)
        return read.reshape(pixels.shape).permute(0, 3, 1, 2).float().div_(255)

    def _coded(self, image: np.ndarray) -> np.ndarray:
        file = io.BytesIO()
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(
            file, "JPEG", quality=self.quality
        )
        with Image.open(file) as read:
            return np.asarray(read)
