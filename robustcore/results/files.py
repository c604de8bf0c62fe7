"""The files of records: npz with its member record.json, written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import IO


def write_whole(path: str | os.PathLike[str], fill: Callable[[IO[bytes]], object]) -> None:
    """Fill a file beside `path` and rename it to `path`, so that no reader sees a part of it."""
    target = Path(path)
    part = target.parent / f".{target.name}.{uuid.uuid4().hex}.part"
    try:
        with part.open("w+b") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    except OSError as error:
        message = f"path must be a file that can be written, but {target} is not ({error.strerror})"
        raise OSError(error.errno, message) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def unreadable(path: str | os.PathLike[str], why: str) -> ValueError:
    return ValueError(
        f"path must be a record that robustcore saved, but {os.fspath(path)} is not: {why}"
    )
