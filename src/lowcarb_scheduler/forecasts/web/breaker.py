"""A circuit breaker: a server that is down is left alone for a while."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from lowcarb_scheduler.clock import format_time

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from datetime import datetime

    from lowcarb_scheduler.clock import Clock
    from lowcarb_scheduler.forecasts.web.answers import FetchError

REPEATEDLY: Final = 2  # calls in a row in which a place failed, each time after several attempts
FIRST_PAUSE: Final = timedelta(minutes=1)
LONGEST_PAUSE: Final = timedelta(minutes=15)


class Breaker:
    """Remembers which places failed, and refuses calls that would fail as well.

    It opens when no connection comes about, then for all places; and when every place of a call has failed
    repeatedly, then for calls about such places only: one bad place never keeps another from being asked.
    When its pause is over one request is let through. If that fails too the pause doubles, up to a quarter of
    an hour; any answer closes it.

    Parameters
    ----------
    clock : Clock
        Counts the pauses.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures: dict[str, int] = {}  # calls in a row, by place
        self._cause: FetchError | None = None  # while it is open
        self._since = self._paused_at = clock.now()
        self._pause = timedelta(0)

    def failures(self, place: str) -> int:
        """Return in how many calls in a row a place has failed."""
        return self._failures.get(place, 0)

    def is_open(self, places: Collection[str]) -> bool:
        """Return whether no more than one request about these places may be sent."""
        cause = self._cause
        if cause is None:
            return False
        return cause.unreachable or all(self.failures(place) >= REPEATEDLY for place in places)

    def refusal(self, places: Collection[str]) -> str | None:
        """Return why nothing may be asked about these places now, None if something may."""
        with self._lock:
            paused = self._clock.now() - self._paused_at
            # A clock that was set back shows a time before the pause: it says nothing, and one may ask.
            if not self.is_open(places) or not timedelta(0) <= paused < self._pause:
                return None
            assert self._cause is not None  # it is open
            again = self._paused_at + self._pause
            return f"{self._cause.why} (since {_shown(self._since)}; asked again from {_shown(again)})"

    def note(self, outcomes: Mapping[str, FetchError | None]) -> None:
        """Take down how a call ended.

        Parameters
        ----------
        outcomes : mapping of str to FetchError or None
            By place that was asked about, what failed in passing; None where anything was answered.
        """
        failed = [error for error in outcomes.values() if error is not None]
        if not outcomes:
            return
        with self._lock:
            for place, error in outcomes.items():
                self._failures[place] = self.failures(place) + 1 if error else 0
            if len(failed) < len(outcomes):
                self._cause, self._pause = None, timedelta(0)
                return
            unreachable = [error for error in failed if error.unreachable]
            repeatedly = all(self.failures(place) >= REPEATEDLY for place in outcomes)
            if self._cause is None and not unreachable and not repeatedly:
                return
            self._paused_at = self._clock.now()
            if self._cause is None:
                self._since = self._paused_at
            self._cause = (unreachable or failed)[0]
            self._pause = min(max(2 * self._pause, FIRST_PAUSE), LONGEST_PAUSE)


def _shown(when: datetime) -> str:
    return format_time(when.replace(microsecond=0))
