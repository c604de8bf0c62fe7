"""The tables of a run's file: every row carries a checksum of all its values, keys and order too.

SQLite sees whether its pages fit together, and not whether they hold what was written.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from robustcore.runs.errors import FILE, Damaged, damaged

APPLICATION, FORMAT = 0x72636F72, 2  # "rcor"; raised when an older reader would misread
COLUMNS = {
    "about": ("name TEXT PRIMARY KEY", "value TEXT"),
    "measurements": (
        "settings TEXT PRIMARY KEY",
        "function TEXT UNIQUE",
        "identity TEXT",
        "behaviour TEXT",
        "images INTEGER",
        "form TEXT",
    ),
    "sessions": (
        "session INTEGER PRIMARY KEY",
        "settings TEXT",
        "ranks INTEGER",
        "started REAL",
        "seconds REAL",
        "images INTEGER",
        "evaluations INTEGER",
    ),
    "blocks": (
        "settings TEXT",
        "block INTEGER",
        "images INTEGER",
        "rank INTEGER",
        "provenance TEXT",
    ),
    "images": (
        "settings TEXT",
        "id INTEGER",
        "block INTEGER",
        "position INTEGER",
        "record BLOB",
    ),
}
KEYS = {
    "blocks": "PRIMARY KEY (settings, block)",
    "images": "PRIMARY KEY (settings, id)",
}


def create(db: sqlite3.Connection) -> None:
    statements = ["BEGIN IMMEDIATE"]
    for table, columns in COLUMNS.items():
        parts = [*columns, "checksum INTEGER"]
        if table in KEYS:
            parts.append(KEYS[table])
        statements.append(f"CREATE TABLE {table} ({', '.join(parts)})")
    statements += [f"PRAGMA application_id={APPLICATION}", f"PRAGMA user_version={FORMAT}"]
    db.executescript(";".join([*statements, "COMMIT"]))


def put(db: sqlite3.Connection, table: str, *rows: Iterable[Any]) -> None:
    """Write rows with their checksums, each in the place of one of the same key."""
    marks = ", ".join("?" * (len(COLUMNS[table]) + 1))
    sealed = [(*values, checksum(values)) for values in map(tuple, rows)]
    db.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", sealed)


def rows(
    db: sqlite3.Connection, table: str, folder: Path | None, which: str = "", *given: Any
) -> Iterator[tuple[Any, ...]]:
    """Rows without their checksums, `which` of them. Raises Damaged at one that does not fit."""
    for *values, held in db.execute(f"SELECT * FROM {table} {which}", given):
        if checksum(values) != held:
            raise damaged(folder, f"a row of {table} is not what was written")
        yield tuple(values)


def checksum(values: Iterable[Any]) -> int:
    """64 bits of the values and their types."""
    found = hashlib.blake2b(digest_size=8)
    for value in values:
        content = value if isinstance(value, bytes) else repr(value).encode("utf-8", "replace")
        found.update(f"{type(value).__name__} {len(content)} ".encode())
        found.update(content)
    return int.from_bytes(found.digest(), "big", signed=True)


def check_kind(db: sqlite3.Connection, folder: Path | None) -> None:
    """Raises Damaged where the file is not a run that this version reads."""
    if db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION:
        raise Damaged(
            f"run must be a folder of robustcore, {folder}/{FILE} is another kind of file"
        )
    held = db.execute("PRAGMA user_version").fetchone()[0]
    if held != FORMAT:
        raise Damaged(
            f"run must be of format {FORMAT}, that in {folder} is of format {held}: give another "
            "folder"
        )
    if _tables(db) != _expected():
        raise damaged(folder, "its tables are not those of a run")


def check(db: sqlite3.Connection, folder: Path | None) -> None:
    """Raises Damaged where the file is not whole, or not a run that this version reads."""
    check_kind(db, folder)
    try:
        said = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if said != "ok":
            raise damaged(folder, said.splitlines()[-1])  # the first names the database
        _check_rows(db, folder)
    except MemoryError as error:
        raise damaged(folder, "a value has an impossible size") from error


def _check_rows(db: sqlite3.Connection, folder: Path | None) -> None:
    """Every row is what was written, and every block has the images that it was written with."""
    for table in ("about", "sessions"):
        for _ in rows(db, table, folder):
            pass
    totals = {row[0]: row[4] for row in rows(db, "measurements", folder)}
    positions: dict[tuple[str, int], list[int]] = {}
    for settings, _, block, position, _ in rows(db, "images", folder):
        positions.setdefault((settings, block), []).append(position)
    taken: dict[str, set[int]] = {settings: set() for settings in totals}
    for settings, block, images, *_ in rows(db, "blocks", folder):
        its = positions.pop((settings, block), [])
        if settings not in totals or not its or len(its) != images:
            raise damaged(folder, f"block {block} does not hold the images it was written with")
        twice = len(set(its)) < images or not taken[settings].isdisjoint(its)
        if twice or max(its) - min(its) >= images:
            raise damaged(folder, f"block {block} holds an image in the place of another")
        taken[settings].update(its)
    if positions:
        raise damaged(folder, f"the row of block {next(iter(positions))[1]} is missing")
    for settings, its_places in taken.items():
        if its_places and not (min(its_places) >= 0 and max(its_places) < totals[settings]):
            raise damaged(folder, "it holds an image beyond the last")


def _tables(db: sqlite3.Connection) -> set[tuple[str, str]]:
    return set(db.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))


def _expected() -> set[tuple[str, str]]:
    db = sqlite3.connect(":memory:", isolation_level=None)
    try:
        create(db)
        return _tables(db)
    finally:
        db.close()
