"""Mutants of the headers in csrc/core, each killed by the known answers of tests/test_core.py.

    python benchmarks/core_mutants.py            # results/core_mutants.json; about five minutes
    python benchmarks/core_mutants.py philox.h   # those of one header again, the rest as they were

A mutant is a header with one change that a hand could make: a constant, a shift, a sign, an order
of rounding, an index, the last element, a comparison of ties or NaN. The driver is compiled from
the changed header and the tests run until one fails. Exits with 1 where a mutant survives.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import sys
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from machine import machine

ROOT = Path(__file__).parent.parent
TESTS = ROOT / "tests" / "test_core.py"
FILE = Path(__file__).parent / "results" / "core_mutants.json"
LIMIT = 300  # seconds; a mutant that takes longer is killed


class Mutant(NamedTuple):
    header: str
    line: str  # occurs once
    changed: str
    equivalent: str = ""  # why no answer can differ


MUTANTS = [
    Mutant("philox.h", "V::multiply(c.c0, 0xD2511F53u)", "V::multiply(c.c0, 0xD2511F51u)"),
    Mutant("philox.h", "V::multiply(c.c2, 0xCD9E8D57u)", "V::multiply(c.c3, 0xCD9E8D57u)"),
    Mutant("philox.h", "round < 10", "round < 9"),
    Mutant("philox.h", "(p1 >> 32) ^ c.c1", "(p1 >> 31) ^ c.c1"),
    Mutant("philox.h", "c.c1 = p1;", "c.c1 = p0;"),
    Mutant("philox.h", "        key.k1 += 0xBB67AE85u;", "        key.k1 += 0xBB67AE84u;"),
    Mutant("philox.h", "key.k0 += kDone * 0x9E3779B9u", "key.k0 += 0x9E3779B9u"),
    Mutant("draws.h", "^ sample ^ static_cast<uint64_t>(key.k0)", "^ sample"),
    Mutant("draws.h", "^ d.stream ^ d.key.k1", "^ d.stream ^ d.key.k0"),
    Mutant("draws.h", "(d.key.k1 + 0xBB67AE85u)", "d.key.k1"),
    Mutant("draws.h", "none ^ static_cast<uint32_t>(p1)", "none ^ (p1 >> 32)"),
    Mutant("normal.h", "V::to_float(word) + 0.5f", "V::to_float(word)"),
    Mutant("normal.h", "(0x3F800000 - 0x3F3504F3)", "(0x3F800000 - 0x3F3504F4)"),
    Mutant("normal.h", "(127 + 32)", "(127 + 31)"),
    Mutant("normal.h", "(shifted & 0x007FFFFF)", "(shifted & 0x007FFFFE)"),
    Mutant("normal.h", "0.2873369f", "0.2873368f"),
    Mutant("normal.h", "n * 1.3862944f", "n * 1.3862942f"),
    Mutant(
        "normal.h",
        "log = log * f + -2.0f;\n    log = log * f;",
        "log = log * f * f + -2.0f * f;",
    ),
    Mutant("normal.h", "(angle_word << 2) >> 8", "(angle_word << 1) >> 8"),
    Mutant("normal.h", "(V::to_float(fraction) + 0.5f)", "V::to_float(fraction)"),
    Mutant("normal.h", "+ -0.6459635f", "+ 0.6459635f"),
    Mutant("normal.h", "bit_cast<I>(doubled) < 0", "bit_cast<I>(doubled) <= 0"),
    Mutant("normal.h", "flip_cos = (angle_word ^ doubled)", "flip_cos = angle_word"),
    Mutant("normal.h", "odd ? cos : sin", "odd ? sin : cos"),
    Mutant("laws.h", "(word) >> 8)", "(word) >> 7)"),
    Mutant("laws.h", "+ 0.5f) * 0x1p-23f", "+ 1.0f) * 0x1p-23f"),
    Mutant("laws.h", "| (word << 31)", "| (word & 0x80000000u)"),
    Mutant("laws.h", "word | 1u", "word"),
    Mutant("laws.h", "(V::to_float(word | 1u)) * 0.5f", "(V::to_float(word | 1u))"),
    Mutant("laws.h", "* 0x1p-24f", "* 0x1p-25f"),
    Mutant("laws.h", "? high : low", "? low : high"),
    Mutant("laws.h", "& 0x7FFFFFFFu) < scale", "& 0x7FFFFFFFu) <= scale"),
    Mutant("laws.h", "kSpeckle ? x * scale : scale", "kSpeckle ? scale : scale"),
    Mutant("laws.h", "salt_and_pepper<V>(second)}", "salt_and_pepper<V>(first)}"),
    Mutant("margin.h", "value > best ||", "value >= best ||"),
    Mutant("margin.h", "(value != value && best == best)", "value != value"),
    Mutant("margin.h", "|| (value != value && best == best)", ""),
    Mutant("margin.h", "runner_up = label == 0 ? 1 : 0", "runner_up = 0"),
    Mutant("margin.h", "j < classes", "j < classes - 1"),
    Mutant("margin.h", "first[i * apart]", "first[i]"),
    Mutant("margin.h", "!(margin > 0)", "margin <= 0"),
    Mutant("margin.h", "!(margin > 0)", "!(margin >= 0)"),
    Mutant("lead.h", "zero - __builtin_inff()", "zero"),
    Mutant("lead.h", "better & ~mine", "better"),
    Mutant("lead.h", "| ((logit != logit) & (lead.best == lead.best))", ""),
    Mutant("lead.h", "return lead.own - lead.best", "return lead.best - lead.own"),
    Mutant("lead.h", 'zero + __builtin_nanf("")', "zero"),
    Mutant(
        "lead.h",
        "logit > lead.best",
        "logit >= lead.best",
        "what replaces it is equal, and no index is kept",
    ),
    Mutant(
        "lead.h",
        "& (lead.best == lead.best)",
        "",
        "a NaN replaced by a NaN is a NaN, and no index is kept",
    ),
    Mutant("loss.h", "{__builtin_inff(), 0.0f, goal}", "{-__builtin_inff(), 0.0f, goal}"),
    Mutant("loss.h", "behind > 1.17549435e-38f ? behind", "behind >= 0.0f ? behind"),
    Mutant("loss.h", "(m.margin > 0.0f) return", "(m.margin >= 0.0f) return"),
    Mutant("loss.h", "best = goal == 0 ? 1 : 0", "best = 0"),
    Mutant("loss.h", "if (j != goal) sum +=", "sum +="),
    Mutant("loss.h", "exponential(logits[j] - logits[best])", "exponential(logits[j])"),
    Mutant("loss.h", "value = logits[best] + logarithm(sum)", "value = logarithm(sum)"),
    Mutant("loss.h", "slope[goal] -= 1.0f", "slope[goal] = -1.0f"),
    Mutant("loss.h", "(logits[candidate] > logits[place])", "(logits[candidate] >= logits[place])"),
    Mutant("loss.h", "if (classes < 3) third", "if (classes <= 3) third"),
    Mutant("loss.h", "!targeted || classes < 4", "classes < 4"),
    Mutant("loss.h", "(logits[third] + logits[fourth]) * 0.5f", "logits[fourth]"),
    Mutant("loss.h", " + 1e-12f", ""),
    Mutant("loss.h", "slope[largest] -= value", "slope[largest] += value"),
    Mutant("loss.h", "slope[j] = -slope[j]", "slope[j] = slope[j]"),
    Mutant("loss.h", "targeted ? -value : value", "value"),
    Mutant("ball.h", "lanes[i] + lanes[i + width]", "lanes[2 * i] + lanes[2 * i + 1]"),
    Mutant("ball.h", "width > 0; width /= 2", "width > 1; width /= 2"),
    Mutant("ball.h", "squared > 0.0 &&", "squared >= 0.0 &&"),
    Mutant("ball.h", " && squared < __builtin_inf()", ""),
    Mutant("ball.h", "value < low ? low : value", "!(value >= low) ? low : value"),
    Mutant("ball.h", "value > high ? high : value", "value > high ? low : value"),
    Mutant("ball.h", "2.0 * (factor * (along * product))", "2.0 * (along * product)"),
    Mutant("ball.h", "length > (sphere ? 0.0 : reach)", "length > reach"),
    Mutant("ball.h", "{factor * shrink, along * shrink}", "{shrink, along * shrink}"),
    Mutant("ball.h", "product = usable ? product : 0.0;", ""),
    Mutant("ball.h", "const double kept = offset * c.old", "const float kept = offset * c.old"),
    Mutant("ball.h", "(usable ? gradient * c.move : 0.0)", "gradient * c.move"),
    Mutant("ball.h", "(gradient < 0.0f)", "(gradient <= 0.0f)"),
    Mutant("ball.h", "moved < -radius ? -radius", "moved < -radius ? radius"),
    Mutant("block.h", "thread < kThreads", "thread < kThreads - 1"),
    Mutant("block.h", "__atomic_fetch_add", "__atomic_add_fetch"),
    Mutant("block.h", "__builtin_fmaf(a, b, c)", "a * b + c"),
    Mutant("lanes.h", "static_cast<W>(static_cast<U>(a)) * b", "static_cast<U>(a) * b"),
    Mutant("lanes.h", "static_cast<W>(static_cast<U>(a)) * b", "a * b"),
    Mutant(
        "lanes.h",
        "to_float(U value) { return static_cast<F>(value)",
        "to_float(U value) { return static_cast<F>(static_cast<I>(value))",
    ),
]


class Failure:
    """A plugin of pytest: the first test that failed, or broke while it was set up."""

    test = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.test:
            name = report.nodeid.split("::")[-1]
            self.test = name if report.when == "call" else f"{report.when}: {report.longreprtext}"


def failing_test(csrc: Path, answer: Connection) -> None:
    """In a process of its own: the tests over the headers in `csrc`."""
    os.environ["ROBUSTCORE_CSRC"] = str(csrc)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        failure = Failure()
        options = ["-x", "-q", "-p", "no:cacheprovider", str(TESTS)]
        pytest.main(options, plugins=[failure])
    answer.send(failure.test)


def killed_by(mutant: Mutant | None) -> str:
    """The test that fails for a mutant; empty where all pass."""
    with tempfile.TemporaryDirectory() as folder:
        csrc = Path(folder)
        for name in ("core", "cpu"):
            shutil.copytree(ROOT / "csrc" / name, csrc / name)
        if mutant is not None:
            header = csrc / "core" / mutant.header
            text = header.read_text()
            if text.count(mutant.line) != 1:
                raise SystemExit(f"{mutant.header} must hold this once: {mutant.line!r}")
            header.write_text(text.replace(mutant.line, mutant.changed))
        mine, other = multiprocessing.Pipe(duplex=False)
        child = multiprocessing.get_context("fork").Process(target=failing_test, args=(csrc, other))
        child.start()
        child.join(LIMIT)
        if child.is_alive():
            child.kill()
            return "took too long"
        test = str(mine.recv()) if mine.poll() else f"ended with status {child.exitcode}"
        if test.startswith("setup"):
            raise SystemExit(f"{mutant} does not compile:\n{test}")
        return test


def main() -> int:
    chosen = sys.argv[1:]
    # every process then has what the tests import
    pytest.main(["--collect-only", "-qq", "-p", "no:cacheprovider", str(TESTS)])
    failed = killed_by(None)
    if failed:
        raise SystemExit(f"the headers as they are must pass the tests: {failed}")
    rows: list[dict[str, Any]] = []
    if chosen:
        stored = json.loads(FILE.read_text())["mutants"]
        rows = [row for row in stored if row["header"] not in chosen]
    for mutant in MUTANTS:
        if chosen and mutant.header not in chosen:
            continue
        test = killed_by(mutant)
        rows.append({**mutant._asdict(), "killed_by": test})
        verdict = test or ("equivalent" if mutant.equivalent else "SURVIVES")
        print(f"{mutant.header:9} {mutant.changed or mutant.line!r:50.50} {verdict}", flush=True)
    counted = [row for row in rows if not row["equivalent"]]
    killed = sum(bool(row["killed_by"]) for row in counted)
    print(f"{killed} of {len(counted)} are killed")
    record = {
        "command": "python benchmarks/core_mutants.py",
        "machine": machine(),
        "killed": killed,
        "of": len(counted),
        "mutants": rows,
    }
    FILE.write_text(json.dumps(record, indent=2) + "\n")
    no_longer_equivalent = any(row["killed_by"] for row in rows if row["equivalent"])
    return int(killed < len(counted) or no_longer_equivalent)


if __name__ == "__main__":
    sys.exit(main())
