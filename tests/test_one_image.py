"""One image in every form that images come in: alone, it is contiguous whatever its strides."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from models import Small

import robustcore as rc
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
