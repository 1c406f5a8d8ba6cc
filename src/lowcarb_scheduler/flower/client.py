"""Client side: answers the profile query, and reports duration and energy of turns.

Both use the configuration of the node, as given to ``flower-supernode --node-config``::

    location = "DE"  power-watts = 250.0  duration-minutes = 20.0  name = "hospital-a"

``telemetry = false`` switches the reports of a node off, ``energy = "estimated"`` the measurement.
"""

from __future__ import annotations

import logging
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final

from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp

from lowcarb_scheduler.flower.compat import PARTS, flower_version
from lowcarb_scheduler.flower.energy import Reading, metered

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flwr.clientapp.typing import Mod

logger = logging.getLogger("flwr")

RECORD: Final = "lowcarb"  # name of the scheduler's record in replies, and of the query
QUERY: Final = f"query.{RECORD}"
QUESTION: Final = "lowcarb-telemetry"  # key in the config of a message; its value is the requested energy
ENERGY: Final = "energy"
PROFILE_KEYS: Final = ("location", "power-watts", "duration-minutes", "name", "partition-id")


def profile_handler(message: Message, context: Context) -> Message:
    """Return the reply to ``query.lowcarb``: the profile in the configuration of the node."""
    profile: Any = {key: context.node_config[key] for key in PROFILE_KEYS if key in context.node_config}
    return Message(RecordDict({RECORD: ConfigRecord(profile)}), reply_to=message)


def carbon_mod(
    message: Message, context: Context, call_next: Callable[[Message, Context], Message]
) -> Message:
    """Add duration and energy of the turn to a reply, if the strategy requests and the node allows it."""
    return _reply(message, context, call_next, is_private=False)


def _reply(
    message: Message, context: Context, call_next: Callable[[Message, Context], Message], is_private: bool
) -> Message:
    if message.metadata.message_type == QUERY:
        return profile_handler(message, context)  # an app with a client_fn has mods, but no queries
    requested = _requested_energy(message) if _allows(context, is_private) else None
    if requested is None:
        return call_next(message, context)
    measures = requested == "measured" and context.node_config.get(ENERGY) != "estimated"
    with metered() if measures else nullcontext(Reading()) as reading:
        start = time.perf_counter()
        reply = call_next(message, context)
        seconds = time.perf_counter() - start
    if reply.has_content():
        energy = _energy(reading, context.node_config.get("power-watts"), seconds)
        # A ConfigRecord of its own: Flower averages values in the metrics, and refuses a second MetricRecord.
        reply.content[RECORD] = ConfigRecord({"duration-s": seconds, **energy})
    return reply


def _requested_energy(message: Message) -> str | None:
    """Return the energy that a message requests, None without a request."""
    # A message type may have an action, as in "train.fine_tune".
    if message.metadata.message_type.split(".")[0] not in (MessageType.TRAIN, MessageType.EVALUATE):
        return None
    requests = (config.get(QUESTION) for config in message.content.config_records.values())
    return next((str(energy) for energy in requests if energy is not None), None)


def _allows(context: Context, is_private: bool) -> bool:
    """Return whether the node reports its turns; with differential privacy only if it is configured to."""
    setting = context.node_config.get("telemetry")
    return not is_private if setting is None else str(setting).lower() == "true"


def _energy(reading: Reading, watts: object, seconds: float) -> dict[str, str | float]:
    """Return the measured energy, else power times time; nothing without a configured power."""
    if reading.measured_kwh is not None:
        return {"energy-kwh": reading.measured_kwh, ENERGY: "measured"}
    if isinstance(watts, int | float):
        return {"energy-kwh": watts / 1000 * seconds / 3600, ENERGY: "estimated"}
    return {}


class CarbonClientApp(ClientApp):
    """ClientApp that reports profile, duration and energy to the scheduler.

    With Flower's mods for differential privacy, turns are reported only if the configuration of the node has
    ``telemetry = true``: the duration of a turn reveals the amount of data.

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
        # First: its duration then covers the work of all other mods.
        super().__init__(client_fn, mods=[self._carbon_mod, *(mods or [])])
        if client_fn is None:  # Flower refuses queries beside a client_fn; there the mod answers
            self.query(RECORD)(profile_handler)

    def train(self, action: str = "default", *, mods: list[Mod] | None = None) -> Any:
        """Register a train function, as in ClientApp."""
        self._is_private = self._is_private or _is_private(mods or [])
        return super().train(action, mods=mods)

    def _carbon_mod(
        self, message: Message, context: Context, call_next: Callable[[Message, Context], Message]
    ) -> Message:
        return _reply(message, context, call_next, self._is_private)


def _is_private(mods: Sequence[Mod]) -> bool:
    """Return whether one of Flower's mods for differential privacy is among these."""
    if mods and (missing := PARTS.missing_on_client):
        logger.warning("lowcarb: flwr %s has no %s that is known; %s", flower_version(), *missing)
    return PARTS.has_privacy(mods)
