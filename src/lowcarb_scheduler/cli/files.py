"""Job files and fleet files, the inputs of ``plan`` and ``tradeoff``.

A fault in the list of clients is named like ``clients[3].power_watts``, a fault in a fleet file like
``row 4, power_watts``.
"""

from __future__ import annotations

import math
import re
import warnings
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Self

import numpy as np
import pandas as pd
from pydantic import BeforeValidator, model_validator

from lowcarb_scheduler.clock import Clock, in_range, parse_duration
from lowcarb_scheduler.errors import InputError, unknown_name
from lowcarb_scheduler.planning.fleet import Fleet
from lowcarb_scheduler.planning.job import Job, JobRules
from lowcarb_scheduler.userfiles import (
    LONGEST_MINUTES,
    Deadline,
    Duration,
    FieldError,
    FileModel,
    Time,
    as_spelled,
    check_width,
    parsed,
    read_document,
    validate,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from lowcarb_scheduler.intensity import Floats

    Names = NDArray[np.object_]

_TORN: Final = re.compile(r"[\ud800-\udfff]")
_MINUTE: Final = timedelta(minutes=1)
NAMES: Final = {"id": "an id", "location": "a location"}
NUMBERS: Final = {
    "power_watts": "watts, for example 300",
    "duration": "a duration, for example 30m",
    "duration_minutes": "minutes, for example 30",
    "turns_done": "a whole number, for example 0",
}
COLUMNS: Final = (*NAMES, *NUMBERS)
_MOST: Final = {
    "power_watts": 1e9, "duration": LONGEST_MINUTES, "duration_minutes": LONGEST_MINUTES, "turns_done": 1e9,
}  # fmt: skip


# -- Models of the files -----------------------------------------------------------------------------------


def _name(column: str) -> BeforeValidator:
    """Return a validator of text, or of a whole number that is used as a name."""

    def check(value: object) -> str:
        # Flower ids are numbers, and bool is an int in Python.
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise FieldError(f"{value!r:.80} is not a name", f"give {NAMES[column]}, as text")
        return str(value)

    return BeforeValidator(check)


def _number(column: str) -> BeforeValidator:
    """Return a validator of finite numbers; text and booleans are refused."""

    def check(value: object) -> float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        # An integer of TOML or JSON may be larger than any float.
        if not is_number or not abs(value) <= 1e300:  # type: ignore[arg-type]
            raise FieldError(f"{value!r:.80} is not a number", f"give {NUMBERS[column]}")
        return float(value)  # type: ignore[arg-type]

    return BeforeValidator(check)


def _minutes(value: object) -> float:
    """Read a duration as minutes, the unit of the older column."""
    return parsed(parse_duration, value) / _MINUTE


class Client(FileModel):
    """Client in a job's list; the values are checked together with those of fleet files."""

    # The defaults mean not given, as a blank cell does in a fleet file.
    id: Annotated[str, _name("id")] = ""
    location: Annotated[str, _name("location")] = ""
    power_watts: Annotated[float, _number("power_watts")] = math.nan
    duration: Annotated[float, BeforeValidator(_minutes)] = math.nan
    duration_minutes: Annotated[float, _number("duration_minutes")] = math.nan
    turns_done: Annotated[float, _number("turns_done")] = math.nan

    @model_validator(mode="before")
    @classmethod
    def _check_table(cls, value: object) -> object:
        if not isinstance(value, dict):
            raise FieldError("is not a table", "give {id = ..., location = ...}")
        return value


def _of_type(kind: type, problem: str, fix: str) -> BeforeValidator:
    """Return a validator of a type, because pydantic would convert some values silently."""

    def check(value: object) -> object:
        if not isinstance(value, kind):
            raise FieldError(problem.format(value), fix)
        return value

    return BeforeValidator(check)


_LIST: Final = _of_type(list, "is not a list", "give [{id = ..., location = ...}, ...]")
_PATH: Final = _of_type(str, "{!r} is no path", 'give for example "fleet.csv"')
_FLAG: Final = _of_type(bool, "{!r} is neither true nor false", "give one of them")


class JobDocument(FileModel):
    """Content of a job file. What is typed ``Any`` is checked by :class:`~lowcarb_scheduler.Job`."""

    in_minutes = ("round_duration", "start_step")

    now: Time | None = None
    finish_by: Deadline
    rounds: Any
    clients_per_round: Any
    round_duration: Duration | None = None
    start_step: Duration | None = None
    patience: Any = None
    participation: Any = None
    stagger: Annotated[bool | None, _FLAG] = None
    max_location_share: Any = None
    mix_rounds: Any = None
    balance: Any = None
    clients: Annotated[list[Client] | None, _LIST] = None
    fleet: Annotated[str | None, _PATH] = None

    @model_validator(mode="after")
    def _check_one_fleet(self) -> Self:
        if (self.clients is None) == (self.fleet is None):
            problem = "is missing, and so is fleet" if self.clients is None else "stands beside fleet"
            raise FieldError(problem, 'give either clients = [...] or fleet = "fleet.csv"', "clients")
        return self


# -- Clients as columns ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cells:
    """Columns of a fleet, with the clients in the order of the file.

    Parameters
    ----------
    file : str
        The file that lists the clients.
    names : mapping of str to ndarray of object (str), shape (C,)
        ``id`` and ``location``; empty is not given.
    numbers : mapping of str to ndarray of float64, shape (C,)
        The other columns, both durations in minutes; NaN is not given.
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


def _listed(clients: Sequence[Client], file: str) -> Cells:
    """Return the clients of a job's list as columns."""
    # From here on, listed clients and fleet files share their checks.
    names = {column: np.array([getattr(each, column) for each in clients], dtype=object) for column in NAMES}
    numbers = {
        column: np.array([getattr(each, column) for each in clients], dtype=float) for column in NUMBERS
    }
    return Cells(file, names, numbers, lambda row, column: f"clients[{row}].{column}")


def read_fleet_file(path: Path) -> Cells:
    """Read a CSV file with one row for each client; a blank cell is not given.

    Raises
    ------
    InputError
        If the file is unreadable, has an unknown column, or has text in place of a number.
    """
    file = str(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # a row longer than the header
            frame = pd.read_csv(
                # As text, because pandas would read the location NA as missing and the id 007 as 7.
                check_width(path), dtype=str, keep_default_na=False, index_col=False, skipinitialspace=True,
                encoding="utf-8-sig",
            ).fillna("")  # fmt: skip
    except OSError as error:
        reason = f"{file} cannot be read ({error.strerror})"
        raise InputError("fleet", reason, "give a CSV file; its path is relative to the job's") from None
    except (ValueError, pd.errors.ParserWarning) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError("fleet", f"is not readable CSV ({reason})", "correct it there", file) from None
    for column in frame.columns:
        # Spreadsheets write semicolons where the decimal sign is a comma.
        if len(frame.columns) == 1 and ";" in column:
            fix = "separate columns by commas, and write decimals with a point"
            raise InputError("fleet", "its columns are separated by semicolons", fix, file)
        if column not in COLUMNS:
            raise unknown_name(str(column), column, COLUMNS).within(file)
    for column in NAMES:
        if column not in frame:
            raise InputError(column, "the column is missing", f"the header is {','.join(COLUMNS)}", file)
    # A fleet may have a million rows: they are checked as columns, without an object for each row.
    numbers: dict[str, Floats] = {}
    for column, unit in NUMBERS.items():
        text = frame[column] if column in frame else pd.Series("", index=frame.index)
        number = text.map(_minutes_by_text(text)) if column == "duration" else pd.to_numeric(text, "coerce")
        values: Floats = np.asarray(number, dtype=np.float64)
        wrong = (text != "").to_numpy(bool) & ~np.isfinite(values)
        if wrong.any():
            row = int(wrong.argmax())
            kind = "duration" if column == "duration" else "number"
            problem = f"{text.iloc[row]!r:.80} is not a {kind}"
            raise InputError(f"row {row + 1}, {column}", problem, f"give {unit}", file)
        numbers[column] = values
    names = {column: frame[column].to_numpy(dtype=object) for column in NAMES}
    return Cells(file, names, numbers, lambda row, column: f"row {row + 1}, {column}")


def _minutes_by_text(text: pd.Series) -> dict[str, float]:
    """Return the minutes of each distinct duration in a column; NaN where it is unreadable or blank."""
    minutes = {}
    for each in text.unique():
        try:
            minutes[each] = parse_duration(each, "duration") / _MINUTE
        except InputError:
            # The caller knows the row and reports it.
            minutes[each] = math.nan
    return minutes


def to_fleet(cells: Cells, round_duration: timedelta | None) -> Fleet:
    """Check the cells and build the fleet.

    Parameters
    ----------
    cells : Cells
        The clients.
    round_duration : timedelta, optional
        Upper limit of each client's duration.

    Raises
    ------
    InputError
        For the first cell at fault.
    """
    ids, turns = cells.names["id"], cells.numbers["turns_done"]
    if not len(ids):
        raise InputError("clients", "the fleet is empty", "give at least one client", cells.file)
    for column, a_name in NAMES.items():
        blank = cells.names[column] == ""
        cells.refuse(blank, column, "is empty or missing", f"give every client {a_name}")
        # Half of a surrogate pair, which JSON can escape, is no character of any output.
        torn = np.array([_TORN.search(name) is not None for name in cells.names[column]])
        cells.refuse(torn, column, "holds half of a surrogate pair", "correct the name")
    # Turns are counted by id, so two clients cannot share one.
    twice = pd.Series(ids).duplicated().to_numpy()
    cells.refuse(twice, "id", "stands twice", "give each client an id of its own")
    for column, unit in NUMBERS.items():
        values = cells.numbers[column]
        cells.refuse(values < 0, column, "is negative", f"give {unit}")
        cells.refuse(values > _MOST[column], column, f"is more than {_MOST[column]:,.0f}", f"give {unit}")
    cells.refuse(turns % 1 > 0, "turns_done", "is not whole", "give a whole number")
    durations, minutes = cells.numbers["duration"], cells.numbers["duration_minutes"]
    both = ~np.isnan(durations) & ~np.isnan(minutes)
    cells.refuse(both, "duration_minutes", "is given beside duration", "leave one of them out")
    for column in ("duration", "duration_minutes"):
        values = cells.numbers[column]
        cells.refuse(values == 0, column, "is not positive", f"give {NUMBERS[column]}")
        if round_duration is not None:
            problem = f"is longer than the round of {round_duration / _MINUTE:g} minutes"
            too_long = values > round_duration / _MINUTE
            cells.refuse(too_long, column, problem, "shorten it or lengthen the round")
    # A missing power must stay missing: Fleet assumes one and marks it as assumed.
    watts = pd.array(cells.numbers["power_watts"], dtype="Float64")
    return Fleet.from_frame(
        pd.DataFrame(
            {
                "id": ids,
                "location": cells.names["location"],
                "power_watts": watts if watts.isna().any() else watts.to_numpy(np.float64),
                "duration": pd.to_timedelta(np.where(np.isnan(durations), minutes, durations), unit="m"),
                "turns_done": np.nan_to_num(turns),
            }
        )
    )


# -- Jobs --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class JobFile:
    """Job read from a file, with the cells of its clients; ``now_given`` if the file sets the time."""

    job: Job
    cells: Cells
    now_given: bool

    def check_locations(self, known: Sequence[str]) -> None:
        """Refuse a client at an unknown location and name its cell.

        Raises
        ------
        InputError
            For the first such client.
        """
        # A set first: a million clients usually share a few locations.
        unknown = set(self.job.fleet.locations) - set(known)
        if unknown:
            row, name = next(
                (row, name) for row, name in enumerate(self.cells.names["location"]) if name in unknown
            )
            raise unknown_name(self.cells.label(row, "location"), name, known).within(self.cells.file)


def read_job(path: Path, clock: Clock, patience: float | None = None) -> JobFile:
    """Read a job file.

    Parameters
    ----------
    path : Path
        TOML or JSON.
    clock : Clock
        Gives the time where the job does not.
    patience : float, optional
        Overrides the file's.

    Raises
    ------
    InputError
        For the first fault; names file, field and fix.
    """
    document = read_document(path, "--job", "job")
    given = validate(JobDocument, document, str(path))
    # Checked here, so that the error names the option and not the file.
    if patience is not None and not 0 <= patience <= 1:
        raise InputError("--patience", f"{patience} is not from 0 to 1", "give a number from 0 to 1")
    try:
        return _job(given, path, clock, given.patience if patience is None else patience)
    except InputError as error:
        # Faults of the fleet file already name that file.
        if error.file is not None:
            raise
        raise InputError(as_spelled(error.field, document), error.problem, error.fix, str(path)) from None


def _job(given: JobDocument, path: Path, clock: Clock, patience: float) -> JobFile:
    now = given.now or _next_minute(clock.now())
    finish_by = given.finish_by
    if isinstance(finish_by, timedelta):
        try:
            finish_by = in_range(now + finish_by, "finish_by")
        except (OverflowError, InputError):
            raise InputError("finish_by", "is too long", "give for example 48h") from None
    if given.fleet is None:
        cells = _listed(given.clients or (), str(path))
    else:
        cells = read_fleet_file(path.parent / given.fleet)
    # The keys of a job file are the names of the rules, so that a new rule needs no line here.
    rules = JobRules.from_settings(dict(given), patience=patience)
    fleet = to_fleet(cells, given.round_duration)
    job = rules.job(fleet, now, finish_by, given.rounds, given.clients_per_round)
    return JobFile(job, cells, given.now is not None)


def _next_minute(when: datetime) -> datetime:
    """Return the first whole minute not before ``when``, to keep opening times readable."""
    # Rounds open on a grid that begins now.
    whole = when.replace(second=0, microsecond=0)
    return whole if whole == when else whole + _MINUTE
