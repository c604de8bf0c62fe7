"""What a run refuses by name, and what it says of a file it cannot use."""

import os
import sqlite3
import subprocess
import sys

import numpy as np
import pytest
import torch
from models import Small
from test_runs import X, rate, same

import robustcore as rc
from robustcore import runs
from robustcore.runs import sealed
from robustcore.runs.errors import FILE
from robustcore.runs.lock import LOCK
from robustcore.runs.rows import rows_of


def changed(model, value=1e-3):
    with torch.no_grad():
        model.layers[0].bias[0] += value
    return model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": changed(Small())}, r"model \(the weights\) must be that of the run in"),
        ({"x": X.flip(0)}, r"x \(the images\) must be that of the run"),
        ({"x": X[:19]}, r"x \(the images\) must be that of the run"),
        ({"y": torch.zeros(20, dtype=torch.long)}, "y must be that of the run"),
        ({"ids": np.arange(20) + 1}, "ids must be that of the run"),
        ({"samples": 200}, "samples must be that of the run in .*, 60, was 200: give another"),
        ({"noise": rc.Gaussian((0, 1))}, "noise must be that of the run"),
        ({"seed": 4}, "seed must be that of the run"),
        ({"sigma": [0.1]}, "sigma must be that of the run"),
        ({"batch_size": 7}, "batch_size must be that of the run"),
        ({"block": 5}, "block must be that of the run"),
    ],
)
def test_what_has_changed_is_refused_by_name(tmp_path, change, message):
    first = rate(tmp_path)
    with pytest.raises(ValueError, match=message):
        rate(tmp_path, **change)
    assert same(rate(tmp_path), first)


def test_another_version_is_refused_by_name(tmp_path, monkeypatch):
    rate(tmp_path)
    monkeypatch.setattr(torch, "__version__", "1.0")
    with pytest.raises(ValueError, match=r"torch \(the version of torch\) must be"):
        rate(tmp_path)


def test_settings_that_never_measured_anything_are_forgotten(tmp_path):
    with pytest.raises(ValueError, match="samples must be"):
        rate(tmp_path, samples=0)
    assert same(rate(tmp_path), rate())


def test_a_function_is_known_by_its_code_and_what_it_holds():
    from robustcore.runs.identity import of_model

    def made(scale, module):
        return lambda x: scale * module(x)

    plain = of_model(made(1.0, Small()))
    assert plain == of_model(made(1.0, Small()))
    assert plain != of_model(made(2.0, Small()))
    assert plain != of_model(made(1.0, changed(Small())))
    assert plain != of_model(lambda x: -Small()(x))
    assert of_model(Small()) != of_model(Small(torch.nn.Dropout(0.5)))


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="run must be a folder that can be written, was"):
        rate(tmp_path / "file" / "folder")
    with pytest.raises(TypeError, match="run must be a folder, was 3"):
        rate(3)


def test_a_read_only_file_says_so_and_can_be_looked_at(tmp_path, monkeypatch):
    """As root may write anywhere, SQLite itself is asked to open the file for reading alone."""
    rate(tmp_path)
    connect = sqlite3.connect
    monkeypatch.setattr(
        "robustcore.runs.store.sqlite3.connect",
        lambda name, **more: connect(f"file:{name}?mode=ro", uri=True, **more),
    )
    with pytest.raises(PermissionError, match="run must be a folder that can be written, was"):
        rate(tmp_path)
    monkeypatch.undo()
    assert runs.progress(tmp_path)[0].images == 20


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    want = rate()
    pragmas = ("page_size=512", "journal_mode=WAL", "synchronous=FULL")
    monkeypatch.setattr("robustcore.runs.store.WRITING", pragmas)
    with runs.Store(tmp_path) as store:
        pages = store.db.execute("PRAGMA page_count").fetchone()[0]
    full = (*pragmas, f"max_page_count={pages + 8}")
    monkeypatch.setattr("robustcore.runs.store.WRITING", full)
    with pytest.raises(OSError, match=r"folder with room .* images stored before are kept"):
        rate(tmp_path)
    monkeypatch.undo()
    assert 0 < runs.progress(tmp_path)[0].images < 20
    assert same(rate(tmp_path), want)


@pytest.mark.parametrize("damage", ["head", "cut", "noise", "other", "image"])
def test_a_damaged_file_is_named_and_what_can_be_read_is_saved(tmp_path, damage):
    want = rc.distance_to_error(rc.Engine(Small(), block=1), X, run=tmp_path, effort=5)
    path = tmp_path / FILE
    content = bytearray(path.read_bytes())
    middle = len(content) * 9 // 10
    if damage == "head":
        content[:100] = bytes(100)
    elif damage == "cut":
        content = content[:middle]
    elif damage == "noise":
        content[middle : middle + 4096] = os.urandom(4096)
    elif damage == "image":
        at = content.rfind(want.x_adv[3].numpy().tobytes()[100:200])
        content[at] ^= 1
    else:
        content = bytearray(b"a text about other things\n" * 1000)
    path.write_bytes(bytes(content))

    def again():
        return rc.distance_to_error(rc.Engine(Small(), block=1), X, run=tmp_path, effort=5)

    with pytest.raises(ValueError, match="damaged or another kind of file"):
        again()
    assert path.read_bytes() == bytes(content)
    if damage in ("head", "other"):
        with pytest.raises(ValueError, match="of which a part can be read"):
            runs.repair(tmp_path)
    else:
        saved, total = runs.repair(tmp_path)
        assert 0 < saved < total == 20
        if damage == "image":
            assert saved == 19  # its block alone is lost
        with pytest.raises(FileExistsError, match="earlier repair"):
            runs.repair(tmp_path)
    assert same(again(), want)


