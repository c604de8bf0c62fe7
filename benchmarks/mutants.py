"""Mutation test: do the tests notice when the code is nearly right?

    make mutants                                  # 40 mutants, results/mutants.json
    python benchmarks/mutants.py --count 100 --seed 7

A mutant is the package with one plausible slip: a sign, a comparison, a rank, an axis, a stream, a
tail, a clone, clamp, mask or option left out. Rooms, kinds and places are drawn from a seed. The
quick tests that execute the mutated line, cheapest first, run until one fails. The first call
records which test executes which line (about 15 minutes); later calls reuse it until a source or a
test changes. A call that was stopped goes on where it was. The result keeps every sample drawn.

A mutant that changes no answer is equivalent: mutants_equivalent.json names it, by its file, the
line of source, what stood there and what stands there now, and says why.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from functools import cache
from hashlib import sha256
from pathlib import Path
from queue import Queue
from threading import Lock
from typing import Any

from machine import machine

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "mutants"
RESULT = ROOT / "benchmarks" / "results" / "mutants.json"
EQUIVALENT = ROOT / "benchmarks" / "mutants_equivalent.json"
SINGLE = ["search", "attack", "distance", "concentration", "rare", "corruptions", "results", "runs"]
ROOMS = {
    "engine": ["engine", "evaluator", "network", "rounds", "batches", "gradients", "precision"],
    "door": ["inputs", "noise", "errors", "sigma"],
    "statistics": ["stats", "geometry"],
    "certify": ["certify"],
    "slices": ["slices"],
    **{room: [room] for room in SINGLE},
}
NOT_RUN_HERE = ("triton", "cuda")  # bodies that only a process of their own, or a GPU, executes
ADDRESS = re.compile("0x[0-9a-f]{6}")
BUDGET = 40.0  # processor seconds of tests for one mutant
LIMIT, SLOWER = 120.0, 10.0  # seconds that a mutant may take: some, and so many times its tests'
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
# Files of tests that mutants are not tried on: those of rooms that none is drawn from, and of
# statistics that exact tests hold too. So fewer are killed here than the suite would kill.
LEFT_OUT = tuple(
    f"test_{name}"
    for name in (
        *("architecture", "cli", "core", "cuda", "defenses", "examples", "fused_descent", "fuzz"),
        *("fused_pack", "fused_triton", "gpu", "imagenet", "kernels", "memory", "notebook"),
        *("numbers", "plot", "pool", "rare.", "readme", "report", "sigma.", "sources"),
        *("training", "triton", "corruptions_triton", "zoo"),
    )
)
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
        self.file, self.tree = file, ast.parse(source)
        self.lines = source.encode().splitlines(keepends=True)  # columns are of bytes

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
        # the sources of the package are ASCII where it matters
        return Mutant(self.file, node.lineno, node.col_offset, kind, self._text(node), after)

    def _text(self, node: Any) -> str:
        """Its source; ast.get_source_segment splits the whole file at every call."""
        lines = self.lines[node.lineno - 1 : node.end_lineno]
        lines[-1] = lines[-1][: node.end_col_offset]
        lines[0] = lines[0][node.col_offset :]
        return b"".join(lines).decode()

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
                if isinstance(argument, ast.Starred):
                    continue
                alone = isinstance(argument, (ast.Name, ast.Attribute, ast.Subscript, ast.Call))
                kept = self._text(argument)
                yield "clamp dropped", kept if alone else f"({kept})"
        elif name in CLAMPS - REDUCTIONS and method and node.args and not of_module:
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

    built = list(Path(robustcore.__file__).parent.glob("*.so"))
    if not built:
        raise SystemExit(f"{robustcore.__file__} has no built extensions: install the package")
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


class Tests:
    """Runs quick tests in a copy of the package, each time in a fresh process."""

    def __init__(self, name: str) -> None:
        self.tree = copied(WORK / "trees" / name)
        self.server = subprocess.Popen(
            [sys.executable, str(ROOT / "benchmarks" / "forked_pytest.py")],
            cwd=self.tree,
            env=environment(self.tree),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, *tests: str, limit: float = 3600.0) -> dict[str, Any] | None:
        """Exit code, seconds of each test, and those that failed; None at the limit."""
        (self.tree / "chosen.txt").write_text("\n".join(tests))
        options = [
            "-q",
            "-p",
            "no:cacheprovider",
            "-m",
            "not slow",
            "-o",
            "addopts=",
            "@chosen.txt",
        ]
        record = self.tree / "record.json"
        request = {"arguments": options, "limit": limit, "said": "said.txt", "record": str(record)}
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        print(json.dumps(request), file=self.server.stdin, flush=True)
        if self.server.stdout.readline().strip() != "done":
            return None
        if not record.exists():  # the process ended, pytest did not
            return {"code": 3, "seconds": {}, "failed": []}
        return json.loads(record.read_text())

    @property
    def said(self) -> str:
        return (self.tree / "said.txt").read_text(errors="replace")


def in_turn(workers: list[Tests], body: Callable[[Tests, Any], Any], tasks: Iterable[Any]) -> list:
    """body(worker, task) for every task, by whichever worker is free."""
    free: Queue[Tests] = Queue()
    for worker in workers:
        free.put(worker)

    def one(task: Any) -> Any:
        worker = free.get()
        try:
            return body(worker, task)
        finally:
            free.put(worker)

    with ThreadPoolExecutor(len(workers)) as pool:
        return list(pool.map(one, tasks))


class Map:
    """Seconds of each quick test, and the tests that execute each line.

    A file of tests is recorded once, and again when it changes or what it imports from tests/. Of
    a source that has changed since, lines are followed: a mutant is tried on the tests that
    executed its line, or the one before it, as it was.
    """

    def __init__(self, workers: list[Tests]) -> None:
        self.sources = self._sources()
        self.folders = [
            WORK / "executed" / f"{file.stem}-{_state(file)}"
            for file in sorted(ROOT.glob("tests/test_*.py"))
            if not file.name.startswith(LEFT_OUT)
        ]
        new = [folder for folder in self.folders if not (folder / "seconds.json").exists()]
        if new:
            print(f"recording which test of {len(new)} files executes which line", flush=True)
            in_turn(workers, self._record, new)
        self.seconds: dict[str, float] = {}
        for folder in self.folders:
            self.seconds |= json.loads((folder / "seconds.json").read_text())
        state = sha256("".join(folder.name for folder in self.folders).encode())
        state.update(self.sources.name.encode())
        self.name = state.hexdigest()[:12]

    @staticmethod
    def _sources() -> Path:
        """A copy of the package as it is now."""
        files = sorted(ROOT.glob("robustcore/**/*.py"))
        state = sha256(b"".join(file.read_bytes() for file in files))
        folder = WORK / "sources" / state.hexdigest()[:12]
        for file in files:
            kept = folder / file.relative_to(ROOT)
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, kept)
        return folder

    def _record(self, worker: Tests, folder: Path) -> None:
        file = f"tests/{folder.name.rpartition('-')[0]}.py"
        coverage = ["--cov=robustcore", "--cov-context=test", "--cov-report="]
        done = worker.run(file, *coverage)
        if done is None or done["code"] not in (0, 1, 5):
            raise SystemExit(f"the quick tests of {file} do not run:\n{worker.said}")
        for test in sorted(set(done["failed"])):
            print(f"fails without a mutant, and is left out: {test}", flush=True)
            done["seconds"].pop(test, None)
        for test in [test for test in done["seconds"] if ADDRESS.search(test)]:
            del done["seconds"][test]  # it has another name each time
        folder.mkdir(parents=True, exist_ok=True)
        if (worker.tree / ".coverage").exists():
            shutil.move(worker.tree / ".coverage", folder / "coverage.sqlite")
        (folder / "sources.txt").write_text(self.sources.name)
        (folder / "seconds.json").write_text(json.dumps(done["seconds"]))

    def tests(self, mutant: Mutant) -> list[str]:
        """Those that execute the line; of a line that runs at import, the file."""
        executed, anywhere = set(), set()
        for folder in self.folders:
            if not (folder / "coverage.sqlite").exists():
                continue
            line = self._line(mutant, (folder / "sources.txt").read_text())
            for test, lines in _lines(folder / "coverage.sqlite", mutant.file):
                if test in self.seconds:
                    anywhere.add(test)
                    if line in lines:
                        executed.add(test)
        return sorted(executed or anywhere, key=lambda test: self.seconds[test])

    def _line(self, mutant: Mutant, recorded: str) -> int:
        """Where the mutant's line was when the tests were recorded, or the last one before it."""
        before = WORK / "sources" / recorded / mutant.file
        if recorded == self.sources.name or not before.exists():
            return mutant.line
        old = before.read_text().splitlines()
        new = (ROOT / mutant.file).read_text().splitlines()
        at = 0
        for block in SequenceMatcher(None, old, new, autojunk=False).get_matching_blocks():
            if block.b < mutant.line:
                at = block.a + min(mutant.line - block.b, block.size)
        return at


