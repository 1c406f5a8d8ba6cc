"""What makes any inner strategy train exactly the planned nodes.

Flower's strategies sample from ``grid.get_node_ids()`` with fractions and minimums of their own, and wait
without end for a minimum that is not there. A scoped grid shows them the planned nodes only, pinned sampling
makes them take all of these, and a count of polls turns the endless wait into an error.
"""

from __future__ import annotations

import inspect
import logging
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from flwr.app import DEFAULT_TTL, MessageType
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from lowcarb_scheduler.clock import SystemClock, VirtualClock
from lowcarb_scheduler.errors import PlanMismatchError
from lowcarb_scheduler.scheduling.messages import instant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from datetime import datetime

    from flwr.app import Message

    from lowcarb_scheduler.clock import Clock
    from lowcarb_scheduler.scheduling.recorder import Round

_MOST_POLLS: Final = 20  # a strategy asks once or twice; one that waits asks each second


class GridBefore(Grid):
    """A Grid that stands before another one and passes everything on.

    Parameters
    ----------
    grid : Grid
        Does the work.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def get_node_ids(self) -> Iterable[int]:
        """Pass on."""
        return self._grid.get_node_ids()

    def get_nodes(self) -> Iterable[Any]:
        """Pass on."""
        return self._grid.get_nodes()

    def set_run(self, run: Any) -> None:
        """Pass on."""
        self._grid.set_run(run)

    @property
    def run(self) -> Any:
        """The run of the grid behind."""
        return self._grid.run

    def create_message(self, *args: Any, **kwargs: Any) -> Any:
        """Pass on."""
        return self._grid.create_message(*args, **kwargs)

    def push_messages(self, messages: Any) -> Iterable[str]:
        """Pass on."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Any) -> Iterable[Any]:
        """Pass on."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> Iterable[Any]:
        """Pass on."""
        return self._grid.send_and_receive(messages, timeout=timeout)


class Polls:
    """Counts how often a strategy asks who is there, and ends a wait that would have no end.

    Parameters
    ----------
    strategy : str
        Who asks.
    node_ids : sequence of int
        The nodes it is shown.
    """

    def __init__(self, strategy: str, node_ids: Sequence[int]) -> None:
        self._strategy, self._node_ids = strategy, node_ids
        self._polls = 0

    def count(self) -> None:
        """Count one more.

        Raises
        ------
        PlanMismatchError
            If there were too many: the strategy waits for nodes that are not in the plan.
        """
        self._polls += 1
        if self._polls > _MOST_POLLS:
            fix = "it waits for more: raise lowcarb-clients-per-round or lower the strategy's minimum"
            raise PlanMismatchError(self._strategy, self._node_ids, (), fix)


class ScopedGrid(GridBefore):
    """A Grid that shows only some of its nodes.

    Parameters
    ----------
    grid : Grid
        Does the work.
    node_ids : sequence of int
        The nodes to show.
    strategy : str
        Who looks, for the error.
    """

    def __init__(self, grid: Grid, node_ids: Sequence[int], strategy: str) -> None:
        super().__init__(grid)
        self._node_ids, self._polls = list(node_ids), Polls(strategy, node_ids)

    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes in scope.

        Raises
        ------
        PlanMismatchError
            If it is asked again and again: the strategy waits for nodes that are not in the plan.
        """
        self._polls.count()
        return list(self._node_ids)

    def get_nodes(self) -> Iterable[Any]:
        """Return what is known of the nodes in scope; it raises like :meth:`get_node_ids`."""
        self._polls.count()
        scope = set(self._node_ids)
        return [node for node in self._grid.get_nodes() if node.node_id in scope]


