"""Recorder of a run: nodes, turns and emissions of each round, in memory and in the ledger.

Planned emissions use the forecast when the round opened, realised and run-now emissions actual intensity. If
that is unknown when a round closes, they are computed from the ledger when the run ends. So memory holds a
few numbers for each closed round, however many clients it had.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Final

from lowcarb_scheduler.accounting.emissions import jain_index, known_sum, saving
from lowcarb_scheduler.accounting.replay import Record, figures_of, rounds_of
from lowcarb_scheduler.accounting.turns import expected_g, node_of, realised_g, turn_of
from lowcarb_scheduler.errors import LowcarbError
from lowcarb_scheduler.events import (
    EvaluatedOnClients,
    Figures,
    Member,
    NodeDone,
    NodeEvaluated,
    NodeFailed,
    NodesChanged,
    RoundClosed,
    RoundOpened,
    RunFinished,
)
from lowcarb_scheduler.ledger import iter_ledger

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime, timedelta

    from lowcarb_scheduler.accounting.turns import Profile, TurnReport
    from lowcarb_scheduler.events import Event, Node, Turn
    from lowcarb_scheduler.intensity import IntensityTable
    from lowcarb_scheduler.ledger import Ledger
    from lowcarb_scheduler.scheduling.messages import RunLog

Window = tuple["datetime", "datetime"]
_MOST_FAILURES: Final = 3  # in a row, after which a node owes no more turns


@dataclass(slots=True)
class Round:
    """Round that is open.

    Parameters
    ----------
    number : int
        The round, from 1.
    opened_at, planned_closes_at : datetime
        Its window.
    members : mapping of int to (Profile, Window)
        Selected nodes and their planned windows, by node id.
    planned_g : float or None
        Expected emissions [gCO2eq]; None without a forecast.
    started, ended : dict of int to datetime
        When a node was really sent its message, and when its reply came, by node id; only where these differ
        from the opening of the round and the end of its training.
    unsent : dict of int to str
        Why a node was sent no message, by node id.
    turns : sequence of Turn
        Completed turns.
    failed : int
        Number of turns that were not completed.
    evaluation_g : float or None
        Emissions of evaluation on clients [gCO2eq].
    """

    number: int
    opened_at: datetime
    planned_closes_at: datetime
    members: Mapping[int, tuple[Profile, Window]]
    planned_g: float | None
    started: dict[int, datetime] = field(default_factory=dict)
    ended: dict[int, datetime] = field(default_factory=dict)
    unsent: dict[int, str] = field(default_factory=dict)
    turns: Sequence[Turn] = field(default_factory=list)
    failed: int = 0
    evaluation_g: float | None = 0.0


class RunRecorder:
    """Recorder of one run.

    Parameters
    ----------
    ledger : Ledger
        Takes ``nodes``, ``round_opened``, ``node_done``, ``node_failed``, ``node_evaluated``, ``evaluated``,
        ``round_closed`` and ``run_finished``.
    log : RunLog
        Takes warnings.
    started : datetime
        When the run began; run-now starts then.

    Attributes
    ----------
    current : Round or None
        The round that is open.
    opened : int
        Number of the round that opened last.
    """

    def __init__(self, ledger: Ledger, log: RunLog, started: datetime) -> None:
        self._ledger, self._log, self._started = ledger, log, started
        self.current: Round | None = None
        self.opened = 0
        self._completed: Counter[str] = Counter()
        self._credited: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()  # in a row, by node
        self._nodes: dict[str, Node] = {}
        self._figures: dict[int, Figures] = {}
        self._energy_by_basis: defaultdict[str, float] = defaultdict(float)
        self._evaluation_kwh = 0.0
        self._closed_at: datetime | None = None
        self._run_now_opens_at = started  # next round of run-now: the same rounds without waits

    # -- Nodes ---------------------------------------------------------------------------------------------

    @property
    def nodes(self) -> Mapping[str, Node]:
        """Nodes that were connected at the last look, by key."""
        return self._nodes

    @property
    def turns(self) -> dict[str, int]:
        """Turns that count for a node: completed, and credited for the time before it joined."""
        return {key: done + self._credited[key] for key, done in self._completed.items()}

    def add_nodes(self, arrived: Iterable[str], present: Iterable[str]) -> None:
        """Enter nodes that join or return; each is credited up to the mean of the others and owes nothing.

        Parameters
        ----------
        arrived, present : iterable of str
            Keys of nodes that are new since the last look, and of all connected nodes.
        """
        new, turns = set(arrived), self.turns
        counted = [turns[key] for key in present if key not in new]
        mean = sum(counted) // len(counted) if counted else 0
        for key in sorted(new):
            self._completed.setdefault(key, 0)
            self._credited[key] += max(0, mean - turns.get(key, 0))

    def update_nodes(self, profiles: Iterable[Profile]) -> None:
        """Enter the connected nodes, if they or their properties have changed."""
        nodes = {profile.key: node_of(profile) for profile in profiles}
        joined = tuple(node for key, node in nodes.items() if self._nodes.get(key) != node)
        left = tuple(key for key in self._nodes if key not in nodes)
        if joined or left:
            self._nodes = nodes
            self._ledger.append(NodesChanged(joined=joined, left=left))

    # -- Round, in order of events -------------------------------------------------------------------------

    def open(self, opened: Round, held: timedelta, planned_opens_at: datetime) -> None:
        """Enter a round that opens."""
        self.current, self.opened = opened, opened.number
        number, members = opened.number, opened.members.values()
        kwh = sum(turn_of(NodeDone, number, profile, window).energy_kwh for profile, window in members)
        mean = opened.planned_g / kwh if opened.planned_g is not None and kwh > 0 else None
        nodes = tuple(
            Member(id=profile.key, location=profile.location, starts_at=starts_at, ends_at=ends_at)
            for profile, (starts_at, ends_at) in members
        )
        self._ledger.append(
            RoundOpened(
                round=number, opened_at=opened.opened_at, held=held, planned_opens_at=planned_opens_at,
                nodes=nodes, planned_g=opened.planned_g, mean_g_per_kwh=mean,
            )
        )  # fmt: skip

    def train_ended(self, done: Mapping[int, tuple[Window, TurnReport]], failed: Mapping[int, str]) -> None:
        """Enter completed turns with the reports of their nodes, and the failures of others, by node id."""
        if (current := self.current) is None:
            return
        turns = [
            turn_of(NodeDone, current.number, current.members[node_id][0], *each)
            for node_id, each in done.items()
        ]
        current.turns = sorted(turns, key=lambda turn: turn.id)
        current.failed = len(current.members) - len(turns)
        for turn in current.turns:
            self._completed[turn.id] += 1
            self._energy_by_basis[turn.energy_basis] += turn.energy_kwh
            self._ledger.append(turn)
        for node_id, (profile, _) in current.members.items():
            if node_id in done:
                self._failures.pop(profile.key, None)
            else:
                self._owe(profile.key)
                reason = failed.get(node_id) or current.unsent.get(node_id, "no reply")
                self._ledger.append(
                    NodeFailed(round=current.number, id=profile.key, location=profile.location, reason=reason)
                )

    def _owe(self, key: str) -> None:
        """Count a failure: the node owes the turn, until it has failed too often in a row."""
        self._failures[key] += 1
        # A node that always fails would be selected for every round, and its seat lost.
        if self._failures[key] >= _MOST_FAILURES:
            self._credited[key] += 1
            why = f"{key} has failed {_MOST_FAILURES} times in a row"
            self._log.warn("node", why, "it is asked no more often than the others")

    def evaluated(
        self, number: int, done: Sequence[tuple[Profile, Window, TurnReport]], failed: int,
        metrics: Mapping[str, float], actual: IntensityTable | None,
    ) -> None:  # fmt: skip
        """Enter an evaluation on clients, with the windows and reports of its nodes."""
        turns = [turn_of(NodeEvaluated, number, *each) for each in sorted(done, key=lambda each: each[0].key)]
        for turn in turns:
            self._ledger.append(turn)
        kwh = sum(turn.energy_kwh for turn in turns)
        grams = realised_g(turns, actual) if actual is not None else None if turns else 0.0
        self._evaluation_kwh += kwh
        self._note_evaluation(number, grams)
        self._ledger.append(
            EvaluatedOnClients(
                round=number, metrics=metrics, nodes_done=len(turns), nodes_failed=failed, energy_kwh=kwh,
                realised_g=grams,
            )
        )  # fmt: skip

    def close(self, now: datetime, round_duration: timedelta, actual: IntensityTable | None) -> None:
        """Close the round that is open, on the actual intensity known so far."""
        if (current := self.current) is None:
            return
        now = max(now, current.opened_at)  # a clock may be set back
        figures = Figures(
            round=current.number, planned_g=current.planned_g, evaluation_g=current.evaluation_g
        )
        if actual is not None:
            figures = replace(
                figures,
                realised_g=realised_g(current.turns, actual),
                run_now_g=expected_g(
                    self._nodes, current.turns, actual, self._run_now_opens_at, round_duration
                ),
            )
        self._figures[current.number] = figures
        self.current, self._closed_at = None, now
        self._run_now_opens_at += now - current.opened_at
        self._ledger.append(
            RoundClosed(
                round=current.number, opens_at=current.opened_at, closes_at=now,
                round_duration=round_duration, nodes_done=len(current.turns), nodes_failed=current.failed,
                energy_kwh=sum(turn.energy_kwh for turn in current.turns), planned_g=figures.planned_g,
                realised_g=figures.realised_g, run_now_g=figures.run_now_g,
            )
        )  # fmt: skip

    @property
    def is_settled(self) -> bool:
        """Whether the realised emissions of every closed round are known."""
        return all(figures.are_known for figures in self._figures.values())

    def finish(self, status: str, finish_by: datetime | None, actual: IntensityTable | None) -> RunFinished:
        """Sum up the run on the actual intensity known at its end; return the ``run_finished`` event."""
        self._settle(actual)
        rounds = tuple(figures for _, figures in sorted(self._figures.items()))
        realised, run_now = (known_sum(r.realised_g for r in rounds), known_sum(r.run_now_g for r in rounds))
        turns = list(self._completed.values()) or [0]
        finished = RunFinished(
            status=status,
            rounds=rounds,
            planned_g=known_sum(r.planned_g for r in rounds),
            realised_g=realised,
            run_now_g=run_now,
            evaluation_g=known_sum(r.evaluation_g for r in rounds),
            saving=saving(realised, run_now),
            energy_kwh=sum(self._energy_by_basis.values()),
            energy_by_basis=self._energy_by_basis,
            evaluation_energy_kwh=self._evaluation_kwh,
            finish=self._closed_at,
            finish_by=finish_by,
            late=bool(self._closed_at and finish_by and self._closed_at > finish_by),
            jain=jain_index(turns),
            min_turns=min(turns),
            max_turns=max(turns),
        )
        self._ledger.append(finished)
        return finished

    def _settle(self, actual: IntensityTable | None) -> None:
        """Compute the figures that were not known when their rounds closed."""
        if actual is None or self.is_settled:
            return
        try:
            for worked in rounds_of(iter_ledger(self._ledger.run_dir)):
                if (known := self._figures.get(worked.number)) is not None:
                    late = asdict(figures_of(worked, actual))
                    late |= {name: value for name, value in asdict(known).items() if value is not None}
                    self._figures[worked.number] = Figures(**late)
        except LowcarbError as error:
            self._log.warn("ledger", str(error), "what it is missing for is not called realised")

    def _note_evaluation(self, number: int, grams: float | None) -> None:
        if (figures := self._figures.get(number)) is not None:
            self._figures[number] = replace(figures, evaluation_g=grams)
        elif self.current is not None:
            self.current.evaluation_g = grams

    # -- Checkpoint ----------------------------------------------------------------------------------------

    def memory(self) -> dict[str, list[int]]:
        """Return the state that is not in the ledger: completed and credited turns, by key."""
        return {key: [done, self._credited[key]] for key, done in self._completed.items()}

    def recall(self, events: Iterable[Event], memory: Mapping[str, Sequence[int]]) -> None:
        """Restore the recorder from the events of a ledger and the result of :meth:`memory`.

        A round whose training has ended is open again.
        """
        self._completed = Counter({key: done for key, (done, _) in memory.items()})
        self._credited = Counter({key: credited for key, (_, credited) in memory.items()})
        record = Record.of(events)  # with all turns, which are dropped again when this returns
        self._nodes, self._energy_by_basis = dict(record.nodes), record.energy_by_basis
        self._figures = {worked.number: worked.figures for worked in record.rounds}
        self._run_now_opens_at = record.run_now_at or self._started
        if (last := record.current) is None:
            return
        self.opened = last.number
        evaluations = [worked.evaluation for worked in {**record.closed, last.number: last}.values()]
        self._evaluation_kwh = sum(each.energy_kwh for each in evaluations if each is not None)
        self._closed_at = record.rounds[-1].closes_at if record.rounds else None
        if last.closed is None and (last.turns or last.failed):
            at, planned_g = last.opened.opened_at, last.opened.planned_g
            grams = last.evaluation.realised_g if last.evaluation else 0.0
            self.current = Round(last.number, at, at, {}, planned_g, turns=last.turns, failed=last.failed,
                                 evaluation_g=grams)  # fmt: skip
