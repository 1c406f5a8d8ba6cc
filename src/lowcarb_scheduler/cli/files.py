"""JOB: the file that says what is to be planned, TOML or JSON, read with every fault named where it stands.

A fault in the list of clients is named like ``clients[3].power_watts``, one in the fleet's own file like
``row 4, power_watts``.
"""

from __future__ import annotations

import json
import math
import tomllib
import warnings
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from lowcarb_scheduler.clock import Clock, parse_duration, parse_time, to_utc
from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.forecasts.base import unknown_name
from lowcarb_scheduler.planning.fleet import Fleet
from lowcarb_scheduler.planning.job import JobRules

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from lowcarb_scheduler.intensity import Floats
    from lowcarb_scheduler.planning.job import Job

    Names = NDArray[np.object_]

# -- The clients of a JOB, listed in it or in a CSV file of their own: one set of columns, one set of checks

NAMES: Final = {"id": "an id", "location": "a location"}
NUMBERS: Final = {
    "power_watts": "watts, for example 300",
    "duration_minutes": "minutes, for example 30",
    "turns_done": "a whole number, for example 0",
}
COLUMNS: Final = (*NAMES, *NUMBERS)
LONGEST_MINUTES: Final = 10 * 366 * 24 * 60
_MOST: Final = {"power_watts": 10**9, "duration_minutes": LONGEST_MINUTES, "turns_done": 10**9}


@dataclass(frozen=True, slots=True)
class Cells:
    """The clients in the order they were written in.

    Parameters
    ----------
    file : str
        The file they stand in.
    names : mapping of str to ndarray of object (str), shape (C,)
        ``id`` and ``location``; empty is not given.
    numbers : mapping of str to ndarray of float64, shape (C,)
        The other columns; NaN is not given.
    label : callable
        Names a cell from its row and column.
    """

    file: str
    names: Mapping[str, Names]
    numbers: Mapping[str, Floats]
    label: Callable[[int, str], str]

    def refuse(self, bad: NDArray[np.bool_], column: str, problem: str, fix: str) -> None:
        """Raise an InputError for the first row at fault."""
        if bad.any():
            row = int(bad.argmax())
            value = (
                f"{self.names[column][row]!r:.80}" if column in NAMES else f"{self.numbers[column][row]:g}"
            )
            raise InputError(self.label(row, column), f"{value} {problem}", fix, self.file)


def read_clients(clients: object, file: str) -> Cells:
    """Read ``clients``, a list of tables.

    Raises
    ------
    InputError
        If it is not one, or a client has a key that is not a client's or a value of another kind.
    """
    if not isinstance(clients, list):
        raise InputError("clients", "is not a list", "give [{id = ..., location = ...}, ...]", file)
    names = {column: np.full(len(clients), "", dtype=object) for column in NAMES}
    numbers = {column: np.full(len(clients), np.nan) for column in NUMBERS}
    for row, client in enumerate(clients):
        if not isinstance(client, dict):
            raise InputError(f"clients[{row}]", "is not a table", "give {id = ..., location = ...}", file)
        for key, value in client.items():
            cell = f"clients[{row}].{key}"
            if key in NAMES and _is_name(value):
                names[key][row] = str(value)
            elif key in NUMBERS and _is_number(value):
                numbers[key][row] = value
            elif key in NAMES:
                raise InputError(cell, f"{value!r:.80} is not a name", f"give {NAMES[key]}, as text", file)
            elif key in NUMBERS and value is not None:
                raise InputError(cell, f"{value!r:.80} is not a number", f"give {NUMBERS[key]}", file)
            elif key not in NUMBERS:
                raise unknown_name(cell, key, COLUMNS).within(file)
    return Cells(file, names, numbers, lambda row, column: f"clients[{row}].{column}")


