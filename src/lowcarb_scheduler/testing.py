"""Test kit: a Grid that runs a ClientApp in this process, and the virtual clock.

Examples
--------
>>> grid = InMemoryGrid(app, [{"partition-id": 0, "location": "DE"}])  # doctest: +SKIP
>>> strategy = carbon_aware(FedAvg(), clock=VirtualClock(start), ...)  # doctest: +SKIP
>>> strategy.start(grid, arrays, num_rounds=3)  # doctest: +SKIP
"""

from __future__ import annotations

from copy import copy
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

from flwr.app import Context, Error, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from lowcarb_scheduler.clock import VirtualClock
from lowcarb_scheduler.flower.compat import KIT, stamp

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from flwr.clientapp import ClientApp

__all__ = ["InMemoryGrid", "VirtualClock"]

_FIRST_NODE_ID = 101  # no small number: 1 is the SuperLink in error replies


class InMemoryGrid(Grid):
    """Grid whose nodes are calls of a ClientApp.

    Parameters
    ----------
    app : ClientApp
        App of every node.
    node_configs : sequence of mapping
        ``node_config`` of each node.
    run_config : mapping, optional
        ``run_config`` of the ClientApp.

    Attributes
    ----------
    sent : list of Message
        All messages that were pushed, in order.
    registering : timedelta
        Time that a run gives nodes to connect; none, because they are connected from the start.
    """

    registering = timedelta(0)

    def __init__(
        self,
        app: ClientApp,
        node_configs: Sequence[Mapping[str, Any]],
        run_config: Mapping[str, Any] | None = None,
    ) -> None:
        KIT.identify(lambda: Message(RecordDict(), _FIRST_NODE_ID, MessageType.QUERY))
        self._app, self._run_config = app, dict(run_config or {})
        self._contexts: dict[int, Context] = {}
        self._registered: dict[int, Any] = {}
        self._dead: set[int] = set()
        self._replies: dict[str, Message] = {}
        self.sent: list[Message] = []
        for config in node_configs:
            self.join(config)

    def join(self, node_config: Mapping[str, Any], name: str = "", location: str = "") -> int:
        """Connect another node and return its id.

        Parameters
        ----------
        node_config : mapping
            ``node_config`` of the node.
        name, location : str
            Registration at the SuperLink, as with ``flwr supernode register``.
        """
        node_id = _FIRST_NODE_ID + len(self._contexts)
        self._contexts[node_id] = Context(1, node_id, dict(node_config), RecordDict(), self._run_config)
        self._registered[node_id] = KIT.node_info(node_id=node_id, name=name, location=location)
        return node_id

    def kill(self, node_id: int) -> None:
        """Disconnect a node; messages to it get an error reply without its id."""
        self._dead.add(node_id)

    def revive(self, node_id: int) -> None:
        """Connect a disconnected node again."""
        self._dead.discard(node_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of the connected nodes."""
        return [node_id for node_id in self._contexts if node_id not in self._dead]

    def get_nodes(self) -> Iterable[Any]:
        """Return the registrations of the connected nodes."""
        return [self._registered[node_id] for node_id in self.get_node_ids()]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Run the app on each message; an exception in it becomes an error reply."""
        ids = []
        for message in messages:
            # As Flower's own grids do, whose ids the scheduler reads.
            stamp(message, message_id=(message_id := str(uuid4())))
            sent = _as_sent(message)
            self.sent.append(sent)
            self._replies[message_id] = self._reply(sent)
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to these messages."""
        return [self._replies.pop(message_id) for message_id in message_ids if message_id in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push messages and return all replies."""
        return self.pull_messages(self.push_messages(messages))

    def _reply(self, message: Message) -> Message:
        node_id = message.metadata.dst_node_id
        if node_id in self._dead:
            reply = Message(Error(code=3, reason="Node Unavailable"), reply_to=message)
            stamp(reply, src_node_id=1)  # the SuperLink, which sends such replies itself
            return reply
        try:
            reply = self._app(message, self._contexts[node_id])
        except Exception as error:  # noqa: BLE001  a node replies to whatever its ClientApp raises
            reply = Message(Error(code=2, reason=repr(error)), reply_to=message)
        stamp(reply, src_node_id=node_id)
        return reply

    # The rest is abstract in Flower's Grid, but no strategy uses it.

    def set_run(self, run: Any) -> None:
        """Do nothing: the grid has one run."""

    @property
    def run(self) -> Any:
        """Run with an id and no other content."""
        return KIT.run()

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        """Raise NotImplementedError: Flower replaces this method by the constructor of Message."""
        raise NotImplementedError("use Message(content, dst_node_id, message_type)")


def _as_sent(message: Message) -> Message:
    """Return a message with records of its own, as it arrives: strategies send the same records to all nodes.

    The values in a record are never changed, so that they need no copy.
    """
    sent, content = copy(message), RecordDict()
    for key, record in message.content.items():
        content[key] = type(record)(cast("Any", dict(record)))
    sent.content = content
    return sent
