"""What `corrupt` promises: definitions, names of draws, refusals."""

import io

import numpy as np
import pytest
import torch
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from PIL import Image
from scipy import ndimage

from robustcore.corruptions import ALEXNET, COMMON, EXTRA, NAMES, PARAMETERS, corrupt, matrices
from robustcore.corruptions.batch import Batch
from robustcore.corruptions.kernels import select
from robustcore.corruptions.weather import _plasma
from robustcore.zoo import load_images

DETERMINISTIC = ("defocus_blur", "zoom_blur", "gaussian_blur", "brightness", "contrast")
DETERMINISTIC += ("saturate", "pixelate", "jpeg_compression")
RANDOM = tuple(name for name in NAMES if name not in DETERMINISTIC)


@pytest.fixture(scope="module")
def x():
    return load_images(8)[0]


def pixels(image):
    """(C, H, W) in [0, 1] to (H, W, C) of 8 bits."""
    return (image * 255).round().byte().permute(1, 2, 0).numpy()


def plane_by_plane(x, oracle):
    return torch.tensor(np.stack([[oracle(plane) for plane in image] for image in x.numpy()]))


def test_the_lists_name_the_benchmark():
    assert len(COMMON) == 15
    assert len(EXTRA) == 4
    assert tuple(ALEXNET) == COMMON
    for table in PARAMETERS.values():
        assert set(table) == set(NAMES)
        assert all(len(each) == 5 for each in table.values())


@pytest.mark.parametrize("parameters", ["cifar", "imagenet"])
@pytest.mark.parametrize("name", NAMES)
def test_every_condition_changes_images_and_stays_in_range(x, name, parameters):
    changes = []
    for severity in range(1, 6):
        out = corrupt(x, name, severity, parameters=parameters)
        assert out.shape == x.shape
        assert out.dtype == x.dtype
        assert out.isfinite().all()
        assert out.min() >= 0
        assert out.max() <= 1
        changes.append(float((out - x).abs().mean()))
    assert changes[4] > 0.005
    if name.endswith("noise") or name in ("defocus_blur", "zoom_blur", "brightness", "contrast"):
        assert changes == sorted(changes)  # the published sets grow in these


# -- the definitions, against other people's code --------------------------------------------


def test_a_blur_of_no_width_changes_nothing():
    assert np.array_equal(matrices._gaussian(7, 0.0, 4.0, False), np.eye(7))


@pytest.mark.parametrize("severity", [1, 5])
def test_gaussian_blur_is_scipys(x, severity):
    sigma = PARAMETERS["imagenet"]["gaussian_blur"][severity - 1]
    expected = plane_by_plane(x, lambda p: ndimage.gaussian_filter(p, sigma, mode="nearest"))
    out = corrupt(x, "gaussian_blur", severity, parameters="imagenet")
    torch.testing.assert_close(out, expected, atol=2e-6, rtol=0)


def test_zoom_blur_is_the_mean_of_scipys_zooms(x):
    factors = PARAMETERS["cifar"]["zoom_blur"][4]
    total = x.clone()
    for factor in factors:
        held = int(np.ceil(32 / factor))
        top = (32 - held) // 2
        part = x[:, :, top : top + held, top : top + held]
        large = plane_by_plane(part, lambda p, f=factor: ndimage.zoom(p, f, order=1))
        trim = (large.shape[-1] - 32) // 2
        total += large[:, :, trim : trim + 32, trim : trim + 32]
    out = corrupt(x, "zoom_blur", 5)
    torch.testing.assert_close(out, total / (len(factors) + 1), atol=2e-6, rtol=0)


