"""The deadline: how long waiting is allowed, and what a run does when it cannot be met any more."""

from __future__ import annotations

import importlib.util
import logging
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp.strategy import FedAdam, FedAvg

from lowcarb_scheduler import Synthetic, carbon_aware
from lowcarb_scheduler.accounting.earlier import EarlierRounds
from lowcarb_scheduler.clock import parse_time
from lowcarb_scheduler.errors import PlanInfeasibleError
from lowcarb_scheduler.scheduling.durations import Durations
from lowcarb_scheduler.scheduling.schedule import RunTiming, Schedule, observed_round
from lowcarb_scheduler.testing import InMemoryGrid, VirtualClock
from support.apps import add_one, make_app, make_grid, node_configs, takes
from support.clocks import Machine
from support.forecast_sources import Curve
from support.ledgers import read_records
from support.runs import RUN, named, opened

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
START = datetime(2026, 3, 2, tzinfo=UTC)


def load_benchmark():
    path = Path(__file__).parents[2] / "benchmarks" / "deadline_coverage.py"
    spec = importlib.util.spec_from_file_location("deadline_coverage", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


coverage = load_benchmark()


# -- the time to keep free -----------------------------------------------------------------------------------


def seen(*hours, given=HOUR, **known):
    durations = Durations(given, **known)
    for each in hours:
        durations = durations.after(each * HOUR)
    return durations


def earlier(*runs):
    """Return the rounds of earlier runs [h]."""
    return EarlierRounds(tuple(3600.0 * each for run in runs for each in run), len(runs))


def test_more_rounds_and_more_confidence_need_more_time():
    durations = seen(1, 1.1, 0.9, 3)
    by_rounds = [durations.needed(rounds, 0.99) for rounds in (1, 2, 5, 20, 100)]
    by_confidence = [durations.needed(10, confidence) for confidence in (0.5, 0.9, 0.99, 0.999)]
    assert by_rounds == sorted(by_rounds)
    assert by_confidence == sorted(by_confidence)


def test_it_is_of_the_sum_not_the_sum_of_each():
    durations = seen(*([1] * 10 + [2]))
    assert durations.needed(50, 0.99) < 50 * durations.needed(1, 0.99) / 2


def test_more_that_was_seen_needs_less():
    needed = [seen(*[1] * count).needed(5, 0.99) for count in (1, 5, 20, 80, 200)]
    assert needed == sorted(needed, reverse=True)
    assert needed[-1] == 5 * 2.2 * HOUR < 16 * HOUR < needed[0]  # they may double from now on


def test_the_last_round_needs_little_where_many_were_steady():
    assert seen(*[1] * 100).needed(1, 0.99) < 1.2 * HOUR
    assert seen(*[1] * 5).needed(1, 0.99) > 4 * HOUR


@pytest.mark.parametrize("factor", [0.01, 60.0])
def test_it_knows_no_unit(factor):
    lengths = [1, 1.2, 0.8, 4]
    scaled = seen(*[factor * each for each in lengths], given=factor * HOUR)
    assert scaled.needed(7, 0.99) / seen(*lengths).needed(7, 0.99) == pytest.approx(factor, rel=1e-6)


@pytest.mark.parametrize(("given", "count", "times"), [(None, 1, 2.0), (None, 4, 1.5), (HOUR, 0, 1.5)])
def test_while_little_was_seen_there_is_a_floor_under_the_last_round(given, count, times):
    assert seen(*[1] * count, given=given).needed(1, 0.5) >= times * HOUR


def test_instant_and_endless_rounds_break_nothing():
    assert seen(0, 0, 0, given=None).needed(5, 0.99) > timedelta(0)
    assert seen(1, 1, 10_000).needed(5, 0.99) > 10 * HOUR
    assert len(seen(*[1] * 500).seen_s) == 200
    assert seen(*[1] * 500).total_s == 500 * 3600.0
    assert Durations(None).after(-HOUR).seen_s == (0.0,)  # a clock was set back
    assert seen(*[1 / 3600] * 9, reply_timeout=12 * HOUR).needed(5, 0.99) > 12 * HOUR  # no overflow


@pytest.mark.parametrize("count", [0, 1, 12])
def test_time_is_kept_for_a_client_that_does_not_reply(count):
    durations = seen(*[1] * count, reply_timeout=10 * HOUR)
    assert durations.needed(1, 0.99) > 10 * HOUR
    assert durations.needed(8, 0.99) > (7 + 10) * HOUR


def test_no_time_is_kept_for_a_timeout_that_makes_the_run_late_anyway():
    durations = seen(*[1] * 12, reply_timeout=10 * HOUR)
    assert durations.needed(1, 0.99, left=10 * HOUR) > 10 * HOUR
    assert durations.needed(1, 0.99, left=9.9 * HOUR) < 6 * HOUR
    assert durations.needed(3, 0.99, left=11 * HOUR) < 12 * HOUR < durations.needed(3, 0.99, left=12 * HOUR)


def test_no_time_is_kept_for_what_never_happened_in_many_rounds():
    short, long = (
        seen(given=None, earlier=earlier(*[[1] * 3] * runs), reply_timeout=10 * HOUR) for runs in (10, 30)
    )
    assert short.needed(1, 0.99) > 10 * HOUR
    assert long.needed(1, 0.99) < 1.2 * HOUR
    assert long.needed(10, 0.99) > 19 * HOUR  # in ten rounds it is more likely to come


def test_what_has_happened_is_never_left_out():
    runs = [[1] * 9 + [10]] + [[1] * 10] * 29
    durations = seen(given=None, earlier=earlier(*runs), reply_timeout=10 * HOUR)
    assert durations.needed(5, 0.99) > 14 * HOUR


def test_earlier_rounds_give_the_spread_and_this_run_the_level():
    known = {"given": None, "earlier": earlier(*[[0.9, 1, 1.1]] * 30)}
    slower = seen(3, 3, 3, **known)
    assert seen(**known).typical == HOUR
    assert slower.typical == 3 * HOUR
    assert slower.needed(1, 0.99) == pytest.approx(3 * seen(1, 1, 1, **known).needed(1, 0.99), rel=0.02)


@pytest.mark.parametrize("law", ["lognormal .3", "Pareto 2.5", "5 % take 5 x", "5 % take 12 x"])
@pytest.mark.parametrize(("count", "rounds"), [(3, 5), (10, 10), (30, 30)])
def test_it_covers_what_a_bootstrap_does_not(law, count, rounds):
    rng = np.random.default_rng(7)
    timeout = coverage.LAWS[law].timeout * HOUR
    late = plugged = 0
    for _ in range(400):
        lengths = coverage.LAWS[law].draw(rng, count)
        total = coverage.LAWS[law].draw(rng, rounds).sum()
        late += total * HOUR > seen(*lengths, given=None, reply_timeout=timeout).needed(rounds, 0.99)
        sums = rng.choice(lengths, (200, rounds)).sum(axis=1)
        plugged += total > np.quantile(sums, 0.99)
    assert late <= 4
    if law != "lognormal .3":
        assert plugged > 8


@pytest.mark.parametrize("law", coverage.LAWS)
def test_waiting_as_long_as_allowed_makes_one_run_in_a_hundred_late_at_most(law):
    runs = late = 0
    kind = coverage.LAWS[law]
    for rounds, deadline, is_given in product((5, 20), (1.5, 3.0), (True, False)):
        rng = np.random.default_rng(rounds)
        settings = coverage.settings_of(rounds * kind.mean(rounds) * deadline * HOUR, is_given=is_given)
        for _ in range(25):
            outcome = coverage.simulate(coverage.sample(law, rounds, rng), settings, kind.timeout)
            runs, late = runs + 1, late + outcome.late
    assert late <= runs * kind.most


def test_rounds_that_time_out_in_clusters_make_no_more_runs_late():
    law, rng = "5 % take 12 x, in clusters", np.random.default_rng(1)
    kind = coverage.LAWS[law]
    settings = coverage.settings_of(50 * kind.mean(50) * 2.0 * HOUR)
    outcomes = [coverage.simulate(coverage.sample(law, 50, rng), settings, kind.timeout) for _ in range(100)]
    assert sum(outcome.late for outcome in outcomes) <= 1
    assert np.mean([outcome.used for outcome in outcomes if outcome.could]) > 0.65


@pytest.mark.parametrize("deadline", coverage.DEADLINES)
@pytest.mark.parametrize("rounds", coverage.SHORT)
def test_short_jobs_with_earlier_runs_use_three_fifths_of_their_slack(rounds, deadline):
    rng = np.random.default_rng(rounds)
    settings = coverage.settings_of(rounds * deadline * HOUR)
    for timeout in (2.0, 10.0):
        outcomes = [
            coverage.simulate(
                coverage.sample("lognormal .1", rounds, rng), settings, timeout,
                coverage.sample_earlier("lognormal .1", rounds, 30, rng),
            )
            for _ in range(20)
        ]  # fmt: skip
        assert not any(outcome.late for outcome in outcomes)
        assert np.mean([outcome.used for outcome in outcomes]) >= 0.6


def test_waiting_is_not_given_up_either():
    settings = coverage.settings_of(80 * HOUR)
    steady = coverage.simulate([HOUR] * 20, settings)
    assert not steady.late
    assert steady.half > 0.5
    assert steady.used > 0.75


def test_less_confidence_waits_more():
    used = [
        coverage.simulate([HOUR] * 20, coverage.settings_of(60 * HOUR, confidence)).half
        for confidence in (0.999, 0.99, 0.9, 0.5)
    ]
    assert used == sorted(used)
    assert used[0] < used[-1]


# -- what is settled -----------------------------------------------------------------------------------------


def test_a_tenth_of_the_slack_is_never_waited():
    schedule = Schedule.settle(START, 10, HOUR, 40 * HOUR, patience=1.0)
    assert schedule.spare == 3 * HOUR
    assert schedule.latest_opening(10, 20 * HOUR) == START + 17 * HOUR
    assert schedule.latest_opening(10, HOUR) == START + 27 * HOUR  # never less than what is planned is kept


def test_what_is_kept_is_one_buffer_at_the_end():
    schedule = Schedule.settle(START, 10, HOUR, 40 * HOUR, patience=1.0)
    assert schedule.plan_by(START, 10, 20 * HOUR) == START + 27 * HOUR
    assert schedule.plan_by(START + 20 * HOUR, 10, 20 * HOUR) == START + 30 * HOUR  # back-to-back from then
    assert schedule.plan_by(START + 35 * HOUR, 10, 20 * HOUR) == START + 45 * HOUR  # even past the deadline


def test_a_resumed_run_keeps_what_it_has_learned():
    known = {"earlier": earlier([1, 1.2], [0.9]), "reply_timeout": 2 * HOUR}
    killed, resumed = (
        RunTiming(START, 3, durations, 24 * HOUR, 1.0, 0.99)
        for durations in (Durations(None, **known), Durations(None, reply_timeout=2 * HOUR))
    )
    killed.round_over(1.1 * HOUR, killed.round_closed(1.1 * HOUR))
    assert resumed.latest_opening(2) is None
    resumed.recall(killed.memory())
    assert resumed.durations == killed.durations
    assert resumed.latest_opening(2) == killed.latest_opening(2)


def test_observed_rounds_are_planned_in_whole_minutes():
    assert observed_round(timedelta(seconds=61)) == 2 * MINUTE
    assert observed_round(timedelta(0)) == MINUTE


# -- runs ----------------------------------------------------------------------------------------------------


def run(machine, minutes, rounds, inner=None, evaluate_fn=None, grid=None, **settings):
    given = {
        "source": Synthetic(), "clock": machine, "run_dir": RUN, "clients_per_round": 2,
        "round_duration": HOUR, **settings,
    }  # fmt: skip
    strategy = carbon_aware(inner or FedAvg(fraction_evaluate=0.0), **given)
    arrays = ArrayRecord([np.zeros(2)])
    grid = grid or make_grid(machine, minutes)
    return strategy.start(grid, arrays, num_rounds=rounds, evaluate_fn=evaluate_fn)


def test_the_plan_ends_where_the_buffer_begins(midnight):
    run(Machine(midnight), lambda _: 60, 6, finish_by=48 * HOUR)
    plans = named(read_records(RUN), "planned")
    needed = Durations(HOUR).needed(6, 0.99)
    assert parse_time(plans[0]["finish"], "t") <= midnight + 48 * HOUR - 4.2 * HOUR - (needed - 6 * HOUR)
    assert opened(read_records(RUN))[0] > midnight  # there is still time to wait


def test_on_a_virtual_clock_rounds_take_their_time_and_nothing_is_kept(midnight):
    run(VirtualClock(midnight), None, 4, grid=make_grid(Machine(midnight), lambda _: 0),
        finish_by=8 * HOUR, source=Curve(midnight, clean=range(4, 8)))  # fmt: skip
    assert opened(read_records(RUN)) == [midnight + hours * HOUR for hours in (4, 5, 6, 7)]


def test_tight_deadlines_leave_the_choice_of_who_trains(midnight):
    run(Machine(midnight), lambda _: 60, 4, finish_by=5 * HOUR)
    events = read_records(RUN)
    assert [event["held_s"] for event in named(events, "round_opened")] == [0.0] * 4
    assert {event["basis"] for event in named(events, "planned")} == {"forecast"}
    assert not named(events, "degraded")


def test_a_deadline_that_cannot_be_met_leaves_it_too_and_is_named(midnight):
    run(Machine(midnight), lambda _: 60, 4, finish_by=3 * HOUR)
    events = read_records(RUN)
    assert [event["held_s"] for event in named(events, "round_opened")] == [0.0] * 4
    assert {event["basis"] for event in named(events, "planned")} == {"forecast"}
    (degraded,) = named(events, "degraded")
    assert degraded["why"] == "2026-03-02T03:00:00Z cannot be met any more"
    assert degraded["consequence"] == "rounds run back-to-back"
    assert named(events, "run_finished")[0]["late"] is True


def test_rounds_that_take_much_longer_than_told_are_planned_so(midnight):
    run(Machine(midnight), lambda _: 100, 6, finish_by=24 * HOUR)
    last = named(read_records(RUN), "planned")[-1]["windows"][0]
    length = parse_time(last["closes_at"], "t") - parse_time(last["opens_at"], "t")
    assert length == 100 * MINUTE
    assert not named(read_records(RUN), "run_finished")[0]["late"]


def learning_grid(machine, nodes=4):
    """Return a grid whose nodes add one, in rounds of 90 minutes."""
    app = make_app(add_one, on_train=takes(machine, lambda _: 90 * MINUTE))
    return InMemoryGrid(app, node_configs(nodes, ["DE"]))


@pytest.mark.parametrize("inner", [FedAvg, FedAdam])
def test_late_runs_stop_if_they_are_told_to_and_return_what_was_trained(midnight, inner):
    machine, evaluated = Machine(midnight), {}

    def evaluate(number, arrays):
        evaluated[number] = arrays.to_numpy_ndarrays()[0]
        return MetricRecord({"loss": 1.0})

    strategy = inner(fraction_evaluate=0.0)
    result = run(machine, None, 5, strategy, evaluate, learning_grid(machine), finish_by=5 * HOUR,
                 on_late="stop")  # fmt: skip
    events = read_records(RUN)
    end = named(events, "run_finished")[0]
    assert (end["status"], end["late"], len(end["rounds"])) == ("out of time", False, 3)
    assert [event["why"] for event in named(events, "degraded")][-1] == (
        "round 4 would end after the deadline"
    )
    assert sorted(evaluated) == [0, 1, 2, 3]  # nothing changes after that
    assert sorted(result.train_metrics_clientapp) == [1, 2, 3]
    assert result.arrays.to_numpy_ndarrays()[0] == pytest.approx(evaluated[3])


def test_by_default_late_runs_go_on(midnight):
    machine = Machine(midnight)
    result = run(machine, None, 5, grid=learning_grid(machine), finish_by=5 * HOUR)
    end = named(read_records(RUN), "run_finished")[0]
    assert (end["status"], end["late"], len(end["rounds"])) == ("completed", True, 5)
    assert result.arrays.to_numpy_ndarrays()[0].tolist() == [5.0, 5.0]


def test_a_run_that_must_stop_before_its_first_round_returns_what_it_was_given(midnight):
    machine = Machine(midnight)
    result = run(machine, None, 5, grid=learning_grid(machine), finish_by=30 * MINUTE, on_late="stop")
    assert result.arrays.to_numpy_ndarrays()[0].tolist() == [0.0, 0.0]
    assert named(read_records(RUN), "run_finished")[0]["status"] == "out of time"
    assert not named(read_records(RUN), "round_opened")


def test_runs_that_are_in_time_to_the_minute_do_not_stop(midnight):
    machine = Machine(midnight)
    run(machine, lambda _: 60.2, 5, finish_by=5 * HOUR, on_late="stop")
    assert named(read_records(RUN), "run_finished")[0]["status"] == "completed"


@pytest.mark.parametrize("on_late", ["finish", "stop"])
def test_too_few_nodes_are_waited_for_as_long_as_there_is_slack(midnight, on_late):
    machine = Machine(midnight)
    grid = learning_grid(machine, nodes=1)
    told = {"grid": grid, "finish_by": 40 * HOUR, "on_late": on_late, "patience": 0.0}
    if on_late == "finish":
        with pytest.raises(PlanInfeasibleError, match="too few nodes are connected"):
            run(machine, None, 4, **told)
    else:
        run(machine, None, 4, **told)
    events = read_records(RUN)
    slack = 40 * HOUR - Durations(HOUR).needed(4, 0.99) - 3.6 * HOUR
    assert abs(machine.now() - midnight - slack) < MINUTE
    assert events[-1]["status"] == {"finish": "failed", "stop": "out of time"}[on_late]
    assert not named(events, "round_opened")


def test_nodes_that_come_while_there_is_slack_are_in_time(midnight, caplog):
    caplog.set_level(logging.INFO, "flwr")

    class Waiting(Machine):
        def sleep_until(self, when):
            super().sleep_until(when)
            if self.now() >= midnight + 5 * HOUR and len(list(grid.get_node_ids())) == 1:
                grid.join({"partition-id": 1, "location": "DE"})

    machine = Waiting(midnight)
    grid = learning_grid(machine, nodes=1)
    run(machine, None, 4, grid=grid, finish_by=40 * HOUR)
    end = named(read_records(RUN), "run_finished")[0]
    assert (end["status"], end["late"], len(end["rounds"])) == ("completed", False, 4)
    awaited = named(read_records(RUN), "nodes_awaited")
    assert awaited[-1]["reason"].startswith("1 of 2 nodes are connected, 2 are needed; waiting for more")
    lines = [line for line in caplog.messages if "waiting for more" in line]
    assert len(lines) == len(awaited)
    assert 5 * 4 <= len(lines) <= 5 * 4 + 1  # every quarter of an hour
