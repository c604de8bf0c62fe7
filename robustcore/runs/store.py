"""A run on disk: one SQLite file that holds each finished image, and survives its process.

A block's images, its provenance and how far the run is are written in one transaction
(write-ahead log, synchronous), so that a file holds a block whole or not at all. Each image
carries a checksum. One process writes at a time; any number may read.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
import zlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np

from robustcore.runs.errors import FILE, Damaged, clear_errors, damaged
from robustcore.runs.identity import refuse_change, settings_hash
from robustcore.runs.lock import held
from robustcore.runs.rows import Rows, layout

APPLICATION, FORMAT = 0x72636F72, 1  # "rcor"; raised when an older reader would misread
TABLES = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE measurements (
    settings TEXT PRIMARY KEY, function TEXT UNIQUE, identity TEXT, images INTEGER, form TEXT
);
CREATE TABLE blocks (
    settings TEXT, block INTEGER, images INTEGER, rank INTEGER, provenance TEXT,
    PRIMARY KEY (settings, block)
);
CREATE TABLE images (
    settings TEXT, id INTEGER, block INTEGER, position INTEGER, checksum INTEGER, record BLOB,
    PRIMARY KEY (settings, id)
);
CREATE TABLE sessions (
    session INTEGER PRIMARY KEY, settings TEXT, ranks INTEGER, started REAL, seconds REAL,
    images INTEGER, evaluations INTEGER
);
"""
WRITING = ("journal_mode=WAL", "synchronous=FULL")
# How the command line began the run that is to be: what `robustcore resume` repeats.
command: ContextVar[dict[str, Any] | None] = ContextVar("command", default=None)


class Store:
    """The file of a run, open for writing, with the lock that keeps other processes out.

    folder None holds the run in memory. Raises OSError for a folder that cannot be written or is
    full, RuntimeError where another process writes, ValueError where the file is damaged.
    """

    def __init__(self, folder: str | os.PathLike[str] | None) -> None:
        self.folder = None if folder is None else Path(folder)
        with contextlib.ExitStack() as stack:
            if self.folder is not None:
                stack.enter_context(held(self.folder))
            with self._clear_errors():
                self.db = self._open()
            self._release = stack.pop_all().close

    def _open(self) -> sqlite3.Connection:
        name = ":memory:" if self.folder is None else str(self.folder / FILE)
        # rank 0 writes from a thread; nothing else uses the connection meanwhile
        db = sqlite3.connect(name, isolation_level=None, check_same_thread=False, timeout=30)
        try:
            new = not db.execute("PRAGMA user_version").fetchone()[0]
            if new and db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise Damaged(f"run must hold no {FILE} of another program, {self.folder} did")
            for each in WRITING:
                db.execute(f"PRAGMA {each}")
            if new:
                marks = f"PRAGMA application_id={APPLICATION};PRAGMA user_version={FORMAT};"
                db.executescript(f"BEGIN IMMEDIATE;{TABLES}{marks}COMMIT;")
            else:
                _check(db, self.folder)
        except BaseException:
            db.close()
            raise
        return db

    def begin(self, identity: dict[str, Any], images: int, ranks: int) -> None:
        """Begin a measurement or go on with it. Raises ValueError for a part that has changed."""
        self.settings = settings_hash(identity)
        function = identity["function"]
        with self.transaction():
            held = self.db.execute(
                "SELECT identity FROM measurements WHERE function = ?", (function,)
            ).fetchone()
            if held and not self._empty(function):
                refuse_change(json.loads(held[0]), identity, self.folder)
            else:  # what never finished a block may have failed at its settings
                self.db.execute(
                    "INSERT OR REPLACE INTO measurements VALUES (?, ?, ?, ?, NULL)",
                    (self.settings, function, json.dumps(identity), images),
                )
            if (how := command.get()) is not None:
                self.db.execute(
                    "INSERT OR REPLACE INTO about VALUES ('command', ?)", (json.dumps(how),)
                )
            self._session = self.db.execute(
                "INSERT INTO sessions (settings, ranks, started, seconds, images, evaluations) "
                "VALUES (?, ?, ?, 0, 0, 0)",
                (self.settings, ranks, time.time()),
            ).lastrowid
        self._started = time.perf_counter()

    def blocks_done(self) -> set[int]:
        with self._clear_errors():
            query = "SELECT block FROM blocks WHERE settings = ?"
            return {row[0] for row in self.db.execute(query, (self.settings,))}

    def commit(self, block: int, first: int, rank: int, rows: Rows) -> None:
        """Write a finished block, whose images begin at position `first`."""
        data = rows.data
        images = [
            (self.settings, int(name), block, first + i, zlib.crc32(content), content)
            for i, name in enumerate(rows.ids)
            for content in [data[i].tobytes()]
        ]
        evaluations = rows.evaluations
        seconds = time.perf_counter() - self._started
        with self.transaction():
            execute = self.db.execute
            form = self._form()
            if form is None:
                query = "UPDATE measurements SET form = ? WHERE settings = ?"
                execute(query, (rows.form, self.settings))
            elif form != rows.form:
                raise RuntimeError("every block of a run must give records of one form")
            self.db.executemany("INSERT INTO images VALUES (?, ?, ?, ?, ?, ?)", images)
            execute(
                "INSERT INTO blocks VALUES (?, ?, ?, ?, ?)",
                (self.settings, block, len(images), rank, json.dumps(rows.provenance)),
            )
            execute(
                "UPDATE sessions SET seconds = ?, images = images + ?, evaluations = evaluations "
                "+ ? WHERE session = ?",
                (seconds, len(images), evaluations, self._session),
            )

    def rows(self) -> Rows:
        """All images that are stored, by position."""
        with self._clear_errors():
            return read_rows(self.db, self.settings)

    def batch_size(self) -> int | None:
        """The largest batch that memory was enough for, if it once was not."""
        with self._clear_errors():
            query = "SELECT provenance FROM blocks WHERE settings = ?"
            parts = [json.loads(row[0]) for row in self.db.execute(query, (self.settings,))]
        halved = [part["batch_size"] for part in parts if ran_out(part["notes"])]
        return min(halved, default=None)

    def close(self) -> None:
        self.db.close()
        self._release()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _empty(self, function: str) -> bool:
        query = "SELECT count(*) FROM blocks JOIN measurements USING (settings) WHERE function = ?"
        return not self.db.execute(query, (function,)).fetchone()[0]

    def _form(self) -> str | None:
        query = "SELECT form FROM measurements WHERE settings = ?"
        return self.db.execute(query, (self.settings,)).fetchone()[0]

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        with self._clear_errors():
            self.db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self.db.execute("ROLLBACK")
                raise

    def _clear_errors(self) -> contextlib.AbstractContextManager[None]:
        return clear_errors(self.folder)


