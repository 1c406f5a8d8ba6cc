"""Messages about a run: which, once each, delivered in the end, and no secret of the address anywhere."""

from __future__ import annotations

import json
import logging
import re
import threading
from dataclasses import replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import numpy as np
import pytest
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import FedAvg

from lowcarb_scheduler import Synthetic, carbon_aware
from lowcarb_scheduler.accounting.replay import Record
from lowcarb_scheduler.documents import to_json
from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.events import Degraded, HoldStarted, RunResumed, event_of
from lowcarb_scheduler.ledger import Ledger, LedgerTail, read_ledger
from lowcarb_scheduler.scheduling.notifier import Digest, Notifier, Webhook
from lowcarb_scheduler.settings import Settings
from lowcarb_scheduler.testing import InMemoryGrid, VirtualClock
from support.apps import make_app, node_configs
from support.cli_files import run as run_command
from support.ledgers import events_of
from support.report_ledger import START, run_events, write_ledger

HOUR, MINUTE, SECOND = timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1)
RUN = Path("run")
HOST = "hooks.example.org"
SECRETS = ("somebody", "pa55word", "T0AAAA", "B0BBBB", "xyzzy-t0ken", "si9nature")
URL = f"https://somebody:pa55word@{HOST}/services/T0AAAA/B0BBBB/xyzzy-t0ken?sig=si9nature"


def held(number, hours, reason="cleaner then"):
    until = START + hours * HOUR
    return HoldStarted(round=number, until=until, seconds=hours * 3600.0, reason=reason)


def degraded(what, why):
    return Degraded(what=what, why=why, consequence="the last good forecast is used")


class Desk:
    """A ledger, its notifier on a virtual clock, and what the webhook has been sent."""

    def __init__(self, clock, answers=(), respond=None):
        self.clock, self.answers, self.sent, self.seen_at = clock, list(answers), [], []
        self.requests = []
        respond = respond or self.respond
        if not (RUN / "ledger.jsonl").exists():
            write_ledger(RUN, run_events(finished=False)[:2])
        self.ledger = Ledger(RUN, clock, goes_on=True)
        self.notifier = Notifier(RUN, Webhook(URL, clock, httpx.MockTransport(respond)), clock)

    def respond(self, request):
        self.requests.append(request)
        self.seen_at.append(self.clock.now())
        answer = self.answers.pop(0) if self.answers else httpx.Response(204)
        if isinstance(answer, Exception):
            raise answer
        if answer.is_success:
            self.sent.append(json.loads(request.content))
        return answer

    def write(self, *events):
        for event in events:
            self.ledger.append(event)
        self.notifier.step()
        return [message["event"] for message in self.sent]


@pytest.fixture
def clock(midnight):
    return VirtualClock(midnight)


@pytest.fixture
def open_desk(clock):
    """Return a function that opens a desk, whose ledger is closed after the test."""
    desks = []

    def opened(*answers, respond=None):
        desks.append(Desk(clock, answers, respond))
        return desks[-1]

    yield opened
    for desk in desks:
        desk.ledger.close()


def test_a_long_hold_is_told_once_a_round(open_desk):
    desk = open_desk()
    assert desk.write(held(1, 0.9)) == []
    assert desk.write(held(1, 5), held(1, 4)) == ["waiting"]
    assert desk.write(held(2, 1.5)) == ["waiting"] * 2
    message = desk.sent[0]
    assert (message["round"], message["rounds"], message["until"]) == (1, 3, "2026-03-02T05:00:00Z")
    assert (message["run"], message["run_dir"], message["strategy"]) == ("7", "run", "FedAvg")
    assert (message["why"], message["app"]) == ("cleaner then", None)
    assert message["text"] == (
        "lowcarb: run 7 holds round 1 of 3 until 2026-03-02 05:00:00 UTC (5 h): cleaner then"
    )


def test_the_app_is_named_where_it_is_known():
    digest, (started, *_) = Digest(), events_of(run_events())
    digest.read(replace(started, app="me/digits"))
    message = digest.read(held(1, 5))
    assert message is not None
    assert message.text.startswith("lowcarb: run 7 of me/digits holds round 1 of 3")


