"""Asking a web service that may be slow, wrong or hostile: many requests, one time budget.

Whatever the server does, :meth:`Fetcher.get_all` is back within the budget. A request that fails in passing
is repeated with growing, jittered pauses while the budget lasts; any other failure is one plain line, in
which no secret stands.
"""

from __future__ import annotations

import base64
import copy
import re
import threading
from collections.abc import Hashable
from datetime import timedelta
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import unquote

import httpx

from lowcarb_scheduler._version import __version__
from lowcarb_scheduler.clock import format_time
from lowcarb_scheduler.errors import InputError, one_line
from lowcarb_scheduler.forecasts.http.batch import MAX_ATTEMPTS, Request, RequestBatch, Terms, origin
from lowcarb_scheduler.forecasts.http.responses import FetchError, Redaction, Response, http_date

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from datetime import datetime

    from lowcarb_scheduler.clock import Clock

# -- A circuit breaker: a server that is down is left alone for a while -------------------------------------

REPEATEDLY: Final = 2  # calls in a row in which a place failed, each time after several attempts
FIRST_PAUSE: Final = timedelta(minutes=1)
LONGEST_PAUSE: Final = timedelta(minutes=15)


class Breaker:
    """Remembers which places failed, and refuses calls that would fail as well.

    It opens when no connection comes about, then for all places; and when every place of a call has failed
    repeatedly, then for calls about such places only: one bad place never keeps another from being asked.
    When its pause is over one request is let through. If that fails too the pause doubles, up to a quarter of
    an hour; any answer closes it.

    Parameters
    ----------
    clock : Clock
        Counts the pauses.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures: dict[str, int] = {}  # calls in a row, by place
        self._cause: FetchError | None = None  # while it is open
        self._since = self._paused_at = clock.now()
        self._pause = timedelta(0)

    def failures(self, place: str) -> int:
        """Return in how many calls in a row a place has failed."""
        return self._failures.get(place, 0)

    def is_open(self, places: Collection[str]) -> bool:
        """Return whether no more than one request about these places may be sent."""
        cause = self._cause
        if cause is None:
            return False
        return cause.unreachable or all(self.failures(place) >= REPEATEDLY for place in places)

    def refusal(self, places: Collection[str]) -> str | None:
        """Return why nothing may be asked about these places now, None if something may."""
        with self._lock:
            paused = self._clock.now() - self._paused_at
            # A clock that was set back shows a time before the pause: it says nothing, and one may ask.
            if not self.is_open(places) or not timedelta(0) <= paused < self._pause:
                return None
            assert self._cause is not None  # it is open
            again = self._paused_at + self._pause
            return f"{self._cause.why} (since {_shown(self._since)}; asked again from {_shown(again)})"

    def note(self, outcomes: Mapping[str, FetchError | None]) -> None:
        """Take down how a call ended.

        Parameters
        ----------
        outcomes : mapping of str to FetchError or None
            By place that was asked about, what failed in passing; None where anything was answered.
        """
        failed = [error for error in outcomes.values() if error is not None]
        if not outcomes:
            return
        with self._lock:
            for place, error in outcomes.items():
                self._failures[place] = self.failures(place) + 1 if error else 0
            if len(failed) < len(outcomes):
                self._cause, self._pause = None, timedelta(0)
                return
            unreachable = [error for error in failed if error.unreachable]
            repeatedly = all(self.failures(place) >= REPEATEDLY for place in outcomes)
            if self._cause is None and not unreachable and not repeatedly:
                return
            self._paused_at = self._clock.now()
            if self._cause is None:
                self._since = self._paused_at
            self._cause = (unreachable or failed)[0]
            self._pause = min(max(2 * self._pause, FIRST_PAUSE), LONGEST_PAUSE)


def _shown(when: datetime) -> str:
    return format_time(when.replace(microsecond=0))


# -- What was seen of a server, whatever it answered: its statuses, and its clock ---------------------------


class ServerStats:
    """Watches what is sent to a server, and its responses.

    Parameters
    ----------
    clock : Clock
        What the server's is compared with.

    Attributes
    ----------
    asked : bool
        Whether anything was sent.
    statuses : set of int
        The statuses it has answered with.
    ahead : timedelta or None
        By how much its clock was ahead of ours when it last told the time, to a second or so; None where it
        has not told it.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.asked = False
        self.statuses: set[int] = set()
        self.ahead: timedelta | None = None

    def sent(self, _: httpx.Request) -> None:
        """Take down that something is sent."""
        self.asked = True

    def note(self, response: httpx.Response) -> None:
        """Take down a response whose head has come."""
        self.statuses.add(response.status_code)
        date = http_date(response.headers.get("date", ""))
        if date is None:
            return
        try:  # a cache tells how old the date is
            age = timedelta(seconds=int(response.headers.get("age", "0")))
            self.ahead = date + age - self._clock.now()
        except (ValueError, OverflowError):
            return


