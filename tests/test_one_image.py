"""One image in every form that images come in: alone, it is contiguous whatever its strides."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from models import Small

import robustcore as rc
from robustcore.corruptions import corrupt
from robustcore.runs.rows import Rows, record_of, rows_of

NET = Small().eval()
LEVELS = torch.randint(256, (1, 3, 8, 8), generator=torch.Generator().manual_seed(0))
X = LEVELS.float() / 255

FORMS = {
    "numpy": X.numpy(),
    "uint8": LEVELS.numpy().astype(np.uint8),
    "list": [X[0].numpy()],
    "one that stands apart": torch.rand(1, 500).repeat(1, 2)[:, :192].view(1, 3, 8, 8).copy_(X),
    "odd strides": torch.empty(400).as_strided((1, 3, 8, 8), (7, 64, 8, 1)).copy_(X),
    "channels last": X.to(memory_format=torch.channels_last),
    "every second": torch.cat([X, X + 1])[::2],
    "reversed": X.flip(3).numpy()[..., ::-1],
}

METHODS = {
    "error_rate": lambda x, **k: rc.error_rate(NET, x, [0.1, 0.5], samples=40, **k),
    "sigma": lambda x, **k: rc.sigma_at_error_rate(NET, x, 0.1, samples=60, **k),
    "pgd": lambda x, **k: rc.pgd(NET, x, eps=0.5, norm=2, steps=3, **k),
    "distance": lambda x, **k: rc.distance_to_error(NET, x, effort=50, **k),
    "certify": lambda x, **k: rc.certify(NET, x, sigma=0.1, n0=10, n=60, **k),
    "windows": lambda x, **k: rc.church_windows(NET, x, samples=50, rate=0.1, size=9, **k),
}


def arrays(record) -> dict[str, np.ndarray]:
    return {
        name: np.asarray(getattr(record, name))
        for name in record._arrays()
        if name not in ("n_forward", "n_backward")
    }


@pytest.fixture(scope="module")
def right():
    return {name: arrays(method(X)) for name, method in METHODS.items()}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kept", [False, True])
def test_one_image_gives_one_record_in_every_form(right, form, method, kept, tmp_path):
    options = {"run": tmp_path / "run"} if kept else {}
    record = METHODS[method](FORMS[form], **options)
    for name, value in arrays(record).items():
        np.testing.assert_array_equal(value, right[method][name], err_msg=name)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("n", [1, 2])
def test_tensors_of_a_record_come_back_from_rows(dtype, n):
    """With texts of an odd number of bytes beside them, a row is no multiple of the element."""
    net = Small().to(dtype).eval()
    record = rc.pgd(net, torch.cat([X, X])[:n].to(dtype), eps=0.5, norm=2, steps=2)
    rows = rows_of(record)
    for back in (rows, Rows.from_bytes(rows.to_bytes())):
        made = record_of(back)
        for name in record._arrays():
            mine, its = getattr(made, name), getattr(record, name)
            if isinstance(its, torch.Tensor):
                assert mine.dtype == its.dtype
                assert torch.equal(mine, its)
            else:
                np.testing.assert_array_equal(mine, its)


BLOCKS = {
    "distance": (
        "distance.task.BLOCK_ELEMENTS",
        lambda x: rc.distance_to_error(NET, x, effort=20),
    ),
    "noisy points": (
        "concentration.noisy_points.BLOCK_ELEMENTS",
        lambda x: rc.noisy_distance(NET, x, sigma=0.05, points=20, samples=30),
    ),
    "audit": (
        "concentration.audit.BLOCK_ELEMENTS",
        lambda x: rc.audit_attack(
            NET, x, None, lambda model, x, y: x + 0.3, sigma=0.05, points=20, samples=30
        ),
    ),
    "rare errors": (
        "rare.descent.MEMORY",
        lambda x: rc.error_curve(NET, x, rates=(0.1, 1e-3), samples=200, second_look=False),
    ),
    "the second look": (
        "rare.second_look.BLOCK",
        lambda x: rc.error_curve(NET, x, rates=(0.1, 1e-3), samples=200),
    ),
    "whether images are finite": (
        "inputs.CHECKED",
        lambda x: rc.error_rate(NET, x, 0.1, samples=20),
    ),
}


@pytest.mark.parametrize("method", BLOCKS)
def test_an_image_that_is_more_than_a_block_of_memory_is_measured_by_itself(method, monkeypatch):
    name, measure = BLOCKS[method]
    x = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    whole = measure(x)
    monkeypatch.setattr(f"robustcore.{name}", 1)
    alone = measure(x)
    for name, value in arrays(alone).items():
        want = getattr(whole, name)
        if value.dtype.kind == "f":  # a batch of another size rounds otherwise
            np.testing.assert_allclose(value, want, rtol=1e-3, atol=1e-5, err_msg=name)
        else:
            np.testing.assert_array_equal(value, want, err_msg=name)


def test_an_image_that_is_more_than_a_chunk_is_corrupted_by_itself(monkeypatch):
    x = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    whole = {name: corrupt(x, name, 3) for name in ("shot_noise", "fog", "pixelate")}
    monkeypatch.setattr(sys.modules["robustcore.corruptions.corrupt"], "CHUNK", 1)
    for name, images in whole.items():
        assert torch.equal(corrupt(x, name, 3), images), name
