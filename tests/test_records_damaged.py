"""Files of records that are damaged, or made by hand to do harm: one kind of error, no harm."""

import io
import json
import random
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from test_records import _rewritten
from test_results import RECORDS, assert_same, error_rate, pictures, sigma_result

from robustcore.results import Record, archive

REFUSED = "path must be a record that robustcore saved, but .* is not: "


def outcome(path, want):
    """ "same" or "refused"; anything else is a failure."""
    said = None
    try:
        found = Record.load(path)
    except ValueError as error:
        said = str(error)
    if said is None:
        assert_same(found, want)
        return "same"
    assert said.startswith("path must be a record that robustcore saved, but ")
    assert "\n" not in said
    assert len(said) < 600
    return "refused"


@pytest.mark.parametrize("make", RECORDS)
def test_a_flipped_bit_never_gives_another_record(make, tmp_path):
    want = make()
    path = tmp_path / "r"
    want.save(path)
    whole = path.read_bytes()
    rng = random.Random(0)
    counts = {"same": 0, "refused": 0}
    for bit in rng.sample(range(8 * len(whole)), 250):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        counts[outcome(path, want)] += 1
    assert counts["refused"] > 125  # the rest are dates, versions and the like of the archive
    assert counts["same"] > 0


@pytest.mark.parametrize("make", RECORDS)
def test_a_shortened_or_lengthened_file_is_refused(make, tmp_path):
    want = make()
    path = tmp_path / "r"
    want.save(path)
    whole = path.read_bytes()
    for size in random.Random(0).sample(range(len(whole)), 60):
        path.write_bytes(whole[:size])
        assert outcome(path, want) == "refused"
        path.write_bytes(whole[:size] + bytes(50) + whole[size:])
        outcome(path, want)


def npy(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    text = header.encode("latin1") + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + data


def header(shape, kind="<f8"):
    return f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}"


def saved(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


MEMBERS = {
    "a shape beyond memory": npy(header("(1000000000000,)")),
    "a shape beyond 64 bits": npy(header(f"({2**70},)")),
    "a shape below 0": npy(header("(-5,)"), bytes(40)),
    "another number of images": saved(np.zeros(4)),
    "another number of dimensions": saved(np.zeros((5, 1))),
    "a header that does not end": npy("{'descr': '<f8', 'shape': ((((("),
    "a deep header": npy("(" * 5000),
    "a long header": npy(header("(5,)") + " " * 50_000, bytes(40)),
    "no header": b"\x93NUMPY",
    "a header of code": npy("__import__('os').system('true')"),
    "another version": npy(header("(5,)"), bytes(40), b"\x09\x00"),
    "no dtype": npy(header("(5,)", "nothing"), bytes(40)),
    "objects": saved(np.array([{}] * 5)),
    "dates": saved(np.zeros(5, "datetime64[s]")),
    "complex": saved(np.zeros(5, complex)),
    "a structure": saved(np.zeros(5, [("a", "<f8")])),
    "raw bytes": saved(np.zeros(5, "V8")),
    "texts": saved(np.array(["a"] * 5)),
    "more data": npy(header("(5,)"), bytes(48)),
    "less data": npy(header("(5,)"), bytes(32)),
}


@pytest.mark.parametrize("name", MEMBERS)
def test_members_made_by_hand(name, tmp_path):
    sigma_result().save(tmp_path / "r")
    _rewritten(tmp_path / "r", lambda m, a: m.update({"sigma.npy": MEMBERS[name]}))
    with pytest.raises(ValueError, match=REFUSED):
        Record.load(tmp_path / "r")


TEXTS = {
    "nothing": b"",
    "half": b'{"format": 1, "record": "Sig',
    "bytes": bytes(range(128, 256)),
    "deep": b"[" * 100_000,
    "deep in it": b'{"format": 1, "record": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "a list": b"[1, 2]",
    "a number": b"1",
    "digits": b'{"format": ' + b"9" * 10_000 + b"}",
    "a list for a name": b'{"format": 1, "record": ["SigmaResult"]}',
    "an object for a name": b'{"format": 1, "record": {"a": 1}}',
}


@pytest.mark.parametrize("name", TEXTS)
def test_texts_made_by_hand(name, tmp_path):
    sigma_result().save(tmp_path / "r")
    with zipfile.ZipFile(tmp_path / "r") as old, zipfile.ZipFile(tmp_path / "s", "w") as new:
        for each in old.namelist():
            new.writestr(each, TEXTS[name] if each == "record.json" else old.read(each))
    with pytest.raises(ValueError, match=REFUSED):
        Record.load(tmp_path / "s")


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("fields", "rate", "0.01"),
        ("fields", "rate", None),
        ("fields", "rate", {"a": 1}),
        ("fields", "rate", True),
        ("fields", "confidence", [0.95]),
        ("fields", "more", 1),
        ("provenance", "seed", 1.5),
        ("provenance", "samples", "many"),
        ("provenance", "compiled", 1),
        ("provenance", "versions", ["1"]),
        ("provenance", "versions", {"torch": 2}),
        ("provenance", "notes", "one"),
        ("provenance", "notes", [1]),
        ("provenance", "settings", None),
    ],
)
def test_values_of_another_type(part, field, value, tmp_path):
    sigma_result().save(tmp_path / "r")
    _rewritten(tmp_path / "r", lambda m, a: a[part].update({field: value}))
    with pytest.raises(ValueError, match=f"{REFUSED}its fields are not those of SigmaResult"):
        Record.load(tmp_path / "r")


