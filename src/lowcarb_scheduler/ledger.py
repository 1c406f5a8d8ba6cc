"""Ledger of a run: an append-only journal of typed events, from the first plan to the final figures.

One JSON object a line: ``{"v": 1, "at": time, "event": name, ...}``. A line is on disk before the run goes
on; those of a round's nodes, which may be thousands, are handed to the system at once and synced together.
The ledger holds the forecasts and actuals that were used, so every figure of a report can be computed again
from this file alone.

A run that is resumed continues in the same file. Lines after the place that its checkpoint remembers belong
to work that was lost; the event ``run_resumed`` names that place, and readers count everything once.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections import Counter
from contextlib import suppress
from dataclasses import MISSING, dataclass, field, fields
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from lowcarb_scheduler.accounting.emissions import jain_index, known_sum, saving
from lowcarb_scheduler.clock import Clock, parse_time
from lowcarb_scheduler.documents import to_json
from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.intensity import IntensityTable

try:
    import fcntl
except ImportError:  # not on POSIX: two runs in one folder are not told apart
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path
    from typing import TextIO

logger = logging.getLogger("flwr")

LEDGER_VERSION: Final = 1
FILE_NAME: Final = "ledger.jsonl"
UNKNOWN_PLACE: Final = "unknown"  # stands for the location of a node whose location is unknown
_KNOWLEDGE: Final = frozenset({"actual", "degraded", "forecast", "nodes", "run_resumed", "run_started"})
_SYNCED_LATER: Final = frozenset({"node_done", "node_failed", "node_evaluated"})  # with the next event
_RESUMED: Final = b'"event": "run_resumed"'
_UNSTAMPED: Final = datetime.min.replace(tzinfo=UTC)  # time of an event that is not written yet


# -- Stored values -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Base class of values that are stored as JSON objects.

    Each field is stored under its own name, a duration in seconds under ``NAME_s``, and the columns of an
    intensity table beside the other fields. Keys without a field are ignored: later versions may add some.
    """

    def to_record(self) -> dict[str, Any]:
        """Return the value as keys and values for the JSON writer."""
        record: dict[str, Any] = {}
        for name, key, is_nested, *_ in _schema(type(self)):
            value = getattr(self, name)
            if isinstance(value, IntensityTable):
                record |= value.to_record()
            else:
                record[key] = [entry.to_record() for entry in value] if is_nested else value
        return record

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Return the value of a JSON object.

        Raises
        ------
        KeyError, TypeError, InputError
            If the object lacks a key, or holds a value of another type.
        """
        values: dict[str, Any] = {}
        for name, key, _, decode, is_optional in _schema(cls):
            if key is None:
                values[name] = IntensityTable.from_record(record)
            elif key in record:
                values[name] = record[key] if decode is None else decode(record[key], key)
            elif not is_optional:
                raise KeyError(key)
        return cls(**values)


_SCHEMAS: Final[dict[type, list[tuple[Any, ...]]]] = {}


def _schema(cls: type[Entry]) -> list[tuple[Any, ...]]:
    """Return (field, key, holds entries, decoder, has a default) for each stored field of a class."""
    if (schema := _SCHEMAS.get(cls)) is None:
        schema = _SCHEMAS[cls] = []
        for each in fields(cls):
            if each.name == "at":  # written and read by the ledger itself
                continue
            kind = str(each.type)
            key = None if kind == "IntensityTable" else each.name + "_s" * kind.startswith("timedelta")
            is_optional = each.default is not MISSING or each.default_factory is not MISSING
            schema.append((each.name, key, bool(_entry_class(kind)), _decoder(kind), is_optional))
    return schema


def _entry_class(kind: str) -> type[Entry] | None:
    """Return the class of the entries in a tuple of them, from its annotation."""
    match = re.fullmatch(r"tuple\[(\w+), \.\.\.\]", kind)
    return {cls.__name__: cls for cls in (Node, Member, Window, Figures)}.get(match[1]) if match else None


def _decoder(kind: str) -> Callable[[Any, str], Any] | None:
    """Return the function that reads a field of a type, from its annotation; None for plain JSON values."""
    if (entry := _entry_class(kind)) is not None:
        return lambda records, _: tuple(entry.from_record(record) for record in records)
    match kind:
        case "datetime":
            return _time
        case "datetime | None":
            return lambda text, key: None if text is None else _time(text, key)
        case "timedelta":
            return lambda seconds, _: timedelta(seconds=seconds)
        case "timedelta | None":
            return lambda seconds, _: None if seconds is None else timedelta(seconds=seconds)
        case "Mapping[str, datetime]":
            return lambda times, key: {name: _time(text, key) for name, text in times.items()}
        case "tuple[str, ...]":
            return lambda names, _: tuple(names)
    return None


_time = lru_cache(maxsize=4096)(parse_time)  # thousands of nodes share a few times


@dataclass(frozen=True, slots=True, kw_only=True)
class Node(Entry):
    """A node as run-now and hindsight need it.

    Parameters
    ----------
    id : str
        Name that outlives the run.
    location : str or None
        Location; None if unknown.
    power_watts : float
        Power drawn while training [W].
    duration : timedelta or None
        The node's own time for a turn; None for the whole round.
    """

    id: str
    location: str | None
    power_watts: float
    duration: timedelta | None

    @property
    def place(self) -> str:
        """The location, or the name of an unknown one."""
        return self.location or UNKNOWN_PLACE

    @property
    def features(self) -> tuple[str, float, timedelta | None]:
        """Properties that a plan depends on."""
        return self.place, self.power_watts, self.duration

    def turn(self, round_duration: timedelta) -> timedelta:
        """Return the planned length of a turn; one that claims to be longer than a round fills it."""
        return self.duration if self.duration and self.duration <= round_duration else round_duration


@dataclass(frozen=True, slots=True, kw_only=True)
class Member(Entry):
    """A node that is selected for a round, and its planned window."""

    id: str
    location: str | None
    starts_at: datetime
    ends_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Window(Entry):
    """A planned round: its window, expected emissions [gCO2eq] and number of clients by location."""

    round: int
    opens_at: datetime
    closes_at: datetime
    emissions_g: float | None
    locations: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures(Entry):
    """Emissions of a round [gCO2eq]; None where they are not known, or not yet.

    Parameters
    ----------
    round : int
        The round, from 1.
    planned_g : float or None
        Training, as expected when the round opened.
    realised_g : float or None
        Training, on actual intensity.
    run_now_g : float or None
        The same work by random clients, back-to-back from the start of the run.
    evaluation_g : float or None
        Evaluation on clients, on actual intensity.
    """

    round: int
    planned_g: float | None
    realised_g: float | None = None
    run_now_g: float | None = None
    evaluation_g: float | None = 0.0

    @property
    def are_known(self) -> bool:
        """Whether all that depends on actual intensity is known."""
        return None not in (self.realised_g, self.run_now_g, self.evaluation_g)


# -- Events ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Event(Entry):
    """Base class of events, and the event of a name that this version does not know.

    Parameters
    ----------
    at : datetime
        When it happened; the ledger stamps it when it writes the event.
    """

    name: ClassVar[str] = ""

    at: datetime = _UNSTAMPED


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(Event):
    """Start of a run: its job, its settings without secrets, and the versions that run it."""

    name: ClassVar[str] = "run_started"

    run_id: str
    flwr_version: str
    strategy: str
    source: str | None
    version: str
    settings: Mapping[str, Any]
    started_at: datetime | None = None
    rounds: int
    clients_per_round: int | None
    round_duration: timedelta | None
    finish_by: datetime | None
    target_finish: datetime | None
    patience: float
    participation: Any
    clock: str

    @property
    def began_at(self) -> datetime:
        """When the run began; run-now counts from then."""
        return self.started_at or self.at


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResumed(Event):
    """Continuation of a run; the lines after line ``after`` are of work that was lost."""

    name: ClassVar[str] = "run_resumed"

    run_id: str
    flwr_version: str
    strategy: str
    source: str | None
    version: str
    after: int
    cut_bytes: int
    round: int
    stage: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodesAwaited(Event):
    """Wait for nodes to connect."""

    name: ClassVar[str] = "nodes_awaited"

    round: int
    until: datetime | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodesChanged(Event):
    """Nodes that joined or changed since the last look, and the ids of those that left."""

    name: ClassVar[str] = "nodes"

    joined: tuple[Node, ...]
    left: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastReceived(Event):
    """Newest forecast of each location.

    Parameters
    ----------
    generated_at : datetime
        When the oldest part was issued.
    issued_at : mapping of str to datetime
        When each location's part was issued.
    missing, last_good : mapping of str to str
        Why a location has no forecast, or still its last good one.
    intensity : IntensityTable
        The forecast.
    """

    name: ClassVar[str] = "forecast"

    generated_at: datetime
    issued_at: Mapping[str, datetime]
    missing: Mapping[str, str]
    last_good: Mapping[str, str]
    intensity: IntensityTable


@dataclass(frozen=True, slots=True, kw_only=True)
class ActualReceived(Event):
    """Actual intensity that was learned."""

    name: ClassVar[str] = "actual"

    intensity: IntensityTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned(Event):
    """Plan of the remaining rounds, from ``round`` on; emissions [gCO2eq] are None without a forecast."""

    name: ClassVar[str] = "planned"

    round: int
    reason: str
    basis: str
    rests_on: Mapping[str, Any] = field(default_factory=dict)
    finish: datetime
    emissions_g: float | None
    lower_bound_g: float | None
    run_now_emissions_g: float | None
    saving: float | None
    power_assumed: bool
    min_turns: int
    max_turns: int
    windows: tuple[Window, ...]
    grid_from: datetime | None
    target_finish: datetime | None
    finish_by: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldStarted(Event):
    """Hold of a round until its window; emissions [gCO2eq] of opening then, and at once."""

    name: ClassVar[str] = "hold_started"

    round: int
    until: datetime
    seconds: float
    reason: str
    planned_g: float | None = None
    at_once_g: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Released(Event):
    """End of a hold at the operator's request."""

    name: ClassVar[str] = "open_now"

    round: int
    until: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Degraded(Event):
    """A fault, its cause, and what the run does instead."""

    name: ClassVar[str] = "degraded"

    what: str
    why: str
    consequence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundOpened(Event):
    """Opening of a round: its members, and their expected emissions [gCO2eq] and intensity."""

    name: ClassVar[str] = "round_opened"

    round: int
    opened_at: datetime
    held: timedelta
    planned_opens_at: datetime
    nodes: tuple[Member, ...]
    planned_g: float | None
    mean_g_per_kwh: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn(Event):
    """One completed turn of training or evaluation.

    Parameters
    ----------
    round : int
        The round, from 1.
    id : str
        Name of the node.
    location : str or None
        Location; None if unknown.
    started_at, ended_at : datetime
        When it really started and ended.
    duration : timedelta
        The time between.
    power_watts : float
        Power that the node is assumed to draw [W].
    energy_kwh : float
        Energy drawn [kWh].
    energy_basis : {"measured", "estimated", "assumed"}
        Origin of that energy: counters, power times time, or a default power times time.
    """

    round: int
    id: str
    location: str | None
    started_at: datetime
    ended_at: datetime
    duration: timedelta
    power_watts: float
    energy_kwh: float
    energy_basis: str

    @property
    def place(self) -> str:
        """The location, or the name of an unknown one."""
        return self.location or UNKNOWN_PLACE


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDone(Turn):
    """A completed turn of training."""

    name: ClassVar[str] = "node_done"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeEvaluated(Turn):
    """A completed turn of evaluation."""

    name: ClassVar[str] = "node_evaluated"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFailed(Event):
    """A turn that was not completed, and why."""

    name: ClassVar[str] = "node_failed"

    round: int
    id: str
    location: str | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundClosed(Event):
    """End of a round: its window, its nodes, and its energy [kWh] and emissions [gCO2eq] so far as known."""

    name: ClassVar[str] = "round_closed"

    round: int
    opens_at: datetime
    closes_at: datetime
    round_duration: timedelta
    nodes_done: int
    nodes_failed: int
    energy_kwh: float
    planned_g: float | None
    realised_g: float | None
    run_now_g: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedOnServer(Event):
    """Metrics of an evaluation on the server."""

    name: ClassVar[str] = "evaluated"

    round: int
    where: str = "server"
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedOnClients(Event):
    """Metrics of an evaluation on clients, its energy [kWh] and its emissions [gCO2eq] if known."""

    name: ClassVar[str] = "evaluated"

    round: int
    where: str = "clients"
    metrics: Mapping[str, float]
    nodes_done: int
    nodes_failed: int
    energy_kwh: float
    realised_g: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointWritten(Event):
    """A checkpoint, and the encoded metrics that the run has yielded since the one before."""

    name: ClassVar[str] = "checkpoint"

    round: int
    stage: str
    yielded: tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished(Event):
    """End of a run, in whatever state, with the figures of its rounds and their sums."""

    name: ClassVar[str] = "run_finished"

    status: str
    rounds: tuple[Figures, ...]
    planned_g: float | None
    realised_g: float | None
    run_now_g: float | None
    evaluation_g: float | None
    saving: float | None
    energy_kwh: float
    energy_by_basis: Mapping[str, float]
    evaluation_energy_kwh: float
    finish: datetime | None
    finish_by: datetime | None
    late: bool
    jain: float
    min_turns: int
    max_turns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Refreshed(Event):
    """Figures of rounds that became known after the run had ended."""

    name: ClassVar[str] = "refreshed"

    rounds: tuple[Figures, ...]


_EVENTS: Final = {
    cls.name: cls
    for cls in (
        RunStarted, RunResumed, NodesAwaited, NodesChanged, ForecastReceived, ActualReceived, Planned,
        HoldStarted, Released, Degraded, RoundOpened, NodeDone, NodeEvaluated, NodeFailed, RoundClosed,
        EvaluatedOnServer, EvaluatedOnClients, CheckpointWritten, RunFinished, Refreshed,
    )
}  # fmt: skip


# -- Writing -----------------------------------------------------------------------------------------------


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

    def append(self, event: Event | str, **data: object) -> None:
        """Write one event, and wait until it is on disk unless it is one of a round's nodes.

        If writing fails, the ledger ends with a warning; the training goes on.
        """
        name, data = (event, data) if isinstance(event, str) else (event.name, event.to_record())
        entry = {"v": LEDGER_VERSION, "at": self._clock.now(), "event": name, **data}
        if self.is_broken:
            return
        try:
            self._file.write(to_json(entry) + "\n")
            self._file.flush()
            if name not in _SYNCED_LATER:
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
