"""The robustcore command: each subcommand is one call of the library, with its results on disk."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from robustcore.cli import corruptions, devices, distance, report, sigma, train
from robustcore.cli.common import LAYOUT, options

MEASURES = {
    "sigma": sigma,
    "distance": distance,
    "corruptions": corruptions,
}  # these share the options of `common`
OTHERS = {"report": report, "train": train, "devices": devices}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit status: 0, 2 for bad input, 130 when interrupted."""
    args = _parser().parse_args(argv)
    try:
        return int(args.run(args))
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        print(f"robustcore: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("robustcore: interrupted, nothing was written", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="robustcore", description="Measure how robust an image classifier is."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    shared = options()
    for name, command in (MEASURES | OTHERS).items():
        parents = [shared] if name in MEASURES else []
        each = commands.add_parser(
            name, parents=parents, help=command.ABOUT, formatter_class=LAYOUT
        )
        command.add_options(each)
        each.set_defaults(run=command.run)
    return parser
