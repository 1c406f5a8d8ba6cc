"""The hold of a round: what it waits for, what ends the wait early, and what is said of it.

It holds before messages are built, so that their time to live and the reply timeout begin with the round. The
loop looks up at every wake.
"""

from __future__ import annotations

import json
import logging
import signal
import threading
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from lowcarb_scheduler.clock import EPOCH, SystemClock, VirtualClock, format_duration
from lowcarb_scheduler.documents import to_json
from lowcarb_scheduler.errors import InputError, PlanInfeasibleError
from lowcarb_scheduler.scheduling import messages
from lowcarb_scheduler.scheduling.selection import cleanest_opening, emissions_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime
    from pathlib import Path

    from flwr.serverapp import Grid

    from lowcarb_scheduler.clock import Clock
    from lowcarb_scheduler.ledger import Ledger
    from lowcarb_scheduler.planning.job import Plan
    from lowcarb_scheduler.scheduling.intensity_feed import IntensityFeed
    from lowcarb_scheduler.scheduling.messages import RunLog
    from lowcarb_scheduler.scheduling.replanner import Replanner

# -- Waiting for nodes: never without end, and it says for whom ---------------------------------------------

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
    replanner : Replanner
        Knows how long waiting makes no round late.
    log : RunLog
        Takes warnings of nodes that did not come.
    ledger : Ledger
        Takes ``nodes_awaited``.
    """

    def __init__(
        self, clock: Clock, virtual: bool, replanner: Replanner, log: RunLog, ledger: Ledger
    ) -> None:
        self._clock: Clock = SystemClock() if virtual else clock
        self._virtual, self._replanner, self._log, self._ledger = virtual, replanner, log, ledger
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
        self._log.warn("nodes", why, "it samples from those there are")
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
            schedule = self._replanner.schedule
            finish_by = schedule.finish_by if schedule else needed_until
            raise PlanInfeasibleError("too few nodes are connected", at_least, there, finish_by)
        if there < wanted:
            self._in_vain_with = there
            fix = "those there are train; lower lowcarb-clients-per-round to wait for none"
            self._log.warn("nodes", f"{there} of {wanted} are connected", fix)

    def _say(self, number: int, there: int, wanted: int, at_least: int, until: datetime) -> None:
        """Say now and then for how many nodes is waited, and until when."""
        now, said = self._clock.now(), (number, there)
        if now < self._said_at + (_SAY_EVERY if said == self._said else _SAY_CHANGES):
            return
        self._said, self._said_at = said, now
        line = messages.nodes_awaited(there, wanted, at_least, until)
        logger.info("lowcarb: %s", line)
        if not self._virtual:  # here it is real time that passes
            self._ledger.append("nodes_awaited", round=number, until=until, reason=line)

    def _limits(self, number: int, is_first: bool) -> tuple[datetime, datetime]:
        """Return until when the nodes that are needed are waited for, and those that are wanted."""
        began, schedule = self._clock.now(), self._replanner.schedule
        needed_until, wanted_until = began + REGISTERING, began
        if is_first:
            wanted_until = began + REGISTERING
        latest = self._replanner.latest_opening(number)
        if not self._virtual and schedule and latest:
            needed_until = max(needed_until, latest)
            remaining = self._replanner.rounds_left(number) * schedule.round_duration
            patient_until = min(latest, schedule.target_finish - remaining)
            wanted_until = max(wanted_until, min(patient_until, began + schedule.round_duration))
        elif not self._virtual:
            needed_until = max(needed_until, self._replanner.provisional_deadline())
        return needed_until, wanted_until


def _count(grid: Grid) -> int:
    return len(list(grid.get_node_ids()))


# -- What reaches a run from outside: the signal to end, and an operator's wish that a held round may open --
# The wish is a file in the folder of the run that names the round, ``open-now.json``. The hold sees it within
# seconds and takes it away. A wish for another round is void: its hold was over before it was seen.

WISH_NAME: Final = "open-now.json"
_ENDING: Final = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def ending_in_order() -> Iterator[None]:
    """Turn a signal to end into SystemExit, so that the ledger is closed; then hand it on.

    After ``flwr stop`` Flower sends its ServerApp SIGINT and handles it itself: it cleans up where the code
    just is, and when that takes long ends the process without unwinding. Where SIGINT is KeyboardInterrupt,
    or one of the signals is ignored, nothing changes. Only the main thread handles signals. A second one
    meets the old handler at once.
    """
    before: dict[int, Any] = {number: signal.getsignal(number) for number in _ENDING}
    left_alone = (signal.SIG_IGN, signal.default_int_handler, None)
    handled = [number for number, handler in before.items() if handler not in left_alone]
    if threading.current_thread() is not threading.main_thread():
        handled = []
    came: list[int] = []

    def restore() -> None:
        for number in handled:
            signal.signal(number, before[number])

    def end(number: int, _frame: Any) -> None:
        came.append(number)
        restore()
        raise SystemExit(128 + number)  # what a shell reports for it

    for number in handled:
        signal.signal(number, end)
    try:
        yield
    finally:
        if came:
            if callable(before[came[0]]):
                signal.raise_signal(came[0])
        else:
            restore()


def wish_to_open(run_dir: Path, number: int) -> None:
    """Write down the wish that a round may open now; it is there whole or not at all.

    Raises
    ------
    InputError
        If the folder is not writable.
    """
    path, aside = run_dir / WISH_NAME, run_dir / f"{WISH_NAME}.new"
    try:
        aside.write_text(to_json({"round": number}) + "\n", encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        fix = "run this as the user that runs the ServerApp"
        raise InputError("RUN_DIR", f"{run_dir} is not writable ({error.strerror})", fix) from None


def pop_release_request(run_dir: Path, number: int) -> bool:
    """Return whether somebody wishes this round to open now, and take the wish away."""
    path = run_dir / WISH_NAME
    try:
        wish = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        wish = None  # not one of ours
    with suppress(OSError):
        path.unlink()
    return isinstance(wish, dict) and wish.get("round") == number


WAKE: Final = timedelta(seconds=60)  # at most, from one look at nodes and forecasts to the next
GLANCE: Final = timedelta(seconds=3)  # at most, from one look at what the operator asks to the next
_LOG_EVERY: Final = timedelta(minutes=15)


class Wait:
    """The hold of one round.

    Parameters
    ----------
    number, rounds : int
        The round, from 1, and how many there are.
    clock : Clock
        Tells the time and sleeps.
    replanner, feed
        The plan that stands, and what is known of intensity.
    ledger : Ledger
        Takes ``hold_started`` and ``open_now``.
    opens_by : datetime or None
        Until when it may last at most.
    is_open : bool
        Whether the round had opened before a restart: then nothing is waited for, as after a wish.
    """

    def __init__(
        self, number: int, rounds: int, clock: Clock, replanner: Replanner, feed: IntensityFeed,
        ledger: Ledger,
        opens_by: datetime | None, is_open: bool = False,
    ) -> None:  # fmt: skip
        self._number, self._rounds, self._clock = number, rounds, clock
        self._replanner, self._feed, self._ledger = replanner, feed, ledger
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
        opens_at = self._replanner.opens_at(self._number) or now
        if self._announced is None and self._gains_nothing(opens_at, now):
            self._is_open = True
        if self._is_open:
            return now
        if self._opens_by is None or opens_at <= self._opens_by:
            return opens_at
        if now >= self._opens_by:
            return now
        assert self._replanner.decision is not None  # it opens later
        plan = self._replanner.decision.plan
        if self._capped is None or self._capped[0] is not plan:
            index, known = self._replanner.index(self._number), self._feed.forecast
            self._capped = plan, cleanest_opening(plan, index, known, now, self._opens_by)
        return self._capped[1]

    def _gains_nothing(self, opens_at: datetime, now: datetime) -> bool:
        """Return whether a round that is ready a little sooner than planned is as clean now."""
        decision, length = self._replanner.decision, self._replanner.length
        if decision is None or not timedelta(0) < opens_at - now < length:
            return False
        plan, index, known = decision.plan, self._replanner.index(self._number), self._feed.forecast
        planned_g, at_once_g = (emissions_at(plan, index, known, when) for when in (opens_at, now))
        return planned_g is not None and at_once_g is not None and at_once_g <= planned_g

    def _is_let_go(self) -> bool:
        """Return whether an operator wishes the round to open now."""
        if not pop_release_request(self._ledger.run_dir, self._number):
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
            until = messages.instant(opens_at)
            logger.info("lowcarb: still holding round %d until %s (%s)", self._number, until, left)
            self._next_line = now + _LOG_EVERY

    def _announce(self, opens_at: datetime, now: datetime) -> None:
        """Say what is waited for, why, and what it saves."""
        assert self._replanner.decision is not None  # there is something to wait for
        plan, index = self._replanner.decision.plan, self._replanner.index(self._number)
        planned_g, at_once_g = (
            emissions_at(plan, index, self._feed.forecast, when) for when in (opens_at, now)
        )
        reason = messages.hold_reason(planned_g, at_once_g)
        if opens_at == self._opens_by or opens_at != self._replanner.opens_at(self._number):
            reason += "; it waits no longer than max-hold allows"
        seconds = opens_at - now
        self._ledger.append(
            "hold_started", round=self._number, until=opens_at, seconds=seconds, reason=reason,
            planned_g=planned_g, at_once_g=at_once_g,
        )  # fmt: skip
        logger.info(
            "lowcarb: holding round %d/%d until %s (%s): %s",
            self._number, self._rounds, messages.instant(opens_at), format_duration(seconds), reason,
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
