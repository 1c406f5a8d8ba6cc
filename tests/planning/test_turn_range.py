"""Turns that differ by location: as even as random sampling, even inside a location, and one joint plan."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowcarb_scheduler import (
    Fleet,
    ForecastUnavailableError,
    InputError,
    Job,
    PlanInfeasibleError,
    plan,
    tradeoff,
)
from lowcarb_scheduler.accounting.emissions import jain_index
from lowcarb_scheduler.planning.fairness import TurnRange, as_even_as_random, decide_turns, share_out
from lowcarb_scheduler.planning.job import JobRules
from support.exact_solver import Exact
from support.planning_jobs import CLASSES, NOW, hours_of, large, random_job, wavy

NO_PLAN = (PlanInfeasibleError, ForecastUnavailableError)
WATTS = {
    "same": lambda _, count: np.full(count, 300.0),
    "classes": lambda rng, count: rng.choice(CLASSES, count),
    "all differ": lambda rng, count: rng.uniform(50, 500, count),
}


# -- Range --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rounds", "n", "clients", "least", "most"),
    [(50, 10, 100, 3, 7), (40, 6, 60, 3, 5), (40, 10, 100, 3, 5), (30, 10, 100, 2, 4), (100, 10, 50, 16, 24)],
)  # fmt: skip
def test_the_widest_range_as_even_as_random_sampling(rounds, n, clients, least, most):
    assert as_even_as_random(rounds, n, clients) == TurnRange(least, most)


@pytest.mark.parametrize(("rounds", "n", "clients"), [(20, 10, 100), (3, 5, 5), (1, 2, 9), (50, 100, 100)])
def test_few_turns_or_whole_fleets_leave_no_range(rounds, n, clients):
    assert as_even_as_random(rounds, n, clients) is None


@settings(derandomize=True, max_examples=200)
@given(st.integers(1, 60), st.integers(2, 60), st.data())
def test_no_turns_in_the_range_are_less_even_than_random_ones(rounds, clients, data):
    n = data.draw(st.integers(1, clients))
    bounds = as_even_as_random(rounds, n, clients)
    mean = rounds * n / clients
    if bounds is None:
        return
    assert bounds.least <= mean <= bounds.most <= rounds
    random = 1 / (1 + (1 - n / clients) / mean)
    # Of all turns with this mean, those at both ends of the range are the least even.
    high = (mean - bounds.least) / (bounds.most - bounds.least)
    square = high * bounds.most**2 + (1 - high) * bounds.least**2
    assert mean**2 / square >= random - 1e-12


# -- Plans --------------------------------------------------------------------------------------------------


def ranged_job(seed):
    rng = np.random.default_rng(seed)
    job, table = random_job(rng, most_clients=6, most_rounds=4, most_slots=10, stagger=False)
    mean = job.rounds * job.clients_per_round // len(job.fleet)
    bounds = TurnRange(
        max(mean - int(rng.integers(0, 3)), 0), min(mean + int(rng.integers(1, 3)), job.rounds)
    )
    fleet = replace(job.fleet, turns_done=np.zeros(len(job.fleet), dtype=np.int64))
    balance = [None, None, 0.8, 1.2][rng.integers(4)]
    return replace(job, fleet=fleet, participation=bounds, max_location_share=1.0, balance=balance), table


@pytest.mark.parametrize("block", range(3))
def test_small_jobs_are_near_the_best_of_all_turns_and_above_their_bound(block):
    excesses = []
    for seed in range(7 * 10**7 + 15 * block, 7 * 10**7 + 15 * block + 15):
        job, table = ranged_job(seed)
        try:
            planned = plan(job, table)
        except NO_PLAN:
            continue
        exact = Exact(job, table)
        assert exact.broken_rules(planned) == []
        assert planned.lower_bound_g <= planned.emissions_g
        if planned.relaxed:
            continue
        best_g = best_of_all_turns_g(exact, planned)
        scale = max(abs(best_g), 1e-3)
        assert planned.lower_bound_g <= best_g + 1e-7 * scale
        assert planned.emissions_g >= best_g - 1e-7 * scale
        excesses.append((planned.emissions_g - best_g) / scale)
    assert len(excesses) > 4
    assert np.mean(excesses) < 0.05


def best_of_all_turns_g(exact, planned):
    """Try the turns of each location one by one."""
    job = exact.job
    clients = np.bincount(job.fleet.location_index)
    bounds = job.participation
    choices = [range(bounds.least * count, min(bounds.most, job.rounds) * count + 1) for count in clients]
    target = exact.target(exact.earliest_finish(([0] * len(job.fleet), [job.rounds] * len(job.fleet))), None)
    target = max(target, (planned.finish - job.now) / hours_of(1))
    found = []
    for turns in product(*choices):
        if sum(turns) == job.rounds * job.clients_per_round:
            each = share_out(job, np.array(turns)).tolist()
            grams = exact.optimum((each, each), target)
            found += [] if grams is None else [grams]
    return min(found)


@pytest.mark.parametrize("watts", WATTS)
@pytest.mark.parametrize("balance", [None, 1.2])
def test_a_hundred_clients_take_three_to_seven_turns(watts, balance):
    job, table = large(100, 16, WATTS[watts], 50, 10, participation="auto", balance=balance), wavy(16)
    planned, equal = plan(job, table), plan(replace(job, participation="equal"), table)
    bounded = replace(job, participation=TurnRange(3, 7))
    assert Exact.check_large(planned, replace(bounded, participation=(3, 7)), table) == []
    for place in range(16):
        assert np.ptp(planned.turns[job.fleet.location_index == place]) <= 1
    assert jain_index(planned.turns) >= 1 / (1 + 0.9 / 5)
    assert planned.emissions_g < equal.emissions_g
    assert 0 <= planned.gap <= 0.04
    assert planned.lower_bound_g <= equal.emissions_g


def test_turns_done_before_count_in_a_range():
    done = np.zeros(12, dtype=np.int64)
    done[:4] = 3
    names = {"id": [f"c{k:02}" for k in range(12)], "location": [f"L{k // 4:02}" for k in range(12)]}
    frame = pd.DataFrame({**names, "turns_done": done})
    job = Job(Fleet.from_frame(frame), NOW, NOW + hours_of(24), 10, 4, hours_of(1), bounds_count_done=True,
              participation=TurnRange(2, 6))  # fmt: skip
    planned = plan(job, wavy(3))
    assert planned.turns.min() >= 2
    assert planned.turns.max() <= 6
    for place in range(3):
        assert np.ptp(planned.turns[job.fleet.location_index == place]) <= 1


def test_nobody_falls_below_the_range_because_a_neighbour_is_ahead():
    """Of L00, the dirtiest place, one client has had four turns before the range was cut to its least."""
    names = {"id": [f"c{k}" for k in range(6)], "location": ["L00", "L00", "L01", "L01", "L02", "L02"]}
    fleet = Fleet.from_frame(pd.DataFrame({**names, "turns_done": [4, 0, 2, 2, 2, 2]}))
    job = Job(fleet, NOW, NOW + hours_of(12), 6, 2, hours_of(1), bounds_count_done=True,
              participation=TurnRange(3, 6))  # fmt: skip
    table = wavy(3).relaid(wavy(3).edges_us, ("L00", "L01", "L02"), wavy(3).values[:, ::-1])
    turns = plan(job, table).turns
    assert turns[1] == 3
    assert turns.max() <= 6


def test_without_correction_auto_is_equal():
    job = large(100, 16, WATTS["same"], 50, 10, participation="auto", corrected=False)
    assert decide_turns(job).least.tolist() == decide_turns(job).most.tolist() == [5] * 100
    equal = plan(replace(job, participation="equal"), wavy(16))
    assert plan(job, wavy(16)).seats.tolist() == equal.seats.tolist()


def test_a_front_of_turns_that_differ_is_below_that_of_equal_turns():
    job = large(100, 16, WATTS["same"], 50, 10, participation="auto")
    fronts = [tradeoff(replace(job, participation=turns), wavy(16), points=2) for turns in ("auto", "equal")]
    assert fronts[0].points[-1].emissions_g < fronts[1].points[-1].emissions_g


def test_auto_with_turns_done_is_refused_in_one_line():
    frame = pd.DataFrame({"id": ["a", "b"], "location": ["L00", "L01"], "turns_done": [1, 0]})
    with pytest.raises(InputError, match="participation") as caught:
        JobRules(participation="auto", round_duration=hours_of(1)).job(
            Fleet.from_frame(frame), NOW, NOW + hours_of(9), 2, 1
        )
    assert "\n" not in str(caught.value)
