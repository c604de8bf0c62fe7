"""One process at a time writes to the folder of a run."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from robustcore.runs.errors import InUse

LOCK = "run.lock"
mine: set[Path] = set()  # folders that this process writes to: a file lock does not see them


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """The folder, made if need be, with a lock that ends with this process, however it ends."""
    where = folder.resolve()
    if where in mine:  # before the file is opened: closing it again would give up the lock
        raise InUse(f"run must not be in use, {folder} is by this very process")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        message = f"run must be a folder that can be written, was {folder}: {error.strerror}"
        raise OSError(error.errno, message) from None
    try:
        _take(lock, folder)
        mine.add(where)
        yield
    finally:
        mine.discard(where)
        os.close(lock)


def _take(lock: int, folder: Path) -> None:
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        owner = os.pread(lock, 200, 0).decode(errors="replace").strip() or "another process"
        raise InUse(
            f"run must not be in use, {folder} is by {owner}: wait for it, or give another folder"
        ) from None
    with contextlib.suppress(OSError):  # on a full disk the name of the owner is not worth a run
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)


def in_use(folder: Path) -> bool:
    """Whether a process writes to the run now."""
    if folder.resolve() in mine:  # to open its lock here would give it up
        return True
    try:
        lock = os.open(folder / LOCK, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False
