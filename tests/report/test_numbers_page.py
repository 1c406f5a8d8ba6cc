"""The worked example of docs/explanation/numbers.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lowcarb_scheduler.accounting.attribution import account
from lowcarb_scheduler.report import formatting
from support.ledgers import replayed
from support.report_ledger import at, event, record, run_events

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "numbers.md"
ACTUAL = {"DE": [500, 470, 450, 440, 430], "FR": [300, 250, 220, 260, 180]}  # from 08:00
FORECAST = {"DE": [500, 470, 450, 440, 430], "FR": [290, 250, 200, 230, 240]}
ABOUT = {"source": "traces", "signal": "average", "synthetic": False}
B = {"id": "B", "location": "FR"}


@pytest.fixture(scope="module")
def accounts():
    started, *_, finished = run_events()
    started |= {"rounds": 1, "clients_per_round": 1, "finish_by": at(13), "target_finish": at(13)}
    started |= {"at": event(8, "")["at"], "grid_from": at(8)}
    power = {"power_watts": 1000.0, "duration_s": None}
    joined = [{"id": "A", "location": "DE", **power}, {**B, **power}]
    planned = next(e for e in run_events() if e["event"] == "planned")
    window = {
        "round": 1,
        "opens_at": at(10),
        "closes_at": at(11),
        "emissions_g": 200.0,
        "locations": {"FR": 1},
    }
    figures = {"planned_g": 200.0, "realised_g": None, "run_now_g": None}
    events = [
        started,
        event(8, "nodes", left=[], joined=joined),
        event(8, "forecast", round=1, generated_at=at(8), issued_at={}, missing={}, last_good={},
              **record(FORECAST, 8), **ABOUT),
        planned | {"at": event(8, "")["at"], "grid_from": at(8), "finish_by": at(13), "target_finish": at(13),
                   "windows": [window]},
        event(10, "round_opened", round=1, opened_at=at(10), held_s=7200.0, planned_opens_at=at(10),
              nodes=[{**B, "starts_at": at(10), "ends_at": at(11)}], planned_g=200.0, mean_g_per_kwh=200.0),
        event(11.5, "node_done", round=1, started_at=at(10.5), duration_s=3600,
              power_watts=1000.0, energy_kwh=1.0, energy_basis="estimated", **B),
        event(11.5, "round_closed", round=1, opens_at=at(10), closes_at=at(11.5), round_duration_s=3600,
              nodes_done=1, nodes_failed=0, energy_kwh=1.0, **figures),
        finished | {"at": event(11.5, "")["at"], "finish": at(11.5), "finish_by": at(13),
                    "rounds": [{"round": 1, "evaluation_g": 0.0, **figures}]},
        event(13, "actual", **record(ACTUAL, 8), **ABOUT),
    ]  # fmt: skip
    return account(replayed(events))


def test_the_four_numbers_and_the_saving_are_those_of_the_page(accounts):
    numbers = {
        "run-now": accounts.run.run_now_g, "planned": accounts.run.planned_g,
        "realised": accounts.run.realised_g, "hindsight": accounts.hindsight_g,
    }  # fmt: skip
    page = PAGE.read_text(encoding="utf-8")
    for name, grams in numbers.items():
        assert re.search(rf"\| \*\*{name}\*\* \|.*\| {formatting.mass(grams)} \|", page)
    assert re.search(rf"\| \*\*saving\*\* \|.*\| {formatting.percent(accounts.run.saving, 0)} \|", page)


def test_the_steps_are_those_of_the_page(accounts):
    page = PAGE.read_text(encoding="utf-8")
    steps = [step for step in accounts.waterfall if step.kind == "change"]
    assert len(steps) == 4
    for step in steps:
        assert re.search(
            rf"\| {step.name} \|.*\| {step.change_g:+.0f} g \|".replace("-", "−").replace("+", r"\+"), page
        )
