"""Hindsight: the best plan that could have been made at the start by somebody who knew what was to come.

The same work under the same rules. Everybody does as many turns as it really did, draws as much energy in
each as it did on average, and takes as long as turns of its kind took there. The rounds are as many, as long
as they were planned last, on the run's own grid, over by its target; no round has more clients than the
largest had, or fewer than the smallest. Only intensity is known: what is not yet in the ledger cannot be
chosen. Who was there when is left out of account, so a run whose nodes came and went could not always have
done as well.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Final

import numpy as np

from lowcarb_scheduler.clock import HOUR_US, MICROSECOND, parse_time, to_us
from lowcarb_scheduler.errors import LowcarbError
from lowcarb_scheduler.flower.profiles import UNKNOWN_PLACE
from lowcarb_scheduler.planning.fleet import Fleet
from lowcarb_scheduler.planning.grid import start_step_us
from lowcarb_scheduler.planning.job import Job
from lowcarb_scheduler.planning.participation import most_of_one_location
from lowcarb_scheduler.planning.planner import plan

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from lowcarb_scheduler.intensity import IntensityTable
    from lowcarb_scheduler.planning.job import Plan
    from lowcarb_scheduler.report.record import Record

_MOST_SLOTS: Final = 300  # openings up to which clients that may start apart are planned so
_EMPTY: Final = "\x00empty seat"  # no node is called so: what nodes say of themselves is printable


@dataclass(frozen=True, slots=True)
class Rules:
    """What bound the run, and binds hindsight.

    Parameters
    ----------
    grid_from : datetime
        Rounds open on ``grid_from + k * start_step``, and not before.
    length : timedelta
        Length of a round.
    finish_by, target_finish : datetime
        The deadline, and where patience puts the end.
    stagger : bool
        Whether clients may start at different times in a round.
    max_location_share : float
        Largest part of a round from one location.
    """

    grid_from: datetime
    length: timedelta
    finish_by: datetime
    target_finish: datetime
    stagger: bool
    max_location_share: float

    @classmethod
    def of(cls, record: Record) -> Rules:
        """Return the rules of a run; one that did not do all its rounds had no longer than it took."""
        told, length = record.started["settings"], record.rounds[-1].length
        grid_from, finish_by = record.started_at, record.rounds[-1].closes_at
        target = finish_by
        if record.beginning is not None:
            planned = record.beginning.planned
            grid_from = parse_time(planned["grid_from"], "grid_from")
            if record.has_completed:
                finish_by = parse_time(planned["finish_by"], "finish_by")
                target = parse_time(planned["target_finish"], "target_finish")
        back_to_back = grid_from + len(record.rounds) * length
        return cls(
            grid_from, length, max(finish_by, back_to_back), max(target, back_to_back),
            told.get("stagger", False), told.get("max_location_share", 1.0),
        )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Hindsight:
    """The best plan with perfect information.

    Parameters
    ----------
    plan : Plan
        On actual intensity. Clients of no power stand for seats that stayed empty.
    known_until : datetime
        Until when actual intensity was known; nothing later could be chosen.
    """

    plan: Plan
    known_until: datetime

    @property
    def emissions_g(self) -> float:
        """What it would have emitted [gCO2eq]."""
        return self.plan.emissions_g


def hindsight_of(record: Record) -> Hindsight | None:
    """Return the best plan with perfect information, None where there is none.

    That is so where no turn was done, or actual intensity is not known of enough hours.
    """
    if record.actual is None or not any(worked.turns for worked in record.rounds):
        return None
    try:
        rules = Rules.of(record)
        job = job_of(record, rules)
        known = record.actual.slice(rules.grid_from, rules.finish_by)
        if known is None:
            return None
        table = _with_empty_seats(known, job.fleet)
        return Hindsight(plan(without_fine_stagger(job, table), table), known.end)
    except LowcarbError:
        return None  # no plan fits the hours that are known


def job_of(record: Record, rules: Rules) -> Job:
    """Return the job that the run turned out to be."""
    seated = [len(worked.turns) for worked in record.rounds]
    seats, empty = max(seated), max(seated) - min(seated)
    share = min(max(rules.max_location_share, _largest_share(record, seats)), 1.0)
    fleet = _fleet(record, rules)
    if empty:
        places = ceil(empty / most_of_one_location(share, seats))
        fleet = _with_clients_of_no_power(fleet, empty, places, len(seated) * seats - sum(seated))
    # Who has done less owes the difference: so everybody does as many turns as it really did.
    fleet = replace(fleet, turns_done=fleet.turns_done.max() - fleet.turns_done)
    return Job(
        fleet=fleet,
        now=rules.grid_from,
        finish_by=rules.finish_by,
        rounds=len(seated),
        clients_per_round=seats,
        round_duration=rules.length,
        target_finish=rules.target_finish,
        stagger=rules.stagger,
        max_location_share=share,
    )


def without_fine_stagger(job: Job, intensity: IntensityTable) -> Job:
    """Return a job whose clients start together where the grid is so fine that seeking would take minutes.

    Such a plan obeys the rules of stagger, too; it may only miss a little of what that buys.
    """
    slots = (to_us(job.finish_by) - job.opens_from_us) // start_step_us(job, intensity)
    return replace(job, stagger=job.stagger and slots <= _MOST_SLOTS)


def _largest_share(record: Record, seats: int) -> float:
    """Return the largest part of a round that one location had."""
    most = (max(Counter(turn.location for turn in r.turns).values(), default=0) for r in record.rounds)
    return max(most) / seats


def _fleet(record: Record, rules: Rules) -> Fleet:
    """Return those who did a turn, with the energy and time that took; ``turns_done`` says how many."""
    lengths_us: defaultdict[tuple[str, timedelta], list[int]] = defaultdict(list)
    kwh: defaultdict[str, float] = defaultdict(float)
    turns: Counter[str] = Counter()
    kind: dict[str, tuple[str, timedelta]] = {}
    for worked in record.rounds:
        for turn in worked.turns:
            node = worked.nodes.get(turn.key)
            planned = worked.length if node is None else node.turn(worked.length)
            kind[turn.key] = turn.location or UNKNOWN_PLACE, planned
            lengths_us[kind[turn.key]].append((turn.ended_at - turn.started_at) // MICROSECOND)
            kwh[turn.key] += turn.energy_kwh
            turns[turn.key] += 1
    round_us = rules.length // MICROSECOND
    mean_us = {of: int(np.clip(round(np.mean(taken)), 1, round_us)) for of, taken in lengths_us.items()}
    ids = sorted(turns)
    durations_us = np.array([mean_us[kind[key]] for key in ids], dtype=np.int64)
    counts = np.array([turns[key] for key in ids], dtype=np.int64)
    energy_kwh = np.array([kwh[key] for key in ids]) / counts
    locations, index = np.unique([kind[key][0] for key in ids], return_inverse=True)
    return Fleet(
        ids=np.array(ids, dtype=object),
        locations=tuple(str(name) for name in locations),
        location_index=index.astype(np.int64),
        power_watts=energy_kwh * 1000 / (durations_us / HOUR_US),
        power_assumed=np.zeros(len(ids), dtype=bool),
        durations_us=durations_us,
        turns_done=counts,
    )


def _with_clients_of_no_power(fleet: Fleet, clients: int, places: int, turns: int) -> Fleet:
    """Return a fleet with clients that emit nothing, which take so many turns together."""
    counts = np.full(clients, turns // clients, dtype=np.int64)
    counts[: turns % clients] += 1
    ids = np.array([f"{_EMPTY} {k:09d}" for k in range(clients)], dtype=object)
    return replace(
        fleet,
        ids=np.concatenate([ids, fleet.ids]),
        locations=(*(f"{_EMPTY} {k:09d}" for k in range(places)), *fleet.locations),
        location_index=np.concatenate([np.arange(clients) % places, fleet.location_index + places]),
        power_watts=np.concatenate([np.zeros(clients), fleet.power_watts]),
        power_assumed=np.concatenate([np.zeros(clients, dtype=bool), fleet.power_assumed]),
        durations_us=np.concatenate([np.ones(clients, dtype=np.int64), fleet.durations_us]),
        turns_done=np.concatenate([counts, fleet.turns_done]),
    )


def _with_empty_seats(known: IntensityTable, fleet: Fleet) -> IntensityTable:
    """Return the table of a fleet's locations, nothing where a seat stays empty."""
    table = known.align(fleet.locations)
    values = table.values.copy()
    values[:, [k for k, name in enumerate(fleet.locations) if name.startswith(_EMPTY)]] = 0.0
    return table.relaid(table.edges_us, table.locations, values)
