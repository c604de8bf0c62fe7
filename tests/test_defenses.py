"""Each defence does what it says, and its gradient is what it says."""

import io
from itertools import pairwise

import numpy as np
import pytest
import torch
from models import Small
from PIL import Image
from torch import nn

import robustcore as rc
from robustcore import defenses
from robustcore.defenses.base import Draws
from robustcore.defenses.deflection import deflect
from robustcore.defenses.variation import minimize, variation


class Sum(nn.Module):
    """Two logits with known gradients: w and -w."""

    def __init__(self, shape=(3, 12, 12)):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("w", torch.randn(shape, generator=generator))

    def forward(self, x):
        height = (x * self.w).flatten(1).sum(1)
        return torch.stack([height, -height], 1)


def images(n=5, shape=(3, 12, 12), seed=0):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


def smooth(n=4, size=16):
    """Images with structure that JPEG, wavelets and total variation can keep."""
    t = torch.linspace(0, 1.2, size)
    return torch.stack(
        [
            0.5 + 0.4 * torch.sin(t[:, None] * (i + 1) + t[None] * (c + 1))
            for i in range(n)
            for c in range(3)
        ]
    ).view(n, 3, size, size)


OPAQUE = {
    "bits": lambda m, **k: defenses.BitDepth(m, **k),
    "jpeg": lambda m, **k: defenses.JPEG(m, **k),
    "deflection": lambda m, **k: defenses.PixelDeflection(m, deflections=20, sigma=None, **k),
    "variation": lambda m, **k: defenses.TotalVariation(m, iterations=5, **k),
}
RANDOM = {
    "deflection": OPAQUE["deflection"],
    "variation": OPAQUE["variation"],
    "resize": lambda m, **k: defenses.RandomResizePad(m, 12, 16, **k),
}


# -- what all do ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPAQUE)
def test_opaque_defences_pass_the_identitys_gradient_or_none(name):
    model = Sum()
    for gradient, expected in (("straight-through", model.w), ("hidden", torch.zeros(()))):
        defense = OPAQUE[name](model, gradient=gradient)
        x = images().requires_grad_(True)
        logits = defense(x)
        (found,) = torch.autograd.grad(logits[:, 0].sum(), x)
        assert torch.equal(found, expected.expand_as(x))
        assert not torch.equal(logits, model(x))
    with pytest.raises(ValueError, match="gradient must be one of straight-through, hidden"):
        OPAQUE[name](model, gradient="exact")


def test_the_straight_through_gradient_is_taken_at_the_changed_image():
    square = lambda x: (x**2).flatten(1)[:, :2]  # noqa: E731
    x = torch.full((1, 1, 2, 2), 0.3, requires_grad=True)
    defenses.BitDepth(square, bits=1)(x)[0, 0].backward()
    assert float(x.grad[0, 0, 0, 0]) == 0.0  # 2 * 0, the rounded pixel; 0.6 at the pixel itself


@pytest.mark.parametrize("name", RANDOM)
def test_randomised_defences_draw_anew_and_can_begin_again(name):
    defense = RANDOM[name](nn.Identity(), seed=3)
    x = images()
    first, second = defense(x), defense(x)
    assert not torch.equal(first, second)
    defense.draws.restart()
    assert torch.equal(defense(x), first)
    assert torch.equal(defense(x), second)
    assert torch.equal(RANDOM[name](nn.Identity(), seed=3)(x), first)
    assert not torch.equal(RANDOM[name](nn.Identity(), seed=4)(x), first)
    same = defense(x[:1].expand(4, -1, -1, -1))
    assert not torch.equal(same[0], same[1])  # each image has draws of its own


@pytest.mark.parametrize("name", ["bits", "jpeg"])
def test_deterministic_defences_judge_each_image_by_itself(name):
    defense, x = OPAQUE[name](nn.Identity()), images(40)
    together = defense(x)
    assert torch.equal(together, torch.cat([defense(one[None]) for one in x]))
    assert torch.equal(together, defense(x.contiguous(memory_format=torch.channels_last)))


