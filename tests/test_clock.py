"""Clocks, and reading and writing time."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowcarb_scheduler.clock import (
    SystemClock,
    VirtualClock,
    format_duration,
    format_time,
    from_us,
    parse_duration,
    parse_time,
    to_us,
)
from lowcarb_scheduler.errors import InputError

instants = st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@given(instants)
def test_microseconds_and_text_lose_nothing(when):
    assert from_us(to_us(when)) == when
    assert parse_time(format_time(when), "t") == when


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-31T18:00Z", datetime(2026, 1, 31, 18, tzinfo=UTC)),
        ("2026-01-31T18:00:00+02:00", datetime(2026, 1, 31, 16, tzinfo=UTC)),
        ("2022-05-17T20:45:11.5092741+00:00", datetime(2022, 5, 17, 20, 45, 11, 509274, tzinfo=UTC)),
    ],
)
def test_reads_what_providers_write(text, expected):
    assert parse_time(text, "t") == expected
    assert parse_time(text, "t").tzinfo is UTC


@pytest.mark.parametrize("text", ["", "tomorrow", "2026-01-31T18:00", "2026-13-01T00:00Z", None, 5])
def test_refuses_what_is_no_time_and_names_the_field(text):
    with pytest.raises(InputError) as caught:
        parse_time(text, "finish_by")
    assert caught.value.field == "finish_by"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90m", timedelta(minutes=90)),
        ("48h", timedelta(hours=48)),
        ("2d", timedelta(days=2)),
        ("1h30m", timedelta(minutes=90)),
        ("1.5 h", timedelta(minutes=90)),
        ("30s", timedelta(seconds=30)),
    ],
)
def test_reads_durations(text, expected):
    assert parse_duration(text, "d") == expected


@pytest.mark.parametrize("text", ["", "h", "0h", "-1h", "5", "1w", "nanh", "99999999999999d", None])
def test_refuses_what_is_no_duration(text):
    with pytest.raises(InputError):
        parse_duration(text, "d")


def test_writes_durations_for_people():
    assert format_duration(timedelta(hours=26, minutes=5)) == "1 d 2 h"
    assert format_duration(timedelta(seconds=90)) == "1 min 30 s"
    assert format_duration(timedelta(0)) == "0 s"


def test_virtual_clock_jumps_forward_only(midnight):
    clock = VirtualClock(midnight)
    clock.sleep_until(midnight + timedelta(hours=5))
    assert clock.now() == midnight + timedelta(hours=5)
    clock.sleep_until(midnight)
    assert clock.now() == midnight + timedelta(hours=5)


def test_virtual_clock_shows_utc(midnight):
    east = timezone(timedelta(hours=9))
    assert VirtualClock(midnight.astimezone(east)).now().utcoffset() == timedelta(0)


class _Machine:
    """Wall and monotonic time of a machine whose wall clock can be set."""

    def __init__(self, monkeypatch):
        self.wall, self.monotonic, self.slept = 1000.0, 0.0, []
        self.jump_at, self.jump_by = None, 0.0
        monkeypatch.setattr(time, "monotonic", lambda: self.monotonic)
        monkeypatch.setattr(time, "sleep", self.sleep)
        monkeypatch.setattr(time, "time_ns", lambda: int(self.wall * 1e9))

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.monotonic += seconds
        self.wall += seconds
        if self.jump_at is not None and self.monotonic >= self.jump_at:
            self.wall += self.jump_by
            self.jump_at = None


@pytest.mark.parametrize(("jump_by", "expected_s"), [(0.0, 120.0), (-7200.0, 120.0), (7200.0, 30.0)])
def test_a_wall_clock_that_is_set_never_lengthens_a_sleep(monkeypatch, jump_by, expected_s):
    machine = _Machine(monkeypatch)
    machine.jump_at, machine.jump_by = 30.0, jump_by
    clock = SystemClock()
    clock.sleep_until(clock.now() + timedelta(seconds=120))
    assert machine.monotonic == pytest.approx(expected_s)
    assert max(machine.slept) <= 30.0
