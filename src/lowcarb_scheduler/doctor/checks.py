"""Checks of settings, installation and folders."""

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
from lowcarb_scheduler.events import RunFinished
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
    """Result of one check.

    Parameters
    ----------
    check : str
        Name of the check.
    state : {"ok", "warning", "fault"}
        A fault blocks a run or spoils it; a warning does not.
    detail : str
        Finding.
    fix : str or None
        Suggested fix.
    """

    check: str
    state: State
    detail: str
    fix: str | None = None


# -- Settings ---------------------------------------------------------------------------------------------

# Variables with the prefix of settings that are read elsewhere.
_NO_SETTINGS: Final = frozenset({"SECRETS_DIR", "TRACEBACK", "UTC"})


def check_settings(options: Mapping[str, Any]) -> tuple[Settings | None, list[Check]]:
    """Return the valid settings, and a check of each given one.

    An invalid setting does not hide the others, which are returned with its default; without any that can be
    read, there are no settings.

    Parameters
    ----------
    options : mapping
        Options of the command line by field name; None is not given.

    Raises
    ------
    InputError
        If one of these options is invalid.
    """
    checks: list[Check] = []
    invalid: list[str] = []
    while True:  # loading stops at the first invalid setting: leave it out and try again
        try:
            settings = Settings.load(options=options, unset=invalid)
            break
        except InputError as error:
            field = error.field.removeprefix(ENVIRONMENT_PREFIX).lower()
            # An invalid option is bad input of this command; an invalid setting is a finding.
            if error.field.startswith("--"):
                raise
            # No setting is to blame, for example a .env file that is not text: no other can be read either.
            if field not in Settings.model_fields or field in invalid:
                return None, [Check("settings", "fault", str(error), error.fix)]
            invalid.append(field)
            checks.append(Check(_name(field), "fault", error.problem, error.fix))
    for field, origin in sorted(Settings.origins(options=options).items()):
        if field not in invalid:
            checks.append(Check(_name(field), "ok", f"{_value(settings, field)} ({origin})"))
    if not checks:
        checks.append(Check("settings", "ok", "none set: all have their defaults"))
    return settings, checks + _misspelt()


def _misspelt() -> list[Check]:
    """Return a warning for each variable with the prefix of settings that is not one."""
    known = [ENVIRONMENT_PREFIX + field.upper() for field in (*Settings.model_fields, *FORMER_NAMES)]
    read = {*known, *(ENVIRONMENT_PREFIX + name for name in _NO_SETTINGS)}
    checks = []
    for variable in sorted(os.environ):
        name = variable.upper()
        if not name.startswith(ENVIRONMENT_PREFIX) or name in read:
            continue
        near = near_miss(name, known)
        fix = f"did you mean {near}?" if near else "remove it"
        checks.append(Check("settings", "warning", f"{one_line(variable)} is not a setting", fix))
    return checks


def _value(settings: Settings, field: str) -> str:
    """Write the value of a setting; a secret is only ``set``."""
    value = getattr(settings, field)
    if field in SECRETS:
        return "set"
    if isinstance(value, timedelta):
        return format_duration(value)
    return format_time(value) if isinstance(value, datetime) else one_line(str(settings.shown()[field]))


def _name(field: str) -> str:
    return f"setting {field.replace('_', '-')}"


# -- Installation -----------------------------------------------------------------------------------------
# Requirements come from the metadata of the distribution. Nothing is imported: a broken package would end
# the checks, and a large one slow them down.

DISTRIBUTION: Final = "lowcarb-scheduler"
EXTRAS: Final = {  # modules and purpose of each extra
    "simulation": (("ray",), "local simulation"),
    "report": (("jinja2", "matplotlib"), "charts and reports"),
    "interactive": (("matplotlib", "plotly"), "charts of lowcarb serve"),
    "parquet": (("pyarrow",), "Parquet files"),
    "energy": (("codecarbon",), "energy measurement"),
}
# A name, its extras and the lowest version: the only form that pyproject.toml of this project has.
_REQUIREMENT: Final = re.compile(r"([\w.-]+)(?:\[[\w,-]+\])?(?:>=([\d.]+))?")


