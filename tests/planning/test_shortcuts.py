"""Shortcuts for large jobs, forced on small jobs that an exact solver can check; and large jobs."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from lowcarb_scheduler import Fleet, ForecastUnavailableError, IntensityTable, Job, PlanInfeasibleError, plan
from lowcarb_scheduler.planning.fairness import TurnRange
from lowcarb_scheduler.planning.model import Limits
from support.exact_solver import Exact
from support.planning_jobs import CLASSES, NOW, hours_of, large, random_job, wavy

CLIMB = Limits(proven_cells=0)
IN_BUCKETS = replace(CLIMB, apart_cells=0, buckets=(2, 2, 2))
SHORTCUTS = {
    "no branch and bound": CLIMB,
    "buckets of power": IN_BUCKETS,
    "buckets never refined": replace(IN_BUCKETS, refined_arcs=0),
    "spans told apart roughly": replace(CLIMB, span_cells=0),
    "priced arcs": replace(CLIMB, all_arcs=0, expanded_cells=0),
    "few assignments": replace(CLIMB, quick_arcs=0, slow_arcs=0),
}


@pytest.mark.parametrize("jobs", [50, pytest.param(1000, marks=pytest.mark.soak)])
@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_no_shortcut_breaks_a_rule_or_lifts_the_bound_above_the_optimum(shortcut, jobs):
    excesses = []
    for seed in range(jobs):
        job, table = random_job(np.random.default_rng(3 * 10**6 + seed), stagger="spans" in shortcut or None)
        try:
            planned = plan(job, table, limits=SHORTCUTS[shortcut])
        except (PlanInfeasibleError, ForecastUnavailableError):
            continue
        if planned.relaxed:
            continue
        exact = Exact(job, table)
        bounds = exact.bounds(planned)
        target = exact.target(exact.earliest_finish(bounds), bounds)
        assert exact.broken_rules(planned, target) == []
        best_g = exact.optimum(bounds, target)
        scale = max(abs(best_g), 1e-3)
        assert planned.lower_bound_g <= best_g + 1e-7 * scale
        excesses.append((planned.emissions_g - best_g) / scale)
    assert len(excesses) > 0.35 * jobs
    assert np.mean(excesses) < 0.005  # noise among them: the hard case


@pytest.mark.parametrize(
    ("watts", "more", "gap"),
    [
        (lambda rng, count: rng.choice(CLASSES, count), {}, 0.002),
        (lambda rng, count: rng.uniform(50, 500, count), {}, 0.002),
        (lambda rng, count: rng.uniform(50, 500, count), {"participation": "any"}, 0.01),
        (lambda rng, count: rng.uniform(50, 500, count), {"participation": (0, 20)}, 0.01),
        (lambda rng, count: rng.uniform(50, 500, count), {"max_location_share": 0.1}, 0.01),
        (lambda rng, count: rng.choice(CLASSES, count), {"stagger": True}, 0.015),
    ],
)
def test_a_large_job_is_planned_within_its_gap(watts, more, gap):
    job, table = large(4_000, 20, watts, 40, 150, **more), wavy(20)
    planned = plan(job, table)
    assert 0 <= planned.gap <= gap
    assert Exact.check_large(planned, job, table) == []


@pytest.mark.parametrize("more", [{}, {"participation": TurnRange(1, 3)}, {"mix_rounds": 7}])
def test_limits_hold_for_every_kind_of_plan(more):
    job, table = large(24, 3, lambda rng, count: rng.uniform(50, 500, count), 10, 4, **more), wavy(3)
    best, rough = plan(job, table), plan(job, table, limits=SHORTCUTS["buckets never refined"])
    assert rough.emissions_g > best.emissions_g or rough.gap > best.gap


def test_clients_that_own_cleaner_seats_draw_more_power():
    job = large(2_000, 4, lambda rng, count: rng.uniform(50, 500, count), 20, 100)
    planned = plan(job, wavy(4))
    fleet = job.fleet
    per_watt = planned.client_emissions_g / fleet.power_watts[planned.seats]
    for place in range(4):
        mine = fleet.location_index[planned.seats] == place
        order = np.argsort(-fleet.power_watts[planned.seats][mine], kind="stable")
        assert (np.diff(per_watt[mine][order]) >= -1e-12).all()


def test_rough_spans_are_never_taken_for_a_proof():
    rng = np.random.default_rng(4)
    index = pd.date_range(NOW, periods=700, freq="5min")
    table = IntensityTable.from_frame(pd.DataFrame({"A": rng.uniform(10, 500, 700)}, index=index))
    frame = pd.DataFrame({"id": ["a"], "location": ["A"]})
    together = Job(Fleet.from_frame(frame), now=NOW, finish_by=NOW + hours_of(58), rounds=3,
                   clients_per_round=1, round_duration=timedelta(minutes=20))  # fmt: skip
    best = plan(together, table)
    staggered = plan(replace(together, stagger=True), table)  # one client a round: nothing to gain
    assert best.gap == 0
    assert staggered.emissions_g == pytest.approx(best.emissions_g)
    assert staggered.lower_bound_g <= best.emissions_g * (1 + 1e-9)
