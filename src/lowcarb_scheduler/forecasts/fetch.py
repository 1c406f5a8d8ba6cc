"""Asking a web service that may be slow, wrong or hostile: many requests, one time budget.

Whatever the server does, :meth:`Fetcher.get_all` is back within the budget. A request that fails in passing
is repeated with growing, jittered pauses while the budget lasts; any other failure is one plain line.
"""

from __future__ import annotations

import json
import math
import re
import threading
import zlib
from collections import deque
from collections.abc import Hashable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from datetime import UTC, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_exponential, wait_random

from lowcarb_scheduler._version import __version__
from lowcarb_scheduler.clock import format_duration
from lowcarb_scheduler.errors import InputError, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from datetime import datetime

    from lowcarb_scheduler.clock import Clock

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

CONCURRENCY: Final = 8
MAX_BODY_BYTES: Final = 32 * 2**20  # decompressed; a day of five-minute points is 40 kB
MAX_ATTEMPTS: Final = 4
MAX_REDIRECTS: Final = 4

_AGAIN: Final = frozenset({408, 425, 429})
_ATTEMPT_SHARE: Final = 1 / 3  # of the budget: a silent server is asked three times
_WORKING_SHARE: Final = 0.92  # of the budget: what a request may use, so that its own reason gets back
_WAITING_SHARE: Final = 0.96  # of the budget: then the caller goes on, who has to use what came, in time too
_CONNECT_S: Final = 5.0
_NO_CONNECTION: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError, ConnectionRefusedError)
_BACKOFF: Final = wait_exponential(multiplier=0.5, max=8) + wait_random(0, 0.5)


class FetchError(Exception):
    """A request that came to nothing.

    Parameters
    ----------
    why : str
        The reason, in one plain line.
    again : bool
        Whether it may pass: asking again makes sense.
    pause_s : float
        How long the server wants to be left alone first [s].
    unreachable : bool
        Whether no connection came about, so that other requests will fail as well.
    """

    def __init__(
        self, why: str, *, again: bool = False, pause_s: float = 0.0, unreachable: bool = False
    ) -> None:
        self.why, self.again, self.pause_s, self.unreachable = why, again, pause_s, unreachable
        super().__init__(why)


@dataclass(frozen=True, slots=True)
class Request:
    """What to ask: a path below the base URL, and its query."""

    path: str
    params: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: a status of success, and the body."""

    status: int
    content_type: str
    body: bytes

    @property
    def is_page(self) -> bool:
        """Whether it is a web page: a proxy's, or that of another server."""
        return "html" in self.content_type or self.body.lstrip()[:1] == b"<"

    def text(self) -> str:
        """Return the body as text.

        Raises
        ------
        FetchError
            If it is a web page or empty.
        """
        if self.is_page:
            raise FetchError("answered with a web page; is the URL right?")
        if not self.body.strip():
            raise FetchError(f"answered {self.status} with an empty body")
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """Return the document in the body.

        Raises
        ------
        FetchError
            If it is none.
        """
        text = self.text()
        try:
            return json.loads(text)
        except (ValueError, RecursionError):  # a part of it, a number without end, lists in lists without end
            raise FetchError(f"answered with something that is not JSON: {one_line(text, 40)!r}") from None