@pytest.mark.parametrize("name", [*OPAQUE, "resize"])
def test_the_engine_measures_defended_models(name):
    class Any(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten())

    torch.manual_seed(0)
    make = RANDOM[name] if name in RANDOM else OPAQUE[name]
    defense = make(Any().eval())
    if name in RANDOM:
        with pytest.warns(rc.RandomizedModelWarning):
            found = rc.error_rate(defense, images(3), 0.1, samples=20)
    else:
        found = rc.error_rate(defense, images(3), 0.1, samples=20)
    assert found.provenance.randomized == (name in RANDOM)


def test_the_mode_of_the_model_is_kept():
    model = Small().eval()
    assert not defenses.BitDepth(model).training
    assert not model.training
    with pytest.raises(TypeError, match="model must be callable, was int"):
        defenses.BitDepth(3)


def test_half_precision_comes_back_as_it_went_in():
    seen = []
    defenses.BitDepth(lambda x: seen.append(x.dtype) or x.flatten(1))(images().bfloat16())
    assert seen == [torch.bfloat16]


# -- bits and JPEG -------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_bit_depth_leaves_that_many_levels(bits):
    x = torch.linspace(-0.5, 1.5, 4000).view(1, 1, 40, 100)
    found = defenses.BitDepth(nn.Identity(), bits)(x)
    levels = torch.arange(2**bits) / (2**bits - 1)
    assert torch.equal(found.unique(), levels)
    inside = (x >= 0) & (x <= 1)
    assert float((found - x)[inside].abs().max()) <= 0.5 / (2**bits - 1) + 1e-6


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 16, 16), (3, 13, 9)])
def test_jpeg_is_pillows(shape):
    x = images(20, shape) * 1.4 - 0.2
    found = defenses.JPEG(nn.Identity(), 60)(x)
    for one, mine in zip(x, found, strict=True):
        pixels = (one.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
        file = io.BytesIO()
        Image.fromarray(pixels.squeeze(2) if shape[0] == 1 else pixels).save(
            file, "JPEG", quality=60
        )
        read = np.asarray(Image.open(file)).reshape(pixels.shape)
        assert np.array_equal((mine.permute(1, 2, 0) * 255).round().byte().numpy(), read)


def test_jpeg_loses_more_at_lower_quality():
    x = smooth()
    lost = [float((defenses.JPEG(nn.Identity(), q)(x) - x).abs().mean()) for q in (5, 50, 95)]
    assert lost[0] > lost[1] > lost[2] > 0
    with pytest.raises(ValueError, match=r"quality must be in \[1, 95\], was 100"):
        defenses.JPEG(nn.Identity(), 100)
    with pytest.raises(ValueError, match="x must have 1 or 3 channels for JPEG, had 2"):
        defenses.JPEG(nn.Identity())(images(2, (2, 8, 8)))


# -- pixel deflection ----------------------------------------------------------------------------


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


# -- total variation -----------------------------------------------------------------------------


def test_total_variation_of_a_step_has_a_closed_form():
    """Two flat halves of n rows move toward each other by weight/n, and no further than to meet."""
    x = torch.zeros(1, 1, 8, 5)
    x[..., 4:, :] = 1
    kept = torch.ones_like(x, dtype=torch.bool)
    for weight, low in ((0.4, 0.1), (4.0, 0.5)):
        found = minimize(x, kept, weight, 2000)
        assert float((found[..., :4, :] - low).abs().max()) < 2e-3
        assert float((found[..., 4:, :] - (1 - low)).abs().max()) < 2e-3


def test_total_variation_is_scikit_images_minimum():
    restoration = pytest.importorskip("skimage.restoration")
    x = images(2, (1, 20, 17))
    found = minimize(x, torch.ones_like(x, dtype=torch.bool), 0.1, 500)
    for one, mine in zip(x[:, 0], found[:, 0], strict=True):
        expected = restoration.denoise_tv_chambolle(
            one.double().numpy(), weight=0.1, eps=1e-12, max_num_iter=5000
        )
        # both iterate; the minimum is unique, and 1e-3 of [0, 1] is left of the way
        np.testing.assert_allclose(mine.numpy(), expected, atol=1e-3)


def test_dropped_values_are_filled_from_the_kept():
    x = smooth()
    kept = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) >= 0.5
    found = minimize(x, kept, 0.003, 400)
    assert float((found - x)[~kept].abs().mean()) < 0.05  # the mean would be 0.25 off
    other = torch.where(kept, x, torch.full_like(x, 7.0))
    assert torch.equal(minimize(other, kept, 0.003, 400), found)
    goal = [
        float(0.5 * ((z - x)[kept] ** 2).sum() + 0.03 * variation(z).sum())
        for z in (minimize(x, kept, 0.03, n) for n in (10, 50, 100, 1000))
    ]
    assert all(a >= b - 1e-4 for a, b in pairwise(goal))
    assert goal[2] < 1.01 * goal[3]  # the default's 100 iterations are within 1 % of the minimum


