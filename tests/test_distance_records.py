"""Records of distances: what they hold, refuse, save, and how they are joined with sigma."""

import numpy as np
import pytest
import torch
from models import HalfSpace, Slab, Small, grey

from robustcore import (
    church_windows,
    corruption_benchmark,
    error_rate,
    report,
    sigma_at_error_rate,
)
from robustcore.distance import distance_to_error, pgd
from robustcore.engine import Engine
from robustcore.results import DistanceResult, PGDResult, Record, compare
from robustcore.results.corruptions import gain


@pytest.fixture(scope="module")
def near():
    x, _ = grey(4, (3, 8, 8))
    return distance_to_error(Slab(192, 0.4), x, [0, 0, 1, 0], ids=[5, 3, 9, 4])


def test_a_saved_record_reads_back(near, tmp_path):
    near.save(tmp_path / "near.npz")
    again = Record.load(tmp_path / "near.npz")
    assert isinstance(again, DistanceResult)
    assert np.array_equal(again.distance, near.distance)
    assert torch.equal(again.x_adv, near.x_adv)
    assert again.norm == "L2"
    assert again.provenance == near.provenance


def test_a_part_and_a_table(near):
    part = near[[2, 0]]
    assert part.status.tolist() == ["misclassified", "found"]
    assert part.x_adv.shape == (2, 3, 8, 8)
    columns = near.columns()
    assert {"id", "distance", "status", "found", "masked", "n_backward"} <= set(columns)
    assert columns["found"].all()
    assert repr(near).startswith("DistanceResult(4 images, L2: 3 found, 1 misclassified; median")


def test_images_in_reverse(near):
    back = near[::-1]
    assert back.ids.tolist() == near.ids.tolist()[::-1]
    assert torch.equal(back.x_adv, near.x_adv.flip(0))


def test_points_are_laid_out_as_images_are_although_the_model_takes_channels_last():
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert distance_to_error(Small().eval(), x, effort=5).x_adv.is_contiguous()
    assert pgd(Small().eval(), x, eps=0.5, norm=2, steps=2).x_adv.is_contiguous()


def test_provenance_tells_how(near):
    assert near.provenance.method == "minimum"
    assert near.provenance.settings["effort"] == 60
    assert near.provenance.settings["box"] is None


def test_numbers_that_belie_the_status_are_refused(near):
    fields = {name: getattr(near, name) for name in near._arrays()}
    fields |= {"norm": "L2", "provenance": near.provenance}
    with pytest.raises(ValueError, match="distance must be inf where nothing was found"):
        DistanceResult(**{**fields, "status": np.array(["not_found"] * 4)})
    with pytest.raises(ValueError, match="status must be one of"):
        DistanceResult(**{**fields, "status": np.array(["lost"] * 4)})


def test_robust_accuracy_over_a_grid(tmp_path):
    x, _ = grey(4, (3, 8, 8))
    result = pgd(Slab(192, 0.4), x, [0, 0, 1, 0], eps=[0.5, 0.3], norm=2)
    assert result.eps.tolist() == [0.3, 0.5]
    assert result.robust_accuracy.tolist() == [0.75, 0.0]
    assert "robust accuracy 0.75 at eps 0.3, 0 at eps 0.5" in repr(result)
    assert len(result.columns()["fooled"]) == 8
    result.save(tmp_path / "pgd.npz")
    assert np.array_equal(PGDResult.load(tmp_path / "pgd.npz").fooled, result.fooled)


@pytest.fixture(scope="module")
def noise():
    x, _ = grey(3, (3, 8, 8))
    return sigma_at_error_rate(Slab(192, 0.4), x, 0.1, [0, 0, 1], samples=200, ids=[3, 5, 9])


def test_the_join_puts_both_views_side_by_side(noise, near):
    both = compare(noise, near)
    assert both.ids.tolist() == [3, 5, 9]
    assert np.allclose(both.half_space_distance, noise.half_space_distance)
    expected = near.distance[[1, 0]] / noise.half_space_distance[:2]
    assert np.allclose(both.ratio[:2], expected)
    assert np.isnan(both.ratio[2])  # misclassified: 0 over 0
    assert both.median_ratio == pytest.approx(np.median(expected))
    # two planes, not one: the noise errs twice as often as a half-space at that distance would
    assert np.all((both.ratio[:2] > 1.0) & (both.ratio[:2] < 1.6))
    assert "median ratio" in repr(both)


