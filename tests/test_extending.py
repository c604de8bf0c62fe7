"""The snippets of docs/extending.md run, in order, and each is short."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import robustcore as rc

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


@pytest.fixture(scope="module")
def names():
    held: dict[str, object] = {}
    for snippet in SNIPPETS:
        exec(compile(snippet, str(PAGE), "exec"), held)
    return held


def test_a_noise_an_error_and_a_measure_take_fewer_than_30_lines():
    assert len(SNIPPETS) == 3
    assert all(len(snippet.splitlines()) < 30 for snippet in SNIPPETS)


def test_the_noise_is_the_one_described(names):
    """All grey at scale 1: the draws of an input then have one value, as no pixel is left."""
    copies = rc.noisy_copies(names["x"], [0.0, 1.0], noise=names["Fog"]())
    assert (copies[:, 0] == names["x"]).all()
    assert copies[:, 1].flatten(1).std(1).max() < 1e-6


def test_the_error_is_the_one_described(names):
    """A lead of 2 is missed before a lead of 0 is."""
    model, x, y = (names[name] for name in ("model", "x", "y"))
    strict = rc.error_rate(names["engine"], x, 0.3, y, samples=200)
    plain = rc.error_rate(model, x, 0.3, y, samples=200)
    assert (strict.n_errors >= plain.n_errors).all()
    assert strict.n_errors.sum() > plain.n_errors.sum()


def test_the_measure_is_the_one_described(names):
    """The least margin is not above 0 where an error was counted among the same draws."""
    model, x, y = (names[name] for name in ("model", "x", "y"))
    least = names["worst_margin"](model, x, y, 0.5)
    counted = rc.error_rate(model, x, 0.5, y, samples=200).n_errors[:, 0]
    np.testing.assert_array_equal(least <= 0, counted > 0)
