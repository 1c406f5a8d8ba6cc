"""The clients of a JOB, listed in it or in a CSV file of their own: one set of columns, one set of checks."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.forecasts.source import unknown_name
from lowcarb_scheduler.planning.fleet import Fleet

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import timedelta
    from pathlib import Path

    from numpy.typing import NDArray

    from lowcarb_scheduler.intensity import Floats

    Names = NDArray[np.object_]

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
