"""Waiting for nodes: never without end, and it says for whom."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from lowcarb_scheduler.clock import EPOCH, SystemClock
from lowcarb_scheduler.errors import PlanInfeasibleError
from lowcarb_scheduler.flower import wording

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from flwr.serverapp import Grid

    from lowcarb_scheduler.clock import Clock
    from lowcarb_scheduler.flower.course import Course
    from lowcarb_scheduler.flower.outlook import Outlook
    from lowcarb_scheduler.ledger import Ledger

logger = logging.getLogger("flwr")

POLL: Final = timedelta(seconds=2)
REGISTERING: Final = timedelta(seconds=60)  # as long as nodes take that start when the run does
_SAY_CHANGES: Final = timedelta(minutes=1)  # no more often than this
_SAY_EVERY: Final = timedelta(minutes=15)  # where nothing changes


class Arrivals:
    """Waits for nodes of one run.

    Parameters
    ----------
    clock : Clock
        The run's. Where it is virtual, real time is waited in: it must not jump while real nodes register.
    virtual : bool
        Whether it is.
    course : Course
        Knows how long waiting makes no round late.
    outlook : Outlook
        Takes notes of nodes that did not come.
    ledger : Ledger
        Takes ``nodes_awaited``.
    """

    def __init__(self, clock: Clock, virtual: bool, course: Course, outlook: Outlook, ledger: Ledger) -> None:
        self._clock: Clock = SystemClock() if virtual else clock
        self._virtual, self._course, self._outlook, self._ledger = virtual, course, outlook, ledger
        self._in_vain_with = 0  # nodes
        self._said: tuple[int, int] | None = None  # of which round, with how many
        self._said_at = EPOCH

    def looks(self) -> Iterator[None]:
        """Yield at every look at nodes that are still registering, the last time when that takes too long."""
        until = self._clock.now() + REGISTERING
        while self._clock.now() < until:
            yield
            self._clock.sleep_until(min(until, self._clock.now() + POLL))
        yield

    def available(self, number: int, grid: Grid, wanted: int, is_first: bool) -> int:
        """Wait a while before the first round for nodes that a strategy wants to be there when it samples.

        Returns
        -------
        int
            How many there are.
        """
        until = self._clock.now() + REGISTERING
        for _ in self.looks() if is_first else (None,):
            if (there := _count(grid)) >= wanted:
                return there
            if is_first:
                self._say(number, there, wanted, there, until)
        why = f"{there} of {wanted} that the strategy wants to be available are connected"
        self._outlook.degrade("nodes", why, "it samples from those there are")
        return there

    def enough(self, number: int, grid: Grid, wanted: int, at_least: int, is_first: bool) -> None:
        """Wait for nodes: for as many as the strategy needs until no slack is left, for the others a while.

        The others are waited for within the patience of the run, no longer than a round takes, and not again
        if the same number was there when that was in vain.

        Raises
        ------
        PlanInfeasibleError
            If too few come.
        """
        needed_until, wanted_until = self._limits(number, is_first)
        while (there := _count(grid)) < wanted:
            enough = there >= at_least
            limit = wanted_until if enough else needed_until
            if self._clock.now() >= limit or (enough and there == self._in_vain_with):
                break
            self._say(number, there, wanted, at_least, limit)
            self._clock.sleep_until(min(limit, self._clock.now() + POLL))
        if there < at_least:
            schedule = self._course.schedule
            finish_by = schedule.finish_by if schedule else needed_until
            raise PlanInfeasibleError("too few nodes are connected", at_least, there, finish_by)
        if there < wanted:
            self._in_vain_with = there
            fix = "those there are train; lower lowcarb-clients-per-round to wait for none"
            self._outlook.degrade("nodes", f"{there} of {wanted} are connected", fix)

    def _say(self, number: int, there: int, wanted: int, at_least: int, until: datetime) -> None:
        """Say now and then for how many nodes is waited, and until when."""
        now, said = self._clock.now(), (number, there)
        if now < self._said_at + (_SAY_EVERY if said == self._said else _SAY_CHANGES):
            return
        self._said, self._said_at = said, now
        line = wording.nodes_awaited(there, wanted, at_least, until)
        logger.info("lowcarb: %s", line)
        if not self._virtual:  # here it is real time that passes
            self._ledger.append("nodes_awaited", round=number, until=until, reason=line)

    def _limits(self, number: int, is_first: bool) -> tuple[datetime, datetime]:
        """Return until when the nodes that are needed are waited for, and those that are wanted."""
        began, schedule = self._clock.now(), self._course.schedule
        needed_until, wanted_until = began + REGISTERING, began
        if is_first:
            wanted_until = began + REGISTERING
        latest = self._course.latest_opening(number)
        if not self._virtual and schedule and latest:
            needed_until = max(needed_until, latest)
            remaining = self._course.rounds_left(number) * schedule.round_duration
            patient_until = min(latest, schedule.target_finish - remaining)
            wanted_until = max(wanted_until, min(patient_until, began + schedule.round_duration))
        elif not self._virtual:
            needed_until = max(needed_until, self._course.provisional_deadline())
        return needed_until, wanted_until


def _count(grid: Grid) -> int:
    return len(list(grid.get_node_ids()))
