"""What can be saved of a run whose file is damaged."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from robustcore.runs import sealed
from robustcore.runs.errors import FILE, Damaged
from robustcore.runs.lock import held
from robustcore.runs.store import Store

DAMAGED = f"{FILE}.damaged"
FEW = 1000  # rows that a table may have beyond those for images
INCOMPLETE = """
DELETE FROM blocks WHERE (settings, block, images) NOT IN (
    SELECT settings, block, count(*) FROM images GROUP BY settings, block
) OR settings NOT IN (SELECT settings FROM measurements);
DELETE FROM images WHERE (settings, block) NOT IN (SELECT settings, block FROM blocks);
"""


def repair(folder: str | os.PathLike[str]) -> tuple[int, int]:
    """Put every whole block of a run's file into a new one: how many images, and of how many.

    The old file stays beside it as run.sqlite.damaged. What could not be read is measured again
    when the run goes on. Raises FileNotFoundError where there is no file, FileExistsError where an
    earlier repair left its own, ValueError where nothing could be read, RuntimeError where a
    process works on the run.
    """
    folder = Path(folder)
    if not (folder / FILE).is_file():
        raise FileNotFoundError(f"run must be the folder of a run, {folder} held no {FILE}")
    if (folder / DAMAGED).exists():
        raise FileExistsError(f"run must hold no {DAMAGED} of an earlier repair, {folder} did")
    with held(folder):
        for end in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                (folder / f"{FILE}{end}").rename(folder / f"{DAMAGED}{end}")
    with contextlib.closing(sqlite3.connect(folder / DAMAGED)) as old, Store(folder) as new:
        old.execute("PRAGMA writable_schema=ON")  # else a file that was cut short is not opened
        rows = FEW
        with new.transaction():
            for table in sealed.COLUMNS:
                for values in _readable(old, table, rows):
                    sealed.put(new.db, table, values)
                if table == "measurements":
                    query = "SELECT sum(images) FROM measurements"
                    rows += 2 * (new.db.execute(query).fetchone()[0] or 0)
            for statement in INCOMPLETE.split(";")[:-1]:
                new.db.execute(statement)
        saved = new.db.execute("SELECT count(*) FROM images").fetchone()[0]
        total = new.db.execute("SELECT sum(images) FROM measurements").fetchone()[0]
    if not total:
        raise ValueError(f"run must hold a file of which a part can be read, {folder} did not")
    return saved, total


def _readable(db: sqlite3.Connection, table: str, rows: int) -> Iterator[tuple[Any, ...]]:
    """Rows asked for one by one, so that none is lost for another; as they were written alone."""
    for row in range(1, rows + 1):
        with contextlib.suppress(sqlite3.Error, Damaged, MemoryError, UnicodeDecodeError):
            yield from sealed.rows(db, table, None, "WHERE rowid = ?", row)
