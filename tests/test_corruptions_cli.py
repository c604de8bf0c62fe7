"""The command and the figures: what they print, write and draw, and what they refuse."""

import csv

import numpy as np
import pytest
from PIL import Image

import robustcore as rc
from robustcore.cli import main
from robustcore.plot.figure5 import _attack, corruption_accuracy, corruption_groups
from robustcore.results.corruptions import better_and_worse, side_by_side

NAMES = ("gaussian_noise", "fog", "contrast")
SHORT = "corruptions --model cifar10-natural --images 12 --severities 1 5 --corruptions"


def corruptions(out, *more):
    return main([*SHORT.split(), *NAMES, "--out", str(out), *map(str, more)])


@pytest.fixture(scope="module")
def one():
    model, x, y = rc.load_example("cifar10-natural", 12)
    return rc.corruption_benchmark(model, x, y, corruptions=NAMES, severities=[1, 5])


@pytest.fixture(scope="module")
def attack():
    model, x, y = rc.load_example("cifar10-natural", 12)
    return rc.pgd(model, x, y, eps=[1 / 255, 8 / 255], steps=3)


def changed(record, **values):
    """The record with other arrays of what was right."""
    return type(record)(**{**vars(record), **values})


def test_the_command_prints_a_table_and_writes_it(one, tmp_path, capsys):
    assert corruptions(tmp_path, "--with-robustness") == 0
    printed = capsys.readouterr().out
    found = rc.Record.load(tmp_path / "corruptions.npz")
    assert np.array_equal(found.correct, one.correct)
    for name, (low, high) in zip(NAMES, found.accuracy.reshape(3, 2), strict=True):
        line = next(
            line for line in printed.splitlines() if line.startswith(name.replace("_", " "))
        )
        assert line.split()[-3:] == [f"{v:.3f}" for v in (low, high, (low + high) / 2)]
    assert f"mean without gaussian_noise: {found.mean_accuracy(['gaussian_noise']):.3f}" in printed
    with (tmp_path / "corruptions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["accuracy"]) for row in rows[1:]] == found.accuracy.tolist()
    for norm in ("linf", "l2"):
        assert repr(rc.Record.load(tmp_path / f"robust_{norm}.npz")) in printed
    with Image.open(tmp_path / "corruptions.png") as picture:
        assert min(picture.size) > 300
    assert corruptions(tmp_path, "--reference", tmp_path / "corruptions.npz") == 0
    assert "that of the reference: 1.000" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--severities", "6"], "severities must be in [1, 5], was 6"),
        (["--images", "1001"], "--images must be in [1, 1000]"),
        (["--quality", "0"], "quality must be in [1, 95]"),
        (["--model", "cifar10-neutral"], "did you mean cifar10-natural"),
        (["--device", "gpu"], "--device must name a torch device"),
        (["--reference", "nothing.npz"], "nothing.npz"),
    ],
)
def test_bad_options_are_refused(tmp_path, capsys, options, message):
    assert corruptions(tmp_path, *options) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_reference_of_other_conditions_is_refused_before_the_run(one, tmp_path, capsys):
    one.save(tmp_path / "one.npz")
    more = ["--severities", "1", "--reference", tmp_path / "one.npz"]
    assert corruptions(tmp_path / "out", *more) == 2
    assert "--reference must hold the corruptions and severities" in capsys.readouterr().err


def test_an_unknown_corruption_is_refused_with_the_known_ones(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        corruptions(tmp_path, "--corruptions", "foggy")
    assert "invalid choice: 'foggy'" in capsys.readouterr().err


def test_models_stand_side_by_side(one, attack):
    other = changed(one, correct=np.ones_like(one.correct))
    columns = side_by_side({"a": one, "b": other}, {"a": [attack]})
    assert columns["test"].tolist() == [
        "clean",
        *np.repeat(NAMES, 2).tolist(),
        *("mean", "mean without gaussian_noise", "Linf 0.003922", "Linf 0.03137"),
    ]
    assert columns["severity"].tolist() == [0, 1, 5, 1, 5, 1, 5, 0, 0, 0, 0]
    assert columns["a"][1:7].tolist() == one.accuracy.tolist()
    assert columns["a"][7] == pytest.approx(one.accuracy.mean())
    assert columns["a"][8] == pytest.approx(one.accuracy[2:].mean())
    assert columns["a"][9:].tolist() == attack.robust_accuracy.tolist()
    assert (columns["b"][1:9] == 1).all()
    assert np.isnan(columns["b"][9:]).all()


def test_what_cannot_stand_side_by_side_is_refused(one, attack):
    with pytest.raises(ValueError, match="models must hold at least one record"):
        side_by_side({})
    other = changed(one, severity=one.severity[::-1])
    with pytest.raises(ValueError, match="same conditions, but those of b differ"):
        side_by_side({"a": one, "b": other})
    with pytest.raises(ValueError, match="robust must name models, of a, named 'b'"):
        side_by_side({"a": one}, {"b": [attack]})
    with pytest.raises(ValueError, match="others must hold corruptions"):
        better_and_worse(one)


def test_the_mean_of_the_others_groups(one):
    all_right, all_wrong = (changed(one, correct=np.full_like(one.correct, v)) for v in (1, 0))
    better, worse = better_and_worse(one, all_right, all_wrong)
    mine = one.by_corruption()
    assert {**better, **worse} == {name: pytest.approx(0.5 - mine[name]) for name in NAMES}
    assert all(mine[name] < 0.5 for name in better)


def test_the_figure_shows_what_was_measured(one, attack):
    other = changed(one, correct=~one.correct)
    models = {"natural": one, "other": other}
    ax = corruption_accuracy(models)
    rows = [label.get_text() for label in ax.get_yticklabels()]
    better, worse = better_and_worse(one, other)
    assert rows == ["clean images", *(name.replace("_", " ") for name in [*better, *worse])]
    dots = np.asarray(ax.get_lines()[1].get_xdata())
    assert dots[1:].tolist() == [100 * other.by_corruption()[name] for name in [*better, *worse]]

    bars = corruption_groups(models, {"natural": [attack], "other": [attack]}).containers
    heights = [bar.get_height() for bar in bars[0]]
    groups = [[n for n in group if n != "gaussian_noise"] for group in (better, worse)]
    mine = one.by_corruption()
    means = [np.mean([mine[n] for n in group]) for group in groups if group]
    expected = [one.clean_accuracy, *means, *attack.robust_accuracy]
    assert heights == pytest.approx(100 * np.array(expected))


def test_radii_are_written_as_they_are_said():
    assert _attack("Linf 0.03137").endswith("\n8/255")
    assert _attack("Linf 0.03").endswith("\n0.03")
    assert _attack("L2 0.5").endswith("\n0.5")
