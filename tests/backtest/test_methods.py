"""Methods of a backtest: the data they see, the rules they obey, and the emissions they are charged."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowcarb_scheduler.accounting.emissions import emissions_g
from lowcarb_scheduler.backtest import METHODS, History, follow, instance, methods
from lowcarb_scheduler.errors import ForecastUnavailableError, InputError, LowcarbError
from lowcarb_scheduler.intensity import IntensityTable, Provenance
from lowcarb_scheduler.planning.planner import plan
from support.backtest_world import BEGIN, DAY, HOUR, PLACES, SCENARIO, trace_rows


@pytest.fixture(scope="module")
def begin():
    return BEGIN


@pytest.fixture(scope="module")
def frames():
    return trace_rows()


@pytest.fixture(scope="module")
def history(frames):
    return History.from_frames(*frames, PLACES)


@pytest.fixture(scope="module")
def case(begin):
    return instance(SCENARIO, 1, 3, 3.0, (begin + 30 * DAY, begin + 36 * DAY))


def test_a_planner_sees_nothing_of_the_running_hour_and_the_future(history, begin):
    now = begin + 30 * DAY + 7 * HOUR + timedelta(minutes=20)
    known = history.known(now)
    assert known.history.end == now - timedelta(minutes=20)
    assert known.history.start == now - 28 * DAY
    assert known.forecast.start == begin + 30 * DAY
    assert [table.start for table in known.past_forecasts] == [begin + k * DAY for k in range(3, 30)]
    late = replace(history, actual_delay=2 * HOUR).known(now)
    assert late.history.end == begin + 30 * DAY + 5 * HOUR
    with pytest.raises(ForecastUnavailableError, match="nothing is known yet"):
        history.known(begin - HOUR)


def test_a_planner_that_seeks_the_future_finds_none(history, case):
    """A planner that seeks future values finds none, and decides the same in another future."""
    now = case.start
    future = history.actual.edges_us[:-1] >= now.timestamp() * 1e6
    altered = replace(history, actual=history.actual.relaid(
        history.actual.edges_us, PLACES, np.where(future[:, None], 1.0, history.actual.values)
    ))  # fmt: skip
    plans = []

    def cheat(job, known, previous):
        for table in (known.history, *known.past_forecasts):
            assert table.start.timestamp() <= job.now.timestamp()
        assert known.history.end <= job.now
        plans.append(plan(job, known.history.fill(known.forecast)))
        return methods.scheduler_decide(job, known, previous)

    for world in (history, altered):
        follow(case, world, cheat, every=None)
    assert plans[0].opens_us.tolist() == plans[1].opens_us.tolist()
    assert plans[0].seats.tolist() == plans[1].seats.tolist()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("factor", [1.0, 2.5])
def test_no_method_beats_the_bound_and_turns_are_equal(history, begin, seed, factor):
    case = instance(SCENARIO, seed, 3, factor, (begin + 30 * DAY, begin + 36 * DAY))
    outcomes = {name: method(case, history) for name, method in METHODS.items()}
    grams = {name: outcome.emissions_g for name, outcome in outcomes.items()}
    assert grams["bound"] == min(grams.values())
    assert grams["perfect"] <= 1.001 * min(grams[name] for name in ("one-shot", "rolling", "scheduler"))
    assert grams["scheduler"] < grams["run-now"]
    for name in ("flwr-lowcarb-2022", "one-shot", "rolling", "scheduler", "perfect"):
        assert set(outcomes[name].turns) == {3}


def test_without_slack_moving_rounds_in_time_saves_nothing(history, begin):
    case = instance(SCENARIO, 0, 3, 1.0, (begin + 30 * DAY, begin + 36 * DAY))
    moved, at_once = (
        method(case, history).emissions_g for method in (methods.temporal_only, methods.run_now)
    )
    assert moved == pytest.approx(at_once)


def test_a_started_round_is_not_changed(history, case):
    asked = []

    def decide(job, known, previous):
        asked.append((job.now, job.rounds, job.not_before))
        return methods.scheduler_decide(job, known, previous)

    outcome = follow(case, history, decide, every=3 * HOUR)
    assert [now for now, _, _ in asked] == [case.start + k * 3 * HOUR for k in range(len(asked))]
    assert all(later <= sooner for (_, sooner, _), (_, later, _) in pairwise(asked))
    assert all(free >= now for now, _, free in asked)
    assert outcome.turns.sum() == SCENARIO.rounds * SCENARIO.clients_per_round


def test_emissions_are_charged_with_actual_intensity(history, case):
    outcome = methods.perfect(case, history)
    planned = plan(case.job(case.start, SCENARIO.rounds), history.actual)
    assert outcome.emissions_g == pytest.approx(planned.emissions_g)
    doubled = replace(history, actual=history.actual.relaid(
        history.actual.edges_us, PLACES, 2 * history.actual.values
    ))  # fmt: skip
    assert methods.run_now(case, doubled).emissions_g == pytest.approx(
        2 * methods.run_now(case, history).emissions_g
    )
    columns = history.actual.columns(case.fleet.locations)[case.fleet.location_index][planned.seats]
    watts = case.fleet.power_watts[planned.seats]
    grams = emissions_g(history.actual, columns, watts, planned.starts_us, planned.ends_us)
    assert outcome.emissions_g == pytest.approx(grams.sum())


def test_a_planner_that_breaks_the_rules_is_refused(history, case):
    def unfair(job, known, previous):
        return plan(replace(job, participation="any"), known.forecast)

    with pytest.raises(LowcarbError, match="broke the deadline or the turns"):
        follow(case, history, unfair, every=None)


@settings(max_examples=60)
@given(st.data())
def test_cheapest_windows_equal_brute_force(data):
    hours = data.draw(st.integers(1, 9))
    length = data.draw(st.integers(1, min(3, hours)))
    values = np.array(data.draw(st.lists(st.integers(-5, 20), min_size=hours, max_size=hours)), dtype=float)
    most = hours // length
    found = methods._cheapest_windows(values[:, None], length, most)[:, 0]  # noqa: SLF001
    for count in range(most + 1):
        costs = [
            sum(values[s : s + length].sum() for s in starts)
            for starts in combinations(range(hours - length + 1), count)
            if all(b - a >= length for a, b in pairwise(starts))
        ]
        assert found[count] == pytest.approx(min(costs))


def test_a_missing_location_is_named(frames):
    with pytest.raises(InputError, match="location: XX is missing in the actual"):
        History.from_frames(*frames, (*PLACES, "XX"))


def test_round_durations_are_whole_hours():
    for minutes in (0, 30, 90):
        with pytest.raises(InputError, match=r"round_duration: .* is not a whole number of hours"):
            replace(SCENARIO, round_duration=timedelta(minutes=minutes))


@pytest.mark.parametrize("method", [methods.run_now, methods.bound])
def test_a_gap_in_actual_intensity_is_refused(history, case, method):
    unknown = history.actual.values.copy()
    unknown[30 * 24 :] = np.nan
    lacking = history.actual.relaid(history.actual.edges_us, PLACES, unknown)
    with pytest.raises(InputError, match="actual: is not known of all hours"):
        method(case, replace(history, actual=lacking))


def test_instances_are_stratified_and_reproducible(begin):
    period = begin, begin + 100 * DAY
    made = [instance(SCENARIO, seed, 10, 2.0, period) for seed in range(10)]
    assert [int((one.start - begin) / (10 * DAY)) for one in made] == list(range(10))
    again = instance(SCENARIO, 4, 10, 2.0, period)
    assert (again.start, again.fleet.location_index.tolist()) == (
        made[4].start, made[4].fleet.location_index.tolist()
    )  # fmt: skip
    assert again.finish_by - again.start == 18 * HOUR


def test_a_turn_uses_one_kilowatt_hour(begin, history):
    flat = IntensityTable(
        history.actual.edges_us,
        PLACES,
        np.full_like(history.actual.values, 100.0),
        Provenance(),
    )
    case = instance(
        replace(SCENARIO, round_duration=2 * HOUR), 0, 1, 2.0, (begin + 30 * DAY, begin + 36 * DAY)
    )
    for method in (methods.run_now, methods.bound, methods.perfect):
        assert method(case, replace(history, actual=flat)).emissions_g == pytest.approx(18 * 100.0)


def test_issues_may_come_in_any_order(history, begin):
    turned = replace(history, issues=history.issues[::-1])
    assert turned.known(begin + 31 * DAY).forecast.start == begin + 31 * DAY
    with pytest.raises(InputError, match="now"):
        history.known((begin + 31 * DAY).replace(tzinfo=None))
