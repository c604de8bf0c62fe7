"""How far a run is, read while it goes on."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustcore.runs import sealed
from robustcore.runs.errors import FILE, clear_errors
from robustcore.runs.lock import in_use


@dataclass(frozen=True)
class Progress:
    """One measurement of a run. Speeds are those of its last session, nan before its first block.

    images are done of `total`; evaluations of the model were spent in all sessions; seconds_left is
    0 for a finished measurement; running: whether a process works on it now.
    """

    function: str
    images: int
    total: int
    evaluations: int
    images_per_second: float
    evaluations_per_second: float
    seconds: float
    sessions: int
    ranks: int
    running: bool

    @property
    def seconds_left(self) -> float:
        left = self.total - self.images
        return left / self.images_per_second if left else 0.0


def progress(folder: str | os.PathLike[str]) -> list[Progress]:
    """Every measurement in the folder of a run. Reads only; a process may be writing.

    The whole file is checked first, as where the run goes on. Raises FileNotFoundError where there
    is no run, ValueError where its file is damaged.
    """
    folder = Path(folder)
    found = []
    with _reading(folder) as db, clear_errors(folder):
        sessions = list(sealed.rows(db, "sessions", folder, "ORDER BY session"))
        blocks = list(sealed.rows(db, "blocks", folder))
        for settings, function, _, _, total, _ in sealed.rows(db, "measurements", folder):
            its = [row for row in sessions if row[1] == settings]
            if not its:
                continue
            _, _, ranks, _, lately, images, spent = its[-1]
            done = sum(row[2] for row in blocks if row[0] == settings)
            found.append(
                Progress(
                    function=function,
                    images=done,
                    total=total,
                    evaluations=sum(row[6] for row in its),
                    images_per_second=images / lately if lately else math.nan,
                    evaluations_per_second=spent / lately if lately else math.nan,
                    seconds=sum(row[4] for row in its),
                    sessions=len(its),
                    ranks=ranks,
                    running=in_use(folder) and done < total,
                )
            )
    return found


def command_of(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """How the command line began the run. Raises ValueError where Python did."""
    folder = Path(folder)
    with _reading(folder) as db, clear_errors(folder):
        held = next(sealed.rows(db, "about", folder, "WHERE name = 'command'"), None)
    if held is None:
        raise ValueError(
            f"run must be one of the command line, that in {folder} was begun from Python: make "
            f"the same call again with run={str(folder)!r}"
        )
    command: dict[str, Any] = json.loads(held[1])
    return command


@contextlib.contextmanager
def _reading(folder: Path) -> Iterator[sqlite3.Connection]:
    path = folder / FILE
    if not path.is_file():
        raise FileNotFoundError(f"run must be the folder of a run, {folder} held no {FILE}")
    with clear_errors(folder):
        db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=30)
    try:
        with clear_errors(folder):
            db.execute("BEGIN")  # all that is read is of one moment
            sealed.check(db, folder)
        yield db
    finally:
        db.close()
