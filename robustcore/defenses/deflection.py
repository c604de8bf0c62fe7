"""Pixel deflection with wavelet denoising (Prakash et al., 2018, arXiv:1801.08926)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustcore import inputs
from robustcore.defenses.base import Draws, Opaque

# rows: luma and the two colour differences of ITU-R BT.601; a scale cancels out
YCBCR = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]])
COARSEST = 3  # levels of wavelets that are left alone


class PixelDeflection(Opaque):
    """Some pixels are overwritten by near ones, then the image is denoised by wavelets.

    deflections: how many, one after another, in each channel apart: 200 as published, for images of
    224 x 224 and more; a share of the area as large is 4 on CIFAR-10. window: a pixel comes from up
    to this many rows and columns away, uniformly inside the image. sigma: noise that the wavelets
    take out, 0.04 as published; None leaves denoising out. Soft thresholds by BayesShrink (Chang et
    al., 2000), in YCbCr, each channel stretched to [0, 1] first; sigma is in those units. wavelet:
    a name that PyWavelets knows. The published choice of pixels by a class activation map of the
    network is left out, as in the authors' own comparison without one.

    The draws differ from call to call and from image to image; `draws.restart()` begins again.
    gradient: see `Opaque`. Wavelets run on the CPU. Raises ImportError without PyWavelets.
    """

    def __init__(
        self,
        model: Callable[[Tensor], Any],
        deflections: int = 200,
        window: int = 10,
        sigma: float | None = 0.04,
        wavelet: str = "db1",
        *,
        seed: int = 0,
        gradient: str = "straight-through",
    ) -> None:
        super().__init__(model, gradient)
        self.deflections = inputs.integer("deflections", deflections, 0, 2**20)
        self.window = inputs.integer("window", window, 1, 2**20)
        self.sigma = None if sigma is None else inputs.positive("sigma", sigma)
        self.draws = Draws(seed)
        self.wavelet = inputs.string("wavelet", wavelet)
        if sigma is not None:
            known = _pywavelets().wavelist(kind="discrete")
            self.wavelet = inputs.choice("wavelet", wavelet, known)

    def changed(self, x: Tensor) -> Tensor:
        moved = deflect(x, self.deflections, self.window, self.draws.next())
        return moved if self.sigma is None else denoise(moved, self.sigma, self.wavelet)


def deflect(x: Tensor, deflections: int, window: int, generator: torch.Generator) -> Tensor:
    """Overwrite `deflections` pixels of each channel of images (S, C, H, W), in turn."""
    images, channels, height, width = x.shape
    shape = (deflections, images, channels, 1)

    def drawn(size: int) -> tuple[Tensor, Tensor]:
        """A place on an axis, and one near it: uniform over the window inside the image."""
        place = torch.randint(0, size, shape, generator=generator, device="cpu")
        low, high = (place - window).clamp(min=0), (place + window).clamp(max=size - 1)
        part = torch.rand(shape, generator=generator, dtype=torch.float64, device="cpu")
        return place, low + (part * (high - low + 1)).long()

    (row, from_row), (column, from_column) = drawn(height), drawn(width)
    to = (row * width + column).to(x.device)
    source = (from_row * width + from_column).to(x.device)
    flat = x.reshape(images, channels, height * width).clone()
    for step in range(deflections):  # in turn: a later one may copy what an earlier one wrote
        flat.scatter_(2, to[step], flat.gather(2, source[step]))
    return flat.view(x.shape)


def denoise(x: Tensor, sigma: float, wavelet: str) -> Tensor:
    """BayesShrink of images (S, C, H, W), in YCbCr where C is 3."""
    images = x.cpu().double().numpy()
    colour = images.shape[1] == 3
    if colour:
        images = np.einsum("ij,sjhw->sihw", YCBCR, images)
    low = images.min((2, 3), keepdims=True)
    span = images.max((2, 3), keepdims=True) - low
    flat = span == 0
    shrunk = _shrunk((images - low) / np.where(flat, 1, span), sigma, wavelet)
    images = np.where(flat, images, shrunk * span + low)
    if colour:
        images = np.einsum("ij,sjhw->sihw", np.linalg.inv(YCBCR), images)
    return torch.from_numpy(images).to(x.device, x.dtype)


def _shrunk(channels: np.ndarray, sigma: float, wavelet: str) -> np.ndarray:
    pywt = _pywavelets()
    height, width = channels.shape[2:]
    levels = max(pywt.dwtn_max_level((height, width), wavelet) - COARSEST, 1)
    coarse, *details = pywt.wavedecn(channels, wavelet, level=levels, axes=(2, 3))
    for level in details:
        for key, band in level.items():
            signal = (band * band).mean((2, 3), keepdims=True) - sigma**2
            threshold = sigma**2 / np.sqrt(np.maximum(signal, np.finfo(band.dtype).eps))
            level[key] = np.sign(band) * np.maximum(np.abs(band) - threshold, 0)
    restored = pywt.waverecn([coarse, *details], wavelet, axes=(2, 3))
    return restored[:, :, :height, :width]


def _pywavelets() -> Any:
    try:
        import pywt
    except ImportError as error:
        raise ImportError(
            "pixel deflection denoises with PyWavelets: install robustcore[defenses], "
            "or give sigma=None to leave that out"
        ) from error
    return pywt
