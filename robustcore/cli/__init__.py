"""The robustcore command: each subcommand is one call of the library, with its results on disk."""

from __future__ import annotations

import argparse
import functools
import os
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version

from robustcore import blame
from robustcore.cli import (
    certify,
    corruptions,
    curve,
    devices,
    distance,
    noisy,
    report,
    resume,
    runs,
    sigma,
    train,
)
from robustcore.cli.common import LAYOUT, options

MEASURES = {
    "sigma": sigma,
    "distance": distance,
    "curve": curve,
    "noisy": noisy,
    "certify": certify,
    "corruptions": corruptions,
}  # these share the options of `common`
KEPT = MEASURES | {"report": report}  # what `resume` goes on with
OTHERS = {"train": train, "resume": resume, "runs": runs, "devices": devices}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit status: 0, 2 for bad input or a model that fails.

    1 is that of a report some of whose sections failed, 130 of a command that was interrupted.
    """
    args = _parser().parse_args(argv)
    status = _status(args)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        # gloo's threads may outlive the interpreter and abort it, with all results on disk
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _status(args: argparse.Namespace) -> int:
    rank = f", rank {each}" if (each := os.environ.get("RANK", "0")) != "0" else ""
    try:
        return int(args.run(args))
    except Exception as error:
        if args.traceback:
            traceback.print_exc()
        print(f"robustcore{rank}: {_words(error, args)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print(f"robustcore{rank}: interrupted, {error or 'nothing was written'}", file=sys.stderr)
        return 130


def _words(error: Exception, args: argparse.Namespace) -> str:
    """One sentence: ours as it is, another's with its type, and the model where that failed."""
    if blame.is_ours(error):
        return str(error)
    more = "" if args.traceback else " (--traceback shows where)"
    if blame.is_of_model(error):
        name = getattr(args, "model", None)  # `resume` has none: its run holds it
        failed = f"--model {name} failed" if isinstance(name, str) else "the model failed"
        return f"{failed}: {blame.sentence(error)}{more}"
    return f"{blame.sentence(error)}{more}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="robustcore", description="Measure how robust an image classifier is."
    )
    parser.add_argument(
        "--version", action="version", version=f"robustcore {version('robustcore')}"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    shared = options()
    for name, command in (KEPT | OTHERS).items():
        parents = [shared] if name in MEASURES else []
        each = commands.add_parser(
            name, parents=parents, help=command.ABOUT, formatter_class=LAYOUT
        )
        command.add_options(each)
        each.add_argument("--traceback", action="store_true", help="show where an error came up")
        shares = functools.partial(resume.carry_out, name, command.run)
        each.set_defaults(run=shares if name in KEPT else command.run)
    return parser
