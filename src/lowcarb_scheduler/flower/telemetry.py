"""Telemetry on the server: requests for reports of turns, and their validation.

Nodes report only on request, so that nothing leaves them where telemetry is off. The request is a key in the
config of the message; the report is a ConfigRecord of its own in the reply.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from flwr.app import ConfigRecord

from lowcarb_scheduler.accounting.turns import TurnReport
from lowcarb_scheduler.flower.client import ENERGY, QUESTION, RECORD
from lowcarb_scheduler.flower.compat import adds_noise
from lowcarb_scheduler.flower.grid import layers
from lowcarb_scheduler.validation import MOST_POWER_WATTS, finite_number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from flwr.app import Message

    from lowcarb_scheduler.settings import Settings

_HOUR: Final = timedelta(hours=1)
_TOLERANCE: Final = timedelta(seconds=1)  # the clocks of node and server run at slightly different speed


def is_asked(settings: Settings, strategy: object) -> bool:
    """Return whether reports are requested; by default not with differential privacy.

    The duration of a turn reveals the amount of data of a node.
    """
    if settings.telemetry is not None:
        return settings.telemetry
    return not any(map(adds_noise, layers(strategy)))


def ask(messages: Iterable[Message], energy: str) -> None:
    """Add the request for reports to messages.

    Parameters
    ----------
    messages : iterable of Message
        Messages to be sent.
    energy : {"measured", "estimated"}
        Whether nodes are to measure energy where they can.
    """
    for message in messages:
        # In the first config: Flower's mods for differential privacy expect one record of each type.
        config: ConfigRecord | None = next(iter(message.content.config_records.values()), None)
        if config is None:
            message.content[RECORD] = config = ConfigRecord()
        config[QUESTION] = energy


def take(reply: Message) -> Mapping[str, Any] | None:
    """Remove the report from a reply and return it, None without one."""
    report = reply.content.pop(RECORD, None)
    return report if isinstance(report, ConfigRecord) else None


def numbers_in(metrics: Mapping[str, Any] | None) -> dict[str, float]:
    """Return the metrics that are numbers."""
    return {key: value for key, value in (metrics or {}).items() if isinstance(value, int | float)}


def validate_report(
    report: Mapping[str, Any] | None, elapsed: timedelta, node: str, note: Callable[[str], None]
) -> TurnReport:
    """Return the valid part of a report: no turn is longer than the time since its message was sent.

    Parameters
    ----------
    report : mapping or None
        Report of the node.
    elapsed : timedelta
        Time since its message was sent.
    node : str
        Name of the node.
    note : callable
        Logs a line about an invalid value.
    """
    if report is None:
        return TurnReport()
    seconds = finite_number(report.get("duration-s"))
    limit = elapsed + _TOLERANCE
    if seconds is None or not 0 < seconds <= limit.total_seconds():
        note(f"node {node!r} reports an invalid duration of its turn: the time until its reply is used")
        return TurnReport()
    duration = min(timedelta(seconds=seconds), elapsed)
    if report.get(ENERGY) != "measured":
        return TurnReport(duration)
    kwh = finite_number(report.get("energy-kwh"))
    if kwh is None or not 0 < kwh <= MOST_POWER_WATTS / 1000 * (timedelta(seconds=seconds) / _HOUR):
        note(f"node {node!r} reports an invalid energy: power times time is used")
        return TurnReport(duration)
    return TurnReport(duration, kwh)
