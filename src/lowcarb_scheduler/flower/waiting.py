"""Waiting: the wake-ups of a hold, nodes that are still to connect, release requests and signals.

A round is held before its messages are built, so that their time to live and the reply timeout begin when it
opens.
"""

from __future__ import annotations

import json
import signal
import threading
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from lowcarb_scheduler.clock import EPOCH, SystemClock, VirtualClock
from lowcarb_scheduler.documents import to_json
from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.events import NodesAwaited
from lowcarb_scheduler.scheduling import messages

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

    from flwr.serverapp import Grid

    from lowcarb_scheduler.clock import Clock
    from lowcarb_scheduler.scheduling.messages import RunLog

# -- Hold ---------------------------------------------------------------------------------------------------

WAKE: Final = timedelta(seconds=60)  # longest time between two wake-ups
GLANCE: Final = timedelta(seconds=3)  # longest time between two looks for a release request


class Wait:
    """Wait for one round, in a loop of wake-ups whose body moves the end of it.

    ::

        wait = Wait(clock, run_dir, number)
        for is_released in wait.wakes():
            wait.until = ...  # the opening as it is planned by now

    Parameters
    ----------
    clock : Clock
        Tells the time and sleeps.
    run_dir : Path
        Folder of the run, where a release request appears.
    number : int
        The round.

    Attributes
    ----------
    until : datetime
        End of the wait; at first now.
    """

    def __init__(self, clock: Clock, run_dir: Path, number: int) -> None:
        self._clock, self._run_dir, self._number = clock, run_dir, number
        self.until = clock.now()

    def wakes(self) -> Iterator[bool]:
        """Yield at once, then at least once a minute, and once more at the end of the wait.

        Yields
        ------
        bool
            Whether an operator's request to release the round ended the sleep.
        """
        steady = _SteadyClock(self._clock)
        # A virtual clock jumps through a sleep: nobody can request anything meanwhile.
        glance = WAKE if isinstance(self._clock, VirtualClock) else GLANCE
        is_released = False
        while True:
            yield is_released
            if (now := steady.now()) >= self.until:
                return
            wake, is_released = min(self.until, now + WAKE), False
            while now < wake and not (is_released := glance < WAKE and self._is_requested()):
                steady.sleep_until(min(wake, now + glance))
                now = steady.now()

    def _is_requested(self) -> bool:
        return pop_release_request(self._run_dir, self._number)


