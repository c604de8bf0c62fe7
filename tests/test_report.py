"""The report: a page that stands alone, tables that hold the records, models from files."""

import csv
import html.parser
import io
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import torch
from models import HalfSpace, grey
from torch import nn

import robustcore as rc
from robustcore.cli import main
from robustcore.report import SECTIONS
from robustcore.report.job import interval_in_words, median_with_interval
from robustcore.report.page import Section, Table, number, render
from robustcore.report.sections import noise

SMALL = {"samples": 100, "effort": 8, "points": 10, "windows": 1, "size": 33, "rate": 0.05}


class Page(html.parser.HTMLParser):
    """Tags, addresses and tables of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.cells, self.pre = [], [], [], []
        self._open = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._open.append(tag)
        for name in ("src", "href", "data-value"):
            value = dict(attributes).get(name)
            if value is not None:
                (self.cells if name == "data-value" else self.addresses).append(value)

    def handle_endtag(self, tag):
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data):
        if "pre" in self._open:
            self.pre.append(data)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A report of two models whose answers are known."""
    out = tmp_path_factory.mktemp("report")
    x, y = grey(6, (3, 8, 8))
    pair = {"near": HalfSpace(192, 0.2), "far <b>": HalfSpace(192, 0.4)}
    y[5] = 1  # misclassified
    return rc.report(pair, x, y, out=out, classes=["right", "wrong"], **SMALL)


def test_the_page_stands_alone_and_holds_every_section(made):
    text = made.path.read_text()
    page = Page(text)
    ids = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    assert len(ids) == 1 + len(SECTIONS)
    for address in page.addresses:
        assert address.startswith(("data:", "#")), address[:60]
    links = {address[1:] for address in page.addresses if address.startswith("#")}
    assert links == set(ids) - {"in-short"}
    assert not re.search(r"@import|url\(|fetch\(|https?://", re.sub(r"data:[^\"]*", "", text))
    assert "far &lt;b&gt;" in text
    assert "far <b>" not in text  # names are escaped
    assert len(text) < 6e6


def test_verdicts_say_what_the_records_hold(made):
    for name, distance in (("near", 0.2), ("far <b>", 0.4)):
        both = made.records[name]["agreement"]
        assert both.distance[:5] == pytest.approx(np.full(5, distance), rel=0.02)
        verdict = next(line for line in made.verdicts["Agreement with theory"] if name in line)
        assert f"at {number(float(np.median(both.ratio[:5])), 3)} times" in verdict
        trust = [line for line in made.verdicts["Noisy points and the bound"] if name in line]
        assert "nothing speaks against the search" in trust[1]
    assert "missed errors" not in " ".join(made.verdicts["Can the attack be trusted"])
    assert "is right on 5 of 6 images" in made.verdicts["Noise"][0]
    assert "connected region in 1 of 1" in made.verdicts["Slices"][0]
    text = made.path.read_text()
    assert all(line in text for line in made.verdicts["Noise"][:1])
    assert repr(made) == f"Report({made.path}: near, far <b>; left out of Corruptions)"
    assert "near is right on 5 of 6 images" in made._repr_html_()
    assert "far <b>" not in made._repr_html_()


def test_tables_are_copied_as_csv_with_every_digit(made):
    page = Page(made.path.read_text())
    record = made.records["near"]["sigma"]
    tables = [list(csv.reader(io.StringIO(text))) for text in page.pre if "," in text]
    (table,) = [each for each in tables if each[0][:3] == ["image", "class", "sigma, near"]]
    assert [float(row[2]) for row in table[1:]] == record.sigma.tolist()
    assert {repr(value) for value in record.sigma.tolist()} <= set(page.cells)  # sorted by these
    assert [row[1] for row in table[1:]] == ["right"] * 5 + ["wrong"]


