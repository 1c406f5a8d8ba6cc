"""Schedule of a run: deadline, target and grid of openings, and the time that its rounds take."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from math import log, sqrt
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from lowcarb_scheduler.clock import format_duration

if TYPE_CHECKING:
    from collections.abc import Mapping

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


# -- Round durations --------------------------------------------------------------------------------------
# A hold may use up the slack before a deadline, but not the time that the remaining rounds need. That time is
# unknown, so it is bounded from above by a quantile of the *sum* of the m remaining durations D, which is
# less than m times the quantile of one. For any theta > 0 (Chernoff's bound [1]_) ::
#
#     P(D_1 + ... + D_m > Q) <= exp(-theta Q) E[exp(theta D)]^m
#
# so the smallest Q that keeps this below the accepted risk is ::
#
#     Q = min over theta of (m ln E[exp(theta D)] + ln(1 / risk)) / theta
#
# For one theta Q is a fixed time for each round and one buffer at the end that all rounds share. By Ville's
# inequality [2]_ the remaining rounds stay below that line at all of its points at once, so a run that waits
# before each round, as long as it may, does not add up risk. Theta changes with what was observed and with m,
# so this holds only approximately, and half of the accepted risk is used.
#
# E[exp(theta D)] is a mean over the rounds observed and some imagined ones, because a quantile of few
# observations alone misses the tail. Imagined are twenty rounds, one of them five times as long as a typical
# round, and one more of four times the longest observed. They weigh less the more rounds are observed.
# ``benchmarks/deadline_coverage.py`` measures how often the bound holds.
#
# References
# ----------
# .. [1] H. Chernoff, "A measure of asymptotic efficiency for tests of a hypothesis based on the sum of
#    observations", Annals of Mathematical Statistics 23 (1952).
# .. [2] J. Ville, "Étude critique de la notion de collectif" (1939).

_MOST_SEEN: Final = 200  # durations that are remembered: newer ones replace the oldest
_SHORTEST_S: Final = 1.0  # shortest typical round [s]: durations are multiples of it
_IMAGINED: Final = 19.0, 1.0  # imagined rounds: typical ones, and slow ones
_SLOW: Final = 5.0  # length of a slow round, in typical ones
_LONGER: Final = 4.0  # imagined tail, in times of the longest round observed
_RISK_PARTS: Final = 2.0  # the bound uses one of them, see above
_MANY: Final = 10  # rounds observed from which on no floor is needed
_GIVEN_COUNTS: Final = 4  # observed rounds that a given duration is worth, for the floor
_THETAS: Final = np.geomspace(0.005, 4.0, 48)  # per typical round
_LARGEST_EXPONENT: Final = 600.0  # exp() of more would overflow


@dataclass(frozen=True, slots=True)
class Durations:
    """Durations of the rounds of a run.

    Parameters
    ----------
    given : timedelta or None
        Duration in the settings; for the typical duration it counts like one that was observed.
    seen_s : tuple of float
        Durations observed, from an opening to the moment the next round could open [s]; the newest last.
    """

    given: timedelta | None
    seen_s: tuple[float, ...] = ()

    def after(self, took: timedelta) -> Durations:
        """Return the durations after one more round."""
        return replace(self, seen_s=(*self.seen_s, max(took.total_seconds(), 0.0))[-_MOST_SEEN:])

    @property
    def is_known(self) -> bool:
        """True once a duration was given or observed."""
        return self.given is not None or bool(self.seen_s)

    @property
    def typical(self) -> timedelta:
        """Median of the durations given and observed; at least a second."""
        assert self.is_known, "no duration was given or observed"
        given = () if self.given is None else (self.given.total_seconds(),)
        return timedelta(seconds=max(float(np.median((*self.seen_s, *given))), _SHORTEST_S))

    def needed(self, rounds: int, confidence: float) -> timedelta:
        """Return the time to keep free for rounds back-to-back.

        While fewer than ten rounds were observed it is at least ``1 + 1 / sqrt(n)`` times their typical time:
        twice that after one round, one and a half times where a duration is given.

        Parameters
        ----------
        rounds : int
            Rounds that remain.
        confidence : float
            Probability that they fit into it, below 1.
        """
        typical = self.typical
        seen = np.array(self.seen_s) / typical.total_seconds()
        tail = _LONGER * seen.max(keepdims=True) if len(seen) else seen
        lengths = np.concatenate([[1.0, _SLOW], tail, seen])
        counts = np.concatenate([_IMAGINED, np.ones(len(tail) + len(seen))])
        exponents = np.minimum(np.outer(_THETAS, lengths), _LARGEST_EXPONENT)
        expected = np.exp(exponents) @ counts / counts.sum()
        log_risk = log(_RISK_PARTS / (1.0 - confidence))
        bound = float(((rounds * np.log(expected) + log_risk) / _THETAS).min())
        return max(bound, rounds * self._floor()) * typical

    def _floor(self) -> float:
        """Return the least time to keep for each round, in typical rounds, while few were observed."""
        count = len(self.seen_s)
        if count >= _MANY:
            return 1.0
        return 1.0 + 1.0 / sqrt(max(count, 1 if self.given is None else _GIVEN_COUNTS))


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
    round_duration : timedelta or None
        Length of a round, where the settings give one; else the first round shows it.
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
        self, started: datetime, rounds: int, round_duration: timedelta | None,
        finish_by: datetime | timedelta | None, patience: float, confidence: float, as_planned: bool = False,
    ) -> None:  # fmt: skip
        self.started, self.rounds, self._finish_by = started, rounds, finish_by
        self._patience, self._confidence, self._as_planned = patience, confidence, as_planned
        self.schedule = self._settle(round_duration) if round_duration else None
        self.durations = Durations(round_duration)

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
            logger.info("lowcarb: rounds take about %s, and are planned so", format_duration(typical))

    def start_grid(self, now: datetime) -> None:
        """Start the grid of openings now, where nodes were waited for: its first slot would be lost."""
        if self.schedule is not None:
            self.schedule = replace(self.schedule, grid_from=now)

    def memory(self) -> dict[str, Any]:
        """Return the part of a checkpoint that holds schedule and durations."""
        schedule = None if self.schedule is None else asdict(self.schedule)
        return {"schedule": schedule, "seen_s": list(self.durations.seen_s)}

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Restore what :meth:`memory` returned."""
        if memory["schedule"] is not None:
            self.schedule = Schedule(**memory["schedule"])
        self.durations = replace(self.durations, seen_s=tuple(memory["seen_s"]))
        self._as_planned = self._as_planned and not self.durations.seen_s

    def _needed(self, number: int) -> timedelta:
        """Return the time to keep free for the remaining rounds, where it is more than planned."""
        if self._as_planned or not self.durations.is_known:
            return timedelta(0)
        return self.durations.needed(self.rounds_left(number), self._confidence)

    def _settle(self, round_duration: timedelta) -> Schedule:
        """Fix deadline and target, once the length of a round is known."""
        spare_part = 0.0 if self._as_planned else SPARE_PART
        return Schedule.settle(
            self.started, self.rounds, round_duration, self._finish_by, self._patience, spare_part
        )