def test_a_fault_is_told_once_and_its_part_at_most_once_an_hour(open_desk, clock):
    desk = open_desk()
    fault, other = degraded("forecast", "no answer"), degraded("forecast", "no answer since 00:10")
    assert desk.write(fault, fault, other) == ["degraded"]
    assert desk.sent[0]["why"] == "forecast: no answer; the last good forecast is used"
    assert desk.write(degraded("node", "it lies")) == ["degraded"] * 2
    clock.sleep_until(clock.now() + 2 * HOUR)
    assert desk.write(other) == ["degraded"] * 2
    assert desk.write(degraded("forecast", "no answer since 02:00")) == ["degraded"] * 3


def test_a_run_that_is_late_is_told_once(open_desk):
    desk = open_desk()
    late = Degraded(
        what="deadline", why="06:00 cannot be met any more", consequence="rounds run back-to-back"
    )
    stops = Degraded(what="deadline", why="round 3 would end after it", consequence="the run stops here")
    assert desk.write(late, stops) == ["late"]
    assert desk.sent[0]["late"] is True
    assert "06:00 cannot be met any more; rounds run back-to-back" in desk.sent[0]["text"]


def test_the_end_has_its_figures(open_desk):
    *events, end = events_of(run_events())
    desk = open_desk()
    desk.write(*events[2:])
    assert desk.write(end)[-1] == "ended"
    message, run = desk.sent[-1], Record.of([*events, end])
    assert message["saved_g"] == pytest.approx(run.run_now_g - run.realised_g)
    assert message["saving"] == pytest.approx(run.saving)
    assert (message["round"], message["saved_rounds"], message["why"]) == (3, 3, "completed")
    assert "has ended: completed, 3 of 3 rounds, 2 h before the deadline; saved so far" in message["text"]


def test_what_is_saved_so_far_is_what_the_rounds_until_then_have_saved(open_desk):
    write_ledger(RUN, run_events(finished=False))
    desk = open_desk()
    desk.write(held(4, 3))
    run = Record.of(read_ledger(RUN))
    assert desk.sent[0]["saved_g"] == pytest.approx(run.run_now_g - run.realised_g)
    assert desk.sent[0]["saved_rounds"] == 3


def test_a_resumed_run_does_not_repeat_itself(open_desk):
    desk = open_desk()
    told = [held(1, 5), degraded("forecast", "no answer")]
    assert desk.write(*told) == ["waiting", "degraded"]
    desk.ledger.close()
    resumed = RunResumed(run_id="8", flwr_version="1", strategy="FedAvg", source=None, version="1", after=2,
                         cut_bytes=0, round=-1, stage="OVER")  # fmt: skip
    again = open_desk()
    assert again.write(resumed, *told) == []
    assert again.write(held(2, 2)) == ["waiting"]


def test_a_message_is_sent_again_with_growing_pauses(open_desk, clock, caplog):
    silent = httpx.ReadTimeout("no answer")
    desk = open_desk(httpx.ConnectError("refused"), httpx.Response(503), httpx.Response(429), silent)
    desk.write(held(1, 5))
    while not desk.sent:
        clock.sleep_until(clock.now() + SECOND / 2)
        desk.notifier.step()
    pauses = [(b - a) / SECOND for a, b in zip(desk.seen_at, desk.seen_at[1:], strict=False)]
    assert pauses == [1, 2, 4, 8]
    assert len(caplog.records) == 1  # of one outage
    desk.write(held(2, 5))
    assert [message["round"] for message in desk.sent] == [1, 2]


def test_the_server_may_say_when(open_desk, clock):
    desk = open_desk(httpx.Response(429, headers={"retry-after": "300"}))
    desk.write(held(1, 5))
    clock.sleep_until(clock.now() + 299 * SECOND)
    desk.notifier.step()
    assert not desk.sent
    clock.sleep_until(clock.now() + SECOND)
    desk.notifier.step()
    assert desk.sent


def test_a_message_that_is_refused_makes_way_for_the_next_one(open_desk, caplog):
    desk = open_desk(httpx.Response(404, text="no_service"))
    desk.write(held(1, 5), held(2, 5))
    assert [message["round"] for message in desk.sent] == [2]
    (record,) = caplog.records
    assert "the message 'waiting' is lost: answered 404 no_service" in record.getMessage()


