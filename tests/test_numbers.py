"""Numbers of the pages equal those of their files; one that does not is found."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import check_numbers  # noqa: E402
from check_numbers import Box  # noqa: E402

KNOWN = {
    "run": Box(count=57411, share=0.0148, ratio=6.7418, low=0.956, high=0.9775),
    "rows": [Box(name="first", time=0.1546, peer=2.2234), Box(name="second", time=2.5, peer=6.46)],
    "pick": check_numbers.pick,
}
TABLE = """
<!-- let at = lambda row: pick(rows, name=row) -->
<!-- columns: at(row).time | _ | at(row).peer / at(row).time -->
| | ms | of | times |
|---|---|---|---|
| `first` | 0.155 | 3 | **14.4** |
| second | 2.50 | 4 | 2.6 |
"""


def wrong(text, page="docs/page.md"):
    return check_numbers.check(text, page, KNOWN)[1]


def test_the_pages_agree_with_their_files():
    for page in ["README.md", "examples/gallery.md", *sorted((ROOT / "docs").glob("*.md"))]:
        name = Path(page).relative_to(ROOT).as_posix() if isinstance(page, Path) else page
        assert check_numbers.check((ROOT / name).read_text(), name, check_numbers.names())[1] == []


@pytest.mark.parametrize(
    "text",
    [
        "takes 57,411<!-- = run.count --> evaluations",
        "6.7 times<!-- = run.ratio -->, 6.74<!-- = run.ratio -->",
        "outside 1.5 %<!-- = run.share -->",
        "held in 95.6 to 97.8 %<!-- = run.low, run.high --> of 2,000",
        "<!-- let r = run.ratio -->\n**6.7**<!-- = r --> and 7<!-- = r --> times",
        "about 57,000<!-- = round(run.count, -3) -->",
        TABLE,
    ],
)
def test_a_number_is_compared_as_it_is_printed(text):
    assert wrong(text) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("takes 58,455<!-- = run.count --> evaluations", "says 58,455, the file 57411"),
        ("6.8 times<!-- = run.ratio -->", "says 6.8"),
        ("6.75<!-- = run.ratio -->", "says 6.75"),  # one digit more must hold, too
        ("outside 1.5<!-- = run.share -->", "says 1.5"),  # a share is no percentage
        ("95.6 to 98.8 %<!-- = run.low, run.high -->", "says 98.8"),
        ("several times<!-- = run.ratio -->", "1 values for 0 numbers"),
        ("one 6.7\n\nanother<!-- = run.ratio -->", "1 values for 0 numbers"),  # paragraphs apart
        ("6.7<!-- = run.missing -->", "AttributeError: no 'missing' beside count"),
        (TABLE.replace("14.4", "14.5"), "first: says 14.5"),
        (TABLE.replace("| 2.6 ", "| 2.7 "), "second: says 2.7"),
        (TABLE.replace("| 4 |", "|"), "second: 2 cells for 3 columns"),
    ],
)
def test_a_wrong_number_is_found(text, words):
    (line,) = wrong(text)
    assert words in line


def test_a_marked_page_may_hold_no_number_without_a_comment():
    text = (
        "It is 3 times as fast, in 1.5 s,\n\n94 % of 12 runs<!-- given -->; `0.5` and `x = 0.1`\n"
    )
    lines = wrong(text, "README.md")
    assert [line.split(" has no")[0] for line in lines] == ["README.md:1: 3", "README.md:1: 1.5"]
    assert wrong(text) == []


def test_a_file_that_does_not_say_how_it_was_made_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(check_numbers, "RESULTS", tmp_path)
    (tmp_path / "run.json").write_text('{"command": "python run.py", "count": 57411}')
    assert wrong("57,411<!-- = run.count -->") == ["docs/page.md:1: run.json names no machine"]
