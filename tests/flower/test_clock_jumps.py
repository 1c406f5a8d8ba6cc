"""The strategy on a clock that is not virtual: rounds take the time they take."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

import numpy as np
import pytest
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import FedAvg
from flwr.superlink.grid import HttpGrid

from lowcarb_scheduler import carbon_aware
from lowcarb_scheduler.clock import parse_time
from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.flower.client import RECORD
from lowcarb_scheduler.testing import VirtualClock
from support.apps import make_grid
from support.clocks import Machine
from support.forecast_sources import Flat
from support.runs import RUN, named, run

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)


def claims(duration_s):
    """Return an edit of replies by which nodes claim to have worked for some seconds."""

    def edit(message, reply):
        if "duration-s" in reply.content.config_records.get(RECORD, {}):
            reply.content[RECORD]["duration-s"] = duration_s

    return edit


def test_with_no_duration_told_the_first_round_opens_at_once_and_shows_it(midnight):
    machine = Machine(midnight)
    events = run(make_grid(machine, lambda _: 25), machine, 6)
    opened = named(events, "round_opened")
    assert opened[0]["held_s"] == 0.0
    assert opened[0]["planned_g"] is None
    second = next(event for event in named(events, "planned") if event["round"] == 2)
    assert len(second["windows"]) == 5
    first = second["windows"][0]
    assert parse_time(first["closes_at"], "t") - parse_time(first["opens_at"], "t") == 25 * MINUTE
    end = named(events, "run_finished")[0]
    assert parse_time(end["finish_by"], "t") == midnight + 24 * HOUR
    assert parse_time(end["finish"], "t") <= midnight + 24 * HOUR
    assert any(event["held_s"] > 0 for event in opened)


def test_a_round_that_overruns_is_planned_around(midnight):
    machine = Machine(midnight)
    slow = make_grid(machine, lambda number: 170 if number == 2 else 55)
    events = run(slow, machine, 5, round_duration=HOUR, finish_by=12 * HOUR)
    closed = named(events, "round_closed")
    assert len(closed) == 5
    for one, other in pairwise(closed):
        assert one["closes_at"] <= other["opens_at"]
    assert (
        max(parse_time(e["closes_at"], "t") - parse_time(e["opens_at"], "t") for e in closed) == 170 * MINUTE
    )


def test_a_little_overrun_does_not_cost_a_step_of_the_grid(midnight):
    machine = Machine(midnight)
    events = run(make_grid(machine, lambda _: 60.5), machine, 4, round_duration=HOUR, finish_by=4 * HOUR)
    opened = named(events, "round_opened")
    assert [event["held_s"] for event in opened] == [0.0] * 4


def test_a_wait_for_nodes_that_was_in_vain_is_not_repeated(midnight):
    machine = Machine(midnight)
    grid = make_grid(machine, lambda _: 0)
    grid.registering = timedelta(seconds=60)
    run(grid, machine, 4, round_duration=HOUR, clients_per_round=20, patience=0.0)
    assert machine.now() == midnight + timedelta(seconds=60)


def test_an_absent_node_makes_no_job_late(midnight):
    machine = Machine(midnight)
    events = run(make_grid(machine, lambda _: 60), machine, 5, round_duration=HOUR, finish_by=10 * HOUR,
                 clients_per_round=7, source=None)  # fmt: skip
    opened = [parse_time(e["planned_opens_at"], "t") for e in named(events, "round_opened")]
    assert opened[0] <= midnight + HOUR
    assert named(events, "run_finished")[0]["late"] is False


@pytest.mark.parametrize("minutes", [20, 62])
def test_without_patience_no_slot_is_awaited(midnight, minutes):
    machine = Machine(midnight)
    events = run(make_grid(machine, lambda _: minutes), machine, 5, round_duration=HOUR, patience=0.0)
    assert [event["held_s"] for event in named(events, "round_opened")] == [0.0] * 5


@pytest.mark.parametrize(("minutes", "says"), [(60, 600.0), (60, 3600.0), (20, 600.0)])
def test_a_saving_is_of_the_same_work(midnight, minutes, says):
    machine = Machine(midnight)
    grid = make_grid(machine, lambda _: minutes, claims(says))
    events = run(grid, machine, 4, round_duration=HOUR, source=Flat(), patience=0.0)
    assert named(events, "run_finished")[0]["saving"] == pytest.approx(0.0, abs=1e-6)


def test_energy_is_power_times_the_time_a_node_says(midnight):
    machine = Machine(midnight)
    events = run(make_grid(machine, lambda _: 30, claims(600.0)), machine, 2, round_duration=HOUR)
    done = named(events, "node_done")
    assert {event["duration_s"] for event in done} == {600.0}
    assert [event["energy_kwh"] for event in done] == pytest.approx([0.3 / 6] * 4)
    assert {event["energy_basis"] for event in done} == {"assumed"}


@pytest.mark.parametrize("says", [1e9, -5.0, float("nan"), "long"])
def test_a_time_that_cannot_be_is_not_believed(midnight, says):
    machine = Machine(midnight)
    events = run(make_grid(machine, lambda _: 30, claims(says)), machine, 2, round_duration=HOUR)
    assert {event["duration_s"] for event in named(events, "node_done")} == {1800.0}


def test_a_deadline_that_is_past_before_the_first_round_is_refused(midnight):
    machine = Machine(midnight)
    with pytest.raises(InputError, match="is past") as caught:
        run(make_grid(machine, lambda _: 30), machine, 2, round_duration=HOUR, finish_by=midnight - HOUR)
    assert caught.value.field == "lowcarb-finish-by"
    assert not RUN.exists()


def test_a_deadline_that_passes_in_the_run_stops_no_training(midnight):
    machine = Machine(midnight)
    events = run(make_grid(machine, lambda _: 300), machine, 3, round_duration=HOUR, finish_by=4 * HOUR)
    assert len(named(events, "round_closed")) == 3
    assert "deadline" in {event["what"] for event in named(events, "degraded")}
    assert named(events, "run_finished")[0]["late"] is True


def test_a_virtual_clock_is_refused_with_real_nodes(midnight):
    strategy = carbon_aware(FedAvg(), clock=VirtualClock(midnight), round_duration=HOUR)
    with pytest.raises(InputError, match="virtual is for simulation"):
        strategy.start(object.__new__(HttpGrid), ArrayRecord([np.zeros(2)]))
