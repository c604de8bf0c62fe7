"""Saved records: files that hold one, whole or not at all, and files that do not."""

import io
import json
import os
import stat
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_results import RECORDS, assert_same, pictures, sigma_result

from robustcore.results import Record, SigmaResult


@pytest.mark.parametrize("make", RECORDS)
def test_a_saved_record_loads_the_same(make: Any, tmp_path: Path) -> None:
    record = make()
    path = tmp_path / "a record"
    record.save(path)
    assert [each.name for each in tmp_path.iterdir()] == ["a record"]
    assert_same(type(record).load(path), record)
    assert_same(Record.load(str(path)), record)
    record[:1].save(path)  # over the old one
    assert_same(Record.load(path), record[:1])
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_a_saved_record_is_readable_without_us(tmp_path: Path) -> None:
    sigma_result().save(tmp_path / "r.npz")
    with np.load(tmp_path / "r.npz", allow_pickle=False) as file:
        assert file["sigma"][4] == 0.1 + 0.2
    about = json.loads(zipfile.ZipFile(tmp_path / "r.npz").read("record.json"))
    assert about["record"] == "SigmaResult"
    assert about["provenance"]["seed"] == 2**63
    assert about["fields"] == {"rate": 0.01, "confidence": 0.95}


@pytest.mark.parametrize(
    "kind", [torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn, torch.float32]
)
def test_tensors_of_any_type_are_saved(kind: torch.dtype, tmp_path: Path) -> None:
    x = torch.linspace(0, 1, 12).reshape(3, 2, 2).to(kind)
    pictures(x=x).save(tmp_path / "r")
    found = Record.load(tmp_path / "r").x  # type: ignore[attr-defined]
    assert found.dtype == kind
    assert torch.equal(found.double(), x.double())


@pytest.mark.parametrize("verb", ["save", "to_csv"])
def test_nothing_is_half_written(verb: str, tmp_path: Path, monkeypatch: Any) -> None:
    def write(path: Path) -> None:
        getattr(sigma_result(), verb)(path)

    with pytest.raises(FileNotFoundError, match="path must be a file that can be written"):
        write(tmp_path / "no" / "such")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=r"path must be .*folder is not"):
        write(tmp_path / "folder")
    (tmp_path / "old").write_text("old")
    with pytest.raises(NotADirectoryError):
        write(tmp_path / "old" / "below")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"old is not \(No space left on device\)"):
        write(tmp_path / "old")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["folder", "old"]
    assert (tmp_path / "old").read_text() == "old"


def _rewritten(path: Path, change: Any) -> Path:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    about = json.loads(members["record.json"])
    change(members, about)
    members.setdefault("record.json", b"")
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, json.dumps(about) if name == "record.json" else content)
    return path


def _object_array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([{}, None]), allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m, a: a.update(format=2), "this robustcore reads format 1"),
        (lambda m, a: a.update(record="Other"), "it holds Other, not SigmaResult"),
        (lambda m, a: a.update(record="ErrorRate"), "it holds ErrorRate, not SigmaResult"),
        (lambda m, a: m.pop("sigma.npy"), "its fields are not those of SigmaResult: .*sigma"),
        (lambda m, a: a.pop("provenance"), "its fields are not those of SigmaResult"),
        (lambda m, a: a["provenance"].pop("seed"), "its fields are not those .*seed"),
        (lambda m, a: m.update({"more.npy": m["ids.npy"]}), "its fields are not those .*more"),
        (
            lambda m, a: m.update({"sigma.npy": _object_array()}),
            "sigma: it must hold numbers or texts, held object",
        ),
    ],
)
def test_files_that_are_not_records(change: Any, message: str, tmp_path: Path) -> None:
    sigma_result().save(tmp_path / "r")
    _rewritten(tmp_path / "r", lambda m, a: None)
    assert_same(
        SigmaResult.load(tmp_path / "r"), sigma_result()
    )  # the rewriting itself is harmless
    _rewritten(tmp_path / "r", change)
    with pytest.raises(ValueError, match=f"path must be a record .* is not: {message}"):
        SigmaResult.load(tmp_path / "r")


def test_files_that_are_not_ours(tmp_path: Path) -> None:
    sigma_result().save(tmp_path / "r")
    whole = (tmp_path / "r").read_bytes()
    np.savez(tmp_path / "plain.npz", a=np.ones(3))
    (tmp_path / "half").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "bits").write_bytes(whole[:60] + bytes([whole[60] ^ 255]) + whole[61:])
    (tmp_path / "text").write_text("id,label")
    for name in ("plain.npz", "half", "bits", "text"):
        with pytest.raises(ValueError, match="damaged or another kind of file"):
            Record.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        Record.load(tmp_path / "absent")
