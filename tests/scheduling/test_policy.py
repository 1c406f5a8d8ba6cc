"""Replanning: on the expectation, with the value of waiting, and without flapping."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from lowcarb_scheduler.accounting.emissions import emissions_g
from lowcarb_scheduler.clock import HOUR_US, to_us
from lowcarb_scheduler.errors import ForecastUnavailableError, PlanInfeasibleError
from lowcarb_scheduler.forecasts.bias_correction import correct_forecast
from lowcarb_scheduler.intensity import IntensityTable, Provenance
from lowcarb_scheduler.planning.fleet import Fleet
from lowcarb_scheduler.planning.job import LOOKED_AHEAD, Job
from lowcarb_scheduler.planning.option_value import without_idle_waits
from lowcarb_scheduler.planning.planner import plan
from lowcarb_scheduler.scheduling.policy import replan

HOUR = timedelta(hours=1)
PLACES = ("DE", "FR", "GB")


@pytest.fixture
def forecast(midnight):
    hours = np.arange(48)
    shape = {place: 300 + 150 * np.cos((hours - 5 * k) * np.pi / 12) for k, place in enumerate(PLACES)}
    index = pd.date_range(midnight, periods=48, freq="h")
    return IntensityTable.from_frame(pd.DataFrame(shape, index=index), signal="average", source="test")


@pytest.fixture
def job(midnight):
    clients = {"id": [f"c{k}" for k in range(6)], "location": [PLACES[k % 3] for k in range(6)]}
    fleet = Fleet.from_frame(pd.DataFrame(clients))
    return Job(fleet, midnight, midnight + 36 * HOUR, 6, 2, HOUR, grid_from=midnight)


def schedule(plan):
    return plan.opens_us.tolist(), plan.seats.tolist()


def later(job, plan, hours):
    """Return the job that remains after the rounds of the first hours, all of them done."""
    now = job.now + hours * HOUR
    done = int((plan.closes_us <= (now.timestamp() * 1e6)).sum())
    turns = np.bincount(plan.seats[:done].ravel(), minlength=len(job.fleet))
    fleet = replace(job.fleet, turns_done=job.fleet.turns_done + turns)
    return replace(job, fleet=fleet, now=now, rounds=job.rounds - done)


def test_emissions_are_on_the_expectation_not_on_the_hope(job, forecast):
    plan = replan(job, forecast)
    expected = correct_forecast(forecast, None, job.now, job.finish_by)
    columns = expected.columns(job.fleet.locations)[job.fleet.location_index][plan.seats]
    watts = job.fleet.power_watts[plan.seats]
    grams = emissions_g(expected, columns, watts, plan.starts_us, plan.ends_us)
    np.testing.assert_allclose(plan.client_emissions_g, grams)
    assert plan.run_now_emissions_g == pytest.approx(job.run_now_g(expected))
    assert plan.lower_bound_g is None  # chosen with the value of waiting
    assert plan.provenance == Provenance("test", "average")


def test_without_slack_there_is_nothing_to_hope_for_and_a_bound(job, forecast):
    tight = replace(job, finish_by=job.now + 6 * HOUR)
    plan = replan(tight, forecast)
    assert plan.gap == pytest.approx(0.0, abs=1e-9)


def test_an_unchanged_forecast_never_changes_the_plan(job, forecast):
    plan = replan(job, forecast)
    for hours in range(1, 30):
        rest = later(job, plan, hours)
        if rest.rounds == 0 or np.any((plan.opens_us < rest.now.timestamp() * 1e6) & (
                plan.closes_us > rest.now.timestamp() * 1e6)):  # fmt: skip
            continue
        again = replan(rest, forecast, previous=plan)
        assert schedule(again) == (
            plan.opens_us[-rest.rounds :].tolist(), plan.seats[-rest.rounds :].tolist()
        )  # fmt: skip


def test_a_little_better_is_not_worth_a_change_and_much_better_is(job, forecast):
    plan = replan(job, forecast)
    first = int(plan.opens_us[0])
    for factor, changed in ((1.001, False), (3.0, True)):
        values = forecast.values.copy()
        values[(forecast.edges_us[:-1] >= first) & (forecast.edges_us[:-1] < plan.closes_us[-1])] *= factor
        worse = IntensityTable(forecast.edges_us, forecast.locations, values, Provenance("test", "average"))
        assert (schedule(replan(job, worse, previous=plan)) != schedule(plan)) == changed


def test_a_plan_with_a_client_that_left_is_not_kept(job, forecast):
    plan = replan(job, forecast)
    rest = replace(job, fleet=job.fleet.take(job.fleet.ids != "c0"))
    again = replan(rest, forecast, previous=plan)
    assert "c0" not in set(again.fleet.ids[again.seats.ravel()])
    assert again.seats.shape == (6, 2)


def test_a_plan_that_begins_in_the_past_is_not_kept(job, forecast):
    plan = replan(job, forecast)
    moved = replace(job, now=job.now + 30 * HOUR)
    again = replan(moved, forecast, previous=plan)
    assert again.rounds[0].opens_at >= moved.now


def test_a_plan_that_begins_before_rounds_may_open_is_not_kept(job, forecast):
    plan = replan(job, forecast)
    later = replace(job, not_before=plan.rounds[0].opens_at + HOUR)
    assert replan(later, forecast, previous=plan).rounds[0].opens_at >= later.not_before


@pytest.mark.parametrize(
    "rules",
    [
        {"max_location_share": 0.5},  # at most one client of a location in a round
        {"mix_rounds": 3},
    ],
)
def test_a_plan_that_breaks_a_rule_of_the_new_job_is_not_kept(job, midnight, rules):
    """Free plans fill a round from one location, and in three rounds somebody trains twice."""
    values = np.full((48, 3), 100.0)
    for hour in range(6):
        values[hour, hour // 2] = 10.0
    edges = [int(midnight.timestamp() * 1e6) + k * 3_600_000_000 for k in range(49)]
    table = IntensityTable(np.array(edges), PLACES, values, Provenance("test", "average"))
    free = replace(job, finish_by=midnight + 6 * HOUR, participation="any")
    plan = replan(free, table)
    assert [set(row) for row in plan.fleet.location_index[plan.seats].tolist()] == [
        {0},
        {0},
        {1},
        {1},
        {2},
        {2},
    ]
    equal = {"participation": "equal", **rules}
    again = replan(replace(free, **equal), table, previous=plan)
    places = again.fleet.location_index[again.seats]
    if "max_location_share" in rules:
        assert all(len(set(row)) == 2 for row in places.tolist())
    if "mix_rounds" in rules:
        assert sorted(again.seats[:3].ravel().tolist()) == [0, 1, 2, 3, 4, 5]
    assert replan(replace(free, participation="equal"), table, previous=plan).emissions_g == plan.emissions_g


def test_a_plan_in_which_turns_would_outlast_their_rounds_is_not_kept(job, forecast):
    def staggered(minutes):
        frame = pd.DataFrame({"id": job.fleet.ids, "location": [PLACES[k % 3] for k in range(6)],
                              "duration": [timedelta(minutes=minutes)] * 6})  # fmt: skip
        return replace(job, fleet=Fleet.from_frame(frame), stagger=True, start_step=timedelta(minutes=30))

    plan = replan(staggered(30), forecast)
    assert (plan.starts_us > plan.opens_us[:, None]).any()
    again = replan(staggered(60), forecast, previous=plan)
    assert (again.ends_us <= again.closes_us[:, None]).all()


@pytest.mark.parametrize(("cleaner", "waits"), [(0.003, False), (0.03, True)])
def test_what_waiting_avoids_has_to_be_worth_it(job, forecast, cleaner, waits):
    values = np.full_like(forecast.values, 100.0)
    values[12:] *= 1 - cleaner
    plan = replan(job, forecast.relaid(forecast.edges_us, forecast.locations, values))
    assert (plan.rounds[0].opens_at > job.now) == waits


def hourly(forecast, values):
    """Return a table with the same value at each location."""
    return forecast.relaid(forecast.edges_us, forecast.locations, np.tile(np.array(values)[:, None], 3))


def hours_of(job, plan):
    return [(each.opens_at - job.now) // HOUR for each in plan.rounds]


def test_of_equally_clean_windows_the_first_wins_as_in_plan(job, forecast):
    values = np.full(48, 200.0)
    values[[6, 30]] = 100.0
    one = replace(job, rounds=1)
    assert hours_of(one, plan(one, hourly(forecast, values))) == [6]
    assert hours_of(one, replan(one, hourly(forecast, values))) == [6]


def test_no_single_round_waits_for_next_to_nothing(job, forecast):
    """Most rounds wait for clean hours, which is worth it; the first one would wait for 0.2 %."""
    values = np.full(48, 150.0)
    values[:4] = 100.0, 120.0, 120.0, 99.8
    values[31:36] = 40.0
    assert hours_of(job, replan(job, hourly(forecast, values))) == [0, 31, 32, 33, 34, 35]
    values[3] = 90.0
    assert hours_of(job, replan(job, hourly(forecast, values)))[0] == 3


def test_a_plan_that_stands_loses_a_wait_whose_worth_has_gone(job, forecast):
    values = np.full(48, 100.0)
    values[5] = 90.0
    one = replace(job, rounds=1)
    standing = replan(one, hourly(forecast, values))
    values[5] = 99.8
    near = replan(one, hourly(forecast, values), previous=standing)
    assert (hours_of(one, standing), hours_of(one, near)) == ([5], [0])


def test_without_uncertainty_there_is_nothing_to_hope_for_and_a_bound(job, forecast):
    patient = replace(job, finish_by=job.now + 48 * HOUR)
    certain, hopeful = replan(patient, forecast, is_certain=True), replan(patient, forecast)
    assert schedule(certain) == schedule(plan(patient, forecast)) != schedule(hopeful)
    assert certain.gap == pytest.approx(0.0, abs=1e-9)
    assert hopeful.lower_bound_g is None


def test_a_window_of_which_nothing_is_known_is_kept(job, forecast):
    values = np.full(48, 100.0)
    values[6:] = np.nan
    table = hourly(forecast, values)
    planned = plan(job, hourly(forecast, np.full(48, 100.0)))
    late = replace(planned, **{
        name: getattr(planned, name) + 10 * 3_600_000_000
        for name in ("opens_us", "closes_us", "starts_us", "ends_us")
    })  # fmt: skip
    assert without_idle_waits(late, job, table).opens_us.tolist() == late.opens_us.tolist()


def test_owed_turns_change_the_plan(job, forecast):
    plan = replan(job, forecast)
    owing = replace(job, fleet=replace(job.fleet, turns_done=np.array([0, 4, 4, 4, 4, 4])))
    again = replan(owing, forecast, previous=plan)
    assert int((again.seats == 0).sum()) == 5  # 12 seats; it stands four behind the other five
    assert int((plan.seats == 0).sum()) == 2


def test_says_what_is_missing(job, forecast):
    with pytest.raises(ForecastUnavailableError) as caught:
        replan(job, forecast.align(["DE", "FR"]))
    assert list(caught.value.missing) == ["GB"]
    with pytest.raises(PlanInfeasibleError, match="past"):
        replan(replace(job, now=job.finish_by + HOUR, grid_from=None), forecast)


def test_history_carries_a_plan_past_the_end_of_the_forecast(job, forecast, midnight):
    short = forecast.slice(midnight, midnight + 4 * HOUR)
    with pytest.raises(PlanInfeasibleError):
        replan(job, short)
    past = IntensityTable(forecast.edges_us - 4 * 24 * 3_600_000_000, forecast.locations, forecast.values,
                          Provenance("test", "average"))  # fmt: skip
    longer = past.fill(moved(past, 2))
    plan = replan(job, short, longer)
    assert plan.finish > midnight + 6 * HOUR


def test_a_short_forecast_plans_the_rounds_that_it_covers(job, forecast, midnight):
    short = forecast.slice(midnight, midnight + 6 * HOUR)
    long = replace(job, rounds=12)
    with pytest.raises(PlanInfeasibleError, match="only 6 of 12"):
        replan(long, short)
    plan = replan(long, short, fill_gaps=True)
    covered = plan.starts_us < (midnight + 6 * HOUR).timestamp() * 1e6
    assert plan.forecast_origin == {"forecast": covered.mean(), "default": 1 - covered.mean()}
    assert 0 < covered.sum() < covered.size
    # In an hour that it covers the cleaner places train; later the mean of each place stands in.
    columns = short.columns(job.fleet.locations)[job.fleet.location_index][plan.seats]
    means = short.values.mean(axis=0)
    expected = np.where(covered, short.sampled(np.append(plan.starts_us[:, 0], 2**62))[
        np.arange(12)[:, None], columns], means[columns])  # fmt: skip
    np.testing.assert_allclose(plan.client_emissions_g, 0.3 * expected)


def moved(table, days):
    """Return the table again, some days later."""
    return IntensityTable(
        table.edges_us + days * 24 * 3_600_000_000, table.locations, table.values, Provenance("", "average")
    )


def test_a_plan_says_what_it_rests_on(job, forecast, midnight):
    history = forecast.relaid(forecast.edges_us - 5 * 24 * 3_600_000_000, PLACES, forecast.values - 20.0)
    history = history.fill(
        forecast.relaid(forecast.edges_us - 2 * 24 * 3_600_000_000, PLACES, forecast.values - 20.0)
    )
    short = forecast.slice(midnight, midnight + 12 * HOUR)
    plan = replan(replace(job, max_location_share=0.5), short, history, last_good=["FR"], default=["GB"])
    assert sum(plan.forecast_origin.values()) == pytest.approx(1.0)
    assert set(plan.forecast_origin) <= {"forecast", "corrected", "climatology", "last good", "default"}
    begins = plan.starts_us < midnight.timestamp() * 1e6 + 12 * 3.6e9
    place = np.array(PLACES)[job.fleet.location_index[plan.seats]]
    for label, name in (("last good", "FR"), ("default", "GB")):
        assert plan.forecast_origin.get(label, 0.0) == pytest.approx((begins & (place == name)).mean())


def test_a_deadline_in_centuries_is_planned_for_as_far_as_makes_sense(job, forecast, midnight):
    history = forecast.relaid(forecast.edges_us - 4 * 24 * 3_600_000_000, PLACES, forecast.values)
    history = history.fill(
        forecast.relaid(forecast.edges_us - 2 * 24 * 3_600_000_000, PLACES, forecast.values)
    )
    distant = replace(job, finish_by=midnight.replace(year=9000))
    plan = replan(distant, forecast, history)
    assert plan.forecast_until == midnight + LOOKED_AHEAD
    long = replace(distant, rounds=40, round_duration=2 * 24 * HOUR)
    assert replan(long, forecast, history).forecast_until == midnight + 2 * 40 * 2 * 24 * HOUR


def test_a_plan_that_breaks_a_new_rule_of_balance_is_not_kept(job, forecast):
    free = replan(job, forecast)
    assert free.imbalance > 1.0
    bound = replace(job, balance=0.5)  # one turn
    again = replan(bound, forecast, previous=free)
    assert again.relaxed == {}
    assert again.imbalance <= 1.0 + 1e-9
    assert schedule(replan(bound, forecast, previous=again)) == schedule(again)
    assert schedule(replan(job, forecast, previous=free)) == schedule(free)


def test_balance_counts_the_turns_of_rounds_that_are_over(job, forecast):
    bound = replace(job, balance=0.5)
    plan = replan(bound, forecast)
    for done in (1, 3, 4):
        hours = (int(plan.closes_us[done - 1]) - to_us(job.now)) // HOUR_US
        rest = later(bound, plan, hours)
        assert rest.rounds == 6 - done
        again = replan(rest, forecast)
        assert again.relaxed == {}
        assert again.imbalance <= 1.0 + 1e-9
