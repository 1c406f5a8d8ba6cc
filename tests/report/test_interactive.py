"""The interactive page, without a browser: its content, and that no name becomes markup."""

from __future__ import annotations

import base64
import hashlib
import json
import re

import pytest

from lowcarb_scheduler.report.html import gather
from lowcarb_scheduler.report.interactive import charts_of, render
from support.ledgers import replayed
from support.report_ledger import run_events

pytest.importorskip("plotly", reason="needs the extra interactive")
LIE = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def lying():
    events = run_events()
    for event in events:
        for node in (*event.get("nodes", []), *event.get("joined", [])):
            node["id"] = LIE if node["id"] == "site-a" else node["id"]
            node["location"] = LIE if node["location"] == "DE" else node["location"]
        if event.get("id") == "site-a":
            event["id"] = LIE
        if event.get("location") == "DE":
            event["location"] = LIE
        if event["event"] == "evaluated":
            event["metrics"] = {LIE: event["round"] / 4}
    events[0]["strategy"] = LIE
    return gather(replayed(events))


def test_no_name_becomes_markup(lying):
    page = render(lying)
    assert LIE not in page
    found = re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL)
    assert len(found) == 3
    charts = json.loads(found[0])
    names = {name for chart in charts for trace in chart["traces"] for name in trace.get("y", [])}
    assert "&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;" in names  # plotly reads tags in text


def test_the_policy_names_its_scripts_by_their_hashes(lying):
    page = render(lying)
    _, *scripts = re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in scripts]
    policy = f"script-src 'sha256-{hashes[0]}' 'sha256-{hashes[1]}'; style-src"
    assert policy in page.replace("&#39;", "'")


def test_it_has_the_charts_of_the_report():
    page = gather(replayed(run_events()))
    titles = [chart.title for chart in charts_of(page)]
    assert titles == [
        "Rounds by time and location", "From run-now to realised",
        "Time-carbon trade-off: options at start, and the outcome", "Intensity while training",
        "Accuracy against emissions", "Completed turns of each client",
    ]  # fmt: skip
    rounds, waterfall, *_ = charts_of(page)
    heat, boxes = rounds.traces
    assert heat["y"] == ["FR", "DE"]
    assert boxes["hovertext"][0].startswith("round 1: 1 client at ")
    assert waterfall.traces[0]["x"][0] == pytest.approx(page.accounts.run.run_now_g / 1000)


def test_a_held_run_shows_its_plan():
    page = gather(replayed(run_events()[:6]))
    (rounds,) = [chart for chart in charts_of(page) if chart.title.startswith("Rounds")]
    assert [trace.get("name") for trace in rounds.traces] == [None, "planned rounds"]
