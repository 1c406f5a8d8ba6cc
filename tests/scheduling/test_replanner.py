"""Replanning: a plan is made again if its inputs change, with a reason, and is kept if they do not."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from lowcarb_scheduler import IntensityTable
from lowcarb_scheduler.accounting.turns import Profile
from lowcarb_scheduler.clock import HOUR_US, to_us
from lowcarb_scheduler.intensity import Provenance
from lowcarb_scheduler.scheduling.intensity_feed import KnownIntensity
from lowcarb_scheduler.scheduling.replanner import PlanInputs
from support.apps import WorkingGrid, make_grid
from support.clocks import Machine
from support.forecast_sources import Curve
from support.ledgers import read_records
from support.runs import RUN, named, opened, run, run_curve

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)


@pytest.fixture
def grid():
    return WorkingGrid()


def table(midnight, hours=24, first=0, change=(), places=("DE", "FR"), signal="average", step=1):
    edges = to_us(midnight) + (first + np.arange(hours * step + 1)) * (HOUR_US // step)
    values = np.repeat(100.0 + np.arange(hours)[:, None], step, axis=0) * np.ones(len(places))
    for hour, value in change:
        values[hour] = value
    return IntensityTable(edges, places, values, Provenance("test", signal))


def profile(node_id, key, watts=300.0):
    return Profile(
        id=key, location="DE", power_watts=watts, duration=None, node_id=node_id, power_assumed=True
    )


def inputs(midnight, forecast, actual=None, nodes=("a", "b"), clients=2, length=HOUR):
    alive = [profile(k, key) for k, key in enumerate(nodes)]
    return PlanInputs.of(alive, clients, length, KnownIntensity(forecast, actual))


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({}, None),
        ({"step": 2}, None),  # the same, said in half hours
        ({"hours": 30}, None),  # it reaches further than the run
        ({"change": [(1, 0.0)]}, None),  # what is over is no news
        ({"change": [(5, 0.0)]}, "new forecast"),
        ({"change": [(5, np.nan)]}, "new forecast"),
        ({"hours": 10}, "new forecast"),
        ({"places": ("DE", "GB")}, "new forecast"),
        ({"signal": "marginal"}, "new forecast"),
    ],
)
def test_a_forecast_is_news_if_it_says_something_else_of_what_is_ahead(midnight, other, reason):
    before, after = inputs(midnight, table(midnight)), inputs(midnight, table(midnight, **other))
    assert before.reason_to_replan(after, midnight + 2 * HOUR, midnight + 24 * HOUR) == reason


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({}, None), ({"nodes": ("a", "c")}, "nodes changed"), ({"nodes": ("a",)}, "nodes changed"),
        ({"clients": 1}, "next round"), ({"length": 2 * HOUR}, "next round"),
    ],
)  # fmt: skip
def test_nodes_and_rounds_are_grounds_too(midnight, other, reason):
    known = table(midnight)
    assert (
        inputs(midnight, known).reason_to_replan(inputs(midnight, known, **other), midnight, midnight)
        == reason
    )


def test_a_node_that_is_known_better_is_another_one(midnight):
    one, other = (profile(1, "a", watts) for watts in (300.0, 200.0))
    before, after = (PlanInputs.of([node], 1, HOUR, KnownIntensity()) for node in (one, other))
    assert before.reason_to_replan(after, midnight, midnight) == "nodes changed"
    again = profile(99, "a")  # back under another id
    assert (
        before.reason_to_replan(PlanInputs.of([again], 1, HOUR, KnownIntensity()), midnight, midnight) is None
    )


def test_what_has_happened_is_news(midnight):
    known, actual = table(midnight), table(midnight, 2)
    before, after = inputs(midnight, known), inputs(midnight, known, actual)
    assert before.reason_to_replan(after, midnight, midnight + HOUR) == "fresh actuals"
    assert after.reason_to_replan(after, midnight, midnight + HOUR) is None


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({}, None),
        ({"step": 2}, None),  # the same, said in half hours
        ({"hours": 3}, "fresh actuals"),
        ({"change": [(0, 7.0)]}, "fresh actuals"),  # revised
    ],
)
def test_actuals_that_are_asked_for_again_are_news_if_they_differ(midnight, other, reason):
    known, now = table(midnight), midnight + 3 * HOUR
    before = inputs(midnight, known, table(midnight, **{"hours": 2}))
    after = inputs(midnight, known, table(midnight, **{"hours": 2, **other}))
    assert before.reason_to_replan(after, now, midnight + 24 * HOUR) == reason


def reasons(events):
    return [event["reason"] for event in named(events, "planned")]


def test_a_round_that_overruns_is_a_reason(midnight):
    machine = Machine(midnight)
    slow = make_grid(machine, lambda number: 170 if number == 2 else 60)
    run(slow, machine, 4, source=Curve(midnight), round_duration=HOUR, finish_by=30 * HOUR)
    events = read_records(RUN)
    again = [event for event in named(events, "planned") if event["reason"] == "overrun"]
    assert [event["round"] for event in again] == [3]
    assert opened(events)[2] >= opened(events)[1] + 170 * MINUTE


def test_a_turn_that_came_to_nothing_is_a_reason(midnight, grid):
    machine = Machine(midnight)
    plain, only_once = grid._reply, min(grid.get_node_ids())  # noqa: SLF001  its one turn is in round 1

    def breaking(message):
        server_round = message.content.config_records.get("config", {}).get("server-round")
        if server_round == 1 and message.metadata.dst_node_id == only_once:
            grid.kill(only_once)
            reply = plain(message)
            grid._dead.discard(only_once)  # noqa: SLF001  it is there again
            return reply
        return plain(message)

    grid._reply = breaking  # noqa: SLF001
    events = run_curve(grid, machine, rounds=4)
    (failed,) = named(events, "node_failed")
    assert reasons(events)[1] == "turns owed"
    assert failed["id"] in {event["id"] for event in named(events, "node_done")}  # it has had its turn


def test_time_that_is_kept_no_more_is_a_reason(midnight, grid):
    class Unseen(Curve):
        """A source that does not know what has happened."""

        def actual(self, locations, start, end):
            raise OSError("not recorded")

    source = Unseen(midnight, clean=range(40, 60))
    events = run_curve(grid, Machine(midnight), rounds=16, source=source, finish_by=60 * HOUR)
    assert set(reasons(events)) == {"next round", "more time"}
    assert named(events, "run_finished")[0]["late"] is False
    clean = sum(midnight + 40 * HOUR <= when for when in opened(events))
    first = sum(window["opens_at"] >= "2026-03-03T16" for window in named(events, "planned")[0]["windows"])
    assert clean > first  # than there was time for when it was planned first


def test_nothing_else_is_a_reason(midnight, grid):
    events = run_curve(grid, Machine(midnight), rounds=5, source=Curve(midnight, clean=range(6, 11)))
    assert reasons(events) == ["next round"]
