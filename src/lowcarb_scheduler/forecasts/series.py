"""Points as they come over a wire, made into a series that can be trusted.

They may be out of order, stand twice, have holes between them, or not be numbers at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from lowcarb_scheduler.clock import HOUR_US, MICROSECOND, parse_time, to_us
from lowcarb_scheduler.errors import ForecastUnavailableError, InputError
from lowcarb_scheduler.forecasts.base import Forecast
from lowcarb_scheduler.intensity import MAX_G_PER_KWH, IntensityTable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from lowcarb_scheduler.intensity import Floats, Ints, Provenance

NEAR: Final = timedelta(days=31)  # a point further than this from where it belongs is an error
_SHORTEST_HOLE_US: Final = 60_000_000  # lengths come cut to whole minutes: a shorter hole is none


@dataclass(frozen=True, slots=True)
class Series:
    """The values of one location.

    Parameters
    ----------
    times_us : ndarray of int64, shape (P,)
        When each begins, increasing [µs since 1970 UTC].
    values : ndarray of float64, shape (P,)
        Intensity [gCO2eq/kWh], NaN where a gap begins.
    end_us : int
        Where the last one ends.
    """

    times_us: Ints
    values: Floats
    end_us: int

    def spans_us(self) -> list[list[int]]:
        """Return begin and end of each span that is known throughout, in order [µs since 1970 UTC]."""
        edges, known = np.append(self.times_us, self.end_us), ~np.isnan(self.values)
        turns = np.flatnonzero(np.diff(known, prepend=False, append=False))
        spans: list[list[int]] = edges[turns].reshape(-1, 2).tolist()
        return spans


class Issue(NamedTuple):
    """A forecast of one location: when it was made, and what it says."""

    issued_at: datetime
    series: Series


class SeriesBuilder:
    """Collects points one by one.

    Parameters
    ----------
    first, last : datetime
        When they should be; a point more than a month off is dropped.

    Attributes
    ----------
    problem : str
        What was wrong with the last point that could not be used.
    """

    def __init__(self, first: datetime, last: datetime) -> None:
        near_us = NEAR // MICROSECOND
        self._low_us, self._high_us, self._longest_us = to_us(first) - near_us, to_us(last) + near_us, near_us
        self._points: dict[int, tuple[float, int | None]] = {}
        self.problem = "it is empty"

    def add(self, time: object, value: object, length_us: int | None) -> None:
        """Take a point; of two at one time the later plausible one stays.

        Parameters
        ----------
        time : object
            ISO 8601 with an offset: without one it would be the server's own zone, and a guess an hour off.
        value : object
            Intensity [gCO2eq/kWh]; what is none, negative or above ``MAX_G_PER_KWH`` is missing.
        length_us : int or None
            How long it holds [µs], None where that is not known.
        """
        try:
            time_us = to_us(parse_time(time, "time"))  # type: ignore[arg-type]
        except InputError as error:
            self.problem = error.problem
            return
        if not self._low_us <= time_us <= self._high_us:
            self.problem = f"{time} is more than a month off"
            return
        number = finite(value)
        length = length_us if length_us is not None and 0 < length_us <= self._longest_us else None
        if number is None or not 0 <= number <= MAX_G_PER_KWH:
            self.problem = f"{value!r} is no plausible intensity"
            self._points.setdefault(time_us, (np.nan, length))
        else:
            self._points[time_us] = number, length

    def build(self) -> Series:
        """Return the series.

        A gap begins where a value ends before the next one begins. A value that would run into the next one,
        as windows stepped by less than their length do, holds until it.

        Raises
        ------
        ValueError
            If there is no usable value; its text says why.
        """
        if all(np.isnan(value) for value, _ in self._points.values()):
            raise ValueError(f"there is no usable value: {self.problem}")
        given = sorted(self._points)
        step_us = int(np.median(np.diff(given))) if len(given) > 1 else HOUR_US
        times, values = [], []
        for time_us, next_us in zip(given, [*given[1:], None], strict=True):
            value, length = self._points[time_us]
            times.append(time_us)
            values.append(value)
            end_us = time_us + (length or step_us)
            if length and next_us is not None and next_us - end_us >= _SHORTEST_HOLE_US:
                times.append(end_us)
                values.append(np.nan)
        return Series(np.array(times, np.int64), np.array(values, np.float64), end_us)


def table_of(
    known: Mapping[str, Series], missing: Mapping[str, str], provenance: Provenance
) -> IntensityTable:
    """Return the series of some locations as one table.

    Raises
    ------
    ForecastUnavailableError
        With what is missing and why, where nothing is known.
    """
    if not known:
        raise ForecastUnavailableError(missing)
    points = {location: (own.times_us, own.values) for location, own in known.items()}
    ends = {location: own.end_us for location, own in known.items()}
    return IntensityTable.from_points(points, provenance, ends)


def forecast_from(
    issues: Mapping[str, Issue], missing: Mapping[str, str], provenance: Provenance
) -> Forecast:
    """Return the issues of some locations as one forecast.

    Raises
    ------
    ForecastUnavailableError
        With what is missing and why, where there are none.
    """
    series = {location: issue.series for location, issue in issues.items()}
    table = table_of(series, missing, provenance)
    oldest = min(issue.issued_at for issue in issues.values())
    issued = {name: issue.issued_at for name, issue in issues.items() if issue.issued_at != oldest}
    return Forecast(table, oldest, missing, issued)


def columns_of(table: IntensityTable) -> dict[str, Series]:
    """Return the columns of a table as series of their own, from the first value to the last.

    A column without a value is left out. :func:`table_of` makes the same table of them again, save for steps
    at either end at which no column has a value.
    """
    columns = {}
    for column, location in enumerate(table.locations):
        known = np.flatnonzero(~np.isnan(table.values[:, column]))
        if known.size:
            first, after = known[0], known[-1] + 1
            times_us, values = table.edges_us[first:after], table.values[first:after, column]
            columns[location] = Series(times_us, values, int(table.edges_us[after]))
    return columns


def finite(value: object) -> float | None:
    """Return a number of a JSON document, None if it is something else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e15:
        return None
    return float(value)
