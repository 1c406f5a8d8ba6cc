"""Hindsight: the same work under the same rules, and no plan that obeys them does better."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from itertools import combinations, product

import numpy as np
import pytest

from lowcarb_scheduler.accounting.attribution import account
from lowcarb_scheduler.accounting.hindsight import Rules, hindsight_of, job_of, without_fine_stagger
from lowcarb_scheduler.clock import HOUR_US
from support.ledgers import replayed
from support.random_run import random_run
from support.report_ledger import ACTUAL, run_events

SEEDS = range(25)


def done(events):
    return [event for event in events if event["event"] == "node_done"]


def hindsight(events):
    record = replayed(events)
    return record, hindsight_of(record)


@pytest.mark.parametrize("seed", SEEDS)
def test_it_does_the_same_work(seed):
    events, _ = random_run(np.random.default_rng(seed))
    record, best = hindsight(events)
    turns, plan = Counter(event["id"] for event in done(events)), best.plan
    planned = Counter(plan.fleet.ids[plan.seats.ravel()])
    assert {key: planned[key] for key in turns} == turns
    hours = (plan.ends_us - plan.starts_us) / HOUR_US
    kwh = (plan.fleet.power_watts[plan.seats] / 1000 * hours).sum()
    assert kwh == pytest.approx(sum(event["energy_kwh"] for event in done(events)))
    seated = [len(worked.turns) for worked in record.rounds]
    real = np.isin(plan.fleet.ids, list(turns))[plan.seats].sum(axis=1)
    assert len(real) == len(seated)
    assert min(seated) <= real.min()
    assert real.max() <= max(seated)
    rules = Rules.of(record)
    assert plan.rounds[0].opens_at >= rules.grid_from
    assert plan.finish <= rules.target_finish <= rules.finish_by


@pytest.mark.parametrize("seed", SEEDS)
def test_no_run_that_obeys_its_rules_is_below_its_bound(seed):
    """These runs open on the grid, take as long as planned, and are over in time."""
    events, _ = random_run(np.random.default_rng(seed), as_planned=True, evaluates=False)
    accounts = account(replayed(events))
    best = accounts.hindsight.plan
    assert best.lower_bound_g <= accounts.run.realised_g * (1 + 1e-9)
    assert best.lower_bound_g <= accounts.hindsight_g == best.emissions_g
    assert accounts.hindsight_g <= accounts.run.realised_g + best.gap * abs(best.emissions_g) + 1e-6


def test_it_is_the_best_of_all_plans_of_a_small_run():
    accounts = account(replayed(run_events()))
    turns = Counter(event["id"] for event in done(run_events()))
    places = {event["id"]: event["location"] for event in done(run_events())}
    best = np.inf
    seats = [pair for size in (1, 2) for pair in combinations(turns, size)]
    for hours in combinations(range(4), 3):  # of which actual intensity is known
        for who in product(seats, repeat=3):
            if Counter(key for pair in who for key in pair) == turns:
                grams = sum(
                    ACTUAL[places[key]][hour] for hour, pair in zip(hours, who, strict=True) for key in pair
                )
                best = min(best, grams)
    assert accounts.hindsight_g == best == 966


def test_it_knows_no_hour_that_the_ledger_does_not():
    accounts = account(replayed(run_events()))
    assert accounts.hindsight.known_until.hour == 4
    assert accounts.hindsight.plan.finish.hour <= 4


def test_a_run_that_did_not_complete_has_no_longer_than_it_took():
    events = run_events()
    events[-1] = {**events[-1], "status": "failed"}
    record = replayed(events)
    assert Rules.of(record).finish_by == record.rounds[-1].closes_at


def test_a_cap_on_locations_binds_it_too():
    events = run_events()
    events[0]["settings"] = {"max_location_share": 0.5}
    plan = hindsight(events)[1].plan
    names = np.array(plan.fleet.locations)[plan.fleet.location_index][plan.seats]
    assert all(Counter(row)["DE"] <= 1 and Counter(row)["FR"] <= 1 for row in names)
    assert account(replayed(events)).hindsight_g >= 966


def test_turns_that_took_longer_than_a_round_fill_it():
    events = run_events()
    for event in done(events):
        event["duration_s"] += 1800
    record, best = hindsight(events)
    assert (job_of(record, Rules.of(record)).fleet.durations_us <= HOUR_US).all()
    assert best is not None


def test_a_grid_of_minutes_is_not_searched_for_staggered_starts():
    events = run_events()
    events[0]["settings"] = {"stagger": True}
    record = replayed(events)
    rules = Rules.of(record)
    for length, is_staggered in ((rules.job_rules.round_duration, True), (timedelta(minutes=59), False)):
        job_rules = replace(rules.job_rules, round_duration=length)
        job = job_of(
            record, replace(rules, job_rules=job_rules, finish_by=rules.grid_from + timedelta(hours=6))
        )
        assert without_fine_stagger(job, record.actual).stagger is is_staggered
    assert account(replayed(events)).hindsight_g <= 966
