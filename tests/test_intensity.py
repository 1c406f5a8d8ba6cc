"""The intensity table and its integrator, against plain sums over a fine grid."""

from __future__ import annotations

import json
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowcarb_scheduler.clock import HOUR_US, from_us, to_us
from lowcarb_scheduler.documents import to_json
from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.intensity import IntensityTable

MINUTE_US = 60_000_000
values = st.one_of(st.just(float("nan")), st.floats(-50, 1000))


@st.composite
def tables(draw):
    steps = draw(st.lists(st.integers(1, 90), min_size=1, max_size=12))
    edges = np.cumsum([0, *steps]) * MINUTE_US
    grid = draw(st.lists(st.tuples(values, values), min_size=len(steps), max_size=len(steps)))
    return IntensityTable(edges, ("A", "B"), np.array(grid))


@settings(max_examples=200)
@given(tables(), st.integers(-20, 800), st.integers(0, 300))
def test_integral_is_the_sum_over_minutes_and_nan_where_a_minute_is_unknown(table, start, length):
    got = table.integrate(start * MINUTE_US, (start + length) * MINUTE_US)
    for column in range(2):
        total = 0.0
        for minute in range(start, start + length):
            step = np.searchsorted(table.edges_us, minute * MINUTE_US, side="right") - 1
            known = 0 <= step < len(table.values)
            total += table.values[step, column] / 60 if known else float("nan")
        if length == 0:
            continue
        assert got[column] == pytest.approx(total, abs=1e-6, nan_ok=True)


@settings(max_examples=100)
@given(tables(), st.integers(0, 700), st.integers(1, 200), st.integers(1, 200))
def test_integrals_add_up(table, start, first, second):
    a, b, c = (m * MINUTE_US for m in (start, start + first, start + first + second))
    whole = table.integrate(a, c)
    parts = table.integrate(a, b) + table.integrate(b, c)
    np.testing.assert_allclose(whole, parts, atol=1e-6)


def test_units_are_grams_for_a_kilowatt(midnight):
    frame = pd.DataFrame({"DE": [100.0]}, index=pd.DatetimeIndex([midnight]))
    table = IntensityTable.from_frame(frame)
    assert table.integrate(to_us(midnight), to_us(midnight) + HOUR_US) == pytest.approx([100.0])


def test_columns_of_its_own_for_each_window(midnight):
    index = pd.date_range(midnight, periods=2, freq="h")
    table = IntensityTable.from_frame(pd.DataFrame({"A": [1.0, 2.0], "B": [10.0, 20.0]}, index=index))
    starts = np.array([to_us(midnight), to_us(midnight) + HOUR_US, to_us(midnight)])
    got = table.integrate(starts, starts + HOUR_US, [0, 1, -1])
    np.testing.assert_allclose(got, [1.0, 20.0, np.nan])


def test_the_last_value_holds_for_the_median_step(midnight):
    index = pd.DatetimeIndex([midnight + timedelta(minutes=m) for m in (0, 30, 60, 180)])
    table = IntensityTable.from_frame(pd.DataFrame({"A": [1.0, 2, 3, 4]}, index=index))
    assert table.end == midnight + timedelta(minutes=210)
    assert table.step == timedelta(minutes=30)


def test_rows_in_any_order_and_any_zone(midnight):
    index = pd.date_range(midnight, periods=3, freq="h").tz_convert("Asia/Tokyo")
    frame = pd.DataFrame({"A": [1.0, 2.0, 3.0]}, index=index)
    table = IntensityTable.from_frame(frame.iloc[::-1])
    assert table.start == midnight
    assert table.values[:, 0].tolist() == [1.0, 2.0, 3.0]


