"""The hold: a loop that waits for a round's opening and looks up at every wake.

It holds before messages are built, so that their time to live and the reply timeout begin with the round.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from lowcarb_scheduler.clock import VirtualClock

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from lowcarb_scheduler.clock import Clock

WAKE: Final = timedelta(seconds=60)  # at most, from one look at nodes and forecasts to the next
GLANCE: Final = timedelta(seconds=3)  # at most, from one look at what the operator asks to the next


def hold(
    clock: Clock, opening: Callable[[], datetime], nudged: Callable[[], bool] = lambda: False
) -> datetime:
    """Wait until the round may open.

    Parameters
    ----------
    clock : Clock
        Tells the time and sleeps.
    opening : callable
        Returns when the round opens. It is asked at every wake, at least once a minute, and once more right
        before the hold ends, so it may look for changes and move the opening.
    nudged : callable
        Returns whether to wake at once. It is asked every few seconds, but never where a VirtualClock jumps:
        nobody can ask for anything there.

    Returns
    -------
    datetime
        When the hold ended.
    """
    steady = _Steady(clock)
    glance = WAKE if isinstance(clock, VirtualClock) else GLANCE
    while (opens_at := opening()) > (now := steady.now()):
        wake = min(opens_at, now + WAKE)
        while now < wake and not (glance < WAKE and nudged()):
            steady.sleep_until(min(wake, now + glance))
            now = steady.now()
    return clock.now()


class _Steady:
    """The time of a clock, which goes on where the clock is set back.

    A clock promises that a sleep lasts no longer than asked for. If it shows an earlier time after one, it
    was set back meanwhile, and a hold must not be longer for it.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock, self._behind, self._last = clock, timedelta(0), clock.now()

    def now(self) -> datetime:
        self._behind = max(self._behind, self._last - self._clock.now())
        self._last = max(self._last, self._clock.now() + self._behind)
        return self._last

    def sleep_until(self, when: datetime) -> None:
        self._clock.sleep_until(when - self._behind)
        self._last = max(self._last, when)
