"""Value of waiting: it lowers far hours of varying locations, and nothing without slack."""

from __future__ import annotations

from dataclasses import replace
from math import exp, log

import numpy as np
import pandas as pd
import pytest

from lowcarb_scheduler import Fleet, IntensityTable, Job
from lowcarb_scheduler.planning.option_value import value_of_waiting
from support.planning_jobs import NOW, hours_of

JOB = Job(
    Fleet.from_frame(pd.DataFrame({"id": ["a", "b"], "location": ["calm", "wild"]})), now=NOW,
    finish_by=NOW + hours_of(48), rounds=6, clients_per_round=1, round_duration=hours_of(2),
)  # fmt: skip
HOURS = np.arange(48)
TABLE = IntensityTable.from_frame(
    pd.DataFrame(
        {"calm": np.full(48, 300.0), "wild": np.where(HOURS % 2, 200.0, 400.0)},
        index=pd.date_range(NOW, periods=48, freq="1h"),
    ),
    "marginal",
    "somebody",
)


def test_the_formula():
    seen = value_of_waiting(JOB, TABLE)
    assert (seen.values[:, 0] == 300).all()
    x = 48 / 12
    expected = [0.12 * log(x) * 100 * (1 - exp(-(h + 0.5) / 36)) for h in HOURS]
    np.testing.assert_allclose(TABLE.values[:, 1] - seen.values[:, 1], expected)
    assert (seen.signal, seen.source, seen.locations) == ("marginal", "somebody", TABLE.locations)
    assert seen.edges_us.tolist() == TABLE.edges_us.tolist()


@pytest.mark.parametrize(
    "tight", [{"finish_by": NOW + hours_of(12)}, {"patience": 0.0}, {"target_finish": NOW + hours_of(12)}]
)
def test_without_slack_nothing_changes(tight):
    assert (value_of_waiting(replace(JOB, **tight), TABLE).values == TABLE.values).all()


def test_gaps_stay_gaps_and_the_past_earns_nothing():
    values = TABLE.values.copy()
    values[5] = np.nan
    earlier = IntensityTable(TABLE.edges_us - 24 * 3_600_000_000, TABLE.locations, values)
    seen = value_of_waiting(JOB, earlier)
    assert np.isnan(seen.values[5]).all()
    past = np.arange(48) < 24
    np.testing.assert_array_equal(seen.values[past], values[past])
    assert (seen.values[~past, 1] < values[~past, 1]).all()


def test_deviation_comes_from_ended_steps_of_history():
    hours = np.arange(6 * 24)
    swings = {"calm": np.where(hours % 2, 260.0, 340.0), "wild": np.where(hours % 2, 150.0, 450.0)}
    index = pd.date_range(NOW - hours_of(5 * 24), periods=len(hours), freq="1h")
    past = pd.DataFrame(swings, index=index)
    seen = value_of_waiting(JOB, TABLE, IntensityTable.from_frame(past))
    x = 48 / 12
    for column, deviation in enumerate((40, 150)):
        expected = [0.12 * log(x) * deviation * (1 - exp(-(h + 0.5) / 36)) for h in HOURS]
        np.testing.assert_allclose(TABLE.values[:, column] - seen.values[:, column], expected)
    altered = past.copy()
    altered[index >= pd.Timestamp(NOW)] = 9_999.0
    again = value_of_waiting(JOB, TABLE, IntensityTable.from_frame(altered))
    np.testing.assert_array_equal(seen.values, again.values)


def test_short_history_is_ignored():
    index = pd.date_range(NOW - hours_of(48), periods=48, freq="1h")
    past = IntensityTable.from_frame(pd.DataFrame({"wild": np.arange(48.0)}, index=index))
    seen, without = value_of_waiting(JOB, TABLE, past), value_of_waiting(JOB, TABLE)
    np.testing.assert_array_equal(seen.values, without.values)