def read_rows(db: sqlite3.Connection, settings: str) -> Rows:
    query = "SELECT form FROM measurements WHERE settings = ?"
    form = db.execute(query, (settings,)).fetchone()[0]
    kind = layout(form)
    query = "SELECT count(*) FROM images WHERE settings = ?"
    data = np.zeros(db.execute(query, (settings,)).fetchone()[0], kind)
    query = "SELECT record FROM images WHERE settings = ? ORDER BY position"
    for i, (content,) in enumerate(db.execute(query, (settings,))):
        data[i] = np.frombuffer(content, kind)[0]
    query = "SELECT provenance FROM blocks WHERE settings = ? ORDER BY block"
    parts = [json.loads(row[0]) for row in db.execute(query, (settings,))]
    query = "SELECT sum(seconds), count(*) FROM sessions WHERE settings = ?"
    seconds, sessions = db.execute(query, (settings,)).fetchone()
    return Rows(form, data, merged(parts, seconds, sessions))


def ran_out(notes: Sequence[str]) -> bool:
    """Whether a batch was halved for want of memory."""
    return any(note.startswith("out of memory") for note in notes)


def merged(parts: list[dict[str, Any]], seconds: float, sessions: int) -> dict[str, Any]:
    """One provenance for all blocks: each note once, the smallest batch, all sessions' time."""
    notes = dict.fromkeys(note for part in parts for note in part["notes"])
    blocks = f"measured in {len(parts)} blocks" + (f", {sessions} sessions" if sessions > 1 else "")
    return parts[0] | {
        "seconds": seconds,
        "compile_seconds": sum(part["compile_seconds"] for part in parts),
        "batch_size": min(part["batch_size"] for part in parts),
        "randomized": any(part["randomized"] for part in parts),
        "notes": [*notes, blocks],
    }


def _check(db: sqlite3.Connection, folder: Path | None) -> None:
    """Raises ValueError where the file is not whole, or not a run that this version reads."""
    if db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION:
        raise Damaged(
            f"run must be a folder of robustcore, {folder}/{FILE} is another kind of file"
        )
    held = db.execute("PRAGMA user_version").fetchone()[0]
    if held != FORMAT:
        raise Damaged(f"run must be of format {FORMAT}, that in {folder} is of format {held}")
    found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise damaged(folder, found)
    for name, checksum, content in db.execute("SELECT id, checksum, record FROM images"):
        if zlib.crc32(content) != checksum:
            raise damaged(folder, f"image {name} is not what was written")
