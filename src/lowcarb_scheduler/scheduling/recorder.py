"""Recorder of a run: nodes, turns and emissions of each round, in memory and in the ledger.

Planned emissions use the forecast when the round opened, realised and run-now emissions actual intensity. If
that is unknown when a round closes, they are computed from the ledger when the run ends. So memory holds a
few numbers for each closed round, however many clients it had.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from lowcarb_scheduler.accounting.emissions import jain_index, known_saving, known_sum, saving
from lowcarb_scheduler.accounting.replay import Record, figures_of, rounds_of, without_tables
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
    from datetime import datetime

    from lowcarb_scheduler.accounting.turns import Profile, TurnReport
    from lowcarb_scheduler.events import Event, Node
    from lowcarb_scheduler.intensity import IntensityTable
    from lowcarb_scheduler.ledger import Ledger
    from lowcarb_scheduler.scheduling.messages import RunLog

Window = tuple["datetime", "datetime"]
_LEAST_TURN: Final = 0.01  # part of a round: a turn that takes no time would have no place in it
_MOST_FAILURES: Final = 3  # in a row, after which a node owes no more turns


@dataclass(slots=True)
class Round:
    """Round that is open: its nodes by Flower's ids, and the dispatch of its messages.

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
    """

    number: int
    opened_at: datetime
    planned_closes_at: datetime
    members: Mapping[int, tuple[Profile, Window]]
    planned_g: float | None
    started: dict[int, datetime] = field(default_factory=dict)
    ended: dict[int, datetime] = field(default_factory=dict)
    unsent: dict[int, str] = field(default_factory=dict)


class RunRecorder:
    """Recorder of one run: it reads each event that it writes, like the reader of a ledger.

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
    closed_at : datetime or None
        When a round closed last.
    """

    def __init__(self, ledger: Ledger, log: RunLog, started: datetime) -> None:
        self._ledger, self._log = ledger, log
        self.current: Round | None = None
        self._record = Record(started)  # without the rounds before the last one
        self._figures: dict[int, Figures] = {}  # of the rounds before
        self._credited: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()  # in a row, by node
        self._identities: dict[str, Node] = {}  # by former id, nodes of which more became known
        self._evaluation_kwh = 0.0
        self.closed_at: datetime | None = None
        self._longest_turn = timedelta(0)  # of nodes that do not state theirs

    def _append(self, event: Event) -> None:
        self._ledger.append(event)
        self._read(event)

    def _read(self, event: Event) -> None:
        """Take an event into account."""
        match event:
            case NodesChanged() if event.better_known:
                self._note_better_known(event)
            case RoundOpened():
                self._fold()  # only now: evaluation may follow the close of a round
            case NodeDone() if (node := self.nodes.get(event.id)) is not None and node.duration is None:
                self._longest_turn = max(self._longest_turn, event.duration)
            case RoundClosed():
                self.closed_at = event.closes_at
            case EvaluatedOnClients():
                self._evaluation_kwh += event.energy_kwh
        self._record.read(event)

    def _fold(self) -> None:
        """Keep the figures of rounds that have closed, and forget their turns."""
        self._figures = self._known_figures
        self._record.closed.clear()
        self._record.incidents.clear()

    def _note_better_known(self, event: NodesChanged) -> None:
        """Note what became known of nodes: the figures of rounds so far are to be computed anew."""
        nodes = {node.id: node for node in event.joined}
        better = {old: nodes[new] for old, new in (event.better_known or {}).items()}
        self._identities = {old: better.get(node.id, node) for old, node in self._identities.items()} | better
        self._figures = {
            number: Figures(round=number, planned_g=known.planned_g, evaluation_g=None)
            for number, known in self._figures.items()
        }

    @property
    def _known_figures(self) -> dict[int, Figures]:
        return self._figures | {worked.number: worked.figures for worked in self._record.rounds}

    # -- Nodes ---------------------------------------------------------------------------------------------

    @property
    def nodes(self) -> Mapping[str, Node]:
        """Nodes that were connected at the last look, by key."""
        return self._record.nodes

    @property
    def opened_round(self) -> RoundOpened | None:
        """The round that opened last; None before the first."""
        return self._record.current.opened if self._record.current else None

    @property
    def opened(self) -> int:
        """Number of that round, 0 before the first."""
        return self.opened_round.round if self.opened_round else 0

    @property
    def turns(self) -> dict[str, int]:
        """Turns that count for a node: completed, and credited for the time before it joined."""
        return {key: done + self._credited[key] for key, done in self._record.turns.items()}

    def turn_seen(self, round_duration: timedelta) -> timedelta | None:
        """Return the longest turn so far of nodes that state none, None if it may take all of a round."""
        longest = max(self._longest_turn, _LEAST_TURN * round_duration)
        return longest if self._longest_turn and longest < round_duration else None

    def update_nodes(
        self, profiles: Iterable[Profile], better_known: Mapping[str, str] | None = None
    ) -> None:
        """Enter the connected nodes, if they or their properties have changed.

        A node that joins or returns is credited up to the mean of the others and owes nothing.

        Parameters
        ----------
        profiles : iterable of Profile
            The nodes.
        better_known : mapping of str to str, optional
            Former and present ids of nodes that stayed and of which more is known now.
        """
        nodes, turns = {profile.id: node_of(profile) for profile in profiles}, self.turns
        known = {old: new for old, new in (better_known or {}).items() if old in self.nodes}
        self._carry_over({old: new for old, new in known.items() if old != new}, turns)
        counted = [turns[key] for key in nodes if key in self.nodes]
        mean = sum(counted) // len(counted) if counted else 0
        for key in nodes.keys() - self.nodes.keys() - set(known.values()):
            self._credited[key] += max(0, mean - turns.get(key, 0))
        joined = tuple(node for key, node in nodes.items() if self.nodes.get(key) != node)
        left = tuple(key for key in self.nodes if key not in nodes)
        if joined or left:
            self._append(NodesChanged(joined=joined, left=left, better_known=known or None))

    def _carry_over(self, renamed: Mapping[str, str], turns: Mapping[str, int]) -> None:
        """Carry credits and failures of nodes over to their present ids."""
        credited = {old: self._credited.pop(old, 0) for old in renamed}
        failures = {old: self._failures.pop(old, 0) for old in renamed}
        for old, new in renamed.items():
            # The node may have been there before: its own turns of then make a credit as large needless.
            self._credited[new] += max(0, credited[old] - turns.get(new, 0))
            if failures[old]:
                self._failures[new] = failures[old]

    # -- Round, in order of events -------------------------------------------------------------------------

    def open(self, opened: Round, held: timedelta, planned_opens_at: datetime) -> None:
        """Enter a round that opens."""
        self.current, number, members = opened, opened.number, opened.members.values()
        kwh = sum(turn_of(NodeDone, number, profile, window).energy_kwh for profile, window in members)
        mean = opened.planned_g / kwh if opened.planned_g is not None and kwh > 0 else None
        nodes = tuple(
            Member(id=profile.id, location=profile.location, starts_at=starts_at, ends_at=ends_at)
            for profile, (starts_at, ends_at) in members
        )
        self._append(
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
        for turn in sorted(turns, key=lambda turn: turn.id):
            self._append(turn)
        for node_id, (profile, _) in current.members.items():
            if node_id in done:
                self._failures.pop(profile.id, None)
            else:
                self._owe(profile.id)
                reason = failed.get(node_id) or current.unsent.get(node_id, "no reply")
                self._append(
                    NodeFailed(round=current.number, id=profile.id, location=profile.location, reason=reason)
                )

    def _owe(self, key: str) -> None:
        """Count a failure: the node owes the turn, until it has failed too often in a row."""
        self._failures[key] += 1
        # A node that always fails would be selected for every round, and its seat lost.
        if self._failures[key] >= _MOST_FAILURES:
            self._credited[key] += 1
            why = f"{key} has failed {_MOST_FAILURES} times in a row"
            self._log.warn("node", why, "it is selected no more often than the others")

    def evaluated(
        self, number: int, done: Sequence[tuple[Profile, Window, TurnReport]], failed: int,
        metrics: Mapping[str, float], actual: IntensityTable | None,
    ) -> None:  # fmt: skip
        """Enter an evaluation on clients, with the windows and reports of its nodes."""
        turns = [turn_of(NodeEvaluated, number, *each) for each in sorted(done, key=lambda each: each[0].id)]
        for turn in turns:
            self._append(turn)
        grams = realised_g(turns, actual) if actual is not None else None if turns else 0.0
        self._append(
            EvaluatedOnClients(
                round=number, metrics=metrics, nodes_done=len(turns), nodes_failed=failed,
                energy_kwh=sum(turn.energy_kwh for turn in turns), realised_g=grams,
            )
        )  # fmt: skip

    def close(self, now: datetime, round_duration: timedelta, actual: IntensityTable | None) -> None:
        """Close the round that is open, on the actual intensity known so far."""
        if self.current is None or (worked := self._record.current) is None:
            return
        opened, turns = worked.opened, worked.turns
        realised = run_now = None
        if actual is not None:
            realised = realised_g(turns, actual)
            run_now = expected_g(self.nodes, turns, actual, worked.run_now_at, round_duration)
        self.current = None
        self._append(
            RoundClosed(
                round=opened.round, opens_at=opened.opened_at,
                closes_at=max(now, opened.opened_at),  # a clock may be set back
                round_duration=round_duration, nodes_done=len(turns), nodes_failed=worked.failed,
                energy_kwh=sum(turn.energy_kwh for turn in turns), planned_g=opened.planned_g,
                realised_g=realised, run_now_g=run_now,
            )
        )  # fmt: skip

    @property
    def lacks_actuals(self) -> bool:
        """Whether realised emissions of the round that closed last are still not known."""
        return not all(worked.figures.are_known for worked in self._record.rounds)

    def learn(self, actual: IntensityTable | None) -> None:
        """Take note of actual intensity that came after the last round had closed."""
        for worked in self._record.rounds:
            worked.learn(actual)

    @property
    def is_settled(self) -> bool:
        """Whether the realised emissions of every closed round are known."""
        return all(figures.are_known for figures in self._known_figures.values())

    def finish(self, status: str, finish_by: datetime | None, actual: IntensityTable | None) -> RunFinished:
        """Sum up the run on the actual intensity known at its end; return the ``run_finished`` event."""
        self._fold()
        energy, why = self._settle(actual)
        rounds = tuple(figures for _, figures in sorted(self._figures.items()))
        realised, run_now = (known_sum(r.realised_g for r in rounds), known_sum(r.run_now_g for r in rounds))
        turns = list(self._record.turns.values()) or [0]
        avoided, known = known_saving((r.realised_g, r.run_now_g) for r in rounds)
        finished = RunFinished(
            status=status,
            rounds=rounds,
            planned_g=known_sum(r.planned_g for r in rounds),
            realised_g=realised,
            run_now_g=run_now,
            evaluation_g=known_sum(r.evaluation_g for r in rounds),
            saving=saving(realised, run_now),
            energy_kwh=sum(energy.values()),
            energy_by_basis=energy,
            evaluation_energy_kwh=self._evaluation_kwh,
            finish=self.closed_at,
            finish_by=finish_by,
            late=bool(self.closed_at and finish_by and self.closed_at > finish_by),
            jain=jain_index(turns),
            min_turns=min(turns),
            max_turns=max(turns),
            known_saving=avoided if known < len(rounds) else None,
            known_rounds=known if known < len(rounds) else None,
            unknown_because=why,
        )
        self._ledger.append(finished)
        return finished

    def _settle(self, actual: IntensityTable | None) -> tuple[Mapping[str, float], str | None]:
        """Compute the figures that were not known when their rounds closed.

        Returns
        -------
        mapping of str to float
            Energy of training by its origin [kWh].
        str or None
            Why emissions of a round are still not known.
        """
        energy: Mapping[str, float] = self._record.energy_by_basis
        if not self._identities and (self.is_settled or actual is None):
            return energy, None if self.is_settled else "no actual intensity is known"
        anew: defaultdict[str, float] = defaultdict(float)
        why: str | None = None
        try:
            for worked in rounds_of(iter_ledger(self._ledger.run_dir)):
                if (known := self._figures.get(worked.number)) is None:
                    continue
                worked.attribute(self._identities)
                late = asdict(figures_of(worked, actual))
                late |= {name: value for name, value in asdict(known).items() if value is not None}
                self._figures[worked.number] = Figures(**late)
                worked.settle(self._figures[worked.number])
                for turn in worked.turns:
                    anew[turn.energy_basis] += turn.energy_kwh
                why = why or worked.unknown_because()
        except LowcarbError as error:
            self._log.warn("ledger", str(error), "rounds without it have no realised emissions")
            return energy, str(error)
        return anew if self._identities else energy, why

    # -- Checkpoint ----------------------------------------------------------------------------------------

    def memory(self) -> dict[str, list[int]]:
        """Return completed and credited turns by key; only the latter are not in the ledger."""
        return {key: [done, self._credited[key]] for key, done in self._record.turns.items()}

    def recall(self, events: Iterable[Event], memory: Mapping[str, Sequence[int]]) -> None:
        """Restore the recorder from the events of a ledger and the result of :meth:`memory`.

        A round whose training has ended is open again.
        """
        self._credited = Counter({key: credited for key, (_, credited) in memory.items()})
        for event in without_tables(events):
            self._read(event)
        last = self._record.current
        if last is not None and last.closed is None and (last.turns or last.failed):
            at = last.opened.opened_at
            self.current = Round(last.number, at, at, {}, last.opened.planned_g)
