"""What the package admits: every dependency has a lower bound that a job tries (.ci/lowest)."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

CI = Path(__file__).parents[1] / ".ci"


def script(name):
    spec = importlib.util.spec_from_file_location(name, CI / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def numbers(version):
    return [int(part) for part in version.split(".") if part.isdigit()]


def test_every_dependency_has_a_lower_bound_that_is_tried():
    lowest = script("lowest_versions").lowest()
    assert {"flwr", "numpy", "pandas", "scipy", "matplotlib", "pyarrow"} <= set(lowest)
    for package, version in lowest.items():
        try:
            installed = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue  # of an extra that is not here
        assert numbers(installed) >= numbers(version)


@pytest.mark.parametrize("line", ['"httpx"', '"httpx<1"'])
def test_a_dependency_without_one_is_refused(tmp_path, line):
    (tmp_path / ".ci").mkdir()
    copy = tmp_path / ".ci" / "lowest_versions.py"
    copy.write_text((CI / "lowest_versions.py").read_text(encoding="utf-8"), encoding="utf-8")
    project = f"[project]\ndependencies = [{line}]\n[project.optional-dependencies]\n"
    (tmp_path / "pyproject.toml").write_text(project, encoding="utf-8")
    done = subprocess.run([sys.executable, copy], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "httpx" in done.stderr
