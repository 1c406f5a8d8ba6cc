"""Hold of one round: the time it lasts until, and the announcements of it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from lowcarb_scheduler.clock import format_duration
from lowcarb_scheduler.events import HoldStarted, Released
from lowcarb_scheduler.scheduling import messages

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from lowcarb_scheduler.events import Window
    from lowcarb_scheduler.intensity import IntensityTable
    from lowcarb_scheduler.planning.job import Plan
    from lowcarb_scheduler.scheduling.messages import RunLog
    from lowcarb_scheduler.scheduling.selection import UpcomingRound

_LOG_EVERY: Final = timedelta(minutes=15)


class Hold:
    """Hold of one round.

    The round opens as planned, but no later than max-hold allows, and at once where it is ready a little
    sooner than planned and would emit no more.

    Parameters
    ----------
    number, rounds : int
        The round, from 1, and the number of rounds in the run.
    length : timedelta
        Planned length of a round: "a little sooner" is less than that.
    opens_by : datetime or None
        Latest opening that max-hold allows.
    log : RunLog
        Takes ``hold_started`` and ``open_now``.
    untold : callable
        Returns the planned windows from this round on, None where the ledger has this round's already.
    is_over : bool
        Whether nothing is waited for, as where the round had opened before a restart.
    is_quiet : bool
        Whether a hold that goes on is not logged again, as on a virtual clock that jumps through it.
    """

    def __init__(
        self, number: int, rounds: int, length: timedelta, opens_by: datetime | None, log: RunLog,
        untold: Callable[[], tuple[Window, ...] | None], is_over: bool = False, is_quiet: bool = False,
    ) -> None:  # fmt: skip
        self._number, self._rounds, self._length, self._opens_by = number, rounds, length, opens_by
        self._log, self._untold, self._is_over, self._is_quiet = log, untold, is_over, is_quiet
        self._capped: tuple[Plan, datetime] | None = None
        self._announced: datetime | None = None
        self._next_line: datetime | None = None

    def until(
        self, planned: UpcomingRound | None, forecast: IntensityTable | None, now: datetime
    ) -> datetime:
        """Return when the round opens: as planned, or at the best moment within the longest hold.

        Parameters
        ----------
        planned : UpcomingRound or None
            The round as the standing plan has it; None opens at once.
        forecast : IntensityTable or None
            The newest forecast.
        now : datetime
            The present.
        """
        # A hold that was announced is kept: it is never cut short by a forecast that only looks as clean now.
        if self._announced is None and self._gains_nothing(planned, forecast, now):
            self._is_over = True
        if planned is None or self._is_over:
            return now
        if self._opens_by is None or planned.opens_at <= self._opens_by:
            return planned.opens_at
        if now >= self._opens_by:
            return now
        # Chosen once for each plan: looked for again at every wake, the best moment would drift with now.
        if self._capped is None or self._capped[0] is not planned.plan:
            self._capped = planned.plan, planned.cleanest_opening(forecast, now, self._opens_by)
        return self._capped[1]

    def announce(
        self, planned: UpcomingRound | None, forecast: IntensityTable | None, now: datetime
    ) -> datetime:
        """Announce the opening where it is new, log now and then that the hold goes on, and return it.

        The parameters are those of :meth:`until`.
        """
        opens_at = self.until(planned, forecast, now)
        if planned is None or opens_at <= now:
            return opens_at
        if opens_at != self._announced:
            self._announced, self._next_line = opens_at, now + _LOG_EVERY
            self._report(planned, forecast, opens_at, now)
        elif self._next_line is not None and now >= self._next_line and not self._is_quiet:
            self._next_line = now + _LOG_EVERY
            left, until = format_duration(opens_at - now), messages.instant(opens_at)
            self._log.info(f"still holding round {self._number} until {until} ({left})")
        return opens_at

    def interrupted(self) -> None:
        """Note that nodes are waited for: the hold that follows is announced anew."""
        self._announced = None

    def release(self) -> None:
        """Let the round open now, at the operator's request."""
        self._is_over = True
        line = f"round {self._number} opens now, at the operator's request"
        self._log.report(line, Released(round=self._number, until=self._announced))

    def _gains_nothing(
        self, planned: UpcomingRound | None, forecast: IntensityTable | None, now: datetime
    ) -> bool:
        """Return whether a round that is ready a little sooner than planned would emit no more now."""
        if planned is None or not timedelta(0) < planned.opens_at - now < self._length:
            return False
        planned_g, at_once_g = (planned.emissions_g(forecast, when) for when in (planned.opens_at, now))
        return planned_g is not None and at_once_g is not None and at_once_g <= planned_g

    def _report(
        self, planned: UpcomingRound, forecast: IntensityTable | None, opens_at: datetime, now: datetime
    ) -> None:
        """Report a hold: until when, why, and the emissions it avoids."""
        planned_g, at_once_g = (planned.emissions_g(forecast, when) for when in (opens_at, now))
        reason = messages.hold_reason(planned_g, at_once_g)
        # The best moment before the limit may be earlier than the limit itself.
        if opens_at == self._opens_by or opens_at != planned.opens_at:
            reason += "; it waits no longer than max-hold allows"
        seconds, until = opens_at - now, f"{messages.instant(opens_at)} ({format_duration(opens_at - now)})"
        self._log.report(
            f"holding round {self._number}/{self._rounds} until {until}: {reason}",
            HoldStarted(round=self._number, until=opens_at, seconds=seconds.total_seconds(), reason=reason,
                        planned_g=planned_g, at_once_g=at_once_g, windows=self._untold()),
        )  # fmt: skip
