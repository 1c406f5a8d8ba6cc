"""What the Carbon Aware SDK WebAPI answers, read; see :mod:`carbon_aware_sdk` for what to beware of."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from lowcarb_scheduler.clock import HOUR_US, MICROSECOND, format_time
from lowcarb_scheduler.errors import one_line
from lowcarb_scheduler.forecasts.series import finite
from lowcarb_scheduler.forecasts.web.fetch import Answer, FetchError
from lowcarb_scheduler.forecasts.web.reading import issue_of, time_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

    from lowcarb_scheduler.forecasts.series import Issue
    from lowcarb_scheduler.forecasts.web.reading import Point

_STATES: Final = ("Healthy", "Degraded", "Unhealthy")
# .NET writes [d.]hh:mm:ss[.fffffff]
_TIME_SPAN: Final = re.compile(r"(?:(\d{1,4})\.)?(\d{1,2}):(\d{2}):(\d{2})(?:\.\d{1,7})?")


def read_forecast(location: str, answer: Answer, now: datetime) -> Issue:
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
    generated_at = time_of(forecast.get("generatedAt", ""), "generatedAt")
    return issue_of(generated_at, _points(data, ("timestamp", "value"), _minutes_us), now)


def read_actual(location: str, answer: Answer) -> list[Point]:
    """Return the recorded points about a location."""
    if answer.status == 204:
        return []
    emissions = _objects(answer)
    # The data provider may call the place by its own name: then that is the only one.
    own = _about(location, emissions)
    only = len({str(item.get("location")) for item in emissions}) == 1
    return _points(own or (emissions if only else []), ("time", "rating"), _time_span_us)


def read_average(location: str, begin: datetime, answer: Answer) -> list[Point]:
    """Return the average of an hour as a point; 0 is what the server gives where it has no data."""
    document = answer.json()
    if not isinstance(document, dict) or not _about(location, [document]):
        raise FetchError("answered with JSON that is not an average of it")
    value = document.get("carbonIntensity")
    return [(format_time(begin), None if value == 0 else value, HOUR_US)]


def says_nothing(answers: Iterable[list[Point] | FetchError]) -> bool:
    """Return whether the server answered, and without a value."""
    return not any(isinstance(answer, FetchError) or any(map(_is_value, answer)) for answer in answers)


def _is_value(point: Point) -> bool:
    number = finite(point[1])
    return number is not None and number >= 0


def read_locations(answer: Answer) -> dict[str, tuple[float | None, float | None]]:
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


def read_health(answer: Answer) -> str:
    """Return the state of health."""
    state = answer.text().strip()
    if state not in _STATES:
        raise FetchError(f"answered {one_line(state, 40)!r}, which is no state of health")
    return state


def _objects(answer: Answer) -> list[dict[str, Any]]:
    """Return the objects an answer lists."""
    document = answer.json()
    if not isinstance(document, list) or not all(isinstance(item, dict) for item in document):
        raise FetchError("answered with JSON that is not a list of objects")
    return document


def _about(location: str, objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the objects about a location; the server does not tell upper from lower case."""
    return [item for item in objects if str(item.get("location")).casefold() == location.casefold()]


def _points(
    data: Iterable[Any], keys: tuple[str, str], length_us: Callable[[object], int | None]
) -> list[Point]:
    """Return points: what time and value are called, and how a duration is written."""
    time_key, value_key = keys
    return [
        (point.get(time_key), point.get(value_key), length_us(point.get("duration")))
        if isinstance(point, dict)
        else (point, None, None)
        for point in data
    ]


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
