"""A run on disk: one SQLite file that holds each finished image, and survives its process.

A block's images, its provenance and how far the run is are written in one transaction
(write-ahead log, synchronous), so that a file holds a block whole or not at all. Each row
carries a checksum. One process writes at a time; any number may read.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np

from robustcore.results.record import counted
from robustcore.runs import sealed
from robustcore.runs.behaviour import Behaviour
from robustcore.runs.errors import FILE, Damaged, clear_errors, damaged
from robustcore.runs.identity import refuse_change, refuse_other, settings_hash
from robustcore.runs.lock import held
from robustcore.runs.rows import Rows, layout

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
            if not new:  # before anything is written to it
                sealed.check(db, self.folder)
            for each in WRITING:
                db.execute(f"PRAGMA {each}")
            if new:
                sealed.create(db)
        except BaseException:
            db.close()
            raise
        return db

    def begin(
        self,
        identity: dict[str, Any],
        images: int,
        ranks: int,
        behaviour: Behaviour | None = None,
    ) -> None:
        """Begin a measurement or go on with it. Raises ValueError for a part that has changed."""
        self.settings = settings_hash(identity)
        self.images = images
        function = identity["function"]
        with self.transaction():
            held = next(self._rows("measurements", "WHERE function = ?", function), None)
            if held and next(self._rows("blocks", "WHERE settings = ?", held[0]), None):
                refuse_change(json.loads(held[2]), identity, self.folder)
                if behaviour is not None:
                    refuse_other(Behaviour.from_text(held[3]), behaviour, self.folder)
            else:  # what never finished a block may have failed at its settings
                text = None if behaviour is None else behaviour.to_text()
                new = (self.settings, function, json.dumps(identity), text, images, None)
                sealed.put(self.db, "measurements", new)
            if (how := command.get()) is not None:
                sealed.put(self.db, "about", ("command", json.dumps(how)))
            last = self.db.execute("SELECT max(session) FROM sessions").fetchone()[0]
            self._session = (last or 0) + 1
            begun = (self._session, self.settings, ranks, time.time(), 0.0, 0, 0)
            sealed.put(self.db, "sessions", begun)
        self._started = time.perf_counter()

    def blocks_done(self) -> set[int]:
        with self._clear_errors():
            return {row[1] for row in self._rows("blocks", "WHERE settings = ?", self.settings)}

    def commit(self, block: int, first: int, rank: int, rows: Rows) -> None:
        """Write a finished block, whose images begin at position `first`."""
        data = rows.data
        images = [
            (self.settings, int(name), block, first + i, data[i].tobytes())
            for i, name in enumerate(rows.ids)
        ]
        about = (self.settings, block, len(images), rank, json.dumps(rows.provenance))
        seconds = time.perf_counter() - self._started
        with self.transaction():
            measurement = self._measurement()
            form = measurement[5]
            if form is None:
                sealed.put(self.db, "measurements", (*measurement[:5], rows.form))
            elif form != rows.form:
                raise RuntimeError("every block of a run must give records of one form")
            sealed.put(self.db, "images", *images)
            sealed.put(self.db, "blocks", about)
            session = next(self._rows("sessions", "WHERE session = ?", self._session))
            done, spent = session[5] + len(images), session[6] + rows.evaluations
            sealed.put(self.db, "sessions", (*session[:4], seconds, done, spent))

    def rows(self) -> Rows:
        """All images, by position. Raises ValueError where one is missing."""
        with self._clear_errors():
            form = self._measurement()[5]
            kind = layout(form)
            data = np.zeros(self.images, kind)
            position = -1
            query = "WHERE settings = ? ORDER BY position"
            for position, row in enumerate(self._rows("images", query, self.settings)):
                if row[3] != position or position >= self.images:
                    raise damaged(self.folder, f"image {position} is not in its place")
                data[position] = np.frombuffer(row[4], kind)[0]
            if position + 1 != self.images:
                raise damaged(self.folder, f"it holds {position + 1} of {self.images} images")
            blocks = self._rows("blocks", "WHERE settings = ? ORDER BY block", self.settings)
            parts = [json.loads(row[4]) for row in blocks]
            sessions = list(self._rows("sessions", "WHERE settings = ?", self.settings))
        seconds = sum(row[4] for row in sessions)
        return Rows(form, data, merged(parts, seconds, len(sessions)))

    def batch_size(self) -> int | None:
        """The largest batch that memory was enough for, if it once was not."""
        with self._clear_errors():
            blocks = self._rows("blocks", "WHERE settings = ?", self.settings)
            parts = [json.loads(row[4]) for row in blocks]
        halved = [part["batch_size"] for part in parts if ran_out(part["notes"])]
        return min(halved, default=None)

    def close(self) -> None:
        self.db.close()
        self._release()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _rows(self, table: str, which: str, *given: Any) -> Iterator[tuple[Any, ...]]:
        return sealed.rows(self.db, table, self.folder, which, *given)

    def _measurement(self) -> tuple[Any, ...]:
        found = next(self._rows("measurements", "WHERE settings = ?", self.settings), None)
        if found is None:
            raise damaged(self.folder, "the row of this measurement is missing")
        return found

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


def ran_out(notes: Sequence[str]) -> bool:
    """Whether a batch was halved for want of memory."""
    return any(note.startswith("out of memory") for note in notes)


def merged(parts: list[dict[str, Any]], seconds: float, sessions: int) -> dict[str, Any]:
    """One provenance for all blocks: each note once, the smallest batch, all sessions' time."""
    notes = dict.fromkeys(note for part in parts for note in part["notes"])
    blocks = f"measured in {counted(len(parts), 'block')}"
    if sessions > 1:
        blocks += f", {sessions} sessions"
    return parts[0] | {
        "seconds": seconds,
        "compile_seconds": sum(part["compile_seconds"] for part in parts),
        "batch_size": min(part["batch_size"] for part in parts),
        "randomized": any(part["randomized"] for part in parts),
        "notes": [*notes, blocks],
        "images": {name: image for part in parts for name, image in part["images"].items()},
    }
