"""The Carbon Aware SDK WebAPI [1]_ as a source, from version 1.1 on.

Where its answers are not what they seem:

- One failing location fails a whole answer, so each location is a request of its own.
- A bound a second outside the forecast is refused, so forecasts are fetched whole, without windows.
- A point's ``location`` is the data provider's name of the grid; only the forecast's own is compared.
- Nothing tells whether the numbers are average or marginal: that is configured (``sdk-signal``).
- The server hands on the status of its data provider: 401, 403 and 429 are mostly not about us.
- It has two ways to say that nothing is known: -1 for a recorded value, 0 for an average.

References
----------
.. [1] Green Software Foundation, https://github.com/Green-Software-Foundation/carbon-aware-sdk
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from lowcarb_scheduler.clock import HOUR_US, MICROSECOND, format_time, to_utc
from lowcarb_scheduler.errors import InputError, one_line
from lowcarb_scheduler.forecasts.base import checked_signal, period, sendable
from lowcarb_scheduler.forecasts.http.client import FetchError, Request, Response, basic_auth
from lowcarb_scheduler.forecasts.http.credentials import credential, token
from lowcarb_scheduler.forecasts.http.parsing import (
    actual_of,
    floored,
    forecast_of,
    issue_of,
    moments,
    parts,
    past_forecasts_of,
    time_of,
)
from lowcarb_scheduler.forecasts.sources.web import WebSource
from lowcarb_scheduler.settings import secret_fix
from lowcarb_scheduler.validation import finite_number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    import httpx
    from pydantic import SecretStr

    from lowcarb_scheduler.clock import Clock
    from lowcarb_scheduler.forecasts.base import Forecast, Names, Timeout
    from lowcarb_scheduler.forecasts.http.client import HttpClient
    from lowcarb_scheduler.forecasts.http.parsing import Point
    from lowcarb_scheduler.forecasts.series import Issue
    from lowcarb_scheduler.intensity import IntensityTable, Signal
    from lowcarb_scheduler.settings import Settings

# -- What the Carbon Aware SDK WebAPI answers, read; see :mod:`carbon_aware_sdk` for what to beware of ------

_STATES: Final = ("Healthy", "Degraded", "Unhealthy")
# .NET writes [d.]hh:mm:ss[.fffffff]
_TIME_SPAN: Final = re.compile(r"(?:(\d{1,4})\.)?(\d{1,2}):(\d{2}):(\d{2})(?:\.\d{1,7})?")


def read_forecast(location: str, answer: Response, now: datetime) -> Issue:
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


def read_actual(location: str, answer: Response) -> list[Point]:
    """Return the recorded points about a location."""
    if answer.status == 204:
        return []
    emissions = _objects(answer)
    # The data provider may call the place by its own name: then that is the only one.
    own = _about(location, emissions)
    only = len({str(item.get("location")) for item in emissions}) == 1
    return _points(own or (emissions if only else []), ("time", "rating"), _time_span_us)


def read_average(location: str, begin: datetime, answer: Response) -> list[Point]:
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
    number = finite_number(point[1])
    return number is not None and number >= 0


def read_locations(answer: Response) -> dict[str, tuple[float | None, float | None]]:
    """Return coordinates by name."""
    if answer.status == 204:
        return {}
    document = answer.json()
    if not isinstance(document, dict) or not all(isinstance(place, dict) for place in document.values()):
        raise FetchError("answered with JSON that is not locations by name")
    return {
        name: (finite_number(place.get("latitude")), finite_number(place.get("longitude")))
        for name, place in document.items()
    }


def read_health(answer: Response) -> str:
    """Return the state of health."""
    state = answer.text().strip()
    if state not in _STATES:
        raise FetchError(f"answered {one_line(state, 40)!r}, which is no state of health")
    return state


def _objects(answer: Response) -> list[dict[str, Any]]:
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
    minutes = finite_number(duration)
    return int(minutes * 60e6) if minutes is not None and minutes >= 1 else None


def _time_span_us(duration: object) -> int | None:
    """Read how long a recorded value holds, a .NET time span; None where it does not tell."""
    match = _TIME_SPAN.fullmatch(duration) if isinstance(duration, str) else None
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    span = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    return span // MICROSECOND or None


AVERAGED_HOURS: Final = 3  # asked for one by one where nothing is recorded: what recent errors are judged by
_SECOND: Final = timedelta(seconds=1)
_HOUR: Final = timedelta(hours=1)
_STEP: Final = timedelta(minutes=5)
_REFUSED: Final = "the server's own data provider, or a proxy, refused it"
_HINTS: Final = {
    404: "is the URL the root of a Carbon Aware SDK WebAPI?",
    429: "the server's own data provider limits it",
    501: "the server's data provider cannot do this",
}


class CarbonAwareSdk(WebSource):
    """A Carbon Aware SDK WebAPI.

    A location is a name the server knows, see :meth:`known_locations`, in upper or lower case.

    Parameters
    ----------
    url : str
        Where it answers, with its route prefix if it has one, for example ``http://localhost:8080``.
    auth : str or SecretStr, optional
        What a proxy before it asks for: ``user:password``, or ``Bearer`` and a token. With credentials, here
        or in the URL, no redirect is followed.
    signal : {"average", "marginal", "unknown"}
        What the server is configured to give.
    timeout : timedelta
        The most any one call takes, whatever the server does.
    transport : httpx.BaseTransport, optional
        What carries the requests; by default the network, through the proxies of the environment and with
        the certificates of ``SSL_CERT_FILE`` or ``SSL_CERT_DIR`` if one is set.
    clock : Clock, optional
        What counts the timeout and sleeps between attempts; the system's by default, in simulations too.

    Raises
    ------
    InputError
        If the URL is none, or the credentials are written in another way.
    """

    name = "carbon-aware-sdk"
    issued_every = _STEP
    url_setting = "carbon_aware_sdk_url"
    default_url = "http://localhost:8080"
    secret_settings = ("sdk_auth",)

    def __init__(
        self,
        url: str,
        *,
        auth: str | SecretStr | None = None,
        signal: Signal = "unknown",
        timeout: timedelta = timedelta(seconds=30),
        transport: httpx.BaseTransport | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.signal: Signal = checked_signal(signal)
        keyed = auth is not None or "@" in str(url)
        refused = (
            f"{_REFUSED}; is sdk-auth right?" if keyed else f"{_REFUSED}; the SDK asks for no credentials"
        )
        super().__init__(
            url,
            timeout=timeout,
            transport=transport,
            clock=clock,
            hints={**_HINTS, 401: refused, 403: refused},
            headers={} if auth is None else {"Authorization": _authorization(auth)},
            follow_redirects=not keyed,
        )

    @classmethod
    def from_settings(cls, settings: Settings) -> CarbonAwareSdk:
        """Open the source that settings describe."""
        if not settings.carbon_aware_sdk_url:
            raise InputError(
                "carbon-aware-sdk-url", "is not set",
                "set LOWCARB_CARBON_AWARE_SDK_URL or give --carbon-aware-sdk-url",
            )  # fmt: skip
        return cls(
            settings.carbon_aware_sdk_url,
            auth=settings.sdk_auth,
            signal=settings.sdk_signal,
            timeout=settings.timeout,
        )

    def forecast(self, locations: Names, now: datetime, *, timeout: Timeout = None) -> Forecast:
        """Return the server's current forecast, its points as they came.

        Raises
        ------
        ForecastUnavailableError
            If not one location has a forecast that is recent and reaches past ``now``.
        """
        now = to_utc(now, "now")
        names, missing = sendable(locations)
        requests = {name: Request("emissions/forecasts/current", {"location": name}) for name in names}
        answers = self._send_all(requests, lambda name, answer: read_forecast(name, answer, now), timeout)
        return forecast_of(answers, missing, self.provenance)

    def actual(
        self, locations: Names, start: datetime, end: datetime, *, timeout: Timeout = None
    ) -> IntensityTable:
        """Return what the server has recorded in [start, end).

        Where it answers that nothing is recorded, it is asked for the averages of the last three full hours;
        one hour is one request, so not for more.

        Raises
        ------
        ForecastUnavailableError
            If not one location has a value there.
        """
        first, last = period(start, end)
        client = self._limited(timeout)
        until = self._clock.now() + client.timeout
        names, missing = sendable(locations)
        requests = {
            (name, part): Request(
                "emissions/bylocations", {"location": name, **_bounds("time", "toTime", *bounds)}
            )
            for name in names
            for part, bounds in enumerate(parts(first, last, _SECOND))
        }
        answers = client.send_all(requests, lambda key, answer: read_actual(key[0], answer))
        silent = [name for name in names if says_nothing(answers[key] for key in answers if key[0] == name)]
        if silent:
            answers |= self._averages(client.within(until - self._clock.now()), silent, first, last)
        return actual_of(answers, missing, (first, last), self.provenance)

    def _averages(
        self, client: HttpClient, names: Sequence[str], first: datetime, last: datetime
    ) -> dict[tuple[str, int], list[Point] | FetchError]:
        """Return the averages of the last full hours of a period, where the server gives them in time."""
        begins = [floored(last, _HOUR) - k * _HOUR for k in range(1, AVERAGED_HOURS + 1)]
        hours = {-k: begin for k, begin in enumerate(begins, 1) if begin >= first}
        requests = {
            (name, k): Request(
                "emissions/average-carbon-intensity",
                {"location": name, **_bounds("startTime", "endTime", begin, begin + _HOUR)},
            )
            for name in names
            for k, begin in hours.items()
        }
        answers = client.send_all(requests, lambda key, answer: read_average(key[0], hours[key[1]], answer))
        return {key: answer for key, answer in answers.items() if not isinstance(answer, FetchError)}

    def past_forecasts(
        self, locations: Names, start: datetime, end: datetime, every: timedelta, *, timeout: Timeout = None
    ) -> list[Forecast]:
        """Return forecasts that were made in [start, end), the oldest first.

        Each is a request a location, the newest first, so of a long period only so many come as the timeout
        allows. A server whose data provider keeps none gives an empty list.

        Parameters
        ----------
        locations : sequence of str
            Names as the server calls them.
        start, end : datetime
            When they were made. Aware.
        every : timedelta
            How far apart they are, rounded up to a multiple of five minutes.

        Raises
        ------
        ForecastUnavailableError
            If not one came.
        """
        first, last = period(start, end)
        client = self._limited(timeout)
        until = self._clock.now() + client.timeout
        names, missing = sendable(locations)
        times = reversed(moments(first, last, every, _STEP))
        requests = {(name, when): _past_request(name, when) for when in times for name in names}

        def read(key: tuple[str, datetime], answer: Response) -> Issue:
            issue = read_forecast(key[0], answer, key[1])
            if not first <= issue.issued_at < last:
                made = format_time(issue.issued_at)
                raise FetchError(f"the server gave a forecast of {made}, which was not asked for")
            return issue

        answers = client.send_all(dict(list(requests.items())[:1]), read)
        if any(isinstance(answer, FetchError) and answer.status == 501 for answer in answers.values()):
            return []
        rest = {key: request for key, request in requests.items() if key not in answers}
        answers |= client.within(until - self._clock.now()).send_all(rest, read)
        return past_forecasts_of(answers, missing, self.provenance)

    def known_locations(self, *, timeout: Timeout = None) -> dict[str, tuple[float | None, float | None]]:
        """Return the names the server knows, with latitude and longitude where it tells [degrees].

        Raises
        ------
        ForecastUnavailableError
            If it does not answer; the reason stands under its address.
        """
        return self._send_one(Request("locations"), read_locations, timeout)

    def health(self, *, timeout: Timeout = None) -> str:
        """Return what the server says of itself: ``Healthy``, or ``Degraded``.

        Raises
        ------
        ForecastUnavailableError
            If it does not answer; the reason stands under its address.
        """
        return self._send_one(Request("health"), read_health, timeout)


def _authorization(auth: str | SecretStr) -> str:
    """Return credentials as the header that carries them.

    Raises
    ------
    InputError
        If they are none; they are not shown.
    """
    text = credential(auth, "sdk_auth")
    scheme, _, rest = text.partition(" ")
    if scheme.lower() == "bearer" and rest.strip():
        return f"Bearer {token(rest.strip(), 'sdk_auth')}"
    user, colon, password = text.partition(":")
    if not colon:
        raise InputError(
            "sdk-auth", "is neither user:password nor Bearer and a token", secret_fix("sdk_auth")
        )
    return basic_auth(user, password)


def _bounds(begin_key: str, end_key: str, begin: datetime, end: datetime) -> dict[str, str]:
    """Return the bounds of a query, in whole seconds of UTC: fractions upset WattTime."""
    return {begin_key: format_time(begin), end_key: format_time(end)}


def _past_request(name: str, when: datetime) -> Request:
    """Return the request for the forecast that was current at a time; a 500 says that there was none."""
    body = [{"location": name, "requestedAt": format_time(when)}]
    return Request("emissions/forecasts/batch", body=body, final=frozenset({500}))
