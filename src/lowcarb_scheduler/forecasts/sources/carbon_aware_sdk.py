"""Carbon Aware SDK WebAPI [1]_, version 1.1 and newer.

Particularities of its responses:

- One failing location fails a whole response, so each location is a request of its own.
- A bound one second outside the forecast is refused, so forecasts are requested whole, without windows.
- The ``location`` of a point is the data provider's name of the grid; only that of the forecast is compared.
- Average and marginal values look the same: the signal is a setting (``sdk-signal``).
- The server forwards the status of its data provider: 401, 403 and 429 mostly do not concern its client.
- A missing value is -1 if it is recorded, and 0 if it is an average.

References
----------
.. [1] Green Software Foundation, https://github.com/Green-Software-Foundation/carbon-aware-sdk
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Unpack

from lowcarb_scheduler.clock import HOUR_US, MICROSECOND, format_time
from lowcarb_scheduler.errors import InputError, one_line
from lowcarb_scheduler.forecasts.base import Forecast, Names, Timeout, period, sendable
from lowcarb_scheduler.forecasts.http import parsing
from lowcarb_scheduler.forecasts.http.client import FetchError, Request, Response, basic_auth
from lowcarb_scheduler.forecasts.http.credentials import credential, token
from lowcarb_scheduler.forecasts.sources.web import WebOptions, WebSource
from lowcarb_scheduler.intensity import Provenance, Signal
from lowcarb_scheduler.settings import Settings, secret_fix
from lowcarb_scheduler.validation import finite_number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pydantic import SecretStr

    from lowcarb_scheduler.forecasts.series import Issue, Point

AVERAGED_HOURS: Final = 3  # requested one by one where nothing is recorded: enough to judge recent errors
_HOUR: Final = timedelta(hours=1)
_STEP: Final = timedelta(minutes=5)
_STATES: Final = ("Healthy", "Degraded", "Unhealthy")
# Duration as .NET writes it: [d.]hh:mm:ss[.fffffff]
_TIME_SPAN: Final = re.compile(r"(?:(\d{1,4})\.)?(\d{1,2}):(\d{2}):(\d{2})(?:\.\d{1,7})?")
_REFUSED: Final = "the server's own data provider, or a proxy, refused it"


class CarbonAwareSdk(WebSource):
    """Forecast source that reads a Carbon Aware SDK WebAPI.

    A location is a name that the server knows, see :meth:`known_locations`, in upper or lower case.

    Parameters
    ----------
    url : str
        Address of the server, with its route prefix if it has one, for example ``http://localhost:8080``.
    auth : str or SecretStr, optional
        Credentials for a proxy before the server: ``user:password``, or ``Bearer`` and a token. With
        credentials, here or in the URL, no redirect is followed.
    signal : {"average", "marginal", "unknown"}
        Signal that the server is configured to give.
    **options
        ``timeout``, ``transport`` and ``clock`` of :class:`WebSource`.

    Raises
    ------
    InputError
        If the URL or the signal is invalid, or the credentials have another form.
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
        **options: Unpack[WebOptions],
    ) -> None:
        self.signal: Signal = Provenance(self.name, signal).signal
        # 401 and 403 come from the data provider or a proxy, never from the SDK: it has no accounts.
        keyed = auth is not None or "@" in str(url)
        refused = f"{_REFUSED}; {'is sdk-auth right?' if keyed else 'the SDK asks for no credentials'}"
        self.hints = {
            401: refused,
            403: refused,
            404: "is the URL the root of a Carbon Aware SDK WebAPI?",
            429: "the server's own data provider limits it",
            501: "the server's data provider cannot do this",
        }
        headers = {} if auth is None else {"Authorization": _authorization(auth)}
        super().__init__(str(url), headers=headers, follow_redirects=not keyed, **options)

    @classmethod
    def from_settings(cls, settings: Settings) -> CarbonAwareSdk:
        """Open the source that settings describe."""
        url = settings.carbon_aware_sdk_url
        if not url:
            fix = "set LOWCARB_CARBON_AWARE_SDK_URL or give --carbon-aware-sdk-url"
            raise InputError("carbon-aware-sdk-url", "is not set", fix)
        return cls(url, auth=settings.sdk_auth, signal=settings.sdk_signal, timeout=settings.timeout)

    def _forecast_request(self, name: str, now: datetime) -> Request:
        return Request("emissions/forecasts/current", {"location": name})

    def _parse_forecast(self, name: str, answer: Response, now: datetime) -> Issue:
        return _read_forecast(name, answer, now)

    def _past_request(self, name: str, begin: datetime, end: datetime) -> Request:
        return _request("emissions/bylocations", name, time=begin, toTime=end)

    def _parse_past(self, name: str, answer: Response) -> list[Point]:
        if answer.status == 204:
            return []
        emissions = _objects(answer)
        own = _about(name, emissions)
        if not own and len({str(item.get("location")) for item in emissions}) == 1:
            own = emissions  # the data provider's name of the location, if it is the only one
        return _points(own, "time", "rating", _time_span_us)

    def _recorded(
        self, names: Names, first: datetime, last: datetime, timeout: Timeout
    ) -> dict[tuple[str, int], list[Point] | FetchError]:
        """Request recorded intensity, and averages of the last three full hours where there is none.

        Each hour is one request, so not more of them.
        """
        ends = self._deadline(timeout)
        answers = super()._recorded(names, first, last, timeout)
        # A failed request shows nothing about the records: no averages then, which would be a second try.
        known = {
            name for (name, _), answer in answers.items()
            if isinstance(answer, FetchError) or any(map(_is_value, answer))
        }  # fmt: skip
        begins = [parsing.floored(last, _HOUR) - k * _HOUR for k in range(1, AVERAGED_HOURS + 1)]
        hours = {-k: begin for k, begin in enumerate(begins, 1) if begin >= first}
        requests = {
            (name, k): _request(
                "emissions/average-carbon-intensity", name, startTime=begin, endTime=begin + _HOUR
            )
            for name in names
            if name not in known
            for k, begin in hours.items()
        }
        averages = self._send_all(
            requests, lambda key, answer: _read_average(key[0], hours[key[1]], answer),
            ends - self._clock.now(),
        )  # fmt: skip
        return answers | {key: each for key, each in averages.items() if not isinstance(each, FetchError)}

    def past_forecasts(
        self, locations: Names, start: datetime, end: datetime, every: timedelta, *, timeout: Timeout = None
    ) -> list[Forecast]:
        """Return forecasts issued in [start, end), the oldest first.

        Each is one request per location, the newest first: of a long period only so many arrive as the
        timeout allows. ``every`` is rounded up to a multiple of five minutes. The list is empty if the
        server's data provider keeps no forecasts.

        Raises
        ------
        ForecastUnavailableError
            If not one arrived.
        """
        first, last = period(start, end)
        ends = self._deadline(timeout)
        names, missing = sendable(locations)
        times = reversed(parsing.moments(first, last, every, _STEP))
        requests = {(name, when): _issue_request(name, when) for when in times for name in names}

        def read(key: tuple[str, datetime], answer: Response) -> Issue:
            issue = _read_forecast(key[0], answer, key[1])
            if not first <= issue.issued_at < last:
                made = format_time(issue.issued_at)
                raise FetchError(f"the server gave a forecast of {made}, which was not asked for")
            return issue

        # The first request alone shows whether the server has the feature: 501 is its answer to all of them.
        answers = self._send_all(dict(list(requests.items())[:1]), read, timeout)
        if any(isinstance(answer, FetchError) and answer.status == 501 for answer in answers.values()):
            return []
        rest = {key: request for key, request in requests.items() if key not in answers}
        answers |= self._send_all(rest, read, ends - self._clock.now())
        return parsing.past_forecasts_of(answers, missing, self.provenance)

    def known_locations(self, *, timeout: Timeout = None) -> dict[str, tuple[float | None, float | None]]:
        """Return the names that the server lists, with latitude and longitude or None for each [degrees].

        Raises
        ------
        ForecastUnavailableError
            If the server does not answer; the reason stands under its address.
        """
        return self._send_one(Request("locations"), _read_locations, timeout)

    def health(self, *, timeout: Timeout = None) -> str:
        """Return the server's report of its state: ``Healthy``, or ``Degraded``.

        Raises
        ------
        ForecastUnavailableError
            If the server does not answer; the reason stands under its address.
        """
        return self._send_one(Request("health"), _read_health, timeout)


