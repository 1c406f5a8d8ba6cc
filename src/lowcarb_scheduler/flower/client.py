"""The client side: answers where it runs and what it draws, and says how long a turn took.

Both read the node's own configuration, as given to ``flower-supernode --node-config``::

    location = "DE"  power-watts = 250.0  duration-minutes = 20.0  name = "hospital-a"
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp

if TYPE_CHECKING:
    from collections.abc import Callable

RECORD: Final = "lowcarb"  # name of our record in replies, and of the query
QUERY: Final = f"query.{RECORD}"
PROFILE_KEYS: Final = ("location", "power-watts", "duration-minutes", "name", "partition-id")


def profile_handler(message: Message, context: Context) -> Message:
    """Answer ``query.lowcarb`` with what the node's configuration says of it."""
    known: dict[str, Any] = {
        key: context.node_config[key] for key in PROFILE_KEYS if key in context.node_config
    }
    return Message(RecordDict({RECORD: ConfigRecord(known)}), reply_to=message)


def carbon_mod(
    message: Message, context: Context, call_next: Callable[[Message, Context], Message]
) -> Message:
    """Add to a train reply how long the turn took.

    It travels in a ConfigRecord of its own, which the strategy takes out again: a value in the metrics would
    be averaged, and a second MetricRecord refused.
    """
    began = time.perf_counter()
    reply = call_next(message, context)
    if reply.has_content() and message.metadata.message_type.split(".")[0] == MessageType.TRAIN:
        reply.content[RECORD] = ConfigRecord({"duration-s": time.perf_counter() - began})
    return reply


class CarbonClientApp(ClientApp):
    """A ClientApp that tells the scheduler where it runs.

    Parameters
    ----------
    client_fn : callable, optional
        As in ClientApp. Such an app cannot answer queries; its nodes belong into the server's
        ``lowcarb-locations`` file.
    mods : list of callable, optional
        As in ClientApp. They also see the profile query, so put mods that only know training on
        ``@app.train(mods=[...])``.
    """

    def __init__(self, client_fn: Any = None, mods: list[Any] | None = None) -> None:
        super().__init__(client_fn, mods=[carbon_mod, *(mods or [])])
        if client_fn is None:
            self.query(RECORD)(profile_handler)
