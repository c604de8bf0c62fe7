"""Fig. 6's lines and bars are the means and standard deviations of trials."""

import io
from dataclasses import replace

import numpy as np
import pytest
from test_results import provenance

from robustcore import plot
from robustcore.results import ErrorRate


def trial(rates, sigma=(0.2, 0.0, 0.1)):
    """Rates (B, G)."""
    rates = np.asarray(rates, float)
    whole = np.zeros(rates.shape, int)
    return ErrorRate(
        ids=np.arange(len(rates)), labels=whole[:, 0], sigma=np.array(sigma), rate=rates,
        rate_low=rates, rate_high=rates, n_errors=whole, n_samples=whole, confidence=0.95,
        n_forward=whole[:, 0], n_backward=whole[:, 0], provenance=provenance(),
    )  # fmt: skip


def test_lines_are_means_and_bars_one_standard_deviation():
    rng = np.random.default_rng(0)
    trials = {name: [trial(rng.random((7, 3))) for _ in range(4)] for name in ("a", "b")}
    ax = plot.accuracy_over_trials(trials)
    ax.figure.savefig(io.BytesIO(), format="png")
    for (name, records), drawn in zip(trials.items(), ax.containers, strict=True):
        right = 100 * (1 - np.array([r.rate.mean(0) for r in records]))[:, [1, 2, 0]]
        line, _, (bars,) = drawn
        np.testing.assert_allclose(line.get_ydata(), right.mean(0))
        ends = np.array(bars.get_segments())[..., 1]
        np.testing.assert_allclose(np.diff(ends)[:, 0], 2 * right.std(0, ddof=1))
        np.testing.assert_allclose(line.get_xdata(), [0, 0.1, 0.2], atol=0.05 * 0.1)
        assert drawn.get_label() == name


def test_one_trial_has_no_bar_and_other_grids_are_refused():
    one = trial([[0.1, 0.2, 0.3]])
    assert not plot.accuracy_over_trials({"a": [one]}).containers[0].has_yerr
    other = replace(one, sigma=np.array([0.2, 0.0, 0.3]))
    with pytest.raises(ValueError, match="must share one grid of sigma, those of 'b' do not"):
        plot.accuracy_over_trials({"a": [one], "b": [other]})
    for empty in ({}, {"a": []}):
        with pytest.raises(ValueError, match="at least one record"):
            plot.accuracy_over_trials(empty)
