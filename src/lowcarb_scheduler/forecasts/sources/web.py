"""Base class of the sources that request their data from a web service."""

from __future__ import annotations

from collections.abc import Hashable
from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar, TypeVar

from lowcarb_scheduler.clock import SystemClock
from lowcarb_scheduler.errors import ForecastUnavailableError
from lowcarb_scheduler.forecasts.base import ForecastSource
from lowcarb_scheduler.forecasts.http.client import FetchError, HttpClient, base_url
from lowcarb_scheduler.forecasts.http.parsing import checked_timeout

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import httpx

    from lowcarb_scheduler.clock import Clock
    from lowcarb_scheduler.forecasts.base import Timeout
    from lowcarb_scheduler.forecasts.http.client import Request, Response

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class WebSource(ForecastSource):
    """Forecast source with a server.

    A subclass declares ``name``, ``issued_every``, ``url_setting``, and where it has them ``signal``,
    ``secret_settings`` and ``listing_proves``; its class method ``from_settings`` opens it.

    Parameters
    ----------
    url : str, optional
        Address below which the paths of the server begin; by default ``default_url``.
    timeout : timedelta
        Longest duration of one call, retries included.
    transport : httpx.BaseTransport, optional
        Transport of the requests; by default the network, through the proxies of the environment and with
        the certificates of ``SSL_CERT_FILE`` or ``SSL_CERT_DIR`` if one is set.
    clock : Clock, optional
        Clock that counts the timeout and sleeps between attempts; the system's by default.
    hints : mapping of int to str, optional
        Explanation added to a refusal, by status; by default that of the class.
    headers : mapping of str to str, optional
        Secret headers, sent with each request.
    follow_redirects : bool
        Whether redirects on the same host are followed.

    Raises
    ------
    InputError
        If the URL, the timeout or a header is invalid.
    """

    default_url: ClassVar[str]
    hints: ClassVar[Mapping[int, str]] = {}

    def __init__(
        self,
        url: str | None = None,
        *,
        timeout: timedelta = timedelta(seconds=30),
        transport: httpx.BaseTransport | None = None,
        clock: Clock | None = None,
        hints: Mapping[int, str] | None = None,
        headers: Mapping[str, str] | None = None,
        follow_redirects: bool = True,
    ) -> None:
        # Not the virtual clock of a simulation: a server answers no sooner because that clock jumps.
        self._clock = clock or SystemClock()
        url = self.default_url if url is None else url
        base = base_url(url, self.url_setting.replace("_", "-"), self.default_url)
        self.client = HttpClient(
            base, checked_timeout(timeout), self._clock, transport, hints or self.hints, headers=headers,
            follow_redirects=follow_redirects,
        )  # fmt: skip
        # Without credentials: the address is shown, and names the data in the archive.
        self.server, self.stats = self.client.server, self.client.stats

    def _limited(self, timeout: Timeout) -> HttpClient:
        """Return the client with a budget of at most ``timeout``, its circuit breaker shared."""
        return self.client if timeout is None else self.client.within(timeout)

    def _send_all(
        self, requests: Mapping[K, Request], parse: Callable[[K, Response], T], timeout: Timeout
    ) -> dict[K, T | FetchError]:
        """Send requests and parse their responses, as :meth:`HttpClient.send_all` does."""
        return self.client.send_all(requests, parse, timeout)

    def _send_one(self, request: Request, parse: Callable[[Response], T], timeout: Timeout) -> T:
        """Send one request and return the parsed response.

        Raises
        ------
        ForecastUnavailableError
            If the request failed; the origin of the server stands for a location.
        """
        origin = self.client.origin
        # The key of a request names its place in errors and in the circuit breaker; this one has none.
        outcome = self._send_all({origin: request}, lambda _, response: parse(response), timeout)[origin]
        if isinstance(outcome, FetchError):
            raise ForecastUnavailableError({origin: outcome.why})
        return outcome
