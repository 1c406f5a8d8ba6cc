"""An account at WattTime: requests are sent with a token, for which one logs in."""

from __future__ import annotations

import copy
from collections.abc import Hashable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final, TypeVar

from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.forecasts.web.credentials import credential
from lowcarb_scheduler.forecasts.web.fetch import FetchError, Request, basic_auth
from lowcarb_scheduler.forecasts.web.redaction import Redaction
from lowcarb_scheduler.settings import secret_fix

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from pydantic import SecretStr

    from lowcarb_scheduler.clock import Clock
    from lowcarb_scheduler.forecasts.web.contact import Contact
    from lowcarb_scheduler.forecasts.web.fetch import Answer, Fetcher

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
    """Sends requests like a :class:`Fetcher`, with a token.

    Parameters
    ----------
    fetcher : Fetcher
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
        self, fetcher: Fetcher, clock: Clock, user: str | SecretStr | None, password: str | SecretStr | None
    ) -> None:
        self._fetcher, self._clock, self._session = fetcher, clock, _Session()
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
        return self._fetcher.origin

    @property
    def server(self) -> str:
        """Where it answers."""
        return self._fetcher.server

    @property
    def contact(self) -> Contact:
        """What was seen of the server."""
        return self._fetcher.contact

    def within(self, limit: timedelta) -> Account:
        """Return the same account, its token shared, with a budget of at most ``limit``."""
        narrower: Account = copy.copy(self)
        narrower._fetcher = self._fetcher.within(limit)
        return narrower

    def get_all(
        self, requests: Mapping[K, Request], read: Callable[[K, Answer], T]
    ) -> dict[K, T | FetchError]:
        """Send requests, logging in first where the token is old, and once more where it is refused."""
        if not requests:
            return {}
        deadline = self._clock.now() + self._fetcher.timeout
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
        read: Callable[[K, Answer], T],
        token: str | FetchError,
        deadline: datetime,
    ) -> dict[K, T | FetchError]:
        """Send requests with a token, or return why there is none."""
        if isinstance(token, FetchError):
            return dict.fromkeys(requests, token)
        headers = {"Authorization": f"Bearer {token}"}
        signed = {key: replace(request, headers=headers) for key, request in requests.items()}
        outcomes = self._fetcher.within(deadline - self._clock.now()).get_all(signed, read)
        return {
            key: outcome.masked(self._redaction) if isinstance(outcome, FetchError) else outcome
            for key, outcome in outcomes.items()
        }

    def _new_token(self, deadline: datetime) -> str | FetchError:
        """Log in."""
        fetcher = self._fetcher.within(deadline - self._clock.now())
        token = fetcher.get_all({"login": self._login}, lambda _, answer: _read_token(answer))["login"]
        if isinstance(token, FetchError):
            refused = token.status in _REFUSALS
            return FetchError(f"the login was refused; {CHECK}" if refused else f"login: {token.why}")
        self._session.held = token, self._clock.now() + _TOKEN_LASTS
        return token


def _read_token(answer: Answer) -> str:
    """Return the token of a login."""
    document = answer.json()
    token = document.get("token") if isinstance(document, dict) else None
    if not isinstance(token, str) or not (token and token.isascii() and token.isprintable()):
        raise FetchError("answered without a token")
    return token
