"""The expectation: forecast, its fading error, and the hour of the day where there is no forecast."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.forecasts.correction import FADING, correct_forecast
from lowcarb_scheduler.intensity import IntensityTable

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def hourly(start, values, **labels):
    index = pd.date_range(start, periods=len(values), freq="h")
    return IntensityTable.from_frame(pd.DataFrame({"DE": values}, index=index), **labels)


@pytest.fixture
def noon(midnight):
    return midnight + 12 * HOUR


def at(table, when):
    """Return the value that holds at a time."""
    part = table.slice(when, when + timedelta(minutes=1))
    return float(part.values[0, 0])


def test_without_history_it_is_the_forecast_and_a_gap_after_it(noon):
    table = correct_forecast(hourly(noon, [100.0, 200.0]), None, noon, noon + 4 * HOUR)
    assert (table.start, table.end) == (noon, noon + 4 * HOUR)
    assert [at(table, noon + k * HOUR) for k in range(2)] == [100.0, 200.0]
    assert np.isnan(at(table, noon + 2 * HOUR))


def test_a_recent_error_is_taken_off_and_fades(noon):
    issue = hourly(noon - 3 * HOUR, [100.0] * 30)
    happened = hourly(noon - 3 * HOUR, [80.0] * 3)
    table = correct_forecast(issue, happened, noon, noon + 24 * HOUR)
    assert at(table, noon) == pytest.approx(80.0)
    assert at(table, noon + 10 * HOUR) == pytest.approx(100.0 - 20.0 * FADING**10)


def test_a_correction_never_makes_a_positive_intensity_negative(noon):
    issue = hourly(noon - 3 * HOUR, [100.0] * 3 + [5.0, -7.0])
    happened = hourly(noon - 3 * HOUR, [10.0] * 3)
    table = correct_forecast(issue, happened, noon, noon + 2 * HOUR)
    assert at(table, noon) == 0.0
    assert at(table, noon + HOUR) == -7.0


def test_beyond_the_forecast_stands_the_mean_of_the_hour_of_the_day(noon):
    days = 5
    shape = np.tile(np.arange(24.0), days) + np.repeat(np.arange(days), 24)
    history = hourly(noon.replace(hour=0) - days * DAY, shape)
    table = correct_forecast(hourly(noon, [100.0]), history, noon, noon + 30 * HOUR)
    assert at(table, noon) == 100.0
    for ahead in (1, 5, 13, 29):
        hour = (noon + ahead * HOUR).hour
        assert at(table, noon + ahead * HOUR) == pytest.approx(hour + (days - 1) / 2)


@pytest.mark.parametrize(("days", "known"), [(2, False), (3, True)])
def test_three_days_of_history_are_needed(noon, days, known):
    history = hourly(noon - days * DAY, [50.0] * 24 * days)
    table = correct_forecast(hourly(noon, [100.0]), history, noon, noon + 6 * HOUR)
    assert np.isfinite(at(table, noon + 5 * HOUR)) == known


def test_a_place_without_a_forecast_gets_its_own_history(noon):
    history = hourly(noon - 4 * DAY, [50.0] * 96)
    unknown = hourly(noon, [100.0]).align(["FR"])
    assert np.isnan(correct_forecast(unknown, history, noon, noon + 6 * HOUR).values).all()
    table = correct_forecast(unknown.align(["DE"]), history, noon, noon + 6 * HOUR)
    assert np.unique(table.values).tolist() == [50.0]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-500, 500))
def test_what_happens_after_now_changes_nothing(seed, change):
    now = pd.Timestamp("2026-03-02T12:20Z").to_pydatetime()
    rng = np.random.default_rng(seed)
    issue = hourly(now.replace(minute=0) - 5 * HOUR, rng.uniform(0, 500, 40))
    values = rng.uniform(0, 500, 24 * 15 + 30)
    start = now.replace(minute=0) - 15 * DAY
    altered = values.copy()
    altered[24 * 15 :] += change  # the hour that runs and all after it
    tables = [correct_forecast(issue, hourly(start, v), now, now + 48 * HOUR) for v in (values, altered)]
    np.testing.assert_array_equal(tables[0].values, tables[1].values)


def test_keeps_the_labels_and_the_step_of_the_forecast(noon):
    index = pd.date_range(noon, periods=12, freq="5min")
    issue = IntensityTable.from_frame(
        pd.DataFrame({"DE": 1.0}, index=index), signal="marginal", source="s", synthetic=True
    )
    table = correct_forecast(issue, None, noon, noon + HOUR)
    assert (table.signal, table.source, table.synthetic) == ("marginal", "s", True)
    assert table.step == timedelta(minutes=5)


def test_refuses_to_mix_signals_and_an_empty_span(noon):
    average, marginal = (hourly(noon, [1.0], signal=signal) for signal in ("average", "marginal"))
    with pytest.raises(InputError, match="the history's is marginal, the forecast's average"):
        correct_forecast(average, marginal, noon, noon + HOUR)
    with pytest.raises(InputError, match="is not after now"):
        correct_forecast(average, None, noon, noon)
