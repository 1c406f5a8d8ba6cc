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

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from lowcarb_scheduler.clock import MICROSECOND, format_time, to_utc
from lowcarb_scheduler.errors import ForecastUnavailableError, one_line
from lowcarb_scheduler.forecasts.base import period, sendable
from lowcarb_scheduler.forecasts.http.client import FetchError, Request
from lowcarb_scheduler.forecasts.http.credentials import token as checked_token
from lowcarb_scheduler.forecasts.http.parsing import (
    actual_of,
    floored,
    forecast_of,
    issue_of,
    parts,
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
    from lowcarb_scheduler.forecasts.http.client import HttpClient, Response
    from lowcarb_scheduler.forecasts.http.parsing import Point
    from lowcarb_scheduler.forecasts.series import Issue
    from lowcarb_scheduler.intensity import IntensityTable
    from lowcarb_scheduler.settings import Settings

URL: Final = "https://api.electricitymaps.com"
LONGEST_HOURS: Final = 72  # longest horizon of both versions
_HOUR: Final = timedelta(hours=1)
_LENGTHS: Final = {"hourly": _HOUR, "15_minutes": timedelta(minutes=15), "5_minutes": timedelta(minutes=5)}
_HORIZON_REFUSALS: Final = frozenset({400, 401, 402, 403, 422})
_VERSION_REFUSALS: Final = frozenset({401, 404, 410})
_VARIABLE: Final = "LOWCARB_ELECTRICITY_MAPS_TOKEN"


class _Variant(NamedTuple):
    """Version of the API, and whether the longest horizon is requested."""

    version: str
    longest: bool


# Order in which a forecast is requested. A refusal of the horizon leads to the next variant, one of the
# version to the first variant of the next version.
_VARIANTS: Final = (_Variant("v4", True), _Variant("v4", False), _Variant("v3", True), _Variant("v3", False))


class ElectricityMaps(WebSource):
    """Forecast source that reads the Electricity Maps API: average intensity, over the life cycle, by zone.

    A location is one of its zones, for example ``DE`` or ``US-CAL-CISO``.

    Parameters
    ----------
    token : str or SecretStr
        The ``auth-token`` of an account.
    url : str
        Address of the service.
    timeout : timedelta
        Longest duration of one call, retries included.
    transport : httpx.BaseTransport, optional
        Transport of the requests; by default the network, through the proxies of the environment.
    clock : Clock, optional
        Clock that counts the timeout and sleeps between attempts; by default the system's.

    Raises
    ------
    InputError
        If the token or the URL is invalid.
    """

    name = "electricity-maps"
    signal = "average"
    issued_every = _HOUR
    url_setting = "electricity_maps_url"
    default_url = URL
    secret_settings = ("electricity_maps_token",)
    listing_proves = "server"  # zones are listed without a token, too
    hints = {  # noqa: RUF012  (it is never changed)
        401: f"check {_VARIABLE}; too many requests are answered like this, too",
        403: f"the plan of {_VARIABLE} does not include it; forecasts need a paid plan or a trial",
        404: "there is no such zone, or nothing is known of it",
    }

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
            url, timeout=timeout, transport=transport, clock=clock, headers=headers, follow_redirects=False
        )  # fmt: skip
        self._accepted: dict[str, _Variant] = {}  # by zone, where the first variant is refused

    @classmethod
    def from_settings(cls, settings: Settings) -> ElectricityMaps:
        """Open the source that settings describe."""
        token, url = settings.electricity_maps_token, settings.electricity_maps_url
        return cls(token, url, timeout=settings.timeout)

    def known_locations(self, *, timeout: timedelta | None = None) -> dict[str, None]:
        """Return the zones that the token may request.

        Raises
        ------
        ForecastUnavailableError
            If the service does not answer; the reason stands under its address.
        """
        client = self._limited(timeout)
        deadline = self._clock.now() + client.timeout
        outcome = _request_zones(client, "v4")
        if isinstance(outcome, FetchError) and outcome.status in _VERSION_REFUSALS:
            outcome = _request_zones(client.within(deadline - self._clock.now()), "v3")
        if isinstance(outcome, FetchError):
            raise ForecastUnavailableError({client.origin: outcome.why})
        return outcome

    def forecast(
        self, locations: Sequence[str], now: datetime, *, timeout: timedelta | None = None
    ) -> Forecast:
        """Return the newest forecast, as far as the plan of the token reaches.

        Raises
        ------
        ForecastUnavailableError
            If not one location has a forecast that is recent and reaches past ``now``.
        """
        now = to_utc(now, "now")
        client = self._limited(timeout)
        deadline = self._clock.now() + client.timeout
        names, missing = sendable(locations)
        variants = {name: self._accepted.get(name, _VARIANTS[0]) for name in names}
        may_pass: set[str] = set()  # zones with a 401, which may be for too many requests: nothing is learnt
        answers: dict[str, Issue | FetchError] = {}
        pending = names
        while pending:
            requests = {name: _forecast_request(name, variants[name]) for name in pending}
            left = client.within(deadline - self._clock.now())
            answers |= left.send_all(requests, lambda name, answer: _read_forecast(name, answer, now))
            pending = []
            for name in requests:
                answer = answers[name]
                if not isinstance(answer, FetchError):
                    continue
                if answer.status == 401:
                    may_pass.add(name)
                if (following := _next_variant(variants[name], answer.status)) is not None:
                    variants[name] = following
                    pending.append(name)
                else:
                    self._accepted.pop(name, None)
        for name in answers:
            if not isinstance(answers[name], FetchError) and name not in may_pass:
                self._accepted[name] = variants[name]
        return forecast_of(answers, missing, self.provenance)

    def actual(
        self, locations: Sequence[str], start: datetime, end: datetime, *, timeout: timedelta | None = None
    ) -> IntensityTable:
        """Return the recorded intensity in [start, end), the service's own estimates included.

        Raises
        ------
        ForecastUnavailableError
            If not one location has a value in the period.
        """
        first, last = period(start, end)
        client = self._limited(timeout)
        deadline = self._clock.now() + client.timeout
        names, missing = sendable(locations)
        bounds = dict(enumerate(parts(first, last, _HOUR)))
        versions = {name: self._accepted.get(name, _VARIANTS[0]).version for name in names}

        def read(key: tuple[str, int], answer: Response) -> list[Point]:
            return _points(key[0], answer, "data")[1]

        requests = {
            (name, part): _past_request(name, *bounds[part], versions[name])
            for name in names
            for part in bounds
        }
        answers = client.send_all(requests, read)
        refused = [
            (name, part)
            for (name, part), answer in answers.items()
            if isinstance(answer, FetchError)
            and answer.status in _VERSION_REFUSALS
            and versions[name] == "v4"
        ]
        requests = {(name, part): _past_request(name, *bounds[part], "v3") for name, part in refused}
        answers |= client.within(deadline - self._clock.now()).send_all(requests, read)
        return actual_of(answers, missing, (first, last), self.provenance)


