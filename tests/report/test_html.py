from __future__ import annotations

import re
from dataclasses import replace

import pytest

from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.events import Figures
from lowcarb_scheduler.report import formatting
from lowcarb_scheduler.report.html import FOLDER_NAME, MOST_FAILURES, gather, render, write_report
from support.ledgers import replayed
from support.report_ledger import run_events, write_ledger


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Write the report of a run: drawing its charts takes seconds."""
    return write_report(write_ledger(tmp_path_factory.mktemp("report") / "run", run_events()))


@pytest.fixture(scope="module")
def html(report):
    return report.read_text(encoding="utf-8")


def page(events) -> str:
    return render(gather(replayed(events)))


def words(events=None, **accounts) -> str:
    """Return what a reader sees, but for what is drawn, which takes longer; ``accounts`` are others."""
    shown = gather(replayed(run_events() if events is None else events))
    blank = tuple(replace(picture, height_in=1, paint=lambda figure: None) for picture in shown.pictures)
    return text(render(replace(shown, pictures=blank, accounts=replace(shown.accounts, **accounts))))


def emitting(realised_g, run_now_g=0.0):
    """Return a run of which the first round has these emissions, and the others none."""
    run = replayed(run_events())
    none = {
        r.number: Figures(round=r.number, planned_g=0.0, realised_g=0.0, run_now_g=0.0) for r in run.rounds
    }
    first = replace(none[1], realised_g=realised_g, run_now_g=run_now_g)
    return run.with_figures(none | {1: first})


def text(html: str) -> str:
    """Return what a reader sees."""
    body = html[html.index("<body>") :]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", body))


def test_the_page_holds_the_figures_of_the_ledger(report, html):
    assert report.parts[-2:] == ("run", "report.html")
    seen = text(html)
    run = replayed(run_events())
    run_now, realised = formatting.mass(run.run_now_g), formatting.mass(run.realised_g)
    for part in (
        f"{formatting.percent(run.saving)} saved against run-now: {realised} CO2eq instead of {run_now}",
        f"run-now {run_now}",
        f"realised {realised}",
        f"planned {formatting.mass(run.planned_g)}",
        "a saving of 20.0 %",
        "5.00 kWh of training; basis: 60 % assumed, 40 % estimated",
        "data from traces; average grid intensity",
        "2 h before the deadline",
        "Jain's index 0.893",
        "the source did not answer",
        "node site-c at FR no reply",
        f"accuracy against emissions: 0.750 after {realised} CO2eq",
        "4 clients completed 1 to 2 turns each",
        f"5.00 kWh × {run.realised_g / 5:.0f} g/kWh / 3 rounds = "
        f"{formatting.mass(run.realised_g / 3)} per round",
    ):
        assert part in seen.replace("&#39;", "'"), part


def test_the_page_is_one_file_that_loads_nothing(html):
    addresses = re.findall(r"""(?:src|href|action|url)\s*[=(]\s*["']?([^"')\s>]+)""", html)
    assert addresses
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in addresses)
    assert "<script" not in html
    assert "default-src 'none'" in html


def test_ids_of_the_page_are_unique(html):
    names = re.findall(r' id="([^"]*)"', html)
    assert names
    assert len(names) == len(set(names))


def test_pictures_and_tables_stand_beside_the_page(report):
    names = {file.name for file in (report.parent / FOLDER_NAME).iterdir()}
    for name in ("rounds", "chosen", "progress-1", "turns"):
        assert {f"{name}.png", f"{name}.svg"} <= names
    assert {"numbers.csv", "mishaps.csv"} <= names


def test_equal_ledgers_give_equal_pages(html):
    assert page(run_events()) == html


def test_without_actuals_nothing_realised_is_shown():
    seen = words(run_events(actual=False))
    assert "Realised emissions are not known for 3 of 3 rounds" in seen
    assert "saving not known" in seen
    assert "realised unknown" in seen
    assert "planned 1.23 kg" in seen
    assert "at the cumulative planned emissions" in seen


def test_one_round_without_actuals_leaves_no_total():
    seen = words(without_actuals=1, run=emitting(realised_g=None))
    assert "not known for 1 of 3 rounds" in seen
    assert "saving not known" in seen


def test_a_synthetic_run_says_so_first():
    assert "Synthetic: the carbon intensities" in words(run_events(synthetic=True)).replace(" :", ":")


def test_a_run_without_a_source_says_so():
    events = run_events(actual=False)
    events = [event for event in events if event["event"] != "forecast"]
    events[0] |= {"source": None, "signal": "unknown"}
    seen = words(events)
    assert "No forecast source is configured" in seen
    assert "no intensity is known" in seen


@pytest.mark.parametrize("kept", [1, 2, 3, 6, 9, 15, len(run_events()) - 1, len(run_events())])
def test_any_beginning_of_a_ledger_has_a_page(kept):
    seen = words(run_events()[:kept])
    assert ("has not finished" in seen) == (kept < len(run_events()))


def test_names_and_messages_of_nodes_are_escaped():
    lie = "<script>alert(1)</script>[red]\n=cmd|' /C calc'!A0\x1b[31m\u202e"
    events = run_events()
    for event in events:
        for node in event.get("nodes", []):
            node["id"] = node["location"] = lie
        if event["event"] in ("node_done", "node_failed"):
            event["id"] = event["location"] = lie
        if event["event"] == "node_failed":
            event["reason"] = lie
        if event["event"] == "degraded":
            event["why"] = lie
        if event["event"] == "nodes":
            event["joined"] = [{**event["joined"][0], "id": lie, "location": lie}]
        if event["event"] == "evaluated":
            event["metrics"] = {lie: 0.5}
    events[0]["run_id"] = events[0]["strategy"] = lie
    html = page(events)
    assert "<script" not in html
    assert "\x1b" not in html
    assert "\u202e" not in html
    assert "&lt;script&gt;" in html


def test_very_many_failures_are_counted():
    events = run_events()
    failed = next(e for e in events if e["event"] == "node_failed")
    events[5:5] = [failed] * (MOST_FAILURES + 9)
    assert "10 more failed turns are in report/mishaps.csv" in words(events)


def test_a_negative_saving_is_shown_as_it_is():
    assert "-25.0 % saved against run-now: 1.25 kg" in words(
        run=emitting(realised_g=1250.0, run_now_g=1000.0)
    )


def test_a_folder_without_a_ledger_is_bad_input(tmp_path):
    with pytest.raises(InputError, match="run-dir"):
        write_report(tmp_path)


def test_a_time_that_is_none_is_bad_input_that_names_the_ledger(tmp_path):
    events = run_events()
    next(e for e in events if e["event"] == "round_closed")["opens_at"] = "yesterday"
    with pytest.raises(InputError, match=r"ledger\.jsonl: opens_at: 'yesterday' is not a time"):
        write_report(write_ledger(tmp_path / "run", events))


def test_a_foreign_event_is_bad_input(tmp_path):
    events = run_events()
    del next(e for e in events if e["event"] == "round_closed")["opens_at"]
    with pytest.raises(InputError, match="an event this version does not write"):
        write_report(write_ledger(tmp_path / "run", events))


def corrected(*rounds, mode="location", reason=None):
    """Return the events of a run with a correction of each round: ratio, cut, and reason against it."""
    events = []
    for each in run_events():
        if each["event"] == "round_closed" and len(rounds) >= each["round"]:
            ratio, was_cut, why = rounds[each["round"] - 1]
            about = {"round": each["round"], "places": 4, "oldest": each["round"]}
            event = {"event": "round_corrected", "ratio": ratio, "was_cut": was_cut, "reason": why}
            events.append({"v": 1, "at": each["at"], **event, **about})
        events.append(each)
        if each["event"] == "run_started":
            events.append(
                {"v": 1, "at": each["at"], "event": "correction_settled", "mode": mode, "reason": reason}
            )
    return events


def test_the_correction_is_shown_with_its_size_ages_and_bound():
    seen = words(corrected((0.0, False, None), (0.5, True, None), (None, False, "the reply of node 'a' <b>")))
    for part in (
        "Participation correction",
        "State on, with a memory of each location",
        "Corrected 2 round(s)",
        "Size 0.25 of a round's own step on average, 0.50 at most",
        "Memory 4 location(s), up to 3 round(s) old",
        "Trust bound shortened the correction in 1 round(s)",
        "Without correction 1 round(s): the reply of node &#39;a&#39; &lt;b&gt;",
    ):
        assert part in seen.replace("round&#39;s own", "round's own")


def test_a_correction_that_is_off_says_why():
    seen = words(corrected(mode="off", reason="QFedAvg weighs replies by their loss"))
    assert "State off: QFedAvg weighs replies by their loss" in seen
    assert "Trust bound" not in seen


def test_a_ledger_without_a_correction_has_no_such_section():
    assert "Participation correction" not in words()
