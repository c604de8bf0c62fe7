"""The paper's figures: what stands in the Axes, that nothing is cut off, and refusals."""

import dataclasses
import io
import sys
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Polygon
from plot_records import (
    RANDOM,
    distances,
    noisy_points,
    pairs,
    rates,
    robust,
    table,
    window,
)
from scipy.special import ndtri
from test_plot import record as sigma_record

from robustcore import plot

PANELS = RANDOM.uniform(-0.5, 1.5, (2, 3, 3, 8, 8))
WORDS = ["airplane", "automobile", "bird", "a class with a long name"]
CORRUPTED = {
    "one": table(),
    **{f"a model with a long name, {i}": table(snow=0.1 * i, fog=0.1) for i in range(4)},
}
FIGURES: dict[str, Any] = {
    "half_space": lambda ax: plot.half_space(ax=ax),
    "nearness_by_dimension": lambda ax: plot.nearness_by_dimension(ax=ax),
    "nearness_by_rate": lambda ax: plot.nearness_by_rate(ax=ax),
    "fig 2": lambda ax: plot.sigma_against_distance({"one": pairs(), "two": pairs(40)}, ax),
    "histograms": lambda ax: plot.sigma_histograms({"one": sigma_record(40, 2, 1)}, ax),
    "window": lambda ax: plot.church_window(window(), ax=ax, names=WORDS),
    "margins": lambda ax: plot.margin_window(window(), ax=ax),
    "fig 4 top": lambda ax: plot.noisy_distance_at_sigma({"one": noisy_points()}, ax),
    "fig 4 bottom": lambda ax: plot.noisy_distance_at_rate(noisy_points(sigma=None), ax=ax),
    "noisy": lambda ax: plot.noisy_images(PANELS, [0, 0.1, 0.2], ax, rows=["cat", "dog"]),
    "row": lambda ax: plot.image_row(PANELS[0], ["1: a", "2: b", "3: c"], ax),
    "accuracy": lambda ax: plot.accuracy_in_noise({"training": rates(), "test": rates()}, ax),
    "distances": lambda ax: plot.distance_histograms({"one": distances(30, 4)}, ax),
    "robust": lambda ax: plot.robust_accuracy({"one": robust()}, ax),
    "fig 5": lambda ax: plot.corruption_accuracy(CORRUPTED, ax),
    "fig 5 bars": lambda ax: plot.corruption_groups(CORRUPTED, {"one": [robust()]}, ax),
    "fig 6": lambda ax: plot.accuracy_over_trials({"one": [rates(), rates()]}, ax),
}


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_is_cut_off(name: str) -> None:
    figure = FIGURES[name](None).figure
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    for ax in figure.axes:
        box = ax.get_tightbbox(renderer)
        assert box.x0 >= figure.bbox.x0 - 1
        assert box.x1 <= figure.bbox.x1 + 1
        assert box.y0 >= figure.bbox.y0 - 1
        assert box.y1 <= figure.bbox.y1 + 1
        words = [ax.title, ax.xaxis.label, ax.yaxis.label, ax.get_legend()]
        boxes = [word.get_window_extent(renderer) for word in words if word is not None]
        boxes = [box for box in boxes if box.width and box.height]
        for k, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[:k])


@pytest.mark.parametrize("name", FIGURES)
def test_a_given_axes_is_used_and_nothing_global_changes(name: str) -> None:
    before = dict(matplotlib.rcParams)
    mine = Figure().add_subplot()
    assert FIGURES[name](mine) is mine
    assert dict(matplotlib.rcParams) == before
    assert (
        "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
    )


@pytest.mark.parametrize("name", FIGURES)
def test_a_vector_picture_is_small_enough_to_embed(name: str) -> None:
    text = io.BytesIO()
    FIGURES[name](None).figure.savefig(text, format="svg")
    assert len(text.getvalue()) < 400_000


