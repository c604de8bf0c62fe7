"""Folders from anywhere: little memory, no file outside, and each error names its file."""

import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from robustcore.sources import LabelledFolder
from robustcore.sources.folder import SCALED, _cut


def table(folder, text):
    (folder / "labels.csv").write_text(f"file,label\n{text}\n")
    return folder


def png(path, width, height, rows=None):
    """A grey picture of a few bytes, whatever its size; not all of its rows if so wished."""
    data = zlib.compress(bytes((rows or height) * (1 + width)), 9)

    def chunk(kind, content):
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


@pytest.mark.parametrize(("width", "height"), [(1, 60000), (60000, 1), (2, 40000), (30000, 3)])
def test_a_long_picture_is_cut_before_it_is_scaled(tmp_path, monkeypatch, width, height):
    png(tmp_path / "a.png", width, height)
    assert (tmp_path / "a.png").stat().st_size < 2000
    largest = []
    resize = Image.Image.resize

    def watched(self, size, *more):
        largest.append(size[0] * size[1])
        return resize(self, size, *more)

    monkeypatch.setattr(Image.Image, "resize", watched)
    found = LabelledFolder(table(tmp_path, "a.png,0"), size=224)[0:1]
    assert found.shape == (1, 1, 224, 224)
    assert max(largest) <= SCALED


def test_the_cut_of_a_long_picture_is_its_middle():
    shades = np.linspace(0, 255, 4000).astype(np.uint8)
    long = Image.fromarray(np.repeat(shades[:, None], 2, 1))
    found = np.asarray(_cut(long, 1000)).astype(int)  # 1143 x 2,286,000 pixels without the cut
    assert found.shape == (1000, 1000)
    assert abs(found - 127).max() <= 1
    bent = np.asarray(_cut(Image.fromarray(np.repeat(shades[None], 2, 0)), 1000)).astype(int)
    np.testing.assert_array_equal(bent, found.T)


@pytest.mark.parametrize("shape", [(300, 500), (500, 300), (64, 64), (100, 700), (7, 9)])
def test_an_ordinary_picture_is_scaled_and_cut_as_ever(shape):
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (*shape, 3), np.uint8))
    height, width = shape
    scale = 8 / 7 * 56 / min(shape)
    across, down = round(width * scale), round(height * scale)
    left, top = (across - 56) // 2, (down - 56) // 2
    want = picture.resize((across, down), Image.Resampling.BILINEAR)
    want = want.crop((left, top, left + 56, top + 56))
    np.testing.assert_array_equal(np.asarray(_cut(picture, 56)), np.asarray(want))


def broken(path):
    png(path, 20, 20)
    path.write_bytes(path.read_bytes().replace(b"IDAT", b"IDA\0"))


def cut_short(path):
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[:500])


def bomb(path):
    png(path, 14000, 14000, rows=1)


@pytest.mark.parametrize(
    "make", [bomb, broken, cut_short, lambda path: path.write_bytes(b"GIF89a")]
)
def test_a_picture_that_cannot_be_read_is_named(tmp_path, make):
    make(tmp_path / "bad.png")
    folder = table(tmp_path, "bad.png,0")
    with pytest.raises(OSError, match=r"x must hold images that Pillow reads, not .*bad\.png: "):
        LabelledFolder(folder, size=8)[0:1]


def test_a_picture_of_too_many_pixels_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for i, side in enumerate((8, 20)):
        png(tmp_path / f"{i}.png", side, side)
    folder = LabelledFolder(table(tmp_path, "0.png,0\n1.png,1"), size=8)
    with pytest.raises(OSError, match=r"not .*1\.png: .*exceeds limit of 200 pixels"):
        folder[0:2]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(folder[0:2]) == 2


def pipe(path):
    os.mkfifo(path)


def device(path):
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [pipe, device, os.mkdir])
def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path, make):
    make(tmp_path / "a.png")
    with pytest.raises(OSError, match=r"x must hold regular files alone, .* names .*a\.png"):
        LabelledFolder(table(tmp_path, "a.png,0"))
    make(tmp_path / "other.csv")
    with pytest.raises(OSError, match=r"labels must be a CSV file that can be read.*no regular"):
        LabelledFolder(tmp_path, tmp_path / "other.csv")


@pytest.mark.parametrize(
    "name", ["../out.png", "sub/../../out.png", "{folder}/out.png", "{folder}/in/a.png", "/", ".."]
)
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path, name):
    (tmp_path / "in").mkdir()
    png(tmp_path / "out.png", 4, 4)
    png(tmp_path / "in" / "a.png", 4, 4)
    name = name.format(folder=tmp_path)
    with pytest.raises(ValueError, match=r"within the folder, relative to it, .* named "):
        LabelledFolder(table(tmp_path / "in", f"{name},0"))


def test_folders_within_and_links_are_followed(tmp_path):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    png(tmp_path / "stored", 4, 4)
    png(tmp_path / "in" / "sub" / "a.b..png", 4, 4)
    (tmp_path / "in" / "link.png").symlink_to(tmp_path / "stored")
    folder = LabelledFolder(table(tmp_path / "in", "sub/a.b..png,0\nlink.png,1"))
    assert folder[0:2].shape == (2, 1, 4, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.png,0\na.png,", "integer classes, line 3 of .* had ''"),
        ("a.png,0\na.png", "integer classes, line 3 of .* had None"),
        ("a.png,nan", "integer classes, line 2 of .* had 'nan'"),
        ("a.png,1.0", "integer classes, line 2 of .* had '1.0'"),
        ("a.png,1_0", "integer classes, line 2 of .* had '1_0'"),
        ("a.png,-1", "must not be negative, line 2 of .* had -1"),
        ("a.png,1,2", "a cell for each column, line 2 of .* had more"),
        ("a.png,0\n\n\na.png,x", "integer classes, line 5 of .* had 'x'"),
        ("a.png,0\n,1", "name a file in each line, line 3"),
    ],
)
def test_a_table_with_a_bad_cell_names_its_line(tmp_path, text, message):
    png(tmp_path / "a.png", 4, 4)
    with pytest.raises(ValueError, match=message):
        LabelledFolder(table(tmp_path, text))


def test_columns_that_come_twice_are_refused(tmp_path):
    png(tmp_path / "a.png", 4, 4)
    (tmp_path / "labels.csv").write_text("file,label,Label\na.png,1,2\n")
    with pytest.raises(ValueError, match=r"labels must have one column label, .* had several"):
        LabelledFolder(tmp_path)
