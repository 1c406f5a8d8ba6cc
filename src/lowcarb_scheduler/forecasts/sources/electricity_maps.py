"""Electricity Maps API [1]_, version 4 and, where a server refuses that, version 3; it needs a token.

Particularities of its responses:

- An unknown or forbidden zone may be answered with the zone of the caller's own address. In version 4 the
  parameter ``disableCallerLookup`` prevents that. In both versions another zone than the requested one is
  refused, and coordinates are never sent.
- The horizon of a forecast depends on the plan: 72 h are requested first, then the default of the plan.
- 401 means a wrong token, too many requests, or a plan without that version.
- An intensity may be null.

The intensity used is ``carbon-intensity``: average, over the life cycle of the plants. The other signals of
version 4, ``carbon-intensity-fossil-only`` and the day-ahead price among them, measure something else and are
not comparable.

References
----------
.. [1] Electricity Maps, https://app.electricitymaps.com/developer-hub/api
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Unpack

from lowcarb_scheduler.clock import MICROSECOND, format_time
from lowcarb_scheduler.errors import one_line
from lowcarb_scheduler.forecasts.http import parsing
from lowcarb_scheduler.forecasts.http.client import FetchError, Request, Response, place_of
from lowcarb_scheduler.forecasts.http.credentials import token as checked_token
from lowcarb_scheduler.forecasts.sources.web import K, T, WebOptions, WebSource

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from pydantic import SecretStr

    from lowcarb_scheduler.forecasts.base import Names, Timeout
    from lowcarb_scheduler.forecasts.series import Issue, Point
    from lowcarb_scheduler.settings import Settings

URL: Final = "https://api.electricitymaps.com"
LONGEST_HOURS: Final = 72  # longest horizon of both versions
_HOUR: Final = timedelta(hours=1)
_LENGTHS: Final = {"hourly": _HOUR, "15_minutes": timedelta(minutes=15), "5_minutes": timedelta(minutes=5)}
_HORIZON_REFUSALS: Final = frozenset({400, 401, 402, 403, 422})
_VERSION_REFUSALS: Final = frozenset({401, 404, 410})
# The default granularity of version 4 is not documented to stay hourly.
_VERSION_4_ONLY: Final = {"temporalGranularity": "hourly", "disableCallerLookup": "true"}
_VARIABLE: Final = "LOWCARB_ELECTRICITY_MAPS_TOKEN"


class ElectricityMaps(WebSource):
    """Forecast source that reads the Electricity Maps API: average intensity, over the life cycle, by zone.

    A location is one of its zones, for example ``DE`` or ``US-CAL-CISO``.

    Parameters
    ----------
    token : str or SecretStr
        The ``auth-token`` of an account.
    url : str
        Address of the service.
    **options
        ``timeout``, ``transport`` and ``clock`` of :class:`WebSource`.

    Raises
    ------
    InputError
        If the token or the URL is invalid.
    """

    name = "electricity-maps"
    signal = "average"
    issued_every = grid = _HOUR
    url_setting = "electricity_maps_url"
    default_url = URL
    secret_settings = ("electricity_maps_token",)
    listing_proves = "server"  # zones are listed without a token, too
    hints = {  # noqa: RUF012  (never changed)
        401: f"check {_VARIABLE}; too many requests are answered like this, too",
        403: f"the plan of {_VARIABLE} does not include it; forecasts need a paid plan or a trial",
        404: "the zone does not exist, or has no data",
    }

    def __init__(self, token: str | SecretStr | None, url: str = URL, **options: Unpack[WebOptions]) -> None:
        headers = {"auth-token": checked_token(token, "electricity_maps_token")}
        super().__init__(url, headers=headers, follow_redirects=False, **options)
        self._version_3: set[str] = set()  # zones for which version 4 is refused
        self._shorter: set[str] = set()  # zones for which the plan refuses the longest horizon

    @classmethod
    def from_settings(cls, settings: Settings) -> ElectricityMaps:
        """Open the source that settings describe."""
        token, url = settings.electricity_maps_token, settings.electricity_maps_url
        return cls(token, url, timeout=settings.timeout)

    def known_locations(self, *, timeout: Timeout = None) -> dict[str, None]:
        """Return the zones that the token may request.

        Raises
        ------
        ForecastUnavailableError
            If the service does not answer; the reason stands under its address.
        """
        return self._send_one(Request("v4/zones"), _read_zones, timeout)

    def _forecast_request(self, name: str, now: datetime) -> Request:
        horizon = {} if name in self._shorter else {"horizonHours": str(LONGEST_HOURS)}
        return _request("forecast", name, **horizon)

    def _parse_forecast(self, name: str, answer: Response, now: datetime) -> Issue:
        document, points = _points(name, answer, "forecast")
        updated_at = document.get("updatedAt")
        if updated_at is None:  # the service's own client calls it optional
            return parsing.issue_of(parsing.floored(now, _HOUR), points, now)
        return parsing.issue_of(parsing.time_of(updated_at, "updatedAt"), points, now)

    def _past_request(self, name: str, begin: datetime, end: datetime) -> Request:
        return _request("past-range", name, start=format_time(begin), end=format_time(end))

    def _parse_past(self, name: str, answer: Response) -> list[Point]:
        return _points(name, answer, "data")[1]

    def _issues(self, names: Names, now: datetime, timeout: Timeout) -> dict[str, Issue | FetchError]:
        """Request the longest forecasts, and where they are refused those that the plan allows."""
        ends = self._deadline(timeout)
        answers = super()._issues(names, now, timeout)
        refused = _refused(answers, _HORIZON_REFUSALS)
        rest = {name: _request("forecast", name) for name in refused if name not in self._shorter}
        again = self._send_all(
            rest, lambda name, answer: self._parse_forecast(name, answer, now), ends - self._clock.now()
        )
        self._shorter |= _learnt(refused, again)
        return {**answers, **again}

    def _send_all(
        self, requests: Mapping[K, Request], parse: Callable[[K, Response], T], timeout: Timeout
    ) -> dict[K, T | FetchError]:
        """Send requests of version 4, and those that are refused once more in version 3."""
        ends = self._deadline(timeout)
        known = {key for key in requests if place_of(key) in self._version_3}
        first = {key: _in_version_3(each) if key in known else each for key, each in requests.items()}
        answers = self.client.send_all(first, parse, timeout)
        refused = _refused(answers, _VERSION_REFUSALS)
        self._version_3 -= {place_of(key) for key in known.intersection(refused)}  # version 4 is tried again
        rest = {key: _in_version_3(requests[key]) for key in refused if key not in known}
        again = self.client.send_all(rest, parse, ends - self._clock.now())
        self._version_3 |= _learnt(refused, again)
        return {**answers, **again}


def _refused(answers: Mapping[K, object], statuses: Collection[int]) -> dict[K, int | None]:
    """Return the statuses of the requests that were refused with one of these."""
    errors = {key: each for key, each in answers.items() if isinstance(each, FetchError)}
    return {key: error.status for key, error in errors.items() if error.status in statuses}


def _learnt(refused: Mapping[K, int | None], again: Mapping[K, object]) -> set[str]:
    """Return the zones for which only the second way of asking works."""
    # 401 may be too many requests, which pass: nothing is learnt from it.
    good = [key for key, answer in again.items() if not isinstance(answer, FetchError)]
    return {place_of(key) for key in good if refused[key] != 401}


def _in_version_3(request: Request) -> Request:
    """Return a request as version 3 of the API takes it."""
    params = {name: value for name, value in request.params.items() if name not in _VERSION_4_ONLY}
    return Request(request.path.replace("v4/", "v3/", 1), params)


def _request(path: str, zone: str, **params: str) -> Request:
    """Return a request about the carbon intensity of a zone."""
    return Request(f"v4/carbon-intensity/{path}", {"zone": zone, **params, **_VERSION_4_ONLY})


def _points(zone: str, answer: Response, key: str) -> tuple[dict[str, Any], list[Point]]:
    """Return the document of a response about a zone, and the points in its list ``key``."""
    document = answer.json()
    data = document.get(key) if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(data, list):
        raise FetchError(f"answered with JSON that has no list of points called {key}")
    given = str(document.get("zone"))
    if given.casefold() != zone.casefold():
        raise FetchError(f"asked for it, the service answered with zone {one_line(given, 40)}")
    length = _LENGTHS.get(str(document.get("temporalGranularity", "hourly")))
    length_us = None if length is None else length // MICROSECOND
    points = [point if isinstance(point, dict) else {} for point in data]
    return document, [(point.get("datetime"), point.get("carbonIntensity"), length_us) for point in points]


def _read_zones(answer: Response) -> dict[str, None]:
    """Return the names of the zones."""
    return dict.fromkeys(parsing.objects_by_name(answer, "zones"))
