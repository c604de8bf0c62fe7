"""robustcore runs: how far runs are, how fast, and how long they will take."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from robustcore import runs
from robustcore.cli.common import print_table

ABOUT = "how far a run is, how fast, and the time left"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="given as --run")


def run(args: argparse.Namespace) -> int:
    found = [(folder, each) for folder in args.folders for each in runs.progress(folder)]
    if not found:
        print("nothing was begun yet")
        return 0
    print_table(
        {
            "run": [str(folder) for folder, _ in found],
            "measure": [each.function for _, each in found],
            "images": [f"{each.images:,} of {each.total:,}" for _, each in found],
            "evaluations": [f"{each.evaluations:,}" for _, each in found],
            "images/s": [_rate(each.images_per_second) for _, each in found],
            "evaluations/s": [_rate(each.evaluations_per_second) for _, each in found],
            "processes": [str(each.ranks) for _, each in found],
            "time": [_span(each.seconds) for _, each in found],
            "left": [_span(each.seconds_left) for _, each in found],
            "state": [_state(each) for _, each in found],
        }
    )
    return 0


def _state(each: runs.Progress) -> str:
    if each.images == each.total:
        return "finished"
    return "running" if each.running else "stopped"


def _rate(value: float) -> str:
    return (
        "-"
        if math.isnan(value) or value == 0
        else f"{value:,.3g}"
        if value < 10
        else f"{value:,.0f}"
    )


def _span(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
