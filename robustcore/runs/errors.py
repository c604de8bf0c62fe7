"""What can be wrong with a run itself, rather than with what it measures."""

from __future__ import annotations

import contextlib
import errno
import sqlite3
from collections.abc import Iterator
from pathlib import Path

FILE = "run.sqlite"


class RunError(Exception):
    """Of a run that cannot go on as it was asked to; each is a ValueError or a RuntimeError too."""


class Changed(RunError, ValueError):
    """Model, data or settings are not those of the run."""


class Damaged(RunError, ValueError):
    """The file is not whole, or not a run's."""


class InUse(RunError, RuntimeError):
    """Another process writes to the run."""


@contextlib.contextmanager
def clear_errors(folder: Path | None) -> Iterator[None]:
    """SQLite's errors as what they mean to the user."""
    try:
        yield
    except UnicodeDecodeError as error:  # SQLite quotes what it could not read
        raise damaged(folder, "a text in it is not UTF-8") from error
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "") or ""
        text = str(error)
        if "full" in text or name.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
            code = errno.ENOSPC if "full" in text else errno.EIO
            raise OSError(
                code,
                f"run must be a folder with room for its results, but {folder} has none or cannot "
                f"be written ({text}). The images stored before are kept: make room, and resume",
            ) from error
        if "readonly" in text or "unable to open" in text:
            raise PermissionError(
                f"run must be a folder that can be written, was {folder}: {text}"
            ) from error
        if "locked" in text:
            raise InUse(f"run must not be in use, {folder} is: {text}") from error
        if text.startswith("Could not decode"):  # and the text itself follows
            text = "a text is not what was written"
        raise damaged(folder, text) from error


def damaged(folder: Path | None, why: str) -> Damaged:
    return Damaged(
        f"run must hold a whole file, but {folder}/{FILE} is damaged or another kind of file "
        f"({why}). It was left as it is: robustcore resume --repair saves what can be read"
    )
