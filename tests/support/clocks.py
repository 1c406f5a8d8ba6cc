"""Clock that passes only while it is used, for runs that are not on a virtual clock."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime


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


class SetBack(Machine):
    """A clock that is set back by a day after some time, as one that was wrong is put right.

    Attributes
    ----------
    passed : timedelta
        Time that has really passed.
    """

    def __init__(self, now: datetime, after: timedelta) -> None:
        super().__init__(now)
        self.passed, self._start, self._after, self._is_wrong = timedelta(0), now, after, True

    def sleep_until(self, when: datetime) -> None:
        """Sleep as long as asked for, whatever the clock shows at the end."""
        duration = max(when - self._now, timedelta(0))
        self.sleeps, self.passed, self._now = self.sleeps + 1, self.passed + duration, self._now + duration
        if self._is_wrong and self.passed >= self._after:
            self._is_wrong, self._now = False, self._now - timedelta(days=1)

    @property
    def steady(self) -> Machine:
        """A clock that shows the time that has really passed, of nodes that are not set back."""
        return Machine(self._start + self.passed)
