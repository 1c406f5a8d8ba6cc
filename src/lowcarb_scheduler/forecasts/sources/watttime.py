"""WattTime API [1]_, version 3; it needs an account.

Particularities of its responses:

- Intensities are pounds of CO2 per megawatt-hour; another unit is refused, not guessed.
- A token lasts half an hour, and an old one may be answered with a web page.
- Without a subscription there is one region, ``CAISO_NORTH``.
- Fractions of a second in a query cause errors.

References
----------
.. [1] WattTime, https://docs.watttime.org
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Unpack

import httpx

from lowcarb_scheduler.clock import EPOCH, Clock, format_time
from lowcarb_scheduler.errors import InputError, one_line
from lowcarb_scheduler.forecasts.base import Forecast, Names, Timeout, period, sendable
from lowcarb_scheduler.forecasts.http import parsing
from lowcarb_scheduler.forecasts.http.client import FetchError, HttpClient, Request, Response, basic_auth
from lowcarb_scheduler.forecasts.http.credentials import credential
from lowcarb_scheduler.forecasts.http.responses import LoginError, Redaction
from lowcarb_scheduler.forecasts.sources.web import K, T, WebOptions, WebSource
from lowcarb_scheduler.settings import Settings, secret_fix
from lowcarb_scheduler.validation import finite_number

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping

    from pydantic import SecretStr

    from lowcarb_scheduler.forecasts.series import Issue, Point

URL: Final = "https://api.watttime.org"
HORIZON_HOURS: Final = 72  # the longest that the service offers
G_PER_KWH: Final = 0.45359237  # grams per kilowatt-hour of a pound per megawatt-hour
_UNIT: Final = "lbs_co2_per_mwh"
_SIGNAL: Final = "co2_moer"  # marginal operating emissions rate
_STEP: Final = timedelta(minutes=5)
_CHECK: Final = "check LOWCARB_WATTTIME_USER and LOWCARB_WATTTIME_PASSWORD"
_TOKEN_LASTS: Final = timedelta(minutes=25)  # valid for 30; the rest is for calls that are under way
_REFUSALS: Final = frozenset({401, 403})  # an old token is answered with either


class WattTime(WebSource):
    """Forecast source that reads the WattTime API: marginal intensity by grid region.

    A location is one of its regions, for example ``CAISO_NORTH``. A forecast has steps of five minutes and
    reaches 72 hours.

    Parameters
    ----------
    user, password : str or SecretStr
        Credentials of an account.
    url : str
        Address of the service.
    **options
        ``timeout``, ``transport`` and ``clock`` of :class:`WebSource`; a login counts as part of a call.

    Raises
    ------
    InputError
        If user, password or URL is invalid.
    """

    name = "watttime"
    signal = "marginal"
    issued_every = _STEP
    url_setting = "watttime_url"
    default_url = URL
    secret_settings = ("watttime_user", "watttime_password")
    hints = {  # noqa: RUF012  (never changed)
        401: _CHECK,
        403: "the account has no access to it; without a subscription there is CAISO_NORTH only",
        429: "3,000 requests in 5 minutes are allowed",
    }

    def __init__(
        self,
        user: str | SecretStr | None,
        password: str | SecretStr | None,
        url: str = URL,
        **options: Unpack[WebOptions],
    ) -> None:
        # No redirects: a token or a password must not leave for another address.
        super().__init__(url, follow_redirects=False, **options)
        name = credential(user, "watttime_user")
        if ":" in name:
            problem = "has a colon, which ends a user name where it is sent"
            raise InputError("watttime-user", problem, secret_fix("watttime_user"))
        self._session = _Session(basic_auth(name, credential(password, "watttime_password")))

    @classmethod
    def from_settings(cls, settings: Settings) -> WattTime:
        """Open the source that settings describe."""
        user, password = settings.watttime_user, settings.watttime_password
        return cls(user, password, settings.watttime_url, timeout=settings.timeout)

    def known_locations(self, *, timeout: Timeout = None) -> dict[str, None]:
        """Return the regions that the account may request.

        Raises
        ------
        ForecastUnavailableError
            If the service does not answer; the reason stands under its address.
        """
        return self._send_one(Request("v3/my-access"), _read_access, timeout)

    def _forecast_request(self, name: str, now: datetime) -> Request:
        return _request("forecast", name, {"horizon_hours": str(HORIZON_HOURS)})

    def _parse_forecast(self, name: str, answer: Response, now: datetime) -> Issue:
        meta, points = _checked(name, answer)
        generated_at = parsing.time_of(meta.get("generated_at"), "generated_at")
        return parsing.issue_of(generated_at, _points(meta, points), now)

    def _past_request(self, name: str, begin: datetime, end: datetime) -> Request:
        return _request("historical", name, _bounds(begin, end))

    def _parse_past(self, name: str, answer: Response) -> list[Point]:
        return _points(*_checked(name, answer))

    def past_forecasts(
        self, locations: Names, start: datetime, end: datetime, every: timedelta, *, timeout: Timeout = None
    ) -> list[Forecast]:
        """Return forecasts issued in [start, end), the oldest first.

        Each is one request per location, the newest first: of a long period only so many arrive as the
        timeout allows. ``every`` is rounded up to a multiple of five minutes.

        Raises
        ------
        ForecastUnavailableError
            If not one arrived.
        """
        first, last = period(start, end)
        names, missing = sendable(locations)
        horizon = {"horizon_hours": str(HORIZON_HOURS)}
        requests = {
            (name, when): _request("forecast/historical", name, {**_bounds(when, when), **horizon})
            for when in reversed(parsing.moments(first, last, every, _STEP))
            for name in names
        }
        answers = self._send_all(requests, lambda key, answer: _read_past(*key, answer), timeout)
        return parsing.past_forecasts_of(answers, missing, self.provenance)

    def _send_all(
        self, requests: Mapping[K, Request], parse: Callable[[K, Response], T], timeout: Timeout
    ) -> dict[K, T | FetchError]:
        # One authentication per call: only so it can tell a token of this call, which is not renewed again.
        auth = _TokenAuth(self._session, self.client, self._clock, self._deadline(timeout))
        outcomes = self.client.send_all(requests, parse, timeout, auth)
        # The server has seen the credentials of the login and every token, and may echo them later.
        redaction = Redaction([self._session.basic, *auth.tokens])
        return {
            key: outcome.masked(redaction) if isinstance(outcome, FetchError) else outcome
            for key, outcome in outcomes.items()
        }


@dataclass(slots=True)
class _Session:
    """Credentials of the account and the newest token, shared by all calls."""

    basic: str
    token: str = ""
    expires_at: datetime = EPOCH


class _TokenAuth(httpx.Auth):
    """Authentication of one call by a token, which a login renews at most once if it is old or refused.

    Parameters
    ----------
    session : _Session
        Credentials and token.
    client : HttpClient
        Client that sends the login.
    clock : Clock
        Clock of the age of the token.
    ends : datetime
        Time by which the call has to end, the login included.
    """

    def __init__(self, session: _Session, client: HttpClient, clock: Clock, ends: datetime) -> None:
        self._session, self._client, self._clock, self._ends = session, client, clock, ends
        self._lock = threading.Lock()
        self._renewed = False
        self._error: LoginError | None = None
        self.tokens = {session.token} - {""}

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Send a request with the token, and once more if that is refused and there is a newer one."""
        token = self._token()
        request.headers["Authorization"] = f"Bearer {token}"
        response = yield request
        if response.status_code in _REFUSALS and (newer := self._token(refused=token)) != token:
            # httpx reads the body of a response before it goes on, and that of a refusal may be endless.
            response.stream.close()  # type: ignore[union-attr]
            response.stream = httpx.ByteStream(b"")
            request.headers["Authorization"] = f"Bearer {newer}"
            yield request

    def _token(self, refused: str = "") -> str:
        """Return the newest token; threads that wait for a login share its outcome."""
        with self._lock:
            if not self._renewed and (
                self._session.token in ("", refused) or self._clock.now() >= self._session.expires_at
            ):
                self._renewed = True
                self._log_in()
            if self._error is not None:
                raise self._error
            return self._session.token

    def _log_in(self) -> None:
        request = {"login": Request("login", headers={"Authorization": self._session.basic})}
        left = self._ends - self._clock.now()
        token = self._client.send_all(request, lambda _, answer: _read_token(answer), left)["login"]
        if isinstance(token, FetchError):
            refused = token.status in _REFUSALS
            why = f"the login was refused; {_CHECK}" if refused else f"login: {token.why}"
            self._error = LoginError(why)
            return
        self.tokens.add(token)
        self._session.token, self._session.expires_at = token, self._clock.now() + _TOKEN_LASTS


