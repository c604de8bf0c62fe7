"""The arrows of the design: what a module may import. See docs/architecture.md.

Each module is imported in a process of its own, under a package that is only a folder, so that what
`robustcore/__init__.py` imports for the user does not count against it.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "robustcore"
IMPORT_ALONE = """
import importlib, sys, types
package = types.ModuleType("robustcore")
package.__path__ = [sys.argv[1]]
sys.modules["robustcore"] = package
importlib.import_module("robustcore." + sys.argv[2])
print(*sorted(sys.modules))
"""

# module: what of ours it may import
WITHOUT_TORCH = {
    "arguments": set(),
    "geometry": {"arguments"},
    "stats": {"arguments"},
    "results": {"arguments", "geometry", "stats"},
    "plot": {"arguments", "geometry", "results", "stats"},
}
WITHOUT_US = [
    "agreement.py",
    "kernels/reference.py",
    "kernels/triton.py",
    "slices/grid.py",
    "slices/regions.py",
]
NEVER = {"torch", "triton", "pandas"}


def modules_after_import(folder: Path, room: str) -> set[str]:
    command = [sys.executable, "-c", IMPORT_ALONE, str(folder), room]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_numbers_and_records_import_neither_torch_nor_methods() -> None:
    for room, allowed in WITHOUT_TORCH.items():
        modules = modules_after_import(PACKAGE, room)
        ours = {name.split(".")[1] for name in modules if name.startswith("robustcore.")}
        assert ours - {room} <= allowed, room
        assert not modules & NEVER, room
        assert room == "plot" or "matplotlib" not in modules, room
        assert "matplotlib.pyplot" not in modules, room


def test_the_check_sees_a_forbidden_import(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("")
    (tmp_path / "bad.py").write_text(
        f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\nimport torch"
    )
    assert "torch" in modules_after_import(tmp_path, "bad")


def imports_of(source: str) -> set[str]:
    """Every module that the source imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("robustcore" if node.level else str(node.module))
    return found


@pytest.mark.parametrize("path", WITHOUT_US)
def test_what_stands_alone_imports_nothing_of_ours(path: str) -> None:
    imported = imports_of((PACKAGE / path).read_text(encoding="utf-8"))
    assert not {name for name in imported if name.split(".")[0] == "robustcore"}


def test_imports_of_sees_each_form() -> None:
    source = "import a.b\nfrom c import d\ndef f():\n    from . import e\n"
    assert imports_of(source) == {"a.b", "c", "robustcore"}


def test_nothing_below_the_methods_imports_a_method() -> None:
    above = {"sigma", "cli", "plot", "report", "distance", "concentration", "certify"}
    above |= {"slices", "corruptions", "runs", "rare"}
    engine = ("engine.py", "evaluator.py", "rounds.py", "batches.py", "precision.py", "network.py")
    engine += ("noise.py", "errors.py")
    below = [*(PACKAGE / name for name in engine), *sorted((PACKAGE / "kernels").glob("*.py"))]
    for path in below:
        source = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("robustcore"):
                names = {*str(node.module).split("."), *(alias.name for alias in node.names)}
                assert not names & above, path


def test_runs_know_no_method() -> None:
    methods = {"sigma", "distance", "corruptions", "certify", "concentration", "slices", "search"}
    methods |= {"rare", "attack"}
    for path in sorted((PACKAGE / "runs").glob("*.py")):
        names = imports_of(path.read_text(encoding="utf-8"))
        assert not {name.split(".")[1] for name in names if name.count(".")} & methods, path


def test_fused_networks_know_kernels_alone() -> None:
    parts = ("", ".checks", ".cuda", ".triton", ".triton_ball")
    allowed = {
        "robustcore",
        "robustcore.agreement",
        *(f"robustcore.kernels{part}" for part in parts),
    }
    for path in sorted((PACKAGE / "fused").glob("*.py")):
        names = imports_of(path.read_text(encoding="utf-8"))
        ours = {name for name in names if name.startswith("robustcore")} - allowed
        assert not {name for name in ours if not name.startswith("robustcore.fused")}, path