def test_axes_carry_units() -> None:
    across = {"fig 2", "fig 4 bottom", "distances", "robust", "accuracy", "histograms", "window"}
    up = {"fig 2", "fig 4 top", "fig 4 bottom"}
    for name in across | up:
        ax = FIGURES[name](None)
        assert name not in across or "pixel units of [0, 1]" in ax.get_xlabel(), name
        assert name not in up or "pixel units of [0, 1]" in ax.get_ylabel(), name
        assert "accuracy" not in ax.get_ylabel() or "(%)" in ax.get_ylabel(), name


def test_the_half_space_is_to_scale() -> None:
    ax = plot.half_space(0.1, 0.01, 20)
    near = -0.1 * ndtri(0.01)
    assert any(np.allclose(line.get_ydata(), near) for line in ax.lines)
    (circle,) = [each for each in ax.patches if hasattr(each, "radius")]
    assert circle.radius == pytest.approx(0.1 * np.sqrt(20))
    (b,) = [line for line in ax.lines if "B, an error" in str(line.get_label())]
    at = np.array([b.get_xdata()[0], b.get_ydata()[0]])
    assert np.linalg.norm(at) == pytest.approx(circle.radius)
    assert at[1] > near


def test_curves_of_appendix_f() -> None:
    ax = plot.nearness_by_dimension([0.01])
    n, ratio = ax.lines[0].get_data()
    assert ratio == pytest.approx(-ndtri(0.01) / np.sqrt(n))
    # the paper: 0.23 against 38.8 in ImageNet's dimension, more than 150 times closer
    assert 1 / np.interp(150528, n, ratio) > 150


def test_points_of_fig_2_are_medians_with_quartiles() -> None:
    record = pairs(100)
    ax = plot.sigma_against_distance({"one": record}, every=50)
    (container,) = ax.containers
    points = np.stack(container.lines[0].get_data())
    for k, part in enumerate((slice(0, 50), slice(50, 100))):
        assert points[0, k] == np.median(record.sigma[part])
        assert points[1, k] == np.median(record.distance[part])
    across, up = (bars.get_segments() for bars in container.lines[2])
    low, high = np.percentile(record.sigma[:50], [25, 75])
    assert across[0][:, 0] == pytest.approx([low, high])
    low, high = np.percentile(record.distance[50:], [25, 75])
    assert up[1][:, 1] == pytest.approx([low, high])
    (line,) = [each for each in ax.lines if each.get_label() == "linear model"]
    x, y = line.get_data()
    assert y[1] / x[1] == pytest.approx(-ndtri(0.01))


def test_histograms_count_every_image_once() -> None:
    result = sigma_record(40, 5, 2)
    ax = plot.sigma_histograms({"one": result})
    assert ax.patches[0].get_data().values.sum() == 45
    assert "one (2 above)" in [text.get_text() for text in ax.get_legend().get_texts()]
    near = plot.distance_histograms({"one": distances(30, 4)})
    assert near.patches[0].get_data().values.sum() == 26
    assert plot.distance_histograms({"one": distances(30)}).get_legend() is None
    assert "one (4 not found)" in [text.get_text() for text in near.get_legend().get_texts()]


def test_a_window_shows_classes_and_marks() -> None:
    record = window()
    ax = plot.church_window(record, names=WORDS)
    code = np.asarray(ax.images[0].get_array())
    assert ((code == 0) == (record.classes[0] == 0)).all()
    words = [text.get_text() for text in ax.get_legend().get_texts()]
    assert words[0] == "airplane: right"
    assert "automobile" in words
    assert any("half-space of the noise: 0.25" in word for word in words)
    assert any("8/255" in word for word in words)
    extent = ax.images[0].get_extent()
    assert extent == [-2.0, 2.0, -2.0, 2.0]
    assert plot.church_window(record, eps=None, legend=False).get_legend() is None
    # the plane is that of two components, so the ball is the square of eps about the image
    for eps, shown in ((1.9, True), (2.1, False)):
        ax = plot.church_window(record, eps=eps)
        words = [text.get_text() for text in ax.get_legend().get_texts()]
        assert any("beyond the window" in word for word in words) != shown
        assert len([each for each in ax.patches if isinstance(each, Polygon)]) == shown
    many = plot.church_window(window(classes=12))
    assert (
        "others" in [text.get_text() for text in many.get_legend().get_texts()]
        or len(np.unique(window(classes=12).classes)) <= 9
    )
    with pytest.raises(ValueError, match="image must have a window, but 7 has none: no_noise"):
        plot.church_window(window(drawn=False))


