from __future__ import annotations

from datetime import timedelta

import numpy as np

from lowcarb_scheduler.clock import to_us
from lowcarb_scheduler.intensity import IntensityTable
from lowcarb_scheduler.report.rounds import RoundBar, arrange, gantt_of_run
from lowcarb_scheduler.report.style import MOST_ROWS
from support.ledgers import replayed
from support.report_ledger import ACTUAL, FORECAST, START, at, event, record, run_events


def test_a_run_has_its_rounds_its_first_plan_and_its_deadline():
    shown = gantt_of_run(replayed(run_events()))
    assert [bar.number for bar in shown.rounds] == [1, 2, 3]
    assert [bar.opens_at.hour for bar in shown.rounds] == [0, 2, 3]
    assert [bar.opens_at.hour for bar in shown.outlines] == [1, 2, 3]
    assert all(bar.clients == {"DE": 1, "FR": 1} for bar in shown.rounds)
    assert (shown.start, shown.end.hour, shown.finish_by.hour) == (START, 6, 6)


def test_rows_are_locations_from_cleanest_to_unknown_intensity():
    later = START + timedelta(hours=2)
    names = ("b-unknown", "dirty", "a-unknown", "clean", "negative")
    bar = RoundBar(1, START, later, dict.fromkeys(names, 1))
    table = IntensityTable(
        np.array([to_us(START), to_us(later)]), ("dirty", "clean", "negative"), np.array([[9.0, 3.0, -1.0]])
    )
    shown = arrange(names, table, (bar,), (), None, None)
    assert shown.locations == ("negative", "clean", "dirty", "a-unknown", "b-unknown")
    assert shown.intensity.locations == shown.locations


def test_a_round_that_took_no_time_has_a_picture():
    shown = arrange(["DE"], None, (RoundBar(1, START, START, {"DE": 1}),), (), None, None)
    assert shown.end > shown.start


def test_a_run_without_closed_rounds_has_no_picture():
    assert gantt_of_run(replayed(run_events()[:3])) is None


def test_actuals_cover_the_forecast_and_only_where_they_are():
    events = [e for e in run_events() if e["event"] != "actual"]
    about = {"source": "traces", "signal": "average", "synthetic": False}
    for hour in (0, 2, 3):
        seen = {name: values[hour : hour + 1] for name, values in ACTUAL.items()}
        events.append(event(hour + 1, "actual", **record(seen, hour), **about))
    table = replayed(events).known_intensity
    hours = {name: table.values[:, k] for k, name in enumerate(table.locations)}
    for name in ("DE", "FR"):
        expected = [ACTUAL[name][h] if h in (0, 2, 3) else FORECAST[name][h] for h in range(6)]
        np.testing.assert_array_equal(hours[name], expected)


def test_a_newer_forecast_covers_an_older_one_and_a_gap_does_not():
    about = {"source": "s", "signal": "average", "synthetic": False, "generated_at": at(0), "missing": {}}
    about |= {"issued_at": {}, "last_good": {}}
    older = event(0, "forecast", **record({"DE": [1.0, 2.0, 3.0]}), **about)
    newer = event(1, "forecast", **record({"DE": [20.0, None]}, first=1), **about)
    np.testing.assert_array_equal(replayed([older, newer]).known_intensity.values[:, 0], [1.0, 20.0, 3.0])


def test_a_ledger_without_intensity_knows_none():
    events = [e for e in run_events() if e["event"] not in ("forecast", "actual")]
    assert replayed(events).known_intensity is None
    assert gantt_of_run(replayed(events)).locations == ("DE", "FR")


def test_many_locations_keep_the_rows_with_most_clients():
    names = [f"L{k:03}" for k in range(MOST_ROWS + 5)]
    later = START.replace(hour=1)
    bar = RoundBar(1, START, later, {name: 1 + k for k, name in enumerate(names)})
    shown = arrange(names, None, (bar,), (), None, None)
    assert shown.hidden == 5
    assert shown.locations == tuple(names[5:])


def test_a_deadline_far_away_does_not_squeeze_the_rounds():
    bar = RoundBar(1, START, START.replace(hour=10), {"DE": 1})
    table = IntensityTable.from_points({"DE": ([0], [1.0])})
    near = arrange(["DE"], None, (bar,), (), None, START.replace(hour=12))
    far = arrange(["DE"], table, (bar,), (), None, START.replace(day=20))
    assert (near.end.hour, far.end.hour) == (12, 10)
    assert far.intensity is None  # the table does not reach the rounds
