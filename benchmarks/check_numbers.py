"""Check that each number marked as measured equals that of its file, rounded as it is printed.

    python benchmarks/check_numbers.py [PAGE.md ...]  (else README.md, docs/ and examples/)

A comment behind numbers, which no page shows, gives their values as an expression of Python (None
where one is not checked):

    it takes 57,411<!-- = sigma.evaluations -->, and 95 to 97 %<!-- = min(held), max(held) --> hold

A comment before a table gives those of each row's cells from the second on, `_` for what is not
checked; `row` is the row's first cell (the last that is not empty), `cells` are all as text:

    <!-- columns: fused.networks[row].plain | _ | fused.networks[row].ratio -->

`<!-- let name = ... -->` names a value for the rest of the page; `<!-- given -->` says that the
numbers before it are no measurement. A file of benchmarks/results is a name, and so is a key behind
a dot; pytest-benchmark's files are read as {test: its extra_info}. A share is printed as a
percentage where % follows. The pages in MARKED may hold no decimal, percentage or number of times
without a comment. Each file that a page names must hold a command and a machine.
"""

from __future__ import annotations

import csv
import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
MARKED = ("README.md",)

COMMENT = re.compile(r"<!--\s*(=|let\s+(\w+)\s*=|columns:|given)(.*?)-->", re.S)
NUMBER = re.compile(
    r"(?<![\w.^/-])[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:e[+-]?\d+)?(?![\w^])"
)
NEXT = re.compile(r"\**\s*(?:to|and|or|,|\+-)\s+(?:\+-\s)?\**")  # between two numbers of one unit
TABLE = re.compile(r"\s*((?:\|.*\n?)+)")
CODE = re.compile(r"^```.*?^```|`[^`\n]*`|\]\([^)]*\)", re.S | re.M)


class Box(dict):  # type: ignore[type-arg]
    """A dictionary whose keys are names, too."""

    def __getattr__(self, key: str) -> Any:
        try:
            return self[key]
        except KeyError:
            raise AttributeError(f"no {key!r} beside {', '.join(map(str, self))}") from None


def load(path: Path) -> Any:
    """What a file of results holds."""
    text = path.read_text()
    if path.suffix == ".csv":
        return [Box(row) for row in csv.DictReader(text.splitlines())]
    if path.suffix != ".json":
        return text
    held = json.loads(text, object_hook=Box)
    if isinstance(held, Box) and "benchmarks" in held:
        tests = {test["name"].removeprefix("test_"): test["extra_info"] for test in held.benchmarks}
        return Box(tests)
    return held


def pick(rows: list[Box], **wanted: Any) -> Box:
    """The only row with these values."""
    (row,) = [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]
    return row


def names() -> dict[str, Any]:
    """All that an expression may use."""
    known = {path.stem: load(path) for path in sorted(RESULTS.iterdir())}
    helpers = {"median": statistics.median, "mean": statistics.fmean, "pick": pick, "Box": Box}
    return known | helpers


def printed(text: str) -> list[tuple[float, float, re.Match[str]]]:
    """The numbers of a text: value, half of the last digit, match; of a percentage as a share."""
    matches = list(NUMBER.finditer(text))
    rows = []
    share = False
    for at in range(len(matches) - 1, -1, -1):
        match = matches[at]
        after = text[match.end() :]
        chained = at + 1 < len(matches) and NEXT.fullmatch(
            after[: matches[at + 1].start() - match.end()]
        )
        share = bool(re.match(r"\**\s?%", after)) or (share and bool(chained))
        digits, _, power = match[0].replace(",", "").partition("e")
        scale = 10.0 ** int(power or 0) / (100 if share else 1)
        half = 0.5 * scale * 10.0 ** -len(digits.partition(".")[2])
        rows.append((float(digits) * scale, half, match))
    return rows[::-1]


def sources(body: str, place: str) -> list[str]:
    """Which of the files that an expression names do not say how and where they were made."""
    wrong = []
    for word in sorted(set(re.findall(r"\w+", body))):
        path = RESULTS / f"{word}.json"
        if path.exists():
            text = path.read_text()
            lacks = [key for key in ("command", "machine") if f'"{key}' not in text]
            wrong += [f"{place}: {path.name} names no {key}" for key in lacks]
    return wrong


