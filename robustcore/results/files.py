"""Files that are written whole or not at all: every file of a user but the store of a run."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import IO


def write_whole(
    path: str | os.PathLike[str], fill: Callable[[IO[bytes]], object], *, name: str = "path"
) -> None:
    """Fill a file beside `path` and rename it to `path`, so that no reader sees a part of it.

    What `path` held before stays until then, also where space runs out. A link at `path` is
    replaced, not followed. Raises OSError naming the argument `name`.
    """
    target = Path(path)
    part = target.parent / f".{target.name}.{uuid.uuid4().hex}.part"
    try:
        if target.exists() and not target.is_file():  # else root would replace a device
            raise OSError(None, "it is a folder or a device")
        with part.open("x+b") as file:  # exclusive: follows no link
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    except OSError as error:
        reason = error.strerror or error
        message = f"{name} must be a file that can be written, but {target} is not ({reason})"
        raise OSError(error.errno, message) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
    _keep_name(target.parent)


def write_text(path: str | os.PathLike[str], text: str, *, name: str = "path") -> None:
    """Text in UTF-8, as `write_whole` writes."""
    write_whole(path, lambda file: file.write(text.encode()), name=name)


def _keep_name(folder: Path) -> None:
    """See that the new name outlives a loss of power, where the file system can be asked to."""
    with contextlib.suppress(OSError):
        entry = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(entry)
        finally:
            os.close(entry)


def unreadable(path: str | os.PathLike[str], why: str) -> ValueError:
    return ValueError(
        f"path must be a record that robustcore saved, but {os.fspath(path)} is not: {why}"
    )
