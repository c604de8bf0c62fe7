"""The command line: what it prints and writes, and that bad input leaves nothing behind."""

import csv
import os
import re
import subprocess
import sys

import pytest
from PIL import Image

import robustcore as rc
from robustcore.cli import main

SIGMA = "sigma --model cifar10-natural --images 3 --samples 100 --rate 0.05 --out"


def sigma(out, *more):
    return main([*SIGMA.split(), str(out), *more])


def test_sigma_prints_a_table_and_writes_three_files(tmp_path, capsys):
    out = tmp_path / "new" / "folder"
    assert sigma(out) == 0
    printed = capsys.readouterr().out
    assert "95 % interval" in printed
    assert "evaluations of the model" in printed
    record = rc.Record.load(out / "sigma.npz")
    with (out / "sigma.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["sigma"]) for row in rows] == record.sigma.tolist()
    for value in record.sigma[record.status == "found"]:
        assert f"{value:.4f}" in printed
    with Image.open(out / "sigma.png") as picture:
        assert min(picture.size) > 300


def test_both_views_side_by_side(tmp_path, capsys):
    assert sigma(tmp_path, "--with-distance") == 0
    printed = capsys.readouterr().out
    both = rc.compare(*(rc.Record.load(tmp_path / f"{n}.npz") for n in ("sigma", "distance")))
    assert "half-space" in printed
    assert f"to that distance: {both.median_ratio:.2f}" in printed
    for ratio in both.ratio:
        assert f"{ratio:.2f}" in printed


def test_the_table_says_what_the_library_says(tmp_path):
    assert sigma(tmp_path) == 0
    model, x, y = rc.load_example("cifar10-natural", images=3)
    want = rc.sigma_at_error_rate(model, x, 0.05, y, samples=100)
    assert rc.Record.load(tmp_path / "sigma.npz").sigma.tolist() == want.sigma.tolist()


def test_another_noise_and_another_error(tmp_path, capsys):
    assert sigma(tmp_path, "--noise", "laplace", "--error", "top2", "--sigma-max", "2") == 0
    model, x, y = rc.load_example("cifar10-natural", images=3)
    want = rc.scale_at_error_rate(
        rc.Engine(model, error=rc.TopK(2)), x, 0.05, y, samples=100, noise=rc.Laplace(), scale_max=2
    )
    assert rc.Record.load(tmp_path / "sigma.npz").sigma.tolist() == want.sigma.tolist()
    shown = capsys.readouterr().out
    assert "median scale of Laplace()" in shown
    assert "Phi" not in shown


def test_errors_that_are_none_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        sigma(tmp_path, "--error", "top0")
    assert "must be top1, top5, ... or one-logit, was 'top0'" in capsys.readouterr().err
    assert sigma(tmp_path, "--noise", "speckle", "--with-distance") == 2
    assert "--with-distance must be left out with --noise speckle" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--model", "cifar10-robust"], "model must be one of .*cifar10-natural"),
        (["--rate", "2"], "error_rate must lie strictly between 0 and 1"),
        (["--images", "5000"], r"--images must be in \[1, 1000\], was 5000"),
        (["--device", "quantum"], "--device must name a torch device, was 'quantum'"),
        (["--backend", "triton"], "backend must be able to run"),
        (["--seed", "-4"], "seed must be"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(tmp_path, capsys, more, message, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert sigma(tmp_path, *more) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("robustcore: ")
    assert re.search(message, error)
    assert list(tmp_path.iterdir()) == []


def test_out_that_cannot_be_written_is_known_before_any_work(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        "robustcore.cli.sigma.scale_at_error_rate", lambda *a, **k: pytest.fail("ran")
    )
    (tmp_path / "file").write_text("")
    assert sigma(tmp_path / "file" / "folder") == 2
    assert "--out must be a folder that can be written" in capsys.readouterr().err


def test_an_interrupt_ends_with_130(tmp_path, capsys, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("robustcore.cli.sigma.scale_at_error_rate", interrupted)
    assert sigma(tmp_path) == 130
    assert list(tmp_path.iterdir()) == []


def test_devices_says_why_a_backend_cannot_run(capsys, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert main(["devices"]) == 0
    printed = capsys.readouterr().out
    assert "TRITON_INTERPRET=1" in printed
    assert "native     default" in printed


def test_the_module_is_the_command():
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-m", "robustcore", "--help"],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    assert "sigma" in run.stdout
    assert "devices" in run.stdout