def _state(test: Path) -> str:
    """Of a file of tests, and of what it imports from tests/."""
    state = sha256(test.read_bytes())
    for file in sorted(ROOT.glob("tests/*.py")):
        if file != test and re.search(
            rf"\bimport {file.stem}\b|\bfrom {file.stem}\b", test.read_text()
        ):
            state.update(file.read_bytes())
    return state.hexdigest()[:12]


@cache
def _lines(coverage: Path, file: str) -> list[tuple[str, frozenset[int]]]:
    """(test, lines that it executes) of one source."""
    query = """SELECT context.context, line_bits.numbits FROM line_bits
        JOIN file ON file.id = line_bits.file_id JOIN context ON context.id = context_id
        WHERE file.path LIKE ?"""
    with sqlite3.connect(coverage) as db:
        rows = db.execute(query, (f"%/{file}",)).fetchall()
    return [
        (
            context.partition("|")[0],
            frozenset(
                8 * at + bit for at, byte in enumerate(bits) for bit in range(8) if byte >> bit & 1
            ),
        )
        for context, bits in rows
    ]


# -- trying ----------------------------------------------------------------------------------


def tried(mutant: Mutant, known: Map, worker: Tests) -> dict[str, Any]:
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
    path = worker.tree / mutant.file
    source = path.read_text()
    path.write_text(mutant.applied(source))
    start = time.monotonic()
    try:
        limit = LIMIT + SLOWER * min(total, BUDGET)
        done = worker.run(*chosen, "-x", limit=limit)
        if gone := set(re.findall(r"ERROR: not found: .*/(tests/.*)", worker.said)):
            # renamed since they were recorded
            done = worker.run(*(test for test in chosen if test not in gone), "-x", limit=limit)
    finally:
        path.write_text(source)
    if done is None:
        record["killed_by"] = "time"
    elif done["code"] != 0:
        record["killed_by"] = done["failed"][0] if done["failed"] else _error(worker.said)
    record["seconds"] = round(time.monotonic() - start, 1)
    return record