def test_records_stand_beside_the_page(made):
    folder = made.path.parent
    for name, record in made.records["near"].items():
        again = rc.Record.load(folder / f"near.{name}.npz")
        assert type(again) is type(record)
        about = json.loads((folder / f"near.{name}.json").read_text())  # NaN would not be JSON
        assert about["provenance"]["seed"] == 0
        with (folder / f"near.{name}.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == len(next(iter(about["columns"].values())))
    assert (folder / "far_b.sigma.npz").exists()
    assert "NaN" not in (folder / "near.slices.json").read_text()


def test_known_records_are_not_measured_again(made, tmp_path, monkeypatch):
    monkeypatch.setattr(noise, "sigma_at_error_rate", lambda *a, **k: pytest.fail("ran"))
    x, y = grey(6, (3, 8, 8))
    y[5] = 1
    known = {"model": {"sigma": made.records["near"]["sigma"]}}
    shared = {"sections": ["noise"], **SMALL}
    again = rc.report(HalfSpace(192, 0.2), x, y, out=tmp_path, records=known, **shared)
    assert again.records["model"]["sigma"] is known["model"]["sigma"]
    with pytest.raises(ValueError, match="records must be of the images in x, 'sigma' has other"):
        rc.report(HalfSpace(192, 0.2), x[:5], y[:5], out=tmp_path, records=known, **shared)
    other = shared | {"rate": 0.1}
    with pytest.raises(ValueError, match=r"records must be of error rate 0.1, 'sigma' was of 0.05"):
        rc.report(HalfSpace(192, 0.2), x, y, out=tmp_path, records=known, **other)


class Steps(nn.Module):
    """A model without gradients: it counts levels of grey."""

    def __init__(self):
        super().__init__()
        self.inner = HalfSpace(192, 0.2)

    def forward(self, x):
        with torch.no_grad():
            return self.inner((16 * x).round() / 16)


def test_what_cannot_be_made_is_left_out_in_plain_words(tmp_path):
    x, y = grey(4, (3, 8, 8))
    made = rc.report({"steps": Steps()}, x, y, out=tmp_path, **SMALL)
    assert "sigma" in made.records["steps"]
    assert "distance" not in made.records["steps"]
    for title in ("Nearest error", "Agreement with theory", "Slices"):
        assert made.skipped[title], title
    assert "let gradients through" in made.skipped["Nearest error"][0]
    text = made.path.read_text()
    assert text.count("Left out:") >= 3
    assert "Corruptions" in text
    assert "left out of Nearest error, Agreement with theory" in repr(made)


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"models": {}}, ValueError, "models must hold at least one model"),
        ({"sections": ["noise", "gossip"]}, ValueError, "sections must be one of noise"),
        ({"x": torch.full((2, 3, 8, 8), torch.nan)}, ValueError, "x must be finite"),
        ({"y": [0]}, ValueError, "y must have one label for each of 2 inputs"),
        ({"y": [0, 9]}, ValueError, "y must be below the model's 2 classes"),
        ({"rate": 0.001}, ValueError, "^rate must be at least 1/samples"),
        ({"size": 1001}, ValueError, "size must be in"),
        ({"windows": -1}, ValueError, "windows must be at least 0"),
        ({"models": lambda x: x}, (ValueError, TypeError), "model must return logits"),
        ({"out": "file/folder"}, OSError, "out must be a folder that can be written"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(more, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    x, y = grey(2, (3, 8, 8))
    arguments = {"models": HalfSpace(192, 0.2), "x": x, "y": y, "out": "out", **SMALL, **more}
    with pytest.raises(error, match=message):
        rc.report(**arguments)
    assert not list(tmp_path.glob("out/*.html"))


# -- pieces ------------------------------------------------------------------------------------


def test_numbers_are_read_by_people():
    known = {
        0.0288123: "0.0288",
        1.0: "1",
        0.0: "0",
        12345.6: "12,346",
        0.999999: "1",
        1e-7: "1e-7",
        0.00001234: "1.23e-5",
        250000.0: "2.5e5",
        999999.0: "1e6",
        -0.05: "-0.05",
        float("inf"): "inf",
        float("nan"): "-",
    }
    assert {value: number(value) for value in known} == known


def test_words_of_a_caller_do_not_become_markup():
    table = Table("a & b", {"<i>": ["</pre><script>alert(1)</script>", 'say "x"']})
    page = render("t", "l", [Section("s", "</style>", verdicts=["<b>"], tables=[table])])
    assert "alert(1)</script>" not in page
    assert "<i>" not in page
    assert "<b>" not in page


def test_the_interval_of_a_median():
    middle, low, high = median_with_interval(np.arange(1, 101.0))
    assert middle == 50.5
    assert (low, high) == (40.0, 61.0)  # the ranks that David and Nagaraja's table gives
    assert median_with_interval([1.0, 2.0])[1:] == (-np.inf, np.inf)
    assert interval_in_words(-np.inf, np.inf) == "too few images for an interval"
    assert interval_in_words(0.0, 0.25) == "95 % interval over images 0 to 0.25"
    assert interval_in_words(0.1, np.inf) == "95 % interval over images 0.1 to inf"
    assert median_with_interval([0.1, np.inf, np.inf])[0] == np.inf


# -- in a browser --------------------------------------------------------------------------------

CHECK = """
<script>
addEventListener("load", () => {
const heads = document.querySelectorAll("th button").length;
const copies = document.querySelectorAll("button.copy").length;
const has = t => t.textContent.includes("sigma, near");
const table = [...document.querySelectorAll("table")].find(has);
const at = [...table.tHead.rows[0].cells].findIndex(c => c.textContent === "sigma, near");
table.tHead.rows[0].cells[at].firstChild.click();
const values = [...table.tBodies[0].rows].map(r => Number(r.cells[at].dataset.value));
const images = [...document.images].every(i => i.complete && i.naturalWidth > 100);
let copied = "";
const writeText = t => { copied = t; return Promise.resolve(); };
Object.defineProperty(navigator, "clipboard", {value: {writeText}});
table.closest(".scroll").nextElementSibling.querySelector("button.copy").click();
document.title = JSON.stringify({heads, copies, values, images, copied});
});
</script></body>
"""


def test_the_page_opens_in_chromium(made, tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("no chromium on this machine")
    page = tmp_path / "page.html"
    page.write_text(made.path.read_text().replace("</body>", CHECK))
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000"]
    done = subprocess.run(
        [*command, page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    said = json.loads(html.unescape(re.search("<title>(.*?)</title>", done.stdout)[1]))
    tables = made.path.read_text().count("<table>")
    assert said["copies"] == tables
    assert said["heads"] > 4 * tables / 2
    assert said["images"]
    assert said["values"] == sorted(said["values"])
    assert len(said["values"]) == 6
    rows = list(csv.DictReader(io.StringIO(said["copied"])))  # as written, not as sorted
    known = made.records["near"]["sigma"].sigma.tolist()
    assert [float(row["sigma, near"]) for row in rows] == known


# -- sections that fail ------------------------------------------------------------------------


def test_one_window_is_kept_by_a_run(tmp_path):
    x, y = grey(2, (3, 8, 8))
    # with an even size the bytes of a record are no multiple of 4
    some = SMALL | {"sections": ["noise", "slices"], "size": 32}
    plain = rc.report(HalfSpace(192, 0.2), x, y, out=tmp_path / "a", **some)
    kept = rc.report(HalfSpace(192, 0.2), x, y, out=tmp_path / "b", run=tmp_path / "run", **some)
    again = rc.report(HalfSpace(192, 0.2), x, y, out=tmp_path / "c", run=tmp_path / "run", **some)
    for made in (plain, kept, again):
        assert "Slices" in made.verdicts
        assert not made.skipped
        assert not made.failed
    one, *others = (each.records["model"]["slices"] for each in (plain, kept, again))
    for other in others:
        np.testing.assert_array_equal(other.margin, one.margin)
        assert torch.equal(other.axis_up, one.axis_up)
        np.testing.assert_array_equal(other.classes, one.classes)
    assert len(one) == 1


class Brittle(nn.Module):
    """A model that is right, and fails as it is told to where gradients are asked for."""

    def __init__(self, error):
        super().__init__()
        self.inner, self.error = HalfSpace(192, 0.2), error

    def forward(self, x):
        if x.requires_grad:
            raise self.error
        return self.inner(x)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KeyError("head"), "KeyError: 'head'"),
        (RuntimeError("no room"), "RuntimeError: no room"),
        (ValueError("odd"), "ValueError: odd"),
        (AssertionError("never"), "AssertionError: never"),
    ],
)
def test_a_section_that_fails_is_said_to_have_failed(tmp_path, error, words):
    x, y = grey(3, (3, 8, 8))
    some = SMALL | {"sections": ["noise", "distance", "agreement", "settings"]}
    pair = {"whole": HalfSpace(192, 0.2), "brittle": Brittle(error)}
    made = rc.report(pair, x, y, out=tmp_path, **some)
    assert made.failed == {"Nearest error": (f"brittle: {words}.",)}
    assert made.skipped["Agreement with theory"][0].startswith("brittle: it needs both")
    assert "sigma" in made.records["brittle"]
    assert "distance" in made.records["whole"]
    assert repr(made).endswith("failed: Nearest error)")
    text = made.path.read_text()
    assert f"Failed: brittle: {words.replace(chr(39), '&#39;')}." in text
    assert "Nearest error</a> failed for a model" in text


def test_a_section_that_cannot_be_drawn_leaves_the_others(tmp_path, monkeypatch, capsys):
    def broken(job):
        return [][1]

    monkeypatch.setattr(noise, "show", broken)
    x, y = grey(3, (3, 8, 8))
    some = SMALL | {"sections": ["noise", "settings"]}
    made = rc.report(HalfSpace(192, 0.2), x, y, out=tmp_path, **some)
    assert made.failed == {"Noise": ("IndexError: list index out of range.",)}
    assert "sigma" in made.records["model"]
    command = ["report", "--model", "mnist-natural", "--images", "2", "--samples", "100", "--rate"]
    command += ["0.1", "--sections", "noise", "settings", "--out", str(tmp_path / "out")]
    assert main(command) == 1
    told = capsys.readouterr()
    assert "robustcore: section Noise failed: IndexError: list index out of range." in told.err
    assert told.out.strip().endswith("report.html")


def test_models_are_named_by_strings(tmp_path):
    with pytest.raises(TypeError, match="models must be named by strings, one was named 3"):
        rc.report({3: HalfSpace(192, 0.2)}, *grey(2, (3, 8, 8)), out=tmp_path)
