"""HTTP client with a time budget, a circuit breaker and plain errors.

Whatever the server does, :meth:`HttpClient.send_all` returns within its budget. A request that may succeed
later is retried with growing, jittered pauses; any other failure becomes one plain line without secrets.
"""

from __future__ import annotations

import base64
import re
import threading
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Final, TypeVar
from urllib.parse import unquote
from urllib.request import getproxies

import httpx

from lowcarb_scheduler._version import __version__
from lowcarb_scheduler.clock import Clock, format_time
from lowcarb_scheduler.errors import InputError, one_line
from lowcarb_scheduler.forecasts.backoff import Backoff
from lowcarb_scheduler.forecasts.http import responses
from lowcarb_scheduler.forecasts.http.batch import BatchOptions, Request, RequestBatch, origin_of
from lowcarb_scheduler.forecasts.http.responses import FetchError, LoginError, Redaction, Response

__all__ = ["FetchError", "HttpClient", "Request", "Response", "ServerStats", "base_url", "basic_auth"]

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

CONCURRENCY: Final = 8
MAX_ATTEMPTS: Final = 4
FIRST_PAUSE: Final = timedelta(minutes=1)  # of the circuit breaker
LONGEST_PAUSE: Final = timedelta(minutes=15)

_HEADERS: Final = {
    "User-Agent": f"lowcarb-scheduler/{__version__}",
    "Accept": "application/json, text/plain",
    "Accept-Encoding": "gzip",
}
_REPEATED: Final = 2  # calls in a row, each of several attempts, after which a place counts as failing
_FAIR_TIMEOUT: Final = timedelta(seconds=5)  # a budget with which a healthy server answers
_NOT_SENT: Final = "another location was asked first, and the server is still down"


class HttpClient:
    """Client of one server, which may be slow, wrong or hostile.

    Parameters
    ----------
    base_url : httpx.URL
        Address below which all paths begin; credentials in it are sent as a header.
    timeout : timedelta
        Time budget of one call, retries included.
    clock : Clock
        Clock that counts the budget and sleeps between attempts.
    transport : httpx.BaseTransport, optional
        Transport of the requests; by default the network, through the proxies of the environment.
    hints : mapping of int to str, optional
        Explanation added to an error response, by status.
    headers : mapping of str to str, optional
        Secret headers, sent with each request; their values are masked wherever a server echoes them.
    follow_redirects : bool (default: True)
        Whether redirects on the same host are followed.
    concurrency : int (default: 8)
        Requests in flight at the same time.
    max_attempts : int (default: 4)
        Attempts per request, the first one included.

    Raises
    ------
    InputError
        If a header has a character that cannot be sent.

    Attributes
    ----------
    stats : ServerStats
        Observations of the server.
    """

    def __init__(
        self,
        base_url: httpx.URL,
        timeout: timedelta,
        clock: Clock,
        transport: httpx.BaseTransport | None = None,
        hints: Mapping[int, str] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        follow_redirects: bool = True,
        concurrency: int = CONCURRENCY,
        max_attempts: int = MAX_ATTEMPTS,
    ) -> None:
        self._base_url, self.timeout, self._clock = base_url.copy_with(userinfo=b""), timeout, clock
        self._transport, self._hints, self._follow_redirects = transport, hints or {}, follow_redirects
        self.concurrency, self.max_attempts = concurrency, max_attempts
        self._headers = {name: _header_value(name, value) for name, value in (headers or {}).items()}
        # Credentials of the URL move to a header, whose value is masked in every message.
        if base_url.userinfo and "authorization" not in map(str.lower, self._headers):
            user, _, password = base_url.userinfo.decode().partition(":")
            self._headers["Authorization"] = basic_auth(unquote(user), unquote(password))
        self._breaker = CircuitBreaker(clock)
        self.stats = ServerStats(clock)

    @property
    def origin(self) -> str:
        """Scheme, host and port of the server."""
        return origin_of(self._base_url)

    @property
    def server(self) -> str:
        """Base URL without credentials; it identifies the data of the server."""
        return str(self._base_url).rstrip("/")

    def budget(self, timeout: timedelta | None) -> timedelta:
        """Return the time budget of a call: ``timeout``, at most that of the client."""
        return self.timeout if timeout is None else max(min(self.timeout, timeout), timedelta(0))

    def send_all(
        self,
        requests: Mapping[K, Request],
        parse: Callable[[K, Response], T],
        timeout: timedelta | None = None,
        auth: httpx.Auth | None = None,
    ) -> dict[K, T | FetchError]:
        """Send all requests, a few at a time, and parse their responses.

        Parameters
        ----------
        requests : mapping of Request
            Requests by key: the place it is about, or a tuple that begins with the place. Places that failed
            in the last call are sent after the others.
        parse : callable
            Parser of a response, called with its key; raises FetchError if the content is unusable.
        timeout : timedelta, optional
            Time budget of this call, at most that of the client.
        auth : httpx.Auth, optional
            Authentication of each request; it may send a login with another call, and raise LoginError.

        Returns
        -------
        dict
            Parsed response or error, by key, in the order of ``requests``.
        """
        budget = self.budget(timeout)
        # Places that failed go last: their retries must not use up the time of the others.
        keys = sorted(requests, key=lambda key: self._breaker.failures(place_of(key)))
        places = {place_of(key) for key in keys}
        outcomes: dict[K, T | FetchError] = {}
        if (refusal := self._breaker.refusal(places)) is None and keys:
            began, probing = self._clock.now(), self._breaker.is_open(places)
            # A server that was down gets one request, once; the rest follows if that is answered.
            sent = keys[:1] if probing else keys
            outcomes = self._send({key: requests[key] for key in sent}, parse, budget, probing, auth)
            rest = {key: requests[key] for key in requests if key not in outcomes}
            if rest and self._breaker.is_open(places):
                refusal = self._breaker.refusal(places) or _NOT_SENT
            elif rest:
                outcomes |= self.send_all(rest, parse, budget - (self._clock.now() - began), auth)
        refused = FetchError(refusal or "", again=True)
        return {key: outcomes.get(key, refused) for key in requests}

    def _send(
        self,
        requests: Mapping[K, Request],
        parse: Callable[[K, Response], T],
        budget: timedelta,
        probing: bool,
        auth: httpx.Auth | None,
    ) -> dict[K, T | FetchError]:
        """Send requests as one batch and record its outcome in the circuit breaker."""
        own = [value for request in requests.values() for value in request.headers.values()]
        redaction = Redaction([*self._headers.values(), *own, *_proxy_credentials()])
        attempts = 1 if probing else self.max_attempts
        options = BatchOptions(budget, attempts, self.concurrency, self._follow_redirects, self._hints)
        try:
            client = httpx.Client(
                base_url=self._base_url, headers=_HEADERS | self._headers, auth=auth,
                transport=self._transport,
                event_hooks={"request": [self.stats.on_request], "response": [self.stats.on_response]},
            )  # fmt: skip
        except (ImportError, OSError, ValueError, httpx.InvalidURL) as error:
            why = f"the proxy or certificate settings of the environment are wrong: {_wrong_setting(error)}"
            return dict.fromkeys(requests, FetchError(why))
        batch: RequestBatch[K, T] = RequestBatch(client, self._clock, options, redaction)
        outcomes = batch.run(requests, parse)
        sent = {key: outcomes[key] for key in batch.started if not isinstance(outcomes[key], LoginError)}
        self._breaker.record(sent, budget)
        return outcomes


