"""Fetching from a server that is slow, wrong or hostile."""

from __future__ import annotations

import gzip
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowcarb_scheduler.clock import SystemClock, VirtualClock
from lowcarb_scheduler.errors import one_line
from lowcarb_scheduler.forecasts.answers import MAX_BODY_BYTES
from lowcarb_scheduler.forecasts.exchange import CONCURRENCY, MAX_ATTEMPTS
from lowcarb_scheduler.forecasts.fetch import (
    Fetcher,
    FetchError,
    Request,
)

NOW = datetime(2026, 3, 10, 14, 25, tzinfo=UTC)
BUDGET = timedelta(seconds=30)


class Server:
    """Answers in turn, the last answer for ever: a response, an exception, or a function of the request."""

    def __init__(self, *answers):
        self.answers, self.requests, self.clock = answers, [], VirtualClock(NOW)

    def __call__(self, request):
        self.requests.append(request)
        answer = self.answers[min(len(self.requests), len(self.answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer(request) if callable(answer) else answer

    def fetch(self, *paths, url="http://sdk:8080", **options):
        transport = httpx.MockTransport(self)
        options = {"timeout": BUDGET, "clock": self.clock, "transport": transport, **options}
        requests = {path: Request(path, {}) for path in paths}
        return Fetcher(httpx.URL(url), **options).get_all(requests, lambda _, answer: answer.json())

    def why(self, **options):
        """Return why the only request failed."""
        outcome = self.fetch("x", **options)["x"]
        assert isinstance(outcome, FetchError)
        assert "\n" not in outcome.why
        return outcome.why

    @property
    def waited_s(self):
        return (self.clock.now() - NOW).total_seconds()


def ok():
    return httpx.Response(200, json=[1])


class Stream(httpx.SyncByteStream):
    """A body that comes in pieces."""

    def __init__(self, pieces):
        self.pieces, self.sent = pieces, 0

    def __iter__(self):
        for piece in self.pieces:
            self.sent += 1
            yield piece


# -- requests ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["http://sdk:8080/a/b", "http://sdk:8080/a/b/"])
def test_paths_are_put_below_the_route_prefix(url):
    server = Server(ok())
    assert server.fetch("emissions/x", url=url) == {"emissions/x": [1]}
    assert str(server.requests[0].url) == "http://sdk:8080/a/b/emissions/x"


def test_answers_keep_the_order_asked_for_and_few_are_open_at_once():
    open_now, most, lock = 0, 0, threading.Lock()
    together = threading.Barrier(CONCURRENCY, timeout=5)

    def answer(request):
        nonlocal open_now, most
        with lock:
            open_now += 1
            most = max(most, open_now)
        together.wait()  # no one goes on before CONCURRENCY requests are open
        with lock:
            open_now -= 1
        return httpx.Response(200, json=request.url.path)

    paths = [f"p{number}" for number in range(3 * CONCURRENCY)]
    outcomes = Server(answer).fetch(*paths)
    assert list(outcomes.items()) == [(path, f"/{path}") for path in paths]
    assert most == CONCURRENCY


def test_credentials_of_the_url_are_not_shown():
    why = Server(httpx.ConnectError("refused")).why(url="http://me:secret@sdk:8080/a")
    assert why == "cannot connect to http://sdk:8080: refused"


# -- again -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_what_may_pass_is_asked_again(status):
    server = Server(httpx.Response(status), httpx.Response(status), ok())
    assert server.fetch("x") == {"x": [1]}
    assert len(server.requests) == 3
    assert 1.5 <= server.waited_s <= 2.5  # 0.5 s, then 1 s, and up to half a second of jitter each


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 415, 501, 304])
def test_what_will_not_pass_is_asked_once(status):
    server = Server(httpx.Response(status, text="no"), ok())
    assert server.why() == f"answered {status} no"
    assert len(server.requests) == 1
    assert server.waited_s == 0


@pytest.mark.parametrize(
    "error",
    [
        httpx.ReadError("reset"), httpx.RemoteProtocolError("truncated"), httpx.ReadTimeout(""),
        ConnectionResetError("reset by peer"), httpx.ConnectError("no TLS"),
    ],
)  # fmt: skip
def test_a_broken_connection_is_tried_again(error):
    server = Server(error, error, ok())
    assert server.fetch("x") == {"x": [1]}
    assert len(server.requests) == 3


def test_the_reason_is_that_of_the_last_attempt():
    assert Server(httpx.Response(503), httpx.ReadError("reset")).why() == "broke off the connection: reset"
    assert Server(httpx.ReadTimeout("")).why() == "does not answer in time"


@pytest.mark.parametrize(
    ("header", "waited_s"),
    [
        ("7", 7), ("0", 0.5), ("-3", 0.5), ("soon", 0.5), ("nan", 0.5), ("", 0.5),
        (format_datetime(NOW + timedelta(seconds=9), usegmt=True), 9),
        (format_datetime(NOW - timedelta(hours=2), usegmt=True), 0.5),
        ("Tue, 10 Mar 2026 14:25:09 -0000", 9),
    ],
)  # fmt: skip
def test_retry_after_is_honoured_in_both_forms(header, waited_s):
    server = Server(httpx.Response(429, headers={"retry-after": header}), ok())
    assert server.fetch("x") == {"x": [1]}
    assert waited_s <= server.waited_s <= waited_s + 0.5


def test_nobody_waits_past_the_budget():
    server = Server(httpx.Response(429, headers={"retry-after": "3600"}))
    assert server.why() == "answered 429 with an empty body"
    assert (len(server.requests), server.waited_s) == (1, 0)


def test_attempts_end():
    server = Server(httpx.Response(500, json={"title": "InternalServerError", "status": 500}))
    assert server.why() == "answered 500 InternalServerError"
    assert len(server.requests) == MAX_ATTEMPTS
    assert server.waited_s < BUDGET.total_seconds()


def test_a_silent_server_is_asked_three_times_within_the_budget():
    server = Server()

    def hang(request):
        limit = request.extensions["timeout"]["read"]
        server.clock.sleep_until(server.clock.now() + timedelta(seconds=limit))
        raise httpx.ReadTimeout("", request=request)

    server.answers = (hang,)
    assert server.why() == "does not answer in time"
    assert len(server.requests) == 3
    assert server.waited_s <= BUDGET.total_seconds()


def test_a_server_that_cannot_be_reached_is_not_asked_for_every_place():
    server = Server(httpx.ConnectError("refused"))
    outcomes = server.fetch(*[f"p{number}" for number in range(100)])
    assert {outcome.why for outcome in outcomes.values()} == {"cannot connect to http://sdk:8080: refused"}
    assert len(server.requests) <= 2 * CONCURRENCY * MAX_ATTEMPTS


def test_one_bad_path_does_not_starve_the_others():
    server = Server(lambda request: httpx.Response(500) if request.url.path == "/bad" else ok())
    outcomes = server.fetch("bad", "good", "fine")
    assert (outcomes["good"], outcomes["fine"]) == ([1], [1])
    assert outcomes["bad"].why == "answered 500 with an empty body"


# -- slow --------------------------------------------------------------------------------------------------


def test_a_body_that_drips_ends_with_the_budget():
    server = Server()

    def drip():
        while True:
            server.clock.sleep_until(server.clock.now() + timedelta(seconds=1))
            yield b" "

    server.answers = (httpx.Response(200, stream=Stream(drip())),)
    assert server.why() == "no complete answer within 30 s"
    assert server.waited_s <= BUDGET.total_seconds()


def test_a_server_that_hangs_before_its_first_byte_does_not_hold_the_caller():
    # A header that drips is beyond any time limit of the client: the caller leaves without it.
    forever, started = threading.Event(), SystemClock().now()

    def hang(_):
        forever.wait()
        return ok()

    why = Server(hang).why(timeout=timedelta(seconds=0.1), clock=SystemClock())
    assert SystemClock().now() - started < timedelta(seconds=5)
    assert why == "no answer within 0 s"
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "lowcarb-fetch")
    forever.set()


