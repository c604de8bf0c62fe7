"""A record as rows of bytes, one for each image, and back, bit for bit."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from robustcore.results import Provenance, Record
from robustcore.results.provenance import plain
from robustcore.results.record import subclasses

LONGEST = 40  # characters of a text in a record


@dataclass(frozen=True)
class Rows:
    """form: JSON of what all images share, the same for every block; data: (B,) structured."""

    form: str
    data: np.ndarray
    provenance: dict[str, Any]

    @property
    def ids(self) -> np.ndarray:
        return self.data["ids"]

    @property
    def evaluations(self) -> int:
        names = self.data.dtype.names or ()
        return int(self.data["n_forward"].sum()) if "n_forward" in names else 0

    def as_bytes(self) -> np.ndarray:
        """The images' rows, (bytes) uint8."""
        return np.frombuffer(bytearray(self.data.tobytes()), np.uint8)

    def to_bytes(self) -> bytes:
        head = json.dumps([self.form, len(self.data), self.provenance])
        return head.encode() + b"\n" + self.data.tobytes()

    @staticmethod
    def from_bytes(content: bytes) -> Rows:
        head, _, body = content.partition(b"\n")
        form, n, provenance = json.loads(head)
        return Rows(form, np.frombuffer(body, layout(form), n), provenance)


def rows_of(record: Record) -> Rows:
    """The record's images as rows. Raises ValueError for a text longer than 32 characters."""
    columns: dict[str, np.ndarray] = {}
    tensors: dict[str, str] = {}
    whole: dict[str, Any] = {}
    for name, (dtype, dims) in record._arrays().items():
        value = getattr(record, name)
        if dims[:1] != ("B",):
            whole[name] = value.tolist()
        elif dtype is None:
            tensors[name] = str(value.dtype).removeprefix("torch.")
            columns[name] = _as_bytes(value)
        elif dtype is np.str_:
            if value.dtype.itemsize > 4 * LONGEST:
                raise ValueError(f"{name} must hold texts of at most {LONGEST} characters")
            columns[name] = value.astype(f"<U{LONGEST}")
        else:
            columns[name] = value
    kinds = [(name, each.dtype.str, each.shape[1:]) for name, each in columns.items()]
    data = np.empty(len(record), np.dtype(kinds))
    for name, each in columns.items():
        data[name] = each
    shapes = {name: list(getattr(record, name).shape[1:]) for name in tensors}
    fields = {name: getattr(record, name) for name in record._scalars()}
    form = {
        "record": type(record).__name__,
        "columns": kinds,
        "tensors": {name: [kind, shapes[name]] for name, kind in tensors.items()},
        "whole": whole,
        "fields": fields,
    }
    about = dataclasses.asdict(record.provenance)
    return Rows(json.dumps(form, default=plain), data, json.loads(json.dumps(about)))


def record_of(rows: Rows) -> Record:
    """The record whose images are these rows."""
    form = json.loads(rows.form)
    made = next(each for each in subclasses(Record) if each.__name__ == form["record"])
    arrays: dict[str, Any] = {name: rows.data[name] for name, _, _ in form["columns"]}
    for name, (kind, shape) in form["tensors"].items():
        flat = torch.from_numpy(arrays[name].copy())  # one row is contiguous whatever its stride
        arrays[name] = flat.view(getattr(torch, kind)).view(len(flat), *shape)
    provenance = Provenance(**rows.provenance)
    return made(**arrays, **form["whole"], **form["fields"], provenance=provenance)


def layout(form: str) -> np.dtype:
    """numpy's dtype of a row."""
    return np.dtype(
        [(name, kind, tuple(shape)) for name, kind, shape in json.loads(form)["columns"]]
    )


def _as_bytes(value: torch.Tensor) -> np.ndarray:
    """(B, bytes) uint8: numpy does not know every type of torch."""
    flat = value.detach().cpu().contiguous().flatten(1)
    return flat.view(torch.uint8).numpy()
