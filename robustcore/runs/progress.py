"""How far a run is, read while it goes on."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

    Raises FileNotFoundError where there is no run, ValueError where its file is damaged.
    """
    folder = Path(folder)
    query = """
        SELECT m.function, m.images, m.settings,
            (SELECT coalesce(sum(images), 0) FROM blocks WHERE settings = m.settings),
            coalesce(sum(s.evaluations), 0), coalesce(sum(s.seconds), 0), count(*), max(session)
        FROM measurements m JOIN sessions s USING (settings) GROUP BY m.settings ORDER BY m.rowid
    """
    found = []
    with _reading(folder) as db, clear_errors(folder):
        for function, total, _, done, evaluations, seconds, sessions, last in db.execute(query):
            query = "SELECT images, evaluations, seconds, ranks FROM sessions WHERE session = ?"
            images, spent, lately, ranks = db.execute(query, (last,)).fetchone()
            speeds = [v / lately if lately else float("nan") for v in (images, spent)]
            running = in_use(folder) and done < total
            each = (function, done, total, evaluations, *speeds, seconds, sessions, ranks, running)
            found.append(Progress(*each))
    return found


def command_of(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """How the command line began the run. Raises ValueError where Python did."""
    folder = Path(folder)
    with _reading(folder) as db, clear_errors(folder):
        held = db.execute("SELECT value FROM about WHERE name = 'command'").fetchone()
    if held is None:
        raise ValueError(
            f"run must be one of the command line, that in {folder} was begun from Python: make "
            f"the same call again with run={str(folder)!r}"
        )
    command: dict[str, Any] = json.loads(held[0])
    return command


@contextlib.contextmanager
def _reading(folder: Path) -> Iterator[sqlite3.Connection]:
    path = folder / FILE
    if not path.is_file():
        raise FileNotFoundError(f"run must be the folder of a run, {folder} held no {FILE}")
    with clear_errors(folder):
        db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=30)
    try:
        yield db
    finally:
        db.close()
