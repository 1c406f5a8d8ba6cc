"""Asking a web service that may be slow, wrong or hostile: many requests, one time budget.

Whatever the server does, :meth:`Fetcher.get_all` is back within the budget. A request that fails in passing
is repeated with growing, jittered pauses while the budget lasts; any other failure is one plain line, in
which no secret stands.
"""

from __future__ import annotations

import base64
import copy
import re
from collections.abc import Hashable
from datetime import timedelta
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import unquote

import httpx

from lowcarb_scheduler._version import __version__
from lowcarb_scheduler.errors import InputError, one_line
from lowcarb_scheduler.forecasts.web.answers import Answer, FetchError
from lowcarb_scheduler.forecasts.web.breaker import Breaker
from lowcarb_scheduler.forecasts.web.contact import Contact
from lowcarb_scheduler.forecasts.web.exchange import MAX_ATTEMPTS, Exchange, Request, Terms, origin
from lowcarb_scheduler.forecasts.web.redaction import Redaction

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lowcarb_scheduler.clock import Clock

__all__ = ["Answer", "FetchError", "Fetcher", "Request", "base_url", "basic_auth"]

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
    contact : Contact
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
        self.contact = Contact(clock)

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
        self, requests: Mapping[K, Request], read: Callable[[K, Answer], T]
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
        self, requests: Mapping[K, Request], read: Callable[[K, Answer], T], once: bool
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
        exchange: Exchange[K, T] = Exchange(client, self._clock, terms, redaction)
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
