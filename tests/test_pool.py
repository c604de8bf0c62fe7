"""The pool of threads: pieces that throw, by a driver in C++ (pool.cpp)."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
POOL = ROOT / "csrc/cpu/parallel.cpp"
COMPILE = ["g++", "-O1", "-std=c++17", "-pthread", f"-I{ROOT / 'csrc'}", f"-I{POOL.parent}"]

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The driver, compiled, without a pool."""
    made = tmp_path_factory.mktemp("pool") / "pool.o"
    subprocess.run([*COMPILE, "-c", str(ROOT / "tests/pool.cpp"), "-o", str(made)], check=True)
    return made


def driven(driver: Path, pool: Path, program: Path, patience: int) -> tuple[int, str, str]:
    """Exit status, output and errors of the driver over that pool."""
    subprocess.run([*COMPILE, str(driver), str(pool), "-o", str(program)], check=True)
    done = subprocess.run([program, str(patience)], capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


def test_an_exception_reaches_the_caller_and_the_pool_remains_usable(
    driver: Path, tmp_path: Path
) -> None:
    status, output, errors = driven(driver, POOL, tmp_path / "pool", patience=20)
    assert (status, errors) == (0, "")
    assert output == "the pool withstands exceptions\n"


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        ("fail(first, std::current_exception());", "throw;"),
        ("if (error_) std::rethrow", "if (false) std::rethrow"),
        ("if (error_ && failed_ < first) return;", ""),
        ("if (error_ && failed_ < first) return;", "if (error_) return;"),
        ("shared.owned.clear();", ""),
    ],
    ids=["thrown in a worker", "swallowed", "the last", "the first", "never given back"],
)
def test_the_driver_sees_a_pool_that_is_wrong(
    driver: Path, tmp_path: Path, line: str, changed: str
) -> None:
    text = POOL.read_text()
    assert text.count(line) == 1
    (tmp_path / "parallel.cpp").write_text(text.replace(line, changed))
    status, _, errors = driven(driver, tmp_path / "parallel.cpp", tmp_path / "pool", patience=1)
    assert status != 0
    assert errors