def test_a_repair_asks_for_as_many_rows_as_the_images_of_the_file_need(tmp_path, monkeypatch):
    for _ in range(6):  # sessions
        rate(tmp_path)
    monkeypatch.setattr(sys.modules["robustcore.runs.repair"], "FEW", 3)
    assert runs.repair(tmp_path) == (20, 20)
    (progress,) = runs.progress(tmp_path)
    assert (progress.sessions, progress.images) == (6, 20)


def test_a_file_of_another_program_is_left_alone(tmp_path):
    with sqlite3.connect(tmp_path / FILE) as other:
        other.execute("CREATE TABLE mine (a)")
    with pytest.raises(ValueError, match="another program"):
        rate(tmp_path)
    with sqlite3.connect(tmp_path / FILE) as other:
        assert other.execute("SELECT name FROM sqlite_master").fetchall() == [("mine",)]


def test_one_process_at_a_time(tmp_path):
    holder = (
        "import time; from robustcore.runs import Store\n"
        f"store = Store({str(tmp_path)!r}); print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", holder]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(
            RuntimeError, match=f"run must not be in use, .* by process {process.pid}"
        ):
            rate(tmp_path)
        process.kill()
    assert same(rate(tmp_path), rate())  # the lock ended with its process
    with runs.Store(tmp_path), pytest.raises(RuntimeError, match="by this very process"):
        rate(tmp_path)
    assert (tmp_path / LOCK).exists()


# -- whole rows that do not belong together ------------------------------------------------------


def replaced(db, table, at, values):
    """Rows of a table, by their number, with other values in column `at`, and their checksums."""
    rows = [list(row) for row in sealed.rows(db, table, None, "ORDER BY rowid")]
    for number, value in values.items():
        rows[number][at] = value
        sealed.put(db, table, rows[number])


FORGED = {
    "an image in the place of another of its block": (
        lambda db: replaced(db, "images", 3, {1: 0}),
        "block 0 holds an image in the place of another",
    ),
    "an image in the place of one of another block": (
        lambda db: replaced(db, "images", 3, {4: 0, 5: 1, 6: 2, 7: 3}),
        "block 1 holds an image in the place of another",
    ),
    "images beyond the last": (
        lambda db: replaced(db, "measurements", 4, {0: 19}),
        "it holds an image beyond the last",
    ),
    "images before the first": (
        lambda db: replaced(db, "images", 3, {0: -4, 1: -3, 2: -2, 3: -1}),
        "it holds an image beyond the last",
    ),
    "a block that counts others": (
        lambda db: replaced(db, "blocks", 2, {2: 3}),
        "block 2 does not hold the images it was written with",
    ),
    "a block of none": (
        lambda db: [
            db.execute("DELETE FROM images WHERE block = 4"),
            replaced(db, "blocks", 2, {4: 0}),
        ],
        "block 4 does not hold the images it was written with",
    ),
    "no measurement": (
        lambda db: db.execute("DELETE FROM measurements"),
        "block 0 does not hold the images it was written with",
    ),
    "a block that is gone": (
        lambda db: db.execute("DELETE FROM blocks WHERE block = 3"),
        "the row of block 3 is missing",
    ),
    "a table more": (
        lambda db: db.execute("CREATE TABLE more (a)"),
        "its tables are not those of a run",
    ),
    "another format": (
        lambda db: db.execute("PRAGMA user_version=7"),
        "run must be of format 2, that in .* is of format 7",
    ),
    "another kind": (
        lambda db: db.execute("PRAGMA application_id=7"),
        "run must be a folder of robustcore, .* is another kind of file",
    ),
}


@pytest.mark.parametrize("change", FORGED)
def test_rows_that_do_not_belong_together_are_refused(tmp_path, change):
    rate(tmp_path, samples=20)
    forge, message = FORGED[change]
    with sqlite3.connect(tmp_path / FILE, isolation_level=None) as db:
        forge(db)
    db.close()
    content = (tmp_path / FILE).read_bytes()
    for use in (lambda: rate(tmp_path, samples=20), lambda: runs.progress(tmp_path)):
        with pytest.raises(ValueError, match=message):
            use()
    assert (tmp_path / FILE).read_bytes() == content


def test_a_record_is_given_of_all_images_alone():
    """Of a store itself, as the file is looked at as a whole before."""
    rows = rows_of(rc.error_rate(Small(), X[:2], 0.1, samples=20))
    identity = {"function": "error_rate"}
    with runs.Store(None) as store:
        store.begin(identity, 3, 1)
        store.commit(0, 0, 0, rows)
        with pytest.raises(ValueError, match="it holds 2 of 3 images"):
            store.rows()
    with runs.Store(None) as store:
        store.begin(identity, 2, 1)
        store.commit(0, 1, 0, rows)
        with pytest.raises(ValueError, match="image 0 is not in its place"):
            store.rows()
    other = rows_of(rc.error_rate(Small(), X[2:4], [0.1, 0.2], samples=20))
    with runs.Store(None) as store:
        store.begin(identity, 4, 1)
        store.commit(0, 0, 0, rows)
        with pytest.raises(RuntimeError, match="every block of a run must give records of one"):
            store.commit(1, 2, 0, other)
        assert store.blocks_done() == {0}


def test_only_a_run_of_the_command_line_can_be_repeated_by_it(tmp_path):
    rate(tmp_path, samples=20)
    with pytest.raises(ValueError, match=r"that in .* was begun from Python: make the same call"):
        runs.command_of(tmp_path)
