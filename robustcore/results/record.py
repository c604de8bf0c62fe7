"""What all records share: provenance, indexing, tables, saving and loading.

A record holds numpy arrays, one entry for each of B images, and its provenance. Its arrays are
copies that cannot be written to. It is saved as one npz file, whose arrays any numpy reads and
whose member record.json any person reads; never a pickle.

A new record is a frozen dataclass that declares its fields with `per_image`, `shared` and plain
annotations; slicing, tables, saving and loading follow from the declaration.
"""

# ruff: noqa: RUF009 (per_image and shared make dataclass fields)

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import zipfile
from dataclasses import dataclass, field
from typing import IO, Any, ClassVar, TypeVar, get_type_hints

import numpy as np
import numpy.typing as npt

from robustcore.results import archive, notebook
from robustcore.results.files import write_whole
from robustcore.results.provenance import Provenance, plain

Ints = npt.NDArray[np.int64]
R = TypeVar("R", bound="Record")

ANY = archive.ANY  # the last of a field's dimensions: the shape of one input, whatever it is
FORMAT = 1  # of the saved file; raised when an older reader would misread a newer file


def per_image(dtype: Any, *dims: str) -> Any:
    """A field of shape (B, *dims): cut by indexing. dtype None holds a torch tensor."""
    return field(metadata={"dtype": dtype, "dims": ("B", *dims)})


def shared(dtype: Any, *dims: str) -> Any:
    """An array field of shape (*dims), which belongs to no single image."""
    return field(metadata={"dtype": dtype, "dims": dims})


