from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowcarb_scheduler.clock import HOUR_US, from_us, to_us
from lowcarb_scheduler.forecasts.window import Window, cleanest_windows
from lowcarb_scheduler.intensity import IntensityTable

NAN = float("nan")


def table(*values: float, start_us: int = 0) -> IntensityTable:
    hours = [start_us + k * HOUR_US for k in range(len(values))]
    return IntensityTable.from_points({"DE": (hours, values)})


def hour(number: float):
    return from_us(int(number * HOUR_US))


def best(intensity, duration_hours, now=0.0, until=None) -> Window | None:
    windows = cleanest_windows(
        intensity, timedelta(hours=duration_hours), hour(now), None if until is None else hour(until)
    )
    return windows["DE"]


def test_the_cleanest_window_is_found_with_what_it_saves():
    window = best(table(400, 300, 100, 200, 500), 2)
    assert (window.start, window.end) == (hour(2), hour(4))
    assert (window.g_per_kwh, window.now_g_per_kwh) == (150, 350)
    assert window.saving == pytest.approx(4 / 7)


def test_the_window_may_end_at_an_edge_and_begin_inside_a_step():
    assert best(table(400, 300, 100, 500), 1.5).start == hour(1.5)


def test_the_window_begins_now_if_no_later_one_is_cleaner():
    window = best(table(100, 200, 300), 1, now=0.25)
    assert window.start == hour(0.25)
    assert window.saving == 0


def test_the_earliest_of_equal_windows_is_returned():
    assert best(table(0.1 + 0.2, 0.3, 0.3, 0.3), 1).start == hour(0)
    assert best(table(9, 5, 7, 5), 1).start == hour(1)


def test_a_window_touches_no_gap():
    window = best(table(NAN, 100, NAN, 300, 200), 2)
    assert window.start == hour(3)
    assert window.now_g_per_kwh is None
    assert window.saving is None


def test_no_window_is_returned_if_all_touch_a_gap_or_the_table_is_too_short():
    assert best(table(100, NAN, 100), 2) is None
    assert best(table(100, 100), 3) is None
    assert best(table(100, 100), 1, now=1.5) is None
    assert best(table(100, 100), 24 * 999_999_999) is None


def test_the_window_ends_by_the_limit():
    assert best(table(400, 300, 200, 100), 1, until=2.5).end == hour(2.5)
    assert best(table(400, 300), 2, until=1) is None


def test_the_saving_against_zero_emissions_is_undefined():
    assert best(table(0, 0, 0), 1).saving is None


@given(
    values=st.lists(st.one_of(st.integers(0, 500).map(float), st.just(NAN)), min_size=1, max_size=12),
    minutes=st.integers(1, 400),
    now_minute=st.integers(0, 300),
)
def test_no_start_on_a_minute_gives_a_cleaner_window(values, minutes, now_minute):
    intensity = table(*values)
    window = best(intensity, minutes / 60, now_minute / 60)
    starts = np.arange(now_minute, 60 * len(values) + 1) * HOUR_US // 60
    means = intensity.integrate(starts, starts + minutes * HOUR_US // 60)[:, 0] * 60 / minutes
    if window is None:
        assert np.isnan(means).all()
    else:
        assert window.g_per_kwh == pytest.approx(np.nanmin(means))
        assert window.end - window.start == timedelta(minutes=minutes)
        assert to_us(window.start) >= now_minute * HOUR_US // 60
