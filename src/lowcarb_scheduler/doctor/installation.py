"""Python, packages and extras, as the metadata of this distribution asks for them; nothing is imported."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from lowcarb_scheduler.doctor.check import Check
from lowcarb_scheduler.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lowcarb_scheduler.settings import Settings

DISTRIBUTION: Final = "lowcarb-scheduler"
EXTRAS: Final = {  # by extra: the modules that show it is there, and what they are for
    "simulation": (("ray",), "simulations on this machine"),
    "report": (("jinja2", "matplotlib"), "pictures and reports"),
    "parquet": (("pyarrow",), "Parquet files"),
    "energy": (("codecarbon",), "measured energy"),
}
_REQUIREMENT: Final = re.compile(r"([\w.-]+)(?:\[[\w,-]+\])?(?:>=([\d.]+))?")


@dataclass(frozen=True, slots=True)
class Requirement:
    """A package, and the least version of it that will do; empty where any does."""

    package: str
    least: str


def requirements() -> list[Requirement]:
    """Return what this distribution cannot do without."""
    found = []
    for line in metadata.requires(DISTRIBUTION) or []:
        match = _REQUIREMENT.fullmatch(line)
        if match is not None:  # an extra's line has a condition
            found.append(Requirement(match[1], match[2] or ""))
    return found


def check_python() -> Check:
    """Check the version of Python."""
    least = metadata.metadata(DISTRIBUTION)["Requires-Python"].removeprefix(">=")
    running = ".".join(map(str, sys.version_info[:3]))
    if _numbers(running) < _numbers(least):
        return Check("python", "fault", f"{running} is too old", f"use Python {least} or newer")
    return Check("python", "ok", running)


def check_packages() -> Iterator[Check]:
    """Check that every package is there and new enough; flwr by itself, the others together."""
    good = []
    for required in requirements():
        fix = f"run: pip install '{required.package}{'>=' if required.least else ''}{required.least}'"
        try:
            version = metadata.version(required.package)
        except metadata.PackageNotFoundError:
            yield Check(required.package, "fault", "is not installed", fix)
            continue
        if _numbers(version) < _numbers(required.least):
            yield Check(required.package, "fault", f"{version} is older than {required.least}", fix)
        elif required.package == "flwr":
            yield Check("flwr", "ok", f"{version} ({required.least} or newer is needed)")
        else:
            good.append(f"{required.package} {version}")
    yield Check("packages", "ok", ", ".join(good))


def check_extras(settings: Settings | None) -> Iterator[Check]:
    """Check which extras are there; one that is not is a fault where a setting needs it."""
    needed = {} if settings is None else _needed(settings)
    for extra, (modules, purpose) in EXTRAS.items():
        lacking = [module for module in modules if find_spec(module) is None]
        name = f"extra {extra}"
        if not lacking:
            yield Check(name, "ok", f"installed, for {purpose}")
            continue
        fix = MissingExtraError(lacking[0], extra).fix
        if extra in needed:
            yield Check(name, "fault", f"not installed, and {needed[extra]} needs it", fix)
        else:
            yield Check(name, "warning", f"not installed; only for {purpose}", fix)


def _needed(settings: Settings) -> dict[str, str]:
    """Return the settings that need an extra, by extra."""
    needed = {}
    if settings.traces is not None and settings.traces.suffix.lower() == ".parquet":
        needed["parquet"] = "traces"
    if settings.clock != "system":
        needed["simulation"] = "clock"
    return needed


def _numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: (1, 41, 0) for 1.41.0rc1 too."""
    return tuple(int(number) for number in re.findall(r"\d+", re.match(r"[\d.]*", version)[0]))  # type: ignore[index]