@contextmanager
def pinned_sampling(strategy: Any, phase: str, nodes: int) -> Iterator[None]:
    """Make a strategy, and those it wraps, sample all of the nodes it sees.

    Parameters
    ----------
    strategy : Strategy
        Any; only attributes that exist are touched, and restored on exit. ``num_sampled_clients`` of the
        differential-privacy wrappers stays: their noise is computed from it when they aggregate.
    phase : {"train", "evaluate"}
        Which sampling to pin. A fraction of 0 evaluates nowhere, and stays.
    nodes : int
        How many there are.
    """
    # Some strategies sample for evaluation with the numbers of training: all are pinned in both phases.
    pins = {
        "fraction_train": 1.0, "fraction_evaluate": 1.0,
        "min_train_nodes": nodes, "min_evaluate_nodes": nodes, "min_available_nodes": nodes,
        # of the old API
        "fraction_fit": 1.0, "min_fit_clients": nodes, "min_evaluate_clients": nodes,
        "min_available_clients": nodes,
    }  # fmt: skip
    saved: list[tuple[Any, str, Any]] = []
    try:
        for layer in layers(strategy):
            if hasattr(layer, "num_sampled_clients") and phase == "train":
                layer.num_sampled_clients = nodes
            nowhere = getattr(layer, "fraction_evaluate", None) == 0
            for name, value in pins.items():
                if hasattr(layer, name) and not (name == "fraction_evaluate" and nowhere):
                    before = getattr(layer, name)
                    with suppress(AttributeError):  # a property; what it makes of the nodes is checked after
                        setattr(layer, name, value)
                        saved.append((layer, name, before))
        yield
    finally:
        for layer, name, value in saved:
            setattr(layer, name, value)


def check_addressed(strategy: str, planned: Sequence[int], addressed: Sequence[int]) -> None:
    """Check that a strategy sends each planned node one message, and no other node any.

    Raises
    ------
    PlanMismatchError
        If it does not.
    """
    if sorted(addressed) == sorted(planned):
        return
    if 0 < len(addressed) < len(planned):
        fix = f"if it trains no more at a time, lowcarb-clients-per-round = {len(addressed)}"
    else:
        fix = "it has to send one message to each node of the grid that it is given"
    raise PlanMismatchError(strategy, sorted(planned), sorted(addressed), fix)


class Sampling(NamedTuple):
    """How a strategy samples the nodes of a round by itself.

    Parameters
    ----------
    fraction : float or None
        Of the nodes that are there; None for a strategy that does not tell.
    at_least : int
        With fewer it is not content.
    available : int
        So many are to be there when it samples.
    """

    fraction: float | None = None
    at_least: int = 1
    available: int = 0

    @classmethod
    def of(cls, strategy: Any) -> Sampling:
        """Return how the innermost layer samples that does, by the names of the new API or of the old one."""
        for names in (("fraction_train", "min_train_nodes", "min_available_nodes"),
                      ("fraction_fit", "min_fit_clients", "min_available_clients")):  # fmt: skip
            for layer in reversed([*layers(strategy)]):
                if hasattr(layer, names[0]):
                    fraction, at_least, available = (getattr(layer, name, None) for name in names)
                    return cls(fraction, 1 if at_least is None else at_least, available or 0)
        return cls()

    @property
    def is_off(self) -> bool:
        """Whether it trains nobody."""
        return self.fraction == 0 and self.at_least == 0

    def size(self, there: int, told: int | None) -> tuple[int, int]:
        """Return how many are to train, as told or as it would, and with how many it is content."""
        own = there if self.fraction is None else int(there * self.fraction)
        wanted = told or max(own, self.at_least, 1)
        return wanted, max(1, min(self.at_least, wanted))


def layers(strategy: Any) -> Iterator[Any]:
    """Yield a strategy and those it wraps, outermost first, each once."""
    seen: list[Any] = []
    while strategy is not None and not any(strategy is layer for layer in seen):
        seen.append(strategy)
        yield strategy
        strategy = getattr(strategy, "strategy", None)


# -- Dispatch: every message of a round goes out when the plan says, and no wait for replies is endless -----
# Flower sends all messages of a round at once. Where a plan lets clients start at different times, the Grid
# in front of the strategy's own one holds each message back until its client's start, and gives it a fresh
# time to live and a full reply timeout of its own then.

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
            instant(self._start(waiting[0])), instant(self._start(waiting[-1])),
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
