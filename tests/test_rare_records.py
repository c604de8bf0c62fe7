"""Splitting: what its records hold, keep on disk and tell."""

import dataclasses

import numpy as np
import pytest
import torch
from models import HalfSpace, grey
from scipy.stats import norm
from test_rare_inputs import same

import robustcore as rc

MODEL = HalfSpace(16, 0.5)
X, Y = grey(2)


def test_records_come_back_from_disk_and_through_runs(tmp_path):
    how = {"samples": 500, "seed": 5}
    curve = rc.error_curve(MODEL, X, Y, (0.01, 1e-4), **how)
    sigma = rc.sigma_at_error_rate(MODEL, X, 1e-4, Y, method="splitting", **how)
    rate = rc.error_rate(MODEL, X, [0.1, 0.2], Y, method="splitting", **how)
    for record in (curve, sigma, rate):
        record.save(tmp_path / "record.npz")
        again = rc.Record.load(tmp_path / "record.npz")
        assert type(again) is type(record)
        assert np.array_equal(again.level_log_rate, record.level_log_rate, equal_nan=True)
        assert again.provenance == record.provenance
        assert record.provenance.method == "splitting"
    assert sigma.provenance.settings["particles"] == 100
    kept = rc.error_curve(
        rc.Engine(MODEL, block=1), X, Y, (0.01, 1e-4), run=tmp_path / "run", **how
    )
    same(kept, curve)
    table = curve.columns()
    assert table["rates"].tolist() == [0.01, 1e-4] * 2
    assert set(table["warning"].tolist()) == {""}


def test_the_record_holds_the_curve_that_the_answer_is_read_from():
    curve = rc.error_curve(HalfSpace(3, 1.8), *grey(3, (1, 1, 3)), [1e-4], samples=500)
    errors = curve.level_margin == 0
    assert (~errors & np.isfinite(curve.level_margin)).any()  # levels of the margin come first
    assert (np.isfinite(curve.pooled_log_rate) == errors).all()
    assert (np.isfinite(curve.pooled_variance) == errors).all()
    wanted, within = -norm.ppf(1e-4), 0
    for row in range(3):
        at = errors[row]
        h = -norm.ppf(np.exp(curve.pooled_log_rate[row, at]))
        if h[-1] > wanted:  # else its line goes on
            within += 1
            inverse = np.interp(wanted, h, 1 / curve.level_sigma[row, at])
            # it is read half a variance lower, as a lognormal's mean is above its median
            assert curve.sigma[row, 0] == pytest.approx(1 / inverse, rel=5e-3)
    assert within
    assert not np.allclose(curve.pooled_log_rate[errors], curve.level_log_rate[errors], atol=0.01)


def test_summaries_tell_warnings():
    curve = rc.error_curve(MODEL, X, Y, (0.01, 1e-4), samples=500)
    assert "2 images, 2 rates; median sigma" in repr(curve)
    some = rc.error_curve(MODEL, X, torch.tensor([0, 1]), (0.1, 1e-4), samples=500, sigma_max=0.3)
    assert "; 1 misclassified; 1 censored at some rate; median sigma" in repr(some)
    assert repr(curve[:0]) == "ErrorCurve(0 images, 2 rates)"
    told = dataclasses.replace(curve, warning=np.array(["", "rays missed"]))
    assert "1 image: errors end again along rays" in repr(told)
    assert len(told.warnings()) == 2


def test_the_linear_line_and_its_ratio():
    curve = rc.error_curve(MODEL, X, Y, (0.01, 1e-4, 1e-8), samples=1000)
    assert np.allclose(curve.half_space_sigma()[:, 0], curve.sigma[:, 0])
    assert np.allclose(curve.ratio()[:, 0], 1)
    assert np.allclose(curve.ratio(), 1, atol=0.15)
    assert curve.nearest_rate() == 0.01
    assert curve.nearest_rate(1e-7) == 1e-8
    with pytest.raises(ValueError, match="through must lie strictly between 0 and 1, was 0"):
        curve.ratio(through=0)
    assert dataclasses.replace(curve, rates=np.array([0.1, 1e-3, 1e-8])).nearest_rate() == 0.1
    assert np.isnan(rc.error_curve(MODEL, X, 1 - Y, [0.01], samples=500).ratio()).all()


def test_what_is_said_of_an_endless_sigma_is_its_status():
    sigma = rc.sigma_at_error_rate(HalfSpace(16, 30.0), X, 1e-4, Y, samples=500)
    assert (sigma.status == "censored").all()
    none = np.zeros(2)
    dataclasses.replace(sigma, sigma_low=none)  # a bound of 0 makes it no other status
    dataclasses.replace(sigma, sigma_low=none, status=np.full(2, "undecided"))
    for low, status in ((sigma.sigma_low, "undecided"), (none, "found"), (none, "misclassified")):
        with pytest.raises(ValueError, match="sigma must be 0 where misclassified"):
            dataclasses.replace(sigma, sigma_low=low, status=np.full(2, status))


def test_a_summary_counts_images_not_rates():
    """Of three images at two rates: one each misclassified, censored once and undecided twice."""
    x, _ = grey(3)
    curve = rc.error_curve(MODEL, x, rates=(0.01, 1e-4), samples=500, second_look=False)
    status = np.array([["misclassified"] * 2, ["found", "censored"], ["undecided"] * 2])
    told = repr(dataclasses.replace(curve, status=status))
    assert "; 1 misclassified; 1 censored at some rate; 1 undecided at some rate" in told
