"""Schedule of a run: deadline, target and grid of openings, and the time that its rounds take."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from lowcarb_scheduler.accounting.earlier import EarlierRounds
from lowcarb_scheduler.clock import format_duration

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lowcarb_scheduler.scheduling.durations import Durations

logger = logging.getLogger("flwr")

_DEFAULT: Final = timedelta(hours=24)  # shortest deadline where none is given
_MINUTE: Final = timedelta(minutes=1)
_UNSEEN_ROUND: Final = timedelta(hours=1)  # stands for a round until one was observed; nothing waits for it
_UNSEEN_SPARE: Final = 0.01  # part of the time to the deadline, while no round was observed
_GRACE: Final = timedelta(seconds=60)  # an overrun no longer than this does not move a round off its slot
SPARE_PART: Final = 0.1  # part of the initial slack that waiting never uses


@dataclass(frozen=True, slots=True)
class Schedule:
    """Round length, grid of openings, target and deadline of a run.

    Parameters
    ----------
    grid_from : datetime
        Start of the grid on which rounds open.
    round_duration : timedelta
        Whole length of a round.
    finish_by : datetime
        The deadline.
    target_finish : datetime
        End of the run by patience.
    spare : timedelta
        Part of the slack that waiting does not use.
    """

    grid_from: datetime
    round_duration: timedelta
    finish_by: datetime
    target_finish: datetime
    spare: timedelta = timedelta(0)

    @classmethod
    def settle(
        cls,
        started: datetime,
        rounds: int,
        round_duration: timedelta,
        finish_by: datetime | timedelta | None,
        patience: float,
        spare_part: float = SPARE_PART,
    ) -> Schedule:
        """Settle deadline and target.

        ``finish_by`` is a time, a duration from the start, or by default the larger of 24 h and twice the
        back-to-back time.
        """
        back_to_back = rounds * round_duration
        if finish_by is None:
            finish_by = max(_DEFAULT, 2 * back_to_back)
        deadline = started + finish_by if isinstance(finish_by, timedelta) else finish_by
        slack = max(deadline - started - back_to_back, timedelta(0))
        target = started + back_to_back + patience * slack
        return cls(started, round_duration, deadline, target, spare_part * slack)

    @classmethod
    def of_unseen_round(cls, now: datetime) -> Schedule:
        """Return the schedule of a first round whose length is unknown: it opens at once."""
        return cls(now, _UNSEEN_ROUND, now + _UNSEEN_ROUND, now + _UNSEEN_ROUND)

    def latest_opening(self, rounds: int, needed: timedelta) -> datetime:
        """Return the latest opening of the next round that keeps the deadline.

        Parameters
        ----------
        rounds : int
            Rounds that remain.
        needed : timedelta
            Time to keep free for them; at least their planned time is kept.
        """
        return self.finish_by - self.spare - max(needed, rounds * self.round_duration)

    def plan_by(self, now: datetime, rounds: int, needed: timedelta) -> datetime:
        """Return the latest planned end of the rounds that remain.

        Time needed beyond their planned time is one buffer at the end, which all rounds share. When waiting
        is no longer allowed the rounds are planned back-to-back from now, past the deadline if necessary.
        """
        return max(self.latest_opening(rounds, needed), now) + rounds * self.round_duration

    def on_slot(self, slot: datetime, now: datetime) -> datetime:
        """Return the slot if now is a moment after it, else now."""
        # Without this grace every little overrun would cost a whole step of the grid of openings.
        return slot if slot <= now < slot + min(_GRACE, self.round_duration / 20) else now


def observed_round(duration: timedelta) -> timedelta:
    """Return the length to plan with after a round of this duration: whole minutes, at least one."""
    return max(-(-duration // _MINUTE), 1) * _MINUTE


# -- Timing of a run --------------------------------------------------------------------------------------

_FAR_OFF: Final = 0.25  # part of the planned length by which rounds must differ before it is changed
_SURE: Final = 3  # rounds observed that overrule a given length


class NodeLimits(NamedTuple):
    """Time to wait for nodes from now on.

    Parameters
    ----------
    needed : timedelta
        For nodes that a round cannot do without.
    wanted : timedelta
        For those that it only wants.
    missing : timedelta
        For those that it only wants, counted from when they left.
    """

    needed: timedelta
    wanted: timedelta
    missing: timedelta


class RunTiming:
    """Timing of a run: its schedule, and the time that its rounds really take.

    Parameters
    ----------
    started : datetime
        Start of the run.
    rounds : int
        Number of rounds.
    durations : Durations
        Durations known beforehand, from the settings or earlier runs; without any the first round shows
        them.
    finish_by : datetime, timedelta or None
        Deadline, or its distance from the start; see :meth:`Schedule.settle`.
    patience : float
        Part of the slack that the run may use, from 0 to 1.
    confidence : float
        Probability with which waiting keeps the deadline, below 1.
    as_planned : bool
        Whether rounds take their planned time, as on a virtual clock: until one takes longer, no time is
        kept free for that.

    Attributes
    ----------
    schedule : Schedule or None
        Deadline and target; None until the length of a round is known.
    durations : Durations
        Durations of the rounds so far.
    """

    def __init__(
        self, started: datetime, rounds: int, durations: Durations,
        finish_by: datetime | timedelta | None, patience: float, confidence: float, as_planned: bool = False,
    ) -> None:  # fmt: skip
        self.started, self.rounds, self._finish_by = started, rounds, finish_by
        self._patience, self._confidence, self._as_planned = patience, confidence, as_planned
        self.durations = durations
        self.schedule: Schedule | None = None
        if durations.is_known:
            self.schedule = self._settle(durations.given or observed_round(durations.typical))

    @property
    def round_duration(self) -> timedelta:
        """Planned length of a round; no time while it is unknown."""
        return self.schedule.round_duration if self.schedule else timedelta(0)

    @property
    def finish_by(self) -> datetime | None:
        """The deadline; None while it is unknown."""
        return self.schedule.finish_by if self.schedule else None

    @property
    def provisional_deadline(self) -> datetime:
        """The deadline, or about where it will be while no round was observed."""
        return (self.schedule or self._settle(_UNSEEN_ROUND)).finish_by

    def rounds_left(self, number: int) -> int:
        """Return the number of rounds that remain before a round opens."""
        return max(self.rounds - number + 1, 1)

    def latest_opening(self, number: int) -> datetime | None:
        """Return the end of the time in which a round may wait; None while a round's length is unknown."""
        if self.schedule is None:
            return None
        return self.schedule.latest_opening(self.rounds_left(number), self._needed(number))

    def plan_by(self, number: int, now: datetime) -> datetime:
        """Return the latest planned end of the rounds from this one on."""
        assert self.schedule is not None, "a plan by a deadline needs a schedule"
        return self.schedule.plan_by(now, self.rounds_left(number), self._needed(number))

    def is_too_late(self, number: int, now: datetime) -> bool:
        """Return whether a round that opens now would end after the deadline."""
        if (schedule := self.schedule) is None:
            return False
        last = schedule.finish_by - schedule.round_duration
        return schedule.on_slot(last, now) > last

    def spare(self, number: int, now: datetime) -> timedelta:
        """Return the time by which a round may open later without the run being late.

        While the length of a round is unknown this is a hundredth of the time that is left.
        """
        if (latest := self.latest_opening(number)) is None:
            return max(self.provisional_deadline - now, timedelta(0)) * _UNSEEN_SPARE
        return max(latest - now, timedelta(0))

    def node_limits(self, number: int, now: datetime) -> NodeLimits:
        """Return the time to wait for nodes.

        Nodes that are needed are waited for while slack lasts, others within the patience of the run and no
        longer than a round takes.
        """
        schedule, latest, none = self.schedule, self.latest_opening(number), timedelta(0)
        if schedule is None or latest is None:
            return NodeLimits(max(self.provisional_deadline - now, none), none, none)
        patient_until = schedule.target_finish - self.rounds_left(number) * schedule.round_duration
        wanted = max(min(latest, patient_until) - now, none)
        return NodeLimits(max(latest - now, none), wanted, schedule.round_duration)

    def round_closed(self, took: timedelta) -> timedelta:
        """Return the planned length of a round that is over; the first one may decide it."""
        if self.schedule is None:
            self.schedule = self._settle(observed_round(took))
        return self.schedule.round_duration

    def round_over(self, took: timedelta, planned: timedelta) -> None:
        """Learn the duration of a round, from its opening until the next one could open.

        If rounds take much longer or shorter than planned, those to come are planned with their typical
        duration.
        """
        if self._as_planned and took <= planned:
            return
        self._as_planned, self.durations = False, self.durations.after(took)
        is_sure = self.durations.given is None or len(self.durations.seen_s) >= _SURE
        if (schedule := self.schedule) is None or not is_sure:
            return
        typical, shortest = observed_round(self.durations.typical), observed_round(timedelta(0))
        length = max(schedule.round_duration, shortest)
        if abs(typical - length) > _FAR_OFF * length:
            self.schedule = replace(schedule, round_duration=typical)
            logger.info(
                "lowcarb: rounds take about %s and are now planned with this duration",
                format_duration(typical),
            )

    def start_grid(self, now: datetime) -> None:
        """Start the grid of openings now, where nodes were waited for: its first slot would be lost."""
        if self.schedule is not None:
            self.schedule = replace(self.schedule, grid_from=now)

    def memory(self) -> dict[str, Any]:
        """Return the part of a checkpoint that holds schedule and durations."""
        schedule = None if self.schedule is None else asdict(self.schedule)
        durations = self.durations
        return {
            "schedule": schedule, "seen_s": list(durations.seen_s), "total_s": durations.total_s,
            "earlier": {"seconds": list(durations.earlier.seconds), "runs": durations.earlier.runs},
        }  # fmt: skip

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Restore what :meth:`memory` returned."""
        if memory["schedule"] is not None:
            self.schedule = Schedule(**memory["schedule"])
        seen_s = tuple(memory["seen_s"])
        earlier = memory.get("earlier", {"seconds": (), "runs": 0})  # older checkpoints have none
        self.durations = replace(
            self.durations, seen_s=seen_s, total_s=memory.get("total_s", sum(seen_s)),
            earlier=EarlierRounds(tuple(earlier["seconds"]), earlier["runs"]),
        )  # fmt: skip
        self._as_planned = self._as_planned and not self.durations.seen_s

    def _needed(self, number: int) -> timedelta:
        """Return the time to keep free for the remaining rounds, where it is more than planned."""
        if self._as_planned or not self.durations.is_known:
            return timedelta(0)
        left = None
        if self.schedule is not None:
            worked = timedelta(seconds=self.durations.total_s)
            left = self.schedule.finish_by - self.started - worked
        return self.durations.needed(self.rounds_left(number), self._confidence, left)

    def _settle(self, round_duration: timedelta) -> Schedule:
        """Fix deadline and target, once the length of a round is known."""
        spare_part = 0.0 if self._as_planned else SPARE_PART
        return Schedule.settle(
            self.started, self.rounds, round_duration, self._finish_by, self._patience, spare_part
        )