@pytest.mark.parametrize("part", ["fields", "provenance"])
@pytest.mark.parametrize("value", [None, [], "text", 3])
def test_parts_that_are_no_objects(part, value, tmp_path):
    sigma_result().save(tmp_path / "r")
    _rewritten(tmp_path / "r", lambda m, a: a.update({part: value}))
    with pytest.raises(ValueError, match=REFUSED):
        Record.load(tmp_path / "r")


@pytest.mark.parametrize("kind", ["nothing", "int64", "manual_seed", 3, [], {}])
def test_types_of_tensors_that_are_none(kind, tmp_path):
    pictures().save(tmp_path / "r")
    _rewritten(tmp_path / "r", lambda m, a: a.update(tensors={"x": kind}))
    with pytest.raises(ValueError, match=REFUSED):
        Record.load(tmp_path / "r")


def test_a_file_that_would_unpack_to_much_more_is_not_unpacked(tmp_path, monkeypatch):
    """4 MB of zeros in 4 KB, with the bound for 256 MB as one for 1 MB."""
    record = error_rate()
    record.save(tmp_path / "r")
    monkeypatch.setattr(archive, "SMALL", 2**20)
    images = 2**19
    with zipfile.ZipFile(tmp_path / "r") as old:
        about = json.loads(old.read("record.json"))
    with zipfile.ZipFile(tmp_path / "bomb", "w", zipfile.ZIP_DEFLATED) as new:
        new.writestr("record.json", json.dumps(about))
        for name, (_, dims) in type(record)._arrays().items():
            shape = tuple({"B": images, "G": 1}[dim] for dim in dims)
            kind = getattr(record, name).dtype
            new.writestr(f"{name}.npy", saved(np.zeros(shape, kind)))
    size = (tmp_path / "bomb").stat().st_size
    assert size < 2**20
    tracemalloc.start()
    with pytest.raises(ValueError, match=rf"its {size:,} bytes would unpack to"):
        Record.load(tmp_path / "bomb")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**21
    monkeypatch.undo()
    assert len(Record.load(tmp_path / "bomb")) == images  # a large record of one value is read


def test_a_long_text_is_not_unpacked(tmp_path):
    sigma_result().save(tmp_path / "r")
    with (
        zipfile.ZipFile(tmp_path / "r") as old,
        zipfile.ZipFile(tmp_path / "s", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for each in old.namelist():
            content = old.read(each)
            spaces = b" " * 2**24 if each == "record.json" else b""
            new.writestr(each, content + spaces)
    with pytest.raises(ValueError, match=f"{REFUSED}its record.json says that it has"):
        Record.load(tmp_path / "s")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives_made_by_hand(tmp_path):
    pictures().save(tmp_path / "r")
    whole = (tmp_path / "r").read_bytes()
    with zipfile.ZipFile(tmp_path / "r", "a") as file:
        file.writestr("x.npy", saved(np.zeros((3, 2, 2), np.float32)))
    with pytest.raises(ValueError, match=f"{REFUSED}it holds two members of one name"):
        Record.load(tmp_path / "r")
    (tmp_path / "r").write_bytes(whole)
    with zipfile.ZipFile(tmp_path / "r") as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(tmp_path / "r", "w", zipfile.ZIP_LZMA) as new:
        for name, content in members.items():
            new.writestr(name, content)
    with pytest.raises(ValueError, match=f"{REFUSED}it is packed in a way"):
        Record.load(tmp_path / "r")


def test_what_cannot_be_opened_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        Record.load(tmp_path / "absent")
    with pytest.raises(IsADirectoryError):
        Record.load(tmp_path)


def test_a_small_file_may_unpack_to_a_hundred_times_its_size(tmp_path, monkeypatch):
    error_rate().save(tmp_path / "r")
    monkeypatch.setattr(archive, "SMALL", 0)
    assert_same(Record.load(tmp_path / "r"), error_rate())
    monkeypatch.setattr(archive, "PACKED", 0.5)
    with pytest.raises(ValueError, match="would unpack"):
        Record.load(tmp_path / "r")
