"""The ledger: an append-only journal of what a run planned, waited for, did and emitted.

One JSON object a line: ``{"v": 1, "at": time, "event": name, ...}``. A line is on disk before the run goes
on; those of a round's nodes, which may be thousands, are handed to the system at once and synced together.
The ledger holds the forecasts and actuals that were used, so every figure of a report can be computed again
from this file alone.
"""

from __future__ import annotations

import json
import logging
import os
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

from lowcarb_scheduler import accounting
from lowcarb_scheduler.accounting import jain_index, known_sum
from lowcarb_scheduler.clock import Clock, parse_time
from lowcarb_scheduler.documents import to_json
from lowcarb_scheduler.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

logger = logging.getLogger("flwr")

LEDGER_VERSION: Final = 1
FILE_NAME: Final = "ledger.jsonl"
_OF_A_ROUND: Final = (
    "node_done",
    "node_failed",
)  # on disk for sure with the round's next event

Event = Literal[
    "run_started", "forecast", "planned", "hold_started", "degraded", "round_opened", "node_done",
    "node_failed", "round_closed", "actual", "evaluated", "run_finished",
]  # fmt: skip


class Ledger:
    """The journal of one run, open for writing.

    Parameters
    ----------
    run_dir : Path
        Folder of the run; made when it is missing.
    clock : Clock
        Stamps the events.

    Raises
    ------
    InputError
        If the folder holds a ledger already: what has happened is never overwritten.
    """

    def __init__(self, run_dir: Path, clock: Clock) -> None:
        self.run_dir = run_dir
        self._clock = clock
        self._broken = False
        path = run_dir / FILE_NAME
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            self._file = path.open("x", encoding="utf-8")
        except FileExistsError:
            raise InputError(
                "run-dir", f"{run_dir} holds the ledger of a run", "give another folder, or leave it out"
            ) from None
        except OSError as error:
            raise InputError(
                "run-dir", f"{run_dir} is not writable ({error.strerror})", "give another"
            ) from None

    def append(self, event: Event, **data: object) -> None:
        """Write one event, and wait until it is on disk unless it is one of a round's nodes.

        A disk that takes no more ends the ledger with a warning, never the training.
        """
        entry = {"v": LEDGER_VERSION, "at": self._clock.now(), "event": event, **data}
        if self._broken:
            return
        try:
            self._file.write(to_json(entry) + "\n")
            self._file.flush()
            if event not in _OF_A_ROUND:
                os.fsync(self._file.fileno())
        except OSError as error:
            self._broken = True
            logger.warning("lowcarb: the ledger ends here, the training goes on: %s", error)

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):  # a full disk was warned of when it was met
            self._file.close()


def read_ledger(run_dir: Path) -> list[dict[str, Any]]:
    """Read the events of a run, in order.

    A torn last line, as a crash leaves it, is left out.

    Raises
    ------
    InputError
        If there is no ledger, or a line in it is not one of ours.
    """
    path = run_dir / FILE_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        inside = sorted(str(found.parent) for found in run_dir.glob(f"*/{FILE_NAME}"))
        fix = f"give one of {', '.join(inside[-3:])}" if inside else "give the folder of a run"
        raise InputError("run-dir", f"there is no {path}", fix) from None
    except UnicodeDecodeError:
        raise InputError("ledger", "is not UTF-8 text", "give the folder of a run", str(path)) from None
    lines = text.split("\n")
    events = []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            events.append(_event(line))
        except ValueError as error:
            if number == len(lines):
                break
            fix = "restore the file; it is append-only"
            raise InputError(f"line {number}", str(error), fix, str(path)) from None
    if not events or events[0]["event"] != "run_started":
        raise InputError("ledger", "has no run_started event", "give the folder of a run", str(path))
    return events


