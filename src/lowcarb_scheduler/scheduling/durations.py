"""Durations of the rounds of a run: their typical length, and the time to keep free for those to come.

A hold may use up the slack before a deadline, but not the time that the remaining rounds need. That time is
unknown, so it is bounded from above by a quantile of the *sum* of the m remaining durations D, which is less
than m times the quantile of one. For any theta > 0 (Chernoff's bound [1]_) ::

    P(D_1 + ... + D_m > Q) <= exp(-theta Q) E[exp(theta D)]^m

so the smallest Q that keeps this below a risk is ::

    Q = min over theta of (m ln E[exp(theta D)] + ln(1 / risk)) / theta

For one theta Q is a fixed time for each round and one buffer at the end that all rounds share. By Ville's
inequality [2]_ the remaining rounds stay below that line at all of its points at once, so a run that waits
before each round, as long as it may, does not add up risk. Theta changes with what was observed and with m,
so this holds only approximately.

E[exp(theta D)] is a mean over the rounds observed, in this run and in earlier ones of the same job, nineteen
typical ones, and slow ones that are imagined, because observations alone miss the tail. They are of two
kinds: one round in twenty takes five times as long; and in some part of the rounds, one in twenty at most, a
client does not reply until the timeout, and in the next round neither: one that hangs but stays connected is
asked again. A kind is left out where no time has to be kept for it:

- with such a round the run would be late even without waiting;
- so many rounds were observed that it has less than half of the accepted risk to go unseen in them, at the
  worst rate, and then to come. The other half is the bound's.

Rounds are not independent: their level changes, for example if another job begins on the same machines. So
for two rounds or more at least 2.2 typical ones each are kept, which is enough for rounds that double once,
and for a strongly correlated series. ``benchmarks/deadline_coverage.py`` measures all this.

References
----------
.. [1] H. Chernoff, "A measure of asymptotic efficiency for tests of a hypothesis based on the sum of
   observations", Annals of Mathematical Statistics 23 (1952).
.. [2] J. Ville, "Étude critique de la notion de collectif" (1939).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from math import inf, log, sqrt
from statistics import median
from typing import Final

import numpy as np

from lowcarb_scheduler.accounting.earlier import NO_EARLIER_ROUNDS, EarlierRounds

_MOST_SEEN: Final = 200  # durations that are remembered: newer ones replace the oldest
_SHORTEST_S: Final = 1.0  # shortest typical round [s]: durations are multiples of it
_TYPICAL: Final = 19.0  # typical rounds that are imagined beside those observed
_SLOW: Final = 5.0  # length of a slow round of any cause, in typical ones
_SLOW_PART: Final = 0.05  # part of all rounds that are slow, at the worst
_TIMEOUT_TURNS: Final = 2.0  # Flower's default timeout is extended to so many turns
_IN_A_ROW: Final = 2  # rounds until the timeout: a client that hangs is asked again in the next round
_KNOWN: Final = 10  # rounds observed from which on a tail may be left out: they have shown the usual spread
_OTHERS: Final = 0.8  # part of their typical time that the other rounds take at least
_LEVEL: Final = 2.2  # least time for each of several rounds, in typical ones
_SETTLED: Final = 4  # observed rounds that a given duration, or an earlier run, is worth for the last round
_THETAS: Final = np.geomspace(0.0005, 32.0, 48)  # per typical round; the best is flat


@dataclass(frozen=True, slots=True)
class Durations:
    """Durations of the rounds of a run.

    Parameters
    ----------
    given : timedelta or None
        Duration in the settings; for the typical duration it counts like one that was observed.
    seen_s : tuple of float
        Durations observed, from an opening to the moment the next round could open [s]; the newest last.
    earlier : EarlierRounds
        Rounds of earlier runs of the same job. Their median stands in the place of ``given``.
    reply_timeout : timedelta or None
        Time for which a round waits for a reply that does not come; None if unknown.
    total_s : float
        Sum of all durations observed, also of those not remembered [s].
    """

    given: timedelta | None
    seen_s: tuple[float, ...] = ()
    earlier: EarlierRounds = NO_EARLIER_ROUNDS
    reply_timeout: timedelta | None = None
    total_s: float = 0.0

    def after(self, took: timedelta) -> Durations:
        """Return the durations after one more round."""
        new_s = max(took.total_seconds(), 0.0)  # a clock may be set back
        return replace(self, seen_s=(*self.seen_s, new_s)[-_MOST_SEEN:], total_s=self.total_s + new_s)

    @property
    def is_known(self) -> bool:
        """True once a duration was given or observed."""
        return self.given is not None or bool(self.seen_s or self.earlier.seconds)

    @property
    def typical(self) -> timedelta:
        """Median of the durations observed, and of the one expected before; at least a second."""
        assert self.is_known, "no duration was given or observed"
        expected = () if self.given is None else (self.given.total_seconds(),)
        if self.earlier.seconds:
            expected = (self.earlier.typical_s,)
        return timedelta(seconds=max(median((*self.seen_s, *expected)), _SHORTEST_S))

    def needed(self, rounds: int, confidence: float, left: timedelta | None = None) -> timedelta:
        """Return the time to keep free for rounds back-to-back.

        For several rounds it is at least 2.2 times their typical time. For the last one it is at least
        ``1 + 1 / sqrt(n)`` times its typical time, where a given duration and each earlier run add 4 to the
        number n of rounds observed.

        Parameters
        ----------
        rounds : int
            Rounds that remain.
        confidence : float
            Probability that they fit into it, below 1.
        left : timedelta, optional
            Time that would be left to the deadline if the run had not waited.
        """
        typical, risk = self.typical, 1.0 - confidence
        # A longer round makes the run late even without waiting: no time that is kept would help.
        longest = inf if left is None else left / typical - _OTHERS * (rounds - 1)
        slow = self._slow_rounds(rounds, risk, longest, typical)
        seen = np.array(self.seen_s) / typical.total_seconds()
        # Earlier rounds keep their spread, and follow the level of this run.
        before = np.array(self.earlier.seconds) / max(self.earlier.typical_s, _SHORTEST_S)
        lengths = np.concatenate([[length for length, _ in slow], [1.0], seen, before])
        observed = (1.0 - sum(part for _, part in slow)) / (_TYPICAL + self._observed)
        parts = np.full(len(lengths), observed)
        parts[: len(slow) + 1] = [*(part for _, part in slow), _TYPICAL * observed]
        # exp() of a timeout of hours in rounds of seconds overflows, so its largest factor is taken out.
        exponents = np.outer(_THETAS, lengths)
        largest = exponents.max(axis=1)
        log_mean = largest + np.log(np.exp(exponents - largest[:, None]) @ parts)
        bound = float(((rounds * log_mean + log(2.0 / risk)) / _THETAS).min())
        return max(bound, rounds * self._floor(rounds)) * typical

    @property
    def _observed(self) -> int:
        return len(self.seen_s) + len(self.earlier.seconds)

    def _slow_rounds(
        self, rounds: int, risk: float, longest: float, typical: timedelta
    ) -> list[tuple[float, float]]:
        """Return the slow rounds to imagine: length [typical rounds], and part of all rounds."""
        count, left_out = self._observed, 0.0
        worst = min(_SLOW_PART, 1.0 / (count + 1))  # rate at which they most likely go unseen, and then come
        known = 0.0 if self.reply_timeout is None else self.reply_timeout / typical
        timeout = max(known, _TIMEOUT_TURNS)
        in_a_row = _IN_A_ROW * (timeout - 1.0) + 1.0  # one of them in place of all, beside typical ones
        if rounds >= _IN_A_ROW and in_a_row <= longest:
            timeout = in_a_row
        kinds = [
            (_SLOW, _SLOW_PART * (1.0 - _SLOW_PART) ** count, count >= _KNOWN),
            (timeout, worst * (1.0 - worst) ** count, True),
        ]
        kept: list[tuple[float, float]] = []
        for length, unseen, is_certain in sorted(kinds, reverse=True):
            if is_certain and length > longest:
                continue
            if left_out + rounds * unseen <= risk / 2.0:
                left_out += rounds * unseen
                continue
            part = 1.0 / (_TYPICAL + 1.0 + count)
            kept.append((length, min(part, unseen) if kept else part))
        return kept

    def _floor(self, rounds: int) -> float:
        """Return the least time to keep for each round, in typical rounds."""
        settled = _SETTLED * (self.earlier.runs + (self.given is not None))
        last = 1.0 + 1.0 / sqrt(max(len(self.seen_s) + settled, 1))
        return last if rounds == 1 else max(last, _LEVEL)
