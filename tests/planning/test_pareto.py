"""Pareto front: monotone, with valid gaps, knee and savings."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowcarb_scheduler import ForecastUnavailableError, InputError, PlanInfeasibleError, plan, tradeoff
from lowcarb_scheduler.planning.pareto import Frontier, FrontierPoint, _front
from support.planning_jobs import NOW, hours_of, random_job


def front(*points, run_now_g=100.0):
    return Frontier(
        tuple(
            FrontierPoint(patience, NOW + hours_of(hour), float(grams), float(grams), 1 - grams / run_now_g)
            for patience, hour, grams in points
        ),
        run_now_g,
    )


@settings(derandomize=True, max_examples=40)
@given(st.integers(0, 10**6))
def test_every_point_is_a_plan_and_later_points_are_cleaner(seed):
    job, table = random_job(np.random.default_rng(seed))
    try:
        found = tradeoff(job, table)
    except (PlanInfeasibleError, ForecastUnavailableError) as error:
        with pytest.raises(type(error)):
            plan(job, table)
        return
    for early, late in pairwise(found.points):
        assert late.finish > early.finish
        assert late.patience > early.patience
        assert late.emissions_g < early.emissions_g
        assert late.lower_bound_g <= early.lower_bound_g
    for point in found.points:
        assert point.lower_bound_g <= point.emissions_g
        again = plan(replace(job, patience=point.patience, target_finish=None), table)
        assert again.emissions_g == pytest.approx(point.emissions_g, rel=1e-7, abs=1e-9)
    assert found.knee in found.points


def test_progress_is_reported_and_too_few_points_are_refused():
    job, table = next(
        (job, table)
        for job, table in (random_job(np.random.default_rng(seed)) for seed in range(50))
        if _has_plan(job, table)
    )
    told = []
    tradeoff(job, table, points=5, progress=lambda done, of: told.append((done, of)))
    assert told == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]
    with pytest.raises(InputError, match="points"):
        tradeoff(job, table, points=1)


def _has_plan(job, table):
    try:
        plan(job, table)
    except (PlanInfeasibleError, ForecastUnavailableError):
        return False
    return True


def test_the_knee_is_farthest_below_the_line():
    bent = front((0.0, 2, 80), (0.25, 4, 50), (0.5, 6, 48), (1.0, 10, 45))
    assert bent.knee.finish == NOW + hours_of(4)
    assert front((0.0, 2, 80)).knee.finish == NOW + hours_of(2)
    straight = front((0.0, 0, 80), (0.5, 5, 60), (1.0, 10, 40))
    assert straight.knee.finish == NOW
    assert bent.has_knee
    assert not straight.has_knee


def test_earliest_saving_and_marginal_saving():
    bent = front((0.0, 2, 80), (0.5, 4, 50), (1.0, 10, 44))
    assert bent.earliest_saving(0.3).finish == NOW + hours_of(4)
    assert bent.earliest_saving(0.2).finish == NOW + hours_of(2)
    assert bent.earliest_saving(0.9) is None
    assert bent.marginal_saving_g(NOW + hours_of(2)) == pytest.approx(15)
    assert bent.marginal_saving_g(NOW + hours_of(4)) == pytest.approx(1)
    assert bent.marginal_saving_g(NOW + hours_of(4) - timedelta(minutes=30)) == pytest.approx(7.5 + 0.5)
    assert bent.marginal_saving_g(NOW + hours_of(10)) == 0


def test_a_point_has_at_least_the_bound_of_every_later_one():
    job, table = next(
        (job, table)
        for job, table in (random_job(np.random.default_rng(seed)) for seed in range(50))
        if _has_plan(job, table) and len(tradeoff(job, table).points) > 2
    )
    plans = [plan(replace(job, patience=patience, target_finish=None), table) for patience in (0.0, 0.5, 1.0)]
    loose = [
        replace(planned, lower_bound_g=bound)
        for planned, bound in zip(plans, (-9.0, -1.0, -5.0), strict=True)
    ]
    assert [point.lower_bound_g for point in _front([0.0, 0.5, 1.0], loose)] == [-1.0, -1.0, -5.0]
