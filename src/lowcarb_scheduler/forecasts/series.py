"""Time series of intensity, built from the points of a server or a file.

Points may be unordered, duplicated, incomplete or not numeric. A :class:`Series` is ordered and plausible.
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
from lowcarb_scheduler.validation import finite_number

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from lowcarb_scheduler.intensity import Floats, Ints, Provenance

NEAR: Final = timedelta(days=31)  # a point further outside the expected period has a wrong date
_SHORTEST_HOLE_US: Final = 60_000_000  # providers cut lengths to whole minutes, which leaves shorter holes


@dataclass(frozen=True, slots=True)
class Series:
    """Intensity of one location as a step function.

    Parameters
    ----------
    times_us : ndarray of int64, shape (P,)
        Begins of the steps, increasing [µs since 1970 UTC].
    values : ndarray of float64, shape (P,)
        Intensity in each step [gCO2eq/kWh]; NaN is a gap.
    end_us : int
        End of the last step [µs since 1970 UTC].
    """

    times_us: Ints
    values: Floats
    end_us: int

    def spans_us(self) -> list[list[int]]:
        """Return begin and end of each span without a gap, in order [µs since 1970 UTC]."""
        edges, known = np.append(self.times_us, self.end_us), ~np.isnan(self.values)
        # A change from gap to value begins a span, the next change ends it: the changes come in pairs.
        changes = np.flatnonzero(np.diff(known, prepend=False, append=False))
        spans: list[list[int]] = edges[changes].reshape(-1, 2).tolist()
        return spans


class Issue(NamedTuple):
    """Forecast of one location, with the time of its issue."""

    issued_at: datetime
    series: Series


class SeriesBuilder:
    """Builder of a series from single points.

    Parameters
    ----------
    first, last : datetime
        Expected period; points more than a month outside are dropped.

    Attributes
    ----------
    problem : str
        Problem of the last point that was dropped.
    """

    def __init__(self, first: datetime, last: datetime) -> None:
        near_us = NEAR // MICROSECOND
        self._low_us, self._high_us, self._longest_us = to_us(first) - near_us, to_us(last) + near_us, near_us
        self._points: dict[int, tuple[float, int | None]] = {}
        self.problem = "it is empty"

    def add(self, time: object, value: object, length_us: int | None) -> None:
        """Add a point; of several at one time the last plausible one counts.

        Parameters
        ----------
        time : object
            Begin in ISO 8601 with an offset. A time without one is dropped: the server's zone is unknown, and
            a guess would shift the series by hours.
        value : object
            Intensity [gCO2eq/kWh]; not a number, negative or above ``MAX_G_PER_KWH`` is a gap.
        length_us : int or None
            Duration of the value [µs], None if it is unknown.
        """
        try:
            time_us = to_us(parse_time(time, "time"))  # type: ignore[arg-type]
        except InputError as error:
            self.problem = error.problem
            return
        if not self._low_us <= time_us <= self._high_us:
            self.problem = f"{time} is more than a month off"
            return
        number = finite_number(value)
        length = length_us if length_us is not None and 0 < length_us <= self._longest_us else None
        if number is None or not 0 <= number <= MAX_G_PER_KWH:
            self.problem = f"{value!r} is not a plausible intensity"
            self._points.setdefault(time_us, (np.nan, length))  # a plausible duplicate is kept
        else:
            self._points[time_us] = number, length

    def build(self) -> Series:
        """Build the series.

        A gap begins where a value ends before the next one begins. A value that overlaps the next one ends
        there, as with moving averages whose windows are longer than their step.

        Raises
        ------
        ValueError
            If no value is usable; the text gives the reason.
        """
        if all(np.isnan(value) for value, _ in self._points.values()):
            raise ValueError(f"there is no usable value: {self.problem}")
        # Without a length a value holds until the next point, and the last one for the median step.
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
    """Build a table from the series of locations.

    Raises
    ------
    ForecastUnavailableError
        If there is no series; ``missing`` gives the reasons.
    """
    if not known:
        raise ForecastUnavailableError(missing)
    points = {location: (own.times_us, own.values) for location, own in known.items()}
    ends = {location: own.end_us for location, own in known.items()}
    return IntensityTable.from_points(points, provenance, ends)


def forecast_from(
    issues: Mapping[str, Issue], missing: Mapping[str, str], provenance: Provenance
) -> Forecast:
    """Build a forecast from the issues of locations.

    Raises
    ------
    ForecastUnavailableError
        If there is no issue; ``missing`` gives the reasons.
    """
    series = {location: issue.series for location, issue in issues.items()}
    table = table_of(series, missing, provenance)
    # One time for all locations is the rule; only exceptions are listed, which keeps ledgers short.
    oldest = min(issue.issued_at for issue in issues.values())
    issued = {name: issue.issued_at for name, issue in issues.items() if issue.issued_at != oldest}
    return Forecast(table, oldest, missing, issued)


def columns_of(table: IntensityTable) -> dict[str, Series]:
    """Return the columns of a table as series, each from its first value to its last.

    A column without a value is left out. :func:`table_of` is the inverse, but for steps at either end of the
    table in which no column has a value.
    """
    columns = {}
    for column, location in enumerate(table.locations):
        known = np.flatnonzero(~np.isnan(table.values[:, column]))
        if known.size:
            first, after = known[0], known[-1] + 1
            times_us, values = table.edges_us[first:after], table.values[first:after, column]
            columns[location] = Series(times_us, values, int(table.edges_us[after]))
    return columns