def _authorization(auth: str | SecretStr) -> str:
    """Return credentials as the value of a header.

    Raises
    ------
    InputError
        If they have another form; they are not shown.
    """
    text = credential(auth, "sdk_auth")
    scheme, _, rest = text.partition(" ")
    if scheme.lower() == "bearer" and rest.strip():
        return f"Bearer {token(rest.strip(), 'sdk_auth')}"
    user, colon, password = text.partition(":")
    if not colon:
        problem = "is neither user:password nor Bearer and a token"
        raise InputError("sdk-auth", problem, secret_fix("sdk_auth"))
    return basic_auth(user, password)


def _request(path: str, location: str, **times: datetime) -> Request:
    """Return a request about a period, in whole seconds: WattTime refuses fractions."""
    return Request(path, {"location": location, **{key: format_time(each) for key, each in times.items()}})


def _issue_request(name: str, when: datetime) -> Request:
    """Return the request for the forecast that was current at a time."""
    body = [{"location": name, "requestedAt": format_time(when)}]
    # The server answers 500 where there was no forecast: a retry would not change that.
    return Request("emissions/forecasts/batch", body=body, final=frozenset({500}))


# -- Responses ---


def _read_forecast(location: str, answer: Response, now: datetime) -> Issue:
    """Return the issue that a response holds.

    Raises
    ------
    FetchError
        If there is none, or it is not plausible.
    """
    if answer.status == 204:  # it has no body, which would be an error of JSON
        raise FetchError("the server has no forecast for it")
    forecasts = _objects(answer)
    own = _about(location, forecasts)
    if not own:
        others = ", ".join(one_line(str(other.get("location")), 40) for other in forecasts[:3])
        raise FetchError(f"asked for it, the server answered with {others or 'an empty list'}")
    # Services that speak the dialect of the SDK may leave the forecast out, and name the best time only.
    data = own[0].get("forecastData")
    if data is None and own[0].get("optimalDataPoints") is not None:
        raise FetchError("the server gives optimalDataPoints only; planning needs its forecastData")
    if not isinstance(data, list):
        raise FetchError("its forecast has no forecastData")
    generated_at = parsing.time_of(own[0].get("generatedAt", ""), "generatedAt")
    return parsing.issue_of(generated_at, _points(data, "timestamp", "value", _minutes_us), now)


