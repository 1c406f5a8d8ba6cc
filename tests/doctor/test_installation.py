from __future__ import annotations

import sys
import tomllib
from importlib import metadata
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest

from lowcarb_scheduler.doctor.checks import (
    EXTRAS,
    check_extras,
    check_packages,
    check_python,
    requirements,
)
from lowcarb_scheduler.settings import Settings

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_requirements_are_those_of_pyproject():
    assert {f"{one.package}>={one.lowest}" if one.lowest else one.package for one in requirements()} == set(
        PROJECT["dependencies"]
    )
    for extra, (modules, _) in EXTRAS.items():
        if extra != "simulation":  # Flower's own extra, of which Ray is the part that counts
            named = [one.partition(">=")[0] for one in PROJECT["optional-dependencies"][extra]]
            assert sorted(modules) == sorted(named)


def test_this_installation_is_ok():
    assert check_python().state == "ok"
    checks = list(check_packages())
    assert {check.state for check in checks} == {"ok"}
    assert [check.check for check in checks] == ["flwr", "packages"]
    assert "httpx" in checks[-1].detail


def test_an_old_python_is_a_fault(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 4))
    check = check_python()
    assert (check.state, check.detail) == ("fault", "3.10.4 is too old")
    assert "3.11" in check.fix


@pytest.mark.parametrize(
    ("version", "state"),
    [("1.41", "ok"), ("1.41.0rc1", "ok"), ("2", "ok"), ("1.40.9", "fault"), (None, "fault")],
)
def test_flower_has_to_be_there_and_new_enough(monkeypatch, version, state):
    installed = metadata.version

    def found(package):
        if package != "flwr":
            return installed(package)
        if version is None:
            raise metadata.PackageNotFoundError
        return version

    monkeypatch.setattr(metadata, "version", found)
    checks = {check.check: check for check in check_packages()}
    assert checks["flwr"].state == state
    assert checks["packages"].state == "ok"
    if state == "fault":
        assert checks["flwr"].fix == "run: pip install 'flwr>=1.41'"


def install(monkeypatch, *modules):
    """Let these modules of the extras be installed, and no other."""
    for name in (name for of_extra, _ in EXTRAS.values() for name in of_extra):
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module if name in modules else None)


def test_a_missing_extra_is_a_fault_only_where_a_setting_needs_it(monkeypatch):
    install(monkeypatch)
    for settings in (None, Settings.load()):
        assert {check.state for check in check_extras(settings)} == {"warning"}
    settings = Settings.load({"traces": Path("t.parquet"), "clock": "virtual"})
    states = {check.check: (check.state, check.fix) for check in check_extras(settings)}
    assert states["extra parquet"] == ("fault", "run: pip install 'lowcarb-scheduler[parquet]'")
    assert states["extra simulation"][0] == "fault"
    assert states["extra report"] == ("warning", "run: pip install 'lowcarb-scheduler[report]'")


def test_an_extra_is_there_when_all_of_it_is(monkeypatch):
    install(monkeypatch, "ray", "jinja2", "pyarrow", "codecarbon")
    states = {check.check: check.state for check in check_extras(None)}
    assert states == {
        "extra simulation": "ok", "extra report": "warning", "extra interactive": "warning",
        "extra parquet": "ok", "extra energy": "ok",
    }  # fmt: skip