def test_defocus_blur_is_a_convolution_with_a_disk(x):
    disk = np.add.outer(np.arange(-8, 9) ** 2, np.arange(-8, 9) ** 2) <= 36
    line = np.exp(-0.5 * (np.arange(-1, 2) / 0.5) ** 2)
    kernel = ndimage.convolve(disk / disk.sum(), np.outer(line, line) / line.sum() ** 2)
    out = corrupt(x, "defocus_blur", 3, parameters="imagenet")
    expected = plane_by_plane(x.double(), lambda p: ndimage.convolve(p, kernel, mode="mirror"))
    torch.testing.assert_close(out.double(), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize(("name", "part"), [("brightness", 2), ("saturate", 1)])
@pytest.mark.parametrize("severity", [1, 4, 5])
def test_brightness_and_saturation_are_those_of_hsv(x, name, part, severity):
    x = x.clone()
    x[0, :, :4], x[1, :, :4] = 0.0, 0.5  # black and grey have no hue
    hsv = rgb_to_hsv(x.double().movedim(1, -1).numpy())
    c = PARAMETERS["cifar"][name][severity - 1]
    times, plus = c if name == "saturate" else (1, c)
    hsv[..., part] = (hsv[..., part] * times + plus).clip(0, 1)
    expected = torch.tensor(hsv_to_rgb(hsv)).movedim(-1, 1).float()
    torch.testing.assert_close(corrupt(x, name, severity), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("parameters", ["cifar", "imagenet"])
def test_pixelate_is_pillows(x, parameters):
    for severity, share in enumerate(PARAMETERS[parameters]["pixelate"], 1):
        out = corrupt(x, "pixelate", severity, parameters=parameters)
        for image, mine in zip(x, out, strict=True):
            small = Image.fromarray(pixels(image)).resize(
                (int(32 * share),) * 2, Image.Resampling.BOX
            )
            theirs = np.asarray(small.resize((32, 32), Image.Resampling.BOX)).astype(float)
            off = abs(mine.permute(1, 2, 0).numpy() * 255 - theirs)
            assert off.max() <= 1.01  # it rounds to 8 bits after each axis


def test_jpeg_compression_is_pillows(x):
    for image, mine in zip(x, corrupt(x, "jpeg_compression", 4), strict=True):
        file = io.BytesIO()
        Image.fromarray(pixels(image)).save(file, "JPEG", quality=50)
        assert (pixels(mine) == np.asarray(Image.open(file))).all()


def test_contrast_shrinks_towards_each_channels_mean(x):
    out = corrupt(x, "contrast", 2)
    mean = x.mean((2, 3), keepdim=True)
    torch.testing.assert_close(out, ((x - mean) * 0.5 + mean).clamp(0, 1))


# -- draws are named --------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_an_image_corrupts_alike_in_any_batch_and_order(x, name):
    ids = torch.tensor([5, 0, 2**32 - 1, 7, 3, 1, 9, 4])
    whole = corrupt(x, name, 4, seed=3, ids=ids)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(corrupt(x[order], name, 4, seed=3, ids=ids[order]), whole[order])
    assert torch.equal(corrupt(x[2], name, 4, seed=3, ids=ids[2]), whole[2])


@pytest.mark.parametrize("name", RANDOM)
def test_seed_id_and_severity_name_a_draw(x, name):
    same = x[:1].expand(2, -1, -1, -1)
    first, second = corrupt(same, name, 3, parameters="imagenet")
    assert not torch.equal(first, second)
    assert not torch.equal(corrupt(x[0], name, 3, seed=1, parameters="imagenet"), first)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_ones_ignore_the_seed(x, name):
    assert torch.equal(corrupt(x, name, 3, seed=1), corrupt(x, name, 3, seed=2))


def test_threads_change_nothing(x):
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append([corrupt(x, name, 5, parameters="imagenet") for name in NAMES])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_the_size_of_the_image_chooses_the_parameters():
    x = torch.rand(1, 3, 64, 96)
    assert torch.equal(corrupt(x, "fog", 2), corrupt(x, "fog", 2, parameters="cifar"))
    x = torch.rand(1, 3, 65, 96)
    assert torch.equal(corrupt(x, "fog", 2), corrupt(x, "fog", 2, parameters="imagenet"))


@pytest.mark.parametrize("name", NAMES)
def test_images_need_not_be_square_nor_coloured_nor_float32(name):
    x = torch.rand(2, 3, 70, 41, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    out = corrupt(x, name, 5)
    assert out.shape == x.shape
    assert out.dtype == torch.float64
    assert out.isfinite().all()
    if name != "saturate":
        assert corrupt(x[:, :1], name, 5).shape == (2, 1, 70, 41)


# -- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": "gausian_noise"}, ValueError, "did you mean 'gaussian_noise'"),
        ({"name": "jpeg"}, ValueError, "did you mean 'jpeg_compression'"),
        ({"name": 7}, ValueError, "name must be one of gaussian_noise, .*saturate, was 7"),
        ({"severity": 0}, ValueError, r"severity must be in \[1, 5\], was 0"),
        ({"severity": 6}, ValueError, r"severity must be in \[1, 5\], was 6"),
        ({"severity": 2.0}, TypeError, "severity must be an integer"),
        ({"x": torch.rand(1, 3, 31, 40)}, ValueError, "at least 32 pixels high and wide, was 31 x"),
        ({"x": torch.rand(1, 2, 32, 32)}, ValueError, "1 or 3 channels, had 2"),
        ({"x": torch.rand(3, 32, 32) + 0.5}, ValueError, r"x must lie in \[0, 1\], ranged from"),
        ({"x": torch.rand(3, 32, 32) - 0.5}, ValueError, r"x must lie in \[0, 1\], ranged from"),
        ({"x": torch.full((3, 32, 32), torch.nan)}, ValueError, "x must be finite"),
        ({"x": torch.zeros(3, 32, 32, dtype=torch.uint8)}, TypeError, "floating point"),
        ({"x": np.zeros((3, 32, 32))}, TypeError, "torch.Tensor"),
        ({"seed": -1}, ValueError, "seed"),
        ({"ids": [1, 2]}, ValueError, "ids must name each of 1"),
        ({"parameters": "tiny"}, ValueError, "parameters must be one of cifar, imagenet"),
        (
            {"backend": "cuda"},
            ValueError,
            "backend must be one of reference, native, triton, torch",
        ),
    ],
)
def test_bad_input_is_refused_by_name(arguments, error, message):
    good = {"x": torch.rand(3, 32, 32), "name": "fog", "severity": 1}
    with pytest.raises(error, match=message):
        corrupt(**{**good, **arguments})


def test_one_channel_where_three_are_needed_says_what_can_be_done():
    with pytest.raises(
        ValueError, match="3 channels for saturate, had 1: one channel can have gaus"
    ):
        corrupt(torch.rand(1, 32, 32), "saturate")


# -- random ones follow their laws --------------------------------------------------------------


def test_noises_have_their_published_size():
    """Means over 614,400 values; false alarm below 1 in 1,000 each (4 standard errors)."""
    x = torch.full((200, 3, 32, 32), 0.5)
    n = x.numel()
    for severity, sigma in enumerate(PARAMETERS["cifar"]["gaussian_noise"], 1):
        spread = float(corrupt(x, "gaussian_noise", severity).std())
        assert abs(spread / sigma - 1) < 4 / (2 * n) ** 0.5
    for severity, sigma in enumerate(PARAMETERS["cifar"]["speckle_noise"], 1):
        spread = float(corrupt(x, "speckle_noise", severity).std())
        assert abs(spread / (sigma / 2) - 1) < 4 / (2 * n) ** 0.5
        assert abs(spread / (1.03 * sigma / 2) - 1) > 4 / (2 * n) ** 0.5  # 3 % off is seen
    for severity, share in enumerate(PARAMETERS["cifar"]["impulse_noise"], 1):
        out = corrupt(x, "impulse_noise", severity)
        for value in (0, 1):
            count = int((out == value).sum())
            assert abs(count - n * share / 2) < 4 * (n * share / 2) ** 0.5
    for severity, photons in enumerate(PARAMETERS["cifar"]["shot_noise"], 1):
        out = corrupt(x, "shot_noise", severity) * photons
        assert torch.allclose(out, out.round(), atol=1e-3)
        assert abs(float(out.var()) / (photons / 2) - 1) < 4 * (2 / n) ** 0.5 + 2 / photons / n**0.5


@pytest.mark.parametrize(("size", "side"), [((32, 32), 32), ((70, 41), 128)])
def test_fog_is_a_landscape_from_0_to_1(size, side):
    ids = torch.arange(20)
    native = select("native", torch.device("cpu"))
    field = _plasma(Batch(torch.zeros(20, 1, *size), ids, "fog", 5, 0, native), 1.75)
    assert field.shape == (20, side, side)
    assert torch.equal(field.amin((1, 2)), torch.zeros(20))
    assert torch.equal(field.amax((1, 2)), torch.ones(20))
    rough = (field - field.roll(1, 1)).abs().mean()
    assert rough < 0.3 * (field - field.roll(side // 2, 1)).abs().mean()  # it is smooth


def test_motion_keeps_what_does_not_vary():
    flat = torch.full((3, 3, 224, 224), 0.25)
    for name in ("motion_blur", "defocus_blur", "zoom_blur", "elastic_transform", "glass_blur"):
        assert torch.allclose(corrupt(flat, name, 5), flat, atol=1 / 255)
