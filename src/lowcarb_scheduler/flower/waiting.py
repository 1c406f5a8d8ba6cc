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

from lowcarb_scheduler.clock import EPOCH, SteadyClock, VirtualClock
from lowcarb_scheduler.documents import to_json
from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.events import NodesAwaited
from lowcarb_scheduler.scheduling import messages
from lowcarb_scheduler.scheduling.schedule import NodeLimits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime
    from pathlib import Path

    from flwr.serverapp import Grid

    from lowcarb_scheduler.clock import Clock
    from lowcarb_scheduler.scheduling.messages import RunLog

    Size = Callable[[int], tuple[int, int]]  # nodes wanted and nodes needed, of the number connected

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
        steady = SteadyClock(self._clock)
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


# -- Nodes that are still to connect ------------------------------------------------------------------------

REGISTERING: Final = timedelta(seconds=60)  # time that nodes take which start together with the run
_IN_SIMULATION: Final = 5  # all nodes start on one machine, which may have other work
ANSWERING_SIMULATED: Final = _IN_SIMULATION * REGISTERING  # time for the first answers of simulated nodes
_POLL: Final = timedelta(seconds=2)
_LOG_CHANGES: Final = timedelta(minutes=1)  # shortest time between two lines about new numbers of nodes
_LOG_EVERY: Final = timedelta(minutes=15)  # the same, where nothing changes


class NodeWait:
    """Wait for nodes to connect and to tell who they are: never without end, and in the open.

    Parameters
    ----------
    clock : Clock
        Clock of the nodes, in real time: a virtual clock must not jump while they register.
    is_virtual : bool
        Whether the run's own clock is virtual. Time of the run is then no limit.
    registering : timedelta
        Time that nodes are given to connect at the start of a run.
    log : RunLog
        Takes ``nodes_awaited``, and warnings of nodes that did not connect.
    """

    def __init__(self, clock: Clock, is_virtual: bool, registering: timedelta, log: RunLog) -> None:
        self._wall, self._clock, self._is_virtual = clock, SteadyClock(clock), is_virtual
        self._registering, self._log = registering, log
        self._short: tuple[int, datetime] | None = None  # nodes connected while some are missing, and since
        self._logged: tuple[int, int] | None = None  # round and number of nodes of the last line
        self._logged_at = EPOCH

    def polls(self, longest: timedelta | None = None) -> Iterator[None]:
        """Yield at every look at nodes, the last time when that takes too long: as long as registering."""
        until = self._clock.now() + (self._registering if longest is None else longest)
        while self._clock.now() < until:
            yield
            self._clock.sleep_until(min(until, self._clock.now() + _POLL))
        yield

    def for_answers(self, number: int, spare: timedelta, look: Callable[[], tuple[int, int]]) -> None:
        """Wait for the answers of new nodes, at most half of the time that can be spared.

        Parameters
        ----------
        number : int
            The round.
        spare : timedelta
            Time by which the round may open later; on a virtual clock it does not count.
        look : callable
            Takes the answers that have come, and returns the number of nodes whose answer is still awaited,
            and of all nodes.
        """
        longest = min(self._registering, spare / 2)
        if self._is_virtual:
            longest = _IN_SIMULATION * self._registering
        until = self._clock.now() + longest
        for _ in self.polls(longest):
            awaited, nodes = look()
            if not awaited:
                return
            line = messages.answers_awaited(nodes - awaited, nodes, self._on_wall(until))
            self._report(number, nodes - awaited, line, until)
        if longest > timedelta(0):
            why = f"{awaited} of {nodes} have not answered the profile query"
            self._log.warn("nodes", why, "they are planned with defaults until they answer")

    def for_enough(self, number: int, grid: Grid, size: Size, limits: NodeLimits, is_first: bool) -> int:
        """Wait for nodes that a round needs, and for those that it only wants.

        Parameters
        ----------
        number : int
            The round.
        grid : Grid
            The nodes.
        size : callable
            Returns how many nodes are wanted and how many are needed, of the number connected.
        limits : NodeLimits
            Time to wait for either; on a virtual clock it does not count.
        is_first : bool
            Whether nodes may still be registering.

        Returns
        -------
        int
            Number of nodes connected.
        """
        began = self._clock.now()
        while True:
            alive = _count(grid)
            until = self._until(alive, size, limits, began, is_first)
            if (now := self._clock.now()) >= until:
                break
            wanted, needed = size(alive)
            line = messages.nodes_awaited(alive, max(wanted, needed), needed, self._on_wall(until))
            self._report(number, alive, line, until)
            self._clock.sleep_until(min(until, now + _POLL))
        self._give_up(alive, *size(alive))
        return alive

    def is_due(self, alive: int, size: Size, limits: NodeLimits) -> bool:
        """Return whether a round should wait for nodes, now that it could open but for them."""
        now, (wanted, needed) = self._clock.now(), size(alive)
        is_due = self._until(alive, size, limits, now, is_first=False) > now or alive < needed
        if not is_due:
            self._give_up(alive, wanted, needed)
        return is_due

    def _give_up(self, alive: int, wanted: int, needed: int) -> None:
        """Warn of nodes that are only wanted and have not come; they are not waited for again."""
        if needed <= alive < wanted:
            self._short = alive, EPOCH
            fix = "the connected nodes train; lower lowcarb-clients-per-round to avoid the wait"
            self._log.warn("nodes", f"{alive} of {wanted} are connected", fix)

    def note(self, alive: int, wanted: int) -> None:
        """Note how many nodes are connected: the time since one has been missing counts as a wait for it."""
        if alive >= wanted:
            self._short = None
        elif self._short is None or alive < self._short[0]:
            self._short = alive, self._clock.now()

    def _until(self, alive: int, size: Size, limits: NodeLimits, began: datetime, is_first: bool) -> datetime:
        """Return the end of a wait that began at some time, with as many nodes as are connected now."""
        wanted, needed = size(alive)
        self.note(alive, wanted)
        if self._is_virtual:  # the run's time does not pass while real nodes register
            limits = NodeLimits(timedelta(0), timedelta(0), timedelta(0))
        if alive < needed:
            return began + max(limits.needed, self._registering)
        if self._short is None:
            return began
        until = min(began + limits.wanted, self._short[1] + limits.missing)
        return max(until, began + self._registering) if is_first else until

    def _on_wall(self, when: datetime) -> datetime:
        """Return a time of the steady clock as the wall clock shows it."""
        return self._wall.now() + (when - self._clock.now())

    def _report(self, number: int, alive: int, line: str, until: datetime) -> None:
        """Report now and then the nodes that are waited for, and until when."""
        now, is_new = self._clock.now(), (number, alive) != self._logged
        if now < self._logged_at + (_LOG_CHANGES if is_new else _LOG_EVERY):
            return
        self._logged, self._logged_at = (number, alive), now
        if self._is_virtual:  # the ledger is in virtual time, and here it is real time that passes
            self._log.info(line)
        else:
            self._log.report(line, NodesAwaited(round=number, until=self._on_wall(until), reason=line))


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
