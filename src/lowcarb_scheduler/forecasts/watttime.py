"""WattTime v3 [1]_ as a source; it needs an account.

Where its answers are not what they seem:

- Intensities are pounds of CO2 per megawatt-hour; another unit is refused, not guessed.
- A token lasts half an hour, and an old one may be answered with a web page.
- Without a subscription there is one region, ``CAISO_NORTH``.
- Fractions of a second in a query upset it.

References
----------
.. [1] WattTime, https://docs.watttime.org
"""

from __future__ import annotations

import copy
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from lowcarb_scheduler.clock import SystemClock, format_time, to_utc
from lowcarb_scheduler.errors import one_line
from lowcarb_scheduler.forecasts.series import finite
from lowcarb_scheduler.forecasts.source import period, sendable
from lowcarb_scheduler.forecasts.watttime_account import CHECK, Account
from lowcarb_scheduler.forecasts.web.fetch import Fetcher, FetchError, Request, base_url
from lowcarb_scheduler.forecasts.web.reading import (
    actual_of,
    ask_one,
    checked_timeout,
    forecast_of,
    issue_of,
    moments,
    parts,
    past_forecasts_of,
    time_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    import httpx
    from pydantic import SecretStr

    from lowcarb_scheduler.clock import Clock
    from lowcarb_scheduler.forecasts.series import Issue
    from lowcarb_scheduler.forecasts.source import Forecast
    from lowcarb_scheduler.forecasts.web.contact import Contact
    from lowcarb_scheduler.forecasts.web.fetch import Answer
    from lowcarb_scheduler.forecasts.web.reading import Point
    from lowcarb_scheduler.intensity import IntensityTable

NAME: Final = "watttime"
URL: Final = "https://api.watttime.org"
HORIZON_HOURS: Final = 72  # the longest it offers
G_PER_KWH: Final = 0.45359237  # of a pound per megawatt-hour
_UNIT: Final = "lbs_co2_per_mwh"
_SIGNAL: Final = "co2_moer"  # marginal operating emissions rate
_STEP: Final = timedelta(minutes=5)
_SECOND: Final = timedelta(seconds=1)
_HINTS: Final = {
    401: CHECK,
    403: "the account has no access to it; without a subscription there is CAISO_NORTH only",
    429: "3,000 requests in 5 minutes are allowed",
}


class WattTime:
    """WattTime: marginal intensity by region of the grid, every five minutes.

    A location is one of its regions, for example ``CAISO_NORTH``.

    Parameters
    ----------
    user, password : str or SecretStr
        An account.
    url : str
        Where it answers.
    timeout : timedelta
        The most any one call takes, the login included, whatever the server does.
    transport : httpx.BaseTransport, optional
        What carries the requests; by default the network, through the proxies of the environment.
    clock : Clock, optional
        What counts the timeout and the age of the token, and sleeps between attempts; the system's by
        default, in simulations too.

    Raises
    ------
    InputError
        If user, password or URL is none.
    """

    name: Final = NAME
    issued_every: Final = _STEP
    signal: Final = "marginal"

    def __init__(
        self,
        user: str | SecretStr | None,
        password: str | SecretStr | None,
        url: str = URL,
        *,
        timeout: timedelta = timedelta(seconds=30),
        transport: httpx.BaseTransport | None = None,
        clock: Clock | None = None,
    ) -> None:
        clock, base = clock or SystemClock(), base_url(url, "watttime-url", URL)
        fetcher = Fetcher(base, checked_timeout(timeout), clock, transport, _HINTS, follow_redirects=False)
        self._account = Account(fetcher, clock, user, password)

    @property
    def server(self) -> str:
        """Where it answers."""
        return self._account.server

    @property
    def contact(self) -> Contact:
        """What was seen of the server."""
        return self._account.contact

    def within(self, limit: timedelta) -> WattTime:
        """Return the same source, with the same login, whose calls take at most ``limit``."""
        other: WattTime = copy.copy(self)
        other._account = self._account.within(limit)
        return other

    def known_locations(self) -> dict[str, None]:
        """Return the regions the account can ask for.

        Raises
        ------
        ForecastUnavailableError
            If the service does not answer; the reason stands under its address.
        """
        return ask_one(self._account, Request("v3/my-access"), _read_access)

    def forecast(self, locations: Sequence[str], now: datetime) -> Forecast:
        """Return the newest forecast: 72 hours, its points as they came.

        Raises
        ------
        ForecastUnavailableError
            If not one location has a forecast that is recent and reaches past ``now``.
        """
        now = to_utc(now, "now")
        names, missing = sendable(locations)

        def read(name: str, answer: Answer) -> Issue:
            meta, points = _checked(name, answer)
            return issue_of(time_of(meta.get("generated_at"), "generated_at"), _points(meta, points), now)

        requests = {name: _request("forecast", name, {"horizon_hours": str(HORIZON_HOURS)}) for name in names}
        return forecast_of(self._account.get_all(requests, read), missing, self.signal, NAME)

    def actual(self, locations: Sequence[str], start: datetime, end: datetime) -> IntensityTable:
        """Return what WattTime has recorded in [start, end).

        Raises
        ------
        ForecastUnavailableError
            If not one location has a value there.
        """
        first, last = period(start, end)
        names, missing = sendable(locations)
        requests = {
            (name, part): _request("historical", name, _bounds(begin, until))
            for name in names
            for part, (begin, until) in enumerate(parts(first, last, _SECOND))
        }
        answers = self._account.get_all(requests, lambda key, answer: _points(*_checked(key[0], answer)))
        return actual_of(answers, missing, (first, last), self.signal, NAME)

    def past_forecasts(
        self, locations: Sequence[str], start: datetime, end: datetime, every: timedelta
    ) -> list[Forecast]:
        """Return forecasts that were made in [start, end), the oldest first.

        Each is a request a location, the newest first, so of a long period only so many come as the timeout
        allows.

        Parameters
        ----------
        locations : sequence of str
            Names of regions.
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
        names, missing = sendable(locations)
        horizon = {"horizon_hours": str(HORIZON_HOURS)}
        requests = {
            (name, when): _request("forecast/historical", name, {**_bounds(when, when), **horizon})
            for when in reversed(moments(first, last, every, _STEP))
            for name in names
        }
        answers = self._account.get_all(requests, lambda key, answer: _read_past(*key, answer))
        return past_forecasts_of(answers, missing, self.signal, NAME)


def _request(path: str, region: str, params: Mapping[str, str]) -> Request:
    """Return a request about a region."""
    return Request(f"v3/{path}", {"region": region, "signal_type": _SIGNAL, **params})


def _bounds(begin: datetime, end: datetime) -> dict[str, str]:
    """Return the bounds of a query; both are within it, so that equal ones ask for one forecast."""
    return {"start": format_time(begin), "end": format_time(end)}


def _checked(region: str, answer: Answer) -> tuple[dict[str, Any], list[Any]]:
    """Return what an answer says of itself and what it lists, if it is about the region, in a known unit."""
    document = answer.json()
    fields = document if isinstance(document, dict) else {}
    meta, data = fields.get("meta"), fields.get("data")
    if not isinstance(meta, dict) or not isinstance(data, list):
        raise FetchError("answered with JSON that has no meta and data")
    for key, asked in (("region", region), ("signal_type", _SIGNAL), ("units", _UNIT)):
        given = str(meta.get(key, None if key == "units" else asked))
        if given.casefold() != asked.casefold():
            raise FetchError(f"its {key} is {one_line(given, 40)!r}, not {asked}")
    return meta, data


def _read_past(region: str, when: datetime, answer: Answer) -> Issue:
    """Return the forecast that was made at a time."""
    meta, issues = _checked(region, answer)
    for issue in issues:
        if isinstance(issue, dict) and isinstance(issue.get("forecast"), list):
            generated_at = time_of(issue.get("generated_at"), "generated_at")
            if when <= generated_at < when + _STEP:
                return issue_of(generated_at, _points(meta, issue["forecast"]), generated_at)
    raise FetchError(f"there is no forecast made at {format_time(when)}")


def _points(meta: Mapping[str, Any], points: Iterable[Any]) -> list[Point]:
    """Return points in grams per kilowatt-hour; what is not one has neither time nor value."""
    seconds = finite(meta.get("data_point_period_seconds"))
    length_us = None if seconds is None else int(seconds * 1e6)
    known = [point if isinstance(point, dict) else {} for point in points]
    return [(point.get("point_time"), _g_per_kwh(point.get("value")), length_us) for point in known]


def _g_per_kwh(pounds_per_mwh: object) -> object:
    """Convert a value; what is no number stays what it is."""
    number = finite(pounds_per_mwh)
    return pounds_per_mwh if number is None else number * G_PER_KWH


def _read_access(answer: Answer) -> dict[str, None]:
    """Return the regions of our signal."""
    document = answer.json()
    try:
        signals = [kind for kind in document["signal_types"] if kind["signal_type"] == _SIGNAL]
        return {str(region["region"]): None for kind in signals for region in kind["regions"]}
    except (KeyError, TypeError):
        raise FetchError("answered with JSON that is not what an account has access to") from None
