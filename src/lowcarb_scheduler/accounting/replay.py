"""Replay of a ledger: the state of a run after its events, and a record of each of its rounds."""

from __future__ import annotations

from collections import Counter, defaultdict
from copy import copy
from dataclasses import asdict, dataclass, field, replace
from functools import reduce
from typing import TYPE_CHECKING, Final

from lowcarb_scheduler.accounting.emissions import jain_index, known_saving, known_sum, saving
from lowcarb_scheduler.accounting.turns import attributed, expected_g, realised_g
from lowcarb_scheduler.events import (
    ActualReceived,
    CorrectionSettled,
    Degraded,
    EvaluatedOnClients,
    EvaluatedOnServer,
    Figures,
    FiguresRefreshed,
    ForecastReceived,
    HoldStarted,
    NodeDone,
    NodeEvaluated,
    NodeFailed,
    NodesAwaited,
    NodesChanged,
    OutputAveraged,
    Planned,
    Released,
    RoundClosed,
    RoundCorrected,
    RoundOpened,
    RunFinished,
    RunResumed,
    RunStarted,
)
from lowcarb_scheduler.intensity import Provenance

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime, timedelta

    from lowcarb_scheduler.events import Event, Member, Node, Turn, Window
    from lowcarb_scheduler.intensity import IntensityTable

_ROUNDING_KWH: Final = 1e-12  # what is left where a sum of energy is taken back


