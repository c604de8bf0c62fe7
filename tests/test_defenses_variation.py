"""Total-variance minimisation, and random resizing and padding."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from pictures import images, smooth
from torch import nn

from robustcore import defenses
from robustcore.defenses.base import Draws
from robustcore.defenses.variation import minimize, variation


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