def _read_token(answer: Response) -> str:
    """Return the token of a login."""
    document = answer.json()
    token = document.get("token") if isinstance(document, dict) else None
    # It becomes a header: a line break in it would forge another one.
    if not isinstance(token, str) or not (token and token.isascii() and token.isprintable()):
        raise FetchError("answered without a token")
    return token


def _request(path: str, region: str, params: Mapping[str, str]) -> Request:
    """Return a request about a region."""
    return Request(f"v3/{path}", {"region": region, "signal_type": _SIGNAL, **params})


def _bounds(begin: datetime, end: datetime) -> dict[str, str]:
    """Return the bounds of a query; both are inside, so that equal bounds request one forecast."""
    return {"start": format_time(begin), "end": format_time(end)}


def _checked(region: str, answer: Response) -> tuple[dict[str, Any], list[Any]]:
    """Return the metadata and the list of a response, checked for region, signal and unit."""
    document = answer.json()
    fields = document if isinstance(document, dict) else {}
    meta, data = fields.get("meta"), fields.get("data")
    if not isinstance(meta, dict) or not isinstance(data, list):
        raise FetchError("answered with JSON that has no meta and data")
    for key, asked in (("region", region), ("signal_type", _SIGNAL), ("units", _UNIT)):
        # Region and signal follow from the request; a missing unit could be any.
        given = str(meta.get(key, None if key == "units" else asked))
        if given.casefold() != asked.casefold():
            raise FetchError(f"its {key} is {one_line(given, 40)!r}, not {asked}")
    return meta, data


