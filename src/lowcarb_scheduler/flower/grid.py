"""Grids and sampling by which any inner strategy trains exactly the planned nodes, each at its planned start.

Flower's strategies sample from ``grid.get_node_ids()`` with fractions and minimums of their own, and poll
without end while a minimum is not met. A scoped grid shows them the planned nodes only, pinned sampling makes
them take all of these, and a limit of polls turns the endless wait into an error.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from flwr.app import MessageType
from flwr.serverapp import Grid

from lowcarb_scheduler.clock import SteadyClock, VirtualClock, real_clock
from lowcarb_scheduler.errors import PlanMismatchError
from lowcarb_scheduler.flower.compat import PARTS, id_answered, id_of, push
from lowcarb_scheduler.scheduling.messages import instant

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
    from datetime import datetime

    from flwr.app import Message

    from lowcarb_scheduler.clock import Clock
    from lowcarb_scheduler.scheduling.messages import RunLog
    from lowcarb_scheduler.scheduling.recorder import Round, RunRecorder

logger = logging.getLogger("flwr")

_MAX_POLLS: Final = 20  # a strategy asks once or twice; one that waits asks each second
_POLL_S: Final = 3.0  # as Flower's own Grid


# -- Sampling ------------------------------------------------------------------------------------------------


def layers(strategy: Any) -> Iterator[Any]:
    """Yield a strategy and those it wraps, outermost first, each once."""
    seen: list[Any] = []
    # By identity: a strategy may define __eq__, and may wrap itself.
    while strategy is not None and not any(strategy is layer for layer in seen):
        seen.append(strategy)
        yield strategy
        strategy = getattr(strategy, "strategy", None)


class Sampling(NamedTuple):
    """Number of nodes that a strategy samples by itself.

    Parameters
    ----------
    fraction : float or None
        Fraction of the connected nodes; None for a strategy without this attribute.
    at_least : int
        Minimum number of nodes in a round.
    available : int
        Number of nodes to be connected before a round.
    """

    fraction: float | None = None
    at_least: int = 1
    available: int = 0

    @classmethod
    def of(cls, strategy: Any) -> Sampling:
        """Return the sampling of the innermost layer that has one, by the names of the new API or the old."""
        for names in (("fraction_train", "min_train_nodes", "min_available_nodes"),
                      ("fraction_fit", "min_fit_clients", "min_available_clients")):  # fmt: skip
            for layer in reversed([*layers(strategy)]):
                if hasattr(layer, names[0]):
                    fraction, at_least, available = (getattr(layer, name, None) for name in names)
                    return cls(fraction, 1 if at_least is None else at_least, available or 0)
        return cls()

    @property
    def is_off(self) -> bool:
        """True if the strategy trains no node."""
        return self.fraction == 0 and self.at_least == 0

    def size(self, connected: int, clients_per_round: int | None) -> tuple[int, int]:
        """Return the number of nodes to train, and the least number that has to be connected for that."""
        own = connected if self.fraction is None else int(connected * self.fraction)
        wanted = clients_per_round or max(own, self.at_least, 1)
        # What has to be available is a quorum: a bare strategy samples nobody while fewer are connected.
        return wanted, max(1, min(self.at_least, wanted), self.available)

    def evaluating(self, where: str, alive: Iterable[int], done: Collection[int]) -> list[int]:
        """Return the nodes of which the strategy may sample for evaluation, as the setting says.

        None where fewer are connected than the strategy wants to be available: a bare one would wait.
        """
        everybody = where in ("strategy", "all") or (where == "planned" and self.is_off)
        nodes = [node_id for node_id in alive if everybody or (where == "planned" and node_id in done)]
        return [] if where == "strategy" and len(nodes) < self.available else nodes


@contextmanager
def pinned_sampling(strategy: Any, phase: str, nodes: int) -> Iterator[None]:
    """Make a strategy, and those it wraps, sample all of the nodes it sees.

    Parameters
    ----------
    strategy : Strategy
        Inner strategy. Only attributes that it has are set, and they are restored on exit.
    phase : {"train", "evaluate"}
        Phase to pin.
    nodes : int
        Number of nodes that the strategy sees.
    """
    # Some strategies sample for evaluation with the numbers of training: all are pinned in both phases.
    pins = dict.fromkeys(_FRACTIONS, 1.0) | dict.fromkeys(_MINIMUMS, nodes)
    for layer in layers(strategy):
        if hasattr(layer, "num_sampled_clients") and phase == "train":
            # Not restored: wrappers for differential privacy scale their noise by it when they aggregate.
            layer.num_sampled_clients = nodes
    # A strategy with a fraction of 0 evaluates on no client, and stays so.
    with _lent(strategy, lambda name, own: own if name == "fraction_evaluate" and own == 0 else pins[name]):
        yield


@contextmanager
def evaluation_sampling(strategy: Any, where: str, nodes: int) -> Iterator[None]:
    """Make a strategy sample for evaluation as the setting says: by itself, or all of the nodes it sees."""
    if where != "strategy":
        with pinned_sampling(strategy, "evaluate", nodes):
            yield
        return
    # Minimums that cannot be met any more would let it wait without end.
    with _lent(strategy, lambda name, own: min(own, nodes) if name in _MINIMUMS and own else own):
        yield


# Of the new API, and of the old one.
_FRACTIONS: Final = ("fraction_train", "fraction_evaluate", "fraction_fit")
_MINIMUMS: Final = (
    "min_train_nodes", "min_evaluate_nodes", "min_available_nodes",
    "min_fit_clients", "min_evaluate_clients", "min_available_clients",
)  # fmt: skip


@contextmanager
def _lent(strategy: Any, value: Callable[[str, Any], Any]) -> Iterator[None]:
    """Set the sampling attributes that a strategy and those it wraps have, and restore them on exit."""
    saved: list[tuple[Any, str, Any]] = []
    try:
        for layer in layers(strategy):
            for name in (*_FRACTIONS, *_MINIMUMS):
                if not hasattr(layer, name):
                    continue
                own = getattr(layer, name)
                with suppress(AttributeError):  # a read-only property; check_addressed finds what it breaks
                    setattr(layer, name, value(name, own))
                    saved.append((layer, name, own))
        yield
    finally:
        for layer, name, own in saved:
            setattr(layer, name, own)


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


# -- Grids ---------------------------------------------------------------------------------------------------


class ForwardingGrid(Grid):
    """Grid that forwards every call to another one.

    Parameters
    ----------
    grid : Grid
        Target of the calls.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def get_node_ids(self) -> Iterable[int]:
        """Forward."""
        return self._grid.get_node_ids()

    def get_nodes(self) -> Iterable[Any]:
        """Forward."""
        return self._grid.get_nodes()

    def set_run(self, run: Any) -> None:
        """Forward."""
        self._grid.set_run(run)

    @property
    def run(self) -> Any:
        """Flower's record of the run."""
        return self._grid.run

    def create_message(self, *args: Any, **kwargs: Any) -> Any:
        """Forward."""
        return self._grid.create_message(*args, **kwargs)

    def push_messages(self, messages: Any) -> Iterable[str]:
        """Forward."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Any) -> Iterable[Any]:
        """Forward."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> Iterable[Any]:
        """Forward."""
        return self._grid.send_and_receive(messages, timeout=timeout)


