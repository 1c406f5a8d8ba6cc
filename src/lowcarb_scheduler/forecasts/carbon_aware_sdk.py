"""The Carbon Aware SDK WebAPI [1]_ as a source, from version 1.1 on.

Where its answers are not what they seem:

- One failing location fails a whole answer, so each location is a request of its own.
- A bound a second outside the forecast is refused, so forecasts are fetched whole, without windows.
- A point's ``location`` is the data provider's name of the grid; only the forecast's own is compared.
- Nothing tells whether the numbers are average or marginal: that is configured (``sdk-signal``).
- The server hands on the status of its data provider: 401, 403 and 429 are not about us.

References
----------
.. [1] Green Software Foundation, https://github.com/Green-Software-Foundation/carbon-aware-sdk
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

from lowcarb_scheduler.clock import MICROSECOND, SystemClock, format_time, parse_time, to_utc
from lowcarb_scheduler.errors import ForecastUnavailableError, InputError, one_line
from lowcarb_scheduler.forecasts.fetch import Answer, Fetcher, FetchError, Request, base_url
from lowcarb_scheduler.forecasts.series import SeriesBuilder, finite, table_of
from lowcarb_scheduler.forecasts.source import (
    Forecast,
    age_problem,
    checked_signal,
    has_value,
    period,
    sendable,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    import httpx

    from lowcarb_scheduler.clock import Clock
    from lowcarb_scheduler.forecasts.series import Series
    from lowcarb_scheduler.intensity import IntensityTable, Signal

T = TypeVar("T")

NAME: Final = "carbon-aware-sdk"
PART: Final = timedelta(days=7)  # how much of the past one request asks for
# .NET writes [d.]hh:mm:ss[.fffffff]
_TIME_SPAN: Final = re.compile(r"(?:(\d{1,4})\.)?(\d{1,2}):(\d{2}):(\d{2})(?:\.\d{1,7})?")
_REFUSED: Final = "the server's own data provider, or a proxy, refused it; the SDK asks for no credentials"
_HINTS: Final = {
    401: _REFUSED,
    403: _REFUSED,
    404: "is the URL the root of a Carbon Aware SDK WebAPI?",
    429: "the server's own data provider limits it",
    501: "the server's data provider cannot do this",
}


class CarbonAwareSdk:
    """A Carbon Aware SDK WebAPI.

    Parameters
    ----------
    url : str
        Where it answers, with its route prefix if it has one, for example ``http://localhost:8080``.
    signal : {"average", "marginal", "unknown"}
        What the server is configured to give.
    timeout : timedelta
        The most any one call takes, whatever the server does.
    transport : httpx.BaseTransport, optional
        What carries the requests; by default the network, through the proxies of the environment.
    clock : Clock, optional
        What counts the timeout and sleeps between attempts; the system's by default, in simulations too.

    Raises
    ------
    InputError
        If the URL is none.
    """

    def __init__(
        self,
        url: str,
        *,
        signal: Signal = "unknown",
        timeout: timedelta = timedelta(seconds=30),
        transport: httpx.BaseTransport | None = None,
        clock: Clock | None = None,
    ) -> None:
        if timeout <= timedelta(0):
            raise InputError("timeout", f"{timeout} is not positive", "give for example 30s")
        self._signal = checked_signal(signal)
        self._fetcher = Fetcher(
            base_url(url, "sdk-url", "http://localhost:8080"),
            timeout,
            clock or SystemClock(),
            transport,
            _HINTS,
        )

    def forecast(self, locations: Sequence[str], now: datetime) -> Forecast:
        """Return the server's current forecast, its points as they came.

        Raises
        ------
        ForecastUnavailableError
            If not one location has a forecast that is recent and reaches past ``now``.
        """
        now = to_utc(now, "now")

        def read(location: str, answer: Answer) -> tuple[datetime, Series]:
            return _read_forecast(location, answer, now)

        names, missing = sendable(locations)
        answers = self._fetcher.get_all(
            {name: Request("emissions/forecasts/current", {"location": name}) for name in names}, read
        )
        known, generated = {}, []
        for name, answer in answers.items():
            if isinstance(answer, FetchError):
                missing[name] = answer.why
            else:
                generated_at, known[name] = answer
                generated.append(generated_at)
        return Forecast(table_of(known, missing, self._signal, NAME), min(generated), missing)

    def actual(self, locations: Sequence[str], start: datetime, end: datetime) -> IntensityTable:
        """Return what the server has recorded in [start, end).

        Raises
        ------
        ForecastUnavailableError
            If not one location has a value there.
        """
        first, last = period(start, end)
        names, missing = sendable(locations)
        requests = {
            (name, part): Request("emissions/bylocations", {"location": name, "time": begin, "toTime": until})
            for name in names
            for part, (begin, until) in enumerate(_parts(first, last))
        }
        answers = self._fetcher.get_all(requests, lambda key, answer: _read_actual(key[0], answer))
        known = {}
        for name in names:
            try:
                known[name] = _recorded([answers[key] for key in requests if key[0] == name], first, last)
            except FetchError as error:
                missing[name] = error.why
        table = table_of(known, missing, self._signal, NAME).slice(first, last)
        assert table is not None  # each location has a value in the period
        return table

    def locations(self) -> dict[str, tuple[float | None, float | None]]:
        """Return the names the server knows, with latitude and longitude where it tells [degrees].

        Raises
        ------
        ForecastUnavailableError
            If it does not answer; the reason stands under its address.
        """
        return self._ask_one("locations", _read_locations)

    def health(self) -> str:
        """Return what the server says of itself, ``Healthy`` if all is well.

        Raises
        ------
        ForecastUnavailableError
            If it does not answer; the reason stands under its address.
        """
        return self._ask_one("health", lambda _, answer: one_line(answer.text(), 80))

    def _ask_one(self, path: str, read: Callable[[str, Answer], T]) -> T:
        """Return what was read at a path."""
        origin = self._fetcher.origin
        outcome = self._fetcher.get_all({origin: Request(path, {})}, read)[origin]
        if isinstance(outcome, FetchError):
            raise ForecastUnavailableError({origin: outcome.why})
        return outcome


def _parts(first: datetime, last: datetime) -> list[tuple[str, str]]:
    """Cut a period into parts a data provider answers; Electricity Maps allows 10 days at a time.

    In whole seconds, since fractions upset WattTime, and in UTC: a naive time would be the server's own.
    """
    begin, parts = first.replace(microsecond=0), []
    while begin < last:
        until = min(begin + PART, last)
        until += timedelta(microseconds=-until.microsecond % 1_000_000)
        parts.append((format_time(begin), format_time(until)))
        begin = until
    return parts


def _read_forecast(location: str, answer: Answer, now: datetime) -> tuple[datetime, Series]:
    """Return when a forecast was made, and its points.

    Raises
    ------
    FetchError
        If there is none, or it is not to be trusted.
    """
    if answer.status == 204:
        raise FetchError("the server has no forecast for it")
    forecasts = _objects(answer)
    named = _about(location, forecasts)
    if not named:
        others = ", ".join(one_line(str(other.get("location")), 40) for other in forecasts[:3])
        raise FetchError(f"asked for it, the server answered with {others or 'an empty list'}")
    forecast = named[0]
    data = forecast.get("forecastData")
    if data is None and forecast.get("optimalDataPoints") is not None:
        raise FetchError("the server gives optimalDataPoints only; planning needs its forecastData")
    if not isinstance(data, list):
        raise FetchError("its forecast has no forecastData")
    try:
        generated_at = parse_time(forecast.get("generatedAt", ""), "generatedAt")
    except InputError as error:
        raise FetchError(f"generatedAt: {one_line(error.problem)}") from None
    if problem := age_problem(generated_at, now):
        raise FetchError(problem)
    series = _series(data, ("timestamp", "value"), _minutes_us, generated_at, generated_at)
    if not has_value((series.times_us, series.values), now, ends_us=series.end_us):
        raise FetchError(f"its forecast has no value after {format_time(now)}")
    return generated_at, series


def _read_actual(location: str, answer: Answer) -> list[dict[str, Any]]:
    """Return the recorded points about a location."""
    if answer.status == 204:
        return []
    emissions = _objects(answer)
    # The data provider may call the place by its own name: then that is the only one.
    own = _about(location, emissions)
    only = len({str(item.get("location")) for item in emissions}) == 1
    return own or (emissions if only else [])


def _recorded(parts: Sequence[list[dict[str, Any]] | FetchError], first: datetime, last: datetime) -> Series:
    """Join the parts of a period.

    Raises
    ------
    FetchError
        If there is no value in the period.
    """
    points = [point for part in parts if not isinstance(part, FetchError) for point in part]
    failed = [part for part in parts if isinstance(part, FetchError)]
    if points:
        series = _series(points, ("time", "rating"), _time_span_us, first, last)
        if has_value((series.times_us, series.values), first, last, series.end_us):
            return series
    raise failed[0] if failed else FetchError(f"no value from {format_time(first)} to {format_time(last)}")


def _read_locations(_: str, answer: Answer) -> dict[str, tuple[float | None, float | None]]:
    """Return coordinates by name."""
    if answer.status == 204:
        return {}
    document = answer.json()
    if not isinstance(document, dict) or not all(isinstance(place, dict) for place in document.values()):
        raise FetchError("answered with JSON that is not locations by name")
    return {
        name: (finite(place.get("latitude")), finite(place.get("longitude")))
        for name, place in document.items()
    }


def _objects(answer: Answer) -> list[dict[str, Any]]:
    """Return the objects an answer lists."""
    document = answer.json()
    if not isinstance(document, list) or not all(isinstance(item, dict) for item in document):
        raise FetchError("answered with JSON that is not a list of objects")
    return document


def _about(location: str, objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the objects about a location; the server does not tell upper from lower case."""
    return [item for item in objects if str(item.get("location")).casefold() == location.casefold()]


def _series(
    data: Sequence[Any],
    keys: tuple[str, str],
    length_us: Callable[[object], int | None],
    first: datetime,
    last: datetime,
) -> Series:
    """Read points: what time and value are called, how a duration is written, and when they may be."""
    time_key, value_key = keys
    builder = SeriesBuilder(first, last)
    for point in data:
        if isinstance(point, dict):
            builder.add(point.get(time_key), point.get(value_key), length_us(point.get("duration")))
        else:
            builder.problem = "a point is no JSON object"
    try:
        return builder.build()
    except ValueError as error:
        raise FetchError(one_line(str(error))) from None


def _minutes_us(duration: object) -> int | None:
    """Read how long a point of a forecast holds, in minutes; None where it does not tell."""
    minutes = finite(duration)
    return int(minutes * 60e6) if minutes is not None and minutes >= 1 else None


def _time_span_us(duration: object) -> int | None:
    """Read how long a recorded value holds, a .NET time span; None where it does not tell."""
    match = _TIME_SPAN.fullmatch(duration) if isinstance(duration, str) else None
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    span = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    return span // MICROSECOND or None
