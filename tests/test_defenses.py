"""What all defences do, bit depth and JPEG; gradients are what they say."""

import io

import numpy as np
import pytest
import torch
from models import Small
from pictures import images, smooth
from PIL import Image
from torch import nn

import robustcore as rc
from robustcore import defenses


class Sum(nn.Module):
    """Two logits with known gradients: w and -w."""

    def __init__(self, shape=(3, 12, 12)):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("w", torch.randn(shape, generator=generator))

    def forward(self, x):
        height = (x * self.w).flatten(1).sum(1)
        return torch.stack([height, -height], 1)


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


def test_published_defences_fit_the_size_of_the_images():
    known = defenses.published(nn.Identity(), 32, 32, defenses.Denoiser())
    assert len(known) == 6
    assert known["pixel deflection"].deflections == 4
    assert defenses.published(nn.Identity(), 224, 224)["pixel deflection"].deflections == 200
    for defense in known.values():
        assert defense(images(2, (3, 32, 32))).shape[:2] == (2, 3)