class Fetcher:
    """Sends requests to one server.

    Parameters
    ----------
    base_url : httpx.URL
        Where its paths begin.
    timeout : timedelta
        The budget of one :meth:`get_all`.
    clock : Clock
        Counts the budget and sleeps the pauses.
    transport : httpx.BaseTransport, optional
        What carries the requests; by default the network, through the proxies of the environment.
    hints : mapping of int to str, optional
        What is added to the reason of a refusal, by its status.
    """

    def __init__(
        self,
        base_url: httpx.URL,
        timeout: timedelta,
        clock: Clock,
        transport: httpx.BaseTransport | None = None,
        hints: Mapping[int, str] | None = None,
    ) -> None:
        self._base_url, self._timeout, self._clock = base_url, timeout, clock
        self._transport, self._hints = transport, hints or {}

    @property
    def origin(self) -> str:
        """Scheme, host and port, without any credentials."""
        return str(self._base_url.copy_with(userinfo=b"", raw_path=b"/")).rstrip("/")

    def get_all(
        self, requests: Mapping[K, Request], read: Callable[[K, Answer], T]
    ) -> dict[K, T | FetchError]:
        """Send all requests, a few at a time, and read their answers.

        Parameters
        ----------
        requests : mapping of Request
            By key.
        read : callable
            Makes something of a key and the answer to it, or raises FetchError.

        Returns
        -------
        dict
            What was read, or the error, by key, in the order of ``requests``.
        """
        deadline = self._clock.now() + self._timeout * _WORKING_SHARE
        headers = {"User-Agent": f"lowcarb-scheduler/{__version__}", "Accept": "application/json, text/plain",
                   "Accept-Encoding": "gzip"}  # fmt: skip
        futures: dict[K, Future[T]] = {key: Future() for key in requests}
        queue = deque(requests.items())
        down: list[FetchError] = []
        try:
            client = httpx.Client(base_url=self._base_url, headers=headers, transport=self._transport)
        except (ImportError, OSError, ValueError, httpx.InvalidURL) as error:
            why = f"the proxy or certificate settings of the environment are wrong: {one_line(str(error))}"
            return dict.fromkeys(requests, FetchError(why))

        def work() -> None:
            while True:
                try:
                    key, request = queue.popleft()
                except IndexError:
                    return
                try:
                    if down:
                        raise down[0]
                    answer = self._get(client, request, deadline)
                    futures[key].set_result(read(key, answer))
                except BaseException as error:  # noqa: BLE001 (it is raised where the future is read)
                    if isinstance(error, FetchError) and error.unreachable:
                        down.append(error)
                    futures[key].set_exception(error)

        # Threads of our own, not an executor: a thread that hangs must not keep the interpreter from exiting.
        for _ in range(min(CONCURRENCY, len(futures))):
            threading.Thread(target=work, daemon=True, name="lowcarb-fetch").start()
        try:
            done, _ = wait(futures.values(), timeout=(self._timeout * _WAITING_SHARE).total_seconds())
        finally:
            queue.clear()
            client.close()  # ends what still hangs at its next byte
        late = FetchError(f"no answer within {format_duration(self._timeout)}")
        outcomes: dict[K, T | FetchError] = {}
        for key, future in futures.items():
            failure = future.exception() if future in done else late
            if failure is None:
                outcomes[key] = future.result()
            elif isinstance(failure, FetchError):
                outcomes[key] = failure
            else:
                raise failure
        return outcomes

    def _get(self, client: httpx.Client, request: Request, deadline: datetime) -> Answer:
        """Ask until there is an answer, a final refusal, or no time left."""

        def pause(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            return max(_BACKOFF(state), getattr(error, "pause_s", 0.0))

        def give_up(state: RetryCallState) -> bool:
            resumes_at = self._clock.now() + timedelta(seconds=state.upcoming_sleep)
            return state.attempt_number >= MAX_ATTEMPTS or resumes_at >= deadline

        retrying = Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, FetchError) and error.again),
            wait=pause,
            stop=give_up,
            sleep=lambda seconds: self._clock.sleep_until(self._clock.now() + timedelta(seconds=seconds)),
            reraise=True,
        )
        return retrying(self._attempt, client, request, deadline)

    def _attempt(self, client: httpx.Client, request: Request, deadline: datetime) -> Answer:
        """Ask once, following redirects on the same host."""
        following = client.build_request("GET", request.path, params=dict(request.params))
        try:
            for _ in range(MAX_REDIRECTS + 1):
                following.extensions["timeout"] = self._limits(deadline).as_dict()
                response = client.send(following, stream=True)
                try:
                    if response.next_request is None:
                        return self._answer(response, deadline)
                    following = self._same_host(response.next_request)
                finally:
                    response.close()
        except (httpx.TransportError, OSError) as error:
            raise self._transport_error(error) from None
        except (httpx.HTTPError, httpx.InvalidURL, zlib.error, UnicodeError) as error:
            raise FetchError(f"its answer cannot be read: {one_line(str(error))}") from None
        raise FetchError(f"redirects more than {MAX_REDIRECTS} times")

    def _limits(self, deadline: datetime) -> httpx.Timeout:
        """Return how long one attempt may wait for the next byte."""
        left_s = (deadline - self._clock.now()).total_seconds()
        if left_s <= 0:
            raise self._no_time()
        limit_s = min(left_s, self._timeout.total_seconds() * _ATTEMPT_SHARE)
        return httpx.Timeout(limit_s, connect=min(limit_s, _CONNECT_S))

    def _same_host(self, request: httpx.Request) -> httpx.Request:
        """Return the redirected request if it stays on the server and does not leave TLS."""
        url, base = request.url, self._base_url
        if url.host != base.host or url.scheme not in ("https", base.scheme):
            raise FetchError(f"redirects to {one_line(f'{url.scheme}://{url.host}')}, which is not followed")
        return request

    def _answer(self, response: httpx.Response, deadline: datetime) -> Answer:
        """Read the body, and turn a status that is no success into an error."""
        body = bytearray()
        for chunk in _chunks(response):
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise FetchError(f"its answer is larger than {MAX_BODY_BYTES // 2**20} MB")
            if self._clock.now() >= deadline:
                raise self._no_time()
        content_type = response.headers.get("content-type", "").lower()
        answer = Answer(response.status_code, content_type, bytes(body))
        if response.is_success:
            return answer
        status = response.status_code
        hint = self._hints.get(status)
        raise FetchError(
            f"answered {status} {_problem(answer)}{f' ({hint})' if hint else ''}",
            again=status in _AGAIN or (status >= 500 and status != 501),
            pause_s=_retry_after_s(response.headers.get("retry-after", ""), self._clock.now()),
        )

    def _transport_error(self, error: httpx.TransportError | OSError) -> FetchError:
        """Return what went wrong on the way."""
        unreachable = isinstance(error, _NO_CONNECTION)
        if isinstance(error, httpx.ReadTimeout | TimeoutError):
            return FetchError("does not answer in time", again=True)
        why = f"cannot connect to {self.origin}" if unreachable else "broke off the connection"
        detail = one_line(str(error))
        return FetchError(f"{why}: {detail}" if detail else why, again=True, unreachable=unreachable)

    def _no_time(self) -> FetchError:
        return FetchError(f"no complete answer within {format_duration(self._timeout)}")


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
    if wrong or not 0 < (base.port or 80) < 65_536:
        shown = re.sub(r"[^/@]*@", "", one_line(str(url), 100))  # before @ may stand a password
        variable = f"LOWCARB_{field.upper().replace('-', '_')}"
        fix = f"set {variable} or give --{field}, for example {example}"
        raise InputError(field, f"{shown!r} is no address of a server", fix)
    return base