def _read_average(location: str, begin: datetime, answer: Response) -> list[Point]:
    """Return the average of an hour as a point."""
    document = answer.json()
    if not isinstance(document, dict) or not _about(location, [document]):
        raise FetchError("answered with JSON that is not an average of it")
    # 0 stands for an hour without data; no grid emits exactly nothing.
    value = document.get("carbonIntensity")
    return [(format_time(begin), None if value == 0 else value, HOUR_US)]


def _read_locations(answer: Response) -> dict[str, tuple[float | None, float | None]]:
    """Return coordinates by name."""
    if answer.status == 204:
        return {}
    return {
        name: (finite_number(place.get("latitude")), finite_number(place.get("longitude")))
        for name, place in parsing.objects_by_name(answer, "locations").items()
    }


def _read_health(answer: Response) -> str:
    """Return the state of health."""
    state = answer.text().strip()
    if state not in _STATES:
        raise FetchError(f"answered {one_line(state, 40)!r}, which is no state of health")
    return state


def _objects(answer: Response) -> list[dict[str, Any]]:
    """Return the list of objects in a response."""
    document = answer.json()
    if not isinstance(document, list) or not all(isinstance(item, dict) for item in document):
        raise FetchError("answered with JSON that is not a list of objects")
    return document


def _about(location: str, objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the objects about a location; the server ignores the case of names."""
    return [item for item in objects if str(item.get("location")).casefold() == location.casefold()]


def _points(
    data: Iterable[Any], time: str, value: str, length_us: Callable[[object], int | None]
) -> list[Point]:
    """Return points, given the keys of time and value and a parser of durations."""
    return [
        (point.get(time), point.get(value), length_us(point.get("duration")))
        if isinstance(point, dict)
        else (point, None, None)  # shown in the error
        for point in data
    ]


def _is_value(point: Point) -> bool:
    number = finite_number(point[1])
    return number is not None and number >= 0


def _minutes_us(duration: object) -> int | None:
    """Parse the duration of a point of a forecast, in minutes; None if it is missing or implausible."""
    minutes = finite_number(duration)  # truncated by the server: 0 for a point shorter than a minute
    return int(minutes * 60e6) if minutes is not None and minutes >= 1 else None


def _time_span_us(duration: object) -> int | None:
    """Parse the duration of a recorded point, a .NET time span; None if it is missing or implausible."""
    match = _TIME_SPAN.fullmatch(duration) if isinstance(duration, str) else None
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    span = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    return span // MICROSECOND or None
