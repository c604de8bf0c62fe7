"""plot.py: what stands in the Axes, whatever the statuses; that nothing global is touched."""

import io
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from test_results import provenance

from robustcore import plot
from robustcore.results import SigmaResult


def record(
    found: int, misclassified: int = 0, censored: int = 0, open_ends: int = 0
) -> SigmaResult:
    images = found + misclassified + censored
    status = np.repeat(["found", "misclassified", "censored"], [found, misclassified, censored])
    sigma = np.random.default_rng(0).lognormal(-2.5, 0.5, images)
    low, high = 0.9 * sigma, 1.1 * sigma
    high[:open_ends] = np.inf
    for array, value in ((sigma, np.inf), (low, 0.5), (high, np.inf)):
        array[status == "misclassified"] = 0
        array[status == "censored"] = value
    ones = np.ones(images, int)
    return SigmaResult(
        ids=np.arange(images),
        labels=ones,
        sigma=sigma,
        sigma_low=low,
        sigma_high=high,
        bracket_low=low,
        bracket_high=high,
        error_rate=0.01 * ones,
        status=status,
        n_samples=ones,
        n_forward=ones,
        n_backward=0 * ones,
        rate=0.01,
        confidence=0.95,
        provenance=provenance(),
    )


CASES = [(40, 2, 1, 1), (0, 3, 0, 0), (0, 0, 3, 0), (1, 0, 0, 1), (0, 0, 0, 0), (600, 9, 9, 9)]
FIGURES = [plot.sigma_histogram, plot.sigma_intervals]


@pytest.mark.parametrize("draw", FIGURES)
@pytest.mark.parametrize("case", CASES)
def test_every_mix_of_statuses_draws(draw, case: tuple[int, int, int, int]) -> None:
    ax = draw(record(*case))
    ax.figure.savefig(io.BytesIO(), format="png")
    found, misclassified, censored, _ = case
    counts = f"{found} found, {misclassified} misclassified, {censored} censored"
    assert counts in ax.get_title()
    labels = ax.get_xlabel() + ax.get_ylabel()
    assert "pixel units of [0, 1]" in labels
    assert "images" in labels


@pytest.mark.parametrize("draw", FIGURES)
def test_nothing_is_cut_off_or_covers_the_title(draw) -> None:
    ax = draw(record(40, 2, 1, 1))
    figure = ax.figure
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    parts = [ax.title, ax.xaxis.label, ax.yaxis.label, ax.get_legend()]
    boxes = [part.get_window_extent(renderer) for part in parts]
    for box in boxes:
        assert figure.bbox.x0 <= box.x0
        assert box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0
        assert box.y1 <= figure.bbox.y1
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])


def test_histogram_counts_the_found_and_marks_the_median_of_all() -> None:
    result = record(40, 5, 2)
    ax = plot.sigma_histogram(result)
    assert sum(bar.get_height() for bar in ax.patches) == 40
    (line,) = ax.lines
    assert line.get_xdata()[0] == np.median(result.sigma)
    assert not plot.sigma_histogram(record(2, 0, 3)).lines  # an infinite median is not drawn


def test_intervals_show_every_image_once() -> None:
    ax = plot.sigma_intervals(record(40, 5, 2))
    marks = {line.get_label().split()[0]: line for line in ax.lines}
    assert len(marks["found,"].get_xdata()) == 40
    assert marks["misclassified"].get_ydata().tolist() == [0] * 5
    assert marks["censored:"].get_ydata().tolist() == [0.5] * 2
    heights = marks["found,"].get_ydata()
    assert np.all(np.diff(heights) >= 0)
    assert len(ax.collections[0].get_segments()) == 40


@pytest.mark.parametrize("draw", FIGURES)
def test_a_given_axes_is_used_and_nothing_global_changes(draw) -> None:
    before = dict(matplotlib.rcParams)
    figures = (
        sys.modules["matplotlib.pyplot"].get_fignums() if "matplotlib.pyplot" in sys.modules else []
    )
    mine = Figure().add_subplot()
    assert draw(record(3), ax=mine) is mine
    draw(record(3))
    assert dict(matplotlib.rcParams) == before
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == figures
