"""What a notebook shows of records and reports."""

import numpy as np
from test_results import provenance, sigma_result

from robustcore.results import Record
from robustcore.results.notebook import ROWS


def test_a_record_shows_its_summary_and_first_rows() -> None:
    record = sigma_result()
    text = record._repr_html_()
    assert repr(record) in text
    assert text.count("<tr>") == 1 + len(record)
    assert "<th>half_space_distance</th>" in text
    assert "<td>misclassified</td>" in text
    assert "quantile, seed 9223372036854775808, native kernels on cpu" in text


def test_long_and_empty_records() -> None:
    rows = Record(ids=np.arange(20), labels=np.zeros(20, int), provenance=provenance())
    assert rows._repr_html_().count("<tr>") == 1 + ROWS
    assert "12 more rows" in rows._repr_html_()
    assert "more rows" not in rows[:ROWS]._repr_html_()
    assert rows[[]]._repr_html_().count("<tr>") == 1


def test_markup_in_a_record_is_escaped() -> None:
    record = Record(ids=[1], labels=[0], provenance=provenance(method="<b>"))
    assert "&lt;b&gt;" in record._repr_html_()
    assert "<b>" not in record._repr_html_()
