"""Clocks, and conversions of times and durations.

Inside the package an instant is an ``int`` of microseconds since 1970 UTC (``_us``) wherever arrays are
involved, and an aware UTC :class:`~datetime.datetime` everywhere else. No other module reads the wall clock.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

from lowcarb_scheduler.errors import InputError

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)
HOUR_US: Final = 3_600_000_000
_YEARS: Final = (1970, 2200)  # of times in files: sums of others leave what a datetime holds

# Days, hours, minutes and seconds, each optional and with a fraction, in this order.
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)\s*d)?\s*(?:(\d+(?:\.\d+)?)\s*h)?\s*(?:(\d+(?:\.\d+)?)\s*m)?"
                       r"\s*(?:(\d+(?:\.\d+)?)\s*s)?")  # fmt: skip


class Clock(Protocol):
    """Interface of a clock."""

    def now(self) -> datetime:
        """Return the current time, aware, in UTC."""

    def sleep_until(self, when: datetime) -> None:
        """Return once ``when`` has passed; at once if it has already."""


class SystemClock:
    """Clock of the machine.

    A sleep ends by the wall clock or by monotonic time, whichever is first: setting the wall clock back does
    not lengthen a hold, and a suspended machine that wakes late does not sleep on.
    """

    # Monotonic time may stand still while a machine is suspended; each slice looks at the wall clock again.
    _SLICE_S: Final = 30.0

    def now(self) -> datetime:
        """Return the current time, aware, in UTC."""
        return from_us(time.time_ns() // 1000)

    def sleep_until(self, when: datetime) -> None:
        """Sleep in slices until ``when``."""
        end = time.monotonic() + (when - self.now()).total_seconds()
        while (left := min(end - time.monotonic(), (when - self.now()).total_seconds())) > 0:
            time.sleep(min(left, self._SLICE_S))


class VirtualClock:
    """Clock that jumps to the end of every sleep, for simulations and tests.

    Parameters
    ----------
    start : datetime
        Initial time. Aware.
    """

    def __init__(self, start: datetime) -> None:
        self._now = to_utc(start, "start")

    def now(self) -> datetime:
        """Return the virtual time, aware, in UTC."""
        return self._now

    def sleep_until(self, when: datetime) -> None:
        """Jump to ``when``; never back."""
        self._now = max(self._now, to_utc(when, "when"))  # threads of a simulation may sleep past each other


class SteadyClock:
    """Time of a clock that goes on where the clock is set back.

    A clock promises that a sleep lasts no longer than asked for. If it shows an earlier time after a sleep,
    it was set back meanwhile, and a wait must not be longer for it.

    Parameters
    ----------
    clock : Clock
        The clock; until it is set back, both show the same time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock, self._behind, self._last = clock, timedelta(0), clock.now()

    def now(self) -> datetime:
        """Return the time, never earlier than before."""
        self._behind = max(self._behind, self._last - self._clock.now())
        self._last = max(self._last, self._clock.now() + self._behind)
        return self._last

    def sleep_until(self, when: datetime) -> None:
        """Sleep until ``when`` on this clock."""
        self._clock.sleep_until(when - self._behind)
        self._last = max(self._last, when)


def real_clock(clock: Clock) -> Clock:
    """Return the clock of what nodes do: real time passes for them also where a virtual clock jumps."""
    return SystemClock() if isinstance(clock, VirtualClock) else clock


def cpu_seconds() -> float:
    """Return the CPU time of this process [s], which does not depend on the load of the machine."""
    return time.process_time()


def to_utc(when: datetime, field: str) -> datetime:
    """Return ``when`` in UTC.

    Raises
    ------
    InputError
        If ``when`` has no offset.
    """
    if not isinstance(when, datetime):
        raise InputError(field, f"{when!r} is not a datetime", "give an aware datetime")
    if when.tzinfo is None or when.utcoffset() is None:
        raise InputError(field, f"{when.isoformat()} has no UTC offset", "add one, for example Z or +02:00")
    try:
        return when.astimezone(UTC)
    except OverflowError:  # year 1 or 9999 in an offset that leads out of them
        problem = f"'{when.isoformat()}' is out of range"
        raise InputError(field, problem, "give a time between year 1 and 9999") from None


def in_range(when: datetime, field: str) -> datetime:
    """Return a time that a user has written if it is of this age.

    Raises
    ------
    InputError
        If it is not.
    """
    if not _YEARS[0] <= when.year < _YEARS[1]:
        problem = f"{format_time(when)} is not of the years {_YEARS[0]} to {_YEARS[1]}"
        raise InputError(field, problem, "correct the year")
    return when


def parse_time(text: str, field: str) -> datetime:
    """Parse an ISO 8601 time with an offset.

    Raises
    ------
    InputError
        If the text is not a time, or has no offset.
    """
    try:
        when = datetime.fromisoformat(text.strip())
    except (ValueError, AttributeError, TypeError):
        raise InputError(
            field, f"{text!r} is not a time", "write ISO 8601 with an offset, for example 2026-01-31T18:00Z"
        ) from None
    return to_utc(when, field)


def format_time(when: datetime) -> str:
    """Format a time as ISO 8601 in UTC, for example ``2026-01-31T18:00:00Z``."""
    return when.astimezone(UTC).isoformat().replace("+00:00", "Z")


def parse_duration(text: str, field: str) -> timedelta:
    """Parse a positive duration such as ``90m``, ``48h``, ``1h30m`` or ``2d``.

    Raises
    ------
    InputError
        If the text is not a duration, or the duration is not positive.
    """
    match = _DURATION.fullmatch(text.strip().lower()) if isinstance(text, str) else None
    if match is None or not any(match.groups()):
        raise InputError(field, f"{text!r} is not a duration", "write for example 90m, 48h or 2d")
    days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
    try:
        duration = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    except OverflowError:
        raise InputError(field, f"{text!r} is too long", "write for example 90m, 48h or 2d") from None
    if duration <= timedelta(0):
        raise InputError(field, f"{text!r} is not positive", "write for example 90m, 48h or 2d")
    return duration


def parse_deadline(text: str, field: str) -> datetime | timedelta:
    """Parse a deadline: a time with an offset, or a duration from a start that the caller knows."""
    # Every time has one of these signs, and no duration has.
    is_time = "-" in text or ":" in text
    return parse_time(text, field) if is_time else parse_duration(text, field)


def format_duration(duration: timedelta) -> str:
    """Format a duration by its two largest units, for example ``2 d 3 h``, ``1 h 30 min`` or ``45 s``."""
    seconds = round(duration.total_seconds())
    days, seconds = divmod(seconds, 86_400)
    hours, seconds = divmod(seconds, 3_600)
    minutes, seconds = divmod(seconds, 60)
    # Two units at most: nobody reads the seconds of a day.
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s")]
    shown = [f"{count} {unit}" for count, unit in parts if count][:2]
    return " ".join(shown) or "0 s"


def to_us(when: datetime) -> int:
    """Return an aware time as microseconds since 1970 UTC."""
    return (when - EPOCH) // MICROSECOND


def from_us(us: int) -> datetime:
    """Return microseconds since 1970 UTC as an aware time."""
    return EPOCH + timedelta(microseconds=int(us))  # exact, unlike datetime.fromtimestamp of a float
