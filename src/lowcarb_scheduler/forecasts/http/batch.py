"""Concurrent requests to one server, retried within one time budget."""

from __future__ import annotations

import random
import threading
import zlib
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Generic, NamedTuple, TypeVar

import httpx

from lowcarb_scheduler.clock import Clock, SteadyClock, format_duration
from lowcarb_scheduler.errors import one_line
from lowcarb_scheduler.forecasts.backoff import Backoff
from lowcarb_scheduler.forecasts.http import responses
from lowcarb_scheduler.forecasts.http.responses import FetchError, Redaction, Response

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

MAX_REDIRECTS: Final = 4

_RETRYABLE: Final = frozenset({408, 425, 429})  # and 5xx, but 501: see RequestBatch._checked
_ATTEMPT_SHARE: Final = 1 / 3  # of the budget: a silent server gets three attempts
_WORKING_SHARE: Final = 0.92  # of the budget: for a request, so that its own error still gets back
_WAITING_SHARE: Final = 0.96  # of the budget: for the caller, who needs the rest to use the results
_CHECKS: Final = 10  # in that time, of whether any response has arrived
_CONNECT_S: Final = 5.0
_FIRST_PAUSE: Final = timedelta(seconds=0.5)
_LONGEST_PAUSE: Final = timedelta(seconds=8)
_JITTER_S: Final = 0.5  # spreads the retries of clients that failed at the same moment
_NO_CONNECTION: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError, ConnectionRefusedError)
_UNTRUSTED: Final = "CERTIFICATE_VERIFY_FAILED"
_UNKNOWN_AUTHORITY: Final = ("self-signed certificate", "issuer certificate")  # in the words of OpenSSL


@dataclass(frozen=True, slots=True)
class Request:
    """Request to a server.

    Parameters
    ----------
    path : str
        Path below the base URL.
    params : mapping of str to str
        Query parameters.
    headers : mapping of str to str
        Secret headers of this request.
    body : object
        Document to post as JSON; None sends a GET.
    final : frozenset of int
        Error statuses that are never retried, because here they are an answer.
    """

    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: Any = None
    final: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """Limits and rules of a batch.

    Parameters
    ----------
    timeout : timedelta
        Time budget of the batch.
    max_attempts : int
        Attempts per request, the first one included.
    concurrency : int
        Requests in flight at the same time.
    follow_redirects : bool
        Whether redirects on the same host are followed.
    hints : mapping of int to str
        Explanation added to an error response, by status.
    """

    timeout: timedelta
    max_attempts: int
    concurrency: int
    follow_redirects: bool
    hints: Mapping[int, str]


class _Failure(NamedTuple):
    """Failed attempt and its time."""

    error: FetchError
    at: datetime


