"""What a check finds."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from lowcarb_scheduler.clock import format_duration, format_time
from lowcarb_scheduler.errors import InputError, MissingExtraError, near_miss, one_line
from lowcarb_scheduler.forecasts.archive.database import Archive
from lowcarb_scheduler.forecasts.climatology import LEAST_DAYS
from lowcarb_scheduler.ledger import FILE_NAME, read_ledger
from lowcarb_scheduler.settings import ENVIRONMENT_PREFIX, FORMER_NAMES, SECRETS, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lowcarb_scheduler.clock import Clock

State = Literal["ok", "warning", "fault"]


@dataclass(frozen=True, slots=True)
class Check:
    """One finding.

    Parameters
    ----------
    check : str
        What was looked at.
    state : {"ok", "warning", "fault"}
        A fault would spoil a run; a warning is worth knowing.
    detail : str
        What was found.
    fix : str or None
        What to do about it.
    """

    check: str
    state: State
    detail: str
    fix: str | None = None


# -- The settings: which are given, where each is written, and whether they can be --------------------------

_NO_SETTINGS: Final = frozenset({"SECRETS_DIR", "TRACEBACK", "UTC"})  # variables of ours that are none


class Configuration(NamedTuple):
    """What was found.

    Parameters
    ----------
    settings : Settings or None
        Those that can be, the others at their defaults; None where none can be read.
    checks : list of Check
        One for each that is given.
    """

    settings: Settings | None
    checks: list[Check]


def check_settings(options: Mapping[str, Any]) -> Configuration:
    """Read the settings; one that is impossible leaves the others standing.

    Parameters
    ----------
    options : mapping
        What is given on the command line, by field name; None is not given.

    Raises
    ------
    InputError
        If one of these is impossible.
    """
    checks: list[Check] = []
    impossible: list[str] = []
    while True:
        try:
            settings = Settings.load(options=options, unset=impossible)
            break
        except InputError as error:
            field = error.field.removeprefix(ENVIRONMENT_PREFIX).lower()
            if error.field.startswith("--"):
                raise
            if field not in Settings.model_fields or field in impossible:
                return Configuration(None, [Check("settings", "fault", str(error), error.fix)])
            impossible.append(field)
            checks.append(Check(_name(field), "fault", error.problem, error.fix))
    for field, origin in sorted(Settings.origins(options=options).items()):
        if field not in impossible:
            checks.append(Check(_name(field), "ok", f"{_value(settings, field)} ({origin})"))
    if not checks:
        checks.append(Check("settings", "ok", "none is given: all have their defaults"))
    return Configuration(settings, checks + _misspelt())


def _misspelt() -> list[Check]:
    """Return a warning for each variable that is named like a setting and is none."""
    known = [ENVIRONMENT_PREFIX + field.upper() for field in (*Settings.model_fields, *FORMER_NAMES)]
    checks = []
    for variable in sorted(os.environ):
        name = variable.upper()
        if not name.startswith(ENVIRONMENT_PREFIX) or name in known:
            continue
        if name.removeprefix(ENVIRONMENT_PREFIX) in _NO_SETTINGS:
            continue
        near = near_miss(name, known)
        fix = f"did you mean {near}?" if near else "remove it"
        checks.append(Check("settings", "warning", f"{one_line(variable)} is no setting", fix))
    return checks


def _value(settings: Settings, field: str) -> str:
    """Return what a setting is, as people read it; of a secret only that there is one."""
    value = getattr(settings, field)
    if field in SECRETS:
        return "set"
    if isinstance(value, timedelta):
        return format_duration(value)
    return format_time(value) if isinstance(value, datetime) else one_line(str(settings.shown()[field]))


def _name(field: str) -> str:
    return f"setting {field.replace('_', '-')}"


# -- Python, packages and extras, as the metadata of this distribution asks for them; nothing is imported ---

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


# -- What a run writes: its own folder, and the archive. Checking leaves nothing behind ---------------------

RUNS: Final = Path("runs")  # where runs go that are given no folder
LEAST_FREE_BYTES: Final = 100_000_000
FETCH: Final = "lowcarb archive fetch --days 28"
NEVER_KEPT: Final = {"", "synthetic", "traces"}
_MOST_LISTED: Final = 6  # locations
_MEGABYTE: Final = 1e6


def check_run_dir(settings: Settings) -> Check:
    """Check that the ledger of the next run can be written."""
    folder = settings.run_dir or RUNS
    try:
        if settings.run_dir is not None and (folder / FILE_NAME).exists():
            return _check_ledger(folder)
        free = _free_bytes(folder)
    except OSError as error:
        problem = f"{folder} cannot be written ({error.strerror})"
        return Check("run-dir", "fault", problem, "name another folder with LOWCARB_RUN_DIR")
    room = f"{folder} can be written, {free / _MEGABYTE:,.0f} MB are free"
    if free < LEAST_FREE_BYTES:
        return Check("run-dir", "warning", room, "make room: a full disk ends the ledger")
    return Check("run-dir", "ok", room)


def _check_ledger(folder: Path) -> Check:
    """Check whether a run can go on in a folder that holds one."""
    fix = "give another folder, or leave LOWCARB_RUN_DIR out"
    try:
        finished = any(event["event"] == "run_finished" for event in read_ledger(folder))
    except InputError as error:
        return Check("run-dir", "fault", f"{folder}: {error.problem}", fix)
    if finished:
        return Check("run-dir", "fault", f"{folder} holds a finished run, which is never overwritten", fix)
    return Check("run-dir", "warning", f"{folder} holds a run that has not finished", fix)


def check_archive(settings: Settings, clock: Clock) -> Check:
    """Check that the archive can be written, and say what it holds.

    A run does without one, so it is a fault only where the folder was named.
    """
    if settings.archive_dir == "none":
        problem = "archive-dir is none: neither last good forecasts nor history outlive a run"
        return Check("archive", "warning", problem, "leave LOWCARB_ARCHIVE_DIR out")
    archive = Archive(settings.archive_dir, settings.archive_days, clock)
    days: dict[str, float] = {}
    try:
        path = archive.path
        if not path.exists():
            _free_bytes(path.parent)
            problem = f"{path} is not there yet: the first run learns nothing from the past"
            return Check("archive", _thin(settings), problem, f"to fill it: {FETCH}")
        archive.check()
        for holding in archive.holdings():
            days[holding.location] = max(holding.actual_hours / 24, days.get(holding.location, 0.0))
        size = path.stat().st_size / _MEGABYTE
    except (InputError, OSError) as error:
        state: State = "warning" if settings.archive_dir is None else "fault"
        if isinstance(error, InputError):
            return Check("archive", state, error.problem, error.fix)
        problem = f"{path.parent} cannot be written ({error.strerror})"
        return Check("archive", state, problem, "name another folder with LOWCARB_ARCHIVE_DIR")
    listed = [f"{one_line(name, 40)} {known:.1f}" for name, known in sorted(days.items())]
    history = ", ".join(listed[:_MOST_LISTED]) or "none"
    more = f" and {len(listed) - _MOST_LISTED} more" if len(listed) > _MOST_LISTED else ""
    holds = f"{path}, {size:.1f} MB; days of history: {history}{more}"
    if min(days.values(), default=0) < LEAST_DAYS:
        holds = f"{holds}; with less than {LEAST_DAYS} nothing stands in for a forecast that fails"
        return Check("archive", _thin(settings), holds, f"to fill it: {FETCH}")
    return Check("archive", "ok", holds)


def _thin(settings: Settings) -> State:
    """Return how grave a lack of history is: of no account where no source is asked that is kept."""
    return "warning" if set((settings.source or "").split(",")) - NEVER_KEPT else "ok"


def _free_bytes(folder: Path) -> int:
    """Return how much room there is for a folder, which need not exist yet.

    Raises
    ------
    OSError
        If nothing can be written there.
    """
    absolute = folder.expanduser().absolute()
    existing = next(path for path in (absolute, *absolute.parents) if path.exists())
    with tempfile.TemporaryFile(dir=existing):
        return shutil.disk_usage(existing).free
