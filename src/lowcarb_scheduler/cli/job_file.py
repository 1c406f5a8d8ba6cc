"""JOB: the file that says what is to be planned, TOML or JSON, read with every fault named where it stands.

A fault in the list of clients is named like ``clients[3].power_watts``, one in the fleet's own file like
``row 4, power_watts``.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from lowcarb_scheduler.cli.fleet_file import (
    LONGEST_MINUTES,
    Cells,
    read_clients,
    read_fleet_file,
    to_fleet,
)
from lowcarb_scheduler.clock import Clock, parse_duration, parse_time, to_utc
from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.forecasts.source import unknown_name
from lowcarb_scheduler.planning.job import Job

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

REQUIRED: Final = ("finish_by", "rounds", "clients_per_round")
OPTIONAL: Final = (
    "now", "round_duration_minutes", "start_step_minutes", "patience", "participation", "stagger",
    "max_location_share", "mix_rounds", "clients", "fleet",
)  # fmt: skip
_KEY_OF_FIELD: Final = {"round_duration": "round_duration_minutes", "start_step": "start_step_minutes"}


@dataclass(frozen=True, slots=True)
class JobFile:
    """A job, the cells its clients were read from, and whether it says what time it is."""

    job: Job
    cells: Cells
    now_given: bool

    def check_locations(self, known: Sequence[str]) -> None:
        """Refuse a client at a location that is not among the known ones, naming its cell.

        Raises
        ------
        InputError
            For the first such client.
        """
        unknown = set(self.job.fleet.locations) - set(known)
        if unknown:
            row, name = next(
                (row, name) for row, name in enumerate(self.cells.names["location"]) if name in unknown
            )
            raise unknown_name(self.cells.label(row, "location"), name, known).within(self.cells.file)


def read_job(path: Path, clock: Clock, patience: float | None = None) -> JobFile:
    """Read a job.

    Parameters
    ----------
    path : Path
        TOML or JSON.
    clock : Clock
        Says what time it is where the job does not.
    patience : float, optional
        Overrides the file's.

    Raises
    ------
    InputError
        For whatever is wrong with it; names file, field and fix.
    """
    document = _parse(path)
    try:
        return _job(document, path, clock, patience)
    except InputError as error:
        if error.file is not None or error.field.startswith("--"):
            raise
        field = _KEY_OF_FIELD.get(error.field, error.field)
        raise InputError(field, error.problem, error.fix, str(path)) from None


def _parse(path: Path) -> dict[str, Any]:
    """Read the file as JSON if it is named or begins like it, else as TOML."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError("--job", f"{path} cannot be read ({error.strerror})", "give a job file") from None
    except UnicodeDecodeError:
        raise InputError("--job", f"{path} is not UTF-8 text", "give a TOML or JSON file") from None
    is_json = path.suffix.lower() == ".json" or text.lstrip().startswith("{")
    try:
        document = json.loads(text, object_pairs_hook=_once) if is_json else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        kind = "JSON" if is_json else "TOML"
        raise InputError("--job", f"{path} is not {kind} ({error})", "correct it there") from None
    if not isinstance(document, dict):
        raise InputError("--job", f"{path} is not a job", "give an object with rounds, finish_by, ...")
    return document


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object, refusing a key that stands twice, as TOML does."""
    built = dict(pairs)
    if len(built) < len(pairs):
        twice = next(key for k, (key, _) in enumerate(pairs) if key in dict(pairs[:k]))
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return built


def _job(document: Mapping[str, Any], path: Path, clock: Clock, patience: float | None) -> JobFile:
    for key in document:
        if key not in REQUIRED + OPTIONAL:
            raise unknown_name(key, key, REQUIRED + OPTIONAL)
    for key in REQUIRED:
        if document.get(key) is None:
            raise InputError(key, "is missing", f"add {key} to the job")
    given = {key: value for key, value in document.items() if value is not None}
    now = _time(given["now"], "now") if "now" in given else _next_minute(clock.now())
    finish_by = _deadline(given["finish_by"], now)
    round_duration = _minutes(given, "round_duration_minutes")
    stagger = given.get("stagger", False)
    if not isinstance(stagger, bool):
        raise InputError("stagger", f"{stagger!r} is neither true nor false", "give one of them")
    if ("clients" in given) == ("fleet" in given):
        problem = "stands beside fleet" if "clients" in given else "is missing, and so is fleet"
        raise InputError("clients", problem, 'give either clients = [...] or fleet = "fleet.csv"')
    if "clients" in given:
        cells = read_clients(given["clients"], str(path))
    elif isinstance(given["fleet"], str):
        cells = read_fleet_file(path.parent / given["fleet"])
    else:
        raise InputError("fleet", f"{given['fleet']!r} is no path", 'give for example "fleet.csv"')
    if patience is not None and not 0 <= patience <= 1:
        raise InputError("--patience", f"{patience} is not from 0 to 1", "give a number from 0 to 1")
    job = Job(
        to_fleet(cells, round_duration),
        now=now,
        finish_by=finish_by,
        rounds=given["rounds"],
        clients_per_round=given["clients_per_round"],
        round_duration=round_duration,
        start_step=_minutes(given, "start_step_minutes"),
        patience=given.get("patience", 1.0) if patience is None else patience,
        participation=given.get("participation", "equal"),
        stagger=stagger,
        max_location_share=given.get("max_location_share", 1.0),
        mix_rounds=given.get("mix_rounds"),
    )
    return JobFile(job, cells, "now" in given)


def _time(value: object, key: str) -> datetime:
    """Read an ISO 8601 text, or a TOML datetime; both with an offset."""
    if isinstance(value, datetime):
        return to_utc(value, key)
    if isinstance(value, str):
        return parse_time(value, key)
    fix = "write ISO 8601 with an offset, for example 2026-01-31T18:00Z"
    raise InputError(key, f"{value!s} is not a time", fix)


def _deadline(value: object, now: datetime) -> datetime:
    """Read a time, or a duration counted from now."""
    if not isinstance(value, str | datetime):
        fix = 'give a time with an offset, or a duration such as "48h"'
        raise InputError("finish_by", f"{value!s} is neither a time nor a duration", fix)
    if isinstance(value, datetime) or "-" in value or ":" in value:
        return _time(value, "finish_by")
    try:
        return now + parse_duration(value, "finish_by")
    except OverflowError:
        raise InputError("finish_by", f"{value!r} is too long", "give for example 48h") from None


def _minutes(given: Mapping[str, Any], key: str) -> timedelta | None:
    if key not in given:
        return None
    value = given[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= LONGEST_MINUTES:
        raise InputError(key, f"{value!r} is not a number of minutes", "give for example 30")
    return timedelta(minutes=value)


def _next_minute(when: datetime) -> datetime:
    """Return the first whole minute not before ``when``, so that openings can be read."""
    whole = when.replace(second=0, microsecond=0)
    return whole if whole == when else whole + timedelta(minutes=1)
