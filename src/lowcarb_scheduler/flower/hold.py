"""The hold of a round: what it waits for, what ends the wait early, and what is said of it.

It holds before messages are built, so that their time to live and the reply timeout begin with the round. The
loop looks up at every wake.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from lowcarb_scheduler.clock import VirtualClock, format_duration
from lowcarb_scheduler.flower import wording
from lowcarb_scheduler.flower.lineup import cleanest_opening, emissions_at
from lowcarb_scheduler.flower.signals import take_wish

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from lowcarb_scheduler.clock import Clock
    from lowcarb_scheduler.flower.course import Course
    from lowcarb_scheduler.flower.outlook import Outlook
    from lowcarb_scheduler.ledger import Ledger
    from lowcarb_scheduler.planning.job import Plan

logger = logging.getLogger("flwr")

WAKE: Final = timedelta(seconds=60)  # at most, from one look at nodes and forecasts to the next
GLANCE: Final = timedelta(seconds=3)  # at most, from one look at what the operator asks to the next
_LOG_EVERY: Final = timedelta(minutes=15)


class Holding:
    """The hold of one round.

    Parameters
    ----------
    number, rounds : int
        The round, from 1, and how many there are.
    clock : Clock
        Tells the time and sleeps.
    course, outlook
        The plan that stands, and what is known of intensity.
    ledger : Ledger
        Takes ``hold_started`` and ``open_now``.
    opens_by : datetime or None
        Until when it may last at most.
    is_open : bool
        Whether the round had opened before a restart: then nothing is waited for, as after a wish.
    """

    def __init__(
        self, number: int, rounds: int, clock: Clock, course: Course, outlook: Outlook, ledger: Ledger,
        opens_by: datetime | None, is_open: bool = False,
    ) -> None:  # fmt: skip
        self._number, self._rounds, self._clock = number, rounds, clock
        self._course, self._outlook, self._ledger = course, outlook, ledger
        self._opens_by, self._is_open = opens_by, is_open
        self._capped: tuple[Plan, datetime] | None = None
        self._announced: datetime | None = None
        self._next_line = clock.now()

    def wait(self, look: Callable[[bool], bool]) -> datetime:
        """Wait until the round may open, and return when that was.

        Parameters
        ----------
        look : callable
            Sees at every wake who is there and what is forecast, and plans anew where that has changed. It
            is told whether the time has come, and returns whether there are enough nodes to go on with.
        """
        self._announced = None  # nodes may have been waited for since

        def opening() -> datetime:
            now = self._clock.now()
            if not look(self._opens_at(now) <= now):
                return now
            now = self._clock.now()
            if (opens_at := self._opens_at(now)) > now:
                self._say(opens_at, now)
            return opens_at

        return hold(self._clock, opening, self._is_let_go)

    def _opens_at(self, now: datetime) -> datetime:
        """Return when the round opens: as planned, or at the best moment within the longest hold."""
        opens_at = self._course.opens_at(self._number) or now
        if self._announced is None and self._gains_nothing(opens_at, now):
            self._is_open = True
        if self._is_open:
            return now
        if self._opens_by is None or opens_at <= self._opens_by:
            return opens_at
        if now >= self._opens_by:
            return now
        assert self._course.decision is not None  # it opens later
        plan = self._course.decision.plan
        if self._capped is None or self._capped[0] is not plan:
            index, known = self._course.index(self._number), self._outlook.forecast
            self._capped = plan, cleanest_opening(plan, index, known, now, self._opens_by)
        return self._capped[1]

    def _gains_nothing(self, opens_at: datetime, now: datetime) -> bool:
        """Return whether a round that is ready a little sooner than planned is as clean now."""
        decision, length = self._course.decision, self._course.length
        if decision is None or not timedelta(0) < opens_at - now < length:
            return False
        plan, index, known = decision.plan, self._course.index(self._number), self._outlook.forecast
        planned_g, at_once_g = (emissions_at(plan, index, known, when) for when in (opens_at, now))
        return planned_g is not None and at_once_g is not None and at_once_g <= planned_g

    def _is_let_go(self) -> bool:
        """Return whether an operator wishes the round to open now."""
        if not take_wish(self._ledger.run_dir, self._number):
            return False
        self._is_open = True
        self._ledger.append("open_now", round=self._number, until=self._announced)
        logger.info("lowcarb: round %d opens now, as an operator wishes", self._number)
        return True

    def _say(self, opens_at: datetime, now: datetime) -> None:
        """Say what is waited for when that is new, and now and then that it is still so."""
        if opens_at != self._announced:
            self._announce(opens_at, now)
            self._announced, self._next_line = opens_at, now + _LOG_EVERY
        elif now >= self._next_line and not isinstance(self._clock, VirtualClock):
            left = format_duration(opens_at - now)
            until = wording.instant(opens_at)
            logger.info("lowcarb: still holding round %d until %s (%s)", self._number, until, left)
            self._next_line = now + _LOG_EVERY

    def _announce(self, opens_at: datetime, now: datetime) -> None:
        """Say what is waited for, why, and what it saves."""
        assert self._course.decision is not None  # there is something to wait for
        plan, index = self._course.decision.plan, self._course.index(self._number)
        planned_g, at_once_g = (
            emissions_at(plan, index, self._outlook.forecast, when) for when in (opens_at, now)
        )
        reason = wording.hold_reason(planned_g, at_once_g)
        if opens_at == self._opens_by or opens_at != self._course.opens_at(self._number):
            reason += "; it waits no longer than max-hold allows"
        seconds = opens_at - now
        self._ledger.append(
            "hold_started", round=self._number, until=opens_at, seconds=seconds, reason=reason,
            planned_g=planned_g, at_once_g=at_once_g,
        )  # fmt: skip
        logger.info(
            "lowcarb: holding round %d/%d until %s (%s): %s",
            self._number, self._rounds, wording.instant(opens_at), format_duration(seconds), reason,
        )  # fmt: skip


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