def test_the_share_dropped_is_the_one_asked_for():
    """2,000,000 draws: the share is within 5 standard errors of 0.0003."""
    kept = torch.rand(2_000_000, generator=Draws(0).next()) >= 0.5
    assert abs(float(kept.float().mean()) - 0.5) < 5 * 0.00036
    with pytest.raises(ValueError, match=r"drop must be in \[0, 1\), was 1"):
        defenses.TotalVariation(nn.Identity(), drop=1)


# -- resize and pad ------------------------------------------------------------------------------


def test_resized_images_are_torchs_nearest_at_a_random_place():
    x = images(60, (3, 12, 12)) + 0.1
    found = defenses.RandomResizePad(nn.Identity(), 12, 16)(x)
    assert found.shape == (60, 3, 16, 16)
    sizes, places = set(), set()
    for one, mine in zip(x, found, strict=True):
        shown = (mine != 0).any(0)
        rows, columns = shown.any(1).nonzero().flatten(), shown.any(0).nonzero().flatten()
        size = len(rows)
        assert len(columns) == size
        top, left = int(rows[0]), int(columns[0])
        expected = nn.functional.interpolate(one[None], (size, size))[0]
        assert torch.equal(mine[:, top : top + size, left : left + size], expected)
        assert int((mine != 0).sum()) == expected.numel()  # black around it
        sizes.add(size)
        places.add((top, left))
    assert sizes == {12, 13, 14, 15}
    assert len(places) > 10


def test_sizes_default_to_the_published_ratio():
    assert defenses.RandomResizePad(nn.Identity())(torch.ones(1, 3, 299, 299)).shape[-1] == 331
    assert defenses.RandomResizePad(nn.Identity())(torch.ones(1, 3, 32, 32)).shape[-1] == 35
    with pytest.raises(ValueError, match="x must hold square images"):
        defenses.RandomResizePad(nn.Identity())(torch.ones(1, 3, 8, 9))
    with pytest.raises(ValueError, match="high must be at least 13, was 12"):
        defenses.RandomResizePad(nn.Identity(), 12, 12)
    with pytest.raises(ValueError, match="high must be above the images' size 12, was 12"):
        defenses.RandomResizePad(nn.Identity(), high=12)(images())


def test_the_gradient_of_resizing_is_exact():
    x = images(3, (2, 6, 6)).double().requires_grad_(True)
    defense = defenses.RandomResizePad(nn.Identity(), 6, 9)

    def same_draws(x):
        defense.draws.restart()
        return defense(x)

    assert torch.autograd.gradcheck(same_draws, (x,))
