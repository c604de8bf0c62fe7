"""Every file is written whole or not at all, follows no link, and keeps the old one till then."""

import ast
import errno
import gc
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from models import Small
from test_results import sigma_result

import robustcore as rc
from robustcore import inputs
from robustcore.cli.common import write_figure
from robustcore.report import _file_names, report
from robustcore.results.files import write_text, write_whole
from robustcore.training import files as training_files

PACKAGE = Path(rc.__file__).parent


def page(folder):
    torch.manual_seed(0)
    x = torch.rand(2, 3, 8, 8)
    more = {"sections": ["noise"], "samples": 20, "rate": 0.2}
    return report({"a b": Small(), "a_b": Small()}, x, out=folder, **more)


class Figure:
    def savefig(self, file, format):
        assert format == "png"
        file.write(b"picture")


WRITERS = {
    "record.npz": lambda folder: sigma_result().save(folder / "record.npz"),
    "record.csv": lambda folder: sigma_result().to_csv(folder / "record.csv"),
    "figure.png": lambda folder: write_figure(Figure(), folder / "figure.png"),
    "checkpoint.pt": lambda folder: training_files.save_checkpoint(folder, {"epoch": 3}),
    "weights.safetensors": lambda folder: training_files.save_result(folder, Small(), {}),
    "card.json": lambda folder: training_files.save_result(folder, Small(), {}),
    "report.html": page,
    "a_b.sigma.json": page,
}


OUT = ("checkpoint.pt", "weights.safetensors", "card.json", "report.html", "a_b.sigma.json")


@pytest.mark.parametrize("name", WRITERS)
def test_space_that_runs_out_leaves_the_old_file(name, tmp_path, monkeypatch):
    path = tmp_path / name
    path.write_text("old")
    flush = os.fsync

    def full(descriptor):
        if f".{name}." in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    argument = "out" if name in OUT else "path"
    message = rf"\] {argument} must be a file .*{name} is not \(No space"
    with pytest.raises(OSError, match=message) as caught:
        WRITERS[name](tmp_path)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_text() == "old"
    assert not list(tmp_path.glob(".*"))
    monkeypatch.undo()
    WRITERS[name](tmp_path)
    assert path.read_bytes() != b"old"


@pytest.mark.parametrize(
    "name", [*(name for name, write in WRITERS.items() if write is not page), "run", "read"]
)
def test_no_file_stays_open(name, tmp_path):
    def use():
        if name == "run":
            rc.error_rate(Small(), torch.rand(2, 3, 8, 8), 0.1, samples=5, run=tmp_path / "run")
        elif name == "read":
            sigma_result().save(tmp_path / "record.npz")
            rc.Record.load(tmp_path / "record.npz")
        else:
            WRITERS[name](tmp_path)

    def opened():
        return sorted(each.name for each in Path("/proc/self/fd").iterdir())

    torch.manual_seed(0)
    use()
    gc.collect()
    before = opened()
    torch.manual_seed(0)
    use()
    gc.collect()
    assert opened() == before


def test_a_link_is_replaced_and_the_file_behind_it_kept(tmp_path):
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / "mine").symlink_to("theirs")
    write_text(tmp_path / "mine", "mine")
    assert (tmp_path / "theirs").read_text() == "theirs"
    assert (tmp_path / "mine").read_text() == "mine"
    assert not (tmp_path / "mine").is_symlink()


def test_a_device_or_a_pipe_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to("/dev/null")
    for name in ("pipe", "null"):
        with pytest.raises(OSError, match=f"{name} is not .it is a folder or a device"):
            write_whole(tmp_path / name, lambda file: file.write(b"mine"))
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "null").is_symlink()


def test_nothing_else_in_the_package_writes_files():
    """`write_whole` is the one way: no other call of the package opens a file for writing."""
    verbs = {"write_text", "write_bytes", "savefig", "savez", "savez_compressed", "tofile"}
    allowed = {"results/files.py", "results/record.py", "cli/common.py", "report/page.py"}
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                modes = [a.value for a in node.args if isinstance(a, ast.Constant)]
                opens = node.func.attr == "open" and {"w", "wb", "w+b", "x+b"} & set(modes)
                ours = getattr(node.func.value, "id", "") in ("files", "")
                if opens or (node.func.attr in verbs and not (ours and "text" in node.func.attr)):
                    found.add(str(path.relative_to(PACKAGE)))
    assert "results/files.py" in found  # else nothing is seen
    assert found <= allowed


# -- names of models as names of files --------------------------------------------------------


def test_models_of_one_file_name_each_keep_their_files(tmp_path):
    made = page(tmp_path)
    assert set(made.records) == {"a b", "a_b"}
    for stem in ("a_b", "a_b-2"):
        assert json.loads((tmp_path / f"{stem}.sigma.json").read_text())["record"] == "SigmaResult"
        assert len(rc.Record.load(tmp_path / f"{stem}.sigma.npz")) == 2
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("names", "stems"),
    [
        (["a b", "a_b"], ["a_b", "a_b-2"]),
        (["a/b", "a b", "a:b"], ["a_b", "a_b-2", "a_b-3"]),
        (["Net", "net"], ["Net", "net-2"]),
        (["a b", "a_b-2", "a_b"], ["a_b", "a_b-2", "a_b-3"]),
        (["..", "/"], ["model", "model-2"]),
    ],
)
def test_stems_differ(names, stems):
    assert list(_file_names(names).values()) == stems


# -- whether a folder can be written ----------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        ".robustcore-probe",
        # named, as processes that share out the tests must name them alike
        pytest.param(f".robustcore-probe-{os.getpid()}", id=".robustcore-probe-PID"),
    ],
)
def test_looking_whether_a_folder_can_be_written_follows_no_link(name, tmp_path):
    theirs = tmp_path / "theirs"
    theirs.write_text("theirs")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).symlink_to(theirs)
    inputs.folder("out", tmp_path / "out")
    assert theirs.read_text() == "theirs"
    assert [each.name for each in (tmp_path / "out").iterdir()] == [name]


def test_a_lock_that_is_a_link_is_refused_and_the_file_behind_it_kept(tmp_path):
    theirs = tmp_path / "theirs"
    theirs.write_text("theirs")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.lock").symlink_to(theirs)
    with pytest.raises(OSError, match="run must be a folder that can be written"):
        rc.error_rate(Small(), torch.rand(2, 3, 8, 8), 0.1, run=tmp_path / "run", samples=10)
    assert theirs.read_text() == "theirs"


def test_many_may_look_at_one_folder_at_once(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: inputs.folder("out", tmp_path / "out"), range(400)))
    assert not list((tmp_path / "out").iterdir())
