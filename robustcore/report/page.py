"""What a section is made of, and the page of all: HTML that needs neither network nor script."""

from __future__ import annotations

import base64
import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jinja2
import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

DIGITS = 3  # significant, of a number in a table; CSV holds all


@dataclass(frozen=True)
class Figure:
    """A drawing with its caption, as a data address of SVG."""

    svg: bytes
    caption: str

    @property
    def address(self) -> str:
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg).decode()


def figure(drawn: Axes | Drawing, caption: str) -> Figure:
    """From Axes, or a whole matplotlib Figure; the same bytes for the same drawing."""
    whole = drawn if isinstance(drawn, Drawing) else drawn.get_figure(root=True)
    if whole is None:
        raise ValueError("drawn must stand in a figure, but was removed from it")
    text = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "robustcore", "svg.fonttype": "path"}):
        whole.savefig(text, format="svg", metadata={"Date": None}, dpi=110)
    return Figure(text.getvalue(), caption)


@dataclass(frozen=True)
class Table:
    """Named columns of equal length: numbers or words. The first names the rows."""

    caption: str
    columns: Mapping[str, Sequence[Any]]

    @property
    def rows(self) -> list[list[tuple[str, str, str]]]:
        """Cells as (what is shown, what it is sorted by, its class)."""
        return [[_cell(value) for value in row] for row in zip(*self.columns.values(), strict=True)]

    @property
    def heads(self) -> list[tuple[str, str]]:
        """Names of the columns, each with the class of its cells."""
        kinds = [_cell(next(iter(values), ""))[2] for values in self.columns.values()]
        return list(zip(self.columns, kinds, strict=True))

    @property
    def csv(self) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        plain = (
            [each.item() if isinstance(each, np.generic) else each for each in row]
            for row in zip(*self.columns.values(), strict=True)
        )
        writer.writerows(plain)
        return text.getvalue()


def _cell(value: Any) -> tuple[str, str, str]:
    if isinstance(value, (bool, np.bool_)):
        return ("yes" if value else "no"), str(int(value)), "word"
    if isinstance(value, (int, np.integer)):
        return f"{int(value):,}", str(int(value)), "number"
    if isinstance(value, (float, np.floating)):
        return number(float(value)), repr(float(value)), "number"
    return str(value), str(value), "word"


def number(value: float, digits: int = DIGITS) -> str:
    """As a person reads it: a few significant digits, no exponent where none is needed."""
    if math.isnan(value):
        return "-"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if value == 0 or 1e-4 <= abs(value) < 1e5:
        places = digits if value == 0 else digits - 1 - math.floor(math.log10(abs(value)))
        text = f"{value:,.{max(0, min(places, 6))}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    mantissa, power = f"{value:.{digits - 1}e}".split("e")
    return f"{float(mantissa):g}e{int(power)}"


class Skip(Exception):
    """A section cannot be made; the message says why, in plain words."""


@dataclass(frozen=True)
class Section:
    """verdicts: sentences, one or more for each model.

    skipped: why something is not here; failed: which errors kept it out.
    """

    title: str
    about: str
    verdicts: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    skipped: Sequence[str] = ()
    failed: Sequence[str] = ()
    details: Mapping[str, str] = field(default_factory=dict)  # long texts, folded

    @property
    def anchor(self) -> str:
        return self.title.lower().replace(" ", "-")


def render(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The page. Everything a caller gives is escaped."""
    loader = jinja2.PackageLoader("robustcore.report")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined
    )

    def included(name: str) -> Markup:
        # our own files, which hold no end tag: put in as they are
        return Markup(loader.get_source(environment, name)[0])

    return environment.get_template("page.html").render(
        title=title,
        lead=lead,
        sections=sections,
        style=included("page.css"),
        script=included("tables.js"),
    )
