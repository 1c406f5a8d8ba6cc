"""Dispatch: every message of a round goes out when the plan says, and no wait for replies is endless.

Flower sends all messages of a round at once. Where a plan lets clients start at different times, the Grid in
front of the strategy's own one holds each message back until its client's start, and gives it a fresh time
to live and a full reply timeout of its own then.
"""

from __future__ import annotations

import inspect
import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from flwr.app import DEFAULT_TTL, MessageType
from flwr.serverapp.strategy import Strategy

from lowcarb_scheduler.clock import SystemClock, VirtualClock
from lowcarb_scheduler.flower import wording
from lowcarb_scheduler.flower.grid import GridBefore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from flwr.app import Message
    from flwr.serverapp import Grid

    from lowcarb_scheduler.clock import Clock
    from lowcarb_scheduler.flower.books import Round

logger = logging.getLogger("flwr")

_POLL_S: Final = 3.0  # as Flower's own Grid does
_DEFAULT_TIMEOUT_S: Final = float(inspect.signature(Strategy.start).parameters["timeout"].default)
_MARGIN_S: Final = 60.0  # of the time to live over the reply timeout


class DispatchGrid(GridBefore):
    """A Grid that sends the messages of a round as it is planned.

    Parameters
    ----------
    grid : Grid
        Does the work.
    clock : Clock
        Tells when a client may start; a VirtualClock jumps there.
    current : callable
        Returns the round that is open, None between rounds.
    note : callable
        Takes a line about nodes that train although no round has been planned for them.
    """

    def __init__(
        self, grid: Grid, clock: Clock, current: Callable[[], Round | None], note: Callable[[str], None]
    ) -> None:
        super().__init__(grid)
        self._clock, self._current, self._note = clock, current, note

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send each message when its client is to start, and return the replies that came in time."""
        sent, opened = list(messages), self._current()
        training = [m for m in sent if m.metadata.message_type.split(".")[0] == MessageType.TRAIN]
        members = opened.members if opened else {}
        unplanned = sum(message.metadata.dst_node_id not in members for message in training)
        if unplanned:
            self._note(f"{unplanned} node(s) train that are not planned to")
        if opened is None or unplanned or not sent:
            return self._grid.send_and_receive(sent, timeout=timeout)
        windows = [window for _, window in opened.members.values()]
        limit_s = _limit_s(sent, timeout, max(end - start for start, end in windows).total_seconds())
        if training == sent and any(start > opened.opened_at for start, _ in windows):
            return _Dispatch(self._grid, self._clock, opened, limit_s).run(sent)
        return self._grid.send_and_receive(sent, timeout=limit_s)


def _limit_s(messages: Sequence[Message], timeout: float | None, turn_s: float) -> float:
    """Return how long to wait for a reply [s], and let the messages live as long.

    Flower's default of an hour is lengthened for rounds that are planned longer; no limit at all becomes the
    messages' time to live, after which no reply can come.
    """
    if timeout is None:
        return max(message.metadata.ttl for message in messages)
    limit_s = max(timeout, 2 * turn_s) if timeout == _DEFAULT_TIMEOUT_S else timeout
    for message in messages:
        if message.metadata.ttl == DEFAULT_TTL:
            message.metadata.ttl = max(float(DEFAULT_TTL), limit_s + _MARGIN_S)
    return limit_s


class _Dispatch:
    """The messages of one round: those that wait for their start, and those that wait for their reply."""

    def __init__(self, grid: Grid, clock: Clock, opened: Round, limit_s: float) -> None:
        self._grid, self._clock, self._round = grid, clock, opened
        self._limit = timedelta(seconds=limit_s)
        self._virtual = isinstance(clock, VirtualClock)
        # Nodes work in real time, also where the clock jumps.
        self._wall: Clock = SystemClock() if self._virtual else clock
        self._poll = timedelta(seconds=getattr(grid, "pull_interval", _POLL_S))
        self._open: dict[str, tuple[int, datetime]] = {}  # message id -> node id, until when a reply counts
        self._replies: list[Message] = []

    def run(self, messages: Sequence[Message]) -> list[Message]:
        """Send each message at its start, and return the replies that came in time."""
        waiting = sorted(messages, key=self._start)
        logger.info(
            "lowcarb: round %d: %d clients start from %s to %s", self._round.number, len(waiting),
            wording.instant(self._start(waiting[0])), wording.instant(self._start(waiting[-1])),
        )  # fmt: skip
        while True:
            now = self._clock.now()
            due = [message for message in waiting if self._start(message) <= now]
            waiting = waiting[len(due) :]
            if due:
                self._send(due, now)
                line = "lowcarb: round %d: %d client(s) start now, %d later"
                logger.info(line, self._round.number, len(due), len(waiting))
            self._collect()
            if not waiting and not self._open:
                return self._replies
            if waiting and self._virtual:
                self._clock.sleep_until(self._start(waiting[0]))
                continue
            wake = self._wall.now() + self._poll
            self._wall.sleep_until(min(wake, self._start(waiting[0])) if waiting else wake)

    def _start(self, message: Message) -> datetime:
        _, (start, _) = self._round.members[message.metadata.dst_node_id]
        return start

    def _send(self, due: Sequence[Message], now: datetime) -> None:
        """Send messages to the nodes that are still there; the others have missed their turn."""
        alive = set(self._grid.get_node_ids())
        there = [message for message in due if message.metadata.dst_node_id in alive]
        for message in there:
            message.metadata.created_at = self._wall.now().timestamp()  # its time to live begins now
        pushed = set(self._grid.push_messages(there)) if there else set()
        until = self._wall.now() + self._limit
        for message in due:
            node_id, message_id = message.metadata.dst_node_id, message.metadata.message_id
            if node_id not in alive:
                self._round.unsent[node_id] = "it was gone when its turn came"
            elif message_id not in pushed:
                self._round.unsent[node_id] = "its message could not be sent"
            else:
                self._round.started[node_id] = now
                self._open[message_id] = (node_id, until)

    def _collect(self) -> None:
        """Take the replies that are there, and give up those that are overdue."""
        if not self._open:
            return
        for reply in self._grid.pull_messages(list(self._open)):
            answered: Any = self._open.pop(reply.metadata.reply_to_message_id, None)
            if answered is not None:
                self._replies.append(reply)
                self._round.ended[answered[0]] = self._clock.now()
        now = self._wall.now()
        self._open = {key: entry for key, entry in self._open.items() if now < entry[1]}
