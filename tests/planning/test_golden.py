"""Plans and a backtest equal those recorded before the packages were rearranged: numbers, times and seats."""

from __future__ import annotations

import hashlib
import json
import math
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lowcarb_scheduler import Fleet, IntensityTable, Job, plan
from support.planning_jobs import NOW, hours_of

GOLDEN = Path(__file__).parents[1] / "golden" / "plans.json"


def intensity(seed, locations, hours, step_minutes=60, gaps=0.0):
    """Return daily curves with noise, so that no two windows cost the same."""
    rng = np.random.default_rng(seed)
    hour = np.arange(hours * 60 // step_minutes)[:, None] * step_minutes / 60
    base, phase = rng.uniform(50, 500, locations), rng.uniform(0, 24, locations)
    values = base * (1 + 0.4 * np.cos(2 * np.pi * (hour - phase) / 24)) + rng.normal(
        0, 8, (len(hour), locations)
    )
    values[rng.random(values.shape) < gaps] = np.nan
    index = pd.date_range(NOW, periods=len(hour), freq=f"{step_minutes}min")
    names = [f"L{k:02d}" for k in range(locations)]
    return IntensityTable.from_frame(pd.DataFrame(values, index=index, columns=names), "average", "golden")


def fleet(seed, clients, locations, **columns):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "id": [f"c{k:05d}" for k in range(clients)],
            "location": [f"L{k:02d}" for k in rng.integers(0, locations, clients)],
            "power_watts": rng.uniform(80, 500, clients).round(1),
        }
    )
    return Fleet.from_frame(frame.assign(**columns))


def job(fleet, hours, rounds, n, minutes=60, **rules):
    return Job(fleet, now=NOW, finish_by=NOW + hours_of(hours), rounds=rounds, clients_per_round=n,
               round_duration=timedelta(minutes=minutes), **rules)  # fmt: skip


def equal_turns():
    return plan(job(fleet(1, 12, 4, turns_done=[0, 1] * 6), 48, 6, 4), intensity(1, 4, 72)).to_dict()


def staggered():
    trains = [timedelta(minutes=20 + 5 * (k % 6)) for k in range(10)]
    asked = job(fleet(2, 10, 3, duration=trains), 14, 4, 5, stagger=True, patience=0.7)
    return plan(asked, intensity(2, 3, 48, step_minutes=30)).to_dict()


def mixed_and_capped():
    asked = job(fleet(3, 24, 6), 60, 12, 6, mix_rounds=4, max_location_share=0.34)
    return plan(asked, intensity(3, 6, 72)).to_dict()


def bounded_with_gaps():
    asked = job(fleet(4, 15, 5), 72, 8, 5, minutes=90, participation=(1, 5), seed=3)
    return plan(asked, intensity(4, 5, 80, gaps=0.03)).to_dict()


def large():
    """Return a digest of a plan for 10,000 clients, 50 rounds and 40 locations."""
    planned = plan(job(fleet(5, 10_000, 40), 72, 50, 300, minutes=30), intensity(5, 40, 96, step_minutes=30))
    return {
        "emissions_g": planned.emissions_g,
        "lower_bound_g": planned.lower_bound_g,
        "run_now_emissions_g": planned.run_now_emissions_g,
        "opens_at": [each.opens_at.isoformat() for each in planned.rounds],
        "seats_sha256": hashlib.sha256(planned.seats.astype("<i8").tobytes()).hexdigest(),
    }


CASES = {case.__name__: case for case in (equal_turns, staggered, mixed_and_capped, bounded_with_gaps, large)}


def assert_same(found, expected, path):
    """Compare documents: numbers to 1e-9 of their size, everything else exactly."""
    if isinstance(expected, dict):
        assert list(found) == list(expected), path
        for key, value in expected.items():
            assert_same(found[key], value, f"{path}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), path
        for k, value in enumerate(expected):
            assert_same(found[k], value, f"{path}[{k}]")
    elif isinstance(expected, float):
        assert math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-12), path
    else:
        assert found == expected, path


@pytest.mark.parametrize("name", CASES)
def test_plans_equal_the_recorded_ones(name):
    assert_same(CASES[name](), json.loads(GOLDEN.read_text())[name], name)
