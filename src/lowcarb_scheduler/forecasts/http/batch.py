"""One exchange with a server: many requests, a few at a time, each repeated while there is time."""

from __future__ import annotations

import threading
import zlib
from collections import deque
from collections.abc import Hashable
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_exponential, wait_random

from lowcarb_scheduler.clock import format_duration
from lowcarb_scheduler.errors import one_line
from lowcarb_scheduler.forecasts.http.responses import FetchError, Response, problem, read_answer, retry_after

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from lowcarb_scheduler.clock import Clock
    from lowcarb_scheduler.forecasts.http.responses import Redaction

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

CONCURRENCY: Final = 8
MAX_ATTEMPTS: Final = 4
MAX_REDIRECTS: Final = 4

_AGAIN: Final = frozenset({408, 425, 429})
_ATTEMPT_SHARE: Final = 1 / 3  # of the budget: a silent server is asked three times
_WORKING_SHARE: Final = 0.92  # of the budget: what a request may use, so that its own reason gets back
_WAITING_SHARE: Final = 0.96  # of the budget: then the caller goes on, who has to use what came, in time too
_LOOKS: Final = 10  # in that time, at whether anything comes back
_CONNECT_S: Final = 5.0
_NO_CONNECTION: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError, ConnectionRefusedError)
_UNTRUSTED: Final = "CERTIFICATE_VERIFY_FAILED"
_UNKNOWN_AUTHORITY: Final = ("self-signed certificate", "issuer certificate")  # as OpenSSL says it
_BACKOFF: Final = wait_exponential(multiplier=0.5, max=8) + wait_random(0, 0.5)


@dataclass(frozen=True, slots=True)
class Request:
    """What to ask.

    Parameters
    ----------
    path : str
        Below the base URL.
    params : mapping of str to str
        The query.
    headers : mapping of str to str
        Sent with this request, and never shown.
    body : object
        What is posted as JSON; None gets.
    final : frozenset of int
        Statuses of failure that are an answer here: it is not asked again.
    """

    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: Any = None
    final: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Terms:
    """What an exchange has to keep to.

    Parameters
    ----------
    timeout : timedelta
        Its budget.
    attempts : int
        How often one request is sent at most.
    follow_redirects : bool
        Whether a redirect on the same host is followed.
    hints : mapping of int to str
        What is added to the reason of a refusal, by its status.
    """

    timeout: timedelta
    attempts: int
    follow_redirects: bool
    hints: Mapping[int, str]


class _Failure(NamedTuple):
    """An attempt that came to nothing, and when."""

    error: FetchError
    at: datetime