class Requirement(NamedTuple):
    """A package and its lowest supported version, which is empty if any version is supported."""

    package: str
    lowest: str


def requirements() -> list[Requirement]:
    """Return the required packages of this distribution."""
    found = []
    for line in metadata.requires(DISTRIBUTION) or []:
        match = _REQUIREMENT.fullmatch(line)
        if match is not None:  # a line of an extra has a condition and does not match
            found.append(Requirement(match[1], match[2] or ""))
    return found


def check_python() -> Check:
    """Check the version of Python."""
    lowest = metadata.metadata(DISTRIBUTION)["Requires-Python"].removeprefix(">=")
    running = ".".join(map(str, sys.version_info[:3]))
    if _numbers(running) < _numbers(lowest):
        return Check("python", "fault", f"{running} is too old", f"use Python {lowest} or newer")
    return Check("python", "ok", running)


def check_packages() -> Iterator[Check]:
    """Check that required packages are installed and new enough; flwr has a check of its own."""
    good = []
    for required in requirements():
        fix = f"run: pip install '{required.package}{'>=' if required.lowest else ''}{required.lowest}'"
        try:
            version = metadata.version(required.package)
        except metadata.PackageNotFoundError:
            yield Check(required.package, "fault", "not installed", fix)
            continue
        if _numbers(version) < _numbers(required.lowest):
            yield Check(required.package, "fault", f"{version} is older than {required.lowest}", fix)
        elif required.package == "flwr":  # a line of its own: the first question about a run
            yield Check("flwr", "ok", f"{version} (required: {required.lowest} or newer)")
        else:
            good.append(f"{required.package} {version}")
    yield Check("packages", "ok", ", ".join(good))


def check_extras(settings: Settings | None) -> Iterator[Check]:
    """Check which extras are installed; a missing one is a fault if a setting needs it."""
    required_by = {} if settings is None else _required_by(settings)
    for extra, (modules, purpose) in EXTRAS.items():
        missing = [module for module in modules if find_spec(module) is None]
        name = f"extra {extra}"
        if not missing:
            yield Check(name, "ok", f"installed ({purpose})")
            continue
        fix = MissingExtraError(missing[0], extra).fix
        if extra in required_by:
            yield Check(name, "fault", f"not installed, but setting {required_by[extra]} needs it", fix)
        else:
            yield Check(name, "warning", f"not installed, needed only for {purpose}", fix)


def _required_by(settings: Settings) -> dict[str, str]:
    """Return the setting that needs an extra, by extra."""
    required = {}
    if settings.traces is not None and settings.traces.suffix.lower() == ".parquet":
        required["parquet"] = "traces"
    if settings.clock != "system":  # a virtual clock is for simulations only
        required["simulation"] = "clock"
    return required


