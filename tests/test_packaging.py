"""Versions of dependencies that jobs try: the lowest (.ci/lowest), and of Flower the newest (.ci/nightly)."""

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


RELEASES = "flwr (1.42.0)\nAvailable versions: 1.42.0, 1.41.0, 1.11.0rc0\n"


@pytest.mark.parametrize(
    ("of_flwr", "of_nightly", "expected"),
    [
        (
            RELEASES,
            "Available versions: 1.43.0.dev20261026, 1.43.0.dev20261024",
            "flwr-nightly==1.43.0.dev20261026",
        ),
        (RELEASES, "Available versions: 1.42.0.dev20261020", None),
        (RELEASES.replace("1.41", "1.43.0rc0, 1.41"), "Available versions: 1.43.0.dev1", "flwr==1.43.0rc0"),
        (RELEASES, "", None),
    ],
)
def test_the_newest_pre_release_of_flower_is_one_after_the_newest_release(of_flwr, of_nightly, expected):
    tool = script("newest_flower")
    found = {"flwr": tool.versions(of_flwr), "flwr-nightly": tool.versions(of_nightly)}
    assert tool.newest(found) == expected
