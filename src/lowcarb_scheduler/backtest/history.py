"""What happened and what was forecast, and of both what was known at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, cast

import numpy as np

from lowcarb_scheduler.clock import from_us, to_us, to_utc
from lowcarb_scheduler.errors import ForecastUnavailableError, InputError, near_miss
from lowcarb_scheduler.forecasts.correction import HISTORY
from lowcarb_scheduler.intensity import IntensityTable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    import pandas as pd

    from lowcarb_scheduler.intensity import Signal


@dataclass(frozen=True, slots=True)
class Known:
    """What a planner is shown.

    Parameters
    ----------
    forecast : IntensityTable
        The newest issue, whole.
    past_forecasts : tuple of IntensityTable
        The issues before it, oldest first.
    history : IntensityTable
        What had happened.
    """

    forecast: IntensityTable
    past_forecasts: tuple[IntensityTable, ...]
    history: IntensityTable


@dataclass(frozen=True, slots=True)
class History:
    """What happened, and what was forecast.

    Parameters
    ----------
    actual : IntensityTable
        Actual intensity [gCO2eq/kWh].
    issues : tuple of (datetime, IntensityTable)
        Forecasts by the time they were issued, in any order.
    actual_delay : timedelta
        How late the actual intensity of an hour is known.
    """

    actual: IntensityTable
    issues: tuple[tuple[datetime, IntensityTable], ...]
    actual_delay: timedelta = timedelta(0)

    @classmethod
    def from_frames(
        cls,
        actual: pd.DataFrame,
        forecast: pd.DataFrame,
        locations: Sequence[str],
        actual_delay: timedelta = timedelta(0),
        signal: Signal = "unknown",
    ) -> History:
        """Build it from rows of trace files.

        Parameters
        ----------
        actual : pandas.DataFrame
            Columns ``location``, ``time`` and ``g_per_kwh``, as :func:`read_points` returns them.
        forecast : pandas.DataFrame
            The same with ``issued_at``.
        locations : sequence of str
            Which of their locations.
        actual_delay : timedelta
            As in the class.
        signal : {"average", "marginal", "unknown"}
            What the numbers measure.

        Raises
        ------
        InputError
            If a location is missing in one of them.
        """
        happened = table_of(actual, locations, "actual", signal)
        issues = forecast[forecast["location"].isin(locations)]
        _check_places(issues, forecast, locations, "forecast")
        return cls(
            happened,
            tuple(
                (cast("pd.Timestamp", issued_at).to_pydatetime(), _table(rows, locations, signal))
                for issued_at, rows in issues.groupby("issued_at")
            ),
            actual_delay,
        )

    def __post_init__(self) -> None:
        in_order = sorted(self.issues, key=lambda issue: issue[0])
        object.__setattr__(self, "issues", tuple(in_order))

    def known(self, now: datetime) -> Known:
        """Return what was known at a time.

        Raises
        ------
        ForecastUnavailableError
            If there was no forecast or no actual intensity yet.
        """
        now = to_utc(now, "now")
        issued = [table for at, table in self.issues if now - HISTORY <= at <= now]
        seen = over(self.actual, now - self.actual_delay, now - HISTORY)
        if not issued or seen is None:
            raise ForecastUnavailableError(dict.fromkeys(self.actual.locations, "nothing is known yet"))
        return Known(issued[-1], tuple(issued[:-1]), seen)

    def between(self, start: datetime, end: datetime) -> History:
        """Return it with the issues only that a planner may be shown in a time."""
        wanted = tuple((at, table) for at, table in self.issues if start - HISTORY <= at <= end)
        return replace(self, issues=wanted)


def over(actual: IntensityTable, now: datetime, since: datetime) -> IntensityTable | None:
    """Return the steps that have ended by a time, from another on; None where none has ended.

    Where all of them have ended before that other time, they are returned whole: something is known.
    """
    steps = int(np.searchsorted(actual.edges_us, to_us(now), side="right")) - 1
    if steps < 1:
        return None
    recent = actual.slice(since, from_us(actual.edges_us[steps]))
    if recent is not None:
        return recent
    return actual.relaid(actual.edges_us[: steps + 1], actual.locations, actual.values[:steps])


def table_of(
    rows: pd.DataFrame, locations: Sequence[str], field: str, signal: Signal = "unknown"
) -> IntensityTable:
    """Return the rows of a trace file as a table with these columns.

    Raises
    ------
    InputError
        If a location is missing.
    """
    own = rows[rows["location"].isin(locations)]
    _check_places(own, rows, locations, field)
    return _table(own, locations, signal)


def _check_places(own: pd.DataFrame, rows: pd.DataFrame, locations: Sequence[str], field: str) -> None:
    """Refuse rows that lack a location."""
    there = set(own["location"].unique())
    for name in locations:
        if name not in there:
            near = near_miss(name, map(str, rows["location"].unique()))
            fix = f"did you mean {near}?" if near else "leave it out of the setting"
            raise InputError("location", f"{name} is missing in the {field}", fix)


def _table(rows: pd.DataFrame, locations: Sequence[str], signal: Signal) -> IntensityTable:
    points = {
        str(name): (own["time"].to_numpy("datetime64[us]").astype(np.int64), own["g_per_kwh"].to_numpy())
        for name, own in rows.groupby("location", observed=True)
    }
    return IntensityTable.from_points(points, signal, "traces").align(locations)
