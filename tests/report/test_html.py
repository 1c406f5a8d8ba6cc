from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from datetime import datetime
from types import SimpleNamespace

import pytest

from lowcarb_scheduler.accounting.attribution import Accounts, Sci, account
from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.events import Figures
from lowcarb_scheduler.report import formatting
from lowcarb_scheduler.report.about import About
from lowcarb_scheduler.report.html import (
    FOLDER_NAME,
    MOST_FAILURES,
    equal_turns,
    gather,
    numbers_of,
    render,
    write_report,
)
from lowcarb_scheduler.report.summary import dates, summary_of
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


def words(events=None, about=None, **accounts) -> str:
    """Return the visible text of a report without charts, which take longer; ``accounts`` are others."""
    shown = gather(replayed(run_events() if events is None else events), about or About())
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
    """Return the visible text of a page."""
    body = html[html.index("<body>") : html.index("<script")]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", body))


def test_the_page_holds_the_figures_of_the_ledger(report, html):
    assert report.parts[-2:] == ("run", "report.html")
    seen = text(html)
    run = replayed(run_events())
    run_now, realised = formatting.mass(run.run_now_g), formatting.mass(run.realised_g)
    saved = formatting.mass_short(run.run_now_g - run.realised_g)
    for part in (
        "Carbon report: FedAvg, 2 March 2026",
        "completed, 3 of 3 rounds",
        f"{formatting.percent_short(run.saving)} less CO2eq ({saved}), finished 2 h before the deadline, "
        "accuracy 75.0 %.",
        f"{formatting.percent(run.saving)} of {run_now} for run-now",
        "2 h before the deadline",
        "expected saving 20.0 % by the initial plan, which emits 1.20 kg",
        "km by car (250 g/km: US EPA, EPA-420-F-23-014)",
        "Data: trace files of the user; the terms are those of their provider.",
        "DE (Germany)",
        f"run-now {run_now}",
        f"realised {realised}",
        f"planned {formatting.mass(run.planned_g)}",
        "5.00 kWh of training; basis: 60 % assumed, 40 % estimated",
        "data from traces; average grid intensity",
        "Jain's index 0.893",
        "the source did not answer",
        "node site-c at FR no reply",
        f"Accuracy against emissions: 75.0 % after {realised} CO2eq",
        "4 clients completed 1 to 2 turns each",
        f"5.00 kWh × {run.realised_g / 5:.0f} g/kWh / 3 rounds = "
        f"{formatting.mass(run.realised_g / 3)} per round",
    ):
        assert part in seen.replace("&#39;", "'"), part


def test_the_page_is_one_file_that_loads_nothing(html):
    addresses = re.findall(r"""(?:src|href|action|url)\s*[=(]\s*["']?([^"')\s>]+)""", html)
    assert addresses
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in addresses)


def test_the_only_script_is_our_own_and_the_policy_names_it_by_its_hash(html):
    (script,) = re.findall(r"<script[^>]*>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:" in html
    )
    assert not re.search(r"<[^>]*\son\w+\s*=", html.replace(script, ""))  # no handlers in attributes


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
    assert "The saving is not known, finished 2 h before the deadline" in seen
    assert "realised unknown" in seen
    assert "planned 1.23 kg" in seen
    assert "at the cumulative planned emissions" in seen


def test_one_round_without_actuals_leaves_no_total():
    seen = words(without_actuals=1, run=emitting(realised_g=None))
    assert "not known for 1 of 3 rounds" in seen
    assert "The saving is not known" in seen


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
    assert html.count("<script") == 1
    assert "<script>alert" not in html
    assert "\x1b" not in html
    assert "\u202e" not in html
    assert "&lt;script&gt;" in html


def test_very_many_failures_are_counted():
    events = run_events()
    failed = next(e for e in events if e["event"] == "node_failed")
    events[5:5] = [failed] * (MOST_FAILURES + 9)
    assert "10 more failed turns are in report/mishaps.csv" in words(events)


def test_a_negative_saving_is_shown_as_it_is():
    seen = words(run=emitting(realised_g=1250.0, run_now_g=1000.0))
    assert "25 % more CO2eq (250 g), finished 2 h before the deadline" in seen
    assert "CO2eq added 250 g 25.0 % of 1.00 kg for run-now" in seen
    assert "That adds as much CO2eq as 1.0 km by car" in seen


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
        "State on, with one memory per location",
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


# -- What people add, and the first screen -----------------------------------------------------------------


def test_title_owner_purpose_and_a_comparison_stand_on_top():
    about = About(
        "Spring <b>run</b>", "Imaging group", "find tumours", embodied_g=900.0, compared_with="plain FedAvg",
        compared_metrics={"accuracy": 0.801},
    )  # fmt: skip
    seen = words(about=about)
    for part in (
        "Carbon report: Spring &lt;b&gt;run&lt;/b&gt;",
        "Owner: Imaging group · Purpose: find tumours",
        "accuracy 75.0 % (plain FedAvg: 80.1 %)",
        "+ 900 g) / 3 rounds",
        "M (manufacturing of hardware) as stated for this run",
        "made from ledger.jsonl and about.json alone",
    ):
        assert part in seen, part


