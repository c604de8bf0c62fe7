"""robustcore distance: what each option does, and what each method refuses."""

import re

import pytest

import robustcore as rc
from robustcore.cli import main

ZOO = ["distance", "--model", "cifar10-natural", "--images", "3"]


def test_a_table_and_two_files(tmp_path, capsys):
    command = [
        *ZOO,
        *["--norm", "inf", "--effort", "25", "--box", "0", "1", "--out"],
        str(tmp_path),
    ]
    assert main(command) == 0
    record = rc.Record.load(tmp_path / "distance.npz")
    assert record.norm == "Linf"
    assert float(record.x_adv.min()) >= 0
    assert float(record.x_adv.max()) <= 1
    printed = capsys.readouterr().out
    for distance in record.distance:
        assert f"{distance:.4f}" in printed
    command[command.index("inf")] = "3"
    assert main(command) == 2
    assert "norm must be" in capsys.readouterr().err


PGD = {
    "--eps 0.5 --steps 7 --step-size 0.1": {"eps": 0.5, "steps": 7, "step_size": 0.1},
    "--norm inf --eps 8/255 --steps 5 --restarts 2 --loss dlr": {
        "norm": "inf", "eps": 8 / 255, "steps": 5, "restarts": 2, "loss": "dlr",
    },
    "--eps search --steps 5 --loss margin": {"eps": "search", "steps": 5, "loss": "margin"},
    "--steps 60 --step-size 1/60 --refine": {"steps": 60, "step_size": 1 / 60, "refine": True},
}  # fmt: skip


@pytest.mark.parametrize("options", PGD)
def test_pgd_takes_every_option_of_the_library(tmp_path, options):
    assert main([*ZOO, "--method", "pgd", *options.split(), "--out", str(tmp_path)]) == 0
    found = rc.Record.load(tmp_path / "distance.npz")
    model, x, y = rc.load_example("cifar10-natural", images=3)
    want = rc.distance_to_error(model, x, y, method="pgd", **PGD[options])
    assert found.distance.tolist() == want.distance.tolist()
    assert found.provenance.settings == want.provenance.settings
    asked = {name: value for name, value in PGD[options].items() if name != "norm"}
    assert asked.items() <= found.provenance.settings.items()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--eps 0.5", "--eps must be left out with --method minimum"),
        ("--eps search", "--eps must be left out with --method minimum"),
        ("--steps 5", "--steps must be left out with --method minimum"),
        ("--step-size 0.1", "--step-size must be left out with --method minimum"),
        ("--loss ce", "--loss must be left out with --method minimum"),
        ("--refine", "--refine must be left out with --method minimum"),
        ("--method pgd --effort 60", "--effort must be left out with --method pgd"),
        ("--method pgd --eps 0", "eps must be positive and finite, was 0"),
        ("--method pgd --eps -1/2", "expected one argument"),
        ("--method pgd --eps=-1/2", "eps must be positive and finite, was -0.5"),
        ("--method pgd --steps 0", "steps must be at least 1, was 0"),
        ("--method pgd --step-size 0", "step_size must be positive"),
        ("--method pgd --restarts 0", r"restarts must be in \[1, "),
        ("--method pgd --eps find", "--eps: must be a number, .* or search, was 'find'"),
        ("--method pgd --eps 1/0", "--eps: must be a number, .* or search, was '1/0'"),
        ("--method pgd --step-size big", "--step-size: must be a number, or a fraction .* 'big'"),
        ("--method pgd --loss hinge", "--loss: invalid choice: 'hinge'"),
    ],
)
def test_what_a_method_does_not_use_is_refused(tmp_path, capsys, options, message):
    try:
        status = main([*ZOO, *options.split(), "--out", str(tmp_path)])
    except SystemExit as error:  # argparse's own refusals
        status = error.code
    assert status == 2
    assert re.search(message, capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_help_says_which_method_takes_what(capsys):
    with pytest.raises(SystemExit):
        main(["distance", "--help"])
    shown = capsys.readouterr().out
    assert "(default: None)" not in shown
    assert "(default: False)" not in shown
    minimum, pgd = (shown.index(f"--method {each}:") for each in ("minimum", "pgd"))
    assert minimum < shown.rindex("--effort") < pgd
    for option in ("--eps", "--steps", "--step-size", "--loss", "--refine"):
        assert shown.rindex(f"  {option}") > pgd