def test_a_message_is_given_up_in_the_end_and_few_wait(open_desk, clock, caplog):
    desk = open_desk(*[httpx.ConnectError("refused")] * 1000)
    desk.write(*(held(number, 5) for number in range(1, 60)))
    assert caplog.text.count("too many wait") == 9
    for _ in range(13 * 6):
        clock.sleep_until(clock.now() + 10 * MINUTE)
        desk.notifier.step()
    assert "not delivered within 12 h" in caplog.text


ANSWERS = {
    "echo": lambda request: httpx.Response(400, text=f"{request.url} {dict(request.headers)}"),
    "again": lambda request: httpx.Response(500, text=f"{request.url}"),
    "redirect": lambda request: httpx.Response(
        302, headers={"location": f"https://evil.org{request.url.path}"}
    ),
    "taken": lambda request: httpx.Response(200, text="ok"),
}


@pytest.mark.parametrize("kind", [*ANSWERS, "no connection"])
def test_nothing_of_the_address_but_its_host_is_logged(open_desk, kind, caplog):
    def respond(request):
        if kind == "no connection":
            raise httpx.ConnectError(f"cannot reach {URL}")
        return ANSWERS[kind](request)

    desk = open_desk(respond=respond)
    with caplog.at_level(logging.DEBUG):
        desk.write(held(1, 5))
    assert kind == "taken" or HOST in caplog.text
    for secret in SECRETS:
        assert secret not in caplog.text


def test_the_whole_address_is_used(open_desk):
    desk = open_desk()
    desk.write(held(1, 5))
    (request,) = desk.requests
    assert (request.method, request.url.path) == ("POST", "/services/T0AAAA/B0BBBB/xyzzy-t0ken")
    assert request.url.params["sig"] == "si9nature"
    assert request.headers["authorization"].startswith("Basic ")
    assert request.headers["content-type"] == "application/json"


def test_its_keys_are_those_that_are_documented(open_desk):
    desk = open_desk()
    desk.write(held(1, 5))
    page = (Path(__file__).parents[2] / "docs/how-to/notifications.md").read_text(encoding="utf-8")
    (shown,) = (json.loads(text) for text in re.findall(r"```json\n(.*?)```", page, flags=re.DOTALL))
    assert list(desk.sent[0]) == list(shown)
    assert set(desk.sent[0]) <= set(re.findall(r"`(\w+)`", page))
    assert desk.sent[0]["schema_version"] == shown["schema_version"]


def test_names_cannot_address_anybody_in_a_chat(open_desk):
    desk = open_desk()
    desk.write(degraded("node", "<!channel> @all [prize](https://evil.org)\nis slow"))
    text = desk.sent[0]["text"]
    assert not set("<>@[]\n") & set(text)
    assert "is slow" in text


# -- The setting --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["hooks.example.org/s3cret", "ftp://h/s3cret", "https:///s3cret", "http://h:s3cret/",
                                 "http://h/a s3cret", "http://h/x#s3cret"])  # fmt: skip
def test_another_address_is_refused_in_a_line_that_does_not_show_it(url):
    with pytest.raises(InputError, match="lowcarb-notify-url: is no address that begins with http") as error:
        Settings.load(run_config={"lowcarb-notify-url": url})
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (URL, f"https://{HOST}/***"),
        ("http://10.0.0.7:8080/my-topic", "http://10.0.0.7:8080/***"),
        ("https://ntfy.sh/my-topic?tpl=1&m={{.text}}", "https://ntfy.sh/***"),
        ("http://user:1/s3cr@host/x", "http://***"),
    ],
)
def test_of_an_address_its_host_is_shown(url, shown):
    settings = Settings.load({"notify_url": url})
    assert settings.shown()["notify_url"] == shown
    assert url not in repr(settings)


def test_doctor_shows_the_host_and_finds_an_address_that_is_none(monkeypatch, capsys):
    monkeypatch.setenv("LOWCARB_NOTIFY_URL", URL)
    answer = run_command(capsys, "doctor", "--json")
    assert f"https://{HOST}/*** (environment)" in answer.out
    monkeypatch.setenv("LOWCARB_NOTIFY_URL", "hooks.example.org/T0AAAA")
    worse = run_command(capsys, "doctor", "--json")
    assert worse.code == 1
    assert "is no address that begins with http" in worse.out
    assert not any(secret in answer.out + worse.out for secret in SECRETS)


