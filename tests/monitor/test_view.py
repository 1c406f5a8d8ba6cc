"""The view of a run, as a reader sees it at 80 and 120 columns: tests/golden/views.txt, and any other width.

    PYTHONPATH=src:tests python tests/monitor/test_view.py

writes that file anew; read the difference before it is committed.
"""

from __future__ import annotations

import io
from datetime import UTC, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from lowcarb_scheduler.monitor.state import RunState
from lowcarb_scheduler.monitor.view import ASCII, COLOUR, PLAIN, RunView
from lowcarb_scheduler.report.formatting import Times
from support.ledgers import events_of
from support.page_blocks import blocks
from support.report_ledger import START, at, event, record, run_events

GOLDEN = Path(__file__).parents[1] / "golden" / "views.txt"
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "watch.md"
NOW = START + timedelta(hours=1, minutes=30)
REASON = "its clients' grids are cleaner then: 12 % less than at once, and 3 h of slack are left after it"
PLACES = {
    "Königreich-von-weit-her-mit-langem-Namen": 90,
    "日本東京電力管内の長い名前の場所": 300,
    "<b>[red]x[/red]": 200,
    **{f"US-{k:02}": 100 + 30 * k for k in range(9)},
}  # fmt: skip


def cut(events, name, number=None):
    """Return events up to one of a name and a round."""
    (k, *_) = [k for k, each in enumerate(events)
               if each["event"] == name and number in (None, each.get("round"))]  # fmt: skip
    return events[: k + 1]


def small(**first):
    """Return a run of three rounds at two places, the second of them held for another hour."""
    events = run_events()
    events[0] |= {"clock": "system", **first}
    for each in events:
        if each["event"] == "hold_started":
            each |= {
                "until": at(2),
                "reason": REASON,
                "seconds": 3600.0,
                "planned_g": 300.0,
                "at_once_g": 500.0,
            }
    return events


def large():
    """Return a run of forty rounds at twelve places with odd names, before its first round."""
    events = small(rounds=40, finish_by=at(100))
    hours = {name: [g + 10.0 * (h % 24) for h in range(70)] for name, g in PLACES.items()}
    hours["US-03"] = [None] * 70
    about = {"source": "a", "signal": "marginal", "synthetic": False}
    windows = [
        {"round": k, "opens_at": at(3 * k), "closes_at": at(3 * k + 1), "emissions_g": 400.0 * k,
         "locations": dict.fromkeys(PLACES, k) | {"日本東京電力管内の長い名前の場所": k + 1}}
        for k in range(1, 9)
    ]  # fmt: skip
    forecast = event(0, "forecast", round=1, generated_at=at(0), issued_at={}, missing={}, last_good={},
                     **record(hours), **about)  # fmt: skip
    planned = {**events[3], "windows": windows, "finish": at(80), "finish_by": at(100)}
    planned |= {"emissions_g": 9e4, "run_now_emissions_g": None}
    node = {"id": "<script>" * 9, "location": None, "reason": "no\nreply " * 30}
    failed = [event(1, "node_failed", round=1, **node)] * 4
    hold = event(1, "hold_started", round=1, until=at(3), seconds=7200.0, reason=REASON)
    return [events[0], forecast, planned, *failed, hold]


def no_forecast():
    """Return a run without a source, which waits for nodes."""
    events = small(source=None)
    nothing = {"emissions_g": None, "lower_bound_g": None, "run_now_emissions_g": None, "saving": None}
    windows = [{**each, "emissions_g": None} for each in events[3]["windows"]]
    planned = {**events[3], **nothing, "windows": windows, "basis": "none"}
    line = "1 of 3 nodes are connected, 2 are needed; waiting for more until 2026-03-02 04:00:00 UTC at most"
    return [events[0], events[1], planned, event(1, "nodes_awaited", round=1, until=at(4), reason=line)]


