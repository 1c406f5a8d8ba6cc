"""Promises of the package: its names, its laziness, its structure, and the one way data flows."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import lowcarb_scheduler

PACKAGE = Path(lowcarb_scheduler.__file__).parent
HEAVY = {"numpy", "pandas", "scipy", "flwr", "httpx", "pydantic", "matplotlib", "ray"}

# A module imports only from rooms on its own line or above it; a room is a package, or a module of one.
ROOMS = [
    {"_version", "errors", "clock", "folders", "packing", "validation"},
    {"intensity", "settings", "documents", "userfiles"},
    {"forecasts", "accounting.emissions"},
    {"planning"},
    {"ledger", "events"},
    {"accounting"},
    {"scheduling"},
    {"backtest", "flower"},
    {"report"},
    {"monitor", "demo", "testing", "doctor"},
    {"cli"},
]
PURE = ("planning", "accounting/emissions.py")
MOST_FILES = 15  # modules of one folder
EDGES = {"httpx", "flwr", "typer", "rich", "matplotlib", "pathlib", "os", "socket", "time"}


def test_all_is_sorted_and_complete():
    names = lowcarb_scheduler.__all__
    assert names == sorted(names)
    assert set(names) == {*lowcarb_scheduler._HOME, "__version__"}  # noqa: SLF001
    for name in names:
        assert getattr(lowcarb_scheduler, name) is not None


def test_importing_it_imports_nothing_heavy():
    code = f"import sys, lowcarb_scheduler; print(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def _imports(path: Path) -> set[str]:
    """Return the modules a file imports, whether at once or later, but not those for types only."""
    found: set[str] = set()

    class Visitor(ast.NodeVisitor):
        def visit_If(self, node: ast.If) -> None:
            if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
                self.generic_visit(node)

        def visit_Import(self, node: ast.Import) -> None:
            found.update(alias.name for alias in node.names)

        def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
            found.update(f"{node.module}.{alias.name}" for alias in node.names)

    Visitor().visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


def _modules() -> list[Path]:
    return [path for path in PACKAGE.rglob("*.py") if "app" not in path.relative_to(PACKAGE).parts[:-1]]


def _room(module: str) -> str:
    """Return the room of a module, ``accounting.emissions`` being one of its own."""
    parts = module.split(".")
    return ".".join(parts[:2]) if ".".join(parts[:2]) == "accounting.emissions" else parts[0]


def test_data_flows_one_way():
    rank = {room: number for number, rooms in enumerate(ROOMS) for room in rooms}
    for path in _modules():
        own = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        if own == "__init__":
            continue
        for name in _imports(path):
            if name.startswith("lowcarb_scheduler."):
                room = _room(name.removeprefix("lowcarb_scheduler."))
                assert rank[room] <= rank[_room(own)], f"{path} imports {name}"


def test_the_core_is_pure():
    for path in _modules():
        if str(path.relative_to(PACKAGE)).startswith(PURE):
            tops = {name.split(".")[0] for name in _imports(path)}
            assert not tops & EDGES, f"{path} imports {sorted(tops & EDGES)}"


def test_only_the_flower_package_knows_flower():
    for path in _modules():
        own = path.relative_to(PACKAGE).parts[0]
        if own in {"flower", "demo", "testing.py"}:
            continue
        text = path.read_text(encoding="utf-8")  # imports for types count, too
        assert "import flwr" not in text, path
        assert "from flwr" not in text, path
        if own not in {"cli", "__init__.py"}:
            assert "lowcarb_scheduler.flower" not in text, path


def test_a_folder_fits_on_a_screen():
    folders = Counter(path.parent for path in _modules() if path.name != "__init__.py")
    assert max(folders.values()) <= MOST_FILES, folders.most_common(1)


def test_docstrings_name_the_thing():
    riddles = re.compile(r"(What|Who|Whose|Return what|Return who|Take down)\b")
    for path in _modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                assert not riddles.match(ast.get_docstring(node) or ""), f"{path}: {node}"
