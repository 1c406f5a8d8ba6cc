"""The deadline: what a run settles once about its end and then keeps, and how long waiting is allowed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

_DEFAULT: Final = timedelta(hours=24)
_MINUTE: Final = timedelta(minutes=1)
_GRACE: Final = timedelta(seconds=60)
SPARE_PART: Final = 0.1  # of the slack a run begins with: waiting never uses it


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long the rounds of a run are, when they may open, and when it is to end.

    Parameters
    ----------
    grid_from : datetime
        Begin of the grid on which rounds open.
    round_duration : timedelta
        All of a round.
    finish_by : datetime
        The deadline.
    target_finish : datetime
        Where patience puts the end.
    spare : timedelta
        A part of the slack that waiting does not use.
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
        told = max(_DEFAULT, 2 * back_to_back) if finish_by is None else finish_by
        deadline = started + told if isinstance(told, timedelta) else told
        slack = max(deadline - started - back_to_back, timedelta(0))
        target = started + back_to_back + patience * slack
        return cls(started, round_duration, deadline, target, spare_part * slack)

    def latest_opening(self, rounds: int, needed: timedelta) -> datetime:
        """Return until when waiting is allowed.

        Parameters
        ----------
        rounds : int
            How many remain.
        needed : timedelta
            The time to keep free for them; never less than their planned time is kept.
        """
        return self.finish_by - self.spare - max(needed, rounds * self.round_duration)

    def plan_by(self, now: datetime, rounds: int, needed: timedelta) -> datetime:
        """Return when rounds are planned to be over at the latest.

        What is needed beyond the planned time is one buffer at the end, which all rounds share. When waiting
        is no longer allowed they are planned back-to-back from now, past the deadline if it must be.
        """
        return max(self.latest_opening(rounds, needed), now) + rounds * self.round_duration

    def on_slot(self, slot: datetime, now: datetime) -> datetime:
        """Return the slot if now is a moment after it, else now.

        Without this grace every little overrun would cost a whole step of the grid of openings.
        """
        return slot if slot <= now < slot + min(_GRACE, self.round_duration / 20) else now


def observed_round(duration: timedelta) -> timedelta:
    """Return the length to plan with after one round was seen: whole minutes, at least one."""
    return max(-(-duration // _MINUTE), 1) * _MINUTE
