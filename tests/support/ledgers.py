"""Ledgers in tests: the lines as they are on disk, and their replay."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from lowcarb_scheduler.accounting.replay import Record
from lowcarb_scheduler.documents import to_json
from lowcarb_scheduler.events import event_of
from lowcarb_scheduler.ledger import iter_ledger

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from lowcarb_scheduler.events import Event

OF_A_ROUND = (
    "number", "opens_at", "closes_at", "held", "nodes", "failed", "energy_kwh", "planned_g", "realised_g",
    "run_now_g", "metrics", "evaluation_energy_kwh", "evaluation_g",
)  # fmt: skip


def read_records(run_dir: Path) -> list[dict[str, Any]]:
    """Return the events of a run as they are stored, but for their time, which is parsed."""
    return [
        {**json.loads(to_json({"event": event.name, **event.to_record()})), "at": event.at}
        for event in iter_ledger(run_dir)
    ]


def events_of(records: Iterable[Mapping[str, Any]]) -> list[Event]:
    """Return the events of lines as they are stored."""
    return [event_of(json.loads(to_json(dict(record)))) for record in records]


def rounds_shown(run: Record) -> list[dict[str, Any]]:
    """Return the figures that a report shows for each round of a run."""
    return [{name: getattr(each, name) for name in OF_A_ROUND} for each in run.rounds]


def replayed(records: Iterable[Mapping[str, Any]]) -> Record:
    """Return the state of a run after the events of these lines."""
    return Record.of(events_of(records))
