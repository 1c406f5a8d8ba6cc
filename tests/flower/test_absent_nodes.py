"""Nodes that are silent, missing or too few: what waits for them, how long, and how their work is counted."""

from __future__ import annotations

from contextlib import closing
from datetime import timedelta
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import FedAvg

from lowcarb_scheduler import carbon_aware
from lowcarb_scheduler.accounting.replay import summarise
from lowcarb_scheduler.cli import main
from lowcarb_scheduler.clock import parse_time
from lowcarb_scheduler.errors import PlanInfeasibleError
from lowcarb_scheduler.flower.waiting import NodeWait
from lowcarb_scheduler.ledger import Ledger, read_ledger
from lowcarb_scheduler.scheduling.durations import Durations
from lowcarb_scheduler.scheduling.messages import RunLog
from lowcarb_scheduler.scheduling.schedule import RunTiming
from support.apps import SilentGrid, WorkingGrid, make_app, node_configs, takes
from support.clocks import Machine, SetBack
from support.forecast_sources import Curve, Flat
from support.runs import RUN, named, opened, run, run_curve

HOUR, MINUTE, SECOND = timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1)


def silent_grid(machine, minutes, silent, nodes=6):
    """Return a grid of nodes of 1 kW in DE and FR, the turns of which take some minutes a round."""
    app = make_app(on_train=takes(machine, lambda _: minutes * MINUTE))
    grid = SilentGrid(node_configs(nodes, ("DE", "FR"), **{"power-watts": 1000.0}), app)
    grid.clock, grid.silent = machine, silent
    return grid


class After(FedAvg):
    """A strategy after some rounds of which something happens."""

    def __init__(self, act, **more):
        super().__init__(fraction_evaluate=0.0, **more)
        self.act = act

    def aggregate_train(self, server_round, replies):
        self.act(server_round)
        return super().aggregate_train(server_round, replies)


# -- Nodes that do not tell who they are ---------------------------------------------------------------------


def test_nobody_waits_for_a_silent_node_that_comes_back_under_a_new_id(midnight):
    machine, ids = Machine(midnight), count(106)
    grid = silent_grid(machine, 5, silent=set(range(101, 200)))

    def restart(_):
        grid.kill(next(ids))
        grid.join({"partition-id": 5, "location": "FR"})

    events = run(
        grid, machine, 30, After(restart), source=Flat(), round_duration=5 * MINUTE, finish_by=170 * MINUTE
    )
    end = named(events, "run_finished")[0]
    assert parse_time(end["finish"], "t") == midnight + 150 * MINUTE
    assert end["late"] is False


@pytest.mark.parametrize("spared", [0, 20, 90, 600])
def test_at_the_start_answers_are_awaited_for_half_of_the_time_to_spare(midnight, spared):
    machine, length = Machine(midnight), 5 * MINUTE
    grid = silent_grid(machine, 5, silent={101})
    grid.registering = 60 * SECOND

    def spare_s(deadline_s):
        timing = RunTiming(midnight, 2, Durations(length, reply_timeout=HOUR), deadline_s * SECOND, 0.0, 0.99)
        return timing.spare(1, midnight).total_seconds()

    finish_by = next(each for each in range(600, 7200) if spare_s(each) >= spared) * SECOND
    events = run(grid, machine, 2, source=Flat(), round_duration=length, finish_by=finish_by, patience=0.0)
    waited_s = (opened(events)[0] - midnight).total_seconds()
    assert waited_s == pytest.approx(min(spared / 2, 60.0), abs=0.5)
    whys = " ".join(event["why"] for event in named(events, "degraded"))
    assert ("1 of 6 have not answered the profile query" in whys) == (0 < spared / 2 < 60)
    assert named(events, "run_finished")[0]["late"] is False


def test_answers_are_hardly_awaited_while_nobody_knows_how_long_a_round_takes(midnight):
    machine = Machine(midnight)
    grid = silent_grid(machine, 5, silent={101})
    grid.registering = 60 * SECOND
    events = run(grid, machine, 2, source=Flat(), finish_by=100 * MINUTE, patience=0.0)
    assert opened(events)[0] == midnight + 30 * SECOND  # half of a hundredth


def test_a_late_answer_files_earlier_turns_under_the_node_that_took_them(midnight):
    machine = Machine(midnight)
    grid = silent_grid(machine, 60, silent={101, 102, 103})
    late = After(lambda number: grid.answer(101, 102, 103) if number == 3 else None)
    events = run(
        grid, machine, 6, late, source=Curve(midnight), round_duration=HOUR, finish_by=30 * HOUR,
        clients_per_round=3, participation="equal", patience=0.0, telemetry=False,
    )  # fmt: skip
    assert {"101", "102", "103"} & {event["id"] for event in named(events, "node_done")}
    record, end = summarise(read_ledger(RUN)), named(events, "run_finished")[0]
    assert record.turns == {str(node): 3 for node in range(6)}
    assert {node.location for node in record.all_nodes.values()} == {"DE", "FR"}
    assert record.initial_plan.nodes.keys() == record.turns.keys()  # hindsight begins with it
    assert {member.id for worked in record.rounds for member in worked.members} == record.turns.keys()
    assert (end["jain"], end["min_turns"], end["max_turns"]) == (1.0, 3, 3)
    # As if all had answered at once: 18 turns of an hour at 1 kW, and nothing of a default.
    assert record.energy_kwh == end["energy_kwh"] == pytest.approx(18.0)
    assert end["energy_by_basis"] == pytest.approx({"estimated": 18.0})
    assert end["energy_by_basis"] == pytest.approx(dict(record.energy_by_basis))
    assert end["saving"] is not None
    assert end["saving"] == pytest.approx(record.saving)
    assert not {"known_saving", "known_rounds", "unknown_because"} & end.keys()
    assert None not in {each["realised_g"] for each in end["rounds"]}