class _SteadyClock:
    """Time of a clock that goes on where the clock is set back.

    A clock promises that a sleep lasts no longer than asked for. If it shows an earlier time after a sleep,
    it was set back meanwhile, and a hold must not be longer for it.
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


# -- Nodes that are still to connect ------------------------------------------------------------------------

REGISTERING: Final = timedelta(seconds=60)  # time that nodes take which start together with the run
_POLL: Final = timedelta(seconds=2)
_LOG_CHANGES: Final = timedelta(minutes=1)  # shortest time between two lines about new numbers of nodes
_LOG_EVERY: Final = timedelta(minutes=15)  # the same, where nothing changes


class NodeWait:
    """Wait for nodes to connect: never without end, and in the open.

    Parameters
    ----------
    clock : Clock
        The run's. Where it is virtual, real time passes instead: it must not jump while nodes register.
    registering : timedelta
        Time that nodes are given to connect at the start of a run.
    log : RunLog
        Takes ``nodes_awaited``, and warnings of nodes that did not connect.
    """

    def __init__(self, clock: Clock, registering: timedelta, log: RunLog) -> None:
        self._is_virtual = isinstance(clock, VirtualClock)
        self._clock: Clock = SystemClock() if self._is_virtual else clock
        self._registering, self._log = registering, log
        self._in_vain_with = 0  # number of nodes with which more were waited for in vain
        self._logged: tuple[int, int] | None = None  # round and number of nodes of the last line
        self._logged_at = EPOCH

    def polls(self) -> Iterator[None]:
        """Yield at every look at nodes that are still registering, the last time when that takes too long."""
        until = self._clock.now() + self._registering
        while self._clock.now() < until:
            yield
            self._clock.sleep_until(min(until, self._clock.now() + _POLL))
        yield

    def for_available(self, number: int, grid: Grid, wanted: int, is_first: bool) -> int:
        """Wait before the first round for nodes that a strategy wants to be available when it samples.

        Returns
        -------
        int
            Number of nodes connected.
        """
        until = self._clock.now() + self._registering
        for _ in self.polls() if is_first else (None,):
            if (alive := _count(grid)) >= wanted:
                return alive
            if is_first:
                self._report(number, alive, wanted, alive, until)
        why = f"{alive} of {wanted} that the strategy wants to be available are connected"
        self._log.warn("nodes", why, "it samples from those that are")
        return alive

    def for_enough(
        self, number: int, grid: Grid, wanted: int, at_least: int, is_first: bool,
        limits: tuple[datetime, datetime],
    ) -> int:  # fmt: skip
        """Wait for nodes that a round needs until one time, for those it only wants until another.

        Nodes that are only wanted are not waited for again where that was in vain with as many connected.

        Parameters
        ----------
        number : int
            The round.
        grid : Grid
            The nodes.
        wanted, at_least : int
            Number of nodes that are to train, and the smallest number that may.
        is_first : bool
            Whether nodes may still be registering.
        limits : (datetime, datetime)
            The two times; in real time, where the clock is virtual, they do not count.

        Returns
        -------
        int
            Number of nodes connected.
        """
        began = self._clock.now()
        needed_until, wanted_until = (began, began) if self._is_virtual else limits
        needed_until = max(needed_until, began + self._registering)
        wanted_until = max(wanted_until, began + self._registering if is_first else began)
        while (alive := _count(grid)) < wanted:
            is_enough = alive >= at_least
            limit = wanted_until if is_enough else needed_until
            if self._clock.now() >= limit or (is_enough and alive == self._in_vain_with):
                break
            self._report(number, alive, wanted, at_least, limit)
            self._clock.sleep_until(min(limit, self._clock.now() + _POLL))
        if at_least <= alive < wanted:
            self._in_vain_with = alive
            fix = "those that are train; lower lowcarb-clients-per-round to wait for none"
            self._log.warn("nodes", f"{alive} of {wanted} are connected", fix)
        return alive

    def _report(self, number: int, alive: int, wanted: int, at_least: int, until: datetime) -> None:
        """Report now and then the nodes that are waited for, and until when."""
        now, line = self._clock.now(), messages.nodes_awaited(alive, wanted, at_least, until)
        is_new = (number, alive) != self._logged
        if now < self._logged_at + (_LOG_CHANGES if is_new else _LOG_EVERY):
            return
        self._logged, self._logged_at = (number, alive), now
        if self._is_virtual:  # the ledger is in virtual time, and here it is real time that passes
            self._log.info(line)
        else:
            self._log.report(line, NodesAwaited(round=number, until=until, reason=line))


def _count(grid: Grid) -> int:
    return len(list(grid.get_node_ids()))


# -- Release requests and signals ---------------------------------------------------------------------------
# A release request is a file in the folder of the run that names the round. The hold sees it within seconds
# and removes it. A request for another round is void: the hold of that round ended before it was seen.

REQUEST_FILE: Final = "open-now.json"  # runs and commands of different versions share it
_ENDING: Final = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def ending_in_order() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into SystemExit, so that the ledger is closed; then pass the signal on.

    After ``flwr stop`` Flower sends its ServerApp SIGINT and handles it itself: it cleans up in the middle of
    the running code, and where that takes long ends the process without unwinding. Where SIGINT is
    KeyboardInterrupt, or a signal is ignored, nothing changes. Only the main thread handles signals. A second
    signal goes to the old handler at once.
    """
    before: dict[int, Any] = {number: signal.getsignal(number) for number in _ENDING}
    left_alone = (signal.SIG_IGN, signal.default_int_handler, None)
    handled = [number for number, handler in before.items() if handler not in left_alone]
    if threading.current_thread() is not threading.main_thread():
        handled = []
    received: list[int] = []

    def restore() -> None:
        for number in handled:
            signal.signal(number, before[number])

    def end(number: int, _frame: Any) -> None:
        received.append(number)
        restore()
        raise SystemExit(128 + number)  # the exit code that a shell reports for it

    for number in handled:
        signal.signal(number, end)
    try:
        yield
    finally:
        if received:
            if callable(before[received[0]]):
                signal.raise_signal(received[0])
        else:
            restore()


def request_release(run_dir: Path, number: int) -> None:
    """Request that a held round opens now.

    Raises
    ------
    InputError
        If the folder is not writable.
    """
    path, aside = run_dir / REQUEST_FILE, run_dir / f"{REQUEST_FILE}.new"
    try:  # renamed into place: a hold never reads half a request
        aside.write_text(to_json({"round": number}) + "\n", encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        fix = "run this as the user that runs the ServerApp"
        raise InputError("RUN_DIR", f"{run_dir} is not writable ({error.strerror})", fix) from None


def pop_release_request(run_dir: Path, number: int) -> bool:
    """Return whether a request to open this round now is there, and remove it."""
    path = run_dir / REQUEST_FILE
    try:
        request = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        request = None  # not written by lowcarb
    with suppress(OSError):
        path.unlink()
    return isinstance(request, dict) and request.get("round") == number