def _numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: (1, 41, 0) for 1.41.0 and for 1.41.0rc1."""
    return tuple(int(number) for number in re.findall(r"\d+", re.match(r"[\d.]*", version)[0]))  # type: ignore[index]


# -- Folders ----------------------------------------------------------------------------------------------
# A check creates nothing: the folder of a run must not exist before the run, and an archive is made by its
# first entry.

RUNS: Final = Path("runs")  # parent folder of runs without run-dir
LEAST_FREE_BYTES: Final = 100_000_000  # a ledger of a long run has some MB, a checkpoint as much as the model
FETCH: Final = "lowcarb archive fetch --days 28"  # as many days as forecasts are corrected with
NEVER_KEPT: Final = {"", "synthetic", "traces"}  # sources that are not archived
_MOST_LISTED: Final = 6  # locations
_MEGABYTE: Final = 1e6


def check_run_dir(settings: Settings) -> Check:
    """Check that the next run can write its ledger."""
    folder = settings.run_dir or RUNS
    try:
        if settings.run_dir is not None and (folder / FILE_NAME).exists():
            return _check_ledger(folder)
        free = _free_bytes(folder)
    except OSError as error:
        problem = f"{folder} cannot be written ({error.strerror})"
        return Check("run-dir", "fault", problem, "set LOWCARB_RUN_DIR to another folder")
    detail = f"{folder} is writable, {free / _MEGABYTE:,.0f} MB free"
    if free < LEAST_FREE_BYTES:
        return Check("run-dir", "warning", detail, "free some space: a full disk ends the ledger")
    return Check("run-dir", "ok", detail)


def _check_ledger(folder: Path) -> Check:
    """Check a folder that contains a run already."""
    fix = "set LOWCARB_RUN_DIR to another folder, or unset it"
    try:
        finished = any(isinstance(event, RunFinished) for event in read_ledger(folder))
    except InputError as error:
        return Check("run-dir", "fault", f"{folder}: {error.problem}", fix)
    # An unfinished run is resumed, which may be intended.
    if finished:
        return Check("run-dir", "fault", f"{folder} contains a finished run, which is never overwritten", fix)
    return Check("run-dir", "warning", f"{folder} contains an unfinished run", fix)


def check_archive(settings: Settings, clock: Clock) -> Check:
    """Check that the archive is writable, and list its history.

    A run works without an archive, so a problem is a fault only if its folder is a setting.
    """
    if settings.archive_dir == "none":
        problem = "disabled by archive-dir: no forecasts and no history are kept between runs"
        return Check("archive", "warning", problem, "unset LOWCARB_ARCHIVE_DIR")
    archive = Archive(settings.archive_dir, settings.archive_days, clock)
    days: dict[str, float] = {}
    try:
        path = archive.path
        if not path.exists():
            _free_bytes(path.parent)
            problem = f"{path} does not exist yet: the first run has no history"
            return Check("archive", _thin(settings), problem, f"fill it: {FETCH}")
        archive.check()
        # A location may be archived from several sources: the longest history counts.
        for stored in archive.holdings():
            days[stored.location] = max(stored.actual_hours / 24, days.get(stored.location, 0.0))
        size = path.stat().st_size / _MEGABYTE
    except (InputError, OSError) as error:
        state: State = "warning" if settings.archive_dir is None else "fault"
        if isinstance(error, InputError):
            return Check("archive", state, error.problem, error.fix)
        problem = f"{path.parent} cannot be written ({error.strerror})"
        return Check("archive", state, problem, "set LOWCARB_ARCHIVE_DIR to another folder")
    listed = [f"{one_line(name, 40)} {known:.1f}" for name, known in sorted(days.items())]
    history = ", ".join(listed[:_MOST_LISTED]) or "none"
    more = f" and {len(listed) - _MOST_LISTED} more" if len(listed) > _MOST_LISTED else ""
    detail = f"{path}, {size:.1f} MB; days of history: {history}{more}"
    if min(days.values(), default=0) < LEAST_DAYS:
        detail = f"{detail}; less than {LEAST_DAYS} days are no fallback for a failed forecast"
        return Check("archive", _thin(settings), detail, f"fill it: {FETCH}")
    return Check("archive", "ok", detail)


def _thin(settings: Settings) -> State:
    """Return the state of a lack of history, which matters only for sources that are archived."""
    return "warning" if set((settings.source or "").split(",")) - NEVER_KEPT else "ok"


def _free_bytes(folder: Path) -> int:
    """Return the free space for a folder, which need not exist yet [bytes].

    Raises
    ------
    OSError
        If the folder is not writable.
    """
    absolute = folder.expanduser().absolute()
    existing = next(path for path in (absolute, *absolute.parents) if path.exists())
    # Permissions say too little, for example on a read-only mount: a file is written, and removed.
    with tempfile.TemporaryFile(dir=existing):
        return shutil.disk_usage(existing).free
