"""Time series of intensity, built from the points of a server or a file.

Points may be unordered, duplicated, incomplete or not numeric. A :class:`Series` is ordered and plausible.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from lowcarb_scheduler.clock import MICROSECOND, parse_time, to_us
from lowcarb_scheduler.errors import ForecastUnavailableError, InputError, one_line
from lowcarb_scheduler.forecasts.base import Forecast
from lowcarb_scheduler.forecasts.http.responses import FetchError
from lowcarb_scheduler.intensity import MAX_G_PER_KWH, IntensityTable, median_step_us
from lowcarb_scheduler.validation import finite_number

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lowcarb_scheduler.intensity import Floats, Ints, Provenance

Point = tuple[object, object, int | None]  # time, value and length, as a server writes them

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

    def has_value(self, start: datetime, end: datetime | None = None) -> bool:
        """Return whether there is a value anywhere in [start, end), or at any time after ``start``."""
        start_us, end_us = to_us(start), self.end_us if end is None else to_us(end)
        return any(begin < end_us and until > start_us for begin, until in self.spans_us())

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


def series_of(points: Iterable[Point], first: datetime, last: datetime) -> Series:
    """Build a series from points; of several at one time the last plausible one counts.

    A point whose time has no offset is dropped: the server's zone is unknown, and a guess would shift the
    series by hours. A value that is not a number, negative or above ``MAX_G_PER_KWH`` is a gap. A gap begins,
    too, where a value ends before the next one begins. A value that overlaps the next one ends there, as with
    moving averages whose windows are longer than their step.

    Parameters
    ----------
    points : iterable of (time, value, length)
        Begin in ISO 8601, intensity [gCO2eq/kWh], and duration [µs] or None if it is unknown.
    first, last : datetime
        Expected period; points more than a month outside are dropped.

    Raises
    ------
    FetchError
        If no value is usable.
    """
    low_us, high_us, longest_us = to_us(first - NEAR), to_us(last + NEAR), NEAR // MICROSECOND
    plausible: dict[int, tuple[float, int | None]] = {}
    problem = "it is empty"
    for time, value, length_us in points:
        try:
            time_us = to_us(parse_time(time, "time"))  # type: ignore[arg-type]
        except InputError as error:
            problem = error.problem
            continue
        if not low_us <= time_us <= high_us:
            problem = f"{time} is more than a month off"
            continue
        number = finite_number(value)
        length = length_us if length_us is not None and 0 < length_us <= longest_us else None
        if number is None or not 0 <= number <= MAX_G_PER_KWH:
            problem = f"{value!r} is not a plausible intensity"
            plausible.setdefault(time_us, (np.nan, length))  # a plausible duplicate is kept
        else:
            plausible[time_us] = number, length
    if all(np.isnan(value) for value, _ in plausible.values()):
        raise FetchError(one_line(f"there is no usable value: {problem}"))
    # Without a length a value holds until the next point, and the last one for the median step.
    given = sorted(plausible)
    step_us = median_step_us(given)
    steps: list[tuple[int, float]] = []
    for time_us, next_us in zip(given, [*given[1:], None], strict=True):
        known, length = plausible[time_us]
        steps.append((time_us, known))
        end_us = time_us + (length or step_us)
        if length and next_us is not None and next_us - end_us >= _SHORTEST_HOLE_US:
            steps.append((end_us, np.nan))
    times, values = zip(*steps, strict=True)
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
