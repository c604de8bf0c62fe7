"""`robustcore resume DIR` imports nothing that DIR names before it was compared."""

import json
import sqlite3
import stat

import pytest
import torch

from robustcore.cli import main, models, origin
from robustcore.runs import command_of, sealed
from robustcore.runs.errors import FILE

NET = """
from pathlib import Path
Path(__file__).with_name("imported").write_text("")
import torch

def make():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A finished run of a model from a file, which leaves a mark when it is imported."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "net.py").write_text(NET)
    model = f"{tmp_path / 'net.py'}:make"
    asked = ["certify", "--model", model, "--images", "2", "--n0", "5", "--n", "20"]
    assert main([*asked, "--sigma", "0.1", "--run", str(tmp_path / "kept")]) == 0
    (tmp_path / "imported").unlink()
    return tmp_path


def resume(folder, *more):
    status = main(["resume", str(folder / "kept"), *more])
    return status, (folder / "imported").exists()


def edited(folder, change):
    """The kept command changed by someone who knows the file's format."""
    kept = command_of(folder / "kept")
    change(kept)
    with sqlite3.connect(folder / "kept" / FILE) as db:
        sealed.put(db, "about", ("command", json.dumps(kept)))
    db.close()


def test_ones_own_run_goes_on_and_says_what_it_runs(folder, capsys):
    assert resume(folder) == (0, True)
    shown = capsys.readouterr().out
    assert "goes on with `robustcore certify " in shown
    assert f"which runs {folder / 'net.py'}" in shown


def test_a_program_that_has_changed_is_not_imported(folder, capsys):
    (folder / "net.py").write_text(NET + "# a word more\n")
    assert resume(folder) == (2, False)
    assert f"but {folder / 'net.py'} has changed (its sha256 was " in capsys.readouterr().err
    assert resume(folder, "--trust") == (0, True)
    (folder / "imported").unlink()
    assert resume(folder) == (0, True)  # it is the run's program now


def test_a_changed_program_that_answers_otherwise_is_refused_when_trusted(folder, capsys):
    (folder / "net.py").write_text(NET.replace("manual_seed(0)", "manual_seed(1)"))
    assert resume(folder, "--trust")[0] == 2
    assert "model (the weights) must be that of the run" in capsys.readouterr().err


CHANGES = {
    "another program": lambda kept: kept["options"].update(model="/tmp/other.py:make"),
    "another program with its hash": lambda kept: kept.update(
        options=kept["options"] | {"model": kept["options"]["model"].replace("make", "main")}
    ),
    "another folder for the results": lambda kept: kept["options"].update(out={"path": "/tmp/o"}),
    "another command": lambda kept: kept.update(command="sigma"),
    "another hash": lambda kept: kept["programs"].update(dict.fromkeys(kept["programs"], "0")),
    "no signature": lambda kept: kept.pop("signature"),
    "a signature that is none": lambda kept: kept.update(signature=None),
    "a wrong signature": lambda kept: kept.update(signature="0" * 64),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_command_that_was_changed_is_not_carried_out(name, folder, capsys):
    edited(folder, CHANGES[name])
    assert resume(folder) == (2, False)
    said = capsys.readouterr().err
    assert "run must be one that you began here, that in " in said
    assert "it would do `robustcore " in said


def test_the_run_of_another_user_or_machine_is_not_carried_out(folder, capsys, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "other"))
    assert resume(folder) == (2, False)
    assert f"which runs {folder / 'net.py'}" in capsys.readouterr().err
    assert resume(folder, "--trust") == (0, True)


def test_without_a_home_each_resume_is_asked_for(folder, monkeypatch):
    monkeypatch.setattr(origin, "_key", lambda: None)
    assert resume(folder) == (2, False)
    assert resume(folder, "--trust") == (0, True)


@pytest.mark.parametrize("change", [{"command": "remove"}, {"command": "train"}, {"command": 3}])
def test_a_command_that_is_none_is_refused(change, folder, capsys):
    edited(folder, lambda kept: kept.update(change))
    assert resume(folder, "--trust") == (2, False)
    assert "run must be one of this version's commands" in capsys.readouterr().err


def test_the_key_is_for_its_user_alone_and_made_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    first = origin._key()
    assert first == origin._key()
    assert len(first) == origin.BYTES
    path = tmp_path / "robustcore" / origin.KEY
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in path.parent.iterdir()] == [origin.KEY]
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert origin._key() is None


def test_every_kind_of_file_counts_as_a_program(tmp_path, capsys):
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3)).eval()
    script, export = tmp_path / "net.pt", tmp_path / "net.pt2"
    torch.jit.script(net).save(str(script))
    batch = {0: torch.export.Dim("batch")}
    torch.export.save(
        torch.export.export(net, (torch.rand(2, 3, 2, 2),), dynamic_shapes=(batch,)), export
    )
    for path in (script, export):
        assert list(origin._hashes({"model": str(path)})) == [str(path)]
        models.load(str(path), "cpu")
        assert f"note: {path} is a program that runs with your rights" in capsys.readouterr().err
    several = {"model": [str(script), f"{tmp_path / 'a.py'}:make", "cifar10-natural"]}
    (tmp_path / "a.py").write_text("")
    assert list(origin._hashes(several)) == [str(script), str(tmp_path / "a.py")]
    assert origin._hashes({"model": "cifar10-natural"}) == {}
