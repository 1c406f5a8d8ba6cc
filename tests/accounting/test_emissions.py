"""Emissions, the run-now expectation and Jain's index."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from lowcarb_scheduler.accounting.emissions import emissions_g, jain_index, known_sum, run_now_g, saving
from lowcarb_scheduler.clock import HOUR_US, to_us
from lowcarb_scheduler.intensity import IntensityTable


@pytest.fixture
def table(midnight):
    index = pd.date_range(midnight, periods=6, freq="h")
    rng = np.random.default_rng(1)
    return IntensityTable.from_frame(pd.DataFrame(rng.uniform(0, 500, (6, 3)), index, list("ABC")))


def test_a_kilowatt_for_an_hour_at_100_is_100_grams(midnight):
    frame = pd.DataFrame({"A": [100.0]}, index=pd.DatetimeIndex([midnight]))
    start = np.array([to_us(midnight)])
    got = emissions_g(IntensityTable.from_frame(frame), [0], [1000.0], start, start + HOUR_US)
    assert got == pytest.approx([100.0])


def test_run_now_is_the_mean_over_all_choices_of_clients(table, midnight):
    columns = np.array([0, 1, 2, 2, 0])
    watts = np.array([100.0, 250.0, 300.0, 80.0, 500.0])
    durations = np.array([HOUR_US, HOUR_US // 2, HOUR_US, HOUR_US // 4, HOUR_US])
    opens = to_us(midnight) + HOUR_US * np.arange(3)
    got = run_now_g(table, columns, watts, durations, opens, 2)
    for r, start in enumerate(opens):
        each = emissions_g(table, columns, watts, np.full(5, start), start + durations)
        choices = [each[list(pair)].sum() for pair in combinations(range(5), 2)]
        assert got[r] == pytest.approx(np.mean(choices))


def test_run_now_is_undefined_where_a_client_of_the_fleet_meets_a_gap(table, midnight):
    columns, watts = np.array([0, -1]), np.array([100.0, 100.0])
    durations = np.array([HOUR_US, HOUR_US])
    assert np.isnan(run_now_g(table, columns, watts, durations, np.array([to_us(midnight)]), 1)).all()


def test_jain_index():
    assert jain_index([3, 3, 3]) == 1.0
    assert jain_index([6, 0, 0]) == pytest.approx(1 / 3)
    assert jain_index([0, 0]) == 1.0


def test_a_saving_is_unknown_where_a_part_of_it_is():
    assert saving(75.0, 100.0) == 0.25
    assert saving(None, 100.0) is saving(75.0, None) is saving(75.0, 0.0) is saving(75.0, -1.0) is None
    assert known_sum([1.0, 2.0]) == 3.0
    assert known_sum([1.0, None]) is known_sum([]) is None
