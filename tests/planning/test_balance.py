"""Balance: no plan breaks the rule, small ones are optimal under it, and where none keeps it that is said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowcarb_scheduler import Fleet, ForecastUnavailableError, InputError, Job, PlanInfeasibleError, plan
from lowcarb_scheduler.planning.assignment import Seating, assign_aggregated, find_vertex
from lowcarb_scheduler.planning.balance import Balance
from lowcarb_scheduler.planning.job import JobRules
from lowcarb_scheduler.planning.model import Limits
from lowcarb_scheduler.settings import Settings
from support.exact_solver import Exact
from support.planning_jobs import CLASSES, NOW, hours_of, large, random_job, wavy

NO_PLAN = (PlanInfeasibleError, ForecastUnavailableError)


def balanced_job(seed, **sizes):
    """Return a small job with a rule of balance, and its table; the rule may be too tight to be kept."""
    rng = np.random.default_rng(seed)
    job, table = random_job(rng, **sizes)
    return replace(job, balance=float(rng.choice([0.0, 0.3, 0.5, 0.8, 1.2]))), table


def judge(job, table, limits):
    """Plan a job, compare it with the independent exact solver, and return the relative excess and gap."""
    try:
        planned = plan(job, table, limits=limits)
    except NO_PLAN:
        with pytest.raises(NO_PLAN):  # balance alone leaves no job without a plan
            plan(replace(job, balance=None), table)
        return None
    if planned.relaxed.keys() - {"balance"}:
        return None  # tests of rules that conflict judge it
    exact = Exact(job, table)
    assert exact.broken_rules(planned) == []
    assert planned.lower_bound_g <= planned.emissions_g
    bounds = exact.bounds(planned)
    earliest = exact.earliest_finish(bounds)
    assert (earliest is None) == ("balance" in planned.relaxed)
    if earliest is None:
        return None
    best_g = exact.best_g(planned, earliest, bounds)
    return (planned.emissions_g - best_g) / max(abs(best_g), 1e-3)


# -- Independent exact solver -------------------------------------------------------------------------------


@pytest.mark.parametrize("block", range(4))
def test_small_jobs_are_planned_to_optimality(block):
    found = [
        judge(*balanced_job(seed), Limits())
        for seed in range(4 * 10**7 + 60 * block, 4 * 10**7 + 60 * block + 60)
    ]
    excesses = [excess for excess in found if excess is not None]
    assert len(excesses) > 20
    assert max(excesses) <= 1e-7


CLIMB = Limits(proven_cells=0)
SHORTCUTS = {
    "no branch and bound": CLIMB,
    "rounded": replace(CLIMB, branched_cells=0),
    "priced arcs": replace(CLIMB, all_arcs=0),
    "buckets of power": replace(CLIMB, apart_cells=0, buckets=(2, 2, 2)),
    "one block": replace(CLIMB, block_cells=0),
}


@pytest.mark.parametrize("jobs", [40, pytest.param(400, marks=pytest.mark.soak)])
@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_no_shortcut_breaks_a_rule_or_lifts_the_bound_above_the_optimum(shortcut, jobs):
    limits = SHORTCUTS[shortcut]
    found = [judge(*balanced_job(seed), limits) for seed in range(5 * 10**7, 5 * 10**7 + jobs)]
    excesses = [excess for excess in found if excess is not None]
    assert len(excesses) > 0.3 * jobs
    assert np.mean(excesses) < 0.01  # noise among them: the hard case


@settings(derandomize=True, max_examples=60)
@given(st.integers(10**6, 10**9))
def test_no_rule_is_broken(seed):
    job, table = balanced_job(seed, most_clients=12, most_rounds=8, most_slots=40)
    try:
        planned = plan(job, table)
    except NO_PLAN:
        with pytest.raises(NO_PLAN):
            plan(replace(job, balance=None), table)
        return
    if planned.relaxed.keys() <= {"balance"}:
        assert Exact(job, table).broken_rules(planned) == []
    assert planned.lower_bound_g <= planned.emissions_g


@pytest.mark.soak
def test_no_rule_is_broken_in_thousands_of_jobs():
    for seed in range(6 * 10**7, 6 * 10**7 + 3_000):
        job, table = balanced_job(seed, most_clients=14, most_rounds=8, most_slots=40)
        try:
            planned = plan(job, table)
        except NO_PLAN:
            continue
        if planned.relaxed.keys() <= {"balance"}:
            assert Exact(job, table).broken_rules(planned) == []


PLACES = 3


def random_seating(seed, single):
    """Return seats of one or three groups in each place under a rule of balance, and costs."""
    rng = np.random.default_rng(seed)
    rounds, n = 10, 6
    location = np.arange(PLACES) if single else np.repeat(np.arange(PLACES), 3)
    members = rng.integers(2, 5, len(location))
    counts = np.zeros((rounds, len(location)), dtype=np.int64)
    for row in counts:  # any seats: their turns are owed
        np.add.at(row, rng.permutation(np.repeat(np.arange(len(location)), members))[:n], 1)
    owed = counts.sum(axis=0)
    fixed = np.bincount(location, weights=owed, minlength=PLACES).astype(np.int64)
    rule = Balance.of(np.zeros(PLACES), rounds, n, float(rng.choice([0.5, 2.0, 3.0, 4.5])), fixed)
    seating = Seating(n, members, owed // members, -(-owed // members), location, n, rule)
    return seating, rng.uniform(10, 50, (rounds, len(location)))


@pytest.mark.parametrize("single", [True, False])
def test_rounded_seats_are_near_the_best(single):
    """Where one group stands for each location the programme is a network, and nothing has to be rounded."""
    was_integral, excesses = [], []
    for seed in range(150):
        seating, costs = random_seating(seed, single)
        exact, near = (
            assign_aggregated(seating, costs, Limits(branched_cells=cells)) for cells in (10**9, 0)
        )
        vertex = find_vertex(seating, costs, Limits())
        assert (exact is None) == (near is None) == (vertex is None)
        if vertex is None:
            continue
        was_integral.append(vertex.is_integral)
        low, high = seating.balance.bounds()
        for found in (exact, near):
            seats = [found.counts[:, seating.location == place].sum(axis=1) for place in range(PLACES)]
            taken = np.cumsum(seats, axis=1).T
            assert (low <= taken).all()
            assert (taken <= high).all()
            assert (found.counts.sum(axis=1) == seating.seats).all()
        excesses.append(near.emissions_g / exact.emissions_g - 1)
    assert len(was_integral) > 100
    assert all(was_integral) == single
    assert min(excesses) > -1e-9
    assert max(excesses) < (1e-9 if single else 0.03)
    assert single or max(excesses) > 1e-3  # branching is worth its time


# -- Large jobs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("watts", "more", "gap"),
    [
        (lambda rng, count: rng.choice(CLASSES, count), {}, 0.02),
        (lambda rng, count: rng.uniform(50, 500, count), {}, 0.02),
        (lambda rng, count: rng.choice(CLASSES, count), {"participation": (3, 7)}, 0.07),
        (lambda rng, count: rng.choice(CLASSES, count), {"max_location_share": 0.3}, 0.03),
        (lambda rng, count: rng.choice(CLASSES, count), {"participation": "any"}, 0.05),
    ],
)
def test_a_hundred_clients_are_planned_within_their_gap(watts, more, gap):
    job, table = large(100, 16, watts, 50, 10, balance=1.2, **more), wavy(16)
    planned = plan(job, table)
    assert 0 <= planned.gap <= gap
    assert planned.relaxed == {}
    assert Exact.check_large(planned, job, table) == []


def test_less_balance_never_saves_less():
    jobs = [
        large(100, 16, lambda _, count: np.full(count, 300.0), 50, 10, balance=b) for b in (None, 1.2, 0.6)
    ]
    free, wide, tight = (plan(job, wavy(16)) for job in jobs)
    assert free.lower_bound_g <= free.emissions_g < wide.emissions_g < tight.emissions_g
    assert wide.lower_bound_g <= tight.emissions_g


# -- Where it cannot hold -----------------------------------------------------------------------------------


def two_places(turns_done=(0, 0, 0, 0), **rules):
    frame = pd.DataFrame({"id": list("abcd"), "location": ["L00", "L00", "L01", "L01"],
                          "turns_done": turns_done})  # fmt: skip
    return Job(Fleet.from_frame(frame), NOW, NOW + hours_of(24), 6, 2, hours_of(1), **rules)


def test_turns_done_before_count():
    job = two_places((2, 2, 0, 0), balance=1.0)
    planned = plan(job, wavy(2))
    assert Exact(job, wavy(2)).broken_rules(planned) == []
    assert planned.relaxed == {}
    far = two_places((9, 9, 0, 0), balance=0.5)  # L00 has had all 18 turns so far, and takes no more
    planned = plan(far, wavy(2))
    assert "no plan keeps every location within 1 turns" in planned.relaxed["balance"]
    assert planned.to_dict()["relaxed"] == planned.relaxed
    assert (planned.fleet.location_index[planned.seats] == 1).all()


def test_a_rule_that_gives_way_gives_way_as_little_as_it_can():
    job = two_places((4, 4, 0, 0), balance=0.5)
    planned = plan(job, wavy(2))
    assert "balance" in planned.relaxed
    taken = np.array([np.bincount(planned.fleet.location_index[row], minlength=2) for row in planned.seats])
    done = np.array([8, 0])
    so_far = done + np.cumsum(taken, axis=0)
    away = np.abs(so_far - so_far[-1] * so_far.sum(axis=1, keepdims=True) / so_far[-1].sum())[:, 0]
    # L01 catches up with two turns a round: nothing does it faster.
    fastest = done + np.cumsum([[0, 2]] * 4 + [[1, 1]] * 2, axis=0)
    least = np.abs(fastest - so_far[-1] * fastest.sum(axis=1, keepdims=True) / so_far[-1].sum())[:, 0]
    assert (away <= np.maximum(least, 1.0) + 1e-9).all()


def test_one_location_is_always_in_balance():
    frame = pd.DataFrame({"id": list("abc"), "location": "L00"})
    job = Job(Fleet.from_frame(frame), NOW, NOW + hours_of(12), 3, 2, hours_of(1), balance=0.0)
    planned, free = plan(job, wavy(1)), plan(replace(job, balance=None), wavy(1))
    assert planned.seats.tolist() == free.seats.tolist()
    assert planned.relaxed == {}


# -- Values -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), "wide", True, [1.2]])
def test_bad_values_are_refused(value):
    with pytest.raises(InputError, match="balance") as caught:
        two_places(balance=value)
    assert "\n" not in str(caught.value)


def test_auto_depends_on_the_correction_and_off_is_none():
    assert two_places(balance="auto").balance_turns == pytest.approx(2.4)
    assert two_places(balance="auto", corrected=False).balance_turns == pytest.approx(1.6)
    assert two_places(balance="off").balance_turns is None
    assert two_places(balance=1).balance_turns == 2.0


def test_settings_and_job_rules_read_the_same_values():
    for value in ("auto", "off", 0.8):
        rules = JobRules.from_settings({"balance": Settings(balance=value).balance})
        assert rules.balance == value
        job = replace(rules, round_duration=hours_of(1)).job(two_places().fleet, NOW, NOW + hours_of(9), 2, 2)
        assert job.balance == (None if value == "off" else value)
    assert Settings(balance="1.5").balance == 1.5  # a variable holds text
    assert JobRules.from_settings({"balance": "auto", "participation_correction": "off"}).corrected is False
    for value in ("wide", "-1", "nan", True):
        with pytest.raises(InputError, match="balance"):
            Settings.load({"balance": value})
