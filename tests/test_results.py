"""Records: shapes, parts, tables, refusals."""

# ruff: noqa: RUF009 (per_image and shared make dataclass fields)

import csv
import dataclasses
import io
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robustcore.geometry import half_space_distance
from robustcore.results import ErrorRate, Provenance, Record, SigmaResult
from robustcore.results.record import per_image


def provenance(**changes: Any) -> Provenance:
    fields: dict[str, Any] = {
        "method": "quantile",
        "seed": 2**63,
        "samples": 1000,
        "backend": "native",
        "device": "cpu",
        "dtype": "float32",
        "batch_size": 500,
        "compiled": False,
        "randomized": False,
        "versions": {"numpy": np.__version__},
        "seconds": 1.5,
        "settings": {"rate": 0.01, "clip": (0, 1), "count": np.int64(3)},
        "notes": ("triton was not taken: no GPU",),
    }
    return Provenance(**(fields | changes))


def sigma_result(**changes: Any) -> SigmaResult:
    inf, b = np.inf, 5
    fields: dict[str, Any] = {
        "ids": [10, 11, 12, 13, 14],
        "labels": [0, 1, 2, 3, 4],
        "sigma": [0.1, 0.0, inf, 0.2, 0.1 + 0.2],
        "sigma_low": [0.09, 0.0, 1.0, 0.0, 0.25],
        "sigma_high": [0.11, 0.0, inf, inf, 0.35],
        "bracket_low": np.zeros(b),
        "bracket_high": np.ones(b),
        "error_rate": np.full(b, 0.01),
        "status": ["found", "misclassified", "censored", "found", "found"],
        "n_samples": np.full(b, 1000),
        "n_forward": np.arange(b),
        "n_backward": np.zeros(b, int),
        "rate": 0.01,
        "confidence": 0.95,
        "provenance": provenance(),
    }
    return SigmaResult(**(fields | changes))


def error_rate(images: int = 2) -> ErrorRate:
    errors = np.arange(3 * images).reshape(images, 3)
    return ErrorRate(
        ids=np.arange(images),
        labels=np.zeros(images, int),
        sigma=[0.1, 0.2, 0.4],
        rate=errors / 10,
        rate_low=errors / 20,
        rate_high=errors / 5,
        n_errors=errors,
        n_samples=np.full((images, 3), 10),
        n_forward=np.full(images, 30),
        n_backward=np.zeros(images, int),
        confidence=0.9,
        provenance=provenance(),
    )


@dataclasses.dataclass(frozen=True, repr=False, eq=False, kw_only=True)
class Pictures(Record):
    """A record of a later kind, with tensors."""

    x: Any = per_image(None, "C", "H")
    norm: float


def pictures(**changes: Any) -> Pictures:
    x = torch.arange(12.0).reshape(3, 2, 2).requires_grad_()
    fields: dict[str, Any] = {"ids": [0, 1, 2], "labels": torch.tensor([5, 6, 7]), "x": x}
    return Pictures(**(fields | {"norm": np.inf, "provenance": provenance()} | changes))


RECORDS = [sigma_result, error_rate, pictures]


def assert_same(left: Record, right: Record) -> None:
    assert type(left) is type(right)
    for field in dataclasses.fields(left):
        mine, other = getattr(left, field.name), getattr(right, field.name)
        if isinstance(mine, torch.Tensor):
            assert torch.equal(mine, other)
        elif isinstance(mine, np.ndarray):
            assert mine.dtype == other.dtype
            np.testing.assert_array_equal(mine, other)
        else:
            assert mine == other


def test_assert_same_can_fail() -> None:
    with pytest.raises(AssertionError):
        assert_same(sigma_result(), sigma_result(n_forward=np.arange(5) + 1))


def test_empty_record(tmp_path: Path) -> None:
    record = sigma_result()[[]]
    assert len(record) == 0
    assert np.isnan(record.median_sigma)
    assert repr(record) == "SigmaResult(0 images)"
    record.save(tmp_path / "r")
    assert_same(Record.load(tmp_path / "r"), record)
    record.to_csv(tmp_path / "r.csv")
    assert len((tmp_path / "r.csv").read_text().splitlines()) == 1


