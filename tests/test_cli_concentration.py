"""The subcommands noisy and certify."""

import pytest

import robustcore as rc
from robustcore.cli import main
from robustcore.results import Record

COMMON = ["--model", "cifar10-natural", "--images", "2"]


def test_noisy_prints_and_writes_what_the_library_finds(tmp_path, capsys):
    command = ["noisy", *COMMON, "--sigma", "0.05", "--points", "8", "--samples", "30"]
    assert main([*command, "--out", str(tmp_path)]) == 0
    found = Record.load(tmp_path / "noisy.npz")
    model, x, y = rc.load_example("cifar10-natural", 2)
    again = rc.noisy_distance(model, x, y, sigma=0.05, points=8, samples=30)
    assert (found.distance == again.distance).all()
    shown = capsys.readouterr().out
    assert "8 points each" in shown
    assert f"{found.distance[0]:.4f}" in shown
    assert "bound" in (tmp_path / "noisy.csv").read_text().splitlines()[0]


def test_certify_prints_and_writes_what_the_library_finds(tmp_path, capsys):
    command = ["certify", *COMMON, "--sigma", "0.02", "--n0", "10", "--n", "60"]
    assert main([*command, "--out", str(tmp_path)]) == 0
    found = Record.load(tmp_path / "certify.npz")
    model, x, y = rc.load_example("cifar10-natural", 2)
    again = rc.certify(model, x, y, sigma=0.02, n0=10, n=60)
    assert (found.n_top == again.n_top).all()
    shown = capsys.readouterr().out
    assert "right and certified" in shown
    assert f"{found.radius[0]:.4f}" in shown


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["noisy", "--sigma", "0.1", "--points", "3"], "points must be at least 6"),
        (["certify", "--sigma", "0.1", "--alpha", "2"], "alpha must lie strictly between 0 and 1"),
    ],
)
def test_bad_input_is_named(command, message, tmp_path, capsys):
    assert main([command[0], *COMMON, *command[1:], "--out", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
