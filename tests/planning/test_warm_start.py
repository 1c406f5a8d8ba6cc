"""Warm starts: a search that starts from a previous plan, and openings that leave no choice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lowcarb_scheduler import ForecastUnavailableError, PlanInfeasibleError, plan
from lowcarb_scheduler.planning.timegrid import Grid
from support.exact_solver import Exact
from support.planning_jobs import CLASSES, hours_of, large, random_job, wavy

NO_PLAN = (PlanInfeasibleError, ForecastUnavailableError)
HOUR_US = 3_600_000_000


@pytest.mark.parametrize("jobs", [30, pytest.param(1500, marks=pytest.mark.soak)])
@pytest.mark.parametrize("balance", [None, 0.8])
def test_no_rule_is_broken_whatever_the_previous_plan(jobs, balance):
    excesses = []
    for seed in range(jobs):
        rng = np.random.default_rng(7 * 10**7 + seed)
        job, table = random_job(rng)
        job = replace(job, balance=balance)
        noise = table.relaid(
            table.edges_us, table.locations, table.values * rng.uniform(0.3, 3, table.values.shape)
        )
        # The previous plan is one of other intensities, with more time, or of fewer rounds: of no use here.
        other = [job, replace(job, patience=1.0), replace(job, rounds=1)][seed % 3]
        try:
            previous = plan(other, noise)
            planned = plan(job, table, previous=previous)
        except NO_PLAN:
            continue
        if planned.relaxed.keys() - {"balance"}:
            continue
        exact = Exact(job, table)
        bounds = exact.bounds(planned)
        earliest = exact.earliest_finish(bounds)
        assert exact.broken_rules(planned) == []
        if earliest is None:
            assert "balance" in planned.relaxed
            continue
        best_g = exact.best_g(planned, earliest, bounds)
        assert planned.lower_bound_g <= best_g + 1e-7 * max(abs(best_g), 1e-3)
        excesses.append((planned.emissions_g - best_g) / max(abs(best_g), 1e-3))
    assert len(excesses) > 0.4 * jobs
    assert np.mean(excesses) < 0.005


@pytest.mark.parametrize(
    ("rules", "excess"),
    [
        ({}, 0.003),
        ({"balance": 1.2}, 0.005),
        ({"balance": 1.2, "participation": "auto", "corrected": True}, 0.01),
    ],
)
def test_a_search_from_a_plan_for_nearly_the_same_intensity_is_about_as_good(rules, excess):
    job, table = large(60, 6, lambda rng, count: rng.choice(CLASSES, count), 16, 8, **rules), wavy(6)
    earlier = plan(job, table)
    rng = np.random.default_rng(3)
    news = table.relaid(
        table.edges_us, table.locations, table.values * rng.normal(1, 0.03, table.values.shape)
    )
    left = replace(job, rounds=15, now=job.now + hours_of(0.5))
    cold, warm = plan(left, news), plan(left, news, previous=earlier)
    assert warm.lower_bound_g <= cold.emissions_g
    assert warm.emissions_g <= cold.emissions_g * (1 + excess)
    assert warm.gap <= 0.025


@pytest.mark.parametrize("stagger", [False, True])
def test_without_slack_the_bound_is_the_plan(stagger):
    job, table = large(60, 5, lambda rng, count: rng.choice(CLASSES, count), 40, 6), wavy(5)
    tight = replace(job, patience=0.0, stagger=stagger)
    planned = plan(tight, table)
    assert planned.closes_us[-1] == job.opens_from_us + job.rounds * job.round_us
    assert planned.gap == 0
    assert Exact.check_large(planned, tight, table) == []


def test_openings_nearest_to_others_never_overlap():
    rng = np.random.default_rng(0)
    for _ in range(300):
        rounds, step_us = int(rng.integers(1, 6)), int(rng.choice([HOUR_US // 4, HOUR_US]))
        round_us = int(rng.integers(1, 9)) * HOUR_US // 4
        spare_us = int(rng.integers(0, 20)) * HOUR_US // 4
        width = -(-round_us // step_us)
        end_us = rounds * width * step_us + round_us + spare_us
        grid = Grid.between(0, end_us, end_us, origin_us=0, step_us=step_us, round_us=round_us, rounds=rounds)
        given = np.sort(rng.integers(-5 * HOUR_US, end_us + 5 * HOUR_US, rounds))
        slots = grid.nearest(given)
        assert slots[0] >= 0
        assert slots[-1] < len(grid)
        assert (np.diff(slots) >= grid.width).all()
        assert (grid.nearest(grid.opens_us[slots]) == slots).all()  # openings on the grid stay