def _error(said: str) -> str:
    """Why tests could not be collected."""
    lines = [line for line in said.splitlines() if line.startswith(("E  ", "ERROR"))]
    text = lines[-1] if lines else said[-200:]
    return f"import: {text.replace(f'{WORK}{os.sep}', '')}"  # no path of a machine


class Verdicts:
    """One line for each mutant tried against these sources and tests: a call may be stopped."""

    def __init__(self, path: Path) -> None:
        self.path, self.lock = path, Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        self.known = [json.loads(line) for line in path.read_text().splitlines()]

    def of(self, mutant: Mutant) -> dict[str, Any] | None:
        named = asdict(mutant)
        return next((each for each in self.known if named.items() <= each.items()), None)

    def keep(self, record: dict[str, Any]) -> None:
        with self.lock, self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")


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
    workers = [Tests(str(number)) for number in range(options.workers)]
    known = Map(workers)
    verdicts = Verdicts(WORK / "verdicts" / f"{known.name}.jsonl")

    def attempt(worker: Tests, mutant: Mutant) -> dict[str, Any]:
        record = verdicts.of(mutant)
        if record is None:
            record = tried(mutant, known, worker)
            verdicts.keep(record)
        told = record["killed_by"] or f"SURVIVED {record['tests']} tests"
        print(f"{mutant.file}:{mutant.line}: {mutant.before} -> {mutant.after}: {told}", flush=True)
        return record

    records = in_turn(workers, attempt, mutants)
    reasons = json.loads(EQUIVALENT.read_text())
    for record in records:
        source = (ROOT / record["file"]).read_text().splitlines()[record["line"] - 1].strip()
        told = {**record, "source": source}
        for entry in reasons:
            named = {name: value for name, value in entry.items() if name != "reason"}
            if record["killed_by"] is None and named.items() <= told.items():
                record["equivalent"] = entry["reason"]
    survived = [record for record in records if record["killed_by"] is None]
    real = [record for record in survived if "equivalent" not in record]
    counted = len(records) - len(survived) + len(real)
    summary = {
        "command": f"python benchmarks/mutants.py --count {options.count} --seed {options.seed}",
        "machine": machine(),
        "tests": f"{known.name}, {len(known.seconds)} quick ones",
        "mutants": len(records),
        "equivalent": len(survived) - len(real),
        "killed": len(records) - len(survived),
        "share_killed": round((len(records) - len(survived)) / max(1, counted), 4),
        "survivors": dict(Counter(record["kind"] for record in real)),
    }
    samples = json.loads(RESULT.read_text())["samples"] if RESULT.exists() else []
    samples = [each for each in samples if each["command"] != summary["command"]]
    samples.append({**summary, "records": records})
    RESULT.write_text(json.dumps({"samples": samples}, indent=1) + "\n")
    print(json.dumps(summary, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