def _next_variant(variant: _Variant, status: int | None) -> _Variant | None:
    """Return the variant that may be accepted where one was refused; None where there is none."""
    if variant.longest and status in _HORIZON_REFUSALS:
        return variant._replace(longest=False)
    if variant.version == "v4" and status in _VERSION_REFUSALS:
        return _Variant("v3", longest=True)
    return None


def _forecast_request(zone: str, variant: _Variant) -> Request:
    """Return the request for a forecast; without a horizon the plan decides on it."""
    horizon = {"horizonHours": str(LONGEST_HOURS)} if variant.longest else {}
    return Request(
        f"{variant.version}/carbon-intensity/forecast", {"zone": zone, **horizon, **_options(variant.version)}
    )


def _past_request(zone: str, begin: datetime, end: datetime, version: str) -> Request:
    """Return the request for recorded intensity in whole hours."""
    bounds = {"start": format_time(begin), "end": format_time(end)}
    return Request(f"{version}/carbon-intensity/past-range", {"zone": zone, **bounds, **_options(version)})


def _options(version: str) -> dict[str, str]:
    """Return the parameters that version 4 has besides those of version 3."""
    # The default granularity of version 4 is not documented to stay hourly.
    return {"temporalGranularity": "hourly", "disableCallerLookup": "true"} if version == "v4" else {}


def _read_forecast(zone: str, answer: Response, now: datetime) -> Issue:
    """Return the issue that a response holds."""
    document, points = _points(zone, answer, "forecast")
    updated_at = document.get("updatedAt")
    # The service's own client calls it optional.
    generated_at = floored(now, _HOUR) if updated_at is None else time_of(updated_at, "updatedAt")
    return issue_of(generated_at, points, now)


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


def _request_zones(client: HttpClient, version: str) -> dict[str, None] | FetchError:
    """Request the zones in one version of the API."""
    request = {client.origin: Request(f"{version}/zones")}
    return client.send_all(request, lambda _, answer: _read_zones(answer))[client.origin]


def _read_zones(answer: Response) -> dict[str, None]:
    """Return the names of the zones."""
    document = answer.json()
    if not isinstance(document, dict) or not all(isinstance(zone, dict) for zone in document.values()):
        raise FetchError("answered with JSON that is not zones by name")
    return dict.fromkeys(document)
