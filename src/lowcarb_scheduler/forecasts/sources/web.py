"""Base class of the sources that request their data from a web service."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Hashable, Mapping
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, TypedDict, TypeVar

from lowcarb_scheduler.clock import Clock, SystemClock, to_utc
from lowcarb_scheduler.errors import ForecastUnavailableError, InputError
from lowcarb_scheduler.forecasts.base import Forecast, ForecastSource, Names, Timeout, period, sendable
from lowcarb_scheduler.forecasts.http import parsing
from lowcarb_scheduler.forecasts.http.client import FetchError, HttpClient, Request, Response, base_url

if TYPE_CHECKING:
    import httpx

    from lowcarb_scheduler.forecasts.series import Issue, Point
    from lowcarb_scheduler.intensity import IntensityTable

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class WebOptions(TypedDict, total=False):
    """Keywords that every web source takes, see :class:`WebSource`."""

    timeout: timedelta
    transport: httpx.BaseTransport | None
    clock: Clock | None


class WebSource(ForecastSource):
    """Forecast source with a server.

    A subclass declares ``name``, ``issued_every``, ``url_setting``, and where it has them ``signal``,
    ``secret_settings`` and ``listing_proves``; its class method ``from_settings`` opens it. It implements two
    requests and the parsers of their responses; each is about one location, so that none spoils another.

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
    grid: ClassVar[timedelta] = timedelta(seconds=1)  # bounds of requests for the past are multiples of it
    hints: Mapping[int, str] = MappingProxyType({})  # explanations added to refusals, by status

    def __init__(
        self,
        url: str | None = None,
        *,
        timeout: timedelta = timedelta(seconds=30),
        transport: httpx.BaseTransport | None = None,
        clock: Clock | None = None,
        headers: Mapping[str, str] | None = None,
        follow_redirects: bool = True,
    ) -> None:
        # Not the virtual clock of a simulation: a server answers no sooner because that clock jumps.
        self._clock = clock or SystemClock()
        if timeout <= timedelta(0):
            raise InputError("timeout", f"{timeout} is not positive", "give for example 30s")
        url = self.default_url if url is None else url
        base = base_url(url, self.url_setting.replace("_", "-"), self.default_url)
        self.client = HttpClient(
            base, timeout, self._clock, transport, self.hints,
            headers=headers, follow_redirects=follow_redirects,
        )  # fmt: skip
        # Without credentials: the address is shown, and names the data in the archive.
        self.server, self.stats = self.client.server, self.client.stats

    def forecast(self, locations: Names, now: datetime, *, timeout: Timeout = None) -> Forecast:
        """Return the newest forecast, its points unchanged.

        Raises
        ------
        ForecastUnavailableError
            If not one location has a forecast that is recent and reaches past ``now``.
        """
        now = to_utc(now, "now")
        names, missing = self._sendable(locations)
        return parsing.forecast_of(self._issues(names, now, timeout), missing, self.provenance)

    def actual(
        self, locations: Names, start: datetime, end: datetime, *, timeout: Timeout = None
    ) -> IntensityTable:
        """Return the recorded intensity in [start, end), the provider's own estimates included.

        Raises
        ------
        ForecastUnavailableError
            If not one location has a value in the period.
        """
        first, last = period(start, end)
        names, missing = self._sendable(locations)
        answers = self._recorded(names, first, last, timeout)
        return parsing.actual_of(answers, missing, (first, last), self.provenance)

    @abstractmethod
    def _forecast_request(self, name: str, now: datetime) -> Request:
        """Return the request for the forecast of a location."""

    @abstractmethod
    def _parse_forecast(self, name: str, answer: Response, now: datetime) -> Issue:
        """Return the issue in a response about a location; raise FetchError if it is not plausible."""

    @abstractmethod
    def _past_request(self, name: str, begin: datetime, end: datetime) -> Request:
        """Return the request for the recorded intensity of a location."""

    @abstractmethod
    def _parse_past(self, name: str, answer: Response) -> list[Point]:
        """Return the points in a response about a location; raise FetchError if it has none."""

    def _sendable(self, locations: Names) -> tuple[list[str], dict[str, str]]:
        """Return the names that may be sent to the server, and the reason of each other one."""
        return sendable(locations)

    def _issues(self, names: Names, now: datetime, timeout: Timeout) -> dict[str, Issue | FetchError]:
        """Request the forecasts of locations."""
        requests = {name: self._forecast_request(name, now) for name in names}
        return self._send_all(requests, lambda name, each: self._parse_forecast(name, each, now), timeout)

    def _recorded(
        self, names: Names, first: datetime, last: datetime, timeout: Timeout
    ) -> dict[tuple[str, int], list[Point] | FetchError]:
        """Request the recorded intensity of locations, in parts of a period that every provider accepts."""
        requests = {
            (name, part): self._past_request(name, *bounds)
            for name in names
            for part, bounds in enumerate(parsing.parts(first, last, self.grid))
        }
        return self._send_all(requests, lambda key, answer: self._parse_past(key[0], answer), timeout)

    def _deadline(self, timeout: Timeout) -> datetime:
        """Return the time by which a call has to end."""
        return self._clock.now() + self.client.budget(timeout)

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
