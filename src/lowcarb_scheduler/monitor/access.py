"""Access to the live pages: which requests are answered, and with which headers.

A page of another site may send requests to this server through the browser of who looks at both, and may even
give its own name this machine's address (DNS rebinding). So hosts and origins of all requests are checked.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK: Final = "127.0.0.1"
TOKEN_HEADER: Final = "x-lowcarb-token"
_COOKIE: Final = "lowcarb_token"
_HEADERS: Final = {
    # plotly makes a style sheet and sets styles as attributes. No script is inline, and nobody else is asked.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}  # fmt: skip


class Refusal(NamedTuple):
    """Status and reason of a request that is not answered."""

    status: int
    reason: str


@dataclass(frozen=True, slots=True)
class Access:
    """Rules of access.

    Parameters
    ----------
    release_token : str
        Token that releases a round; it allows to read, too.
    read_token : str or None
        Token without which nothing is shown; None where only this machine can ask.
    hosts : frozenset of str
        Names of hosts that requests may be for, in lower case.
    any_address : bool
        Whether any IP address is one of them, or only those of the loopback.
    """

    release_token: str
    read_token: str | None
    hosts: frozenset[str]
    any_address: bool

    @classmethod
    def of(
        cls, host: str | None, further: tuple[str, ...], release_token: str, read_token: str
    ) -> Access:  # fmt: skip
        """Return the rules for a server.

        Parameters
        ----------
        host : str or None
            The host it was told to bind; None for this machine alone.
        further : tuple of str
            Names by which it is reached, too, as through a proxy.
        release_token, read_token : str
            Tokens; the second one counts only where others can ask.
        """
        names = {"localhost", *further}
        if host is not None:
            names |= {host, socket.gethostname(), socket.getfqdn()}
        return cls(release_token, read_token if host is not None else None,
                   frozenset(name.lower() for name in names if name), host is not None)  # fmt: skip

    def refuse(self, headers: Headers, query: str, cookies: str) -> Refusal | None:
        """Return why a request is not answered; None for one that is."""
        host = headers.get("host", "")
        if not self._is_own(host):
            return Refusal(421, "this name is not one of this server; start it with --allow-host NAME")
        # The origin has the name and the port that the browser shows, so it is the host of the request.
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return Refusal(403, "the request comes from another site")
        if self.read_token is None or self.may_read(headers, query, cookies):
            return None
        return Refusal(401, "a token is needed: open the address that lowcarb serve has printed")

    def _is_own(self, host: str) -> bool:
        """Return whether a Host header names this server; a tunnel may change the port."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self.hosts:
            return True
        try:
            # No name leads to an address that is given as such, so it cannot be another site's.
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return self.any_address or address.is_loopback

    def may_read(self, headers: Headers, query: str, cookies: str) -> bool:
        """Return whether a request has a token, in a header, in the address or in a cookie."""
        given = [_bearer(headers), headers.get(TOKEN_HEADER), _of_query(query), cookies]
        return any(token is not None and self._is_known(token) for token in given)

    def _is_known(self, token: str) -> bool:
        known = [self.release_token] if self.read_token is None else [self.release_token, self.read_token]
        return any(_equal(token, each) for each in known)

    def may_release(self, headers: Headers, field: str | None) -> bool:
        """Return whether a request has the token that releases a round, in a header or in a form."""
        given = [_bearer(headers), headers.get(TOKEN_HEADER), field]
        return any(token is not None and _equal(token, self.release_token) for token in given)


class Guard:
    """Middleware that answers only what is allowed, and adds the headers of all answers.

    Parameters
    ----------
    app : ASGI app
        The pages.
    access : Access
        Rules of access.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        await self._answer(scope)(scope, receive, send_guarded)

    def _answer(self, scope: Scope) -> ASGIApp:
        headers, query = Headers(scope=scope), scope["query_string"].decode("latin-1")
        port = scope["server"][1] if scope.get("server") else 0
        cookie = f"{_COOKIE}_{port}"  # browsers do not tell ports apart
        if refusal := self._access.refuse(headers, query, _of_cookie(headers, cookie) or ""):
            return PlainTextResponse(refusal.reason + "\n", refusal.status)
        token, path = _of_query(query), str(scope["path"])
        is_page = scope["method"] == "GET" and not path.startswith(("/api/", "/metrics"))
        if self._access.read_token is None or token is None or not is_page:
            return self._app
        # A token in the address would stay in the history of the browser. Two slashes would lead elsewhere.
        there = RedirectResponse(f"/{path.lstrip('/')}", 303)
        there.set_cookie(cookie, token, httponly=True, samesite="lax")
        return there


def _equal(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(), token.encode())


def _bearer(headers: Headers) -> str | None:
    kind, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else None


def _of_query(query: str) -> str | None:
    return parse_qs(query).get("token", [None])[0]


def _of_cookie(headers: Headers, name: str) -> str | None:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return None
    return found.value if found else None
