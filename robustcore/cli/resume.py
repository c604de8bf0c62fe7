"""robustcore resume: a run goes on as it was begun. Also: how a command is kept and shared."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from robustcore import inputs, runs
from robustcore.cli import models, origin

ABOUT = "go on with an interrupted run, with the model, data and settings that it was begun with"
Command = Callable[[argparse.Namespace], int]


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("kept", type=Path, metavar="DIR", help="the folder given as --run")
    add("--out", type=Path, help="another folder for the results")
    add("--device", help="another device of the same type")
    how = "run what DIR names though you did not begin it here, or its program has changed"
    add("--trust", action="store_true", help=how)
    add("--repair", action="store_true", help="first save what can be read of a damaged file")


def run(args: argparse.Namespace) -> int:
    from robustcore.cli import KEPT  # which imports this file

    if args.repair:
        saved, total = runs.repair(args.kept)
        print(f"saved {saved:,} of {total:,} images; the damaged file is beside them")
    how = runs.command_of(args.kept)
    if how.get("command") not in KEPT or "programs" not in how:
        raise ValueError(f"run must be one of this version's commands, that in {args.kept} is not")
    origin.check(args.kept, how, args.trust)
    values = {
        name: Path(value["path"]) if isinstance(value, dict) else value
        for name, value in how["options"].items()
    }
    given = {name: value for name in ("out", "device") if (value := getattr(args, name))}
    again = argparse.Namespace(**(values | given), kept=args.kept)
    return carry_out(how["command"], KEPT[how["command"]].run, again)


def carry_out(name: str, command: Command, args: argparse.Namespace) -> int:
    """Run a command that measures, with the processes that torchrun started, so that it can resume.

    Paths are kept whole, so that the run can go on from another folder.
    """
    options = {
        each: _whole(each, value)
        for each, value in vars(args).items()
        if each not in ("kept", "run", "traceback") and not callable(value)
    }
    kept = None if args.kept is None else origin.signed(name, options)
    token = runs.command.set(kept)
    try:
        with runs.together(inputs.device("--device", args.device)) as device:
            args.device = str(device)
            return command(args)
    finally:
        runs.command.reset(token)


def _whole(name: str, value: Any) -> Any:
    """An option as a JSON value, with whole paths; a path by itself is marked as one."""
    if isinstance(value, Path):
        return {"path": str(value.resolve())}
    if name == "model":
        several = isinstance(value, list)
        return [models.whole(each) for each in value] if several else models.whole(value)
    if name == "data" and value is not None and Path(value).exists():
        return str(Path(value).resolve())
    return value
