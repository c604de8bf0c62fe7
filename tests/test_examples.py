"""The figures judge their claims; each example is short and takes the same options."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from plot_records import robust, table

import robustcore as rc
from robustcore.corruptions import COMMON
from robustcore.results.corruptions import FAMILIES, OMITTED, gain

EXAMPLES = Path(__file__).parents[1] / "examples"
HELPED = {"shot_noise": 0.9, "impulse_noise": 0.8, "glass_blur": 0.9, "fog": 0.3, "contrast": 0.4}


@pytest.fixture(autouse=True)
def beside_the_examples(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))  # as python does with the folder of a script


def changed(record, **values):
    return type(record)(**{**vars(record), **values})


# -- claim 5 -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "trained", "status", "word"),
    [
        (500, HELPED, 0, "lose: holds"),
        (10, HELPED, 1, "undecided"),  # the same shares of fewer images show less
        (500, HELPED | {"fog": 0.6}, 1, "does not hold"),  # fog is helped
        (500, HELPED | {"contrast": 0.5}, 1, "does not hold"),  # contrast does not lose
        (500, HELPED | dict.fromkeys(FAMILIES["blur"], 1.0), 1, "does not hold"),  # blurs gain most
        (500, HELPED | {"shot_noise": 0.5, "impulse_noise": 0.5}, 1, "does not hold"),
        (500, None, 1, "takes two models"),
    ],
)
def test_figure_5_judges_its_claim(images, trained, status, word, tmp_path, monkeypatch, capsys):
    known = {"natural": table(images), "trained": table(images, **(trained or {}))}
    monkeypatch.setattr(rc, "load_example", lambda name, images: (name, np.zeros(images), [0]))
    monkeypatch.setattr(rc, "Engine", lambda model, **how: model)
    monkeypatch.setattr(rc, "corruption_benchmark", lambda model, x, y, **how: known[model])
    monkeypatch.setattr(rc, "pgd", lambda model, x, y, **how: robust())
    names = ["natural", "trained"] if trained else ["natural"]
    monkeypatch.setattr(sys, "argv", ["figure5.py", "--out", str(tmp_path), "--model", *names])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(EXAMPLES / "figure5.py"), run_name="__main__")
    assert left.value.code == status
    assert capsys.readouterr().out.strip().endswith(word)
    assert {each.name for each in tmp_path.iterdir()} >= {"figure5.png", "figure5.csv"}


def test_a_gain_is_of_paired_images():
    one, other = table(), table(shot_noise=0.8, fog=0.25)
    mean, half = gain(one, other, ["shot_noise"])
    assert mean == pytest.approx(0.3)
    rows = np.repeat([0.0, 1.0, 0.0], [10, 6, 4])
    assert half == pytest.approx(1.96 * rows.std(ddof=1) / np.sqrt(20))
    assert gain(one, other, ["shot_noise", "snow"])[0] == pytest.approx(0.15)
    assert gain(one, other, ["fog"])[0] == pytest.approx(-0.25)
    assert gain(one, one, COMMON) == (0, 0)
    assert gain(one[:1], other[:1], COMMON)[1] == np.inf


def test_a_gain_that_cannot_be_told_is_refused():
    one = table()
    with pytest.raises(ValueError, match="other must hold the images of one"):
        gain(one, changed(one, ids=one.ids + 1), COMMON)
    with pytest.raises(ValueError, match="same conditions"):
        gain(one, changed(one, corruption=one.corruption[::-1]), COMMON)
    with pytest.raises(ValueError, match="one must hold dust, held none"):
        gain(one, one, ["dust"])
    with pytest.raises(ValueError, match="one must hold an image"):
        gain(one[[]], one[[]], COMMON)


def test_families_part_the_benchmark():
    known = [name for family in FAMILIES.values() for name in family]
    assert sorted([*known, *OMITTED]) == sorted(COMMON)


# -- claims 1 and 2 ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "heights", "first", "second", "status"),
    [
        # a half-space puts its nearest error where noise says, and raises both alike
        (16, {"natural": 0.2, "gauss0.4": 0.8, "adv": 0.4}, "holds", "does not hold", 1),
        (4, {"natural": 0.2, "gauss0.4": 0.8, "adv": 0.4}, "undecided", "undecided", 1),
        (16, {"natural": 0.2}, "holds", None, 0),
    ],
)
def test_figure_2_judges_both_claims(
    images, heights, first, second, status, tmp_path, monkeypatch, capsys
):
    from models import HalfSpace, grey

    known = {f"cifar10-{name}": HalfSpace(16, height) for name, height in heights.items()}
    monkeypatch.setattr(rc, "load_example", lambda name, n, device: (known[name], *grey(n)))
    options = ["--quick", "--images", str(images), "--out", str(tmp_path), "--model", *known]
    monkeypatch.setattr(sys, "argv", ["figure2.py", *options])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(EXAMPLES / "figure2.py"), run_name="__main__")
    assert left.value.code == status
    shown = capsys.readouterr().out
    assert f"claim 1, distance as noise predicts: {first}\n" in shown
    assert (f"claim 2, training raises both: {second}\n" in shown) is (second is not None)
    kept = json.loads((tmp_path / "figure2.json").read_text())
    assert kept["command"].endswith("figure2.py " + " ".join(options))
    assert kept["ratios"]["cifar10-natural"][0] == pytest.approx(1, abs=0.15)


# -- verdicts ----------------------------------------------------------------------------------


def test_an_outcome_needs_the_whole_interval():
    from verdict import judge, together

    assert judge((0.9, 1.1), 0.8, 1.25) == "holds"
    assert judge((0.7, 1.1), 0.8, 1.25) == "undecided"
    assert judge((0.7, 1.3), 0.8, 1.25) == "undecided"
    assert judge((1.3, 1.4), 0.8, 1.25) == "does not hold"
    assert judge((0.0, 0.0), most=0) == "does not hold"  # an end of the criterion is outside
    assert together(["holds", "undecided", "does not hold"]) == "does not hold"
    assert together(["holds", "undecided"]) == "undecided"
    assert together(["holds", "holds"]) == "holds"
    assert together([]) == "undecided"


@pytest.mark.parametrize("kind", ["median", "share", "mean"])
def test_intervals_of_verdicts_hold_and_few_images_decide_nothing(kind):
    import verdict

    rng = np.random.default_rng(0)
    draws = {  # the truth is 0.4; a gain of images is skewed and mostly 0
        "median": lambda n: rng.exponential(0.4 / np.log(2), n),
        "share": lambda n: rng.random(n) < 0.4,
        "mean": lambda n: np.where(rng.random(n) < 0.5, 0.0, rng.uniform(0.6, 1.0, n)),
    }[kind]
    interval = {
        "median": lambda rows, level: verdict.median_interval(rows, level),
        "share": lambda rows, level: verdict.share_interval(int(rows.sum()), len(rows), level),
        "mean": lambda rows, level: verdict.mean_interval(rows, level),
    }[kind]
    held = np.zeros(2)
    for _ in range(1000):
        low, high = interval(draws(100), 0.05)
        held += low <= 0.4 <= high, low <= 0.5 <= high  # the second is the control
    # 0.95 is asked; 0.925 is 3.6 standard errors below, passed by chance in 2 of 10,000
    assert held[0] >= 925
    assert held[1] < 700
    assert verdict.judge(interval(draws(4), 0.05), least=0.39) != "holds"


# -- rare errors -------------------------------------------------------------------------------


def test_rare_errors_prints_each_rate_and_draws_the_figure(tmp_path, monkeypatch, capsys):
    from models import HalfSpace, grey

    monkeypatch.setattr(rc, "load_example", lambda name, images: (HalfSpace(16, 1.5), *grey(2)))
    argv = ["rare_errors.py", "--quick", "--samples", "200", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", argv)
    runpy.run_path(str(EXAMPLES / "rare_errors.py"), run_name="__main__")
    shown = capsys.readouterr().out
    assert "rate   1e-01: found for no image" in shown  # its sigma is 1.17, and 1 the largest tried
    assert "rate   1e-09: median sigma 0.25" in shown  # 1.5 / 5.998
    assert "of the half-space's" in shown
    kept = json.loads((tmp_path / "rare_errors.json").read_text())["rates"]
    assert "0.1" not in kept
    assert kept["1e-09"]["sigma"] == pytest.approx(1.5 / 5.998, rel=0.05)
    assert {each.name for each in tmp_path.iterdir()} == {
        "rare_errors.png", "rare_errors.json", "curve.npz", "curve.csv",
    }  # fmt: skip


# -- inputs that are no pictures ---------------------------------------------------------------


def medians(shown):
    """{line: number} of what an example printed."""
    lines = [line.strip().rpartition(" ") for line in shown.splitlines() if line.startswith("  ")]
    return {name.strip(): float(value) for name, _, value in lines}


def test_rows_are_measured(monkeypatch, capsys):
    """A network that is nearly linear has its nearest error where noise says; TopK(2) errs less."""
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    monkeypatch.setattr(sys, "argv", ["tabular.py"])
    runpy.run_path(str(EXAMPLES / "tabular.py"), run_name="__main__")
    found = medians(capsys.readouterr().out)
    near = found["distance (l2) to the nearest error"]
    assert near == pytest.approx(2.326 * found["sigma at which 1 % are wrong"], rel=0.25)
    one, two = (found[f"sigma at which 1 % are wrong, {error}"] for error in ("top1", "TopK(2)"))
    assert 1.1 * one < two
    assert 0 < found["scale at which 1 % are wrong, SaltAndPepper((0.0, 1.0))"] < 0.5
    assert len(found) == 7


def test_signals_are_measured(tmp_path, monkeypatch, capsys):
    """Noise in the span of the signals may be larger than in the plane of all 256 dimensions."""
    monkeypatch.setattr(sys, "argv", ["chirps.py", "--out", str(tmp_path)])
    runpy.run_path(str(EXAMPLES / "chirps.py"), run_name="__main__")
    found = medians(capsys.readouterr().out)
    white, within = (
        found["sigma at which 1 % are wrong"],
        found["the same in 20 principal components"],
    )
    assert 0.1 < white < within
    assert found["distance (l2) to the nearest error"] > white
    assert (tmp_path / "chirps.png").stat().st_size > 10_000


# -- every figure ------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(1, 7))
def test_an_example_is_short_and_takes_the_usual_options(number):
    text = (EXAMPLES / f"figure{number}.py").read_text()
    assert len(text.splitlines()) < 80
    for option in ("--quick", "--model", "--images", "--out"):
        assert f'add_argument("{option}"' in text, option
    assert "progress=True" in text or "tqdm(" in text
    assert "raise SystemExit(" in text