# -- bodies ------------------------------------------------------------------------------------------------


def test_an_enormous_body_is_not_read_to_its_end():
    stream = Stream(b" " * 2**20 for _ in range(1000))
    assert Server(httpx.Response(200, stream=stream)).why() == "its answer is larger than 32 MB"
    assert stream.sent == MAX_BODY_BYTES // 2**20 + 1


def test_a_bomb_is_not_unpacked():
    bomb = gzip.compress(bytes(4 * MAX_BODY_BYTES), 1)
    stream = Stream(bomb[start : start + 65536] for start in range(0, len(bomb), 65536))
    response = httpx.Response(200, headers={"content-encoding": "gzip"}, stream=stream)
    assert Server(response).why() == "its answer is larger than 32 MB"


def test_a_compressed_body_is_read():
    stream = Stream([gzip.compress(b'{"a": 1}')])
    response = httpx.Response(200, headers={"content-encoding": "gzip"}, stream=stream)
    assert Server(response).fetch("x") == {"x": {"a": 1}}


@pytest.mark.parametrize(
    ("encoding", "body", "why"),
    [
        ("gzip", b"plain", "its answer cannot be read"),
        ("gzip, gzip", b"x", "its answer is compressed as 'gzip, gzip', which was not asked for"),
        ("br", b"x", "its answer is compressed as 'br', which was not asked for"),
    ],
)
def test_other_compression_is_refused(encoding, body, why):
    response = httpx.Response(200, headers={"content-encoding": encoding}, stream=Stream([body]))
    assert Server(response).why().startswith(why)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "answered 200 with an empty body"),
        (b" \n", "answered 200 with an empty body"),
        (b"<!DOCTYPE html><html>", "answered with a web page; is the URL right?"),
        (b'[{"a": 1', "answered with something that is not JSON: '[{\"a\": 1'"),
        (b"\xff\xfe", "answered with something that is not JSON"),
        (b"[" * 100_000, "answered with something that is not JSON"),
        (b"9" * 10_000, "answered with something that is not JSON"),
    ],
    ids=["empty", "blank", "page", "truncated", "binary", "nested", "digits"],
)
def test_a_body_that_is_no_json_is_explained(body, why):
    assert Server(httpx.Response(200, content=body)).why().startswith(why)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "with an empty body"),
        (b"<html>Bad Gateway</html>", "with a web page"),
        (b"try\r\nlater\x1b[31m", "try later\\x1b[31m"),
        (b'{"title": "T", "detail": "D", "errors": {"Start": ["a", "b"], "stackTrace": ["x"]}}',
         "T; D; Start: a, b"),
        (b'{"title": 5, "errors": []}', '{"title": 5, "errors": []}'),
        (b'["x"]', '["x"]'),
        (b'{"title": "' + b"x" * 10_000 + b'"}', "x" * 299 + "…"),
    ],
)  # fmt: skip
def test_a_refusal_is_told_in_one_line(body, why):
    assert Server(httpx.Response(400, content=body)).why() == f"answered 400 {why}"