def read_fleet_file(path: Path) -> Cells:
    """Read a CSV file with one row a client; a blank cell is not given.

    Raises
    ------
    InputError
        If it cannot be read, has a column that is not a fleet's, or text where a number must be.
    """
    file = str(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # a row longer than the header
            frame = pd.read_csv(
                path, dtype=str, keep_default_na=False, index_col=False, skipinitialspace=True,
                encoding="utf-8-sig",
            ).fillna("")  # fmt: skip
    except OSError as error:
        reason = f"{file} cannot be read ({error.strerror})"
        raise InputError("fleet", reason, "give a CSV file; its path is relative to the job's") from None
    except (ValueError, pd.errors.ParserWarning) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError("fleet", f"is not readable CSV ({reason})", "correct it there", file) from None
    for column in frame.columns:
        if len(frame.columns) == 1 and ";" in column:
            fix = "separate columns by commas, and write decimals with a point"
            raise InputError("fleet", "its columns are separated by semicolons", fix, file)
        if column not in COLUMNS:
            raise unknown_name(str(column), column, COLUMNS).within(file)
    for column in NAMES:
        if column not in frame:
            raise InputError(column, "the column is missing", f"the header is {','.join(COLUMNS)}", file)
    numbers = {}
    for column, unit in NUMBERS.items():
        text = frame[column] if column in frame else pd.Series("", index=frame.index)
        value = pd.to_numeric(text, errors="coerce").to_numpy(np.float64)
        wrong = (text != "").to_numpy(bool) & ~np.isfinite(value)
        if wrong.any():
            row = int(wrong.argmax())
            problem = f"{text.iloc[row]!r:.80} is not a number"
            raise InputError(f"row {row + 1}, {column}", problem, f"give {unit}", file)
        numbers[column] = value
    names = {column: frame[column].to_numpy(dtype=object) for column in NAMES}
    return Cells(file, names, numbers, lambda row, column: f"row {row + 1}, {column}")


def to_fleet(cells: Cells, round_duration: timedelta | None) -> Fleet:
    """Check the cells and build the fleet.

    Parameters
    ----------
    cells : Cells
        The clients.
    round_duration : timedelta, optional
        What no client's duration may exceed.

    Raises
    ------
    InputError
        For the first cell at fault.
    """
    ids, minutes, turns = cells.names["id"], cells.numbers["duration_minutes"], cells.numbers["turns_done"]
    if not len(ids):
        raise InputError("clients", "the fleet is empty", "give at least one client", cells.file)
    for column, a_name in NAMES.items():
        blank = cells.names[column] == ""
        cells.refuse(blank, column, "is empty or missing", f"give every client {a_name}")
    twice = pd.Series(ids).duplicated().to_numpy()
    cells.refuse(twice, "id", "stands twice", "give each client an id of its own")
    for column, unit in NUMBERS.items():
        values = cells.numbers[column]
        cells.refuse(values < 0, column, "is negative", f"give {unit}")
        cells.refuse(values > _MOST[column], column, f"is more than {_MOST[column]:,}", f"give {unit}")
    cells.refuse(minutes == 0, "duration_minutes", "is not positive", f"give {NUMBERS['duration_minutes']}")
    if round_duration is not None:
        round_minutes = round_duration.total_seconds() / 60
        problem = f"is longer than the round of {round_minutes:g} minutes"
        cells.refuse(minutes > round_minutes, "duration_minutes", problem, "shorten it or lengthen the round")
    cells.refuse(turns % 1 > 0, "turns_done", "is not whole", "give a whole number")
    watts = pd.array(cells.numbers["power_watts"], dtype="Float64")
    return Fleet.from_frame(
        pd.DataFrame(
            {
                "id": ids,
                "location": cells.names["location"],
                "power_watts": watts if watts.isna().any() else watts.to_numpy(np.float64),
                "duration": pd.to_timedelta(minutes, unit="m"),
                "turns_done": np.nan_to_num(turns),
            }
        )
    )


def _is_name(value: object) -> bool:
    """Whether a value can name something: a text, or a whole number taken as one."""
    return isinstance(value, str | int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= 10**300 and math.isfinite(value)


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
    rules = JobRules.from_settings(
        given,
        round_duration=round_duration,
        start_step=_minutes(given, "start_step_minutes"),
        patience=given.get("patience", 1.0) if patience is None else patience,
    )
    job = rules.job(
        to_fleet(cells, round_duration), now, finish_by, given["rounds"], given["clients_per_round"]
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
