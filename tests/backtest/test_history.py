"""Naive forecasts: made from the past of a trace alone."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowcarb_scheduler.backtest import NAIVE, naive_issues
from lowcarb_scheduler.backtest.history import table_of
from lowcarb_scheduler.clock import HOUR_US, to_us
from lowcarb_scheduler.forecasts.climatology import climatology, expected_level
from lowcarb_scheduler.intensity import IntensityTable, Provenance
from support.backtest_world import BEGIN, DAY, HOUR, PLACES, trace_rows


@pytest.fixture(scope="module")
def actual():
    return table_of(trace_rows(20)[0], PLACES, "actual")


def changed_from(actual: IntensityTable, when_us: int, value: float) -> IntensityTable:
    """Return the trace with another future: every step that ends after a moment."""
    values = np.where(actual.edges_us[1:, None] > when_us, value, actual.values)
    return actual.relaid(actual.edges_us, actual.locations, values)


@settings(max_examples=40)
@given(
    kind=st.sampled_from(sorted(NAIVE)), hour=st.integers(0, 20 * 24), late=st.integers(0, 30),
    value=st.sampled_from([0.0, 1e4, float("nan")]),
)  # fmt: skip
def test_naive_forecasts_use_no_future_values(actual, kind, hour, late, value):
    now_us = to_us(BEGIN) + hour * HOUR_US
    other = changed_from(actual, now_us - late * HOUR_US, value)
    for (at, told), (same, again) in zip(
        naive_issues(actual, kind, late * HOUR), naive_issues(other, kind, late * HOUR), strict=False
    ):
        assert at == same
        if to_us(at) > now_us:
            break
        np.testing.assert_array_equal(told.values, again.values)


@pytest.mark.parametrize("kind", sorted(NAIVE))
def test_naive_forecasts_are_issued_daily_for_96_hours(actual, kind):
    issues = naive_issues(actual, kind)
    assert [at for at, _ in issues] == [BEGIN + k * DAY for k in range(3, 20)]
    for at, table in issues:
        assert (table.start, table.end, table.locations) == (at, at + 4 * DAY, PLACES)
        assert np.isfinite(table.values).all()


def test_persistence_repeats_the_last_day(actual):
    issues = dict(naive_issues(actual, "persistence"))
    last = actual.slice(BEGIN + 9 * DAY, BEGIN + 10 * DAY)
    np.testing.assert_allclose(issues[BEGIN + 10 * DAY].values, np.tile(last.values, (4, 1)))


def test_a_delay_hides_late_hours_and_keeps_the_hour_of_the_day(actual):
    at = BEGIN + 10 * DAY
    told = dict(naive_issues(actual, "persistence", 5 * HOUR))[at].values
    day_before, before_that = (actual.slice(at - k * DAY, at - (k - 1) * DAY).values for k in (1, 2))
    np.testing.assert_allclose(told[:19], day_before[:19])
    np.testing.assert_allclose(told[19:24], before_that[19:])
    np.testing.assert_allclose(told[24:48], told[:24])


def test_climatology_equals_that_of_the_bias_correction(actual):
    at = BEGIN + 10 * DAY
    past = climatology(actual.slice(at - 10 * DAY, at).values, 96)
    expected = past.usual + expected_level(past.anomaly, 96)
    np.testing.assert_allclose(dict(naive_issues(actual, "climatology"))[at].values, expected)


def test_half_hourly_values_are_forecast_by_the_hour():
    edges = to_us(BEGIN) + np.arange(8 * 48 + 1) * (HOUR_US // 2)
    actual = IntensityTable(
        edges, ("GB",), np.tile([100.0, 300.0], 8 * 24)[:, None], Provenance("x", "average")
    )
    for _, table in naive_issues(actual, "persistence"):
        assert (table.step, set(table.values.ravel()), table.signal) == (HOUR, {200.0}, "average")


def test_a_trace_below_three_days_has_no_naive_forecast(actual):
    short = actual.slice(BEGIN, BEGIN + timedelta(days=2, hours=20))
    assert naive_issues(short, "climatology") == ()