def _event(line: str) -> dict[str, Any]:
    event = json.loads(line)
    if not isinstance(event, dict) or not {"v", "at", "event"} <= event.keys():
        raise ValueError("is not an event")
    if event["v"] != LEDGER_VERSION:
        raise ValueError(f"has version {event['v']!r}, not {LEDGER_VERSION}")
    event["at"] = parse_time(event["at"], "at")
    return event


@dataclass(frozen=True, slots=True)
class RoundSummary:
    """What one round did. Emissions [gCO2eq] are None where they cannot be known."""

    number: int
    opens_at: datetime
    closes_at: datetime
    held: timedelta
    nodes: int
    failed: int
    energy_kwh: float
    planned_g: float | None
    realised_g: float | None
    run_now_g: float | None
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a run did, as its ledger has it.

    Sums [gCO2eq] are None where one of their rounds is; ``realised_g`` and ``run_now_g`` rest on actual
    intensity, ``planned_g`` on what was forecast when each round opened.
    """

    started: Mapping[str, Any]
    rounds: tuple[RoundSummary, ...]
    turns: Mapping[str, int]
    degraded: tuple[Mapping[str, Any], ...]
    first_plan: Mapping[str, Any] | None
    status: str

    @property
    def planned_g(self) -> float | None:
        """Sum of the rounds' planned emissions."""
        return known_sum(r.planned_g for r in self.rounds)

    @property
    def realised_g(self) -> float | None:
        """Sum of the rounds' realised emissions."""
        return known_sum(r.realised_g for r in self.rounds)

    @property
    def run_now_g(self) -> float | None:
        """What as many rounds of random clients would have emitted, back-to-back from the start."""
        return known_sum(r.run_now_g for r in self.rounds)

    @property
    def saving(self) -> float | None:
        """Part of the run-now emissions that was avoided."""
        return accounting.saving(self.realised_g, self.run_now_g)

    @property
    def energy_kwh(self) -> float:
        """Energy of all training [kWh]."""
        return sum(r.energy_kwh for r in self.rounds)

    @property
    def finish(self) -> datetime | None:
        """When the last round closed."""
        return self.rounds[-1].closes_at if self.rounds else None

    @property
    def jain(self) -> float:
        """Jain's index of completed turns."""
        return jain_index(list(self.turns.values()))


def summarise(events: Iterable[Mapping[str, Any]]) -> RunSummary:
    """Return what a run did, from its events."""
    started: Mapping[str, Any] = {}
    opened: dict[int, Mapping[str, Any]] = {}
    closed: dict[int, dict[str, Any]] = {}
    metrics: dict[int, dict[str, float]] = {}
    turns: dict[str, int] = {}
    degraded: list[Mapping[str, Any]] = []
    first_plan: Mapping[str, Any] | None = None
    status = "unfinished"
    for event in events:
        match event["event"]:
            case "run_started":
                started = event
            case "planned":
                first_plan = first_plan or event
                turns = {**dict.fromkeys(event["clients"], 0), **turns}
            case "degraded":
                degraded.append(event)
            case "round_opened":
                opened[event["round"]] = event
            case "node_done":
                turns[event["id"]] = turns.get(event["id"], 0) + 1
            case "round_closed":
                closed[event["round"]] = dict(event)
            case "evaluated":
                metrics.setdefault(event["round"], {}).update(event["metrics"])
            case "run_finished":
                status = event["status"]
                for late in event["rounds"]:
                    closed[late["round"]].update(late)
    rounds = tuple(
        RoundSummary(
            number=number,
            opens_at=parse_time(end["opens_at"], "opens_at"),
            closes_at=parse_time(end["closes_at"], "closes_at"),
            held=timedelta(seconds=opened[number]["held_s"]),
            nodes=end["nodes_done"],
            failed=end["nodes_failed"],
            energy_kwh=end["energy_kwh"],
            planned_g=end["planned_g"],
            realised_g=end["realised_g"],
            run_now_g=end["run_now_g"],
            metrics=metrics.get(number, {}),
        )
        for number, end in sorted(closed.items())
    )
    return RunSummary(started, rounds, turns, tuple(degraded), first_plan, status)
