"""The ledger: an append-only journal of what a run planned, waited for, did and emitted.

One JSON object a line: ``{"v": 1, "at": time, "event": name, ...}``. A line is on disk before the run goes
on; those of a round's nodes, which may be thousands, are handed to the system at once and synced together.
The ledger holds the forecasts and actuals that were used, so every figure of a report can be computed again
from this file alone.

A run that is resumed goes on in the same file. What stands behind the place its checkpoint remembers is of
work that was lost; the event ``run_resumed`` says where that place is, and readers count everything once.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

from lowcarb_scheduler.accounting.emissions import jain_index, known_sum, saving
from lowcarb_scheduler.clock import Clock, parse_time
from lowcarb_scheduler.documents import to_json
from lowcarb_scheduler.errors import InputError

try:
    import fcntl
except ImportError:  # not on POSIX: two runs in one folder are not told apart there
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path
    from typing import TextIO

logger = logging.getLogger("flwr")

LEDGER_VERSION: Final = 1
FILE_NAME: Final = "ledger.jsonl"
_OF_A_ROUND: Final = frozenset({"node_done", "node_failed", "node_evaluated"})  # synced with its next event
_KNOWLEDGE: Final = frozenset({"actual", "degraded", "forecast", "nodes", "run_resumed", "run_started"})
_RESUMED: Final = b'"event": "run_resumed"'

Event = Literal[
    "run_started", "run_resumed", "nodes_awaited", "nodes", "forecast", "planned", "hold_started", "open_now",
    "degraded", "round_opened", "node_done", "node_failed", "node_evaluated", "round_closed", "actual",
    "evaluated", "checkpoint", "run_finished", "refreshed",
]  # fmt: skip


class Ledger:
    """The journal of one run, open for writing.

    Parameters
    ----------
    run_dir : Path
        Folder of the run; made when it is missing.
    clock : Clock
        Stamps the events.

    goes_on : bool
        Whether to go on in the ledger that is there, after cutting a torn last line.

    Attributes
    ----------
    lines : int
        How many events the file holds.
    cut : int
        How many bytes of a torn last line were cut.
    is_broken : bool
        Whether the disk has refused an event; the ledger ends before it.

    Raises
    ------
    InputError
        If the folder holds a ledger already: what has happened is never overwritten; or if another run is
        writing in it.
    """

    def __init__(self, run_dir: Path, clock: Clock, *, goes_on: bool = False) -> None:
        self.run_dir = run_dir
        self._clock = clock
        self.is_broken = False
        self.lines = self.cut = 0
        path = run_dir / FILE_NAME
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            self._file = path.open("r+" if goes_on else "x", encoding="utf-8", newline="\n")
            try:
                _lock(self._file, run_dir)
                if goes_on:
                    self.lines, self.cut = _cut_torn_line(path)
                    self._file.seek(0, os.SEEK_END)
            except BaseException:
                self._file.close()
                raise
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
        if self.is_broken:
            return
        try:
            self._file.write(to_json(entry) + "\n")
            self._file.flush()
            if event not in _OF_A_ROUND:
                os.fsync(self._file.fileno())
            self.lines += 1
        except OSError as error:
            self.is_broken = True
            logger.warning("lowcarb: the ledger ends here, the training goes on: %s", error)

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):  # a full disk was warned of when it was met
            self._file.close()


def read_ledger(run_dir: Path) -> list[dict[str, Any]]:
    """Read the events of a run, in order; see :func:`iter_ledger`.

    Raises
    ------
    InputError
        If there is no ledger, or a line in it is not one of ours.
    """
    path = run_dir / FILE_NAME
    if not path.is_file():
        inside = sorted(str(found.parent) for found in run_dir.glob(f"*/{FILE_NAME}"))
        fix = f"give one of {', '.join(inside[-3:])}" if inside else "give the folder of a run"
        raise InputError("run-dir", f"there is no {path}", fix)
    events = list(iter_ledger(run_dir))
    if not events or events[0]["event"] != "run_started":
        raise InputError("ledger", "has no run_started event", "give the folder of a run", str(path))
    return events


def iter_ledger(run_dir: Path, since: int = 0, until: int | None = None) -> Iterator[dict[str, Any]]:
    """Yield the events of a run, in order, holding one of them at a time.

    A torn last line, as a crash leaves it, is left out, and so is work that a crash has undone: a run that
    was resumed has done it again.

    Parameters
    ----------
    run_dir : Path
        Folder of the run.
    since : int
        The line after which to begin.
    until : int, optional
        The last line to read.

    Raises
    ------
    InputError
        If the file cannot be read, or a line in it is not one of ours.
    """
    path = run_dir / FILE_NAME
    try:
        undone = _undone(path)
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.endswith(b"\n") or (until is not None and number > until):
                    return
                if number <= since:
                    continue
                try:
                    event = _event(line)
                except ValueError as error:
                    fix = "restore the file; it is append-only"
                    raise InputError(f"line {number}", str(error), fix, str(path)) from None
                lost = any(after < number < resumed for after, resumed in undone)
                if not lost or event["event"] in _KNOWLEDGE:
                    yield event
    except OSError as error:
        fix = "make it readable"
        raise InputError("ledger", f"cannot be read ({error.strerror})", fix, str(path)) from None


def _undone(path: Path) -> list[tuple[int, int]]:
    """Return the stretches of work that was lost: the last line that counts, and that of its resumption."""
    undone = []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if _RESUMED in line and line.endswith(b"\n"):
                with suppress(ValueError, KeyError):  # whoever reads the line itself will say what is wrong
                    event = _event(line)
                    if event["event"] == "run_resumed":
                        undone.append((int(event["after"]), number))
    return undone


def _lock(file: TextIO, run_dir: Path) -> None:
    """Keep other runs out of the folder for as long as this process holds the file open."""
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        fix = "stop it first, or give another folder"
        raise InputError("run-dir", f"a run is still writing in {run_dir}", fix) from None
    except OSError:  # a file system without locks
        return


def is_in_use(run_dir: Path) -> bool | None:
    """Return whether a process holds the ledger of a run open to write; None where that cannot be told."""
    if fcntl is None:
        return None
    try:
        with (run_dir / FILE_NAME).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return None
    return False


def _cut_torn_line(path: Path) -> tuple[int, int]:
    """Cut what a crash has left of a line; return how many lines there are, and how many bytes were cut."""
    lines = end = 0
    with path.open("r+b") as file:
        for line in file:
            if line.endswith(b"\n"):
                lines, end = lines + 1, end + len(line)
        cut = file.tell() - end
        if cut:
            file.truncate(end)
            os.fsync(file.fileno())
    return lines, cut


def _event(line: bytes) -> dict[str, Any]:
    try:
        event = json.loads(line.decode())
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 text") from None
    if not isinstance(event, dict) or not {"v", "at", "event"} <= event.keys():
        raise ValueError("is not an event")
    if event["v"] != LEDGER_VERSION:
        raise ValueError(f"has version {event['v']!r}, not {LEDGER_VERSION}")
    event["at"] = parse_time(event["at"], "at")
    return event


@dataclass(frozen=True, slots=True)
class RoundSummary:
    """What one round did. Emissions [gCO2eq] are None where they cannot be known.

    Those named ``evaluation`` are of evaluating on clients, all others of training alone.
    """

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
    evaluation_energy_kwh: float = 0.0
    evaluation_g: float | None = 0.0


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a run did, as its ledger has it.

    Sums [gCO2eq] are None where one of their rounds is; ``realised_g`` and ``run_now_g`` rest on actual
    intensity, ``planned_g`` on what was forecast when each round opened. ``energy_by_basis`` says what the
    energy of training rests on [kWh]; ``resumed`` how often the run went on after it had ended before its
    time.
    """

    started: Mapping[str, Any]
    rounds: tuple[RoundSummary, ...]
    turns: Mapping[str, int]
    degraded: tuple[Mapping[str, Any], ...]
    first_plan: Mapping[str, Any] | None
    status: str
    energy_by_basis: Mapping[str, float] = field(default_factory=dict)
    resumed: int = 0

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
        return saving(self.realised_g, self.run_now_g)

    @property
    def energy_kwh(self) -> float:
        """Energy of all training [kWh]."""
        return sum(r.energy_kwh for r in self.rounds)

    @property
    def evaluation_energy_kwh(self) -> float:
        """Energy of all evaluation on clients [kWh]."""
        return sum(r.evaluation_energy_kwh for r in self.rounds)

    @property
    def evaluation_g(self) -> float | None:
        """Realised emissions of all evaluation on clients."""
        return known_sum(r.evaluation_g for r in self.rounds)

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
    evaluation: dict[int, dict[str, Any]] = {}
    turns: dict[str, int] = {}
    degraded: list[Mapping[str, Any]] = []
    energy_by_basis: Counter[str] = Counter()
    first_plan: Mapping[str, Any] | None = None
    status, resumed = "unfinished", 0
    for event in events:
        match event["event"]:
            case "run_started":
                started = event
            case "run_resumed":
                status, resumed = "unfinished", resumed + 1
            case "nodes":
                turns = {**dict.fromkeys((node["id"] for node in event["joined"]), 0), **turns}
            case "planned":
                first_plan = first_plan or event
            case "degraded":
                degraded.append(event)
            case "round_opened":
                opened[event["round"]] = event
            case "node_done":
                turns[event["id"]] = turns.get(event["id"], 0) + 1
                energy_by_basis[event["energy_basis"]] += event["energy_kwh"]
            case "round_closed":
                closed[event["round"]] = dict(event)
            case "evaluated":
                metrics.setdefault(event["round"], {}).update(event["metrics"])
                if event["where"] == "clients":
                    evaluation[event["round"]] = dict(event)
            case "run_finished":
                status = event["status"]
                _settle(event["rounds"], closed, evaluation)
            case "refreshed":
                _settle(event["rounds"], closed, evaluation)
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
            evaluation_energy_kwh=evaluation.get(number, {}).get("energy_kwh", 0.0),
            evaluation_g=evaluation.get(number, {}).get("realised_g", 0.0),
        )
        for number, end in sorted(closed.items())
    )
    return RunSummary(
        started, rounds, turns, tuple(degraded), first_plan, status, dict(energy_by_basis), resumed
    )


def _settle(
    late: Iterable[Mapping[str, Any]],
    closed: dict[int, dict[str, Any]],
    evaluation: dict[int, dict[str, Any]],
) -> None:
    """Enter what was learned of rounds after they had closed."""
    for figures in late:
        closed[figures["round"]].update(figures)
        if figures["round"] in evaluation:
            evaluation[figures["round"]]["realised_g"] = figures["evaluation_g"]