def test_the_bound_of_fig_4() -> None:
    ax = plot.noisy_distance_at_sigma(noisy_points(sigma=0.1))
    (bound,) = [line for line in ax.lines if line.get_label() == "bound"]
    rate, height = bound.get_data()
    inside = rate < 0.5
    assert height[inside] == pytest.approx(-0.1 * ndtri(rate[inside]))
    assert height[-1] == 0
    assert ax.get_xscale() == "log"
    low = plot.noisy_distance_at_rate(noisy_points(sigma=None), 0.05)
    (bound,) = [line for line in low.lines if line.get_label() == "bound"]
    x, y = bound.get_data()
    assert y[1] / x[1] == pytest.approx(-ndtri(0.05))
    with pytest.raises(ValueError, match="models must share one sigma"):
        plot.noisy_distance_at_sigma(noisy_points(sigma=None))


def test_panels_are_the_images_clipped() -> None:
    ax = plot.noisy_images(PANELS, [0, 0.1, 0.2])
    sheet = np.asarray(ax.images[0].get_array())
    assert sheet.shape == (2 * 8 + 2, 3 * 8 + 4, 3)
    assert np.allclose(sheet[10:18, 10:18], PANELS[1, 1].clip(0, 1).transpose(1, 2, 0))
    with pytest.raises(ValueError, match="panels must have shape"):
        plot.noisy_images(PANELS, [0, 0.1])
    with pytest.raises(ValueError, match="rows must be 2 words"):
        plot.noisy_images(PANELS, [0, 0.1, 0.2], rows=["one"])
    with pytest.raises(ValueError, match="images must have shape"):
        plot.image_row(PANELS[0], ["one"])


def test_accuracy_lines() -> None:
    result = rates()
    ax = plot.accuracy_in_noise(result)
    x, y = ax.containers[0].lines[0].get_data()
    assert x.tolist() == [0.0, 0.1, 0.2]
    assert y == pytest.approx(100 * (1 - result.rate.mean(0))[[1, 2, 0]])
    few = plot.accuracy_in_noise(result[:2]).containers[0]  # bars as wide as 0 to 100
    ends = np.stack(few.lines[2][0].get_segments())[..., 1]
    assert ends.min() >= 0
    assert ends.max() <= 100
    x, y = plot.robust_accuracy(robust()).lines[0].get_data()
    assert x.tolist() == [0.0, 0.1, 0.2]
    assert y == pytest.approx([90.0, 80.0, 50.0])


def test_refusals_of_figures() -> None:
    with pytest.raises(ValueError, match="models must hold at least one record"):
        plot.sigma_against_distance({})
    with pytest.raises(ValueError, match="every must be at least 1"):
        plot.sigma_against_distance(pairs(), every=0)
    with pytest.raises(ValueError, match="rate must lie"):
        plot.half_space(rate=1.5)


# Viénot, Brettel and Mollon (1999), in linear RGB: what a protanope and a deuteranope see.


def test_images_that_are_all_censored_are_drawn_without_a_warning():
    both = pairs(20)
    lost = dataclasses.replace(both, sigma=np.full(20, np.inf), distance=np.full(20, np.inf))
    with np.errstate(all="raise"):
        plot.sigma_against_distance({"one": lost})
