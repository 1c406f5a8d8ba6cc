"""Mutation tests: the share of small faults, at random places of four packages, that their tests notice.

Cosmic Ray makes the faults. Each is put into a copy of the sources, and tested in a fork of a process that
has imported the libraries already: first by the tests that name the module, then, if it survives, by the
others of its package. The seed decides the sample, so that two runs are comparable.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib
import json
import os
import random
import resource
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).parents[1]
PACKAGE = Path("src", "lowcarb_scheduler")
MUTATED = ("planning", "accounting", "scheduling", "forecasts/bias_correction.py")
FOLDERS = ("planning", "accounting", "scheduling", "forecasts")  # of their tests
LIBRARIES = (
    "numpy", "pandas", "scipy.optimize", "scipy.sparse", "hypothesis", "httpx", "pydantic_settings", "rich",
    "flwr.app", "flwr.serverapp.strategy",
)  # fmt: skip
LEFT_OUT = ("core/RemoveDecorator",)  # a frozen class that can be changed is no fault in what is computed
PYTEST = (
    "-x", "-q", "-p", "no:cacheprovider", "-m", "not soak and not flower and not browser",
    "--hypothesis-seed=0", "-W", "ignore::pytest.PytestAssertRewriteWarning",  # libraries are here already
)  # fmt: skip


class Mutant(NamedTuple):
    """Fault: an operator of Cosmic Ray, and the occurrence in a module that it is applied to."""

    module: Path
    operator: str
    occurrence: int
    line: int


def mutants_of(module: Path) -> list[Mutant]:
    """Return all mutants of a module but those of annotations, which are not evaluated."""
    source = (ROOT / module).read_text(encoding="utf-8")
    ignored = _annotated(source)
    nodes, found = list(ast_nodes(get_ast(source))), []
    for name in operator_names():
        operator = get_operator(name)
        if operator.arguments() or name in LEFT_OUT:
            continue
        places = (place for node in nodes for place in operator().mutation_positions(node))
        found += [
            Mutant(module, name, occurrence, start[0])
            for occurrence, (start, _) in enumerate(places)
            if not any(begin <= start < end for begin, end in ignored)
        ]
    return found


def _annotated(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return begin and end (line, column) of code that is never run: annotations and imports for types."""
    parts: list[object] = []
    for node in ast.walk(ast.parse(source)):
        parts += [getattr(node, name, None) for name in ("annotation", "returns")]
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            parts.append(node)
    return [
        ((part.lineno, part.col_offset), (part.end_lineno or 0, part.end_col_offset or 0))
        for part in parts
        if isinstance(part, ast.expr | ast.stmt)
    ]


def tests_of(module: Path) -> tuple[list[str], list[str]]:
    """Return the test files that name a module, its own first, else golden ones; and all other ones."""
    inside = module.relative_to(PACKAGE)
    own, named = f"test_{inside.stem}.py", f"{inside.parent.name}.{inside.stem}"
    files = [file for name in FOLDERS for file in sorted((ROOT / "tests" / name).glob("test_*.py"))]
    siblings = [path for path in files if path.parent.name == inside.parent.name]
    first = [path for path in files if named in path.read_text(encoding="utf-8")]
    first += [path for path in siblings if path.name == own and path not in first]
    first = first or [path for path in siblings if path.name == "test_golden.py"]
    first.sort(key=lambda path: path.name != own)
    others = [path for path in siblings if path not in first and inside.parent.name != "forecasts"]
    return [str(path.relative_to(ROOT)) for path in first], [str(path.relative_to(ROOT)) for path in others]


def run_tests(tests: list[str], seconds: int) -> str:
    """Run tests in a fork of this process; return ``killed``, ``survived`` or ``timeout``."""
    if not tests:
        return "survived"
    if (child := os.fork()) == 0:
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        # CPU and not wall-clock seconds: a busy machine makes no mutant time out.
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
        code = 3
        try:
            code = int(pytest.main([*PYTEST, *tests]))
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return "timeout"
    return "survived" if os.WEXITSTATUS(status) in (0, 5) else "killed"


def copy_of_sources() -> Path:
    """Copy what the tests need to a temporary folder, and import from there from now on."""
    copy = Path(tempfile.mkdtemp(prefix="mutants-"))
    for name in ("src", "tests", "docs", "examples", "pyproject.toml", "README.md"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, copy / name)
    os.chdir(copy)
    sys.path[:0] = [str(copy / "src"), str(copy / "tests")]
    sys.dont_write_bytecode = True  # the clock of a file system may not tell two mutants apart
    for library in LIBRARIES:
        importlib.import_module(library)
    return copy


def changes(before: str, after: str) -> list[str]:
    """Return the lines that a mutant removes and adds."""
    lines = list(difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm=""))[2:]
    return [line for line in lines if line[0] in "+-"]


def main() -> int:
    """Test a sample of mutants; print each survivor as a diff, and the share that was killed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=300, help="size of the sample")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=int, default=240, help="CPU time of the tests of one mutant")
    parser.add_argument("--only", default="", help="mutate modules whose path has this in it")
    parser.add_argument("--quick", action="store_true", help="run no tests but those that name the module")
    parser.add_argument("--out", type=Path, help="file of results, one JSON object a line")
    options = parser.parse_args()
    paths = [ROOT / PACKAGE / name for name in MUTATED]
    files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.glob("[!_]*.py")))]
    modules = [file.relative_to(ROOT) for file in files if options.only in str(file)]
    found = [mutant for module in modules for mutant in mutants_of(module)]
    sample = random.Random(options.seed).sample(found, min(options.count, len(found)))
    print(f"{len(sample)} of {len(found)} mutants of {len(modules)} modules, seed {options.seed}", flush=True)

    copy, results, fits = copy_of_sources(), Counter[str](), dict[str, bool]()
    for number, mutant in enumerate(sample, start=1):
        first, others = tests_of(mutant.module)
        stages = [first] if options.quick and first else [first, others]
        for test in sorted({test for stage in stages for test in stage} - fits.keys()):
            fits[test] = run_tests([test], options.seconds) == "survived"
            if not fits[test]:
                print(f"left out: {test} fails without a mutant, or takes longer than {options.seconds} s")
        stages = [[test for test in stage if fits[test]] for stage in stages]
        before = (ROOT / mutant.module).read_text(encoding="utf-8")
        after = mutate_code(before, get_operator(mutant.operator)(), mutant.occurrence)
        (copy / mutant.module).write_text(after, encoding="utf-8")
        outcome = "survived"
        for stage in stages:
            if outcome == "survived":
                outcome = run_tests(stage, options.seconds)
        (copy / mutant.module).write_text(before, encoding="utf-8")
        results[outcome] += 1
        changed = changes(before, after)
        if outcome != "killed":
            at = f"{outcome}: {mutant.module}:{mutant.line} ({mutant.operator})"
            print(at, *changed, sep="\n  ", flush=True)
        if options.out:
            entry = {**mutant._asdict(), "module": str(mutant.module), "outcome": outcome, "change": changed}
            with options.out.open("a", encoding="utf-8") as out:
                out.write(json.dumps(entry) + "\n")
        if number % 25 == 0:
            print(f"  {number}: {dict(results)}", flush=True)
    shutil.rmtree(copy)
    noticed = results["killed"] + results["timeout"]  # a loop without an end is noticed, too
    print(f"killed {noticed} of {len(sample)} ({noticed / max(len(sample), 1):.0%}): {dict(results)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