class RequestBatch(Generic[K, T]):
    """Batch of requests that share a client, a time budget and a pool of threads.

    Every request gets its first attempt before any is retried. Where no response arrives for a while, more
    threads start: requests that hang do not use up the time of those that would be answered.

    Parameters
    ----------
    client : httpx.Client
        Client that sends the requests; closed at the end.
    clock : Clock
        Clock that counts the budget and sleeps between attempts.
    options : BatchOptions
        Limits and rules.
    redaction : Redaction
        Filter that masks secrets in error messages.

    Attributes
    ----------
    started : set
        Keys of the requests that were sent.
    """

    def __init__(
        self, client: httpx.Client, clock: Clock, options: BatchOptions, redaction: Redaction
    ) -> None:
        self._client, self._options, self._redaction = client, options, redaction
        # Steady: where the wall clock is set back, a pause would last as long.
        self._clock = SteadyClock(clock)
        self._deadline = self._clock.now() + options.timeout * _WORKING_SHARE
        self._fresh: deque[tuple[K, _Failure | None]] = deque()
        self._failed: deque[tuple[K, _Failure | None]] = deque()  # may succeed when retried
        self._unreachable: FetchError | None = None
        self.started: set[K] = set()

    def run(
        self, requests: Mapping[K, Request], parse: Callable[[K, Response], T]
    ) -> dict[K, T | FetchError]:
        """Send all requests and return the parsed responses, or the errors, by key."""
        futures: dict[K, Future[T]] = {key: Future() for key in requests}
        self._fresh.extend((key, None) for key in requests)

        def work() -> None:
            while (task := self._next()) is not None:
                key, failure = task
                try:
                    if (response := self._send(key, requests[key], failure)) is not None:
                        futures[key].set_result(parse(key, response))
                except BaseException as error:  # noqa: BLE001  raised again where the future is read
                    futures[key].set_exception(error)

        def start_threads() -> None:
            # Daemon threads and no executor: a request that hangs must not keep the interpreter from exiting.
            for _ in range(min(self._options.concurrency, len(self._fresh))):
                threading.Thread(target=work, daemon=True, name="lowcarb-http").start()

        check_s = (self._options.timeout * _WAITING_SHARE / _CHECKS).total_seconds()
        pending = set(futures.values())
        try:
            start_threads()
            for _ in range(_CHECKS):
                before = len(pending)
                _, pending = wait(pending, timeout=check_s)
                if not pending:
                    break
                if len(pending) == before:
                    start_threads()
        finally:
            self._fresh.clear()
            self._failed.clear()
            self._client.close()  # ends a request that hangs at its next byte
        return {key: self._timeout_error(key) if future in pending else self._outcome(future)
                for key, future in futures.items()}  # fmt: skip

    def _next(self) -> tuple[K, _Failure | None] | None:
        """Return the next request and its failed first attempt, if any; None if there is nothing left."""
        for queue in (self._fresh, self._failed):
            # Another thread may empty a deque between a check and a pop: only the pop itself can tell.
            with suppress(IndexError):
                return queue.popleft()
        return None

    def _send(self, key: K, request: Request, failure: _Failure | None) -> Response | None:
        """Return the response; None if the request is retried after the first attempts of all others."""
        if self._unreachable:
            raise self._unreachable
        if self._clock.now() >= self._deadline:
            raise failure.error if failure else self._timeout_error(key)
        self.started.add(key)
        if failure is None and self._fresh:
            try:
                return self._attempt(request)
            except FetchError as error:
                failure = _Failure(error, self._clock.now())
                if error.again and not error.unreachable:
                    self._failed.append((key, failure))
                    return None
        try:
            return self._retry(request, failure)
        except FetchError as error:
            if error.unreachable:
                self._unreachable = error
            raise

    def _retry(self, request: Request, failure: _Failure | None) -> Response:
        """Attempt a request until it succeeds, fails for good, or no time is left.

        A failure that is handed in counts as the first attempt.
        """
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        attempts = 0
        while True:
            attempts += 1
            if failure is None:
                try:
                    return self._attempt(request)
                except FetchError as error:
                    failure = _Failure(error, self._clock.now())
            backoff.record(failure.at, succeeded=False)
            now, jitter = self._clock.now(), timedelta(seconds=random.uniform(0, _JITTER_S))
            resumes_at = max(failure.at + backoff.pause + jitter, failure.error.not_before or now, now)
            exhausted = attempts >= self._options.max_attempts or resumes_at >= self._deadline
            if exhausted or not failure.error.again:
                raise failure.error
            self._clock.sleep_until(resumes_at)
            failure = None

    def _attempt(self, request: Request) -> Response:
        """Send a request once, following redirects on the same host."""
        next_request = self._build(request)
        # httpx limits the wait for each byte, not for the response: a server that drips would never end.
        until = min(self._deadline, self._clock.now() + self._options.timeout * _ATTEMPT_SHARE)
        try:
            for _ in range(MAX_REDIRECTS + 1):
                left_s = self._left_s(until)
                timeout = httpx.Timeout(left_s, connect=min(left_s, _CONNECT_S))
                next_request.extensions["timeout"] = timeout.as_dict()
                # Streamed, so that the time and the size of the body are checked while it comes in.
                response = self._client.send(next_request, stream=True)
                try:
                    if response.next_request is None:
                        return self._checked(response, request.final, until)
                    next_request = self._redirect(response.next_request)
                finally:
                    response.close()
        except (httpx.TransportError, OSError) as error:
            raise self._transport_error(error) from None
        except (httpx.HTTPError, httpx.InvalidURL, zlib.error, UnicodeError) as error:
            raise FetchError(f"its response cannot be read: {self._masked(error)}") from None
        raise FetchError(f"redirects more than {MAX_REDIRECTS} times")

    def _build(self, request: Request) -> httpx.Request:
        """Return the request as httpx sends it."""
        try:
            return self._client.build_request(
                "GET" if request.body is None else "POST", request.path, params=dict(request.params),
                headers=dict(request.headers), json=request.body,
            )  # fmt: skip
        except (httpx.InvalidURL, UnicodeError) as error:
            raise FetchError(f"the request cannot be written: {self._masked(error)}") from None

    def _left_s(self, until: datetime) -> float:
        """Return the time that is left [s]; raise FetchError if there is none."""
        left_s = (until - self._clock.now()).total_seconds()
        if left_s <= 0:
            raise FetchError("does not answer completely in time", again=True)
        return left_s

    def _redirect(self, request: httpx.Request) -> httpx.Request:
        """Return a redirected request if it stays on the host and does not leave TLS."""
        url, base = request.url, self._client.base_url
        refusal = f"redirects to {one_line(f'{url.scheme}://{url.host}')}, which is not followed"
        if url.host != base.host or url.scheme not in ("https", base.scheme):
            raise FetchError(refusal)
        if not self._options.follow_redirects:
            raise FetchError(f"{refusal} with credentials; is the URL right?")
        return request

    def _checked(self, response: httpx.Response, final: frozenset[int], until: datetime) -> Response:
        """Read the body of a response; raise FetchError if its status is an error."""
        received = responses.read_response(response, lambda: self._left_s(until))
        if response.is_success:
            return received
        status = response.status_code
        hint = f" ({self._options.hints[status]})" if status in self._options.hints else ""
        message = responses.error_message(received, self._redaction)
        again = (status in _RETRYABLE or (status >= 500 and status != 501)) and status not in final
        not_before = responses.retry_after(response.headers, self._clock.now())
        why = f"answered {status} {message}{hint}"
        raise FetchError(why, status=status, again=again, not_before=not_before)

    def _transport_error(self, error: httpx.TransportError | OSError) -> FetchError:
        """Return a connection error as a FetchError."""
        if isinstance(error, httpx.ReadTimeout | TimeoutError):
            return FetchError("does not answer in time", again=True)
        detail, unreachable = self._masked(error), isinstance(error, _NO_CONNECTION)
        origin = origin_of(self._client.base_url)
        why = f"cannot connect to {origin}" if unreachable else "broke off the connection"
        if any(text in detail for text in _UNKNOWN_AUTHORITY):
            detail += "; set SSL_CERT_FILE to the certificate of its authority"
        why = f"{why}: {detail}" if detail else why
        return FetchError(why, again=_UNTRUSTED not in detail, unreachable=unreachable)

    def _masked(self, error: Exception) -> str:
        """Return the message of a library without secrets; the only place that shows one."""
        text = str(error)
        # A message about an address quotes parts of it, and a part of a password is no known secret.
        if isinstance(error, httpx.InvalidURL) or "Invalid URL" in text:
            return "an address in it is invalid"
        return one_line(self._redaction.mask(text))

    def _timeout_error(self, key: K) -> FetchError:
        """Return the error of a request that is unfinished at the end of the budget."""
        budget = format_duration(self._options.timeout)
        if key in self.started:
            return FetchError(f"no answer within {budget}", again=True)
        return FetchError(f"not sent within {budget}: too many other requests got no answer", again=True)

    def _outcome(self, future: Future[T]) -> T | FetchError:
        """Return the result of a request, or its error without secrets; raise any other exception."""
        error = future.exception()
        if error is None:
            return future.result()
        if isinstance(error, FetchError):
            return error.masked(self._redaction)
        if (masked := self._redaction.mask(str(error))) != str(error):
            raise RuntimeError(f"{type(error).__name__}: {masked}") from None
        raise error


def origin_of(url: httpx.URL) -> str:
    """Return scheme, host and port of a URL, without credentials."""
    return str(url.copy_with(userinfo=b"", raw_path=b"/")).rstrip("/")
