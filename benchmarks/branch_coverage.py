"""Branch coverage of each room of the package, with the processes that tests start.

    python benchmarks/branch_coverage.py                  # all tests; results/branch_coverage.json
    python benchmarks/branch_coverage.py --rooms runs tests/test_runs*.py tests/test_ranks.py

A branch is a place and where the code may go on from there; a test that never goes one of the ways
leaves it uncovered. Bodies in Triton's language and in CUDA, which run on a GPU, are left out.
Processes that are killed tell nothing of what they executed. The result keeps earlier calls.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from machine import machine

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "branch_coverage.json"
SETTINGS = """
[run]
branch = True
parallel = True
source_pkgs = robustcore
patch = subprocess, _exit
data_file = {folder}/data
omit =
    */triton*.py
    */cuda*.py
"""


def measured(arguments: list[str]) -> tuple[int, dict[str, Any]]:
    """(pytest's exit code, coverage's report of every file)."""
    with tempfile.TemporaryDirectory() as folder:
        settings, report = Path(folder, "settings"), Path(folder, "report.json")
        settings.write_text(SETTINGS.format(folder=folder))
        coverage = [sys.executable, "-m", "coverage"]
        told = ["--rcfile", str(settings)]
        pytest = ["-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
        code = subprocess.run([*coverage, "run", *told, *pytest], cwd=ROOT).returncode
        for command in (["combine", "-q"], ["json", "-q", "-o", str(report)]):
            subprocess.run([*coverage, *command, *told], cwd=ROOT, check=True)
        return code, json.loads(report.read_text())["files"]


def by_room(files: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Folders of the package, and its modules that are in none."""
    rooms: dict[str, list[dict[str, int]]] = {}
    for name, file in files.items():
        parts = Path(name).parts
        room = parts[len(parts) - parts[::-1].index("robustcore")]
        rooms.setdefault(room.removesuffix(".py"), []).append(file["summary"])
    return {room: summary(files) for room, files in sorted(rooms.items())}


def summary(files: list[dict[str, int]]) -> dict[str, Any]:
    branches, covered, lines, executed = (
        sum(file[name] for file in files)
        for name in ("num_branches", "covered_branches", "num_statements", "covered_lines")
    )
    return {
        "branches": branches,
        "covered": covered,
        "share": round(covered / branches, 4) if branches else None,
        "share_of_lines": round(executed / lines, 4) if lines else None,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rooms", nargs="+", help="the rooms to keep; all unless given")
    parser.add_argument("tests", nargs="*", default=[], help="files of tests; all unless given")
    options, more = parser.parse_known_args()
    code, files = measured([*options.tests, *more])
    rooms = by_room(files)
    for name in sorted(files):
        missing = files[name]["missing_branches"]
        room = Path(name.rpartition("robustcore/")[2]).parts[0].removesuffix(".py")
        if missing and (options.rooms is None or room in options.rooms):
            print(f"{name}: {', '.join(f'{a} to {b}' for a, b in missing)}")
    result = {
        "command": shlex.join(["python", "benchmarks/branch_coverage.py", *sys.argv[1:]]),
        "machine": machine(),
        "pytest": code,
        "rooms": {room: rooms[room] for room in options.rooms or rooms},
    }
    if options.rooms is None:
        result["all"] = summary([file["summary"] for file in files.values()])
    kept = json.loads(RESULT.read_text())["calls"] if RESULT.exists() else []
    kept = [call for call in kept if call["command"] != result["command"]]
    RESULT.write_text(json.dumps({"calls": [*kept, result]}, indent=1) + "\n")
    print(json.dumps(result["rooms"], indent=1))
    return code


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
