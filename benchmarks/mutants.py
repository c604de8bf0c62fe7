"""Mutation test: do the tests notice when the code is nearly right?

    make mutants                                  # 40 mutants, results/mutants.json
    python benchmarks/mutants.py --count 100 --seed 7

A mutant is the package with one plausible slip: a sign, a comparison, a rank, an axis, a stream, a
tail, a clone, clamp, mask or option left out. Rooms, kinds and places are drawn from a seed. The
quick tests that execute the mutated line, cheapest first, run until one fails. The first call
records which test executes which line (about 15 minutes); later calls reuse it until a source or a
test changes.

A mutant that changes no answer is equivalent: mutants_equivalent.json names it and says why.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from queue import Queue
from typing import Any

from machine import machine

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "mutants"
RESULT = ROOT / "benchmarks" / "results" / "mutants.json"
EQUIVALENT = ROOT / "benchmarks" / "mutants_equivalent.json"
SINGLE = ["search", "attack", "distance", "concentration", "rare", "corruptions", "results", "runs"]
ROOMS = {
    "engine": ["evaluator", "network", "rounds", "batches", "gradients", "precision"],
    "door": ["inputs", "noise"],
    "statistics": ["stats", "geometry"],
    "certify": ["certify"],
    "slices": ["slices"],
    **{room: [room] for room in SINGLE},
}
NOT_RUN_HERE = ("triton", "cuda")  # bodies that only a process of their own, or a GPU, executes
BUDGET = 120.0  # seconds of tests, as they took alone, for one mutant
COMPARISONS = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Is: "is not",
    ast.IsNot: "is",
}
OPPOSITES = {
    "argmax": "argmin",
    "amax": "amin",
    "max": "min",
    "floor": "ceil",
    "sf": "cdf",
    "any": "all",
    "maximum": "minimum",
    "searchsorted": "digitize",
}
OPPOSITES |= {value: key for key, value in OPPOSITES.items()}
REDUCTIONS = {"sum", "amax", "amin", "max", "min", "argmax", "argmin", "mean", "all", "any"}
REDUCTIONS |= {"cat", "concatenate", "stack", "cumsum", "sort", "argsort", "norm", "flip"}
COPIES = {"clone", "copy", "detach", "contiguous"}
CLAMPS = {"clamp", "clip", "minimum", "maximum", "min", "max", "nan_to_num"}
PLACES = {"device", "dtype"}  # options that no test without a GPU can miss
NAMED_DRAWS = {"seed", "stream", "ids", "sample", "samples"}


@dataclass(frozen=True)
class Mutant:
    file: str
    line: int
    column: int
    kind: str
    before: str
    after: str

    def applied(self, source: str) -> str:
        lines = source.splitlines(keepends=True)
        start = sum(len(line) for line in lines[: self.line - 1]) + self.column
        assert source[start:].startswith(self.before)
        return source[:start] + self.after + source[start + len(self.before) :]


def mutants_of(path: Path) -> list[Mutant]:
    source = path.read_text()
    return list(_Mutator(str(path.relative_to(ROOT)), source).all())


class _Mutator:
    """Every mutant of one file."""

    def __init__(self, file: str, source: str) -> None:
        self.file, self.source = file, source
        self.tree = ast.parse(source)

    def all(self) -> Iterator[Mutant]:
        yield from self._within(self.tree)

    def _within(self, node: ast.AST) -> Iterator[Mutant]:
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if not isinstance(child, ast.AST) or _is_wording(child):
                    continue
                for kind, after in self._slips(child):
                    yield self._mutant(child, kind, after)
                yield from self._within(child)

    def _mutant(self, node: Any, kind: str, after: str) -> Mutant:
        # columns are of UTF-8 bytes; the sources of the package are ASCII where it matters
        return Mutant(self.file, node.lineno, node.col_offset, kind, self._text(node), after)

    def _text(self, node: ast.AST) -> str:
        return ast.get_source_segment(self.source, node) or ""

    def _slips(self, node: ast.AST) -> Iterator[tuple[str, str]]:
        text = self._text
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            after = COMPARISONS.get(type(node.ops[0]))
            if after is not None:
                yield "comparison", f"{text(node.left)} {after} {text(node.comparators[0])}"
        elif isinstance(node, ast.BinOp):
            yield from self._arithmetic(node)
        elif isinstance(node, ast.UnaryOp):
            if isinstance(node.op, ast.USub) and not isinstance(node.operand, ast.Constant):
                yield "sign", text(node.operand)
            if isinstance(node.op, (ast.Invert, ast.Not)):
                yield "mask", text(node.operand)
        elif isinstance(node, ast.BoolOp):
            joint = " or " if isinstance(node.op, ast.And) else " and "
            yield "mask", "(" + joint.join(f"({text(value)})" for value in node.values) + ")"
        elif isinstance(node, ast.Constant) and type(node.value) is int:
            yield "rank", str(node.value + 1)
        elif isinstance(node, ast.Call):
            yield from self._call(node)
        elif isinstance(node, ast.Name) and node.id in ("confidence", "alpha"):
            if isinstance(node.ctx, ast.Load):
                one_sided = {"confidence": "(2 * confidence - 1)", "alpha": "(2 * alpha)"}
                yield "tail", one_sided[node.id]
        elif isinstance(node, (ast.AugAssign, ast.Expr)):
            value = node.value
            if not (isinstance(node, ast.Expr) and isinstance(value, (ast.Constant, ast.Yield))):
                yield "line dropped", "pass"

    def _arithmetic(self, node: ast.BinOp) -> Iterator[tuple[str, str]]:
        left, right = self._text(node.left), self._text(node.right)
        two = isinstance(node.right, ast.Constant) and node.right.value == 2
        signs = {ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*"}
        if type(node.op) in signs:
            yield "sign", f"({left} {signs[type(node.op)]} ({right}))"
        if isinstance(node.op, ast.Div) and two:
            yield "tail", left
        if isinstance(node.op, (ast.BitAnd, ast.BitOr)):
            yield "mask", left
            yield "mask", right

    def _call(self, node: ast.Call) -> Iterator[tuple[str, str]]:
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        method = isinstance(function, ast.Attribute)
        whole = self._text(node)
        receiver = self._text(function.value) if isinstance(function, ast.Attribute) else ""
        of_module = receiver in ("np", "torch", "math", "F")
        if name in OPPOSITES and (method or len(node.args) > 1):
            yield "opposite", self._replaced(node, function, name, OPPOSITES[name])
        if name in COPIES and method and not of_module and not node.args:
            yield "copy dropped", receiver
        if name in CLAMPS and (of_module or not method) and len(node.args) > 1:
            for argument in node.args[:2]:
                yield "clamp dropped", self._text(argument)
        elif name in CLAMPS and method and node.args and not of_module:
            yield "clamp dropped", receiver
        if name == "where" and len(node.args) == 3:
            condition, a, b = (self._text(argument) for argument in node.args)
            yield "mask", f"{self._text(function)}({condition}, {b}, {a})"
        for keyword in node.keywords:
            if keyword.arg is None:
                continue
            value = self._text(keyword.value)
            text = f"{keyword.arg}={value}"
            if keyword.arg in NAMED_DRAWS and whole.count(text) == 1:
                yield "stream", whole.replace(text, f"{keyword.arg}=0 * ({value})")
            elif keyword.arg in PLACES:
                continue
            elif value.rpartition(".")[2] == keyword.arg and whole.count(text) == 1:
                left_out = whole.replace(text + ", ", "").replace(", " + text, "")
                if left_out != whole:
                    yield "option dropped", left_out
        axis = node.args[-1] if node.args else None
        two_numbers = not method and name in ("max", "min")
        if (
            name in REDUCTIONS
            and not two_numbers
            and isinstance(axis, ast.Constant)
            and axis.value in (0, 1)
        ):
            other = whole.rpartition(str(axis.value))
            yield "axis", f"{other[0]}{1 - axis.value}{other[2]}"

    def _replaced(self, node: ast.Call, function: ast.AST, name: str, other: str) -> str:
        before = self._text(function)
        return before.removesuffix(name) + other + self._text(node).removeprefix(before)


def _is_wording(node: ast.AST) -> bool:
    """What words an error, a warning, a note or the progress bar."""
    if isinstance(node, (ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom)):
        return True
    if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Call):
        return False
    called = ast.unparse(node.value.func)
    return called.endswith(("warn", "set_postfix_str", ".update", "print", "notes.append"))


def drawn(count: int, seed: int) -> list[Mutant]:
    """Rooms in turn; in a room a kind is drawn, then one of its places, none twice."""
    chance = random.Random(seed)
    rooms: dict[str, dict[str, list[Mutant]]] = {}
    for room, names in ROOMS.items():
        kinds = rooms.setdefault(room, {})
        for name in names:
            path = ROOT / "robustcore" / name
            for file in sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]:
                if file.stem.startswith(NOT_RUN_HERE):
                    continue
                for mutant in mutants_of(file):
                    kinds.setdefault(mutant.kind, []).append(mutant)
    found: list[Mutant] = []
    while len(found) < count:
        for kinds in rooms.values():
            places = kinds[chance.choice(sorted(kind for kind in kinds if kinds[kind]))]
            found.append(places.pop(chance.randrange(len(places))))
    return found[:count]


# -- which test executes which line ----------------------------------------------------------


def environment(tree: Path) -> dict[str, str]:
    quiet = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "PYTHONDONTWRITEBYTECODE": "1"}
    return {**os.environ, **quiet, "PYTHONPATH": str(tree)}


def copied(tree: Path) -> Path:
    """The sources, the tests and the built extensions, in a folder of their own."""
    shutil.rmtree(tree, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    import robustcore

    built = Path(robustcore.__file__).parent.glob("*.so")
    for name in listed.stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)
    for extension in built:
        shutil.copy2(extension, tree / "robustcore")
    data = tree.parent / "shared"
    if not data.is_symlink():
        data.symlink_to(ROOT.parent / "shared")
    return tree


def quick_tests(tree: Path, *more: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow"]
    return subprocess.run(
        [*command, *more],
        cwd=tree,
        env=environment(tree),
        capture_output=True,
        text=True,
        **options,
    )


class Map:
    """Seconds of each quick test, and the tests that execute each line."""

    def __init__(self) -> None:
        state = sha256()
        for file in sorted([*ROOT.glob("robustcore/**/*.py"), *ROOT.glob("tests/*.py")]):
            state.update(file.read_bytes())
        self.folder = WORK / state.hexdigest()[:12]
        if not (self.folder / "seconds.json").exists():
            self._record()
        self.seconds: dict[str, float] = json.loads((self.folder / "seconds.json").read_text())

    def _record(self) -> None:
        print("recording which test executes which line", flush=True)
        tree = copied(WORK / "trees" / "map")
        self.folder.mkdir(parents=True, exist_ok=True)
        done = quick_tests(
            tree,
            "--cov=robustcore",
            "--cov-context=test",
            "--cov-report=",
            "--junitxml=tests.xml",
            "-o",
            "junit_family=xunit1",
        )
        if done.returncode != 0:
            raise SystemExit(f"the quick tests must pass before mutants are tried:\n{done.stdout}")
        seconds = {}
        for case in ElementTree.parse(tree / "tests.xml").iter("testcase"):
            seconds[f"{case.get('file')}::{case.get('name')}"] = float(case.get("time") or 0)
        shutil.copy2(tree / ".coverage", self.folder / "coverage.sqlite")
        (self.folder / "seconds.json").write_text(json.dumps(seconds))

    def tests(self, mutant: Mutant) -> list[str]:
        """Those that execute the line; of a line that runs at import, the file."""
        query = """SELECT context.context, line_bits.numbits FROM line_bits
            JOIN file ON file.id = line_bits.file_id JOIN context ON context.id = context_id
            WHERE file.path LIKE ?"""
        with sqlite3.connect(self.folder / "coverage.sqlite") as db:
            rows = db.execute(query, (f"%/{mutant.file}",)).fetchall()
        executed, anywhere = set(), set()
        byte, bit = divmod(mutant.line, 8)
        for context, bits in rows:
            test = context.partition("|")[0]
            if test not in self.seconds:
                continue
            anywhere.add(test)
            if byte < len(bits) and bits[byte] & (1 << bit):
                executed.add(test)
        return sorted(executed or anywhere, key=lambda test: self.seconds[test])


# -- trying ----------------------------------------------------------------------------------


def tried(mutant: Mutant, known: Map, tree: Path) -> dict[str, Any]:
    """The mutant with the test that failed, or None where it survived."""
    chosen, total = [], 0.0
    for test in known.tests(mutant):
        total += known.seconds[test]
        if total > BUDGET and chosen:
            break
        chosen.append(test)
    record = {**asdict(mutant), "tests": len(chosen), "killed_by": None}
    if not chosen:
        return record
    path = tree / mutant.file
    source = path.read_text()
    path.write_text(mutant.applied(source))
    start = time.monotonic()
    (tree / "chosen.txt").write_text("\n".join(chosen))
    try:
        done = quick_tests(tree, "-x", "@chosen.txt", timeout=60 + 10 * min(total, BUDGET))
        if done.returncode != 0:
            failed = [
                line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))
            ]
            record["killed_by"] = failed[0].split(" - ")[0] if failed else "import"
    except subprocess.TimeoutExpired:
        record["killed_by"] = "timeout"
    finally:
        path.write_text(source)
    record["seconds"] = round(time.monotonic() - start, 1)
    return record


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--list", action="store_true", help="print the mutants, try none")
    options = parser.parse_args()
    mutants = drawn(options.count, options.seed)
    if options.list:
        for mutant in mutants:
            print(f"{mutant.file}:{mutant.line}: {mutant.kind}: {mutant.before} -> {mutant.after}")
        return 0
    known = Map()
    trees: Queue[Path] = Queue()
    for worker in range(options.workers):
        trees.put(copied(WORK / "trees" / str(worker)))

    def attempt(mutant: Mutant) -> dict[str, Any]:
        tree = trees.get()
        try:
            record = tried(mutant, known, tree)
        finally:
            trees.put(tree)
        told = record["killed_by"] or f"SURVIVED {record['tests']} tests"
        print(f"{mutant.file}:{mutant.line}: {mutant.before} -> {mutant.after}: {told}", flush=True)
        return record

    with ThreadPoolExecutor(options.workers) as pool:
        records = list(pool.map(attempt, mutants))
    reasons = {
        (entry["file"], entry["before"], entry["after"]): entry["reason"]
        for entry in json.loads(EQUIVALENT.read_text())
    }
    for record in records:
        reason = reasons.get((record["file"], record["before"], record["after"]))
        if record["killed_by"] is None and reason is not None:
            record["equivalent"] = reason
    survived = [record for record in records if record["killed_by"] is None]
    real = [record for record in survived if "equivalent" not in record]
    counted = len(records) - len(survived) + len(real)
    summary = {
        "command": f"python benchmarks/mutants.py --count {options.count} --seed {options.seed}",
        "machine": machine(),
        "mutants": len(records),
        "equivalent": len(survived) - len(real),
        "killed": len(records) - len(survived),
        "share_killed": round((len(records) - len(survived)) / max(1, counted), 4),
        "survivors": dict(Counter(record["kind"] for record in real)),
    }
    RESULT.write_text(json.dumps({**summary, "records": records}, indent=1) + "\n")
    print(json.dumps(summary, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