def blank(match: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", match[0])


def erase(letters: list[str], start: int, end: int) -> None:
    letters[start:end] = [letter if letter == "\n" else " " for letter in letters[start:end]]


def compare(text: str, values: Any, place: str) -> list[str]:
    """What is wrong with the last numbers of a text, of which these are the values."""
    wanted = values if isinstance(values, tuple | list) else (values,)
    rows = printed(text)[-len(wanted) :]
    if len(rows) < len(wanted):
        return [f"{place}: {len(wanted)} values for {len(rows)} numbers in {text.strip()[-60:]!r}"]
    return [
        f"{place}: says {match[0]}, the file {value!r}"
        for (number, half, match), value in zip(rows, wanted, strict=True)
        if value is not None and not abs(float(value) - number) <= half * (1 + 1e-9) + 1e-12
    ]


def table(text: str, body: str, known: dict[str, Any], place: str) -> list[str]:
    """What is wrong in the cells of a table."""
    columns = [column.strip() for column in body.split("|")]
    wrong: list[str] = []
    row = ""
    for line in text.splitlines()[2:]:
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        row = cells[0].strip("*` ") or row
        if len(cells) != len(columns) + 1:
            wrong.append(f"{place}, {row}: {len(cells) - 1} cells for {len(columns)} columns")
            continue
        for cell, column in zip(cells[1:], columns, strict=True):
            if column != "_":
                values = eval(column, known | {"row": row, "cells": cells})
                wrong += compare(cell, values, f"{place}, {row}")
    return wrong


def unmarked(text: str, place: str) -> list[str]:
    """Numbers of a passage that look measured."""
    return [
        f"{place}: {match[0]} has no comment that says where it is from"
        for _, _, match in printed(text)
        if "." in match[0] or re.match(r"\**\s?(%|times\b)", text[match.end() :])
    ]


def check(text: str, page: str, known: dict[str, Any]) -> tuple[int, list[str]]:
    """How many comments a page has, and what is wrong with its numbers."""
    known = dict(known)
    comments = list(COMMENT.finditer(text))
    shown = COMMENT.sub(blank, text)
    plain = CODE.sub(blank, shown)
    wrong: list[str] = []
    free = list(plain)  # what no comment speaks of
    done = 0
    for comment in comments:
        kind, name, body = comment[1], comment[2], comment[3].strip()
        place = f"{page}:{text.count(chr(10), 0, comment.start()) + 1}"
        done = max(done, plain.rfind("\n\n", 0, comment.start()))
        before = plain[done : comment.start()]
        wrong += sources(body, place)
        try:
            if name:
                known[name] = eval(body, known)
            elif kind == "columns:":
                end = comment.end()
                rows = TABLE.match(shown, end)
                wrong += table(rows[1], body, known, place) if rows else [f"{place}: no table"]
                erase(free, end, rows.end() if rows else end)
            elif kind == "=":
                values = eval(body, known)
                wrong += compare(before, values, place)
                count = len(values) if isinstance(values, tuple | list) else 1
                for _, _, match in printed(before)[-count:]:
                    erase(free, done + match.start(), done + match.end())
            else:
                erase(free, done, comment.start())
        except Exception as error:  # whatever an expression of a page may raise
            wrong.append(f"{place}: {body}: {type(error).__name__}: {error}")
        done = comment.end()
    if page in MARKED:
        for number, line in enumerate("".join(free).splitlines(), 1):
            wrong += unmarked(line, f"{page}:{number}")
    return len(comments), wrong


def main(pages: list[str]) -> int:
    folders = (ROOT, ROOT / "docs", ROOT / "examples")
    every = [path for folder in folders for path in sorted(folder.glob("*.md"))]
    listed = pages or [path.relative_to(ROOT).as_posix() for path in every]
    known = names()
    total = 0
    wrong = []
    for page in listed:
        count, errors = check((ROOT / page).read_text(), page, known)
        total += count
        wrong += errors
    print("\n".join([*wrong, f"{total} comments on numbers, {len(wrong)} wrong"]))
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
