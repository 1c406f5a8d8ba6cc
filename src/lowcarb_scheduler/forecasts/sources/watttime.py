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
from collections.abc import Hashable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

from lowcarb_scheduler.clock import format_time, to_utc
from lowcarb_scheduler.errors import InputError, one_line
from lowcarb_scheduler.forecasts.base import period, sendable
from lowcarb_scheduler.forecasts.http.client import FetchError, Request, basic_auth
from lowcarb_scheduler.forecasts.http.credentials import credential
from lowcarb_scheduler.forecasts.http.parsing import (
    actual_of,
    forecast_of,
    issue_of,
    moments,
    parts,
    past_forecasts_of,
    send_one,
    time_of,
)
from lowcarb_scheduler.forecasts.http.responses import Redaction
from lowcarb_scheduler.forecasts.series import finite
from lowcarb_scheduler.forecasts.sources.web import WebSource
from lowcarb_scheduler.settings import secret_fix

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
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

# -- An account at WattTime: requests are sent with a token, for which one logs in --------------------------

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

CHECK: Final = "check LOWCARB_WATTTIME_USER and LOWCARB_WATTTIME_PASSWORD"
_TOKEN_LASTS: Final = timedelta(minutes=25)  # it is valid for 30; the rest is for calls under way
_REFUSALS: Final = frozenset({401, 403})  # an old token gets either


@dataclass(slots=True)
class _Session:
    """The token of the last login, and until when it is used; shared by an account and its copies.

    It is replaced as a whole. Two threads may both log in where one would do, but neither waits.
    """

    held: tuple[str, datetime] | None = None


class Account:
    """Sends requests like a :class:`HttpClient`, with a token.

    Parameters
    ----------
    client : HttpClient
        Sends them; its budget is that of a call, a login included.
    clock : Clock
        Counts the budget and the age of the token.
    user, password : str or SecretStr
        What to log in with.

    Raises
    ------
    InputError
        If user or password is none.
    """

    def __init__(
        self, client: HttpClient, clock: Clock, user: str | SecretStr | None, password: str | SecretStr | None
    ) -> None:
        self._client, self._clock, self._session = client, clock, _Session()
        name = credential(user, "watttime_user")
        if ":" in name:
            problem = "has a colon, which ends a user name where it is sent"
            raise InputError("watttime-user", problem, secret_fix("watttime_user"))
        basic = basic_auth(name, credential(password, "watttime_password"))
        self._login = Request("login", headers={"Authorization": basic})
        self._redaction = Redaction([basic])  # the server has seen it, and may echo it later

    @property
    def origin(self) -> str:
        """Scheme, host and port of the server."""
        return self._client.origin

    def within(self, limit: timedelta | None) -> Account:
        """Return the same account, its token shared, with a budget of at most ``limit``."""
        if limit is None:
            return self
        narrower: Account = copy.copy(self)
        narrower._client = self._client.within(limit)
        return narrower

    def send_all(
        self, requests: Mapping[K, Request], read: Callable[[K, Response], T]
    ) -> dict[K, T | FetchError]:
        """Send requests, logging in first where the token is old, and once more where it is refused."""
        if not requests:
            return {}
        deadline = self._clock.now() + self._client.timeout
        held = self._session.held
        if held is None or self._clock.now() >= held[1]:
            return self._send(requests, read, self._new_token(deadline), deadline)
        answers = self._send(requests, read, held[0], deadline)
        refused = {
            key: requests[key]
            for key, outcome in answers.items()
            if isinstance(outcome, FetchError) and outcome.status in _REFUSALS
        }
        if refused:
            answers |= self._send(refused, read, self._new_token(deadline), deadline)
        return answers

    def _send(
        self,
        requests: Mapping[K, Request],
        read: Callable[[K, Response], T],
        token: str | FetchError,
        deadline: datetime,
    ) -> dict[K, T | FetchError]:
        """Send requests with a token, or return why there is none."""
        if isinstance(token, FetchError):
            return dict.fromkeys(requests, token)
        headers = {"Authorization": f"Bearer {token}"}
        signed = {key: replace(request, headers=headers) for key, request in requests.items()}
        outcomes = self._client.within(deadline - self._clock.now()).send_all(signed, read)
        return {
            key: outcome.masked(self._redaction) if isinstance(outcome, FetchError) else outcome
            for key, outcome in outcomes.items()
        }

    def _new_token(self, deadline: datetime) -> str | FetchError:
        """Log in."""
        client = self._client.within(deadline - self._clock.now())
        token = client.send_all({"login": self._login}, lambda _, answer: _read_token(answer))["login"]
        if isinstance(token, FetchError):
            refused = token.status in _REFUSALS
            return FetchError(f"the login was refused; {CHECK}" if refused else f"login: {token.why}")
        self._session.held = token, self._clock.now() + _TOKEN_LASTS
        return token


