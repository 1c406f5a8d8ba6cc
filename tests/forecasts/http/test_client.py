"""Fetching from a server that is slow, wrong or hostile."""

from __future__ import annotations

import base64
import gzip
import html
import json
import re
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from urllib.parse import quote, quote_plus, unquote, unquote_plus

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowcarb_scheduler.clock import SystemClock, VirtualClock, format_time
from lowcarb_scheduler.errors import InputError, one_line
from lowcarb_scheduler.forecasts.http.client import (
    CONCURRENCY,
    FIRST_PAUSE,
    LONGEST_PAUSE,
    MAX_ATTEMPTS,
    FetchError,
    HttpClient,
    Request,
)
from lowcarb_scheduler.forecasts.http.responses import MAX_BODY_BYTES
from support.clocks import SetBack

NOW = datetime(2026, 3, 10, 14, 25, tzinfo=UTC)
BUDGET = timedelta(seconds=30)


class Server:
    """Server with one answer per request, the last one for ever: response, exception, or function."""

    def __init__(self, *answers):
        self.answers, self.requests, self.clock = answers, [], VirtualClock(NOW)

    def __call__(self, request):
        self.requests.append(request)
        answer = self.answers[min(len(self.requests), len(self.answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer(request) if callable(answer) else answer

    def client(self, url="http://sdk:8080", **options):
        transport = httpx.MockTransport(self)
        options = {"timeout": BUDGET, "clock": self.clock, "transport": transport, **options}
        return HttpClient(httpx.URL(url), **options)

    def get(self, *paths, **options):
        return get(self.client(**options), *paths)

    def why(self, **options):
        """Return why the only request failed."""
        outcome = self.get("x", **options)["x"]
        assert isinstance(outcome, FetchError)
        assert "\n" not in outcome.why
        return outcome.why

    def hang(self, request):
        """Send no response until the client gives up."""
        limit = request.extensions["timeout"]["read"]
        self.clock.sleep_until(self.clock.now() + timedelta(seconds=limit))
        raise httpx.ReadTimeout("", request=request)

    @property
    def waited_s(self):
        return (self.clock.now() - NOW).total_seconds()


def get(client, *paths, timeout=None):
    return client.send_all({path: Request(path) for path in paths}, lambda _, answer: answer.json(), timeout)


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
    assert server.get("emissions/x", url=url) == {"emissions/x": [1]}
    assert str(server.requests[0].url) == "http://sdk:8080/a/b/emissions/x"


def test_results_keep_the_order_of_requests_and_concurrency_is_bounded():
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
    outcomes = Server(answer).get(*paths)
    assert list(outcomes.items()) == [(path, f"/{path}") for path in paths]
    assert most == CONCURRENCY


def test_a_body_is_posted():
    server = Server(ok())
    requests = {"x": Request("x", {"a": "1"}, body=[{"b": 2}])}
    assert server.client().send_all(requests, lambda _, answer: answer.json()) == {"x": [1]}
    (request,) = server.requests
    assert (request.method, request.url.query, request.content) == ("POST", b"a=1", b'[{"b":2}]')
    assert request.headers["content-type"] == "application/json"


def test_a_request_that_cannot_be_written_is_a_failure_of_its_own():
    server = Server(ok())
    requests = {"bad": Request("x", headers={"token": "\ud800secret"}), "fine": Request("y")}
    outcomes = server.client().send_all(requests, lambda _, answer: answer.json())
    assert outcomes["fine"] == [1]
    assert outcomes["bad"].why.startswith("the request cannot be written: ")
    assert "secret" not in outcomes["bad"].why


# -- again -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_retryable_statuses_are_retried(status):
    server = Server(httpx.Response(status), httpx.Response(status), ok())
    assert server.get("x") == {"x": [1]}
    assert len(server.requests) == 3
    assert 1.5 <= server.waited_s <= 2.5  # 0.5 s, then 1 s, and up to half a second of jitter each


def test_a_clock_that_is_set_back_lengthens_no_pause():
    server = Server(ok())
    server.clock = clock = SetBack(NOW, timedelta(0))

    def answer(request):
        if len(server.requests) == 1:
            return httpx.Response(503)  # asked again after the first attempt of the other
        clock.sleep_until(clock.now())  # set back by a day
        return ok()

    server.answers = [answer]
    assert server.get("x", "y", concurrency=1) == {"x": [1], "y": [1]}
    assert clock.now() < NOW - timedelta(hours=23)
    assert clock.passed <= BUDGET


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 415, 501, 304])
def test_other_statuses_are_not_retried(status):
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
    assert server.get("x") == {"x": [1]}
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
    assert server.get("x") == {"x": [1]}
    assert waited_s <= server.waited_s <= waited_s + 0.5


def test_retry_after_as_a_date_is_by_the_clock_of_the_server():
    ahead = NOW + timedelta(hours=2)
    headers = {"date": format_datetime(ahead), "retry-after": format_datetime(ahead + timedelta(seconds=9))}
    server = Server(httpx.Response(429, headers=headers), ok())
    assert server.get("x") == {"x": [1]}
    assert 9 <= server.waited_s <= 9.5


def test_no_retry_waits_past_the_budget():
    server = Server(httpx.Response(429, headers={"retry-after": "3600"}))
    assert server.why() == "answered 429 with an empty body"
    assert (len(server.requests), server.waited_s) == (1, 0)


def test_attempts_are_bounded():
    server = Server(httpx.Response(500, json={"title": "InternalServerError", "status": 500}))
    assert server.why() == "answered 500 InternalServerError"
    assert len(server.requests) == MAX_ATTEMPTS
    assert server.waited_s < BUDGET.total_seconds()


def test_a_silent_server_is_asked_three_times_within_the_budget():
    server = Server()
    server.answers = (server.hang,)
    assert server.why() == "does not answer in time"
    assert len(server.requests) == 3
    assert server.waited_s <= BUDGET.total_seconds()


def test_an_unreachable_server_gets_few_requests():
    server = Server(httpx.ConnectError("refused"))
    outcomes = server.get(*[f"p{number}" for number in range(100)])
    assert {outcome.why for outcome in outcomes.values()} == {"cannot connect to http://sdk:8080: refused"}
    assert len(server.requests) <= 2 * CONCURRENCY * MAX_ATTEMPTS


def test_one_bad_path_does_not_starve_the_others():
    server = Server(lambda request: httpx.Response(500) if request.url.path == "/bad" else ok())
    outcomes = server.get("bad", "good", "fine")
    assert (outcomes["good"], outcomes["fine"]) == ([1], [1])
    assert outcomes["bad"].why == "answered 500 with an empty body"


def test_a_final_status_is_not_retried():
    server = Server(httpx.Response(500), ok())
    requests = {"x": Request("x", final=frozenset({500}))}
    outcome = server.client().send_all(requests, lambda _, answer: answer.json())["x"]
    assert (outcome.status, outcome.again, len(server.requests)) == (500, False, 1)


def test_all_first_attempts_come_before_any_retry():
    server = Server(lambda request: httpx.Response(503) if request.url.path == "/bad" else ok())
    server.get("bad", "a", "b", "c", concurrency=1)
    paths = [request.url.path for request in server.requests]
    assert paths == ["/bad", "/a", "/b", "/c", "/bad", "/bad", "/bad"]


def test_retries_wait_at_the_same_time():
    asked = set()

    def limited(request):
        first = request.url.path not in asked
        asked.add(request.url.path)
        return httpx.Response(429, headers={"retry-after": "9"}) if first else ok()

    server = Server(limited)
    paths = [f"p{number}" for number in range(30)]
    assert server.get(*paths, concurrency=1) == {path: [1] for path in paths}
    assert 9 <= server.waited_s <= 9.5


# -- slow --------------------------------------------------------------------------------------------------


def test_a_body_that_drips_ends_with_the_budget():
    server = Server()

    def drip():
        while True:
            server.clock.sleep_until(server.clock.now() + timedelta(seconds=1))
            yield b" "

    server.answers = (lambda _: httpx.Response(200, stream=Stream(drip())),)
    assert server.why() == "does not answer completely in time"
    assert len(server.requests) == 3
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


def test_hanging_requests_do_not_block_the_others():
    forever = threading.Event()

    def answer(request):
        if "hang" in request.url.path:
            forever.wait()
        return ok()

    paths = [f"hang{number}" for number in range(2 * CONCURRENCY)]
    outcomes = Server(answer).get(*paths, "a", "b", timeout=timedelta(seconds=2), clock=SystemClock())
    forever.set()
    assert (outcomes["a"], outcomes["b"]) == ([1], [1])
    assert {outcomes[path].why for path in paths} == {"no answer within 2 s"}


def test_places_that_failed_in_the_last_call_are_sent_last():
    server = Server(lambda request: httpx.Response(500) if request.url.path == "/bad" else ok())
    client = server.client(concurrency=1)
    get(client, "bad", "a", "b")
    server.requests.clear()
    outcomes = get(client, "bad", "a", "new", "b")
    assert [request.url.path for request in server.requests][:4] == ["/a", "/new", "/b", "/bad"]
    assert list(outcomes) == ["bad", "a", "new", "b"]


def test_a_request_that_was_never_sent_is_not_a_failure_of_its_place():
    server = Server()
    server.answers = (server.hang,)
    client = server.client(concurrency=1)
    outcomes = get(client, "a", "b", "c", "d")
    assert outcomes["d"].why == "not sent within 30 s: too many other requests got no answer"
    server.answers = (ok(),)
    server.requests.clear()
    get(client, "a", "b", "c", "d")
    assert server.requests[0].url.path == "/d"


@pytest.mark.parametrize("limit_s", [12, 60])
def test_a_smaller_budget_is_kept(limit_s):
    server = Server()
    server.answers = (server.hang,)
    client, limit = server.client(), timedelta(seconds=limit_s)
    assert client.budget(limit) == timedelta(seconds=min(limit_s, 30))
    get(client, "x", timeout=limit)
    assert len(server.requests) == 3
    assert server.waited_s <= client.budget(limit).total_seconds()


@pytest.mark.parametrize("limit", [timedelta(0), -timedelta(seconds=1)])
def test_without_time_nothing_is_sent(limit):
    server = Server(ok())
    outcome = get(server.client(), "x", timeout=limit)["x"]
    assert isinstance(outcome, FetchError)
    assert server.requests == []


# -- bodies ------------------------------------------------------------------------------------------------


def test_an_enormous_body_is_not_read_to_its_end():
    stream = Stream(b" " * 2**20 for _ in range(1000))
    assert Server(httpx.Response(200, stream=stream)).why() == "its response is larger than 32 MB"
    assert stream.sent == MAX_BODY_BYTES // 2**20 + 1


def test_a_compression_bomb_is_not_decompressed():
    bomb = gzip.compress(bytes(4 * MAX_BODY_BYTES), 1)
    stream = Stream(bomb[start : start + 65536] for start in range(0, len(bomb), 65536))
    response = httpx.Response(200, headers={"content-encoding": "gzip"}, stream=stream)
    assert Server(response).why() == "its response is larger than 32 MB"


def test_a_compressed_body_is_read():
    stream = Stream([gzip.compress(b'{"a": 1}')])
    response = httpx.Response(200, headers={"content-encoding": "gzip"}, stream=stream)
    assert Server(response).get("x") == {"x": {"a": 1}}


@pytest.mark.parametrize(
    ("encoding", "body", "why"),
    [
        ("gzip", b"plain", "its response cannot be read"),
        ("gzip, gzip", b"x", "its response is compressed as 'gzip, gzip', which was not asked for"),
        ("br", b"x", "its response is compressed as 'br', which was not asked for"),
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
def test_an_error_response_becomes_one_line(body, why):
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
    assert server.get("x") == {"x": [1]}
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


def test_with_credentials_no_redirect_is_followed():
    server = Server(redirect("https://sdk/x"), ok())
    why = server.why(headers={"token": "t"}, follow_redirects=False)
    assert why == "redirects to https://sdk, which is not followed with credentials; is the URL right?"
    assert len(server.requests) == 1


# -- secrets -----------------------------------------------------------------------------------------------

TOKEN = "q7/Tok+en=0123456789"
PASSWORD = 'p"ä& 5/secret'


def echoes(text):
    """Return answers that hold a text."""
    quoted = json.dumps({"title": text, "errors": {text: [text]}})
    return {
        "plain": httpx.Response(403, text=f"no {text}."),
        "problem": httpx.Response(400, content=quoted),
        "dotnet": httpx.Response(400, content=quoted.replace("+", "\\u002B").replace("/", "\\/")),
        "long": httpx.Response(400, text="x" * 290 + text),
        "page": httpx.Response(502, text=f"<p>{html.escape(text)}"),
        "no json": httpx.Response(200, text=f"Authorization: {text}"),
        "cut": httpx.Response(200, text="x" * 25 + text),
        "url": httpx.Response(500, text=f"/?t={quote_plus(text)}&u={quote(text, safe='')}"),
        "encoding": httpx.Response(200, headers={"content-encoding": quote(text)}, stream=Stream([b""])),
        "read error": httpx.ReadError(f"peer said {text!r}"),
        "connect error": httpx.ConnectError(f"tunnel said {text}"),
        "redirect": redirect(f"http://{re.sub('[^a-z0-9]', '', text.lower())}/{quote(text)}"),
        "bug": ValueError(f"nothing like {text!r}"),
    }


@pytest.mark.parametrize("echo", echoes(""))
@pytest.mark.parametrize("secret", ["header", "bearer", "request", "user", "password", "both", "base64"])
def test_a_secret_that_a_server_echoes_is_not_shown(echo, secret):
    basic = base64.b64encode(f"someone:{PASSWORD}".encode()).decode()
    text = {"header": TOKEN, "bearer": TOKEN, "request": TOKEN, "user": "someone", "password": PASSWORD,
            "both": f"someone:{PASSWORD}", "base64": basic}[secret]  # fmt: skip
    headers = {"header": {"auth-token": TOKEN}, "bearer": {"Authorization": f"Bearer {TOKEN}"}}.get(
        secret, {}
    )
    url = (
        "http://sdk"
        if secret in ("header", "bearer", "request")
        else f"http://someone:{quote(PASSWORD, safe='')}@sdk"
    )
    own = {"Authorization": f"Bearer {TOKEN}"} if secret == "request" else {}
    server = Server(echoes(text)[echo])
    client = server.client(url, headers=headers)
    try:
        outcome = client.send_all({"x": Request("x", headers=own)}, lambda _, answer: answer.json())["x"]
    except RuntimeError as error:
        outcome = error
    sent = server.requests[0].headers
    assert (
        text in sent.get("auth-token", "") + sent.get("authorization", "") or "Basic" in sent["authorization"]
    )
    shown = f"{outcome} {outcome!r} {client!r} {Request('x', headers=own)!r} {server.requests[0].url}"
    decoded = html.unescape(unquote_plus(shown.encode().decode("unicode_escape", "replace")))
    for view in (shown, unquote(shown), decoded):
        assert text not in view
        assert text[: max(6, len(text) // 2)] not in view
    assert isinstance(outcome, RuntimeError if echo == "bug" else FetchError)


def test_a_short_name_is_masked_as_a_word_only():
    why = Server(httpx.Response(400, text="me: some time")).why(url="http://me:secret@sdk")
    assert why == "answered 400 ***: some time"


def test_credentials_of_the_url_are_sent_as_a_header_and_not_shown():
    server = Server(httpx.ConnectError("refused"))
    assert server.why(url="http://me:se%20cret@sdk:8080/a") == "cannot connect to http://sdk:8080: refused"
    request = server.requests[0]
    assert request.headers["authorization"] == httpx.BasicAuth("me", "se cret")._auth_header  # noqa: SLF001
    assert str(request.url) == "http://sdk:8080/a/x"  # as httpx writes it into its log
    server = Server(ok())
    server.get("x", url="http://me:secret@sdk", headers={"authorization": "Bearer t"})
    assert server.requests[0].headers["authorization"] == "Bearer t"


@pytest.mark.parametrize("value", ["to\nken", "tökèn", "tok\x00en"])
def test_a_header_that_cannot_be_sent_is_refused_and_not_shown(value):
    with pytest.raises(InputError) as error:
        Server(ok()).client(headers={"auth-token": value})
    assert str(error.value) == "auth-token: has characters that cannot be sent; give printable ASCII"


# -- the circuit breaker -----------------------------------------------------------------------------------


def test_an_unreachable_server_gets_no_request_during_the_pause():
    server = Server(httpx.ConnectError("refused"))
    client = server.client()
    get(client, "a", "b")
    asked, opened = len(server.requests), server.clock.now()
    outcomes = get(client, "a", "c", timeout=timedelta(seconds=5))
    assert len(server.requests) == asked
    assert server.clock.now() == opened
    since, again = (format_time(t.replace(microsecond=0)) for t in (opened, opened + FIRST_PAUSE))
    why = f"cannot connect to http://sdk:8080: refused (since {since}; asked again from {again})"
    assert {outcome.why for outcome in outcomes.values()} == {why}


def test_one_request_probes_a_server_after_each_pause_and_pauses_double():
    server = Server(httpx.ConnectError("refused"))
    client = server.client()
    get(client, "a", "b", "c")
    pause, pauses = FIRST_PAUSE, []
    for _ in range(8):
        server.clock.sleep_until(server.clock.now() + pause - timedelta(seconds=1))
        server.requests.clear()
        get(client, "a", "b", "c")
        assert not server.requests
        server.clock.sleep_until(server.clock.now() + timedelta(seconds=1))
        get(client, "a", "b", "c")
        assert len(server.requests) == 1
        pause = min(2 * pause, LONGEST_PAUSE)
        pauses.append(pause)
    assert pauses[-1] == LONGEST_PAUSE
    server.clock.sleep_until(server.clock.now() + pause)
    server.answers = (ok(),)
    for _ in range(2):
        assert get(client, "a", "b", "c") == {"a": [1], "b": [1], "c": [1]}


@pytest.mark.parametrize(
    "answer", [httpx.Response(500), httpx.Response(429), httpx.ReadError("reset"), httpx.ReadTimeout("")]
)
def test_a_server_where_every_place_failed_twice_gets_no_request_during_the_pause(answer):
    server = Server(answer)
    client = server.client()
    for _ in range(2):
        server.requests.clear()
        get(client, "a", "b")
        assert len(server.requests) == 2 * MAX_ATTEMPTS
    server.requests.clear()
    assert all("; asked again from " in outcome.why for outcome in get(client, "a", "b").values())
    assert not server.requests


@pytest.mark.parametrize("answer", [httpx.Response(400), httpx.Response(200, text="["), httpx.Response(501)])
def test_a_server_that_answers_is_not_down(answer):
    server = Server(answer)
    client = server.client()
    for _ in range(5):
        get(client, "a", "b")
    assert len(server.requests) == 10


def test_one_bad_place_never_blocks_another():
    server = Server(lambda request: httpx.Response(500) if request.url.path == "/bad" else ok())
    client = server.client()
    for _ in range(4):
        assert get(client, "bad", "good")["good"] == [1]
    for _ in range(4):
        get(client, "bad")
    server.requests.clear()
    get(client, "bad")
    assert not server.requests  # alone it is left alone for a while
    assert get(client, "good", "new") == {"good": [1], "new": [1]}
    assert get(client, "bad", "good")["good"] == [1]


def test_a_place_is_the_first_element_of_a_key():
    server = Server(lambda request: httpx.Response(500) if request.url.path == "/part1" else ok())
    client = server.client()
    requests = {("a", part): Request(f"part{part}") for part in range(2)}
    for _ in range(3):
        outcomes = client.send_all(requests, lambda _, answer: answer.json())
        assert outcomes["a", 0] == [1]  # one part answers, so the place is there


def test_a_call_with_a_small_budget_does_not_open_the_breaker():
    server = Server()
    server.answers = (server.hang,)
    client = server.client()
    for _ in range(4):
        server.requests.clear()
        get(client, "a", timeout=timedelta(seconds=2))
        assert len(server.requests) > 1
    server.answers = (httpx.ConnectError("refused"),)
    get(client, "a", "b")
    server.clock.sleep_until(server.clock.now() + FIRST_PAUSE)
    server.requests.clear()
    outcomes = get(client, "a", "b", timeout=timedelta(seconds=2))
    assert len(server.requests) == 1
    assert {outcome.why for outcome in outcomes.values()} == {
        "cannot connect to http://sdk:8080: refused",
        "another location was asked first, and the server is still down",
    }


def test_a_clock_that_was_set_back_does_not_keep_the_breaker_open():
    server = Server(httpx.ConnectError("refused"))
    client = server.client()
    get(client, "a")
    server.answers = (ok(),)
    server.clock._now -= timedelta(days=365)  # noqa: SLF001  as no VirtualClock does by itself
    assert get(client, "a") == {"a": [1]}


# -- bugs --------------------------------------------------------------------------------------------------


def test_an_exception_of_a_parser_is_raised():
    with pytest.raises(ZeroDivisionError):
        Server(lambda _: 1 / 0).get("x", "y")
