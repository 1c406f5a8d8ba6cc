"""The replay of a ledger: sums, and figures that are learned after a round has closed."""

from __future__ import annotations

from datetime import timedelta

import pytest

from lowcarb_scheduler.clock import format_time
from support.ledgers import replayed
from support.report_ledger import at, event, run_events

LEFT_OUT = "round_opened", "node_done", "node_failed", "round_closed", "evaluated", "hold_started"


def round_of(number, **grams):
    """Return the events of a round of two nodes that was held for a minute."""
    given = {"planned_g": 10.0, "realised_g": 11.0, "run_now_g": 20.0, **grams}
    turn = {"location": "DE", "started_at": at(number), "duration_s": 3600.0}
    return [
        event(number, "round_opened", round=number, opened_at=at(number), held_s=60.0, nodes=[],
              planned_opens_at=at(number), planned_g=10.0, mean_g_per_kwh=None),
        *(event(number, "node_done", round=number, id=name, power_watts=250.0, energy_kwh=0.25,
                energy_basis="estimated", **turn) for name in ("site-a", "site-b")),
        event(number, "round_closed", round=number, opens_at=at(number), closes_at=at(number + 1),
              round_duration_s=3600.0, nodes_done=2, nodes_failed=0, energy_kwh=0.5, **given),
    ]  # fmt: skip


@pytest.fixture
def begun():
    """The events before the first round."""
    return [each for each in run_events(finished=False) if each["event"] not in LEFT_OUT]


def test_the_summary_adds_up(begun):
    evaluated = event(3, "evaluated", round=2, where="server", metrics={"accuracy": 0.9})
    summary = replayed([*begun, *round_of(1), *round_of(2), evaluated])
    assert (summary.planned_g, summary.realised_g, summary.run_now_g) == (20.0, 22.0, 40.0)
    assert summary.saving == pytest.approx(0.45)
    assert summary.energy_kwh == 1.0
    assert summary.energy_by_basis == {"estimated": 1.0}
    assert dict(summary.turns) == {"site-a": 2, "site-b": 2, "site-c": 0, "site-d": 0}
    assert summary.jain == pytest.approx(16 / 32)
    assert summary.rounds[1].metrics == {"accuracy": 0.9}
    assert summary.rounds[0].held == timedelta(minutes=1)
    assert summary.status == "unfinished"


def test_what_is_unknown_in_one_round_is_unknown_in_sum_until_it_is_learned(begun):
    events = [*begun, *round_of(1), *round_of(2, realised_g=None)]
    assert replayed(events).realised_g is None
    assert replayed(events).saving is None
    late = {"round": 2, "planned_g": 10.0, "realised_g": 12.0, "run_now_g": 20.0}
    finished = {**run_events()[-1], "rounds": [late]}
    summary = replayed([*events, finished])
    assert (summary.realised_g, summary.status) == (23.0, "completed")


def test_hours_that_are_known_later_settle_the_rounds_that_had_closed(begun):
    """A run that is held, or was stopped, shows what its source has told meanwhile."""
    late = next(each for each in reversed(run_events()) if each["event"] == "actual")
    unknown = {"realised_g": None, "run_now_g": None}
    summary = replayed([*begun, *round_of(1, **unknown), *round_of(2, realised_g=None), late])
    assert summary.status == "unfinished"
    assert [each.realised_g for each in summary.rounds] == pytest.approx([0.5 * 470, 0.5 * 320])
    assert summary.rounds[1].run_now_g == 20.0  # what was known stays
    assert summary.rounds[0].run_now_g is not None


def test_run_now_opens_the_next_round_when_this_one_would_really_have_ended(begun):
    *opening, closing = round_of(1)
    overrun = {**closing, "closes_at": at(3.5)}  # planned were 60 minutes, it took 150
    first, second = replayed([*begun, *opening, overrun, *round_of(4)]).rounds
    assert second.run_now_at - first.run_now_at == timedelta(minutes=150)


def test_rounds_to_come_are_those_planned_last():
    events = run_events(finished=False)
    planned = next(event for event in events if event["event"] == "planned")
    moved = {**planned["windows"][1], "opens_at": at(2.5), "closes_at": at(3)}
    later = {**planned, "round": 2, "windows": [moved]}
    until_2 = [event for event in events if event.get("round", 1) == 1]
    (second, third) = replayed([*until_2, later]).upcoming
    assert (second.round, format_time(second.opens_at)) == (2, at(2.5))
    assert third.round == 3  # which only the first plan lists
    crossing = {**later, "windows": [{**moved, "closes_at": at(3.5)}]}
    assert [window.round for window in replayed([*until_2, crossing]).upcoming] == [2]
    assert replayed(run_events()).upcoming == ()
    assert replayed(events[:1]).upcoming == ()
