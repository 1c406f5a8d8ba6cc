"""The books of a run: who trained when in each round, whose turns count, and what that emitted.

Planned emissions rest on what was expected when the round opened. Realised and run-now emissions rest on
actual intensity, and are asked for again until they are known; without it they stay unknown.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from lowcarb_scheduler.accounting import emissions_g, jain_index, known_sum, run_now_g, saving
from lowcarb_scheduler.clock import MICROSECOND, to_us

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lowcarb_scheduler.flower.outlook import Outlook
    from lowcarb_scheduler.flower.profiles import Profile
    from lowcarb_scheduler.intensity import IntensityTable
    from lowcarb_scheduler.ledger import Ledger
    from lowcarb_scheduler.planning.fleet import Fleet

Window = tuple[datetime, datetime]
_HOUR: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Turn:
    """One completed turn."""

    profile: Profile
    window: Window

    @property
    def node_id(self) -> int:
        """Flower's id of the node."""
        return self.profile.node_id

    @property
    def energy_kwh(self) -> float:
        """Power times time [kWh]."""
        return self.profile.power_watts / 1000 * ((self.window[1] - self.window[0]) / _HOUR)


@dataclass(slots=True)
class Round:
    """A round that has opened, and what is known of it so far.

    Parameters
    ----------
    number : int
        The round, from 1.
    opened_at, planned_closes_at : datetime
        Its window.
    fleet : Fleet
        Everyone who could have trained in it.
    members : mapping of int to (Profile, Window)
        By node id, who is to train and when.
    planned_g : float or None
        Expected emissions [gCO2eq]; None where there was no forecast.
    started, ended : dict of int to datetime
        By node id, when it was really sent its message and when its reply came, where that was not when the
        round opened and when its training ended.
    unsent : dict of int to str
        By node id, why it was sent no message.
    """

    number: int
    opened_at: datetime
    planned_closes_at: datetime
    fleet: Fleet
    members: Mapping[int, tuple[Profile, Window]]
    planned_g: float | None
    started: dict[int, datetime] = field(default_factory=dict)
    ended: dict[int, datetime] = field(default_factory=dict)
    unsent: dict[int, str] = field(default_factory=dict)
    turns: Sequence[Turn] = ()
    closed_at: datetime | None = None
    realised_g: float | None = None
    run_now_g: float | None = None

    @property
    def is_pending(self) -> bool:
        """Whether it is over, and its real emissions are not known yet."""
        return self.closed_at is not None and None in (self.realised_g, self.run_now_g)

    @property
    def figures(self) -> dict[str, float | None]:
        """The emissions of the round [gCO2eq]."""
        return {"planned_g": self.planned_g, "realised_g": self.realised_g, "run_now_g": self.run_now_g}