def test_points_keep_each_location_its_own_grid(midnight):
    at = to_us(midnight)
    table = IntensityTable.from_points(
        {"A": ([at, at + HOUR_US], [1.0, 2.0]), "B": ([at + HOUR_US // 2], [7.0])},
        ends={"B": at + HOUR_US},
    )
    frame = table.to_frame()
    assert frame["A"].tolist() == [1.0, 1.0, 2.0]
    assert frame["B"].tolist()[1] == 7.0
    assert frame["B"].isna().tolist() == [True, False, True]


def test_slice_cuts_steps_and_is_none_outside(midnight):
    index = pd.date_range(midnight, periods=3, freq="h")
    table = IntensityTable.from_frame(pd.DataFrame({"A": [1.0, 2.0, 3.0]}, index=index))
    part = table.slice(midnight + timedelta(minutes=30), midnight + timedelta(minutes=90))
    assert part is not None
    assert part.values[:, 0].tolist() == [1.0, 2.0]
    assert part.end - part.start == timedelta(hours=1)
    assert table.slice(midnight - timedelta(hours=2), midnight) is None


@settings(max_examples=100)
@given(tables(), tables())
def test_fill_keeps_what_is_known_and_takes_the_rest(one, other):
    filled = one.fill(other)
    for edge in filled.edges_us[:-1]:
        own, others, both = (t.sampled(np.array([edge, edge + 1]))[0] for t in (one, other, filled))
        expected = np.where(np.isnan(own), others, own)
        np.testing.assert_array_equal(both, expected)


def test_signals_never_mix(midnight):
    frame = pd.DataFrame({"A": [1.0]}, index=pd.DatetimeIndex([midnight]))
    average = IntensityTable.from_frame(frame, signal="average")
    marginal = IntensityTable.from_frame(frame, signal="marginal")
    with pytest.raises(InputError, match="average does not mix with marginal"):
        average.fill(marginal)


def test_align_orders_columns_and_leaves_gaps(midnight):
    frame = pd.DataFrame({"A": [1.0], "B": [2.0]}, index=pd.DatetimeIndex([midnight]))
    table = IntensityTable.from_frame(frame, source="s", synthetic=True).align(["B", "C"])
    np.testing.assert_array_equal(table.values, [[2.0, np.nan]])
    assert (table.locations, table.source, table.synthetic) == (("B", "C"), "s", True)


def test_is_read_only(midnight):
    table = IntensityTable.from_frame(pd.DataFrame({"A": [1.0]}, index=pd.DatetimeIndex([midnight])))
    with pytest.raises(ValueError, match="read-only"):
        table.values[0, 0] = 5.0


@pytest.mark.parametrize(
    ("frame", "field"),
    [
        (pd.DataFrame({"A": [1.0]}, index=pd.DatetimeIndex(["2026-01-01"])), "time"),
        (pd.DataFrame({"A": [1.0]}), "time"),
        (pd.DataFrame({"A": []}, index=pd.DatetimeIndex([], tz="UTC")), "time"),
        (pd.DataFrame({"A": [1.0, 2.0]}, index=pd.DatetimeIndex(["2026-01-01T00Z"] * 2)), "time"),
        (pd.DataFrame({"A": ["x"]}, index=pd.DatetimeIndex(["2026-01-01T00Z"])), "g_per_kwh"),
        (pd.DataFrame({"A": [np.inf]}, index=pd.DatetimeIndex(["2026-01-01T00Z"])), "g_per_kwh"),
    ],
)
def test_refuses_bad_frames_and_names_the_field(frame, field):
    with pytest.raises(InputError) as caught:
        IntensityTable.from_frame(frame)
    assert caught.value.field == field


@settings(max_examples=50)
@given(tables())
def test_a_record_in_a_ledger_loses_nothing(table):
    back = IntensityTable.from_record(json.loads(to_json(table.to_record())))
    np.testing.assert_array_equal(back.edges_us, table.edges_us)
    np.testing.assert_array_equal(back.values, table.values)
    assert (back.locations, back.signal, back.source) == (table.locations, table.signal, table.source)


@pytest.mark.parametrize(
    "broken", [{}, {"edges": [], "g_per_kwh": {}}, {"edges": 5, "g_per_kwh": {"A": [1]}}]
)
def test_a_broken_record_is_refused(broken):
    with pytest.raises(InputError, match="restore the ledger"):
        IntensityTable.from_record({"signal": "average", "source": "", "synthetic": False, **broken})


def test_to_points_marks_where_a_gap_begins(midnight):
    index = pd.date_range(midnight, periods=4, freq="h")
    table = IntensityTable.from_frame(pd.DataFrame({"A": [1.0, np.nan, np.nan, 4.0]}, index=index))
    points = table.to_points()["A"]
    assert [point["g_per_kwh"] for point in points] == [1.0, None, 4.0]
    assert points[1]["time"] == from_us(to_us(midnight) + HOUR_US)