def test_a_join_of_what_does_not_belong_together_is_refused(noise, near):
    x, y = grey(3, (3, 8, 8))
    model = Slab(192, 0.4)
    with pytest.raises(ValueError, match="near must hold L2 distances"):
        compare(noise, distance_to_error(model, x, y, norm="Linf"))
    with pytest.raises(ValueError, match="but had targets"):
        compare(noise, distance_to_error(model, x, y, targets=1))
    with pytest.raises(ValueError, match="no id was in both"):
        compare(noise, near[[3]])
    with pytest.raises(ValueError, match="same labels, but differ at id 9"):
        compare(noise, distance_to_error(model, x, y, ids=[3, 5, 9]))


def test_records_of_other_images_are_not_joined(tmp_path):
    model, (x, y) = HalfSpace(192, 0.3), grey(4, (3, 8, 8))
    noise = sigma_at_error_rate(model, x, 0.05, y, samples=200)
    near = distance_to_error(model, x, y, effort=8)
    assert len(compare(noise, near)) == 4
    other = x.clone()
    other[2, 0, 3, 3] += 2 / 255  # one pixel
    elsewhere = distance_to_error(model, other, y, effort=8)
    kept = distance_to_error(Engine(model, block=1), other, y, effort=8, run=tmp_path)
    kept.save(tmp_path / "near.npz")
    loaded = DistanceResult.load(tmp_path / "near.npz")
    for record in (elsewhere, kept, loaded, elsewhere[[0, 2]]):
        with pytest.raises(ValueError, match="same images, but differ at id 2: the pixels"):
            compare(noise, record)
    assert len(compare(noise, kept[[0, 1, 3]])) == 3  # these are the same
    named = distance_to_error(model, x.flip(0), y.flip(0), ids=[3, 2, 1, 0], effort=8)
    assert len(compare(noise, named)) == 4
    with pytest.raises(ValueError, match=r"sigma and x must be of the same images, .* at id 2"):
        church_windows(model, other, y, sigma=noise, size=9)
    given = {"model": {"sigma": noise}}
    with pytest.raises(ValueError, match=r"records and x \('sigma'\) must be .* at id 2"):
        report(model, other, y, out=tmp_path, rate=0.05, samples=200, records=given)


def test_images_of_every_form_have_one_hash():
    bytes_ = torch.randint(0, 256, (3, 3, 8, 8), generator=torch.Generator().manual_seed(1)).byte()
    x = bytes_.float() / 255
    model = HalfSpace(192, 0.3)
    forms = (x, x.double().numpy(), bytes_, bytes_.numpy(), x * (1 + 1e-7), list(x))
    found = [error_rate(model, form, 0.1, samples=5) for form in forms]
    assert all(each.provenance.images == found[0].provenance.images for each in found)
    assert len(set(found[0].provenance.images.values())) == 3


def test_accuracies_of_other_images_are_not_compared():
    model, (x, y) = HalfSpace(3072, 0.3), grey(3, (3, 32, 32))
    some = {"corruptions": ["contrast"], "severities": [1]}
    one = corruption_benchmark(model, x, y, ids=[4, 5, 6], **some)
    assert set(one.provenance.images) == {"4", "5", "6"}
    other = corruption_benchmark(model, x + 0.1, y, ids=[4, 5, 6], **some)
    with pytest.raises(ValueError, match=r"one and other must be of the same images.* id 4"):
        gain(one, other, ["contrast"])
    assert gain(one, one, ["contrast"])[0] == 0


def test_what_is_compared_is_named():
    model, (x, y) = HalfSpace(192, 0.3), grey(3, (3, 8, 8))
    noise = sigma_at_error_rate(model, x, 0.05, y, samples=200)
    with pytest.raises(TypeError, match=r"near must be a DistanceResult, .* was SigmaResult"):
        compare(noise, noise)