# -- A whole run --------------------------------------------------------------------------------------------


class Hook(BaseHTTPRequestHandler):
    def do_POST(self):
        length = int(self.headers["content-length"])
        self.server.sent.append((self.path, json.loads(self.rfile.read(length))))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_):
        """Print nothing."""


@pytest.fixture
def hook():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    server.daemon_threads, server.sent = True, []
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.enable_socket
def test_a_run_tells_that_it_waits_and_how_it_ended_and_no_secret(hook, midnight, caplog, capsys):
    url = f"http://somebody:pa55word@127.0.0.1:{hook.server_port}/services/T0AAAA/xyzzy-t0ken?sig=si9nature"
    with caplog.at_level(logging.DEBUG):
        strategy = carbon_aware(
            FedAvg(fraction_evaluate=0.0), source=Synthetic(), clock=VirtualClock(midnight),
            finish_by=24 * HOUR, clients_per_round=2, round_duration=HOUR, run_dir=RUN, notify_url=url,
        )  # fmt: skip
        grid = InMemoryGrid(make_app(), node_configs(4))
        strategy.start(grid, ArrayRecord([np.zeros(2)]), num_rounds=3)
    assert {path for path, _ in hook.sent} == {"/services/T0AAAA/xyzzy-t0ken?sig=si9nature"}
    told = [message["event"] for _, message in hook.sent]
    assert told[-1] == "ended"
    assert "waiting" in told
    last = hook.sent[-1][1]
    assert last["saving"] > 0
    status = run_command(capsys, "status", RUN, "--json")
    shown = {
        str(file): file.read_bytes().decode("utf-8", "replace") for file in RUN.rglob("*") if file.is_file()
    }
    shown |= {"log": caplog.text, "status": status.out, "strategy": repr(vars(strategy))}
    assert '"notify_url":"http://127.0.0.1' in shown["run/ledger.jsonl"]
    for place, text in shown.items():
        assert not any(secret in text for secret in SECRETS), place


def test_a_server_that_never_answers_keeps_no_run_from_ending(open_desk, caplog):
    hangs, asked = threading.Event(), threading.Event()

    def respond(request):
        asked.set()
        hangs.wait(10)
        return httpx.Response(200)

    desk = open_desk(respond=respond)
    desk.ledger.append(held(1, 5))
    desk.notifier.start()
    assert asked.wait(10)
    desk.notifier.close(timedelta(milliseconds=20))
    hangs.set()
    (record,) = caplog.records
    assert f"1 message(s) to https://{HOST}/*** are lost: not delivered" in record.getMessage()


def test_what_waits_for_a_pause_is_tried_once_more_at_the_end(open_desk, clock):
    desk = open_desk(*[httpx.Response(503)] * 7)
    desk.write(held(1, 5))
    for _ in range(100):  # until a pause is longer than the time that is left at the end
        clock.sleep_until(clock.now() + SECOND)
        desk.notifier.step()
    assert not desk.sent
    desk.ledger.append(events_of(run_events())[-1])
    desk.answers.clear()
    desk.notifier.start()
    desk.notifier.close()
    assert [message["event"] for message in desk.sent] == ["waiting", "ended"]


# -- What is new in a ledger --------------------------------------------------------------------------------


def test_a_tail_reads_each_line_once_and_a_torn_one_when_it_is_whole():
    write_ledger(RUN, run_events(finished=False)[:2])
    path = RUN / "ledger.jsonl"
    tail = LedgerTail(RUN, Digest.KINDS)
    assert [event.name for event in tail.read()] == ["run_started"]
    line = (
        to_json({"v": 1, "at": START, "event": "degraded", "what": "a", "why": "b", "consequence": "c"})
        + "\n"
    )
    with path.open("a", encoding="utf-8") as file:
        for part in (line[:30], line[30:]):
            file.write(part)
            file.flush()
            found = tail.read()
    assert found == [event_of(json.loads(line))]
    assert tail.read() == []
