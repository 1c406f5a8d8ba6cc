"""State of a run, from the ledger of a real one."""

from __future__ import annotations

from datetime import timedelta

from lowcarb_scheduler.clock import VirtualClock
from lowcarb_scheduler.monitor.state import RunState
from support.apps import WorkingGrid
from support.forecast_sources import Curve
from support.ledgers import events_of
from support.runs import HOUR, run


def test_a_hold_tells_the_rounds_that_no_plan_in_the_ledger_has(midnight):
    # The first plan in a ledger has all rounds, a later one the next four.
    news = [(midnight + timedelta(hours=6.5), [*range(6, 12), *range(30, 34)])]
    source = Curve(midnight, clean=range(6, 16), changes=news)
    events = run(
        WorkingGrid(), VirtualClock(midnight), 10, source=source, round_duration=HOUR, finish_by=48 * HOUR
    )
    plans = [each for each in events if each["event"] == "planned"]
    assert [len(each["windows"]) for each in plans] == [10, 4]
    first, late = [k for k, each in enumerate(events) if each["event"] == "hold_started"]
    assert "windows" not in events[first]
    assert events[late]["round"] == 7

    held = RunState.of(events_of(events[: late + 1]), is_alive=True)
    assert [window.round for window in held.upcoming] == [7, 8, 9, 10]
    assert held.upcoming[0].opens_at == held.opens_at
    assert held.finish == held.upcoming[-1].closes_at
    assert sum(held.upcoming[0].locations.values()) == 2
    assert held.to_come_g is None  # nobody told what round 6 was planned to emit
    assert RunState.of(events_of(events[:late]), is_alive=True).upcoming == ()
    assert [w.round for w in RunState.of(events_of(events[:first]), True).upcoming] == list(range(1, 11))
