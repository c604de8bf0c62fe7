"""Pixel deflection: copies from a window, and wavelets as scikit-image has them."""

import numpy as np
import pytest
import torch
from pictures import images, smooth
from torch import nn

from robustcore import defenses
from robustcore.defenses.deflection import deflect


def test_each_deflected_pixel_is_a_copy_from_its_window():
    n, size, window = 200, 9, 2
    place = torch.arange(size * size).view(1, 1, size, size).expand(n, 2, -1, -1).float()
    found = deflect(place, 1, window, torch.Generator().manual_seed(0))
    moved = (found != place).nonzero()
    assert len(moved) > n  # 400 deflections, of which 1 in 25 or more copies itself
    row, column = moved[:, 2], moved[:, 3]
    source = found[tuple(moved.T)].long()
    assert int((source // size - row).abs().max()) == window
    assert int((source % size - column).abs().max()) == window
    assert bool((found != place).flatten(2).sum(2).le(1).all())
    # channels and images are drawn apart
    first, second = (found[:, c] != place[:, c] for c in (0, 1))
    assert not torch.equal(first, second)


def test_deflections_follow_one_another():
    """One row of two pixels, window 1: after many copies both hold one value."""
    x = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)
    found = deflect(x, 60, 1, torch.Generator().manual_seed(0))
    assert float(found.max()) == float(found.min())


def test_without_deflections_or_denoising_nothing_changes():
    x = images()
    assert torch.equal(defenses.PixelDeflection(nn.Identity(), 0, sigma=None)(x), x)


@pytest.mark.parametrize("size", [16, 33])
@pytest.mark.parametrize("wavelet", ["db1", "db2"])
def test_wavelets_are_scikit_images(size, wavelet):
    """Its denoiser on each YCbCr channel stretched to [0, 1], as it was when this was published."""
    pytest.importorskip("pywt")
    color = pytest.importorskip("skimage.color")
    restoration = pytest.importorskip("skimage.restoration")
    x = smooth(2, size) + 0.05 * (images(2, (3, size, size)) - 0.5)
    defense = defenses.PixelDeflection(nn.Identity(), 0, sigma=0.04, wavelet=wavelet)
    for one, mine in zip(x, defense(x), strict=True):
        luma = color.rgb2ycbcr(one.permute(1, 2, 0).double().numpy())
        for c in range(3):
            low, span = luma[..., c].min(), np.ptp(luma[..., c])
            luma[..., c] = low + span * restoration.denoise_wavelet(
                (luma[..., c] - low) / span, sigma=0.04, wavelet=wavelet, rescale_sigma=False
            )
        expected = color.ycbcr2rgb(luma)
        # both in float64; the conversion's constants have five digits, the result is float32
        np.testing.assert_allclose(mine.permute(1, 2, 0).numpy(), expected, atol=2e-6)


def test_wavelets_take_noise_out():
    pytest.importorskip("pywt")
    clean = smooth(4, 32)
    noise = 0.04 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    defense = defenses.PixelDeflection(nn.Identity(), 0, sigma=0.06)
    left = (defense(clean + noise) - clean).square().mean()
    assert float(left) < 0.7 * float(noise.square().mean())
    flat = torch.full((1, 3, 16, 16), 0.25)
    torch.testing.assert_close(defense(flat), flat, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="wavelet must be one of"):
        defenses.PixelDeflection(nn.Identity(), wavelet="none")