def degraded():
    """Return a run whose source failed four times, and whose last round is late."""
    events = cut(small(finish_by=at(1.75)), "round_closed", 1)
    for each in events:
        if each["event"] == "planned":
            each |= {"finish_by": at(1.75)}
    fault = {"what": "forecast", "why": "the source did not answer", "consequence": "last good forecast"}
    return [*events, *(event(1 + k / 10, "degraded", **fault) for k in range(4))]


RUNS = {
    "held": (cut(small(), "hold_started", 2), True),
    "training": (cut(small(), "round_opened", 2), True),
    "finished": (small(), False),
    "gone": (cut(small(), "hold_started", 2), False),
    "degraded": (degraded(), True),
    "no forecast": (no_forecast(), True),
    "virtual": (cut(small(clock="virtual"), "round_closed", 1), None),
    "large": (large(), True),
}


def view(name, look=PLAIN):
    """Return the view of a run, half an hour before or after an opening."""
    events, is_alive = RUNS[name]
    now = NOW + timedelta(hours=1) if name == "training" else NOW
    return RunView(RunState.of(events_of(events), is_alive), now, Times(UTC), look)


def lines(name, width, look=PLAIN):
    """Return the lines of a view on a terminal without colours."""
    screen = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
    screen.print(view(name, look))
    return screen.file.getvalue().splitlines()


def pages():
    """Return all views at both widths, each under its name."""
    shown = []
    for name in RUNS:
        for width in (80, 120):
            shown += [f"=== {name}, {width} columns", *(line.rstrip() for line in lines(name, width)), ""]
    return "\n".join(shown)


def test_views_are_as_they_were_read():
    assert pages() == GOLDEN.read_text(encoding="utf-8")


@pytest.mark.parametrize("look", [PLAIN, ASCII, COLOUR], ids=["plain", "ascii", "colour"])
@pytest.mark.parametrize("width", [10, 40, 80, 120, 200])
@pytest.mark.parametrize("name", RUNS)
def test_every_line_fits(name, width, look):
    found = list(view(name, look).lines(width))
    assert max(line.cell_len for line in found) <= width
    # rich has broken none of them in two.
    assert len(lines(name, width, look)) == len(found)
    assert not any(char in line.plain for line in found for char in "\n\r\x1b")


@pytest.mark.parametrize("name", RUNS)
def test_ascii_is_ascii(name):
    assert "\n".join(lines(name, 80, ASCII)).isascii()


def test_colours_are_relative_and_dark_is_clean():
    shown = {line.plain[:2]: line for line in view("held", COLOUR).lines(80)}
    colours = {place: [str(span.style) for span in shown[place].spans] for place in ("DE", "FR")}
    assert "on #00224e" in colours["FR"][2]  # 40 g/kWh, the least of both places
    assert "on #fee838" in colours["DE"][0]  # 480 g/kWh, the most


def test_the_page_shows_the_view():
    events = cut(small(), "hold_started", 2)
    events[-1]["reason"] = "its clients' grids are cleaner then"
    shown = RunView(RunState.of(events_of(events), True), NOW, Times(UTC)).lines(80)
    text = "\n".join(line.plain.rstrip() for line in shown)
    block, *_ = blocks(PAGE.read_text(encoding="utf-8"), "text")
    assert text.startswith(block.text)


def test_slack_is_the_time_that_the_rest_could_wait():
    hour = timedelta(hours=1)
    held = RunState.of(events_of(RUNS["held"][0]), True)
    assert held.slack(NOW) == 6 * hour - 1.5 * hour - 2 * hour
    training = RunState.of(events_of(RUNS["training"][0]), True)
    assert training.slack(START + 2.5 * hour) == 6 * hour - 3 * hour - hour  # its round ends at three
    assert training.slack(START + 3.5 * hour) == 6 * hour - 3.5 * hour - hour  # and is over time
    assert RunState.of(events_of(RUNS["finished"][0]), False).slack(NOW) is None


if __name__ == "__main__":
    GOLDEN.write_text(pages(), encoding="utf-8")
