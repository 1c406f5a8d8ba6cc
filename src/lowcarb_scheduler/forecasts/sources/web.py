"""Base class of the sources that request their data from a web service."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from lowcarb_scheduler.clock import SystemClock
from lowcarb_scheduler.forecasts.base import ForecastSource
from lowcarb_scheduler.forecasts.http.client import HttpClient, base_url
from lowcarb_scheduler.forecasts.http.parsing import checked_timeout

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

    import httpx

    from lowcarb_scheduler.clock import Clock


class WebSource(ForecastSource):
    """Forecast source with a server.

    A subclass declares ``name``, ``issued_every``, ``url_setting``, and where it has them ``signal``,
    ``secret_settings`` and ``listing_proves``; a class method ``from_settings`` opens it.

    Parameters
    ----------
    url : str
        Address below which the paths of the server begin.
    timeout : timedelta
        Longest duration of one call, retries included.
    transport : httpx.BaseTransport, optional
        Transport of the requests; by default the network, through the proxies of the environment.
    clock : Clock, optional
        Clock that counts the timeout and sleeps between attempts; by default the system's.
    hints : mapping of int to str, optional
        Explanation added to a refusal, by status.
    headers : mapping of str to str, optional
        Secret headers, sent with each request.
    follow_redirects : bool
        Whether redirects on the same host are followed.

    Raises
    ------
    InputError
        If the URL, the timeout or a header is invalid.

    Attributes
    ----------
    example_url : str
        Address shown where the given one is invalid.
    client : HttpClient
        Client of the server; its ``concurrency`` and ``max_attempts`` may be changed.
    """

    example_url: ClassVar[str]

    def __init__(
        self,
        url: str,
        *,
        timeout: timedelta,
        transport: httpx.BaseTransport | None,
        clock: Clock | None,
        hints: Mapping[int, str] | None = None,
        headers: Mapping[str, str] | None = None,
        follow_redirects: bool = True,
    ) -> None:
        self._clock = clock or SystemClock()
        base = base_url(url, self.url_setting.replace("_", "-"), self.example_url)
        self.client = HttpClient(
            base, checked_timeout(timeout), self._clock, transport, hints, headers=headers,
            follow_redirects=follow_redirects,
        )  # fmt: skip
        self.server, self.stats = self.client.server, self.client.stats

    def _limited(self, timeout: timedelta | None) -> HttpClient:
        """Return the client with a budget of at most ``timeout``, its circuit breaker shared."""
        return self.client if timeout is None else self.client.within(timeout)
