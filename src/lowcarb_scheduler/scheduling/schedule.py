"""The deadline: what a run settles once about its end and then keeps, and how long waiting is allowed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from math import log, sqrt
from typing import Final

import numpy as np

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


# -- How long rounds take: what was seen so far, and the time to keep free for those that remain ------------
# A hold may use up the slack of a deadline, but not the time that the remaining rounds need. That time is not
# known, so a bound of its quantile is kept, of the *sum* of the m rounds that remain and not m times that of
# one. For any theta > 0 ::
#
#     P(D_1 + ... + D_m > Q) <= exp(-theta Q) E[exp(theta D)]^m,    so
#     Q = min over theta of (m ln E[exp(theta D)] + ln(1 / risk)) / theta
#
# is never too short [1]_. For one theta it is so much a round, and one buffer at the end that all rounds
# share; and by Ville's inequality the rounds that remain stay below that line at all of its points at once
# [2]_, so that a run which waits before each round, as long as it may, adds up no risk. Theta follows what
# was seen and how much remains: that holds only nearly, and half the risk is asked for.
#
# A quantile of what was seen alone would cover too little: a tail is not seen before it bites. The
# expectation is taken over the rounds seen and over imagined ones, which count less the more is seen:
# twenty, of which one takes five times as long as is typical, and one that takes four times as long as the
# longest seen. ``benchmarks/deadline_coverage.py`` shows what that holds.
#
# References
# ----------
# .. [1] H. Chernoff, "A measure of asymptotic efficiency for tests of a hypothesis based on the sum of
#    observations", Annals of Mathematical Statistics 23 (1952).
# .. [2] J. Ville, "Étude critique de la notion de collectif" (1939).

_KEPT: Final = 200  # rounds: later ones replace the first
_SHORTEST_S: Final = 1.0  # of a typical round: nothing is a multiple of no time at all
_IMAGINED: Final = 19.0, 1.0  # rounds that are typical, and that are slow
_SLOW: Final = 5.0  # typical rounds
_LONGER: Final = 4.0  # times the longest seen
_RISK_PARTS: Final = 2.0
_MANY: Final = 10  # rounds seen, from which on no floor is needed
_GIVEN_COUNTS: Final = 4  # rounds seen, for the floor
_THETAS: Final = np.geomspace(0.005, 4.0, 48)  # times a typical round
_LARGEST_EXPONENT: Final = 600.0


@dataclass(frozen=True, slots=True)
class Durations:
    """How long the rounds of a run have taken.

    Parameters
    ----------
    given : timedelta or None
        What somebody says a round takes; for what is typical it counts like one that was seen.
    seen_s : tuple of float
        What rounds took, from one's opening to the moment the next could open [s]; the newest last.
    """

    given: timedelta | None
    seen_s: tuple[float, ...] = ()

    def after(self, took: timedelta) -> Durations:
        """Return what is known when one more round is over."""
        return replace(self, seen_s=(*self.seen_s, max(took.total_seconds(), 0.0))[-_KEPT:])

    @property
    def is_known(self) -> bool:
        """Whether anything was seen or said."""
        return self.given is not None or bool(self.seen_s)

    @property
    def typical(self) -> timedelta:
        """The median of what was seen and said; at least a second."""
        assert self.is_known, "nothing was seen or said of a round"
        said = () if self.given is None else (self.given.total_seconds(),)
        return timedelta(seconds=max(float(np.median((*self.seen_s, *said))), _SHORTEST_S))

    def needed(self, rounds: int, confidence: float) -> timedelta:
        """Return the time to keep free for some rounds back-to-back.

        While fewer than ten rounds were seen it is at least ``1 + 1 / sqrt(n)`` times what so many typical
        ones take: twice that after one round, one and a half times where a duration is given.

        Parameters
        ----------
        rounds : int
            How many remain.
        confidence : float
            With which they are to fit into it, below 1.
        """
        typical = self.typical
        seen = np.array(self.seen_s) / typical.total_seconds()
        tail = _LONGER * seen.max(keepdims=True) if len(seen) else seen
        lengths = np.concatenate([[1.0, _SLOW], tail, seen])
        counts = np.concatenate([_IMAGINED, np.ones(len(tail) + len(seen))])
        exponents = np.minimum(np.outer(_THETAS, lengths), _LARGEST_EXPONENT)
        expected = np.exp(exponents) @ counts / counts.sum()
        surprise = log(_RISK_PARTS / (1.0 - confidence))
        bound = float(((rounds * np.log(expected) + surprise) / _THETAS).min())
        return max(bound, rounds * self._floor()) * typical

    def _floor(self) -> float:
        """Return how many times a typical round is kept at least, as long as little was seen."""
        count = len(self.seen_s)
        if count >= _MANY:
            return 1.0
        return 1.0 + 1.0 / sqrt(max(count, 1 if self.given is None else _GIVEN_COUNTS))