class CircuitBreaker:
    """Circuit breaker: a server that is down gets no requests for a while.

    It opens for all places when no connection comes about, and for the places of a call when every one of
    them has failed repeatedly: one bad place never blocks the others. After its pause one request is let
    through. If that fails, too, the pause doubles, up to 15 minutes; any response closes the breaker.

    Parameters
    ----------
    clock : Clock
        Clock that counts the pauses.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures: dict[str, int] = {}  # calls in a row, by place
        self._cause: FetchError | None = None  # while it is open
        self._opened_at = clock.now()
        self._backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)

    def failures(self, place: str) -> int:
        """Return the number of calls in a row in which a place has failed."""
        return self._failures.get(place, 0)

    def is_open(self, places: Collection[str]) -> bool:
        """Return whether at most one request about these places may be sent."""
        if self._cause is None:
            return False
        return self._cause.unreachable or all(self.failures(place) >= _REPEATED for place in places)

    def refusal(self, places: Collection[str]) -> str | None:
        """Return why no request about these places may be sent now, None if one may."""
        with self._lock:
            cause, failed_at = self._cause, self._backoff.called_at
            due = self._backoff.due(self._clock.now())
            if cause is None or failed_at is None or due or not self.is_open(places):
                return None
            times = self._opened_at, failed_at + self._backoff.pause
            opened_at, resumes_at = (format_time(when.replace(microsecond=0)) for when in times)
            return f"{cause.why} (since {opened_at}; asked again from {resumes_at})"

    def record(self, outcomes: Mapping[K, object], budget: timedelta) -> None:
        """Record the outcome of a call.

        A place has failed if all its requests failed in a way that may pass. Failures of a call with a small
        budget are not recorded: a slow server is not down.

        Parameters
        ----------
        outcomes : mapping
            Parsed response or error of each request that was sent, by key.
        budget : timedelta
            Time budget of the call.
        """
        failures: dict[str, FetchError | None] = {}
        for key, outcome in outcomes.items():
            passing = isinstance(outcome, FetchError) and (outcome.again or outcome.unreachable)
            place, error = place_of(key), outcome if isinstance(outcome, FetchError) and passing else None
            failures[place] = error if failures.get(place, error) else None
        if not failures or (budget < _FAIR_TIMEOUT and all(failures.values())):
            return
        errors = [error for error in failures.values() if error is not None]
        with self._lock:
            for place, error in failures.items():
                self._failures[place] = self.failures(place) + 1 if error else 0
            if len(errors) < len(failures):
                self._cause = None
                self._backoff.record(self._clock.now(), succeeded=True)
                return
            unreachable = [error for error in errors if error.unreachable]
            repeated = all(self.failures(place) >= _REPEATED for place in failures)
            if self._cause is None and not unreachable and not repeated:
                return
            if self._cause is None:
                self._opened_at = self._clock.now()
            self._cause = (unreachable or errors)[0]
            self._backoff.record(self._clock.now(), succeeded=False)


class ServerStats:
    """Observations of a server: its statuses and its clock.

    Parameters
    ----------
    clock : Clock
        Clock that the server's is compared with.

    Attributes
    ----------
    asked : bool
        Whether a request was sent.
    statuses : set of int
        All statuses of its responses.
    ahead : timedelta or None
        Lead of its clock over ours in the last response, to about a second; None without a date in one.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.asked = False
        self.statuses: set[int] = set()
        self.ahead: timedelta | None = None

    def on_request(self, _: httpx.Request) -> None:
        """Record that a request is sent."""
        self.asked = True

    def on_response(self, response: httpx.Response) -> None:
        """Record the status and the date of a response."""
        self.statuses.add(response.status_code)
        date = responses.parse_http_date(response.headers.get("date", ""))
        if date is not None:
            # The response of a cache has the date of the original and its age in seconds.
            with suppress(ValueError, OverflowError):
                age = timedelta(seconds=int(response.headers.get("age", "0")))
                self.ahead = date + age - self._clock.now()


