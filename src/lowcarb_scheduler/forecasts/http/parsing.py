"""From what web services answered to forecasts and actuals: what their sources do alike."""

from __future__ import annotations

from collections.abc import Hashable
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from lowcarb_scheduler.clock import EPOCH, format_time, parse_time
from lowcarb_scheduler.errors import ForecastUnavailableError, InputError, one_line
from lowcarb_scheduler.forecasts.base import Forecast, age_problem, has_value
from lowcarb_scheduler.forecasts.http.client import FetchError
from lowcarb_scheduler.forecasts.series import Issue, SeriesBuilder, forecast_from, table_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from lowcarb_scheduler.forecasts.http.client import Request, Response
    from lowcarb_scheduler.forecasts.series import Series
    from lowcarb_scheduler.intensity import IntensityTable, Provenance

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
Point = tuple[object, object, int | None]  # begin, intensity and length, as SeriesBuilder.add takes them

PART: Final = timedelta(days=7)  # how much of the past one request asks for; the strictest allow ten days


def checked_timeout(timeout: timedelta) -> timedelta:
    """Return a timeout if it is one.

    Raises
    ------
    InputError
        If it is not positive.
    """
    if timeout <= timedelta(0):
        raise InputError("timeout", f"{timeout} is not positive", "give for example 30s")
    return timeout


def floored(when: datetime, step: timedelta) -> datetime:
    """Return the last multiple of a step at or before a time."""
    return when - (when - EPOCH) % step


def parts(first: datetime, last: datetime, grid: timedelta) -> list[tuple[datetime, datetime]]:
    """Cut a period, widened to a grid, into parts that every provider answers."""
    begin, end, cut = floored(first, grid), last + -(last - EPOCH) % grid, []
    while begin < end:
        until = min(begin + PART, end)
        cut.append((begin, until))
        begin = until
    return cut


def moments(first: datetime, last: datetime, every: timedelta, grid: timedelta) -> list[datetime]:
    """Return the multiples of a grid in [first, last) that are at least so far apart, the oldest first.

    Raises
    ------
    InputError
        If ``every`` is not positive.
    """
    if every <= timedelta(0):
        raise InputError("every", f"{every} is not positive", "give for example timedelta(hours=6)")
    begin, step = first + -(first - EPOCH) % grid, every + -every % grid
    return [begin + k * step for k in range(-(-(last - begin) // step))]


def time_of(text: object, field: str) -> datetime:
    """Return a time that stands in an answer.

    Raises
    ------
    FetchError
        If it is none.
    """
    try:
        return parse_time(text, field)  # type: ignore[arg-type]
    except InputError as error:
        raise FetchError(f"{field}: {one_line(error.problem)}") from None


class Asker(Protocol):
    """What sends a request: a Fetcher, or one that has to log in first."""

    @property
    def origin(self) -> str:
        """Scheme, host and port of the server."""

    def get_all(
        self, requests: Mapping[K, Request], read: Callable[[K, Response], T]
    ) -> dict[K, T | FetchError]:
        """Send requests and read their answers (see :meth:`Fetcher.get_all`)."""


def ask_one(asker: Asker, request: Request, read: Callable[[Response], T]) -> T:
    """Return what was read of the answer to one request.

    Raises
    ------
    ForecastUnavailableError
        If there is none; the reason stands under the address of the server.
    """
    origin = asker.origin
    outcome = asker.get_all({origin: request}, lambda _, answer: read(answer))[origin]
    if isinstance(outcome, FetchError):
        raise ForecastUnavailableError({origin: outcome.why})
    return outcome


def issue_of(generated_at: datetime, points: Iterable[Point], now: datetime) -> Issue:
    """Return when a forecast was made and what it says, if it is to be trusted now.

    Raises
    ------
    FetchError
        If it is too old, from a wrong clock, without a usable value, or over.
    """
    if problem := age_problem(generated_at, now):
        raise FetchError(problem)
    series = series_of(points, generated_at, generated_at)
    if not has_value((series.times_us, series.values), now, ends_us=series.end_us):
        raise FetchError(f"its forecast has no value after {format_time(now)}")
    return Issue(generated_at, series)


def series_of(points: Iterable[Point], first: datetime, last: datetime) -> Series:
    """Return points as a series.

    Raises
    ------
    FetchError
        If none of them is usable.
    """
    builder = SeriesBuilder(first, last)
    for point in points:
        builder.add(*point)
    try:
        return builder.build()
    except ValueError as error:
        raise FetchError(one_line(str(error))) from None


def forecast_of(
    answers: Mapping[str, Issue | FetchError], missing: dict[str, str], provenance: Provenance
) -> Forecast:
    """Return the issues of some locations as one forecast; the reasons of the others join ``missing``.

    Raises
    ------
    ForecastUnavailableError
        If not one location has an issue.
    """
    issues = {}
    for name, answer in answers.items():
        if isinstance(answer, FetchError):
            missing[name] = answer.why
        else:
            issues[name] = answer
    return forecast_from(issues, missing, provenance)


def past_forecasts_of(
    answers: Mapping[tuple[str, datetime], Issue | FetchError],
    missing: Mapping[str, str],
    provenance: Provenance,
) -> list[Forecast]:
    """Return past issues, asked for by location and time, as forecasts, the oldest first.

    Raises
    ------
    ForecastUnavailableError
        If not one location had an issue at any time.
    """
    at: dict[datetime, dict[str, Issue | FetchError]] = {}
    for (name, when), answer in answers.items():
        at.setdefault(when, {})[name] = answer
    forecasts: list[Forecast] = []
    why = dict(missing)
    for when in sorted(at):
        try:
            made = forecast_of(at[when], dict(missing), provenance)
        except ForecastUnavailableError as error:
            why = error.missing
            continue
        if not forecasts or made.generated_at > forecasts[-1].generated_at:
            forecasts.append(made)
    if why and not forecasts:
        raise ForecastUnavailableError(why)
    return forecasts


def actual_of(
    answers: Mapping[tuple[str, int], list[Point] | FetchError],
    missing: dict[str, str],
    bounds: tuple[datetime, datetime],
    provenance: Provenance,
) -> IntensityTable:
    """Return what was recorded in the parts of a period as one table, cut to the period.

    Parameters
    ----------
    answers : mapping of (location, part) to points or FetchError
        What each request brought; a part that failed is a gap.
    missing : dict of str to str
        Why other locations have nothing; the reasons found here join it.
    bounds : (datetime, datetime)
        The period.
    provenance : Provenance
        That of the table.

    Raises
    ------
    ForecastUnavailableError
        If not one location has a value in the period.
    """
    known = {}
    for name in dict.fromkeys(name for name, _ in answers):
        try:
            known[name] = _joined([answers[key] for key in answers if key[0] == name], *bounds)
        except FetchError as error:
            missing[name] = error.why
    table = table_of(known, missing, provenance).slice(*bounds)
    assert table is not None  # each location has a value in the period
    return table


def _joined(answers: Sequence[list[Point] | FetchError], first: datetime, last: datetime) -> Series:
    """Join the parts of a period.

    Raises
    ------
    FetchError
        If there is no value in the period.
    """
    points = [point for answer in answers if not isinstance(answer, FetchError) for point in answer]
    failed = [answer for answer in answers if isinstance(answer, FetchError)]
    if points:
        series = series_of(points, first, last)
        if has_value((series.times_us, series.values), first, last, series.end_us):
            return series
    raise failed[0] if failed else FetchError(f"no value from {format_time(first)} to {format_time(last)}")