def test_arrays_are_copies_that_cannot_be_written() -> None:
    mine = np.arange(5)
    record = sigma_result(n_forward=mine)
    mine[0] = 99
    assert record.n_forward[0] == 0
    with pytest.raises(ValueError, match="read-only"):
        record.sigma[0] = 1.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.rate = 0.5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (slice(1, 3), [11, 12]),
        (slice(None, None, -2), [14, 12, 10]),
        ([3, 0], [13, 10]),
        (np.array([True, False, False, False, True]), [10, 14]),
        (torch.tensor([2, 2]), [12, 12]),
        (-1, [14]),
        ([], []),
        (np.zeros(5, bool), []),
    ],
)
def test_parts(index: Any, expected: list[int]) -> None:
    part = sigma_result()[index]
    assert part.ids.tolist() == expected
    assert part.sigma_high.shape == part.status.shape == (len(expected),)
    assert part.provenance == provenance()


def test_parts_of_grids_and_tensors() -> None:
    part = error_rate()[[1]]
    assert part.rate.shape == (1, 3)
    assert part.sigma.tolist() == [0.1, 0.2, 0.4]
    assert torch.equal(pictures()[np.array([2, 0])].x, pictures().x[[2, 0]])
    assert [len(each) for each in error_rate()] == [1, 1]  # a record can be walked through


@pytest.mark.parametrize("index", [5, [0, 9], np.array([True, False])])
def test_parts_outside(index: Any) -> None:
    with pytest.raises(IndexError):
        sigma_result()[index]


def test_repr() -> None:
    expected = "SigmaResult(5 images: 3 found, 1 misclassified, 1 censored; median sigma 0.2)"
    assert repr(sigma_result()) == expected
    assert repr(sigma_result()[0]) == "SigmaResult(1 image: 1 found; median sigma 0.1)"
    assert repr(error_rate()) == "ErrorRate(2 images, 3 sigmas; mean rate 0.15, 0.25, 0.35)"
    assert repr(pictures()) == "Pictures(3 images)"


def test_half_space_distance_by_status() -> None:
    record = sigma_result()
    assert record.half_space_distance[0] == half_space_distance(0.1, 0.01)
    assert record.half_space_distance[1] == 0
    assert record.half_space_distance[2] == np.inf


def test_csv_reads_back_as_it_was(tmp_path: Path) -> None:
    record = sigma_result()
    record.to_csv(tmp_path / "r.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "r.csv").read_text())))
    assert len(rows) == 5
    assert next(iter(rows[0])) == "id"
    for name, column in record.columns().items():
        assert [column.dtype.type(row[name]) for row in rows] == column.tolist()


def test_columns_of_a_grid() -> None:
    columns = error_rate().columns()
    assert columns["id"].tolist() == [0, 0, 0, 1, 1, 1]
    assert columns["sigma"].tolist() == [0.1, 0.2, 0.4] * 2
    assert columns["n_errors"].tolist() == [0, 1, 2, 3, 4, 5]
    assert columns["n_forward"].tolist() == [30] * 6
    assert list(pictures().columns()) == ["id", "label"]


def test_to_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    stub = types.SimpleNamespace(DataFrame=dict)
    monkeypatch.setitem(sys.modules, "pandas", stub)  # pandas itself is not needed to test the call
    assert list(sigma_result().to_pandas()) == list(sigma_result().columns())
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="to_pandas needs pandas: pip install pandas"):
        sigma_result().to_pandas()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sigma_low": [0.1, 0.2]}, r"sigma_low must have shape \(5\), but had \(2,\)"),
        ({"labels": np.zeros((5, 1), int)}, r"labels must have shape \(5\), but had \(5, 1\)"),
        ({"n_samples": np.full(5, 0.5)}, "n_samples must be int64, but was float64"),
        ({"status": [1, 2, 3, 4, 5]}, "status must be str, but was int64"),
        ({"status": ["found"] * 4 + ["lost"]}, "status must be one of .* but was 'lost'"),
        ({"status": ["found"] * 5}, "sigma must be 0 where misclassified, .* was 0.0 where found"),
        ({"sigma": [np.nan, 0, np.inf, 1, 1]}, "sigma must be .* was nan where found"),
        ({"sigma": [0.1, 0, 1.0, 1, 1]}, "sigma must be .* was 1.0 where censored"),
    ],
)
def test_fields_are_checked(changes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sigma_result(**changes)


def test_tensor_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"x must have shape \(3, C, H\), but had \(3,\)"):
        pictures(x=torch.zeros(3))


def test_provenance_is_plain_and_savable_from_the_start() -> None:
    assert provenance().settings == {"rate": 0.01, "clip": [0, 1], "count": 3}
    with pytest.raises(ValueError, match="settings must be JSON values, but was"):
        provenance(settings={"model": object()})
    with pytest.raises(ValueError, match="seconds must be JSON values, but was nan"):
        provenance(seconds=float("nan"))
