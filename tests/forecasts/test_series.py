"""Series built from the points of a server or a file."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowcarb_scheduler.clock import HOUR_US, format_time, to_us
from lowcarb_scheduler.forecasts.http.responses import FetchError
from lowcarb_scheduler.forecasts.series import series_of
from lowcarb_scheduler.intensity import MAX_G_PER_KWH, IntensityTable
from lowcarb_scheduler.validation import finite_number

START = datetime(2026, 3, 10, tzinfo=UTC)
MINUTE_US = 60_000_000


def at(minutes):
    return START + timedelta(minutes=minutes)


def build(*points):
    """Build from (minute, value, length in minutes) and return [(minute, value)] and the last minute."""
    written = [
        (
            minute if isinstance(minute, str) else format_time(at(minute)),
            value,
            None if length is None else length * MINUTE_US,
        )
        for minute, value, length in points
    ]
    series = series_of(written, START, START)
    minutes = ((series.times_us - to_us(START)) / MINUTE_US).tolist()
    values = [None if np.isnan(value) else value for value in series.values]
    return list(zip(minutes, values, strict=True)), (series.end_us - to_us(START)) / MINUTE_US


def test_points_come_into_order_and_the_last_ends_after_its_length():
    assert build((10, 2, 5), (5, 1, 5), (15, 3, 5)) == ([(5, 1), (10, 2), (15, 3)], 20)


def test_a_hole_is_a_gap():
    assert build((0, 1, 5), (5, 2, 5), (20, 3, 5)) == ([(0, 1), (5, 2), (10, None), (20, 3)], 25)


def test_windows_stepped_by_less_than_their_length_hold_until_the_next():
    assert build((0, 1, 30), (5, 2, 30), (10, 3, 30)) == ([(0, 1), (5, 2), (10, 3)], 40)


def test_a_length_cut_to_whole_minutes_leaves_no_hole():
    assert build((0, 1, 7), (7.5, 2, 7)) == ([(0, 1), (7.5, 2)], 14.5)


def test_without_lengths_values_hold_to_the_next_and_the_last_for_the_median_step():
    assert build((0, 1, None), (5, 2, None), (10, 3, 0), (30, 4, -5)) == (
        [(0, 1), (5, 2), (10, 3), (30, 4)], 35
    )  # fmt: skip
    assert build((0, 1, None)) == ([(0, 1)], 60)


def test_of_two_points_at_one_time_the_later_plausible_one_stays():
    assert build((0, 1, 5), (0, 2, 5), (0, None, 5)) == ([(0, 2)], 5)
    assert build((0, None, 5), (0, 2, 5)) == ([(0, 2)], 5)


@pytest.mark.parametrize(
    "value", [None, -1, -0.001, 3000.1, 1e300, 10**400, float("nan"), float("inf"), "7", True, [1], {}]
)
def test_what_is_no_plausible_intensity_begins_a_gap(value):
    assert build((0, 1, 5), (5, value, 5), (10, 3, 5)) == ([(0, 1), (5, None), (10, 3)], 15)


@pytest.mark.parametrize("value", [0, 0.0, 289, MAX_G_PER_KWH])
def test_zero_and_whole_numbers_are_values(value):
    assert build((0, value, 5)) == ([(0, value)], 5)


@pytest.mark.parametrize(
    ("time", "why"),
    [
        ("2026-03-10T00:05:00", "has no UTC offset"),
        ("2026-03-10", "has no UTC offset"),
        ("9999-12-31T23:59:59+00:00", "is more than a month off"),
        ("9999-12-31T23:59:59-05:00", "is out of range"),
        ("0001-01-01T00:00:00Z", "is more than a month off"),
        ("2026-04-10T00:01:00Z", "is more than a month off"),
        ("yesterday", "is not a time"),
        ("", "is not a time"),
    ],
)
def test_a_point_whose_time_cannot_be_is_dropped(time, why):
    assert build((0, 1, 5), (time, 2, 5), (5, 3, 5)) == ([(0, 1), (5, 3)], 10)
    with pytest.raises(FetchError, match=f"there is no usable value: .*{why}"):
        build((time, 2, 5))


@pytest.mark.parametrize("time", [None, 5, [], {}, True])
def test_a_time_of_another_type_is_dropped(time):
    with pytest.raises(FetchError, match="is not a time"):
        series_of([(time, 1, None)], START, START)


def test_seven_digits_of_a_second_are_read():
    assert build(("2026-03-10T00:05:00.1234567+00:00", 1, 5))[0] == [(5 + 0.123456 / 60, 1)]


def test_a_series_without_values_says_why():
    with pytest.raises(FetchError, match="there is no usable value: it is empty"):
        series_of([], START, START)
    with pytest.raises(FetchError, match="there is no usable value: -1 is not a plausible intensity"):
        build((0, None, 5), (5, -1, 5))


@pytest.mark.parametrize(
    ("value", "number"), [(1, 1.0), (2.5, 2.5), (-3, -3.0), ("1", None), (True, None), (10**400, None)]
)
def test_only_a_json_number_of_plausible_size_is_a_number(value, number):
    assert finite_number(value) == number


POINTS = st.lists(
    st.tuples(st.integers(0, 50), st.none() | st.floats(0, MAX_G_PER_KWH), st.none() | st.integers(1, 20)),
    min_size=1,
    unique_by=lambda point: point[0],
).filter(lambda points: any(value is not None for _, value, _ in points))


@given(POINTS, st.randoms(use_true_random=False))
def test_order_does_not_matter_and_a_value_holds_from_its_time_for_its_length(points, random):
    shuffled = list(points)
    random.shuffle(shuffled)
    made, end = build(*points)
    assert (made, end) == build(*shuffled)
    times = to_us(START) + np.array([minute for minute, _ in made]) * MINUTE_US
    values = [np.nan if value is None else value for _, value in made]
    table = IntensityTable.from_points(
        {"x": (times, values)}, ends={"x": to_us(START) + int(end * MINUTE_US)}
    )
    minutes = sorted(minute for minute, _, _ in points)
    for minute, value, length in points:
        next_minute = min((later for later in minutes if later > minute), default=10**6)
        holds = min(length or 10**6, next_minute - minute, end - minute)
        begin, until = (to_us(START) + int(m * MINUTE_US) for m in (minute, minute + holds))
        grams_per_kw = table.integrate([begin], [until], [0])[0]
        if value is None:
            assert np.isnan(grams_per_kw)
        else:
            assert grams_per_kw == pytest.approx(value * (until - begin) / HOUR_US, abs=1e-6)
        if length and minute + length < next_minute and next_minute < 10**6:
            assert np.isnan(table.integrate([until], [until + MINUTE_US], [0])[0])
