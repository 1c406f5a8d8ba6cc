"""Clock that passes only while it is used, for runs that are not on a virtual clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime, timedelta


class Machine:
    """A clock that passes when somebody sleeps or works; to the scheduler it is a system clock.

    Parameters
    ----------
    now : datetime
        Time at the start.
    at : iterable of (datetime, callable)
        Actions, each run when the clock reaches its time.
    """

    def __init__(self, now: datetime, at: Iterable[tuple[datetime, Callable[[], object]]] = ()) -> None:
        self._now, self.sleeps = now, 0
        self.at = sorted(at, key=lambda entry: entry[0])

    def now(self) -> datetime:
        return self._now

    def sleep_until(self, when: datetime) -> None:
        self.sleeps += 1
        while self.at and self.at[0][0] <= when:
            time, act = self.at.pop(0)
            self._now = max(self._now, time)
            act()
        self._now = max(self._now, when)

    def work(self, duration: timedelta) -> None:
        self.sleep_until(self._now + duration)
