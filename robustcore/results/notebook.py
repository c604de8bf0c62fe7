"""What a notebook shows of a record."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

ROWS = 8


def html(summary: str, columns: Mapping[str, Any], how: Any) -> str:
    """The summary, the first rows of the table, and how it was made, as a Provenance says."""
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    cells = zip(*(column[:ROWS].tolist() for column in columns.values()), strict=True)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in cells)
    rows = len(next(iter(columns.values()), ()))
    more = f"<p>{rows - ROWS} more rows: to_pandas() has all.</p>" if rows > ROWS else ""
    made = f"{how.method}, seed {how.seed}, {how.backend} kernels on {how.device}"
    return (
        f"<p>{escape(summary)}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        f"{more}<p>{escape(made)}, {how.seconds:.1f} s</p>"
    )


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return f"<td>{escape(text)}</td>"