@dataclass(slots=True)
class RoundRecord:
    """Record of a round. Emissions [gCO2eq] are None where they are not known.

    Parameters
    ----------
    opened : RoundOpened
        Its opening, with the nodes that were selected.
    run_now_at : datetime
        Time at which it would have opened if no round had waited.
    closed : RoundClosed or None
        Its end; None while it is open.
    turns, evaluated : list of Turn
        Completed turns of training, and of evaluation.
    connected : mapping of str to Node
        All nodes that were connected when it closed, by id.
    failed : int
        Number of nodes that did not complete their turn.
    metrics : dict of str to float
        Metrics of its evaluations.
    correction : RoundCorrected or None
        Its participation correction.
    planned_g, realised_g : float or None
        Emissions of training, as expected when it opened, and on actual intensity.
    run_now_g : float or None
        Emissions of the same work by random clients, back-to-back from the start of the run.
    evaluation_g : float or None
        Emissions of evaluation on clients, on actual intensity.
    """

    opened: RoundOpened
    run_now_at: datetime
    closed: RoundClosed | None = None
    turns: list[Turn] = field(default_factory=list)
    evaluated: list[Turn] = field(default_factory=list)
    connected: Mapping[str, Node] = field(default_factory=dict)
    failed: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    correction: RoundCorrected | None = None
    planned_g: float | None = None
    realised_g: float | None = None
    run_now_g: float | None = None
    evaluation_g: float | None = 0.0

    @property
    def end(self) -> RoundClosed:
        """The end of a round that has closed."""
        assert self.closed is not None  # records of a run hold closed rounds only
        return self.closed

    @property
    def number(self) -> int:
        """Number of the round, from 1."""
        return self.opened.round

    @property
    def opens_at(self) -> datetime:
        """Time at which it really opened."""
        return self.end.opens_at

    @property
    def closes_at(self) -> datetime:
        """Time at which it really closed."""
        return self.end.closes_at

    @property
    def length(self) -> timedelta:
        """Planned length of a round."""
        return self.end.round_duration

    @property
    def held(self) -> timedelta:
        """Time that it was held, though it could have opened."""
        return self.opened.held

    @property
    def members(self) -> Sequence[Member]:
        """Nodes that were selected, and their planned windows."""
        return self.opened.nodes

    @property
    def nodes(self) -> int:
        """Number of nodes that completed their turn."""
        return self.end.nodes_done

    @property
    def energy_kwh(self) -> float:
        """Energy of training [kWh]."""
        return self.end.energy_kwh

    @property
    def evaluation_energy_kwh(self) -> float:
        """Energy of evaluation on clients [kWh]."""
        return sum(turn.energy_kwh for turn in self.evaluated)

    @property
    def figures(self) -> Figures:
        """Its emissions together."""
        return Figures(round=self.number, planned_g=self.planned_g, realised_g=self.realised_g,
                       run_now_g=self.run_now_g, evaluation_g=self.evaluation_g)  # fmt: skip

    def attribute(self, nodes: Mapping[str, Node]) -> bool:
        """Enter the work of nodes under what became known of them later; return whether any took part.

        Parameters
        ----------
        nodes : mapping of str to Node
            By former id, the nodes as they are known now.
        """
        ids = {turn.id for turn in (*self.turns, *self.evaluated)} | self.connected.keys()
        if ids.isdisjoint(nodes):
            return False
        for turns in (self.turns, self.evaluated):
            turns[:] = [attributed(turn, nodes[turn.id]) if turn.id in nodes else turn for turn in turns]
        connected = (nodes.get(key, node) for key, node in self.connected.items())
        self.connected = {node.id: node for node in connected}
        members = tuple(
            replace(member, id=nodes[member.id].id, location=nodes[member.id].location)
            if member.id in nodes else member
            for member in self.opened.nodes
        )  # fmt: skip
        self.opened = replace(self.opened, nodes=members)
        if self.closed is not None:
            self.closed = replace(self.closed, energy_kwh=sum(turn.energy_kwh for turn in self.turns))
        return True

    def unknown_because(self) -> str | None:
        """Return why its emissions are not known; None where they are."""
        if self.realised_g is not None and self.run_now_g is not None:
            return None
        unplaced = {node.id for node in self.connected.values() if node.location is None}
        unplaced |= {turn.id for turn in self.turns if turn.location is None}
        if unplaced:
            named = ", ".join(sorted(unplaced)[:3]) + (", ..." if len(unplaced) > 3 else "")
            return f"the location of {len(unplaced)} node(s) is not known: {named}"
        return f"the actual intensity of round {self.number} is not known"

    def settle(self, figures: Figures) -> None:
        """Enter emissions as they are known by now."""
        self.planned_g, self.realised_g = figures.planned_g, figures.realised_g
        self.run_now_g, self.evaluation_g = figures.run_now_g, figures.evaluation_g

    def learn(self, actual: IntensityTable | None) -> None:
        """Enter the emissions that actual intensity shows, where they were not known when it closed."""
        # Asked of all rounds whenever actual intensity comes, so no Figures is made for it.
        if None in (self.realised_g, self.run_now_g, self.evaluation_g):
            known = {name: value for name, value in asdict(self.figures).items() if value is not None}
            self.settle(Figures(**asdict(figures_of(self, actual)) | known))