def _read_past(region: str, when: datetime, answer: Response) -> Issue:
    """Return the forecast issued at a time, to a step."""
    meta, issues = _checked(region, answer)
    for issue in issues:
        if isinstance(issue, dict) and isinstance(issue.get("forecast"), list):
            generated_at = parsing.time_of(issue.get("generated_at"), "generated_at")
            # The issue may be some seconds late, and the list may hold its neighbours.
            if when <= generated_at < when + _STEP:
                return parsing.issue_of(generated_at, _points(meta, issue["forecast"]), generated_at)
    raise FetchError(f"there is no forecast made at {format_time(when)}")


def _points(meta: Mapping[str, Any], points: Iterable[Any]) -> list[Point]:
    """Return points in grams per kilowatt-hour; an entry that is no object has neither time nor value."""
    # Without a plausible length the distance to the next point counts.
    seconds = finite_number(meta.get("data_point_period_seconds"))
    length_us = None if seconds is None else int(seconds * 1e6)
    known = [point if isinstance(point, dict) else {} for point in points]
    return [(point.get("point_time"), _g_per_kwh(point.get("value")), length_us) for point in known]


def _g_per_kwh(pounds_per_mwh: object) -> object:
    """Convert a value; anything but a number is returned unchanged, for the error message."""
    number = finite_number(pounds_per_mwh)
    return pounds_per_mwh if number is None else number * G_PER_KWH


def _read_access(answer: Response) -> dict[str, None]:
    """Return the regions with the marginal signal."""
    document = answer.json()
    try:
        signals = [kind for kind in document["signal_types"] if kind["signal_type"] == _SIGNAL]
        return {str(region["region"]): None for kind in signals for region in kind["regions"]}
    except (KeyError, TypeError):
        raise FetchError("answered with JSON that is not what an account has access to") from None
