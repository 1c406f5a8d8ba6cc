"""Live pages: what they answer, to whom, and that a name of a run leads nowhere else."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from datetime import timedelta
from importlib import import_module
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from lowcarb_scheduler import monitor, report
from lowcarb_scheduler.clock import VirtualClock, cpu_seconds
from lowcarb_scheduler.documents import to_json
from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.flower.waiting import REQUEST_FILE, pop_release_request
from lowcarb_scheduler.ledger import Ledger
from lowcarb_scheduler.monitor.follow import RunFolder
from support import cli_files
from support.live import READ, RELEASE, Live
from support.report_ledger import START, at, event, run_events, write_ledger
from support.report_world import large_events

NOW = VirtualClock(START + timedelta(hours=1, minutes=30))  # nobody moves it
HOLD = {
    "until": at(2), "reason": "its clients' grids are cleaner then", "seconds": 3600.0, "planned_g": 300.0,
    "at_once_g": 500.0,
}  # fmt: skip
LEDGER = Path(__file__).parents[1] / "fixtures" / "ledgers" / "demo.jsonl"
TOKEN = {"x-lowcarb-token": RELEASE}
MARKUP = "<script>alert(1)</script>"


def held_events(**first):
    """Return the events of a run whose second round is held."""
    events = run_events()
    events[0] |= {"clock": "system", "app": "clinic/scans", **first}
    (last,) = [k for k, each in enumerate(events)
               if each["event"] == "hold_started" and each["round"] == 2]  # fmt: skip
    events[last] |= HOLD
    return events[: last + 1]


@pytest.fixture
def alive():
    """Return a writer of the ledger of a run that goes on."""
    ledgers = []

    def write(run_dir, events):
        write_ledger(run_dir, events)
        ledgers.append(Ledger(run_dir, VirtualClock(START), goes_on=True))
        return run_dir

    yield write
    for ledger in ledgers:
        ledger.close()


@pytest.fixture
def held(tmp_path, alive):
    return alive(tmp_path / "runs" / "held", held_events())


@pytest.fixture
def live(held):
    return Live(held.parent, NOW)


def append(run_dir, text):
    with (run_dir / "ledger.jsonl").open("a", encoding="utf-8") as file:
        file.write(text)


# -- Documents ----------------------------------------------------------------------------------------------


def test_the_documents_are_those_of_the_commands(live, held, capsys):
    listed = cli_files.run(capsys, "runs", held.parent, "--json", clock=NOW).document
    assert live.json("/api/runs") == listed
    shown = cli_files.run(capsys, "status", held, "--json", clock=NOW).document
    assert live.json("/api/runs/held") == shown


def test_the_page_of_a_held_run_has_everything_in_the_zone_of_who_looks(live):
    page = live.json("/api/runs/held/page?zone=Asia/Tokyo")
    assert page["headline"] == "holding round 2"
    assert (page["counts_to"], page["now"]) == (at(2), at(1.5))
    assert (page["opening"], page["why"]) == ("2026-03-02 11:00 JST", HOLD["reason"])
    assert page["waiting_saves"] == "200 g of 500 g CO2eq in this round"
    assert (page["rounds_done"], page["rounds"], page["can_release"]) == (1, 3, True)
    assert (page["saved"], page["saved_told"]) == ("0.0 %", "0 g of 572 g CO2eq")
    assert (page["expected"], page["title"]) == ("20.0 %", "clinic/scans")
    facts = dict(page["facts"])
    assert facts["slack left"] == "2 h 30 min"
    assert facts["newest forecast"] == "issued Mon 09:00, 1 h 30 min ago"
    assert [each["text"] for each in page["problems"]] == [
        "forecast: the source did not answer; last good forecast"
    ]
    assert page["events"][0]["text"].startswith("round 2 held until Mon 11:00")
    assert page["participation"] == [
        {"place": place, "turns": 1, "clients": "2 clients", "part": 1.0} for place in ("DE", "FR")
    ]


def test_its_chart_has_done_and_planned_rounds_over_the_intensity(live):
    chart = live.json("/api/runs/held/page?zone=UTC")["charts"]["rounds"]
    assert chart["places"] == ["FR", "DE"]  # cleanest first
    assert chart["heat"]["edges"][0] == "2026-03-02 00:00:00"
    assert chart["heat"]["values"][1][0] == 510.0  # actual where it is known
    assert chart["heat"]["values"][1][2] == 300.0  # and the forecast after it
    assert chart["done"]["base"] == ["2026-03-02 00:00:00"] * 2
    assert chart["planned"]["base"] == ["2026-03-02 02:00:00"] * 2 + ["2026-03-02 03:00:00"] * 2
    assert "planned 560 g<br>realised 572 g" in chart["done"]["told"][0]
    assert chart["now"] == "2026-03-02 01:30:00"


def test_charts_of_a_run_that_has_ended_are_there_soon(tmp_path):
    write_ledger(tmp_path / "run", large_events())
    import_module("lowcarb_scheduler.monitor.chart")  # a server has it before somebody asks
    began = cpu_seconds()
    charts = Live(tmp_path, NOW).json("/api/runs/run/page")["charts"]
    assert cpu_seconds() - began < 0.2 * 2  # of 500 rounds two seconds; twice as much on slow machines
    assert len(charts["emissions"]["rounds"]) == 50
    assert len(charts["rounds"]["done"]["base"]) > 100
    assert charts["metrics"][0]["name"] == "accuracy"


@pytest.mark.parametrize("missing", ["plotly", "matplotlib"])
def test_without_an_extra_the_page_has_no_charts_and_says_how_to_get_them(live, held, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    for room, name in ((monitor, "chart"), (report, "charts"), (report, "style")):  # as if never imported
        monkeypatch.delitem(sys.modules, f"{room.__name__}.{name}", raising=False)
        monkeypatch.delattr(room, name, raising=False)
    page = Live(held.parent, NOW).json("/api/runs/held/page")
    assert (page["charts"], page["rounds_done"]) == (None, 1)
    fix = "run: pip install 'lowcarb-scheduler[interactive]'"
    assert page["no_charts"] == f"{missing}: is not installed; {fix}"


def test_without_plotly_its_script_is_empty(held, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly", None)
    answer = Live(held.parent, NOW).ask("/static/plotly.min.js")
    assert (answer.status_code, answer.text[:3]) == (200, "// ")


def test_a_zone_that_nobody_knows_is_utc(live):
    for zone in ("Nowhere/At all", "../../etc/passwd", "", "UTC%00"):
        assert live.json(f"/api/runs/held/page?zone={zone}")["opening"].endswith("UTC")


def test_a_torn_last_line_is_none(live, held):
    before = live.json("/api/runs/held")
    line = to_json(event(1.6, "open_now", round=2, until=at(2))) + "\n"
    append(held, line[:30])
    assert live.json("/api/runs/held")["state"] == before["state"]
    append(held, line[30:])
    assert live.json("/api/runs/held")["state"] == "preparing"


def test_a_ledger_that_cannot_be_read_says_why_and_hides_no_other_run(live, held):
    write_ledger(held.parent / "broken", [])
    append(held.parent / "broken", "[]\n")
    answer = live.ask("/api/runs/broken")
    assert answer.status_code == 500
    assert "is not an event" in answer.json()["error"]["message"]
    names = {run["name"]: run for run in live.json("/api/page")["runs"]}
    assert "is not an event" in names["broken"]["problem"]
    assert names["held"]["progress"] == "1 of 3"


def test_names_from_outside_are_text(tmp_path):
    events = held_events(app=MARKUP, strategy=MARKUP)
    for each in events:
        for node in (*each.get("joined", ()), *each.get("nodes", ())):
            node["location"] = MARKUP
    write_ledger(tmp_path / MARKUP.replace("/", ""), events)
    live = Live(tmp_path, NOW)
    address = "/runs/%3Cscript%3Ealert(1)%3Cscript%3E"
    # Pages are fixed files, which hold nothing of a run; what fills them in is JSON, which is no markup.
    assert live.ask(address).text == live.ask(address).text.replace("alert", "")
    page = live.json(f"/api{address}/page")
    assert page["title"] == MARKUP
    # Only plotly reads tags in texts.
    assert MARKUP not in json.dumps(page["charts"])


# -- Which runs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["%2e%2e", "..%2fsecret", "%2e%2e%2fsecret", "..%5csecret", "held%2f..%2f..%2fsecret", "%00",
     "nobody", "a" * 5000, "held%00", "%ff"],
)  # fmt: skip
def test_a_name_leads_to_no_other_folder(live, held, name):
    write_ledger(held.parents[1] / "secret", run_events())
    for path in (f"/runs/{name}", f"/api/runs/{name}", f"/api/runs/{name}/page", f"/api/runs/{name}/events"):
        answer = live.ask(path)
        assert answer.status_code == 404, path
    for plain in ("..", ".", "", "../secret", "..\\secret", "held/../../secret", "held\0"):
        assert live.runs.find(plain) is None


def test_static_files_are_those_of_the_package(live):
    for name in ("page.css", "live.js", "run.js", "index.js", "charts.js", "icon.svg", "palette.css"):
        assert live.ask(f"/static/{name}").status_code == 200
    for name in ("../server.py", "%2e%2e/server.py", "..%2fserver.py", "nothing.js"):
        assert live.ask(f"/static/{name}").status_code == 404
    assert "plotly.js" in live.ask("/static/plotly.min.js").text[:200]


def test_pages_ask_nobody_else():
    static = Path(Live.__init__.__globals__["Pages"].__init__.__code__.co_filename).parent / "static"
    for path in static.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text, path
        assert "https:" not in text, path
        assert "innerHTML" not in text, path
        if path.suffix == ".html":
            assert "<script>" not in text
            assert "style=" not in text
            assert " on" not in text.replace(" once", "").split("<body>")[0]


# -- Access -------------------------------------------------------------------------------------------------


def test_every_answer_forbids_what_pages_do_not_need(live):
    for path in ("/", "/runs/held", "/api/runs", "/metrics", "/nothing", "/static/page.css"):
        headers = live.ask(path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self';")
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
    refused = live.ask("/", home="http://evil.example")
    assert "content-security-policy" in refused.headers


@pytest.mark.parametrize(
    ("home", "status"),
    [
        ("http://127.0.0.1:8030", 200),
        ("http://localhost:9000", 200),  # through a tunnel
        ("http://[::1]:8030", 200),
        ("http://LOCALHOST:8030", 200),
        ("http://evil.example:8030", 421),  # DNS rebinding
        ("http://localhost.evil.example", 421),
        ("http://192.168.1.4:8030", 421),
    ],
)
def test_only_names_of_this_machine_are_answered(live, home, status):
    assert live.ask("/api/runs", home=home).status_code == status


@pytest.mark.parametrize("host", ["", "[", "a b", "127.0.0.1@evil.example", "evil.example#127.0.0.1"])
def test_a_host_that_is_none_is_refused(live, host):
    assert live.ask("/api/runs", headers={"host": host}).status_code == 421


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1:8030", 200),
        ("http://127.0.0.1:9999", 403),
        ("http://evil.example", 403),
        ("null", 403),
        ("", 403),
    ],
)
def test_other_sites_may_send_nothing(live, origin, status):
    headers = {**TOKEN, "origin": origin}
    assert live.ask("/api/runs/held/release", "POST", headers=headers).status_code == status
    assert live.ask("/api/runs", headers={"origin": origin}).status_code == status


def test_a_name_of_a_proxy_is_allowed_by_name(held):
    live = Live(held.parent, NOW, further=("runs.example",))
    home = "https://runs.example"
    assert live.ask("/api/runs", home=home, headers={"origin": home}).status_code == 200


def test_for_other_machines_a_token_is_needed_to_read(held):
    live, home = Live(held.parent, NOW, host="0.0.0.0"), "http://192.168.1.4:8030"
    for path in ("/", "/api/runs", "/metrics", "/runs/held", "/static/page.css", "/api/runs/held/events"):
        answer = live.ask(path, home=home)
        assert (answer.status_code, "token" in answer.text) == (401, True)
        assert live.ask(path, home=home, headers={"authorization": "Bearer no"}).status_code == 401
    for token in (READ, RELEASE):
        headers = {"authorization": f"Bearer {token}"}
        assert live.ask("/metrics", home=home, headers={"x-lowcarb-token": token}).status_code == 200
        assert live.ask("/metrics", home=home, headers=headers).status_code == 200
    assert live.ask(f"/metrics?token={READ}", home=home).status_code == 200
    assert live.ask("/metrics", home="http://evil.example", headers=TOKEN).status_code == 421
    # Who may read may not release.
    release = "/api/runs/held/release"
    headers = {"authorization": f"Bearer {READ}"}
    assert live.ask(release, "POST", home=home, headers=headers).status_code == 403


def test_a_token_in_the_address_becomes_a_cookie(held):
    live, home = Live(held.parent, NOW, host="0.0.0.0"), "http://192.168.1.4:8030"
    answer = live.ask(f"/runs/held?token={READ}", home=home)
    assert (answer.status_code, answer.headers["location"]) == (303, "/runs/held")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    given = {"cookie": cookie.split(";")[0]}
    assert live.ask("/runs/held", home=home, headers=given).status_code == 200
    away = live.ask(f"{home}//evil.example/?token={READ}", home=home)
    assert away.headers["location"] == "/evil.example/"
    assert live.ask("/?token=wrong", home=home).status_code == 401


# -- Release ------------------------------------------------------------------------------------------------


def test_a_round_is_released_once(live, held):
    address = "/api/runs/held/release"
    for headers, form in (({}, {}), ({"x-lowcarb-token": READ}, {}), ({}, {"token": "wrong"})):
        answer = live.ask(address, "POST", headers=headers, data=form)
        assert (answer.status_code, "token" in answer.json()["error"]["message"]) == (403, True)
    assert not (held / REQUEST_FILE).exists()
    wrong = live.ask(address, "POST", headers=TOKEN, data={"round": "3"})
    assert (wrong.status_code, wrong.json()["error"]["message"]) == (409, "round 3 is not held: round 2 is")
    done = live.ask(address, "POST", data={"token": RELEASE, "round": "2"})
    assert done.status_code == 200
    assert done.json() == {
        "schema_version": 1, "run": "held", "round": 2, "was_to_open_at": at(2),
        "message": "round 2 opens within seconds; later rounds follow the plan",
    }  # fmt: skip
    assert pop_release_request(held, 2)
    assert live.json("/api/runs/held/page")["was_released"] is True
    again = live.ask(address, "POST", headers=TOKEN)
    assert (again.status_code, "has been released already" in again.text) == (409, True)
    assert not (held / REQUEST_FILE).exists()


def test_where_nothing_is_held_nothing_is_released(live, held):
    write_ledger(held.parent / "done", run_events())
    answer = live.ask("/api/runs/done/release", "POST", headers=TOKEN)
    assert (answer.status_code, answer.json()["error"]["kind"]) == (409, "nothing_held")
    assert live.ask("/api/runs/nobody/release", "POST", headers=TOKEN).status_code == 404
    assert live.ask("/api/runs/held/release", headers=TOKEN).status_code == 405
    assert live.ask("/api/runs/held/release", "POST", content=b"a" * 5000).status_code == 413


def test_looking_writes_nothing(live, held):
    before = {path: path.stat().st_mtime_ns for path in held.parent.rglob("*")}
    for path in ("/api/runs", "/api/runs/held", "/api/runs/held/page", "/metrics", "/api/page", "/"):
        assert live.ask(path).status_code == 200
    assert {path: path.stat().st_mtime_ns for path in held.parent.rglob("*")} == before


# -- News ---------------------------------------------------------------------------------------------------


def test_news_of_a_ledger_is_pushed(live, held):
    async def stream(path, acts):
        """Ask as a browser does, and act after each message."""
        sent, acts = [], iter(acts)

        async def send(message):
            if message["type"] == "http.response.start":
                assert dict(message["headers"])[b"content-type"].startswith(b"text/event-stream")
            elif body := message.get("body"):
                sent.append(body.decode())
                next(acts)()

        async def receive():
            await asyncio.Event().wait()

        scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "root_path": "",
                 "headers": [(b"host", b"localhost")], "server": ("localhost", 80), "asgi": {}}  # fmt: skip
        await live.app(scope, receive, send)
        return sent

    def end():
        live.is_ending = True

    for path in ("/api/runs/held/events", "/api/events"):
        live.is_ending = False
        sent = asyncio.run(stream(path, [lambda: append(held, "{"), lambda: None, end]))
        assert [text.splitlines()[:2] for text in sent[:2]] == [
            ["event: changed", "id: 1"], ["event: changed", "id: 2"],
        ]  # fmt: skip
        assert sent[2] == ": still here\n\n"


# -- Metrics ------------------------------------------------------------------------------------------------


def metrics_of(live):
    """Return the samples of the metrics page: the value by name and run."""
    answer = live.ask("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = list(parse(answer.text))
    assert all(family.type == "gauge" and family.documentation for family in families)
    return {(sample.name, sample.labels.get("run") or sample.labels["state"]): sample
            for family in families for sample in family.samples}  # fmt: skip


def test_metrics_are_as_prometheus_reads_them(live, held):
    write_ledger(held.parent / 'an "odd"\\name\n', run_events(actual=False))
    write_ledger(held.parent / "broken", [])
    found = metrics_of(live)
    values = {name.removeprefix("lowcarb_"): sample.value
              for (name, run), sample in found.items() if run == "held"}  # fmt: skip
    assert values == {
        "run_state": 1, "rounds": 3, "rounds_done": 1, "rounds_known": 1, "held_seconds": 1800,
        "planned_grams": 560, "realised_grams": 572, "run_now_grams": 572, "to_come_grams": 800,
        "saving_ratio": 0, "planned_saving_ratio": 0.2, "slack_seconds": 9000, "source_age_seconds": 5400,
        "next_opening_timestamp_seconds": 1772416800, "problems": 1,
    }  # fmt: skip
    assert found["lowcarb_rounds", "held"].labels == {"run": "held", "app": "clinic/scans"}
    assert found["lowcarb_run_state", "held"].labels["state"] == "holding"
    assert found["lowcarb_runs", "unreadable"].value == 1
    odd = 'an "odd"\\name\n'
    assert found["lowcarb_rounds_done", odd].value == 3
    assert ("lowcarb_realised_grams", odd) not in found  # unknown is no zero


def test_runs_that_ended_long_ago_are_only_counted(live, held):
    write_ledger(held.parent / "old", run_events())
    old = START.timestamp() - 2 * 86_400
    os.utime(held.parent / "old" / "ledger.jsonl", (old, old))
    found = metrics_of(live)
    assert ("lowcarb_rounds", "old") not in found
    assert found["lowcarb_runs", "completed"].value == 1


# -- Sizes --------------------------------------------------------------------------------------------------


def test_a_list_is_read_again_only_where_a_ledger_has_changed(tmp_path, alive):
    for k in range(100):
        (tmp_path / f"run-{k}").mkdir()
        (tmp_path / f"run-{k}" / "ledger.jsonl").symlink_to(LEDGER)
    live = Live(tmp_path, NOW)
    began = cpu_seconds()
    assert len(live.json("/api/page")["runs"]) == 100
    assert cpu_seconds() - began < 0.1 * 3  # three times the time of a tenth, for slow machines
    alive(tmp_path / "run-0-held", held_events())
    began = cpu_seconds()
    assert len(live.json("/api/page")["runs"]) == 101
    assert cpu_seconds() - began < 0.1


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(InputError, match="there is no folder"):
        RunFolder(tmp_path / "missing", NOW)