class RequestBatch(Generic[K, T]):
    """Sends requests and reads their answers.

    Each is sent once before one that failed in passing is repeated, and where nothing comes back more are
    sent besides: requests that hang do not use up the time of those that would be answered.

    Parameters
    ----------
    client : httpx.Client
        Sends them; closed at the end.
    clock : Clock
        Counts the budget and sleeps the pauses.
    terms : Terms
        What to keep to.
    redaction : Redaction
        Masks secrets in what is said of a failure.

    Attributes
    ----------
    begun : set
        The keys of the requests that were sent.
    """

    def __init__(self, client: httpx.Client, clock: Clock, terms: Terms, redaction: Redaction) -> None:
        self._client, self._clock, self._terms, self._redaction = client, clock, terms, redaction
        self._deadline = clock.now() + terms.timeout * _WORKING_SHARE
        self._fresh: deque[K] = deque()
        self._failed: deque[tuple[K, _Failure]] = deque()  # in passing, at their first attempt
        self._down: FetchError | None = None
        self.begun: set[K] = set()

    def run(self, requests: Mapping[K, Request], read: Callable[[K, Response], T]) -> dict[K, T | FetchError]:
        """Return what was read, or the error, by key, within the budget."""
        futures: dict[K, Future[T]] = {key: Future() for key in requests}
        self._fresh.extend(requests)

        def work() -> None:
            while (task := self._next()) is not None:
                key, earlier = task
                try:
                    if (answer := self._ask(key, requests[key], earlier)) is not None:
                        futures[key].set_result(read(key, answer))
                except BaseException as error:  # noqa: BLE001 (it is raised where the future is read)
                    futures[key].set_exception(error)

        def start_workers() -> None:
            # Threads of our own, not an executor: one that hangs must not keep the interpreter from exiting.
            for _ in range(min(CONCURRENCY, len(self._fresh))):
                threading.Thread(target=work, daemon=True, name="lowcarb-fetch").start()

        look_s = (self._terms.timeout * _WAITING_SHARE / _LOOKS).total_seconds()
        waiting = set(futures.values())
        try:
            start_workers()
            for _ in range(_LOOKS):
                before = len(waiting)
                _, waiting = wait(waiting, timeout=look_s)
                if not waiting:
                    break
                if len(waiting) == before:
                    start_workers()
        finally:
            self._fresh.clear()
            self._failed.clear()
            self._client.close()  # ends what still hangs at its next byte
        return {key: self._late(key) if future in waiting else self._outcome(future)
                for key, future in futures.items()}  # fmt: skip

    def _next(self) -> tuple[K, _Failure | None] | None:
        """Return what to ask next, and how its first attempt failed; None if there is nothing left."""
        try:
            return self._fresh.popleft(), None
        except IndexError:
            pass
        try:
            return self._failed.popleft()
        except IndexError:
            return None

    def _ask(self, key: K, request: Request, earlier: _Failure | None) -> Response | None:
        """Return the answer; None where it is put off until all others were asked once."""
        if self._down:
            raise self._down
        if self._clock.now() >= self._deadline:
            raise earlier.error if earlier else self._late(key)
        self.begun.add(key)
        if earlier is None and self._fresh:
            try:
                return self._attempt(request)
            except FetchError as error:
                earlier = _Failure(error, self._clock.now())
                if error.again and not error.unreachable:
                    self._failed.append((key, earlier))
                    return None
        try:
            return self._repeat(request, earlier)
        except FetchError as error:
            if error.unreachable:
                self._down = error
            raise

    def _repeat(self, request: Request, earlier: _Failure | None) -> Response:
        """Ask until there is an answer, a final refusal, or no time left; one attempt may be over."""
        failed_at = earlier.at if earlier else self._clock.now()
        over = [earlier.error] if earlier else []

        def attempt() -> Response:
            nonlocal failed_at
            if over:
                raise over.pop()
            try:
                return self._attempt(request)
            finally:
                failed_at = self._clock.now()

        def pause(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            wanted = error.not_before if isinstance(error, FetchError) else None
            resume = failed_at + timedelta(seconds=_BACKOFF(state))
            return max(0.0, (max(resume, wanted or resume) - self._clock.now()).total_seconds())

        def give_up(state: RetryCallState) -> bool:
            resumes_at = self._clock.now() + timedelta(seconds=state.upcoming_sleep)
            return state.attempt_number >= self._terms.attempts or resumes_at >= self._deadline

        retrying = Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, FetchError) and error.again),
            wait=pause,
            stop=give_up,
            sleep=lambda seconds: self._clock.sleep_until(self._clock.now() + timedelta(seconds=seconds)),
            reraise=True,
        )
        return retrying(attempt)

    def _attempt(self, request: Request) -> Response:
        """Ask once, following redirects on the same host."""
        following = self._built(request)
        until = min(self._deadline, self._clock.now() + self._terms.timeout * _ATTEMPT_SHARE)
        try:
            for _ in range(MAX_REDIRECTS + 1):
                following.extensions["timeout"] = self._limits(until).as_dict()
                response = self._client.send(following, stream=True)
                try:
                    if response.next_request is None:
                        return self._answer(response, request.final, until)
                    following = self._same_host(response.next_request)
                finally:
                    response.close()
        except (httpx.TransportError, OSError) as error:
            raise self._transport_error(error) from None
        except (httpx.HTTPError, httpx.InvalidURL, zlib.error, UnicodeError) as error:
            raise FetchError(f"its answer cannot be read: {self._shown(error)}") from None
        raise FetchError(f"redirects more than {MAX_REDIRECTS} times")

    def _built(self, request: Request) -> httpx.Request:
        """Return a request as it is sent."""
        try:
            return self._client.build_request(
                "GET" if request.body is None else "POST", request.path, params=dict(request.params),
                headers=dict(request.headers), json=request.body,
            )  # fmt: skip
        except (httpx.InvalidURL, UnicodeError) as error:
            raise FetchError(f"it cannot be asked for: {self._shown(error)}") from None

    def _limits(self, until: datetime) -> httpx.Timeout:
        """Return how long to wait for the next byte."""
        self._check_time(until)
        left_s = (until - self._clock.now()).total_seconds()
        return httpx.Timeout(left_s, connect=min(left_s, _CONNECT_S))

    def _check_time(self, until: datetime) -> None:
        """Raise if there is no time left."""
        if self._clock.now() >= until:
            raise FetchError("does not answer completely in time", again=True)

    def _same_host(self, request: httpx.Request) -> httpx.Request:
        """Return the redirected request if it stays on the server and does not leave TLS."""
        url, base = request.url, self._client.base_url
        target = one_line(f"{url.scheme}://{url.host}")
        if url.host != base.host or url.scheme not in ("https", base.scheme):
            raise FetchError(f"redirects to {target}, which is not followed")
        if not self._terms.follow_redirects:
            raise FetchError(
                f"redirects to {target}, which is not followed with credentials; is the URL right?"
            )
        return request

    def _answer(self, response: httpx.Response, final: frozenset[int], until: datetime) -> Response:
        """Read the body, and turn a status that is no success into an error."""
        answer = read_answer(response, lambda: self._check_time(until))
        if response.is_success:
            return answer
        status, hint = response.status_code, self._terms.hints.get(response.status_code)
        raise FetchError(
            f"answered {status} {problem(answer, self._redaction)}{f' ({hint})' if hint else ''}",
            status=status,
            again=(status in _AGAIN or (status >= 500 and status != 501)) and status not in final,
            not_before=retry_after(response.headers, self._clock.now()),
        )

    def _transport_error(self, error: httpx.TransportError | OSError) -> FetchError:
        """Return what went wrong on the way."""
        if isinstance(error, httpx.ReadTimeout | TimeoutError):
            return FetchError("does not answer in time", again=True)
        detail, unreachable = self._shown(error), isinstance(error, _NO_CONNECTION)
        why = "broke off the connection"
        if unreachable:
            why = f"cannot connect to {origin(self._client.base_url)}"
        if any(unknown in detail for unknown in _UNKNOWN_AUTHORITY):
            detail += "; set SSL_CERT_FILE to the certificate of its authority"
        return FetchError(
            f"{why}: {detail}" if detail else why, again=_UNTRUSTED not in detail, unreachable=unreachable
        )

    def _shown(self, error: Exception) -> str:
        return one_line(self._redaction.mask(str(error)))

    def _late(self, key: K) -> FetchError:
        """Return that a request has not ended in time."""
        if key in self.begun:
            return FetchError(f"no answer within {self._budget}", again=True)
        return FetchError(f"not asked within {self._budget}: too many others gave no answer", again=True)

    @property
    def _budget(self) -> str:
        return format_duration(self._terms.timeout)

    def _outcome(self, future: Future[T]) -> T | FetchError:
        """Return what a request has come to, without secrets; a bug is raised."""
        failure = future.exception()
        if failure is None:
            return future.result()
        if isinstance(failure, FetchError):
            return failure.masked(self._redaction)
        if (shown := self._redaction.mask(str(failure))) != str(failure):
            raise RuntimeError(f"{type(failure).__name__}: {shown}") from None
        raise failure


def origin(url: httpx.URL) -> str:
    """Return scheme, host and port of a URL, without any credentials."""
    return str(url.copy_with(userinfo=b"", raw_path=b"/")).rstrip("/")
