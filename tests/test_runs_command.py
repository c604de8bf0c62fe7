"""--run, resume and runs on the command line."""

import numpy as np
import pytest

import robustcore as rc
from robustcore.cli import main
from robustcore.runs.errors import FILE

DISTANCE = ["distance", "--model", "cifar10-natural", "--images", "5", "--effort", "5"]


def test_a_run_is_shown_and_resumed_from_another_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = rc.distance_to_error
    with monkeypatch.context() as patch:

        def interrupted(*args, **more):
            found(*args, **more)
            raise KeyboardInterrupt("the images measured so far are kept")

        patch.setattr("robustcore.cli.distance.distance_to_error", interrupted)
        assert main([*DISTANCE, "--run", "kept"]) == 130
    assert "interrupted, the images measured so far are kept" in capsys.readouterr().err
    assert not (tmp_path / "kept" / "distance.npz").exists()
    assert main(["runs", "kept"]) == 0
    shown = capsys.readouterr().out
    assert "5 of 5" in shown
    assert "finished" in shown
    monkeypatch.chdir(tmp_path.parent)
    assert main(["resume", str(tmp_path / "kept")]) == 0
    kept = rc.Record.load(tmp_path / "kept" / "distance.npz")
    assert main([*DISTANCE, "--out", str(tmp_path / "plain")]) == 0
    plain = rc.Record.load(tmp_path / "plain" / "distance.npz")
    np.testing.assert_allclose(kept.distance, plain.distance, rtol=1e-4)
    assert main([*DISTANCE[:-1], "6", "--run", str(tmp_path / "kept")]) == 2
    assert "effort must be that of the run in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["runs", "nowhere"], "run must be the folder of a run, nowhere held no run.sqlite"),
        (["resume", "nowhere"], "run must be the folder of a run"),
        (["resume", "nowhere", "--repair"], "run must be the folder of a run"),
        (DISTANCE, "--out must be a folder for the results, unless --run is given"),
        ([*DISTANCE, "--size", "8", "--out", "o"], "--size must be left out without --data"),
    ],
)
def test_refusals(tmp_path, capsys, monkeypatch, command, message):
    monkeypatch.chdir(tmp_path)
    assert main(command) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "nowhere" / FILE).exists()
