"""What a ledger says of the rounds that have closed, gathered in one pass: who was to train, and who did."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lowcarb_scheduler.accounting.turns import Node, Turn, took, update_nodes
from lowcarb_scheduler.clock import parse_time
from lowcarb_scheduler.errors import InputError, MissingExtraError
from lowcarb_scheduler.intensity import IntensityTable, Provenance

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime


class Member(NamedTuple):
    """Who was to train in a round, and when."""

    key: str
    location: str | None
    starts_at: datetime
    ends_at: datetime


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """One round.

    Parameters
    ----------
    number : int
        The round, from 1.
    opens_at, closes_at : datetime
        When it really opened and closed.
    run_now_at : datetime
        When it would have opened had no round waited.
    length : timedelta
        How long a round was planned.
    planned_g : float or None
        What was expected when it opened [gCO2eq].
    members : tuple of Member
        Who was to train.
    turns, evaluated : tuple of Turn
        Who has trained, and evaluated.
    nodes : mapping of str to Node
        Everyone who was there when it closed, by key.
    """

    number: int
    opens_at: datetime
    closes_at: datetime
    run_now_at: datetime
    length: timedelta
    planned_g: float | None
    members: tuple[Member, ...]
    turns: tuple[Turn, ...]
    evaluated: tuple[Turn, ...]
    nodes: Mapping[str, Node]


@dataclass(frozen=True, slots=True)
class InitialPlan:
    """The first plan of several rounds, and what it rested on.

    Parameters
    ----------
    planned : mapping
        Its ``planned`` event.
    forecast, actual : IntensityTable or None
        What was known of intensity.
    nodes : mapping of str to Node
        Who was there, by key.
    turns : mapping of str to int
        Turns they had completed.
    """

    planned: Mapping[str, Any]
    forecast: IntensityTable | None
    actual: IntensityTable | None
    nodes: Mapping[str, Node]
    turns: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Record:
    """What a ledger says.

    Parameters
    ----------
    started : mapping
        Its ``run_started`` event.
    rounds : tuple of RoundRecord
        Those that have closed, in order.
    actual : IntensityTable or None
        The newest that is known of actual intensity.
    beginning : InitialPlan or None
        None where rounds were never planned together.
    has_completed : bool
        Whether all rounds were done.
    """

    started: Mapping[str, Any]
    rounds: tuple[RoundRecord, ...]
    actual: IntensityTable | None
    beginning: InitialPlan | None
    has_completed: bool

    @property
    def started_at(self) -> datetime:
        """When the run began."""
        return began(self.started)

    @classmethod
    def of(cls, events: Iterable[Mapping[str, Any]]) -> Record:
        """Gather what the events of a ledger say."""
        reading = _Reading()
        for event in events:
            reading.read(event)
        return reading.record()


@contextmanager
def as_written(file: str) -> Iterator[None]:
    """Refuse events of a ledger that are not as this version writes them, and name the file.

    Raises
    ------
    InputError
        If they are not.
    """
    try:
        yield
    except MissingExtraError:
        raise
    except InputError as error:
        raise error.within(file) from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        problem = f"holds an event this version does not write ({type(error).__name__}: {error})"
        raise InputError("ledger", problem, "use the version that wrote it", file) from error


def began(started: Mapping[str, Any]) -> datetime:
    """Return when a run began, from its ``run_started`` event."""
    at = started.get("started_at")
    return started["at"] if at is None else parse_time(at, "started_at")


class _Reading:
    """What has been read so far."""

    def __init__(self) -> None:
        self._times: dict[str, datetime] = {}  # thousands of nodes share a few
        self._nodes: dict[str, Node] = {}
        self._snapshot: Mapping[str, Node] | None = None
        self._turns: list[Turn] = []
        self._done: Counter[str] = Counter()
        self._evaluated: dict[int, list[Turn]] = {}
        self._opened: Mapping[str, Any] = {}
        self._rounds: dict[int, RoundRecord] = {}  # of a number that was run twice the last one counts
        self._actual: IntensityTable | None = None
        self._forecast: IntensityTable | None = None
        self._started: Mapping[str, Any] = {}
        self._run_now_at: datetime | None = None
        self._beginning: InitialPlan | None = None
        self._has_completed = False

    def read(self, event: Mapping[str, Any]) -> None:
        match event["event"]:
            case "run_started":
                self._started, self._run_now_at = event, began(event)
            case "nodes":
                update_nodes(self._nodes, event)
                self._snapshot = None
            case "forecast":
                self._forecast = IntensityTable.from_record(event)
            case "actual":
                self._actual = IntensityTable.from_record(event).over(self._actual)
            case "planned" if self._beginning is None and event["grid_from"] is not None:
                self._beginning = InitialPlan(
                    event, self._forecast, self._actual, self._everyone(), dict(self._done)
                )
            case "round_opened":
                self._opened, self._turns = event, []
                self._evaluated.pop(event["round"], None)
            case "node_done":
                self._turns.append(Turn.from_event(event))
            case "node_evaluated":
                self._evaluated.setdefault(event["round"], []).append(Turn.from_event(event))
            case "round_closed":
                self._close(event)
            case "run_finished":
                self._has_completed = event["status"] == "completed"

    def _everyone(self) -> Mapping[str, Node]:
        """Return the nodes as they are now; as long as nobody joins or leaves it is one mapping."""
        if self._snapshot is None:
            self._snapshot = dict(self._nodes)
        return self._snapshot

    def _close(self, event: Mapping[str, Any]) -> None:
        assert self._run_now_at is not None  # every ledger begins with run_started
        number = event["round"]
        self._rounds[number] = RoundRecord(
            number=number,
            opens_at=parse_time(event["opens_at"], "opens_at"),
            closes_at=parse_time(event["closes_at"], "closes_at"),
            run_now_at=self._run_now_at,
            length=timedelta(seconds=event["round_duration_s"]),
            planned_g=event["planned_g"],
            members=tuple(
                Member(m["id"], m["location"], self._time(m["starts_at"]), self._time(m["ends_at"]))
                for m in self._opened["nodes"]
            ),
            turns=tuple(self._turns),
            evaluated=(),
            nodes=self._everyone(),
        )
        self._done.update(turn.key for turn in self._turns)
        self._run_now_at += took(event)

    def _time(self, text: str) -> datetime:
        if (when := self._times.get(text)) is None:
            when = self._times[text] = parse_time(text, "starts_at")
        return when

    def record(self) -> Record:
        actual = self._actual
        if actual is not None and self._forecast is not None and actual.signal != self._forecast.signal:
            actual = None  # it is not what was planned on
        rounds = tuple(
            replace(worked, evaluated=tuple(self._evaluated.get(number, ())))
            for number, worked in sorted(self._rounds.items())
        )
        return Record(self._started, rounds, actual, self._beginning, self._has_completed)


def deadline_of(events: Sequence[Mapping[str, Any]]) -> datetime | None:
    """Return when a run had to be over, as it said last; None where it did not have to."""
    ended = next((event for event in reversed(events) if event["event"] == "run_finished"), events[0])
    finish_by = ended["finish_by"]
    return parse_time(finish_by, "finish_by") if finish_by else None


def known_intensity(events: Iterable[Mapping[str, Any]]) -> IntensityTable | None:
    """Return what a ledger knows of intensity: actuals, and where there are none the newest forecast.

    None where it holds neither.
    """
    forecasts: list[IntensityTable] = []
    actuals: list[IntensityTable] = []
    for event in events:
        if event["event"] in ("forecast", "actual"):
            (actuals if event["event"] == "actual" else forecasts).append(IntensityTable.from_record(event))
    return _overlaid([*forecasts, *actuals])


def provenance_of(events: Sequence[Mapping[str, Any]]) -> Provenance:
    """Return the provenance of the newest intensity in a ledger, without a source if there is none."""
    known = [event for event in events if event["event"] in ("forecast", "actual")]
    if known:
        return Provenance(known[-1]["source"], known[-1]["signal"], known[-1]["synthetic"])
    return Provenance(None, synthetic=events[0]["source"] == "synthetic")


def _overlaid(tables: Sequence[IntensityTable]) -> IntensityTable | None:
    """Return one table, in which a later one covers those before it wherever it has a value."""
    if not tables:
        return None
    locations = tuple(dict.fromkeys(name for table in tables for name in table.locations))
    edges = np.unique(np.concatenate([table.edges_us for table in tables]))
    values = np.full((len(edges) - 1, len(locations)), np.nan)
    for table in tables:
        step = np.searchsorted(table.edges_us, edges[:-1], side="right") - 1
        inside = (step >= 0) & (step < len(table.values))
        found = table.align(locations).values[step[inside]]
        values[inside] = np.where(np.isnan(found), values[inside], found)
    last = tables[-1]
    return last.relaid(edges, locations, values)


def entry_time(entry: Mapping[str, Any], key: str) -> datetime:
    """Read a time of an event."""
    return parse_time(entry[key], key)