@dataclass(frozen=True, repr=False, eq=False, kw_only=True)
class Record:
    """Base of every record: ids and labels of B images, provenance, and what all records can do.

    `len(record)` is B; `record[index]` is the record of some of the images, for a number, a slice,
    an array of positions or a boolean mask. Making one raises ValueError naming a field whose shape
    or kind is wrong.
    """

    ids: Ints = per_image(np.int64)
    labels: Ints = per_image(np.int64)
    provenance: Provenance

    derived: ClassVar[tuple[str, ...]] = ()  # properties of shape (B,) that tables show too

    def __post_init__(self) -> None:
        arrays = self._arrays()
        for name, (dtype, _) in arrays.items():
            if dtype is not None:
                object.__setattr__(self, name, _frozen(name, getattr(self, name), dtype))
        sizes = self._sizes()
        held: tuple[int, ...] = ()
        for name, (_, dims) in arrays.items():
            shape = tuple(getattr(self, name).shape)
            expected: tuple[Any, ...] = tuple(sizes.get(dim, dim) for dim in dims)
            if dims[-1:] == (ANY,):  # of one input, the same for all fields that hold inputs
                held = held or shape[len(dims) - 1 :]
                expected = (*expected[:-1], *held)
            if shape != expected:
                wanted = ", ".join(map(str, expected))
                raise ValueError(f"{name} must have shape ({wanted}), but had {shape}")

    @classmethod
    def _arrays(cls) -> dict[str, tuple[Any, tuple[str, ...]]]:
        return {
            each.name: (each.metadata["dtype"], each.metadata["dims"])
            for each in dataclasses.fields(cls)
            if "dims" in each.metadata
        }

    @classmethod
    def _scalars(cls) -> list[str]:
        names = (each.name for each in dataclasses.fields(cls) if "dims" not in each.metadata)
        return [name for name in names if name != "provenance"]

    def _sizes(self) -> dict[str, int]:
        """What each dimension letter stands for: the size it has where it is first used."""
        sizes: dict[str, int] = {}
        for name, (_, dims) in self._arrays().items():
            sized = dims[:-1] if dims[-1:] == (ANY,) else dims
            for dim, size in zip(sized, getattr(self, name).shape, strict=False):
                sizes.setdefault(dim, int(size))
        return sizes

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self: R, index: Any) -> R:
        if not isinstance(index, slice) and np.size(index) == 0:
            index = np.zeros(0, dtype=np.int64)  # an empty list is of no dtype that indexes
        chosen = np.atleast_1d(np.arange(len(self))[index]).copy()  # torch knows no strides below 0
        cut = {
            name: getattr(self, name)[chosen]
            for name, (_, dims) in self._arrays().items()
            if dims[:1] == ("B",)
        }
        return dataclasses.replace(self, **cut)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._summary()})"

    def _repr_html_(self) -> str:
        return notebook.html(repr(self), self.columns(), self.provenance)

    def _summary(self) -> str:
        return counted(len(self), "image")

    @property
    def noise(self) -> str:
        """The law of the noise, as it prints; empty where a record names none."""
        return str(self.provenance.settings.get("noise", ""))

    @property
    def gaussian(self) -> bool:
        """Whether the noise was Gaussian, as the distance to a half-space assumes."""
        return self.noise.startswith("Gaussian") or not self.noise

    @property
    def scale_name(self) -> str:
        """What `sigma` is called in summaries and figures."""
        return "sigma" if self.gaussian else f"scale of {self.noise}"

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """Named columns of equal length: one row for each image.

        A record over a grid of G values (dims "B", "G") has one row for each image and value, image
        by image; a number that belongs to the image stands on each of its G rows. Fields of other
        shapes, such as images, are left out.
        """
        grid = self._sizes().get("G", 1)
        found: dict[str, npt.NDArray[Any]] = {}
        for name, (_, dims) in self._arrays().items():
            array = getattr(self, name)
            if dims == ("B",):
                found[{"ids": "id", "labels": "label"}.get(name, name)] = np.repeat(array, grid)
            elif dims == ("G",):
                found[name] = np.tile(array, len(self))
            elif dims == ("B", "G"):
                found[name] = array.reshape(-1)
        return found | {name: np.repeat(getattr(self, name), grid) for name in self.derived}

    def to_pandas(self) -> Any:
        """The columns as a pandas DataFrame. Raises ImportError where pandas is not installed."""
        try:
            import pandas
        except ImportError as error:
            raise ImportError("to_pandas needs pandas: pip install pandas") from error
        return pandas.DataFrame(self.columns())

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the columns to a CSV file; numbers read back as they were. Raises OSError."""
        columns = self.columns()
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))
        write_whole(path, lambda file: file.write(text.getvalue().encode()))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the record to one file, which appears whole or not at all. Raises OSError."""
        about: dict[str, Any] = {
            "format": FORMAT,
            "record": type(self).__name__,
            "fields": {name: getattr(self, name) for name in self._scalars()},
            "provenance": dataclasses.asdict(self.provenance),
            "tensors": {},  # types of those that numpy does not know
        }
        columns: dict[str, Any] = {}
        for name, (dtype, _) in self._arrays().items():
            value = getattr(self, name)
            if dtype is None and (kind := _unknown_to_numpy(value)):
                about["tensors"][name] = kind
                value = value.float()  # which holds every value of theirs
            columns[name] = _numpy(value)
        text = json.dumps(about, indent=1, default=plain)

        def write(file: IO[bytes]) -> None:
            np.savez_compressed(file, **columns)
            with zipfile.ZipFile(file, "a") as members:
                members.writestr(archive.ABOUT, text)

        write_whole(path, write)

    @classmethod
    def load(cls: type[R], path: str | os.PathLike[str]) -> R:
        """Read a record that `save` wrote: of this class, or of any for `Record.load`.

        Raises ValueError saying what is wrong with the file, OSError where it cannot be read.
        """
        with archive.opened(path) as file:
            about = json.loads(archive.text_of(file))
            if not isinstance(about, dict) or about.get("format") != FORMAT:
                raise archive.Refused(f"this robustcore reads format {FORMAT}")
            known = {each.__name__: each for each in subclasses(cls)}
            name = about.get("record")
            if not isinstance(name, str) or name not in known:
                raise archive.Refused(f"it holds {str(name)[:40]}, not {' or '.join(known)}")
            made = known[name]
            arrays: dict[str, Any] = archive.arrays_of(
                file, name, {key: dims for key, (_, dims) in made._arrays().items()}
            )
            for key, (dtype, _) in made._arrays().items():
                if dtype is None:
                    arrays[key] = _tensor(arrays[key], about.get("tensors", {}).get(key))
            try:
                how = Provenance(**_checked(Provenance, about["provenance"]))
                return made(**arrays, **_checked(made, about["fields"]), provenance=how)
            except (KeyError, TypeError, ValueError) as error:
                why = f"its fields are not those of {made.__name__}: {error}"
                raise archive.Refused(why) from error