def test_a_status_can_have_a_hint():
    why = Server(httpx.Response(403, text="no")).why(hints={403: "see there", 404: "not this"})
    assert why == "answered 403 no (see there)"


@given(st.text())
def test_foreign_text_becomes_one_printable_line(text):
    line = one_line(text)
    assert line.isprintable()
    assert len(line) <= 300


def test_wrong_settings_of_the_environment_are_explained(monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "gopher://proxy")
    why = Server().why(transport=None)
    assert why.startswith("the proxy or certificate settings of the environment are wrong: ")


# -- redirects ---------------------------------------------------------------------------------------------


def redirect(location):
    return httpx.Response(307, headers={"location": location})


@pytest.mark.parametrize("target", ["/y?a=1", "http://SDK:8080/y?a=1", "https://sdk/y?a=1"])
def test_a_redirect_on_the_same_host_is_followed(target):
    server = Server(redirect(target), ok())
    assert server.fetch("x") == {"x": [1]}
    assert server.requests[1].url.raw_path == b"/y?a=1"


@pytest.mark.parametrize(
    ("url", "target", "shown"),
    [
        ("http://sdk:8080", "http://elsewhere/x", "http://elsewhere"),
        ("http://sdk:8080", "//elsewhere/x", "http://elsewhere"),
        ("http://sdk:8080", "http://sdk.elsewhere/x", "http://sdk.elsewhere"),
        ("https://sdk", "http://sdk/x", "http://sdk"),
    ],
)
def test_a_redirect_elsewhere_is_not_followed(url, target, shown):
    server = Server(redirect(target), ok())
    assert server.why(url=url) == f"redirects to {shown}, which is not followed"
    assert len(server.requests) == 1


def test_a_redirect_loop_ends():
    server = Server(redirect("/x"))
    assert server.why() == "redirects more than 4 times"
    assert len(server.requests) == 5


# -- bugs --------------------------------------------------------------------------------------------------


def test_a_bug_is_not_taken_for_a_fault_of_the_server():
    with pytest.raises(ZeroDivisionError):
        Server(lambda _: 1 / 0).fetch("x", "y")
