"""Fleet: the clients of a job as arrays, with checks of their values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import numpy as np

from lowcarb_scheduler.errors import InputError, near_miss

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from lowcarb_scheduler.intensity import Floats, Ints

DEFAULT_POWER_WATTS: Final = 300.0  # a workstation with one busy GPU; marked assumed wherever it is used
FLEET_COLUMNS: Final = ("id", "location", "power_watts", "duration", "turns_done")


@dataclass(frozen=True, slots=True, eq=False)
class Fleet:
    """Clients of a job, as arrays in the order of their ids; built with :meth:`from_frame`.

    Parameters
    ----------
    ids : ndarray of object (str), shape (C,)
        Distinct names, sorted.
    locations : tuple of str, length L
        Distinct location names, sorted.
    location_index : ndarray of int64, shape (C,)
        Position of each client's location in ``locations``.
    power_watts : ndarray of float64, shape (C,)
        Power drawn while training [W], not negative.
    power_assumed : ndarray of bool, shape (C,)
        True where the power is the default and not given.
    durations_us : ndarray of int64, shape (C,)
        Training time of one turn [µs]; 0 where it is the whole round.
    turns_done : ndarray of int64, shape (C,)
        Turns completed before this job.
    """

    ids: NDArray[np.object_]
    locations: tuple[str, ...]
    location_index: Ints
    power_watts: Floats
    power_assumed: NDArray[np.bool_]
    durations_us: Ints
    turns_done: Ints

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def from_frame(cls, df: pd.DataFrame) -> Fleet:
        """Build a fleet from a frame with one row a client, in any order.

        Parameters
        ----------
        df : pandas.DataFrame
            Columns ``id`` and ``location`` (str); optional ``power_watts`` (number >= 0; None or NA means
            the default of 300 W, marked assumed), ``duration`` (positive timedelta; None or NaT means the
            whole round) and ``turns_done`` (int >= 0, default 0).

        Raises
        ------
        InputError
            For a missing or unknown column, an empty fleet, an id twice, or a value out of range or NaN.
        """
        import pandas as pd

        for column in map(str, df.columns):
            if column not in FLEET_COLUMNS:
                near = near_miss(column, FLEET_COLUMNS)
                fix = f"rename it to {near}" if near else f"a fleet has {', '.join(FLEET_COLUMNS)}"
                raise InputError(column, "is not a column of a fleet", fix)
        for column in ("id", "location"):
            if column not in df:
                raise InputError(column, "the column is missing", "give each client an id and a location")
        if df.empty:
            raise InputError("clients", "the fleet is empty", "give at least one client")

        ids = _names(df["id"], "id")
        order = np.argsort(ids, kind="stable")
        ids = ids[order]
        if (twice := np.flatnonzero(ids[1:] == ids[:-1])).size:
            raise InputError("id", f"{ids[twice[0]]!r} stands twice", "give each client an id of its own")
        location_index, locations = pd.factorize(_names(df["location"], "location")[order], sort=True)

        watts, given = _numbers(df, ids, order, "power_watts", "watts, for example 300")
        counts, counted = _numbers(df, ids, order, "turns_done", "a whole number, for example 0")
        counts = np.where(counted, counts, 0.0)
        _refuse(counts != np.floor(counts), ids, "turns_done", "is not whole", "give a whole number")
        return cls(
            ids=ids,
            locations=tuple(str(name) for name in locations),
            location_index=location_index.astype(np.int64),
            power_watts=np.where(given, watts, DEFAULT_POWER_WATTS),
            power_assumed=~given,
            durations_us=_durations(df, ids, order),
            turns_done=counts.astype(np.int64),
        )

    def take(self, keep: NDArray[np.bool_]) -> Fleet:
        """Select the clients where ``keep``, shape (C,), is true."""
        used, index = np.unique(self.location_index[keep], return_inverse=True)
        return Fleet(
            self.ids[keep], tuple(self.locations[k] for k in used), index.astype(np.int64),
            self.power_watts[keep], self.power_assumed[keep], self.durations_us[keep], self.turns_done[keep],
        )  # fmt: skip


def _names(column: pd.Series, field: str) -> NDArray[np.object_]:
    """Return a column of names as str; refuse missing and blank ones."""
    if column.isna().any():
        row = int(np.flatnonzero(column.isna().to_numpy())[0])
        raise InputError(field, f"row {row + 1} has none", f"give every client a {field}")
    names: NDArray[np.object_] = column.astype(str).to_numpy(dtype=object)
    if (names == "").any():
        row = int(np.flatnonzero(names == "")[0])
        raise InputError(field, f"row {row + 1} is empty", f"give every client a {field}")
    return names


def _numbers(
    df: pd.DataFrame, ids: NDArray[np.object_], order: Ints, field: str, unit: str
) -> tuple[Floats, NDArray[np.bool_]]:
    """Return numbers >= 0 in the order of the ids, and a mask of those that were given.

    None and NA mean "not given"; NaN in a column of floats is an error, and so is infinity.
    """
    import pandas as pd

    if field not in df:
        return np.full(len(df), np.nan), np.zeros(len(df), dtype=bool)
    column = df[field]
    if isinstance(column.dtype, np.dtype) and column.dtype.kind in "iuf":
        given = np.ones(len(column), dtype=bool)
        raw = column.to_numpy(dtype=np.float64)
    elif pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype):
        given = column.notna().to_numpy()  # a masked column: NA, not NaN
        raw = column.to_numpy(dtype=np.float64, na_value=np.nan)
    else:
        given = np.array([value is not None and value is not pd.NA for value in column], dtype=bool)
        raw = np.full(len(column), np.nan)
        for k in np.flatnonzero(given):
            value = column.iloc[k]
            if isinstance(value, int | float | np.number) and not isinstance(value, bool):
                raw[k] = value
    raw, given = raw[order], given[order]
    _refuse(given & ~np.isfinite(raw), ids, field, "is not a number", f"give {unit}")
    _refuse(given & (raw < 0), ids, field, "is negative", f"give {unit}")
    return raw, given


def _durations(df: pd.DataFrame, ids: NDArray[np.object_], order: Ints) -> Ints:
    """Return training times [µs] in the order of the ids; 0 where none is given."""
    import pandas as pd

    if "duration" not in df or df["duration"].isna().all():
        return np.zeros(len(df), dtype=np.int64)
    column = df["duration"]
    if column.dtype.kind != "m" and not all(isinstance(v, timedelta) or pd.isna(v) for v in column):
        raise InputError("duration", "holds something that is no timedelta", "give timedeltas")
    durations = pd.to_timedelta(column).dt.as_unit("us")
    given = durations.notna().to_numpy()[order]
    micros = durations.fillna(pd.Timedelta(0)).to_numpy().astype(np.int64)[order]
    _refuse(given & (micros <= 0), ids, "duration", "is not positive", "give for example 30 minutes")
    return np.where(given, micros, 0).astype(np.int64)


def _refuse(bad: NDArray[np.bool_], ids: NDArray[np.object_], field: str, problem: str, fix: str) -> None:
    """Raise an InputError for the first client with a bad value."""
    if bad.any():
        raise InputError(field, f"of client {ids[int(bad.argmax())]!r} {problem}", fix)