def test_an_app_names_its_report():
    events = run_events()
    events[0]["app"] = "me/tumours"
    assert summary_of(account(replayed(events)), About()).title == "tumours, 2 March 2026"


@pytest.mark.parametrize(
    ("first", "last", "shown"),
    [
        ("2026-03-02T23:00", "2026-03-03T01:00", "2 to 3 March 2026"),
        ("2026-03-30T23:00", "2026-04-02T01:00", "30 March to 2 April 2026"),
        ("2025-12-30T23:00", "2026-01-02T01:00", "30 December 2025 to 2 January 2026"),
    ],
)
def test_dates_are_written_as_people_do(first, last, shown):
    assert dates(*(datetime.fromisoformat(f"{each}+00:00") for each in (first, last))) == shown


def test_equal_bars_become_a_sentence():
    same = Accounts(
        run=emitting(realised_g=800.0, run_now_g=1000.0),
        waterfall=(), by_phase=(), by_location=(), by_client=(),
        sci=Sci(1.0, 800.0, 3), without_actuals=0, front=None,
        hindsight=SimpleNamespace(plan=SimpleNamespace(emissions_g=800.2), known_until=None),
    )  # fmt: skip
    bars, sentence = numbers_of(same)
    assert [bar.name for bar in bars] == ["run-now", "planned", "realised"]
    assert sentence == "Hindsight is equal to realised: 800 g."


def test_equal_turns_are_a_sentence_and_no_chart():
    events = [event for event in run_events() if event.get("round") != 3]
    run = replayed(events)
    assert equal_turns(run) == "Each of the 4 clients completed 1 turn."
    seen = words(events)
    assert "Participation Each of the 4 clients completed 1 turn." in seen
    assert "one bar per client" not in seen


def test_contents_lead_to_sections(html):
    (contents,) = re.findall(r'<nav class="toc".*?</nav>', html, re.DOTALL)
    anchors = re.findall(r'href="#([^"]+)"', contents)
    assert len(anchors) >= 8
    assert all(f' id="{anchor}"' in html for anchor in anchors)


def test_marks_of_charts_tell_what_they_stand_for(html):
    for part in (
        "<title>round 1: 1 client at DE (Germany), Mon 00:00 to 01:00 UTC</title>",
        "<title>site-a: 2 turns</title>",
        "<title>choice of time: ",
    ):
        assert html.count(part) == 2 or part.endswith(": "), part  # for the desk and for the phone
        assert part in html, part


def test_a_run_that_is_held_shows_its_plan():
    events = [
        event for event in run_events() if event.get("round", 1) == 1 and event["event"] != "run_finished"
    ]
    seen = words(events)
    assert "in 1 of 3 rounds, planned to finish 2 h before the deadline" in seen
    assert "1 finished round and the next 2 planned rounds, by time and location" in seen
    assert "2 2026-03-02 02:00 2026-03-02 03:00 400 g DE 1, FR 1" in seen
    held = words(run_events()[:6])
    assert "No round of 3 has closed yet, planned to finish 2 h before the deadline." in held
    assert "3 planned rounds by time and location" in held


def test_a_round_that_did_not_wait_says_so():
    seen = words()
    assert "0 s" not in seen
    assert "no wait" in seen


def first_screen(events):
    shown = summary_of(account(replayed(events)), About())
    return shown.sentence, {figure.name: (figure.value, figure.note) for figure in shown.figures}


def test_a_run_that_has_only_begun_claims_nothing():
    sentence, figures = first_screen(run_events()[:1])
    assert sentence == "No round of 3 has closed yet."
    assert figures == {
        "CO2eq saved": ("unknown", "no round has closed yet"),
        "planned finish": ("unknown", "deadline 2026-03-02 06:00 UTC"),
        "participation": ("unknown", "no client is connected yet"),
        "expected saving": ("unknown", "no plan yet"),
    }


def test_a_run_that_failed_or_has_no_deadline_is_told_as_it_is():
    events = [event for event in run_events() if event.get("round", 1) == 1]
    events[-1]["status"] = "failed"
    sentence, figures = first_screen(events)
    assert sentence.startswith("As much CO2eq as without waiting in 1 of 3 rounds, failed after 1 round, ")
    assert figures["CO2eq saved"] == ("0 g", "0.0 % of 572 g for run-now in 1 of 3 rounds")
    assert figures["end"] == ("failed", "1 of 3 rounds closed")
    events = run_events()
    events[0]["finish_by"] = events[-1]["finish_by"] = None
    sentence, figures = first_screen(events)
    assert ", finished after 4 h, accuracy 75.0 %." in sentence
    assert figures["finished"] == ("2026-03-02 04:00", "UTC; no deadline")
