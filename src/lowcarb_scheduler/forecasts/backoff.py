"""Pauses between calls that may fail."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

_MOST_DOUBLINGS: Final = 16  # a timedelta overflows long before the counter of failures does


class Backoff:
    """Pause between calls that doubles with each failure in a row.

    The caller hands in the time, so that one mechanism serves the system's clock, a virtual one, and calls
    that are paced by the period they ask about.

    Parameters
    ----------
    first, longest : timedelta
        Pause after the first failure, and the upper limit of the pause.
    interval : timedelta (default: none)
        Pause after a success.

    Attributes
    ----------
    called_at : datetime or None
        Time of the last call.
    failures : int
        Number of failures since the last success.
    """

    def __init__(
        self,
        first: timedelta = timedelta(minutes=30),
        longest: timedelta = timedelta(hours=2),
        interval: timedelta = timedelta(0),
    ) -> None:
        self._first, self._longest, self._interval = first, longest, interval
        self.called_at: datetime | None = None
        self.failures = 0

    @property
    def pause(self) -> timedelta:
        """Time that passes between the last call and the next one."""
        if not self.failures:
            return self._interval
        doublings = min(self.failures - 1, _MOST_DOUBLINGS)
        return min(self._first * (1 << doublings), self._longest)

    def due(self, now: datetime) -> bool:
        """Return whether the pause is over.

        A time before the last call means that the clock was set back. The length of the pause is unknown
        then, and the call is due.
        """
        return self.called_at is None or not self.called_at <= now < self.called_at + self.pause

    def record(self, now: datetime, *, succeeded: bool) -> None:
        """Record a call and its outcome."""
        self.called_at = now
        self.failures = 0 if succeeded else self.failures + 1