class Books:
    """The books of one run.

    Parameters
    ----------
    ledger : Ledger
        Takes ``round_opened``, ``node_done``, ``node_failed``, ``round_closed`` and ``run_finished``.
    outlook : Outlook
        Knows the actual intensity.
    started : datetime
        When the run began; run-now counts from there.
    """

    def __init__(self, ledger: Ledger, outlook: Outlook, started: datetime) -> None:
        self._ledger, self._outlook, self._started = ledger, outlook, started
        self._rounds: list[Round] = []
        self._completed: Counter[str] = Counter()
        self._credited: Counter[str] = Counter()

    @property
    def current(self) -> Round | None:
        """The round that is open, if one is."""
        return self._rounds[-1] if self._rounds and self._rounds[-1].closed_at is None else None

    @property
    def opened(self) -> int:
        """How many rounds have opened."""
        return len(self._rounds)

    @property
    def turns(self) -> dict[str, int]:
        """Turns that count for a node: completed, and credited for the time it was not there."""
        return {key: done + self._credited[key] for key, done in self._completed.items()}

    def welcome(self, arrived: Iterable[str], present: Iterable[str]) -> None:
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

    def open(self, opened: Round, held: timedelta, planned_opens_at: datetime) -> None:
        """Enter a round that opens."""
        self._rounds.append(opened)
        kwh = sum(Turn(profile, window).energy_kwh for profile, window in opened.members.values())
        mean = opened.planned_g / kwh if opened.planned_g is not None and kwh > 0 else None
        nodes = [{"id": p.key, "location": p.location} for p, _ in opened.members.values()]
        self._ledger.append(
            "round_opened", round=opened.number, held_s=held, planned_opens_at=planned_opens_at, nodes=nodes,
            planned_g=opened.planned_g, mean_g_per_kwh=mean,
        )  # fmt: skip

    def train_ended(self, done: Mapping[int, Window], failed: Mapping[int, str]) -> None:
        """Enter who has completed a turn, by node id, and why the others have not."""
        current = self.current
        if current is None:
            return
        turns = [Turn(current.members[node_id][0], window) for node_id, window in done.items()]
        current.turns = sorted(turns, key=lambda turn: turn.profile.key)
        for turn in current.turns:
            profile, (started_at, ended_at) = turn.profile, turn.window
            self._completed[profile.key] += 1
            self._ledger.append(
                "node_done", round=current.number, id=profile.key, location=profile.location,
                started_at=started_at, ended_at=ended_at, duration_s=ended_at - started_at,
                power_watts=profile.power_watts, energy_kwh=turn.energy_kwh,
                energy_basis="assumed" if profile.power_assumed else "estimated",
            )  # fmt: skip
        for node_id, (profile, _) in current.members.items():
            if node_id not in done:
                self._ledger.append(
                    "node_failed", round=current.number, id=profile.key, location=profile.location,
                    reason=failed.get(node_id) or current.unsent.get(node_id, "no reply"),
                )  # fmt: skip

    def close(self, now: datetime, round_duration: timedelta) -> None:
        """Close the round that is open."""
        if (current := self.current) is None:
            return
        current.closed_at = now = max(now, current.opened_at)
        self._realise(now, round_duration)
        self._ledger.append(
            "round_closed", round=current.number, opens_at=current.opened_at, closes_at=now,
            nodes_done=len(current.turns), nodes_failed=len(current.members) - len(current.turns),
            energy_kwh=sum(turn.energy_kwh for turn in current.turns), **current.figures,
        )  # fmt: skip

    def finish(
        self, status: str, now: datetime, round_duration: timedelta, finish_by: datetime | None
    ) -> dict[str, Any]:
        """Sum up, after asking once more for what was not yet known; return the ``run_finished`` event."""
        self._realise(now, round_duration, last_chance=True)
        totals = {name: known_sum(r.figures[name] for r in self._rounds)
                  for name in ("planned_g", "realised_g", "run_now_g")}  # fmt: skip
        finish = self._rounds[-1].closed_at if self._rounds else None
        turns = list(self._completed.values()) or [0]
        summary = {
            "status": status,
            "rounds": [{"round": r.number, **r.figures} for r in self._rounds],
            **totals,
            "saving": saving(totals["realised_g"], totals["run_now_g"]),
            "energy_kwh": sum(turn.energy_kwh for r in self._rounds for turn in r.turns),
            "finish": finish,
            "finish_by": finish_by,
            "late": bool(finish and finish_by and finish > finish_by),
            "jain": jain_index(turns),
            "min_turns": min(turns),
            "max_turns": max(turns),
        }
        self._ledger.append("run_finished", **summary)
        return summary

    def _realise(self, now: datetime, round_duration: timedelta, last_chance: bool = False) -> None:
        """Ask what really happened, and account for the closed rounds of which it was not yet known."""
        if not any(r.is_pending for r in self._rounds):
            return
        self._outlook.learn_actual(self._started, now, last_chance)
        if (actual := self._outlook.actual) is None:
            return
        opens_at = self._started  # of run-now: the same rounds without a pause
        for r in self._rounds:
            if r.is_pending:
                r.realised_g = _realised_g(r, actual)
                r.run_now_g = _run_now_g(r, actual, opens_at, round_duration)
            opens_at += (r.closed_at or now) - r.opened_at


def _realised_g(r: Round, actual: IntensityTable) -> float | None:
    """Return what the turns of a round have emitted."""
    if not r.turns:
        return 0.0  # nobody has completed anything
    columns = actual.columns([turn.profile.place for turn in r.turns])
    watts = [turn.profile.power_watts for turn in r.turns]
    starts = np.array([to_us(turn.window[0]) for turn in r.turns], dtype=np.int64)
    ends = np.array([to_us(turn.window[1]) for turn in r.turns], dtype=np.int64)
    return _sum_g(emissions_g(actual, columns, watts, starts, ends))


def _run_now_g(
    r: Round, actual: IntensityTable, opens_at: datetime, round_duration: timedelta
) -> float | None:
    """Return what to expect of the same work by random clients, back-to-back from the start.

    The same work: as many turns as were completed, as much longer or shorter than planned as they were.
    """
    if not r.turns:
        return 0.0
    fleet, planned = r.fleet, [r.members[turn.node_id][1] for turn in r.turns]
    took = sum((turn.window[1] - turn.window[0] for turn in r.turns), timedelta(0))
    stretch = took / sum((end - start for start, end in planned), timedelta(0))
    columns = actual.columns(fleet.locations)[fleet.location_index]
    durations = np.where(fleet.durations_us > 0, fleet.durations_us, round_duration // MICROSECOND)
    durations = np.maximum(np.round(durations * stretch), 1).astype(np.int64)
    opens = np.array([to_us(opens_at)], dtype=np.int64)
    return _sum_g(run_now_g(actual, columns, fleet.power_watts, durations, opens, len(r.turns)))


def _sum_g(grams: Any) -> float | None:
    """Return the sum of emissions, None where a gap makes one unknown."""
    return None if np.isnan(grams).any() else float(grams.sum())