class Polls:
    """Counter of the polls of a strategy for nodes.

    Parameters
    ----------
    strategy : str
        Name of the strategy.
    node_ids : sequence of int
        Nodes that it is shown.
    """

    def __init__(self, strategy: str, node_ids: Sequence[int]) -> None:
        self._strategy, self._node_ids, self._polls = strategy, node_ids, 0

    def count(self) -> None:
        """Count one poll.

        Raises
        ------
        PlanMismatchError
            If there were too many: the strategy waits for nodes that are not in the plan.
        """
        self._polls += 1
        if self._polls > _MAX_POLLS:
            fix = "it waits for more: raise lowcarb-clients-per-round or lower the strategy's minimum"
            raise PlanMismatchError(self._strategy, self._node_ids, (), fix)


class ScopedGrid(ForwardingGrid):
    """Grid that shows only some of the nodes, and raises PlanMismatchError if it is polled without end.

    Parameters
    ----------
    grid : Grid
        Grid with all nodes.
    node_ids : sequence of int
        Nodes to show.
    strategy : str
        Name of the strategy, for the error.
    """

    def __init__(self, grid: Grid, node_ids: Sequence[int], strategy: str) -> None:
        super().__init__(grid)
        self._node_ids, self._polls = list(node_ids), Polls(strategy, node_ids)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of the nodes in scope."""
        self._polls.count()
        return list(self._node_ids)

    def get_nodes(self) -> Iterable[Any]:
        """Return Flower's information about the nodes in scope."""
        self._polls.count()
        return [node for node in self._grid.get_nodes() if node.node_id in self._node_ids]