def test_a_late_answer_counts_the_data_of_a_node_once(midnight):
    machine = Machine(midnight)
    grid = silent_grid(machine, 60, silent={101, 102})
    amounts = []

    def act(number):
        if number == 2:
            grid.answer(101, 102)
        amounts.append(vars(aware)["_lowcarb_progress"].correction.state())

    aware = carbon_aware(
        After(act), source=Curve(midnight), clock=machine, run_dir=RUN, clients_per_round=6,
        round_duration=HOUR, finish_by=30 * HOUR, patience=0.0, telemetry=False,
    )  # fmt: skip
    aware.start(grid, ArrayRecord([np.zeros(2)]), num_rounds=3)
    assert amounts[1]["places"].keys() == {"101", "102", "2", "3", "4", "5"}
    assert amounts[2]["places"] == {str(node): ("DE", "FR")[node % 2] for node in range(6)}
    assert amounts[2]["weights"] == {str(node): 5.0 + node for node in range(6)}


def test_a_node_that_answers_late_keeps_its_turns_in_the_plan(midnight):
    """Credits, too, move to its name: it neither owes what it has done nor is owed anything."""
    machine = Machine(midnight)
    grid = silent_grid(machine, 60, silent={101}, nodes=4)
    late = After(lambda number: grid.answer(101) if number == 4 else None)
    events = run(grid, machine, 12, late, source=None, round_duration=HOUR, clients_per_round=1)
    turns = summarise(read_ledger(RUN)).turns
    assert turns == {str(node): 3 for node in range(4)}
    assert named(events, "run_finished")[0]["late"] is False


