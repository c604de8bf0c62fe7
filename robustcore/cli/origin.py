"""Whose command a run's folder holds, and whether the programs that it names are as they were.

`robustcore resume DIR` does what DIR says and runs the files that it names, with the user's rights.
So a command is signed, with a key that only this user has, when a run is begun.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import shlex
import tempfile
from pathlib import Path
from typing import Any

from robustcore.cli import models

KEY = "resume.key"
BYTES = 32


def signed(command: str, options: dict[str, Any]) -> dict[str, Any]:
    """What a run keeps of its command: options, programs as they are now, and a signature."""
    kept = {"command": command, "options": options, "programs": _hashes(options)}
    return kept | {"signature": _signature(kept)}


def check(folder: Path, kept: dict[str, Any], trusted: bool) -> None:
    """Show what `kept` would do; nothing is imported before. Raises ValueError where it must not.

    trusted: the user has looked at it.
    """
    programs = kept["programs"]
    says = f"`{_line(kept)}`" + "".join(f", which runs {path}" for path in programs)
    held = kept.get("signature")
    mine = held is not None and hmac.compare_digest(str(held), _signature(kept) or "")
    if not (mine or trusted):
        raise ValueError(
            f"run must be one that you began here, that in {folder} is not, or was changed: it "
            f"would do {says}. Read that, and give --trust if it may be done with your rights"
        )
    now = _hashes(kept["options"])
    changed = [path for path in {**programs, **now} if programs.get(path) != now.get(path)]
    if changed and not trusted:
        path = changed[0]
        raise ValueError(
            f"model must be the program that the run was begun with, but {path} has changed (its "
            f"sha256 was {programs.get(path)}, is {now.get(path)}): give --trust if it may be run; "
            "its answers are compared with those of the run before anything is measured"
        )
    if os.environ.get("RANK", "0") == "0":
        print(f"goes on with {says}")


def _hashes(options: dict[str, Any]) -> dict[str, str]:
    """sha256 of the files that are run, by path."""
    names = options.get("model") or []
    several = names if isinstance(names, list) else [names]
    paths = [path for name in several if (path := models.program(str(name))) is not None]
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.is_file()
    }


def _line(kept: dict[str, Any]) -> str:
    words = ["robustcore", str(kept["command"])]
    for name, value in kept["options"].items():
        flag = f"--{name.replace('_', '-')}"
        value = value["path"] if isinstance(value, dict) else value
        if value is None or value is False:
            continue
        words.append(flag)
        if value is not True:
            words += map(str, value if isinstance(value, list) else [value])
    return shlex.join(words)


def _signature(kept: dict[str, Any]) -> str | None:
    key = _key()
    if key is None:
        return None
    content = {name: kept[name] for name in ("command", "options", "programs")}
    text = json.dumps(content, sort_keys=True).encode()
    return hmac.new(key, text, hashlib.sha256).hexdigest()


def _key() -> bytes | None:
    """This user's, made when it is first wanted; None where it cannot be kept."""
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    path = state / "robustcore" / KEY
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.NamedTemporaryFile(dir=path.parent) as file:  # for this user alone
                file.write(secrets.token_bytes(BYTES))
                file.flush()
                with contextlib.suppress(FileExistsError):  # another process was first
                    path.hardlink_to(file.name)
        key = path.read_bytes()
    except (OSError, RuntimeError):  # no home
        return None
    return key if len(key) == BYTES else None
