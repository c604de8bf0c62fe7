"""Against pictures that the published code made of one image, with our random numbers.

They were made by benchmarks/corruption_published.py, which says how to make them again.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from robustcore.corruptions import corrupt

with np.load(Path(__file__).with_name("published_corruptions.npz")) as _file:
    IMAGE = torch.from_numpy(_file["image"]).permute(2, 0, 1) / 255
    PUBLISHED = {name: _file[name] for name in _file.files if name != "image"}
CONDITIONS = [(key.split("-")[0], int(key.split("-")[1])) for key in PUBLISHED]


def apart(name, severity, made_at):
    """Mean, and 99.9th percentile, of the difference in steps of 1/255, both cut to 8 bits."""
    mine = corrupt(IMAGE, name, made_at, seed=1).permute(1, 2, 0).numpy()
    off = abs(np.floor(mine * 255 + 1e-3) - PUBLISHED[f"{name}-{severity}"].astype(float))
    return off.mean(), np.percentile(off, 99.9)


@pytest.mark.parametrize(("name", "severity"), CONDITIONS)
def test_the_picture_is_the_published_one(name, severity):
    mean, far = apart(name, severity, severity)
    assert mean <= 1
    assert far <= (6 if name == "frost" else 3)  # its photographs were stored anew


@pytest.mark.parametrize("name", sorted({name for name, _ in CONDITIONS}))
def test_another_severity_is_another_picture(name):
    mean, far = apart(name, 5, 3)
    assert mean > 1 or far > 6
