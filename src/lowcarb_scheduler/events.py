"""Events of a ledger: one frozen class for each, and how they are stored as JSON objects."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import MISSING, dataclass, field, fields
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from lowcarb_scheduler.clock import parse_time
from lowcarb_scheduler.intensity import IntensityTable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

UNKNOWN_PLACE: Final = "unknown"  # stands for the location of a node whose location is unknown
LATER: Final = {"later": True}  # a field that earlier versions did not write: left out where it is None
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
        # No zero-argument super() in subclasses: slots make dataclass build the class a second time.
        record: dict[str, Any] = {}
        for name, key, is_nested, *_, is_later in _schema(type(self)):
            value = getattr(self, name)
            if value is None and is_later:
                continue
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
        values: dict[str, Any] = {"at": _time(record["at"], "at")} if issubclass(cls, Event) else {}
        for name, key, _, decode, is_optional, _ in _schema(cls):
            if key is None:
                values[name] = IntensityTable.from_record(record)
            elif key in record:
                values[name] = record[key] if decode is None else decode(record[key], key)
            elif not is_optional:
                raise KeyError(key)
        return cls(**values)


# Built once a class: a round of 10,000 nodes writes and reads as many events.
_SCHEMAS: Final[dict[type, list[tuple[Any, ...]]]] = {}


def _schema(cls: type[Entry]) -> list[tuple[Any, ...]]:
    """Return (field, key, holds entries, decoder, has a default, is later) for each field of a class."""
    if (schema := _SCHEMAS.get(cls)) is None:
        schema = _SCHEMAS[cls] = []
        for each in fields(cls):
            if each.name == "at":  # the ledger itself stamps it
                continue
            kind = str(each.type)  # a string, as annotations are postponed in this module
            key = None if kind == "IntensityTable" else each.name + "_s" * kind.startswith("timedelta")
            is_optional = each.default is not MISSING or each.default_factory is not MISSING
            is_later = bool(each.metadata.get("later"))
            schema.append((each.name, key, bool(_entry_class(kind)), _decoder(kind), is_optional, is_later))
    return schema


def _entry_class(kind: str) -> type[Entry] | None:
    """Return the class of the entries in a tuple of them, from its annotation."""
    match = re.fullmatch(r"tuple\[(\w+), \.\.\.\]( \| None)?", kind)
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
    return _checked(kind)


def _checked(kind: str) -> Callable[[Any, str], Any] | None:
    """Return the function that refuses another type of JSON value; None where any will do."""
    name, _, inner = kind.removesuffix(" | None").partition("[")
    types = {"float": (int, float), "int": (int,), "Mapping": (dict,), "Sequence": (list,)}.get(name)
    if types is None:
        return None
    has_numbers = inner in ("str, float]", "str, int]")

    def check(value: Any, key: str) -> Any:
        numbers = value.values() if has_numbers and isinstance(value, dict) else ()
        # A number that JSON cannot write is null in a ledger, whatever the field.
        is_wrong = value is not None and (not isinstance(value, types) or isinstance(value, bool))
        if is_wrong or not all(each is None or type(each) in (int, float) for each in numbers):
            raise TypeError(f"{key} is {value!r:.40}")
        return value

    return check


_time = lru_cache(maxsize=256)(parse_time)  # thousands of nodes share a few times


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
    """A node that is selected for a round, and its planned window; :class:`RoundOpened` stores it."""

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
class ProcessBegun(Event):
    """Base class of the two beginnings of a process: its run and strategy, and the versions that run it."""

    run_id: str
    flwr_version: str
    strategy: str
    source: str | None
    version: str
    app: str | None = field(default=None, metadata=LATER)  # publisher and name, where Flower tells them


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(ProcessBegun):
    """Start of a run: its job, and its settings without secrets."""

    name: ClassVar[str] = "run_started"

    settings: Mapping[str, Any]
    started_at: datetime | None = None  # missing in the first ledgers
    rounds: int
    clients_per_round: int | None
    round_duration: timedelta | None
    finish_by: datetime | None
    target_finish: datetime | None
    patience: float
    participation: Any  # a word, or bounds as a list of two
    clock: str
    model_bytes: int | None = field(default=None, metadata=LATER)  # of the initial arrays

    @property
    def began_at(self) -> datetime:
        """When the run began; run-now counts from then."""
        return self.started_at or self.at


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResumed(ProcessBegun):
    """Continuation of a run; the lines after line ``after`` are of work that was lost."""

    name: ClassVar[str] = "run_resumed"

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
    """Nodes that joined or changed since the last look, and the ids of those that left.

    Parameters
    ----------
    joined : tuple of Node
        Nodes that joined or changed.
    left : tuple of str
        Ids of those that left, and former ids of those that changed theirs.
    better_known : mapping of str to str, optional
        Former and present ids of nodes that stayed, and of which more is known now: what they have done so
        far counts for the present id, at the present location.
    """

    name: ClassVar[str] = "nodes"

    joined: tuple[Node, ...]
    left: tuple[str, ...]
    better_known: Mapping[str, str] | None = field(default=None, metadata=LATER)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastReceived(Event):
    """Newest forecast of each location.

    Parameters
    ----------
    generated_at : datetime
        When the oldest part was issued.
    issued_at : mapping of str to datetime
        When each location's part was issued; empty where all were issued together.
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
    """Plan of the remaining rounds, from ``round`` on; emissions [gCO2eq] are None without a forecast.

    The first plan of several rounds has the windows of all of them, a later one those of the next rounds.
    """

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
    # Where turns differ by location, in the first plan.
    saving_with_equal_turns: float | None = field(default=None, metadata=LATER)


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldStarted(Event):
    """Hold of a round until its window; emissions [gCO2eq] of opening then, and at once.

    ``windows`` are those of the plan that stands, from this round on, where no event before has this one's.
    """

    name: ClassVar[str] = "hold_started"

    round: int
    until: datetime
    seconds: float
    reason: str
    planned_g: float | None = None
    at_once_g: float | None = None
    windows: tuple[Window, ...] | None = field(default=None, metadata=LATER)


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
    """Opening of a round: its members, and their expected emissions [gCO2eq] and intensity.

    Most members start with the round and end together: ``starts_at`` of those that start at ``opened_at`` is
    not stored, nor ``ends_at`` of those that end at the event's own. Earlier versions stored all of them.
    """

    name: ClassVar[str] = "round_opened"

    round: int
    opened_at: datetime
    held: timedelta
    planned_opens_at: datetime
    nodes: tuple[Member, ...]
    planned_g: float | None
    mean_g_per_kwh: float | None

    def to_record(self) -> dict[str, Any]:
        """Return the event as keys and values for the JSON writer."""
        record = Entry.to_record(self)
        usual: dict[str, Any] = {"starts_at": self.opened_at}
        if self.nodes:
            usual["ends_at"] = Counter(node.ends_at for node in self.nodes).most_common(1)[0][0]
        record["nodes"] = [
            {key: value for key, value in node.items() if key not in usual or value != usual[key]}
            for node in record["nodes"]
        ]
        return {**record, "ends_at": usual.get("ends_at")}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Return the event of a JSON object."""
        usual = {"starts_at": record["opened_at"]}
        if "ends_at" in record:
            usual["ends_at"] = record["ends_at"]
        nodes = [{**usual, **node} for node in record["nodes"]]
        return super(RoundOpened, cls).from_record({**record, "nodes": nodes})


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
    started_at : datetime
        When it really started.
    duration : timedelta
        The time that it took.
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
    duration: timedelta
    power_watts: float
    energy_kwh: float
    energy_basis: str

    @property
    def ended_at(self) -> datetime:
        """When it really ended."""
        return self.started_at + self.duration

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
class CorrectionSettled(Event):
    """Mode of the participation correction in a run, and the reason why it is off."""

    name: ClassVar[str] = "correction_settled"

    mode: str
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundCorrected(Event):
    """Participation correction of a round.

    Parameters
    ----------
    round : int
        The round, from 1.
    ratio : float or None
        Norm of the correction in norms of the round's own step; 0 in a balanced round, None if unknown.
    places : int
        Number of locations that are remembered.
    oldest : int
        Number of rounds since the location that has not trained for longest has.
    was_cut : bool
        Whether the trust bound has shortened the correction.
    reason : str or None
        The reason why the round counts without correction.
    """

    name: ClassVar[str] = "round_corrected"

    round: int
    ratio: float | None
    places: int
    oldest: int
    was_cut: bool
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputAveraged(Event):
    """Mean of the last models as the result of a run, and its metrics on the server and on clients."""

    name: ClassVar[str] = "output_averaged"

    models: int
    metrics: Mapping[str, float]
    client_metrics: Mapping[str, float] | None = field(default=None, metadata=LATER)


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

    @property
    def took(self) -> timedelta:
        """Time from opening to closing."""
        return self.closes_at - self.opens_at


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
    yielded: Sequence[Mapping[str, Any]]


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
    # Where the saving is unknown: that of the rounds that are known, their number, and why others are not.
    known_saving: float | None = field(default=None, metadata=LATER)
    known_rounds: int | None = field(default=None, metadata=LATER)
    unknown_because: str | None = field(default=None, metadata=LATER)


@dataclass(frozen=True, slots=True, kw_only=True)
class FiguresRefreshed(Event):
    """Figures of rounds that became known after the run had ended."""

    name: ClassVar[str] = "refreshed"

    rounds: tuple[Figures, ...]


_EVENTS: Final = {
    cls.name: cls
    for cls in (
        RunStarted, RunResumed, NodesAwaited, NodesChanged, ForecastReceived, ActualReceived, Planned,
        HoldStarted, Released, Degraded, RoundOpened, NodeDone, NodeEvaluated, NodeFailed, CorrectionSettled,
        RoundCorrected, OutputAveraged, RoundClosed, EvaluatedOnClients, CheckpointWritten, RunFinished,
        FiguresRefreshed,
    )
}  # fmt: skip


def event_of(record: Mapping[str, Any]) -> Event:
    """Return the event of a line; an event of an unknown name has no fields but its time.

    Raises
    ------
    KeyError, TypeError, ValueError, InputError
        If the line is not as this version writes it.
    """
    is_server = record["event"] == EvaluatedOnServer.name and record["where"] == "server"
    cls = EvaluatedOnServer if is_server else _EVENTS.get(record["event"], Event)
    return cls.from_record(record)