class DispatchGrid(ForwardingGrid):
    """Grid that sends each message of a round at the planned start of its node.

    Flower sends all messages of a round at once. Where a plan has different starts, this grid holds messages
    back, so that the time to live and the reply timeout of each begin when it is sent.

    Parameters
    ----------
    grid : Grid
        Grid that sends.
    clock : Clock
        Clock of the starts; a VirtualClock jumps to them.
    recorder : RunRecorder
        Recorder of the round that is open.
    log : RunLog
        Takes warnings of training on nodes that are not in the plan.
    """

    def __init__(self, grid: Grid, clock: Clock, recorder: RunRecorder, log: RunLog) -> None:
        super().__init__(grid)
        self._clock, self._recorder, self._log = clock, recorder, log

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send each message when its node is to start, and return the replies that came in time."""
        sent = list(messages)  # Flower iterates twice, which empties a generator
        opened = self._recorder.current
        training = [m for m in sent if m.metadata.message_type.split(".")[0] == MessageType.TRAIN]
        members = opened.members if opened else {}
        if unplanned := sum(message.metadata.dst_node_id not in members for message in training):
            fix = "they are not in the ledger; your own configure_train() must call super().configure_train()"
            self._log.warn("training", f"{unplanned} node(s) train that are not in the plan", fix)
        if opened is None or unplanned or not sent:
            return self._grid.send_and_receive(sent, timeout=timeout)
        windows = [window for _, window in members.values()]
        if timeout is None:  # replies are awaited as long as the messages live, after which none can come
            limit_s = max(message.metadata.ttl for message in sent)
        else:
            turn_s = max(end - start for start, end in windows).total_seconds()
            limit_s = PARTS.reply_limit_s(sent, timeout, turn_s)
        if training == sent and any(start > opened.opened_at for start, _ in windows):
            return _Dispatch(self._grid, self._clock, opened, timedelta(seconds=limit_s)).run(sent)
        return self._grid.send_and_receive(sent, timeout=limit_s)


class _Dispatch:
    """Staggered dispatch of the messages of one round.

    Parameters
    ----------
    grid : Grid
        Grid that sends.
    clock : Clock
        Clock of the starts; a VirtualClock jumps to them.
    opened : Round
        The round.
    limit : timedelta
        Reply timeout, from the start of a node.
    """

    def __init__(self, grid: Grid, clock: Clock, opened: Round, limit: timedelta) -> None:
        self._grid, self._round, self._limit = grid, opened, limit
        self._clock, self._wall = clock, real_clock(clock)  # for what is written down
        # Waits go on where the wall clock is set back; nodes work in real time, also where a clock jumps.
        self._is_virtual = isinstance(clock, VirtualClock)
        self._starts = SteadyClock(clock)
        self._passing = SteadyClock(self._wall) if self._is_virtual else self._starts
        self._pending: dict[str, tuple[int, datetime]] = {}  # by message id: node, deadline
        self._replies: list[Message] = []

    def run(self, messages: Sequence[Message]) -> list[Message]:
        """Send each message at its start, and return the replies that came in time."""
        waiting = sorted(messages, key=self._start)
        first, last = instant(self._start(waiting[0])), instant(self._start(waiting[-1]))
        number, poll = self._round.number, timedelta(seconds=getattr(self._grid, "pull_interval", _POLL_S))
        logger.info("lowcarb: round %d: %d clients start from %s to %s", number, len(waiting), first, last)
        while True:
            now = self._starts.now()
            due = [message for message in waiting if self._start(message) <= now]
            waiting = waiting[len(due) :]
            if due:
                self._send(due)
                logger.info(
                    "lowcarb: round %d: %d client(s) start now, %d later", number, len(due), len(waiting)
                )
            self._collect()
            if not waiting and not self._pending:
                return self._replies
            if waiting and self._is_virtual:
                self._starts.sleep_until(self._start(waiting[0]))
                continue
            wake = self._passing.now() + poll
            self._passing.sleep_until(min(wake, self._start(waiting[0])) if waiting else wake)

    def _start(self, message: Message) -> datetime:
        _, (start, _) = self._round.members[message.metadata.dst_node_id]
        return start

    def _send(self, due: Sequence[Message]) -> None:
        """Send messages to the nodes that are still connected; others have missed their turn.

        A message to a node that has gone would come back as an error reply, for which Flower's wrappers for
        differential privacy drop the whole round.
        """
        connected = set(self._grid.get_node_ids())
        to_send = [message for message in due if message.metadata.dst_node_id in connected]
        for message in to_send:
            message.metadata.created_at = self._wall.now().timestamp()  # its time to live begins now
        # A grid that pushes fewer messages returns fewer ids; nobody waits for the rest.
        pushed = push(self._grid, to_send) if to_send else set()
        deadline, now = self._passing.now() + self._limit, self._clock.now()
        for message in due:
            node_id, message_id = message.metadata.dst_node_id, id_of(message)
            if node_id not in connected:
                self._round.unsent[node_id] = "the node had left when its turn came"
            elif message_id not in pushed:
                self._round.unsent[node_id] = "its message could not be sent"
            else:
                self._round.started[node_id] = now
                self._pending[message_id] = (node_id, deadline)

    def _collect(self) -> None:
        """Take the replies that have come, and give up those that are overdue."""
        if not self._pending:
            return
        for reply in self._grid.pull_messages(list(self._pending)):
            answered: Any = self._pending.pop(id_answered(reply), None)
            if answered is not None:
                self._replies.append(reply)
                self._round.ended[answered[0]] = self._clock.now()
        now = self._passing.now()
        self._pending = {key: entry for key, entry in self._pending.items() if now < entry[1]}
