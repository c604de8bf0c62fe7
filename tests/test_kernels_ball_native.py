"""The C++ ball kernels: threads, and refusal of what would reach outside memory."""

import math

import pytest
import torch

from robustcore.kernels import native


@pytest.fixture(autouse=True)
def keep_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def arguments(slots=300, n=700):
    generator = torch.Generator().manual_seed(0)
    return {
        "x": torch.rand(4, n, generator=generator),
        "rows": torch.randint(4, (slots,), generator=generator),
        "offset": torch.randn(slots, n, generator=generator),
        "gradient": torch.randn(slots, n, generator=generator),
        "scale": torch.ones(slots),
        "step": torch.ones(slots),
        "radius": torch.ones(slots),
        "points": torch.full((slots, n), math.nan),
    }


@pytest.mark.parametrize("norm", [2.0, math.inf])
def test_the_number_of_threads_changes_nothing(norm):
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        given = arguments()
        names = given["rows"] * 7, given["rows"]
        start = native.random_start(
            given["radius"], *names, torch.empty_like(given["points"]), norm=norm, seed=1
        )
        slope = native.ball_slope(
            *(given[name] for name in ("x", "rows", "offset", "gradient")), norm=norm
        )
        native.ball_step(**given, norm=norm)
        distance = torch.full((300,), 18.0, dtype=torch.float64)
        best = torch.zeros_like(given["points"])
        margin = torch.linspace(-1, 1, 300)
        away = native.update_best(
            given["x"], given["rows"], given["points"], margin, distance, best, norm=norm
        )
        results.append((start, slope, given["points"], given["offset"], away, distance, best))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, results[0], strict=True))


@pytest.mark.parametrize(
    ("message", "change"),
    [
        ("offset must be", {"x": torch.zeros(4, 699)}),  # the image sets the size
        (r"rows must lie in \[0, 4\); got 4", {"rows": torch.full((300,), 4)}),
        (r"rows must lie in \[0, 4\); got -1", {"rows": torch.full((300,), -1)}),
        ("rows must be", {"rows": torch.zeros(300)}),
        ("offset must be", {"offset": torch.zeros(300, 700).double()}),
        ("offset must be .* contiguous on cpu", {"offset": torch.zeros(700, 300).T}),
        ("gradient must be", {"gradient": torch.zeros(299, 700)}),
        ("points must be", {"points": torch.zeros(300, 3)}),
        ("radius must be", {"radius": torch.ones(299)}),
        ("scale must be", {"scale": torch.ones(300, 1)}),
    ],
)
def test_what_would_reach_outside_memory_is_refused(message, change):
    with pytest.raises(ValueError, match=message):
        native.ball_step(**{**arguments(), **change}, norm=2.0)


@pytest.mark.parametrize("norm", [2.0, float("inf")])
def test_rows_of_no_elements_are_at_no_distance(norm):
    none, two = torch.zeros(3, 0), torch.ones(3, dtype=torch.float64)
    away = native.update_best(none, torch.arange(3), none, -two, two, none, norm=norm)
    assert away.tolist() == [0.0, 0.0, 0.0]


def test_other_kernels_refuse_too():
    given = arguments()
    x, rows, points = given["x"], given["rows"], given["offset"]
    distance = torch.zeros(300, dtype=torch.float64)
    with pytest.raises(ValueError, match="distance must be"):
        native.update_best(x, rows, points, distance, distance.float(), points, norm=2.0)
    with pytest.raises(ValueError, match="best must be"):
        native.update_best(x, rows, points, distance, distance, points[1:], norm=2.0)
    with pytest.raises(ValueError, match="gradient must be"):
        native.ball_slope(x, rows, points, points.double(), norm=2.0)
    with pytest.raises(ValueError, match="ids must be"):
        native.random_start(torch.ones(300), rows, rows[1:], points, norm=2.0, seed=0)
    with pytest.raises(ValueError, match="restarts must be"):
        native.random_start(torch.ones(300), rows.int(), rows, points, norm=2.0, seed=0)
