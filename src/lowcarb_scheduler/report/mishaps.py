"""What did not go as it should in a run: forecasts that did not come, nodes that did not train."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from lowcarb_scheduler.clock import format_time

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    import pandas as pd

    from lowcarb_scheduler.report.gantt import Labels


class Mishap(NamedTuple):
    """One of them: when, what, why, and what was done instead."""

    at: datetime
    what: str
    why: str
    so: str
    of_node: bool


def mishaps_of(events: Sequence[Mapping[str, Any]]) -> list[Mishap]:
    """Return all of a run, in order."""
    found = []
    for event in events:
        match event["event"]:
            case "degraded":
                so = event["consequence"]
                found.append(Mishap(event["at"], event["what"], event["why"], so, of_node=False))
            case "node_failed":
                what = f"node {event['id']} at {event['location'] or 'an unknown location'}"
                so = f"round {event['round']} went on without it"
                found.append(Mishap(event["at"], what, event["reason"], so, of_node=True))
    return sorted(found, key=attrgetter("at"))


def table_of_mishaps(mishaps: Sequence[Mishap], labels: Labels) -> pd.DataFrame:
    """Return the table that is written as CSV, with signal and source of the run's intensity."""
    import pandas as pd

    rows = [
        {"at": format_time(m.at), "what": m.what, "why": m.why, "consequence": m.so, **labels._asdict()}
        for m in mishaps
    ]
    return pd.DataFrame(rows, columns=["at", "what", "why", "consequence", *labels._fields])
