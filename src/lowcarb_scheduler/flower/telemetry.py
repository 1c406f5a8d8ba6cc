"""Telemetry: what the strategy asks nodes to say of their turns, and what of it is believed.

A node says nothing that it is not asked for, so nothing leaves it where telemetry is off. The question
travels in the config of the message, where Flower puts the number of the round, too; the answer in a
ConfigRecord of its own, which the strategy takes out of the reply again.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from flwr.app import ConfigRecord

from lowcarb_scheduler.accounting.turns import TurnReport
from lowcarb_scheduler.flower.client import ENERGY, QUESTION, RECORD
from lowcarb_scheduler.flower.grid import layers
from lowcarb_scheduler.validation import MOST_POWER_WATTS, finite_number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from flwr.app import Message

    from lowcarb_scheduler.settings import Settings

_HOUR: Final = timedelta(hours=1)
_JITTER: Final = timedelta(seconds=1)  # two clocks do not agree to the millisecond


def is_asked(settings: Settings, strategy: object) -> bool:
    """Return whether nodes are asked: as the settings say, and by default not under differential privacy.

    How long a turn took tells how much data a node has.
    """
    if settings.telemetry is not None:
        return settings.telemetry
    return not any(hasattr(layer, "noise_multiplier") for layer in layers(strategy))


def ask(messages: Iterable[Message], energy: str) -> None:
    """Put the question into messages, once for those that share a record.

    Parameters
    ----------
    messages : iterable of Message
        What is sent.
    energy : {"measured", "estimated"}
        Whether energy is to be measured where a node can.
    """
    for message in messages:
        config: ConfigRecord | None = next(iter(message.content.config_records.values()), None)
        if config is None:
            message.content[RECORD] = config = ConfigRecord()
        config[QUESTION] = energy


def take(reply: Message) -> Mapping[str, Any] | None:
    """Take our record out of a reply and return it; None if it has none."""
    said = reply.content.pop(RECORD, None)
    return said if isinstance(said, ConfigRecord) else None


def validate_report(
    said: Mapping[str, Any] | None, elapsed: timedelta, who: str, note: Callable[[str], None]
) -> TurnReport:
    """Return what of a node's words can be: no turn is longer than the time since it was asked for.

    Parameters
    ----------
    said : mapping or None
        Its words.
    elapsed : timedelta
        The time since it was asked.
    who : str
        The node.
    note : callable
        Takes a line about a claim that is not believed.
    """
    if said is None:
        return TurnReport()
    seconds = finite_number(said.get("duration-s"))
    limit = elapsed + _JITTER
    if seconds is None or not 0 < seconds <= limit.total_seconds():
        note(f"node {who!r} claims a time for its turn that cannot be: the time until its reply is used")
        return TurnReport()
    duration = min(timedelta(seconds=seconds), elapsed)
    if said.get(ENERGY) != "measured":
        return TurnReport(duration)
    kwh = finite_number(said.get("energy-kwh"))
    if kwh is None or not 0 < kwh <= MOST_POWER_WATTS / 1000 * (timedelta(seconds=seconds) / _HOUR):
        note(f"node {who!r} claims an energy that cannot be: power times time is used")
        return TurnReport(duration)
    return TurnReport(duration, kwh)