def test_a_saving_is_of_the_rounds_that_are_known_and_the_cause_is_said(midnight, caplog, capsys):
    caplog.set_level("INFO", "flwr")
    machine = Machine(midnight)
    grid = silent_grid(machine, 60, silent={101})
    leaving = After(lambda number: grid.kill(101) if number == 2 else None)
    events = run(
        grid, machine, 5, leaving, source=Curve(midnight, clean=()), round_duration=HOUR,
        finish_by=30 * HOUR, patience=0.0, telemetry=False,
    )  # fmt: skip
    end = named(events, "run_finished")[0]
    assert end["saving"] is None
    assert end["known_saving"] == pytest.approx(0.0, abs=1e-9)
    assert end["known_rounds"] == 3  # it left after the second
    assert summarise(read_ledger(RUN)).known_saving == (pytest.approx(0.0, abs=1e-9), 3)
    (line,) = (line for line in caplog.messages if "saving against run-now" in line)
    assert "0.0% over 3 of 5 rounds" in line
    assert line.endswith("(the location of 1 node(s) is not known: 101)")
    capsys.readouterr()
    assert main(["report", str(RUN)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "0.0 % over 3 of 5 rounds (the location of 1 node(s) is not known: 101)" in shown
    page = " ".join((RUN / "report.html").read_text(encoding="utf-8").split())
    cause = "the location of 1 node(s) is not known: 101"
    assert "s much CO2eq as without waiting in 3 of 5 rounds" in page
    assert f"Run-now is not known for all rounds:</strong> {cause}." in page


def test_a_simulation_waits_for_the_answers_of_its_nodes(midnight, caplog):
    """In real time, as their time is not that of the run; however busy the machine is, up to five minutes."""
    caplog.set_level("INFO", "flwr")
    machine, looks = Machine(midnight), []

    def look():
        looks.append(machine.now())
        return max(24 - len(looks), 0), 24

    with closing(Ledger(RUN, machine)) as ledger:
        wait = NodeWait(machine, True, 60 * SECOND, RunLog(ledger))
        wait.for_answers(1, timedelta(0), look)
        assert len(looks) == 24
        assert machine.now() - midnight < MINUTE
        assert "18 of 24 nodes have answered the profile query" not in caplog.text
        assert "1 of 24 nodes have answered the profile query; waiting for the others until" in caplog.text
        wait.for_answers(1, timedelta(0), lambda: (6, 24))
    assert 5 * MINUTE <= machine.now() - midnight <= 6 * MINUTE
    assert "6 of 24 have not answered the profile query" in caplog.text


# -- Nodes that leave in a hold ------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"clients_per_round": None}])
@pytest.mark.parametrize("gone", [HOUR, 5 * HOUR])
def test_who_left_longer_ago_than_a_round_takes_costs_no_clean_window(midnight, settings, gone):
    """One hour is clean, the seventh; whoever waits in it trains in a dirty one."""
    grid = WorkingGrid()
    machine = Machine(midnight, [(midnight + 6 * HOUR - gone, lambda: grid.kill(101))])
    source = Curve(midnight, clean=[6])
    events = run_curve(
        grid, machine, 1, source=source, **{"clients_per_round": 6, "telemetry": False, **settings}
    )
    assert opened(events) == [midnight + 6 * HOUR]
    (closed,) = named(events, "round_closed")
    assert closed["nodes_done"] == 5
    whys = [event["why"] for event in named(events, "degraded") if event["what"] == "nodes"]
    assert whys == ([] if settings else ["5 of 6 are connected"])
    assert closed["realised_g"] == pytest.approx(5 * 100.0)


def test_a_wait_for_who_has_just_left_ends_as_long_after_that_as_a_round_takes(midnight):
    grid = WorkingGrid()
    left = midnight + 6 * HOUR - 40 * MINUTE
    machine = Machine(midnight, [(left, lambda: grid.kill(101))])
    source = Curve(midnight, clean=[6, 9])
    events = run_curve(grid, machine, 1, source=source, clients_per_round=6, telemetry=False)
    awaited = [parse_time(event["until"], "t") for event in named(events, "nodes_awaited")]
    assert awaited
    assert all(abs(until - (left + HOUR)) <= MINUTE for until in awaited)
    # The clean hour is half over then: the round is planned anew, for the next one.
    assert opened(events) == [midnight + 9 * HOUR]
    assert named(events, "round_closed")[0]["realised_g"] == pytest.approx(5 * 100.0)


# -- Too few nodes -------------------------------------------------------------------------------------------


def quorum(machine, nodes=3, **settings):
    """Run two rounds of an hour, with a strategy that wants five nodes to be available."""
    grid = WorkingGrid(nodes)
    grid.clock, grid.registering = machine, 60 * SECOND
    given = {"source": Flat(), "round_duration": HOUR, "finish_by": 24 * HOUR, "patience": 0.0}
    strategy = FedAvg(fraction_evaluate=0.0, min_available_nodes=5)
    return grid, lambda: run(grid, machine, 2, strategy, **{**given, **settings})


def test_a_quorum_is_waited_for_while_slack_lasts(midnight):
    machine = Machine(midnight)
    grid, start = quorum(machine)
    back = midnight + 3 * HOUR
    machine.at = [(back, lambda: [grid.join({"partition-id": k, "location": "DE"}) for k in (3, 4)])]
    events = start()
    assert back <= opened(events)[0] <= back + 10 * SECOND
    assert "3 of 5 nodes are connected, 5 are needed" in named(events, "nodes_awaited")[0]["reason"]


def test_a_quorum_that_is_lost_in_the_run_is_waited_for_too(midnight):
    machine = Machine(midnight)
    grid, start = quorum(machine, nodes=5)
    machine.at = [
        (midnight + 30 * MINUTE, lambda: grid.kill(101)),
        (midnight + 5 * HOUR, lambda: grid.revive(101)),
    ]
    events = start()
    assert opened(events)[0] == midnight
    assert midnight + 5 * HOUR <= opened(events)[1] <= midnight + 5 * HOUR + 10 * SECOND


def test_without_slack_nobody_trains_below_a_quorum(midnight):
    machine = Machine(midnight)
    grid, start = quorum(machine)
    with pytest.raises(PlanInfeasibleError, match=r"too few nodes are connected \(needed 5, available 3\)"):
        start()
    assert midnight + 12 * HOUR < machine.now() < midnight + 24 * HOUR
    assert not grid.sent


def test_without_slack_a_run_below_its_quorum_stops_if_told_to(midnight):
    _, start = quorum(Machine(midnight), on_late="stop")
    events = start()
    assert named(events, "run_finished")[0]["status"] == "out of time"
    assert not named(events, "round_opened")


def test_a_quorum_and_clients_per_round_are_waited_for_together(midnight):
    machine = Machine(midnight)
    _, start = quorum(machine, nodes=5, clients_per_round=8)
    events = start()
    assert opened(events)[0] == midnight + 60 * SECOND


@pytest.mark.parametrize("settings", [{"on_late": "stop"}, {"on_late": "stop", "finish_by": 14 * HOUR}])
def test_a_clock_that_is_set_back_does_not_lengthen_a_wait_for_nodes(midnight, settings):
    steady = Machine(midnight)
    quorum(steady, **settings)[1]()
    back = SetBack(midnight, 30 * MINUTE)
    quorum(back, run_dir=Path("back"), **settings)[1]()
    assert HOUR < back.passed <= steady.now() - midnight + MINUTE


def test_a_clock_that_is_set_back_does_not_lengthen_the_wait_for_answers(midnight):
    back = SetBack(midnight, 20 * SECOND)
    with closing(Ledger(RUN, back)) as ledger:
        NodeWait(back, True, 60 * SECOND, RunLog(ledger)).for_answers(1, timedelta(0), lambda: (6, 24))
    assert back.passed <= 5 * MINUTE + 10 * SECOND
