"""The recorder of a run: who trained when in each round, whose turns count, and what that emitted.

Planned emissions rest on what was expected when the round opened. Realised and run-now emissions rest on
actual intensity: what is not known of it when a round closes is computed from the ledger when the run ends.
So of a round that is over a few numbers are kept, however many clients it had.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

from lowcarb_scheduler.accounting.emissions import jain_index, known_sum, saving
from lowcarb_scheduler.accounting.turns import (
    Figures,
    Node,
    Turn,
    expected_g,
    realised_g,
    settle,
    took,
    update_nodes,
)
from lowcarb_scheduler.clock import parse_time
from lowcarb_scheduler.errors import LowcarbError
from lowcarb_scheduler.ledger import iter_ledger

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime, timedelta

    from lowcarb_scheduler.accounting.turns import Profile, TurnReport
    from lowcarb_scheduler.intensity import IntensityTable
    from lowcarb_scheduler.ledger import Ledger
    from lowcarb_scheduler.scheduling.messages import RunLog

Window = tuple["datetime", "datetime"]
_MOST_FAILURES: Final = 3  # in a row, after which turns are owed no more


@dataclass(slots=True)
class Round:
    """A round that is open.

    Parameters
    ----------
    number : int
        The round, from 1.
    opened_at, planned_closes_at : datetime
        Its window.
    members : mapping of int to (Profile, Window)
        By node id, who is to train and when.
    planned_g : float or None
        Expected emissions [gCO2eq]; None where there was no forecast.
    started, ended : dict of int to datetime
        By node id, when it was really sent its message and when its reply came, where that was not when the
        round opened and when its training ended.
    unsent : dict of int to str
        By node id, why it was sent no message.
    turns : list of Turn
        Who has trained.
    failed : int
        How many have not.
    evaluation_g : float or None
        What evaluating has emitted [gCO2eq].
    """

    number: int
    opened_at: datetime
    planned_closes_at: datetime
    members: Mapping[int, tuple[Profile, Window]]
    planned_g: float | None
    started: dict[int, datetime] = field(default_factory=dict)
    ended: dict[int, datetime] = field(default_factory=dict)
    unsent: dict[int, str] = field(default_factory=dict)
    turns: list[Turn] = field(default_factory=list)
    failed: int = 0
    evaluation_g: float | None = 0.0


class RunRecorder:
    """The recorder of one run.

    Parameters
    ----------
    ledger : Ledger
        Takes ``nodes``, ``round_opened``, ``node_done``, ``node_failed``, ``node_evaluated``, ``evaluated``,
        ``round_closed`` and ``run_finished``.
    log : RunLog
        Takes warnings.
    started : datetime
        When the run began; run-now counts from there.

    Attributes
    ----------
    current : Round or None
        The round that is open, if one is.
    opened : int
        How many rounds have opened.
    """

    def __init__(self, ledger: Ledger, log: RunLog, started: datetime) -> None:
        self._ledger, self._log, self._started = ledger, log, started
        self.current: Round | None = None
        self.opened = 0
        self._completed: Counter[str] = Counter()
        self._credited: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()  # in a row
        self._nodes: dict[str, Node] = {}
        self._figures: dict[int, Figures] = {}
        self._energy_by_basis: dict[str, float] = {}
        self._evaluation_kwh = 0.0
        self._closed_at: datetime | None = None
        self._run_now_opens_at = started  # the next round of run-now: the same rounds without a pause

    # -- nodes ---------------------------------------------------------------------------------------------

    @property
    def nodes(self) -> Mapping[str, Node]:
        """Who was there at the last look, by key."""
        return self._nodes

    @property
    def turns(self) -> dict[str, int]:
        """Turns that count for a node: completed, and credited for the time it was not there."""
        return {key: done + self._credited[key] for key, done in self._completed.items()}

    def add_nodes(self, arrived: Iterable[str], present: Iterable[str]) -> None:
        """Enter nodes that join or return; each is credited up to the mean of the others: it owes nothing.

        Parameters
        ----------
        arrived, present : iterable of str
            The keys of those that are new since the last look, and of all that are there.
        """
        new, turns = set(arrived), self.turns
        counted = [turns[key] for key in present if key not in new]
        mean = sum(counted) // len(counted) if counted else 0
        for key in sorted(new):
            self._completed.setdefault(key, 0)
            self._credited[key] += max(0, mean - turns.get(key, 0))

    def update_nodes(self, profiles: Iterable[Profile]) -> None:
        """Enter who is there now, and what is known of them, where that has changed."""
        there = {profile.key: Node.of(profile) for profile in profiles}
        joined = [node.to_entry(key) for key, node in there.items() if self._nodes.get(key) != node]
        left = [key for key in self._nodes if key not in there]
        if joined or left:
            self._nodes = there
            self._ledger.append("nodes", joined=joined, left=left)

    # -- a round, in the order it happens ------------------------------------------------------------------

    def open(self, opened: Round, held: timedelta, planned_opens_at: datetime) -> None:
        """Enter a round that opens."""
        self.current, self.opened = opened, opened.number
        kwh = sum(Turn.of(profile, window).energy_kwh for profile, window in opened.members.values())
        mean = opened.planned_g / kwh if opened.planned_g is not None and kwh > 0 else None
        nodes = [{"id": profile.key, "location": profile.location, "starts_at": starts, "ends_at": ends}
                 for profile, (starts, ends) in opened.members.values()]  # fmt: skip
        self._ledger.append(
            "round_opened", round=opened.number, opened_at=opened.opened_at, held_s=held,
            planned_opens_at=planned_opens_at, nodes=nodes, planned_g=opened.planned_g, mean_g_per_kwh=mean,
        )  # fmt: skip

    def train_ended(self, done: Mapping[int, tuple[Window, TurnReport]], failed: Mapping[int, str]) -> None:
        """Enter who has completed a turn, by node id, and what it says of it; and why the others have not."""
        if (current := self.current) is None:
            return
        turns = [Turn.of(current.members[node_id][0], *each) for node_id, each in done.items()]
        current.turns = sorted(turns, key=lambda turn: turn.key)
        current.failed = len(current.members) - len(turns)
        for turn in current.turns:
            self._completed[turn.key] += 1
            self._count_energy(turn)
            self._ledger.append("node_done", round=current.number, **turn.to_event())
        for node_id, (profile, _) in current.members.items():
            if node_id in done:
                self._failures.pop(profile.key, None)
            else:
                self._owe(profile.key)
                self._ledger.append(
                    "node_failed", round=current.number, id=profile.key, location=profile.location,
                    reason=failed.get(node_id) or current.unsent.get(node_id, "no reply"),
                )  # fmt: skip

    def _owe(self, key: str) -> None:
        """Let a node owe the turn it has not completed, but not for ever: it would be in every round."""
        self._failures[key] += 1
        if self._failures[key] >= _MOST_FAILURES:
            self._credited[key] += 1
            why = f"{key} has failed {_MOST_FAILURES} times in a row"
            self._log.warn("node", why, "it is asked no more often than the others")

    def evaluated(
        self, number: int, done: Sequence[tuple[Profile, Window, TurnReport]], failed: int,
        metrics: Mapping[str, float], actual: IntensityTable | None,
    ) -> None:  # fmt: skip
        """Enter an evaluation on clients: who has evaluated when, and what it says of it."""
        turns = [Turn.of(*each) for each in sorted(done, key=lambda each: each[0].key)]
        for turn in turns:
            self._ledger.append("node_evaluated", round=number, **turn.to_event())
        kwh = sum(turn.energy_kwh for turn in turns)
        grams = realised_g(turns, actual) if actual is not None else None if turns else 0.0
        self._evaluation_kwh += kwh
        self._note_evaluation(number, grams)
        self._ledger.append(
            "evaluated", round=number, where="clients", metrics=metrics, nodes_done=len(turns),
            nodes_failed=failed, energy_kwh=kwh, realised_g=grams,
        )  # fmt: skip

    def close(self, now: datetime, round_duration: timedelta, actual: IntensityTable | None) -> None:
        """Close the round that is open, on the actual intensity known so far."""
        if (current := self.current) is None:
            return
        now = max(now, current.opened_at)
        figures = Figures(current.planned_g, evaluation_g=current.evaluation_g)
        if actual is not None:
            figures.realised_g = realised_g(current.turns, actual)
            figures.run_now_g = expected_g(
                self._nodes, current.turns, actual, self._run_now_opens_at, round_duration
            )
        self._figures[current.number] = figures
        self.current, self._closed_at = None, now
        self._run_now_opens_at += now - current.opened_at
        self._ledger.append(
            "round_closed", round=current.number, opens_at=current.opened_at, closes_at=now,
            round_duration_s=round_duration, nodes_done=len(current.turns), nodes_failed=current.failed,
            energy_kwh=sum(turn.energy_kwh for turn in current.turns), planned_g=figures.planned_g,
            realised_g=figures.realised_g, run_now_g=figures.run_now_g,
        )  # fmt: skip

    @property
    def is_settled(self) -> bool:
        """Whether the realised emissions of every closed round are known."""
        return all(figures.are_known for figures in self._figures.values())

    def finish(
        self, status: str, finish_by: datetime | None, actual: IntensityTable | None
    ) -> dict[str, Any]:
        """Sum up the run on the actual intensity known at its end; return the ``run_finished`` event."""
        self._settle(actual)
        rounds = [{"round": number, **asdict(figures)} for number, figures in sorted(self._figures.items())]
        totals = {name: known_sum(r[name] for r in rounds)
                  for name in ("planned_g", "realised_g", "run_now_g", "evaluation_g")}  # fmt: skip
        turns = list(self._completed.values()) or [0]
        summary = {
            "status": status,
            "rounds": rounds,
            **totals,
            "saving": saving(totals["realised_g"], totals["run_now_g"]),
            "energy_kwh": sum(self._energy_by_basis.values()),
            "energy_by_basis": self._energy_by_basis,
            "evaluation_energy_kwh": self._evaluation_kwh,
            "finish": self._closed_at,
            "finish_by": finish_by,
            "late": bool(self._closed_at and finish_by and self._closed_at > finish_by),
            "jain": jain_index(turns),
            "min_turns": min(turns),
            "max_turns": max(turns),
        }
        self._ledger.append("run_finished", **summary)
        return summary

    def _settle(self, actual: IntensityTable | None) -> None:
        """Compute the figures that were not known when their rounds closed."""
        if actual is None or self.is_settled:
            return
        try:
            for number, name, grams in settle(iter_ledger(self._ledger.run_dir), actual, self._started):
                if number in self._figures and getattr(self._figures[number], name) is None:
                    setattr(self._figures[number], name, grams)
        except LowcarbError as error:
            self._log.warn("ledger", str(error), "what it is missing for is not called realised")

    def _count_energy(self, turn: Turn) -> None:
        self._energy_by_basis[turn.basis] = self._energy_by_basis.get(turn.basis, 0.0) + turn.energy_kwh

    def _note_evaluation(self, number: int, grams: float | None) -> None:
        if (figures := self._figures.get(number)) is not None:
            figures.evaluation_g = grams
        elif self.current is not None:
            self.current.evaluation_g = grams

    # -- what a checkpoint keeps ---------------------------------------------------------------------------

    def memory(self) -> dict[str, list[int]]:
        """Return what the ledger does not say: turns completed and credited, by key."""
        return {key: [done, self._credited[key]] for key, done in self._completed.items()}

    def recall(self, events: Iterable[Mapping[str, Any]], memory: Mapping[str, Sequence[int]]) -> None:
        """Restore the recorder from a ledger and what :meth:`memory` said.

        A round whose training has ended is open again.
        """
        self._completed = Counter({key: done for key, (done, _) in memory.items()})
        self._credited = Counter({key: credited for key, (_, credited) in memory.items()})
        for event in events:
            self._recall(event)
        if self.current is not None and not self.current.turns and not self.current.failed:
            self.current = None  # its training has not ended

    def _recall(self, event: Mapping[str, Any]) -> None:
        number = event.get("round", 0)
        match event["event"]:
            case "nodes":
                update_nodes(self._nodes, event)
            case "round_opened":
                at = parse_time(event["opened_at"], "opened_at")
                self.current, self.opened = Round(number, at, at, {}, event["planned_g"]), number
            case "node_done" if self.current is not None:
                turn = Turn.from_event(event)
                self.current.turns.append(turn)
                self._count_energy(turn)
            case "node_failed" if self.current is not None:
                self.current.failed += 1
            case "evaluated" if event["where"] == "clients":
                self._evaluation_kwh += event["energy_kwh"]
                self._note_evaluation(number, event["realised_g"])
            case "round_closed":
                evaluation_g = self.current.evaluation_g if self.current else 0.0
                self._figures[number] = Figures(
                    event["planned_g"], event["realised_g"], event["run_now_g"], evaluation_g
                )
                self._closed_at = parse_time(event["closes_at"], "closes_at")
                self._run_now_opens_at += took(event)
                self.current = None
