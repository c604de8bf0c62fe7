"""What can be saved of a run whose file is damaged."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from robustcore.runs.errors import FILE
from robustcore.runs.lock import held
from robustcore.runs.store import Store

DAMAGED = f"{FILE}.damaged"
TABLES = {"about": 2, "measurements": 5, "sessions": 7, "blocks": 5, "images": 6}
FEW = 1000  # rows that a table may have beyond those for images
INCOMPLETE = """
DELETE FROM blocks WHERE images != (
    SELECT count(*) FROM images i WHERE i.settings = blocks.settings AND i.block = blocks.block
) OR settings NOT IN (SELECT settings FROM measurements);
DELETE FROM images WHERE NOT EXISTS (
    SELECT 1 FROM blocks b WHERE b.settings = images.settings AND b.block = images.block
);
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
            for table, width in TABLES.items():
                marks = ", ".join("?" * width)
                insert = f"INSERT OR IGNORE INTO {table} VALUES ({marks})"
                new.db.executemany(insert, _readable(old, table, rows))
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
    """Rows asked for one by one, so that none is lost for another; images only as written."""
    for row in range(1, rows + 1):
        with contextlib.suppress(sqlite3.Error):
            for found in db.execute(f"SELECT * FROM {table} WHERE rowid = ?", (row,)):
                content = found[5] if table == "images" else b""
                if table != "images" or (
                    isinstance(content, bytes) and zlib.crc32(content) == found[4]
                ):
                    yield found