def _chunks(response: httpx.Response) -> Iterator[bytes]:
    """Yield the body decompressed, no more than a little over the cap: a small body can hide a huge one."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if response.is_stream_consumed:  # a transport that had the body at once
        yield response.content
    elif encoding in ("gzip", "x-gzip", "deflate"):
        yield from _inflate(response.iter_raw())
    elif encoding in ("", "identity"):
        yield from response.iter_raw()
    else:
        raise FetchError(f"its answer is compressed as {one_line(encoding, 40)!r}, which was not asked for")


def _inflate(compressed: Iterable[bytes]) -> Iterator[bytes]:
    decompressor = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # 32: gzip or zlib, whichever it is
    for chunk in compressed:
        yield decompressor.decompress(chunk, MAX_BODY_BYTES + 1)


def _problem(answer: Answer) -> str:
    """Return what a refusal says: title, detail and errors of a problem document, else what there is."""
    if not answer.body.strip():
        return "with an empty body"
    if answer.is_page:
        return "with a web page"
    try:
        document = answer.json()
    except FetchError:
        return one_line(answer.body[:1000].decode("utf-8", "replace"))
    if not isinstance(document, dict):
        return one_line(json.dumps(document))
    parts = [str(document[key]) for key in ("title", "detail") if isinstance(document.get(key), str)]
    errors = document.get("errors")
    for key, messages in errors.items() if isinstance(errors, dict) else ():
        if key != "stackTrace":
            text = ", ".join(map(str, messages)) if isinstance(messages, list) else str(messages)
            parts.append(f"{key}: {text}")
    return one_line("; ".join(parts) or json.dumps(document))


def _retry_after_s(text: str, now: datetime) -> float:
    """Return how long a Retry-After header asks to wait [s]: seconds or a date; 0 where it says neither."""
    try:
        seconds = float(text)
    except ValueError:
        try:
            when = parsedate_to_datetime(text)
        except (ValueError, TypeError, IndexError):
            return 0.0
        seconds = (when.replace(tzinfo=when.tzinfo or UTC) - now).total_seconds()
    return min(max(seconds, 0.0), timedelta(days=1).total_seconds()) if math.isfinite(seconds) else 0.0
