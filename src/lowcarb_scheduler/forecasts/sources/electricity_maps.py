"""Electricity Maps v3 [1]_ as a source; it needs a token.

Where its answers are not what they seem:

- For a zone it does not know or allow it may answer with the zone of the caller's own address: only the zone
  that was asked for is taken, and coordinates are never sent.
- How far a forecast may reach depends on the plan. 72 hours are asked for, then what the plan gives.
- Too many requests may be answered 401, as a wrong token is.
- An intensity may be null.

References
----------
.. [1] Electricity Maps, https://app.electricitymaps.com/developer-hub/api
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from lowcarb_scheduler.clock import MICROSECOND, format_time, to_utc
from lowcarb_scheduler.errors import one_line
from lowcarb_scheduler.forecasts.base import period, sendable
from lowcarb_scheduler.forecasts.http.client import FetchError, Request
from lowcarb_scheduler.forecasts.http.credentials import token as checked_token
from lowcarb_scheduler.forecasts.http.parsing import (
    actual_of,
    floored,
    forecast_of,
    issue_of,
    parts,
    send_one,
    time_of,
)
from lowcarb_scheduler.forecasts.sources.web import WebSource

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    import httpx
    from pydantic import SecretStr

    from lowcarb_scheduler.clock import Clock
    from lowcarb_scheduler.forecasts.base import Forecast
    from lowcarb_scheduler.forecasts.http.client import Response
    from lowcarb_scheduler.forecasts.http.parsing import Point
    from lowcarb_scheduler.forecasts.series import Issue
    from lowcarb_scheduler.intensity import IntensityTable
    from lowcarb_scheduler.settings import Settings

NAME: Final = "electricity-maps"
URL: Final = "https://api.electricitymaps.com"
LONGEST_HOURS: Final = 72  # the longest of the horizons it offers
_HOUR: Final = timedelta(hours=1)
_LENGTHS: Final = {"hourly": _HOUR, "15_minutes": timedelta(minutes=15), "5_minutes": timedelta(minutes=5)}
_REFUSALS: Final = frozenset({400, 401, 402, 403, 422})  # by which a plan may refuse a horizon
_VARIABLE: Final = "LOWCARB_ELECTRICITY_MAPS_TOKEN"
_HINTS: Final = {
    401: f"check {_VARIABLE}; too many requests are answered like this, too",
    403: f"the plan of {_VARIABLE} does not include it; forecasts need a paid plan or a trial",
    404: "there is no such zone, or nothing is known of it",
}


class ElectricityMaps(WebSource):
    """Electricity Maps: average intensity, over the life cycle of the plants, by zone.

    A location is one of its zones, for example ``DE`` or ``US-CAL-CISO``.

    Parameters
    ----------
    token : str or SecretStr
        The ``auth-token`` of an account.
    url : str
        Where it answers.
    timeout : timedelta
        The most any one call takes, whatever the server does.
    transport : httpx.BaseTransport, optional
        What carries the requests; by default the network, through the proxies of the environment.
    clock : Clock, optional
        What counts the timeout and sleeps between attempts; the system's by default, in simulations too.

    Raises
    ------
    InputError
        If the token or the URL is none.
    """

    name = NAME
    signal = "average"
    issued_every = _HOUR
    url_setting = "electricity_maps_url"
    example_url = URL
    secret_settings = ("electricity_maps_token",)
    listing_proves = "server"  # zones are listed without a token, too

    def __init__(
        self,
        token: str | SecretStr | None,
        url: str = URL,
        *,
        timeout: timedelta = timedelta(seconds=30),
        transport: httpx.BaseTransport | None = None,
        clock: Clock | None = None,
    ) -> None:
        headers = {"auth-token": checked_token(token, "electricity_maps_token")}
        super().__init__(
            url, timeout=timeout, transport=transport, clock=clock, hints=_HINTS, headers=headers,
            follow_redirects=False,
        )  # fmt: skip
        self._shorter: set[str] = set()  # zones of which the plan does not give the longest forecast

    @classmethod
    def from_settings(cls, settings: Settings) -> ElectricityMaps:
        """Open the source that settings describe."""
        token, url = settings.electricity_maps_token, settings.electricity_maps_url
        return cls(token, url, timeout=settings.timeout)

    def known_locations(self, *, timeout: timedelta | None = None) -> dict[str, None]:
        """Return the zones the token can ask for.

        Raises
        ------
        ForecastUnavailableError
            If the service does not answer; the reason stands under its address.
        """
        return send_one(self._limited(timeout), Request("v3/zones"), _read_zones)

    def forecast(
        self, locations: Sequence[str], now: datetime, *, timeout: timedelta | None = None
    ) -> Forecast:
        """Return the newest forecast, in hours, as far as the plan of the token reaches.

        Raises
        ------
        ForecastUnavailableError
            If not one location has a forecast that is recent and reaches past ``now``.
        """
        now = to_utc(now, "now")
        client = self._limited(timeout)
        deadline = self._clock.now() + client.timeout
        names, missing = sendable(locations)

        def read(name: str, answer: Response) -> Issue:
            return _read_forecast(name, answer, now)

        answers = client.send_all({name: self._request(name) for name in names}, read)
        refused = {
            name: outcome.status
            for name, outcome in answers.items()
            if isinstance(outcome, FetchError) and outcome.status in _REFUSALS and name not in self._shorter
        }
        if refused:
            rest = client.within(deadline - self._clock.now())
            again = rest.send_all({name: _plain_request(name) for name in refused}, read)
            self._shorter.update(
                name for name, outcome in again.items()
                if not isinstance(outcome, FetchError) and refused[name] != 401  # which may pass
            )  # fmt: skip
            answers |= again
        return forecast_of(answers, missing, self.provenance)

    def actual(
        self, locations: Sequence[str], start: datetime, end: datetime, *, timeout: timedelta | None = None
    ) -> IntensityTable:
        """Return what the service has recorded in [start, end), its own estimates among it.

        Raises
        ------
        ForecastUnavailableError
            If not one location has a value there.
        """
        first, last = period(start, end)
        names, missing = sendable(locations)
        requests = {
            (name, part): Request(
                "v3/carbon-intensity/past-range",
                {"zone": name, "start": format_time(begin), "end": format_time(until)},
            )
            for name in names
            for part, (begin, until) in enumerate(parts(first, last, _HOUR))
        }
        answers = self._limited(timeout).send_all(
            requests, lambda key, answer: _points(key[0], answer, "data")[1]
        )
        return actual_of(answers, missing, (first, last), self.provenance)

    def _request(self, zone: str) -> Request:
        """Return the request for the longest forecast that was not refused before."""
        plain = _plain_request(zone)
        if zone in self._shorter:
            return plain
        return Request(plain.path, {**plain.params, "horizonHours": str(LONGEST_HOURS)})


def _plain_request(zone: str) -> Request:
    """Return the request for the forecast every plan with forecasts has."""
    return Request("v3/carbon-intensity/forecast", {"zone": zone})


def _read_forecast(zone: str, answer: Response, now: datetime) -> Issue:
    """Return when a forecast was made, and its points."""
    document, points = _points(zone, answer, "forecast")
    updated_at = document.get("updatedAt")
    # The service's own client calls it optional.
    generated_at = floored(now, _HOUR) if updated_at is None else time_of(updated_at, "updatedAt")
    return issue_of(generated_at, points, now)


def _points(zone: str, answer: Response, key: str) -> tuple[dict[str, Any], list[Point]]:
    """Return an answer about a zone, and the points it lists under a key."""
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
    document = answer.json()
    if not isinstance(document, dict) or not all(isinstance(zone, dict) for zone in document.values()):
        raise FetchError("answered with JSON that is not zones by name")
    return dict.fromkeys(document)
