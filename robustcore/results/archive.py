"""Reading the file of a record that anyone may have written: what it claims first, then its data.

An archive of a few kilobytes may unpack to gigabytes. Names, kinds, shapes and sizes are compared
with one another and with the file's size before anything is unpacked.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import UnionType
from typing import IO, Any, TypeVar, Union, get_args, get_origin

import numpy as np
import numpy.typing as npt

from robustcore.results.files import unreadable

T = TypeVar("T")
Array = npt.NDArray[Any]

ANY = "*"  # dimensions of one input, whatever they are
ABOUT = "record.json"
TEXT = 2**24  # bytes of record.json; those of the records here take some thousands
# Sizes that are read whatever the file's own. Beyond it a record of numbers is packed to a tenth;
# columns of one value to a hundredth and less, but they do not reach this size.
SMALL, PACKED = 2**28, 100
KINDS = "biufU"  # of numpy's types: numbers and texts, never objects
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[zipfile.ZipFile]:
    """The archive. Raises OSError where `path` cannot be opened, else ValueError naming it.

    Whatever goes wrong within is what a file that nobody vouches for can bring about: zipfile,
    json, numpy and zlib raise twelve kinds of error at damaged ones.
    """
    with Path(path).open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                _check_sizes(archive, os.fstat(file.fileno()).st_size)
                yield archive
        except Refused as why:
            raise unreadable(path, str(why)) from why.__cause__
        except Exception as error:
            text = f"{error}".splitlines()
            reason = text[0][:200] if text else type(error).__name__
            raise unreadable(path, f"it is damaged or another kind of file ({reason})") from error


class Refused(Exception):
    """What is wrong with the file, in words."""


def text_of(archive: zipfile.ZipFile) -> bytes:
    size = archive.getinfo(ABOUT).file_size
    if size > TEXT:
        raise Refused(f"its {ABOUT} says that it has {size:,} bytes")
    return archive.read(ABOUT)


def arrays_of(
    archive: zipfile.ZipFile, kind: str, dims: Mapping[str, tuple[str, ...]]
) -> dict[str, Array]:
    """The arrays of a record of this kind with fields `dims`, read once their headers fit."""
    members = {name.removesuffix(".npy") for name in archive.namelist() if name != ABOUT}
    if members != set(dims):
        missing, more = set(dims) - members, members - set(dims)
        words = [f"without {name}" for name in sorted(missing)]
        words += [f"with {name[:40]!r}" for name in sorted(more)]
        raise Refused(f"its fields are not those of {kind}: {', '.join(words)}")
    sizes: dict[str, tuple[str, int]] = {}
    for name, its_dims in dims.items():
        shape = _member(archive, name, _header)
        open_ended = its_dims[-1:] == (ANY,)
        sized = its_dims[:-1] if open_ended else its_dims
        if len(shape) < len(sized) or (len(shape) > len(sized) and not open_ended):
            raise Refused(f"{name} has {len(shape)} dimensions, must have {len(sized)}")
        for dim, size in zip(sized, shape, strict=False):
            first, wanted = sizes.setdefault(dim, (name, size))
            if size != wanted:
                raise Refused(f"{name} has {size} entries where {first} has {wanted}")
    return {name: _member(archive, name, _data) for name in dims}


def fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value is of an annotated type."""
    origin = get_origin(hint)
    if hint is Any:
        return True
    if origin in (Union, UnionType):
        return any(fits(value, each) for each in get_args(hint))
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin is tuple:
        return isinstance(value, (list, tuple)) and all(fits(v, get_args(hint)[0]) for v in value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, dict) and all(
            fits(each, get_args(hint)[1]) for each in value.values()
        )
    return isinstance(value, hint)


def _check_sizes(archive: zipfile.ZipFile, size: int) -> None:
    members = archive.infolist()
    names = [each.filename for each in members]
    if len(set(names)) < len(names):
        raise Refused("it holds two members of one name")
    if ABOUT not in names:
        raise Refused(f"it is damaged or another kind of file (it holds no {ABOUT})")
    if any(each.compress_type not in METHODS for each in members):
        raise Refused("it is packed in a way that numpy does not write")
    if sum(each.compress_size for each in members) > size:
        raise Refused("its members are longer than itself")
    unpacked = sum(each.file_size for each in members)
    if unpacked > SMALL + PACKED * size:
        raise Refused(f"its {size:,} bytes would unpack to {unpacked:,}")


def _member(archive: zipfile.ZipFile, name: str, read: Callable[[IO[bytes], int], T]) -> T:
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as stream:
        try:
            return read(stream, info.file_size)
        except (Refused, ValueError) as why:
            raise Refused(f"{name}: {why}") from why


def _header(stream: IO[bytes], size: int) -> tuple[int, ...]:
    version = np.lib.format.read_magic(stream)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise Refused(f"it is of version {version} of npy")
    shape, _, dtype = readers[version](stream)
    if dtype.kind not in KINDS or dtype.shape or dtype.names:
        raise Refused(f"it must hold numbers or texts, held {dtype}")
    held = size - stream.tell()
    wanted = dtype.itemsize
    for n in shape:
        if n < 0:
            raise Refused(f"it has shape {shape}")
        wanted *= n
    if held != wanted:
        raise Refused(f"it holds {held:,} bytes, its header says {wanted:,}")
    return tuple(shape)


def _data(stream: IO[bytes], size: int) -> Array:
    array: Array = np.lib.format.read_array(stream, allow_pickle=False)
    if stream.read(1):  # at the end zipfile compares the checksum
        raise Refused("it holds more than its header says")
    return array
