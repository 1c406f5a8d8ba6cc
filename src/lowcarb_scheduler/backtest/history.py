"""History for a backtest: actual intensity and past forecasts, and the part of both known at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final, cast

import numpy as np

from lowcarb_scheduler.clock import HOUR_US, from_us, to_us, to_utc
from lowcarb_scheduler.errors import ForecastUnavailableError, InputError, near_miss
from lowcarb_scheduler.forecasts.bias_correction import HISTORY
from lowcarb_scheduler.forecasts.climatology import DAY, LEAST_DAYS, MOST_DAYS, climatology, expected_level
from lowcarb_scheduler.forecasts.sources.traces import table_of_points

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    import pandas as pd

    from lowcarb_scheduler.intensity import Floats, IntensityTable, Signal


@dataclass(frozen=True, slots=True)
class Known:
    """Data available to a planner at some time.

    Parameters
    ----------
    forecast : IntensityTable
        Newest issue, whole [gCO2eq/kWh].
    past_forecasts : tuple of IntensityTable
        Issues before it, oldest first.
    history : IntensityTable
        Actual intensity of the hours that had ended [gCO2eq/kWh].
    """

    forecast: IntensityTable
    past_forecasts: tuple[IntensityTable, ...]
    history: IntensityTable


@dataclass(frozen=True, slots=True)
class History:
    """Actual intensity and past forecasts.

    Parameters
    ----------
    actual : IntensityTable
        Actual intensity [gCO2eq/kWh].
    issues : tuple of (datetime, IntensityTable)
        Forecasts with the times at which they were issued, in any order.
    actual_delay : timedelta
        Delay after which the actual intensity of an hour is known.
    """

    actual: IntensityTable
    issues: tuple[tuple[datetime, IntensityTable], ...]
    actual_delay: timedelta = timedelta(0)

    @classmethod
    def from_frames(
        cls, actual: pd.DataFrame, forecast: pd.DataFrame, locations: Sequence[str],
        actual_delay: timedelta = timedelta(0), signal: Signal = "unknown",
    ) -> History:  # fmt: skip
        """Build a history from rows of trace files.

        Parameters
        ----------
        actual : pandas.DataFrame
            Columns ``location``, ``time`` and ``g_per_kwh``, as :func:`read_points` returns them.
        forecast : pandas.DataFrame
            The same with ``issued_at``.
        locations : sequence of str
            Locations to select.
        actual_delay : timedelta
            As in the class.
        signal : {"average", "marginal", "unknown"}
            Kind of intensity in both frames.

        Raises
        ------
        InputError
            If a location is missing in one of them.
        """
        table = table_of(actual, locations, "actual", signal)
        return cls(table, issues_of(forecast, locations, signal), actual_delay)

    def __post_init__(self) -> None:
        in_order = sorted(self.issues, key=lambda issue: issue[0])  # tables cannot be compared
        object.__setattr__(self, "issues", tuple(in_order))

    def known(self, now: datetime) -> Known:
        """Return the data available at some time.

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
        """Return the history with those issues alone that a planner can use between two times."""
        wanted = tuple((at, table) for at, table in self.issues if start - HISTORY <= at <= end)
        return replace(self, issues=wanted)


def over(actual: IntensityTable, now: datetime, since: datetime) -> IntensityTable | None:
    """Return the steps from ``since`` on that have ended by ``now``; None if no step has ended.

    A table that ends before ``since`` is returned whole: old data are better than none.
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
    """Return the rows of a trace file as a table with these locations.

    Raises
    ------
    InputError
        If locations are missing; names all of them.
    """
    return table_of_points(_of_places(rows, locations, field), signal).align(locations)


def issues_of(
    rows: pd.DataFrame, locations: Sequence[str], signal: Signal = "unknown"
) -> tuple[tuple[datetime, IntensityTable], ...]:
    """Return the rows of a forecast trace as tables with these locations, each with its time of issue.

    Raises
    ------
    InputError
        If a location is missing.
    """
    issues = _of_places(rows, locations, "forecast").groupby("issued_at")
    return tuple(
        (cast("pd.Timestamp", issued_at).to_pydatetime(), table_of_points(own, signal).align(locations))
        for issued_at, own in issues
    )


def _of_places(rows: pd.DataFrame, locations: Sequence[str], field: str) -> pd.DataFrame:
    """Select the rows of some locations; refuse rows that lack one of them."""
    known = sorted(map(str, rows["location"].unique()))
    if missing := [name for name in locations if name not in known]:
        near = [f"{other} instead of {name}" for name in missing if (other := near_miss(name, known))]
        fix = f"did you mean {', '.join(near)}?" if near else "leave it out of the scenario"
        verb = "is" if len(missing) == 1 else "are"
        raise InputError("location", f"{', '.join(missing)} {verb} missing in the {field}", fix)
    return rows[rows["location"].isin(locations)]


# -- Naive forecasts ----------------------------------------------------------------------------------------
# Forecasts made from the past of the same trace alone, one issue of four days each day at 00:00 UTC. They
# replace missing forecasts: a replay on them uses no future data, and shows the least that planning saves.

REACH_HOURS: Final = 96  # the longest horizon of common providers
_DAY_US: Final = DAY * HOUR_US
_PAST_US: Final = MOST_DAYS * _DAY_US


def _usual(hourly: Floats, ahead: int) -> Floats:
    """Return the climatology of each hour of the day and week, plus the decaying recent anomaly."""
    past = climatology(hourly, ahead)
    return past.usual + expected_level(past.anomaly, ahead)


def _again(hourly: Floats, ahead: int) -> Floats:
    """Return the last day, repeated."""
    return hourly[len(hourly) - DAY + np.arange(ahead) % DAY]


NAIVE: Final[Mapping[str, Callable[[Floats, int], Floats]]] = {"climatology": _usual, "persistence": _again}


def naive_issues(
    actual: IntensityTable, kind: str, actual_delay: timedelta = timedelta(0)
) -> tuple[tuple[datetime, IntensityTable], ...]:
    """Make a naive forecast for each day of a trace but its first three.

    Parameters
    ----------
    actual : IntensityTable
        Actual intensity [gCO2eq/kWh].
    kind : {"climatology", "persistence"}
        Usual value of an hour in the last four weeks, or the last day repeated.
    actual_delay : timedelta
        Delay after which the actual intensity of an hour is known.

    Returns
    -------
    tuple of (datetime, IntensityTable)
        Time of issue, and the forecast for the 96 hours from then on; NaN where the past has too little data.
    """
    forecast = NAIVE[kind]
    first_us, last_us = int(actual.edges_us[0]) + LEAST_DAYS * _DAY_US, int(actual.edges_us[-1])
    issues = []
    for issued_us in range(-(-first_us // _DAY_US) * _DAY_US, last_us, _DAY_US):
        known = over(actual, from_us(issued_us) - actual_delay, from_us(issued_us - _PAST_US))
        if known is None:
            continue
        # With a delay, the hours from the last known one to the issue are forecast too, and cut off.
        ends_us = min(to_us(known.end), issued_us) // HOUR_US * HOUR_US
        late = (issued_us - ends_us) // HOUR_US
        hours = ends_us - HOUR_US * np.arange(MOST_DAYS * DAY, 0, -1)
        values = forecast(known.integrate(hours, hours + HOUR_US), late + REACH_HOURS)[late:]
        edges = issued_us + HOUR_US * np.arange(REACH_HOURS + 1)
        if not np.isnan(values).all():
            issues.append((from_us(issued_us), actual.relaid(edges, actual.locations, values)))
    return tuple(issues)
