"""How a record was made."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
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
    sentences for the user, such as why a backend was not taken.
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