__all__ = ["FetchError", "Fetcher", "Request", "Response", "base_url", "basic_auth"]

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

_HEADERS: Final = {
    "User-Agent": f"lowcarb-scheduler/{__version__}",
    "Accept": "application/json, text/plain",
    "Accept-Encoding": "gzip",
}


_FAIR: Final = timedelta(seconds=5)  # a budget with which a server that is well answers
_NOT_BACK: Final = "another location was asked first, and the server is still down"


class Fetcher:
    """Sends requests to one server.

    Parameters
    ----------
    base_url : httpx.URL
        Where its paths begin; credentials in it are sent as a header.
    timeout : timedelta
        The budget of one :meth:`get_all`.
    clock : Clock
        Counts the budget and sleeps the pauses.
    transport : httpx.BaseTransport, optional
        What carries the requests; by default the network, through the proxies of the environment.
    hints : mapping of int to str, optional
        What is added to the reason of a refusal, by its status.
    headers : mapping of str to str, optional
        Sent with each request and taken for secret: their values are masked wherever a server echoes them.
    follow_redirects : bool
        Whether a redirect on the same host is followed.

    Raises
    ------
    InputError
        If a header has a character that cannot be sent.

    Attributes
    ----------
    contact : ServerStats
        What was seen of the server.
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
    ) -> None:
        self._base_url, self._timeout, self._clock = base_url.copy_with(userinfo=b""), timeout, clock
        self._transport, self._hints, self._follow_redirects = transport, hints or {}, follow_redirects
        self._headers = {name: _checked(name, value) for name, value in (headers or {}).items()}
        if base_url.userinfo and "authorization" not in map(str.lower, self._headers):
            user, _, password = base_url.userinfo.decode().partition(":")
            self._headers["Authorization"] = basic_auth(unquote(user), unquote(password))
        self._breaker = Breaker(clock)
        self.contact = ServerStats(clock)

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return origin(self._base_url)

    @property
    def server(self) -> str:
        """Where its paths begin, without any credentials: whose numbers they are."""
        return str(self._base_url).rstrip("/")

    @property
    def timeout(self) -> timedelta:
        """The budget of one :meth:`get_all`."""
        return self._timeout

    def within(self, limit: timedelta) -> Fetcher:
        """Return the same fetcher, its circuit breaker shared, with a budget of at most ``limit``."""
        narrower = copy.copy(self)
        narrower._timeout = max(min(self._timeout, limit), timedelta(0))  # noqa: SLF001  of its own class
        return narrower

    def get_all(
        self, requests: Mapping[K, Request], read: Callable[[K, Response], T]
    ) -> dict[K, T | FetchError]:
        """Send all requests, a few at a time, and read their answers.

        Parameters
        ----------
        requests : mapping of Request
            By key: the place it asks about, or a tuple that begins with it. Places that failed last time are
            asked after the others.
        read : callable
            Makes something of a key and the answer to it, or raises FetchError.

        Returns
        -------
        dict
            What was read, or the error, by key, in the order of ``requests``.
        """
        keys = sorted(requests, key=lambda key: self._breaker.failures(_place(key)))
        places = {_place(key) for key in keys}
        outcomes: dict[K, T | FetchError] = {}
        if (refusal := self._breaker.refusal(places)) is None and keys:
            began, probing = self._clock.now(), self._breaker.is_open(places)
            asked = keys[:1] if probing else keys
            outcomes = self._send({key: requests[key] for key in asked}, read, once=probing)
            rest = {key: requests[key] for key in requests if key not in outcomes}
            if rest and self._breaker.is_open(places):
                refusal = self._breaker.refusal(places) or _NOT_BACK
            elif rest:
                left = self._timeout - (self._clock.now() - began)
                outcomes |= self.within(left).get_all(rest, read)
        refused = FetchError(refusal or "", again=True)
        return {key: outcomes.get(key, refused) for key in requests}

    def _send(
        self, requests: Mapping[K, Request], read: Callable[[K, Response], T], once: bool
    ) -> dict[K, T | FetchError]:
        """Send requests, and let the breaker know how that went."""
        redaction = Redaction(
            [*self._headers.values(), *(v for one in requests.values() for v in one.headers.values())]
        )
        terms = Terms(self._timeout, 1 if once else MAX_ATTEMPTS, self._follow_redirects, self._hints)
        try:
            client = httpx.Client(
                base_url=self._base_url, headers=_HEADERS | self._headers, transport=self._transport,
                event_hooks={"request": [self.contact.sent], "response": [self.contact.note]},
            )  # fmt: skip
        except (ImportError, OSError, ValueError, httpx.InvalidURL) as error:
            why = f"the proxy or certificate settings of the environment are wrong: {one_line(str(error))}"
            return dict.fromkeys(requests, FetchError(why).masked(redaction))
        exchange: RequestBatch[K, T] = RequestBatch(client, self._clock, terms, redaction)
        outcomes = exchange.run(requests, read)
        self._note({key: outcomes[key] for key in set(exchange.begun)})
        return outcomes

    def _note(self, outcomes: Mapping[K, T | FetchError]) -> None:
        """Tell the breaker of each place whether all that was asked about it failed in passing.

        Failures of a call that had little time are kept from it: a slow server is not one that is down.
        """
        ended: dict[str, FetchError | None] = {}
        for key, outcome in outcomes.items():
            failed = isinstance(outcome, FetchError) and (outcome.again or outcome.unreachable)
            place, error = _place(key), outcome if isinstance(outcome, FetchError) and failed else None
            ended[place] = error if ended.get(place, error) else None
        if self._timeout >= _FAIR or not all(ended.values()):
            self._breaker.note(ended)


def _place(key: Hashable) -> str:
    """Return the place that the key of a request names."""
    return str(key[0] if isinstance(key, tuple) else key)


def _checked(name: str, value: str) -> str:
    """Return the value of a header as it is sent.

    Raises
    ------
    InputError
        If it cannot be sent; the value is not shown.
    """
    text = value.strip()
    if not (text.isascii() and text.isprintable()):
        raise InputError(name, "has characters that cannot be sent", "give printable ASCII")
    return text


def basic_auth(user: str, password: str) -> str:
    """Return the header value of a user name and a password."""
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


def base_url(url: str, field: str, example: str) -> httpx.URL:
    """Return the URL below which the paths of a server begin.

    Parameters
    ----------
    url : str
        As the user wrote it.
    field : str
        The setting it comes from.
    example : str
        What one looks like.

    Raises
    ------
    InputError
        If it is none.
    """
    try:
        base = httpx.URL(url.strip())
    except (httpx.InvalidURL, AttributeError, TypeError, UnicodeError):
        base = httpx.URL("")
    wrong = base.scheme not in ("http", "https") or not base.host or base.query or base.fragment
    part_of_password = "@" in base.path  # it has a slash, and what stands before is taken for the host
    port = 80 if base.port is None else base.port
    if wrong or part_of_password or not 0 < port < 65_536:
        without_password = re.sub(r"^([a-z]+://)?.*@", r"\1", str(url), flags=re.S | re.I)
        shown = one_line(re.sub(r"[?#].*", "?***", without_password, flags=re.S), 100)  # it may be a token
        variable = f"LOWCARB_{field.upper().replace('-', '_')}"
        fix = f"set {variable} or give --{field}, for example {example}"
        raise InputError(field, f"{shown!r} is no address of a server", fix)
    return base