def _read_token(answer: Response) -> str:
    """Return the token of a login."""
    document = answer.json()
    token = document.get("token") if isinstance(document, dict) else None
    if not isinstance(token, str) or not (token and token.isascii() and token.isprintable()):
        raise FetchError("answered without a token")
    return token


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


class WattTime(WebSource):
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

    name = "watttime"
    signal = "marginal"
    issued_every = _STEP
    url_setting = "watttime_url"
    example_url = URL
    secret_settings = ("watttime_user", "watttime_password")

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
        super().__init__(
            url, timeout=timeout, transport=transport, clock=clock, hints=_HINTS, follow_redirects=False
        )
        self._account = Account(self.client, self._clock, user, password)

    @classmethod
    def from_settings(cls, settings: Settings) -> WattTime:
        """Open the source that settings describe."""
        user, password = settings.watttime_user, settings.watttime_password
        return cls(user, password, settings.watttime_url, timeout=settings.timeout)

    def known_locations(self, *, timeout: timedelta | None = None) -> dict[str, None]:
        """Return the regions the account can ask for.

        Raises
        ------
        ForecastUnavailableError
            If the service does not answer; the reason stands under its address.
        """
        return send_one(self._account.within(timeout), Request("v3/my-access"), _read_access)

    def forecast(
        self, locations: Sequence[str], now: datetime, *, timeout: timedelta | None = None
    ) -> Forecast:
        """Return the newest forecast: 72 hours, its points as they came.

        Raises
        ------
        ForecastUnavailableError
            If not one location has a forecast that is recent and reaches past ``now``.
        """
        now = to_utc(now, "now")
        names, missing = sendable(locations)

        def read(name: str, answer: Response) -> Issue:
            meta, points = _checked(name, answer)
            return issue_of(time_of(meta.get("generated_at"), "generated_at"), _points(meta, points), now)

        requests = {name: _request("forecast", name, {"horizon_hours": str(HORIZON_HOURS)}) for name in names}
        return forecast_of(self._account.within(timeout).send_all(requests, read), missing, self.provenance)

    def actual(
        self, locations: Sequence[str], start: datetime, end: datetime, *, timeout: timedelta | None = None
    ) -> IntensityTable:
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
        answers = self._account.within(timeout).send_all(
            requests, lambda key, answer: _points(*_checked(key[0], answer))
        )
        return actual_of(answers, missing, (first, last), self.provenance)

    def past_forecasts(
        self,
        locations: Sequence[str],
        start: datetime,
        end: datetime,
        every: timedelta,
        *,
        timeout: timedelta | None = None,
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
        answers = self._account.within(timeout).send_all(
            requests, lambda key, answer: _read_past(*key, answer)
        )
        return past_forecasts_of(answers, missing, self.provenance)


def _request(path: str, region: str, params: Mapping[str, str]) -> Request:
    """Return a request about a region."""
    return Request(f"v3/{path}", {"region": region, "signal_type": _SIGNAL, **params})


def _bounds(begin: datetime, end: datetime) -> dict[str, str]:
    """Return the bounds of a query; both are within it, so that equal ones ask for one forecast."""
    return {"start": format_time(begin), "end": format_time(end)}


def _checked(region: str, answer: Response) -> tuple[dict[str, Any], list[Any]]:
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


def _read_past(region: str, when: datetime, answer: Response) -> Issue:
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


def _read_access(answer: Response) -> dict[str, None]:
    """Return the regions of our signal."""
    document = answer.json()
    try:
        signals = [kind for kind in document["signal_types"] if kind["signal_type"] == _SIGNAL]
        return {str(region["region"]): None for kind in signals for region in kind["regions"]}
    except (KeyError, TypeError):
        raise FetchError("answered with JSON that is not what an account has access to") from None