def place_of(key: Hashable) -> str:
    """Return the place in the key of a request."""
    return str(key[0] if isinstance(key, tuple) else key)


def _proxy_credentials() -> Iterator[str]:
    """Yield the credentials for the proxies of the environment as headers: a proxy may echo them."""
    for url in getproxies().values():
        userinfo, has_credentials, _ = url.partition("//")[2].rpartition("@")
        if has_credentials:
            user, _, password = userinfo.partition(":")
            yield basic_auth(unquote(user), unquote(password))


def _wrong_setting(error: Exception) -> str:
    """Return which setting of the environment is wrong, without its value, which may hold a password."""
    if isinstance(error, OSError):
        return f"SSL_CERT_FILE or SSL_CERT_DIR: {error.strerror}"
    wrong = [f"{kind.upper()}_PROXY" for kind, url in getproxies().items() if not _is_proxy(url)]
    if isinstance(error, ImportError):
        return f"a proxy of {' or '.join(wrong) or 'SOCKS'} needs pip install 'httpx[socks]'"
    # The library quotes a part of the address, for which no filter of whole passwords can look.
    fix = "write http://HOST:PORT, and / ? # @ in a password as %2F %3F %23 %40"
    return f"{' and '.join(wrong) or 'one of them'} is no address; {fix}"


def _is_proxy(url: str) -> bool:
    try:
        return httpx.Proxy(url if "://" in url else f"http://{url}").url.scheme in ("http", "https")
    except (ValueError, httpx.InvalidURL):
        return False


def _header_value(name: str, value: str) -> str:
    """Return the stripped value of a header.

    Raises
    ------
    InputError
        If the value cannot be sent; the error does not show it.
    """
    text = value.strip()
    if not (text.isascii() and text.isprintable()):
        raise InputError(name, "has characters that cannot be sent", "give printable ASCII")
    return text


def basic_auth(user: str, password: str) -> str:
    """Return the Authorization header of a user name and a password."""
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


def base_url(url: str, field: str, example: str) -> httpx.URL:
    """Parse the base URL of a server.

    Parameters
    ----------
    url : str
        Address as the user wrote it.
    field : str
        Setting that it comes from.
    example : str
        Example of a valid address.

    Raises
    ------
    InputError
        If the address is invalid; the error shows neither a password nor a query.
    """
    try:
        base = httpx.URL(url.strip())
    except (httpx.InvalidURL, AttributeError, TypeError, UnicodeError):
        base = httpx.URL("")
    wrong = base.scheme not in ("http", "https") or not base.host or base.query or base.fragment
    # A password with a slash ends the host early, and the rest of it becomes a part of the path.
    part_of_password = "@" in base.path
    port = 80 if base.port is None else base.port
    if wrong or part_of_password or not 0 < port < 65_536:
        without_password = re.sub(r"^([a-z]+://)?.*@", r"\1", str(url), flags=re.S | re.I)
        # A query may hold a token.
        shown = one_line(re.sub(r"[?#].*", "?***", without_password, flags=re.S), 100)
        variable = f"LOWCARB_{field.upper().replace('-', '_')}"
        fix = f"set {variable} or give --{field}, for example {example}"
        raise InputError(field, f"{shown!r} is not an address of a server", fix)
    return base
