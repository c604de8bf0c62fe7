"""Rare errors as they are shown: figures, the command, the report's section."""

import dataclasses

import numpy as np
import pytest
from models import HalfSpace, grey

import robustcore as rc
from robustcore import plot
from robustcore.cli import main
from robustcore.report.sections.rare import with_plain_draws
from robustcore.results import Record

SMALL = {"samples": 500}


@pytest.fixture(scope="module")
def curve():
    return rc.error_curve(
        HalfSpace(16, 0.5), *grey(3), rates=(1e-4, 0.1, 0.01), second_look=False, **SMALL
    )


def lines(ax):
    return {each.get_label(): each for each in ax.get_lines()}


def test_sigma_against_rate_draws_each_image_its_band_and_the_half_space(curve):
    ax = plot.sigma_against_rate(curve, shown=2)
    drawn = lines(ax)
    assert {"image 0", "image 1", "half-space"} <= set(drawn)
    assert "image 2" not in drawn
    rates, sigma = drawn["image 0"].get_data()
    assert list(rates) == [1e-4, 0.01, 0.1]  # in order, whatever the record's
    assert np.array_equal(sigma, curve.sigma[0, [0, 2, 1]])
    assert len(ax.collections) == 2  # bands
    assert ax.get_xlim()[0] > ax.get_xlim()[1]


def test_rates_that_were_not_found_leave_gaps():
    curve = rc.error_curve(
        HalfSpace(16, 0.5), *grey(3), rates=(0.1, 0.01, 1e-4), sigma_max=0.3, **SMALL
    )
    assert curve.status[0].tolist() == ["censored", "found", "found"]
    ax = plot.sigma_against_rate(curve)
    _, sigma = lines(ax)["image 0"].get_data()
    assert np.array_equal(np.isnan(sigma), [False, False, True])
    edges = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert set(np.round(edges, 9)) == set(
        np.round([*curve.sigma_low[0, 1:], *curve.sigma_high[0, 1:]], 9)
    )
    _, median = lines(plot.ratio_to_half_space(curve))["median"].get_data()
    assert np.array_equal(np.isnan(median), [False, False, True])


def test_ratio_is_1_at_the_rate_that_the_half_space_goes_through(curve):
    drawn = lines(plot.ratio_to_half_space(curve))
    rates, ratio = drawn["median"].get_data()
    assert ratio[list(rates).index(0.01)] == pytest.approx(1)


def test_figures_of_nothing_say_so(curve):
    nothing = dataclasses.replace(
        curve, sigma=0 * curve.sigma, status=np.full(curve.status.shape, "misclassified")
    )
    ax = plot.sigma_against_rate(nothing)
    assert "for no image" in ax.texts[0].get_text()
    assert "median" not in lines(plot.ratio_to_half_space(nothing))


def test_the_command_prints_and_writes_the_curve(tmp_path, capsys):
    command = ["curve", "--model", "mnist-natural", "--images", "1", "--samples", "500"]
    assert main([*command, "--rates", "0.1", "0.001", "--out", str(tmp_path)]) == 0
    found = Record.load(tmp_path / "curve.npz")
    model, x, y = rc.load_example("mnist-natural", 1)
    again = rc.error_curve(model, x, y, (0.1, 0.001), samples=500)
    assert np.array_equal(found.sigma, again.sigma)
    shown = capsys.readouterr().out
    assert f"{found.sigma[0, 1]:.4f}" in shown
    assert "low at 0.001" in shown
    assert f"{found.sigma_high[0, 1]:.4f}" in shown
    assert "that of the half-space through sigma at 0.1: " in shown
    assert (tmp_path / "curve.png").stat().st_size > 10_000


def test_sigma_of_a_rare_rate_chooses_splitting_at_the_command_line(tmp_path, capsys):
    command = ["sigma", "--model", "mnist-natural", "--images", "1", "--samples", "500"]
    assert main([*command, "--rate", "0.001", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "note: splitting, as the error rate is below 1/samples" in shown
    assert isinstance(Record.load(tmp_path / "sigma.npz"), rc.RareSigma)


def test_the_command_names_bad_input(tmp_path, capsys):
    command = ["curve", "--model", "mnist-natural", "--images", "1", "--rates", "1e-20"]
    assert main([*command, "--out", str(tmp_path)]) == 2
    assert "rates must be at least 1e-15, was 1e-20" in capsys.readouterr().err


def test_the_report_has_a_section_with_a_row_for_each_image_and_rate(tmp_path):
    x, y = grey(2)
    made = rc.report(
        HalfSpace(16, 0.5), x, y, out=tmp_path, sections=["noise", "rare"],
        samples=100, rate=0.05,
    )  # fmt: skip
    found = made.records["model"]["rare"]
    assert found.provenance.samples == 200
    assert "one noisy copy in a million" in made.verdicts["Rare errors"][0]
    assert made.path.read_text().count("<td") > 7 * len(found)
    assert (tmp_path / "model.rare.npz").exists()


def test_a_page_has_one_sigma_for_a_rate_and_bounds_that_know_of_each_other():
    """Splitting's curve beside plain draws, by hand: both agree on the first image alone."""
    model, (x, y) = HalfSpace(3, 0.5), grey(3, (1, 1, 3))
    made = rc.error_curve(model, x, y, (0.1, 0.01, 1e-4), samples=500, second_look=False)
    sigma = np.array([[0.39, 0.21, 0.13]] * 3)
    below, above = np.array([0.01, 0.03, 0.05]), np.array([0.3, 0.2, 0.12])
    curve = dataclasses.replace(
        made, sigma=sigma, sigma_low=sigma - below, sigma_high=sigma + above,
        status=np.full((3, 3), "found"),
    )  # fmt: skip
    plain = rc.sigma_at_error_rate(model, x, 0.01, y, samples=500)
    plain = dataclasses.replace(
        plain, sigma=np.array([0.2, 0.9, 0.15]), sigma_low=np.array([0.19, 0.8, 0.1]),
        sigma_high=np.array([0.22, 1.0, 0.17]),
    )  # fmt: skip
    both, apart = with_plain_draws(curve, plain)
    assert apart == 2
    assert both.sigma[:, 1].tolist() == [0.2, 0.9, 0.15]
    assert both.sigma_low[0] == pytest.approx([0.38, 0.19, 0.08])
    assert both.sigma_high[0] == pytest.approx([0.69, 0.22, 0.22])
    # where both disagree the rest is left as it was
    assert both.sigma_high[1] == pytest.approx([0.69, 1.0, 0.25])
    assert both.sigma_low[2] == pytest.approx([0.38, 0.1, 0.08])
    others = dataclasses.replace(plain, rate=0.02)
    assert with_plain_draws(curve, others) == (curve, 0)
