"""The client side: answers where it runs and what it draws, and says how long a turn took and its energy.

Both read the node's own configuration, as given to ``flower-supernode --node-config``::

    location = "DE"  power-watts = 250.0  duration-minutes = 20.0  name = "hospital-a"

It may also hold ``telemetry = false``, and then nothing is said of a turn, or ``energy = "estimated"``.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final

from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod, adaptiveclipping_mod, fixedclipping_mod

from lowcarb_scheduler.flower.energy import Reading, metered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from flwr.clientapp.typing import Mod

RECORD: Final = "lowcarb"  # name of our record in replies, and of the query
QUERY: Final = f"query.{RECORD}"
QUESTION: Final = "lowcarb-telemetry"  # in the config of a message, with the energy that is asked for
ENERGY: Final = "energy"
PROFILE_KEYS: Final = ("location", "power-watts", "duration-minutes", "name", "partition-id")


def profile_handler(message: Message, context: Context) -> Message:
    """Response ``query.lowcarb`` with what the node's configuration says of it."""
    known: dict[str, Any] = {
        key: context.node_config[key] for key in PROFILE_KEYS if key in context.node_config
    }
    return Message(RecordDict({RECORD: ConfigRecord(known)}), reply_to=message)


def carbon_mod(
    message: Message, context: Context, call_next: Callable[[Message, Context], Message]
) -> Message:
    """Add to a reply how long the turn took and its energy, if the strategy asks and the node allows it.

    It travels in a ConfigRecord of its own, which the strategy takes out again: a value in the metrics would
    be averaged, and a second MetricRecord refused.
    """
    return _answered(message, context, call_next, is_private=False)


def _answered(
    message: Message, context: Context, call_next: Callable[[Message, Context], Message], is_private: bool
) -> Message:
    if message.metadata.message_type == QUERY:
        return profile_handler(message, context)  # an app with a client_fn has mods, but no queries
    asked = _question(message) if _allows(context, is_private) else None
    if asked is None:
        return call_next(message, context)
    measures = asked == "measured" and context.node_config.get(ENERGY) != "estimated"
    with metered() if measures else nullcontext(Reading()) as reading:
        began = time.perf_counter()
        reply = call_next(message, context)
        seconds = time.perf_counter() - began
    if reply.has_content():
        energy = _energy(reading, context.node_config.get("power-watts"), seconds)
        reply.content[RECORD] = ConfigRecord({"duration-s": seconds, **energy})
    return reply


def _question(message: Message) -> str | None:
    """Return the energy that is asked for; None if nothing is, as in messages of other kinds."""
    if message.metadata.message_type.split(".")[0] not in (MessageType.TRAIN, MessageType.EVALUATE):
        return None
    asked = (config.get(QUESTION) for config in message.content.config_records.values())
    return next((str(energy) for energy in asked if energy is not None), None)


def _allows(context: Context, is_private: bool) -> bool:
    """Return whether the node says anything of its turns; an app with differential privacy only if told."""
    told = context.node_config.get("telemetry")
    return not is_private if told is None else str(told).lower() == "true"


def _energy(reading: Reading, watts: object, seconds: float) -> dict[str, str | float]:
    """Return what was measured, else power times time; nothing where the node does not know its power."""
    if reading.measured_kwh is not None:
        return {"energy-kwh": reading.measured_kwh, ENERGY: "measured"}
    if isinstance(watts, int | float):
        return {"energy-kwh": watts / 1000 * seconds / 3600, ENERGY: "estimated"}
    return {}


class CarbonClientApp(ClientApp):
    """A ClientApp that tells the scheduler where it runs, and what its turns take.

    With mods of differential privacy nothing is said of turns, unless the node's configuration holds
    ``telemetry = true``: how long one took tells how much data there is.

    Parameters
    ----------
    client_fn : callable, optional
        As in ClientApp, for clients of the old API.
    mods : list of callable, optional
        As in ClientApp. They also see the profile query, so put mods that only know training on
        ``@app.train(mods=[...])``.
    """

    def __init__(self, client_fn: Any = None, mods: list[Mod] | None = None) -> None:
        self._is_private = _is_private(mods or [])
        super().__init__(client_fn, mods=[self._carbon_mod, *(mods or [])])
        if client_fn is None:
            self.query(RECORD)(profile_handler)

    def train(self, action: str = "default", *, mods: list[Mod] | None = None) -> Any:
        """Register a train function, as in ClientApp."""
        self._is_private = self._is_private or _is_private(mods or [])
        return super().train(action, mods=mods)

    def _carbon_mod(
        self, message: Message, context: Context, call_next: Callable[[Message, Context], Message]
    ) -> Message:
        return _answered(message, context, call_next, self._is_private)


def _is_private(mods: Iterable[Mod]) -> bool:
    """Return whether one of Flower's mods for differential privacy is among these."""
    return any(
        isinstance(mod, LocalDpMod) or mod in (fixedclipping_mod, adaptiveclipping_mod) for mod in mods
    )