@dataclass(frozen=True, slots=True)
class CorrectionSummary:
    """Participation correction of a run.

    Parameters
    ----------
    mode : {"off", "location", "node"}
        One memory a location, one a node, or none.
    reason : str or None
        The reason why it is off, or what speaks against it.
    rounds : int
        Number of rounds that count with their correction, which is 0 in a balanced round.
    mean_ratio, largest_ratio : float or None
        Norm of the correction in norms of the round's own step, over these rounds; None without one.
    places : int
        Number of locations that are remembered.
    oldest : int
        Largest number of rounds for which a location had not trained.
    cut : int
        Number of rounds in which the trust bound has shortened the correction.
    uncorrected : mapping of str to int
        Number of rounds that count without correction, by reason.
    """

    mode: str
    reason: str | None
    rounds: int
    mean_ratio: float | None
    largest_ratio: float | None
    places: int
    oldest: int
    cut: int
    uncorrected: Mapping[str, int]

    @classmethod
    def of(cls, settled: CorrectionSettled, rounds: Iterable[RoundRecord]) -> CorrectionSummary:
        """Return the summary of the rounds of a run."""
        events = [each.correction for each in rounds if each.correction is not None]
        ratios = [event.ratio for event in events if event.ratio is not None]
        return cls(
            settled.mode, settled.reason, len([event for event in events if event.reason is None]),
            sum(ratios) / len(ratios) if ratios else None, max(ratios, default=None),
            events[-1].places if events else 0, max((event.oldest for event in events), default=0),
            sum(event.was_cut for event in events),
            Counter(event.reason for event in events if event.reason is not None),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class InitialPlan:
    """The first plan of several rounds, and its inputs.

    Parameters
    ----------
    planned : Planned
        The plan.
    grid_from, finish_by, target_finish : datetime
        Start of the grid on which rounds open, deadline, and target of the run.
    forecast, actual : IntensityTable or None
        The intensity that was known.
    nodes : mapping of str to Node
        The nodes that were connected, by id.
    turns : mapping of str to int
        The turns they had completed.
    """

    planned: Planned
    grid_from: datetime
    finish_by: datetime
    target_finish: datetime
    forecast: IntensityTable | None
    actual: IntensityTable | None
    nodes: Mapping[str, Node]
    turns: Mapping[str, int]


class Record:
    """State of a run after the events of its ledger, and the sums over its rounds that have closed.

    Sums of emissions [gCO2eq] are None where one of their rounds is.

    Parameters
    ----------
    run_now_at : datetime, optional
        Start of the run; ``run_started`` tells it, too.

    Attributes
    ----------
    started : RunStarted
        Its first event.
    closed : dict of int to RoundRecord
        The rounds that have closed, by number. If a number ran twice, the last one counts.
    current : RoundRecord or None
        The round that opened last.
    nodes : mapping of str to Node
        The nodes that are connected, by id.
    all_nodes : dict of str to Node
        All nodes that have ever been connected, by id.
    turns : dict of str to int
        Completed turns, by node.
    energy_by_basis : dict of str to float
        Energy of training by its origin [kWh].
    initial_plan, first_plan, plan : InitialPlan or Planned or None
        The first plan of several rounds with its inputs, the first one at all, and the newest.
    windows : dict of int to Window
        Windows of the newest plan, as far as the ledger has them, by round.
    incidents : list of Degraded or NodeFailed
        Faults of sources and nodes.
    resumed : int
        Number of restarts after an early end.
    status : str
        ``unfinished``, or the status of ``run_finished``.
    activity : str
        ``preparing``, ``waiting for nodes``, ``holding``, ``training``, or the status once it has finished.
    waiting : HoldStarted or NodesAwaited or None
        The newest wait, for a window or for nodes.
    output_average : OutputAveraged or None
        The result of a run that returns a mean of models.
    is_open : bool
        Whether the round that opened last has not closed.
    """

    def __init__(self, run_now_at: datetime | None = None) -> None:
        self.started: RunStarted
        self.last_at: datetime
        self.closed: dict[int, RoundRecord] = {}
        self.current: RoundRecord | None = None
        # Replaced, never changed: records of earlier rounds refer to it.
        self.nodes: Mapping[str, Node] = {}
        self.all_nodes: dict[str, Node] = {}
        self.turns: dict[str, int] = {}
        self.energy_by_basis: defaultdict[str, float] = defaultdict(float)
        self.incidents: list[Degraded | NodeFailed] = []
        self.initial_plan: InitialPlan | None = None
        self.first_plan: Planned | None = None
        self.plan: Planned | None = None
        self.windows: dict[int, Window] = {}
        self.finished: RunFinished | None = None
        self._settled: CorrectionSettled | None = None
        self.output_average: OutputAveraged | None = None
        self.status, self.activity, self.resumed = "unfinished", "preparing", 0
        self.waiting: HoldStarted | NodesAwaited | None = None
        self.is_open = False
        self.run_now_at = run_now_at
        self.forecasts: list[IntensityTable] = []
        self._provenance: Provenance | None = None
        self._actual: IntensityTable | None = None
        self._turns_before: Counter[str] = Counter()  # in rounds that have closed

    @classmethod
    def of(cls, events: Iterable[Event]) -> Record:
        """Replay the events of a ledger."""
        record = cls()
        for event in events:
            record.read(event)
        return record

    def read(self, event: Event) -> None:
        """Take one more event into account."""
        self.last_at = event.at
        match event:
            case RunStarted():
                self.started, self.run_now_at = event, event.began_at
            # Events of lost work never get here: the reader of the ledger skips them.
            case RunResumed():
                self.status, self.activity, self.resumed = "unfinished", "preparing", self.resumed + 1
                self.waiting, self.is_open, self.finished = None, False, None
            case NodesChanged():
                # An event holds differences only; a node that changed is among those that joined.
                left, joined = set(event.left), {node.id: node for node in event.joined}
                # A new mapping: the rounds before keep theirs.
                self.nodes = {key: node for key, node in self.nodes.items() if key not in left} | joined
                self.all_nodes |= joined
                if event.better_known:
                    self._attribute({old: self.nodes[new] for old, new in event.better_known.items()})
                self.turns = dict.fromkeys(joined, 0) | self.turns
            case ForecastReceived():
                self.forecasts.append(event.intensity)
                self._provenance = event.intensity.provenance
            case ActualReceived():
                # A source may revise recent hours: the newest value counts.
                self._actual = event.intensity.over(self._actual)
                self._provenance = event.intensity.provenance
                # Providers are hours behind: a round is settled when its hours are known, not when it closes.
                for worked in self.closed.values():
                    worked.learn(self.actual)
            case Planned():
                self.windows = {window.round: window for window in event.windows}
                self.plan, self.first_plan = event, self.first_plan or event
                if not self.initial_plan and event.grid_from and event.finish_by and event.target_finish:
                    self.initial_plan = InitialPlan(
                        event, event.grid_from, event.finish_by, event.target_finish,
                        self.forecasts[-1] if self.forecasts else None, self._actual, self.nodes,
                        dict(self._turns_before),
                    )  # fmt: skip
            case CorrectionSettled():
                self._settled = event
            case OutputAveraged():
                self.output_average = event
            case HoldStarted():
                self.waiting, self.activity = event, "holding"
                self.windows |= {window.round: window for window in event.windows or ()}
            case NodesAwaited():
                self.waiting, self.activity = event, "waiting for nodes"
            case Released():
                self.activity = "preparing"
            case Degraded() | NodeFailed():
                self.incidents.append(event)
                if isinstance(event, NodeFailed) and self.current is not None:
                    self.current.failed += 1
            case RunFinished():
                self.status = self.activity = event.status
                self.finished, self.waiting = event, None
                # Rounds whose actual intensity came late are settled when the run ends.
                self.settle(event.rounds)
            case FiguresRefreshed():
                self.settle(event.rounds)
            case _:
                self._read_round(event)

    def _read_round(self, event: Event) -> None:
        """Take an event of a round into account."""
        if isinstance(event, RoundOpened):
            assert self.run_now_at is not None  # every ledger begins with run_started
            self.current = RoundRecord(event, self.run_now_at)
            self.waiting, self.is_open, self.activity = None, True, "training"
        if (current := self.current) is None:
            return  # the initial model is evaluated before the first round
        match event:
            case NodeDone():
                current.turns.append(event)
                self.turns[event.id] = self.turns.get(event.id, 0) + 1
                self.energy_by_basis[event.energy_basis] += event.energy_kwh
            case NodeEvaluated():
                current.evaluated.append(event)
            case EvaluatedOnServer() | EvaluatedOnClients():
                current.metrics |= event.metrics
                if isinstance(event, EvaluatedOnClients):
                    # The last round may have two: that of its model, and of the mean that the run returns.
                    current.evaluation_g = known_sum((current.evaluation_g, event.realised_g))
            case RoundCorrected():
                current.correction = event
            case RoundClosed():
                current.closed, current.connected = event, self.nodes
                current.planned_g, current.realised_g = event.planned_g, event.realised_g
                current.run_now_g = event.run_now_g
                self.closed[current.number] = current
                self._turns_before.update(turn.id for turn in current.turns)
                # Run-now does the same rounds without waits: the next one opens when this one would end.
                self.run_now_at = current.run_now_at + event.took
                self.is_open, self.activity = False, "preparing"

    def _attribute(self, nodes: Mapping[str, Node]) -> None:
        """Enter what nodes have done so far under what is known of them now."""
        former = {old for old, node in nodes.items() if old != node.id}
        self.all_nodes = {key: node for key, node in self.all_nodes.items() if key not in former}
        self.turns = dict(_renamed(self.turns, nodes))
        self._turns_before = _renamed(self._turns_before, nodes)
        if (begun := self.initial_plan) is not None:
            known = (nodes.get(key, node) for key, node in begun.nodes.items())
            self.initial_plan = replace(
                begun, nodes={node.id: node for node in known}, turns=dict(_renamed(begun.turns, nodes))
            )
        open_round = [self.current] if self.is_open and self.current is not None else []
        for worked in (*self.closed.values(), *open_round):
            before = list(worked.turns)
            if not worked.attribute(nodes):
                continue
            for sign, turns in ((-1, before), (1, worked.turns)):
                for turn in turns:
                    self.energy_by_basis[turn.energy_basis] += sign * turn.energy_kwh
            if worked.closed is not None:
                worked.settle(figures_of(worked, self.actual))
        for basis in [name for name, kwh in self.energy_by_basis.items() if abs(kwh) < _ROUNDING_KWH]:
            del self.energy_by_basis[basis]

    def settle(self, late: Iterable[Figures]) -> None:
        """Enter figures of rounds that were learned after these had closed."""
        for figures in late:
            if (worked := self.closed.get(figures.round)) is not None:
                worked.settle(figures)

    def figures_on(self, actual: IntensityTable | None) -> dict[int, Figures]:
        """Return the emissions of each round on actual intensity, by number."""
        return {worked.number: figures_of(worked, actual) for worked in self.rounds}

    def with_figures(self, figures: Mapping[int, Figures]) -> Record:
        """Return a record of the same rounds with other emissions."""
        other = copy(self)
        other.closed = {number: replace(worked) for number, worked in self.closed.items()}
        other.settle(figures.values())
        return other

    @property
    def correction(self) -> CorrectionSummary | None:
        """Participation correction of the run; None in ledgers of earlier versions."""
        return None if self._settled is None else CorrectionSummary.of(self._settled, self.rounds)

    @property
    def rounds(self) -> tuple[RoundRecord, ...]:
        """The rounds that have closed, in order."""
        return tuple(self.closed[number] for number in sorted(self.closed))

    @property
    def upcoming(self) -> tuple[Window, ...]:
        """The rounds that have not opened, as they were planned last; none once the run has ended."""
        if self.plan is None or self.first_plan is None or self.finished is not None:
            return ()
        # A resumed run opens rounds anew: what counts is the last one that closed, or is open.
        last = max(self.closed, default=0)
        if self.is_open and self.current is not None:
            last = max(last, self.current.number)
        # A later plan lists its next rounds only: of those after them the first plan is the last that tells.
        known = [window for window in self.plan.windows if window.round > last]
        told = max((window.round for window in self.plan.windows), default=0)
        free_at = max((window.closes_at for window in self.plan.windows), default=self.last_at)
        later = (window for window in self.first_plan.windows if window.round > max(last, told))
        return (*known, *(window for window in later if window.opens_at >= free_at))

    @property
    def finish_by(self) -> datetime | None:
        """The deadline; None for a run without one."""
        return (self.finished or self.started).finish_by

    @property
    def actual(self) -> IntensityTable | None:
        """All actual intensity, later values first; None if its signal is not that of the forecasts."""
        if self._actual and self.forecasts and self._actual.signal != self.forecasts[-1].signal:
            return None  # signals are never mixed: plans were made on the other one
        return self._actual

    @property
    def known_intensity(self) -> IntensityTable | None:
        """Actual intensity, and the newest forecast where there is none; None if both are missing."""
        first: IntensityTable | None = None
        expected = reduce(lambda older, newer: newer.over(older), self.forecasts, first)
        return expected if self.actual is None else self.actual.over(expected)

    @property
    def provenance(self) -> Provenance:
        """Provenance of the newest intensity, without a source if there is none."""
        return self._provenance or Provenance(None, synthetic=self.started.source == "synthetic")

    @property
    def degraded(self) -> tuple[Degraded, ...]:
        """Faults that the run went on with."""
        return tuple(event for event in self.incidents if isinstance(event, Degraded))

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
        """Emissions of as many rounds of random clients, back-to-back from the start."""
        return known_sum(r.run_now_g for r in self.rounds)

    @property
    def saving(self) -> float | None:
        """Part of the run-now emissions that was avoided."""
        return saving(self.realised_g, self.run_now_g)

    @property
    def known_saving(self) -> tuple[float | None, int]:
        """The same over the rounds whose emissions are known, and the number of these."""
        return known_saving((r.realised_g, r.run_now_g) for r in self.rounds)

    @property
    def unknown_because(self) -> str | None:
        """Reason why the emissions of a round are not known; None where all are."""
        return next((why for r in self.rounds if (why := r.unknown_because())), None)

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
        """Time at which the last round closed."""
        return self.rounds[-1].closes_at if self.rounds else None

    @property
    def jain(self) -> float:
        """Jain's index of completed turns."""
        return jain_index(list(self.turns.values()))


def _renamed(turns: Mapping[str, int], nodes: Mapping[str, Node]) -> Counter[str]:
    """Return numbers of turns by the present ids of nodes; those of one node are added up."""
    counted: Counter[str] = Counter()
    for key, count in turns.items():
        counted[nodes[key].id if key in nodes else key] += count
    return counted


def summarise(events: Iterable[Event]) -> Record:
    """Return the record of a run.

    Parameters
    ----------
    events : iterable of Event
        The events of its ledger, see :func:`~lowcarb_scheduler.ledger.read_ledger`.
    """
    return Record.of(events)


def rounds_of(events: Iterable[Event]) -> Iterator[RoundRecord]:
    """Yield the rounds of a ledger that have closed, holding one of them at a time."""
    record = Record()
    for event in without_tables(events):
        # A round is complete when the next one opens: evaluation may follow its close.
        if isinstance(event, RoundOpened):
            yield from record.rounds
            record.closed.clear()
        record.read(event)
    yield from record.rounds


def without_tables(events: Iterable[Event]) -> Iterator[Event]:
    """Yield events but for forecasts and actual intensity: the tables of a whole run are large."""
    return (event for event in events if not isinstance(event, ForecastReceived | ActualReceived))


def figures_of(worked: RoundRecord, actual: IntensityTable | None) -> Figures:
    """Return the emissions of a round on actual intensity."""
    if actual is None:
        evaluation_g = None if worked.evaluated else 0.0
        return Figures(round=worked.number, planned_g=worked.planned_g, evaluation_g=evaluation_g)
    return Figures(
        round=worked.number,
        planned_g=worked.planned_g,
        realised_g=realised_g(worked.turns, actual),
        run_now_g=expected_g(worked.connected, worked.turns, actual, worked.run_now_at, worked.length),
        evaluation_g=realised_g(worked.evaluated, actual),
    )
