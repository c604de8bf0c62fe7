"""How a record was made."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """numpy's numbers and arrays as Python's, for JSON."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not a JSON value")


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """How a record was made. A part of a record keeps the provenance of the whole.

    seed, with each image's id, names the draws; samples is how many were asked for each image;
    seconds is wall time, of which compile_seconds went into compiling the model; settings holds
    the method's other arguments as JSON values (write "inf" for an infinite one); notes are
    sentences for the user, such as why a backend was not taken. images: a hash of each image by its
    id, which tells other images of the same ids.
    """

    method: str
    seed: int
    samples: int | None
    backend: str
    device: str
    dtype: str
    batch_size: int
    compiled: bool
    randomized: bool
    versions: Mapping[str, str]
    seconds: float
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    compile_seconds: float = 0.0
    images: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # made plain at once, so that nothing is found out to be unsavable after a long run
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            try:
                made = json.loads(json.dumps(value, default=plain, allow_nan=False))
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"{each.name} must be JSON values, but was {value!r}: {error}"
                ) from None
            object.__setattr__(self, each.name, tuple(made) if each.name == "notes" else made)


def refuse_other_images(names: str, one: Provenance, other: Provenance, ids: Sequence[int]) -> None:
    """Raises ValueError naming the first id whose image is another in `other`.

    Images of different types are not compared: they are rounded to them.
    """
    if one.dtype != other.dtype:
        return
    for each in map(str, ids):
        hashes = [how.images.get(each) for how in (one, other)]
        if None not in hashes and hashes[0] != hashes[1]:
            raise ValueError(
                f"{names} must be of the same images, but differ at id {each}: the pixels that "
                "were measured are others"
            )