@dataclass(frozen=True, repr=False, eq=False, kw_only=True)
class StatusRecord(Record):
    """A record that says of each image what came of it: one of its `statuses`."""

    status: npt.NDArray[np.str_] = per_image(np.str_)

    statuses: ClassVar[tuple[str, ...]]

    def __post_init__(self) -> None:
        super().__post_init__()
        if (unknown := ~np.isin(self.status, self.statuses)).any():
            worst = str(self.status[unknown][0])
            raise ValueError(f"status must be one of {self.statuses}, but was {worst!r}")

    def count(self, status: str) -> int:
        """How many images have this status."""
        return int(np.sum(self.status == status))

    def _counts(self) -> str:
        """How many images have each status that occurs, in words."""
        return ", ".join(f"{n} {each}" for each in self.statuses if (n := self.count(each)))


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def known_median(values: npt.NDArray[Any]) -> float:
    """Median of those that are numbers; nan where none is."""
    known = values[~np.isnan(values)]
    return float(np.median(known)) if known.size else float("nan")


def _numpy(value: Any) -> npt.NDArray[Any]:
    """A numpy array from an array, a list, or a torch tensor on any device."""
    if not hasattr(value, "detach"):
        return np.asarray(value)
    value = value.detach().cpu()
    # numpy knows no bfloat16, whose numbers float32 holds
    return np.asarray((value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy())


def _unknown_to_numpy(tensor: Any) -> str | None:
    """The type of a floating tensor, such as bfloat16, that numpy has no name for."""
    kind = str(tensor.dtype).removeprefix("torch.")
    return kind if kind.startswith(("bfloat", "float8")) else None


def _tensor(array: npt.NDArray[Any], kind: str | None) -> Any:
    import torch  # only a record that holds images comes here

    tensor = torch.from_numpy(array)
    if kind is None:
        return tensor
    dtype = getattr(torch, kind)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise archive.Refused(f"it names a type {kind[:40]}")
    return tensor.to(dtype)


def _checked(made: type, values: dict[str, Any]) -> dict[str, Any]:
    """JSON values as arguments, seen to be of the types that the dataclass declares."""
    hints = get_type_hints(made)
    for name, value in values.items():
        if name in hints and not archive.fits(value, hints[name]):
            raise TypeError(f"{name} cannot be {str(value)[:40]}")
    return values


def _frozen(name: str, value: Any, dtype: Any) -> npt.NDArray[Any]:
    """A copy of `value` that cannot be written to. Raises ValueError where `dtype` would lose."""
    array = _numpy(value)
    fits = (
        array.dtype.kind == "U"
        if dtype is np.str_
        else np.can_cast(array.dtype, dtype, "same_kind")
    )
    if array.size and not fits:
        raise ValueError(f"{name} must be {np.dtype(dtype).name}, but was {array.dtype}")
    array = array.astype(dtype)
    array.setflags(write=False)
    return array


def subclasses(cls: type[R]) -> list[type[R]]:
    return [cls, *(each for child in cls.__subclasses__() for each in subclasses(child))]
