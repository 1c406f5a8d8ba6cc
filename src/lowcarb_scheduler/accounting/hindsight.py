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
from math import ceil, isnan, nan
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from lowcarb_scheduler.accounting.emissions import emissions_g, known_sum
from lowcarb_scheduler.accounting.turns import expected_g, realised_g, stretch_of
from lowcarb_scheduler.clock import HOUR_US, MICROSECOND, to_us
from lowcarb_scheduler.errors import LowcarbError
from lowcarb_scheduler.events import UNKNOWN_PLACE
from lowcarb_scheduler.forecasts.bias_correction import correct_forecast
from lowcarb_scheduler.intensity import neutral_table
from lowcarb_scheduler.planning.fairness import most_of_one_location
from lowcarb_scheduler.planning.fleet import Fleet
from lowcarb_scheduler.planning.job import JobRules, looked_ahead, start_step_us
from lowcarb_scheduler.planning.pareto import tradeoff
from lowcarb_scheduler.planning.planner import plan

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime, timedelta

    from lowcarb_scheduler.accounting.replay import InitialPlan, Record, RoundRecord
    from lowcarb_scheduler.events import Node
    from lowcarb_scheduler.intensity import IntensityTable, Ints
    from lowcarb_scheduler.planning.job import Job, Participation, Plan
    from lowcarb_scheduler.planning.pareto import Frontier

_MOST_SLOTS: Final = 300  # openings up to which clients that may start apart are planned so
_EMPTY: Final = "\x00empty seat"  # no node is called so: what nodes say of themselves is printable


@dataclass(frozen=True, slots=True)
class Rules:
    """What bound the run, and binds hindsight.

    Parameters
    ----------
    grid_from : datetime
        Rounds open on ``grid_from + k * start_step``, and not before.
    finish_by, target_finish : datetime
        The deadline, and where patience puts the end.
    job_rules : JobRules
        Rules of the job that the run was planned with, but for participation.
    """

    grid_from: datetime
    finish_by: datetime
    target_finish: datetime
    job_rules: JobRules

    @classmethod
    def of(cls, record: Record) -> Rules:
        """Return the rules of a run; one that did not do all its rounds had no longer than it took."""
        settings, length = record.started.settings, record.rounds[-1].length
        grid_from, finish_by = record.started_at, record.rounds[-1].closes_at
        target = finish_by
        if record.initial_plan is not None:
            grid_from = record.initial_plan.grid_from
            if record.status == "completed":
                finish_by = record.initial_plan.finish_by
                target = record.initial_plan.target_finish
        back_to_back = grid_from + len(record.rounds) * length
        # Turns are those that were taken, and the target stands for patience.
        job_rules = JobRules.from_settings(
            settings, round_duration=length, patience=None, participation=None, mix_rounds=None
        )
        return cls(grid_from, max(finish_by, back_to_back), max(target, back_to_back), job_rules)


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
    share = min(max(rules.job_rules.max_location_share, _largest_share(record, seats)), 1.0)
    fleet = _fleet(record, rules)
    if empty:
        places = ceil(empty / most_of_one_location(share, seats))
        fleet = _with_clients_of_no_power(fleet, empty, places, len(seated) * seats - sum(seated))
    # Who has done less owes the difference: so everybody does as many turns as it really did.
    fleet = replace(fleet, turns_done=fleet.turns_done.max() - fleet.turns_done)
    return replace(rules.job_rules, max_location_share=share).job(
        fleet, rules.grid_from, rules.finish_by, len(seated), seats, target_finish=rules.target_finish
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
            node = worked.nodes.get(turn.id)
            planned = worked.length if node is None else node.turn(worked.length)
            kind[turn.id] = turn.place, planned
            lengths_us[kind[turn.id]].append((turn.ended_at - turn.started_at) // MICROSECOND)
            kwh[turn.id] += turn.energy_kwh
            turns[turn.id] += 1
    round_us = (rules.job_rules.round_duration or record.rounds[-1].length) // MICROSECOND
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


# -- From run-now to realised in four steps: what a round would have emitted, one thing changed at a time ---


class EmissionLevels(NamedTuple):
    """The five levels of a round, as :func:`waterfall` takes them [gCO2eq].

    NaN is not known. All but the first are of the energy that was really drawn.

    Parameters
    ----------
    run_now_g : float
        The same work by random clients when run-now would have done it.
    at_once_g : float
        By those who were to train, at that time.
    expected_g : float
        By them when they were to train, as expected when the round opened; on actual intensity where nothing
        was expected, so that what nobody forecast has no forecast error.
    as_planned_g : float
        The same on actual intensity; as far as turns went, where they were shorter and the rest is not known.
    realised_g : float
        By those who really trained, when they did.
    """

    run_now_g: float
    at_once_g: float
    expected_g: float
    as_planned_g: float
    realised_g: float


def levels_of(worked: RoundRecord, actual: IntensityTable) -> EmissionLevels:
    """Return the levels of a round."""
    kwh = sum(turn.energy_kwh for turn in worked.turns)
    realised = realised_g(worked.turns, actual)
    run_now = expected_g(worked.nodes, worked.turns, actual, worked.run_now_at, worked.length)
    between = _planned_levels(worked, actual, kwh) if kwh else (0.0, 0.0, 0.0)
    return EmissionLevels(
        nan if run_now is None else run_now, *between, nan if realised is None else realised
    )


def _planned_levels(worked: RoundRecord, actual: IntensityTable, kwh: float) -> tuple[float, float, float]:
    """Return the three levels that rest on the plan, for so much energy."""
    starts_us = np.array([to_us(member.starts_at) for member in worked.members], dtype=np.int64)
    ends_us = np.array([to_us(member.ends_at) for member in worked.members], dtype=np.int64)
    usual_watts = {turn.id: turn.power_watts for turn in worked.turns}
    usual_watts |= {key: node.power_watts for key, node in worked.nodes.items()}
    watts = np.array([usual_watts.get(member.id, nan) for member in worked.members])
    planned_kwh = float((watts / 1000 * (ends_us - starts_us)).sum() / HOUR_US)
    if not planned_kwh > 0:
        return nan, nan, nan  # energy without a power: nobody knows who was to draw how much of it
    drawn = kwh / planned_kwh
    columns = actual.columns([member.location or UNKNOWN_PLACE for member in worked.members])
    lengths_us, stretch = ends_us - starts_us, stretch_of(worked.turns, worked.nodes, worked.length)

    def within_g(opens_us: Ints, stretch: float) -> float:
        """Charge the same energy in windows of other lengths."""
        durations_us = np.maximum(np.round(lengths_us * stretch), 1).astype(np.int64)
        power_watts = watts * lengths_us / durations_us
        grams = emissions_g(actual, columns, power_watts, opens_us, opens_us + durations_us)
        return drawn * float(grams.sum())

    at_once = within_g(np.full(len(starts_us), to_us(worked.run_now_at), dtype=np.int64), stretch)
    as_planned = within_g(starts_us, 1.0)
    if isnan(as_planned) and stretch < 1:  # a run that is over early does not know how its last window ends
        as_planned = within_g(starts_us, stretch)
    expected = as_planned if worked.planned_g is None else drawn * worked.planned_g
    return at_once, expected, as_planned


# -- What could be chosen when a run began: plans for some values of patience, and where the run ended ------
# The plans rest on what was forecast then, corrected by what was known of the past, as the ledger has both.
# All is in the energy that was really drawn: where turns took more or less than power times time, or were not
# completed, plans are scaled by that.

POINTS: Final = 6  # values of patience


@dataclass(frozen=True, slots=True)
class Outcome:
    """A point beside the front: where something was over, and what it emitted.

    Parameters
    ----------
    name : str
        ``run-now``, ``planned`` or ``realised``.
    finish : datetime
        When its last round closes.
    emissions_g : float
        What it emits [gCO2eq].
    """

    name: str
    finish: datetime
    emissions_g: float


@dataclass(frozen=True, slots=True)
class RunFront:
    """What could be chosen when the run began, and where it stood in the end.

    Parameters
    ----------
    frontier : Frontier
        Plans for some values of patience, on what was expected at the start.
    stands : tuple of Outcome
        Run-now, as expected then; and once the run has completed, what was planned when each round opened,
        and what was realised; each where it is known.
    first_round : int
        The first of the rounds this is about: 2 where the length of a round was not given.
    """

    frontier: Frontier
    stands: tuple[Outcome, ...]
    first_round: int = 1


def front_of(record: Record, rules: Rules, realised_g: Mapping[int, float | None]) -> RunFront | None:
    """Return what could be chosen when a run began.

    Parameters
    ----------
    record : Record
        The run.
    rules : Rules
        What bound it.
    realised_g : mapping of int to float or None
        What its rounds have emitted, by number [gCO2eq].

    Returns
    -------
    RunFront or None
        None where no round of the first plan has closed, or it rested on no forecast.
    """
    begun = record.initial_plan
    if begun is None or begun.forecast is None or begun.planned.basis != "forecast":
        return None
    first = begun.planned.round
    rounds = [worked for worked in record.rounds if worked.number >= first]
    if not rounds:
        return None
    drawn = _drawn(rounds)
    try:
        job = _job_at_the_start(record, begun, rules, rounds[0].length, drawn)
        expected = _expected(job, begun, begun.forecast)
        frontier = tradeoff(without_fine_stagger(job, expected), expected, POINTS)
    except LowcarbError:
        return None  # the run found a way around what was in its way; a front has none
    back_to_back = rules.grid_from + job.rounds * rounds[0].length
    stands = [_stand("run-now", back_to_back, frontier.run_now_emissions_g)]
    if record.status == "completed":
        finish = rounds[-1].closes_at
        stands += [
            _stand("planned", finish, known_sum(worked.planned_g for worked in rounds), drawn),
            _stand("realised", finish, known_sum(realised_g[worked.number] for worked in rounds)),
        ]
    return RunFront(frontier, tuple(stand for stand in stands if stand is not None), first)


def _stand(name: str, finish: datetime, emissions_g: float | None, drawn: float = 1.0) -> Outcome | None:
    return None if emissions_g is None else Outcome(name, finish, emissions_g * drawn)


def _drawn(rounds: list[RoundRecord]) -> float:
    """Return the energy that was drawn over that planned for the same rounds; 1 while none has closed."""
    planned_watts_us = 0.0
    for worked in rounds:
        for member in worked.members:
            if (node := worked.nodes.get(member.id)) is not None:
                planned_watts_us += node.power_watts * ((member.ends_at - member.starts_at) // MICROSECOND)
    kwh = sum(turn.energy_kwh for worked in rounds for turn in worked.turns)
    return kwh / (planned_watts_us / 1000 / HOUR_US) if planned_watts_us > 0 else 1.0


def _job_at_the_start(
    record: Record, begun: InitialPlan, rules: Rules, length: timedelta, drawn: float
) -> Job:
    """Return the job as it was when the run was first planned."""
    windows = begun.planned.windows
    job_rules = replace(
        rules.job_rules,
        round_duration=length,
        participation=_participation(record.started.participation),
        bounds_count_done=True,
    )
    return job_rules.job(
        _initial_fleet(begun.nodes, begun.turns, length // MICROSECOND, drawn),
        begun.planned.at,
        begun.finish_by,
        len(windows),
        sum(windows[0].locations.values()),
        grid_from=rules.grid_from,
    )


def _participation(told: object) -> Participation:
    return (int(told[0]), int(told[1])) if isinstance(told, list | tuple) else told  # type: ignore[return-value]


def _initial_fleet(nodes: Mapping[str, Node], turns: Mapping[str, int], round_us: int, drawn: float) -> Fleet:
    ids = sorted(nodes)
    own_us = np.array(
        [(nodes[key].duration or MICROSECOND * 0) // MICROSECOND for key in ids], dtype=np.int64
    )
    locations, index = np.unique([nodes[key].place for key in ids], return_inverse=True)
    return Fleet(
        ids=np.array(ids, dtype=object),
        locations=tuple(str(name) for name in locations),
        location_index=index.astype(np.int64),
        power_watts=np.array([nodes[key].power_watts for key in ids], dtype=np.float64) * drawn,
        power_assumed=np.zeros(len(ids), dtype=bool),
        durations_us=np.where(own_us <= round_us, own_us, 0),
        turns_done=np.array([turns.get(key, 0) for key in ids], dtype=np.int64),
    )


def _expected(job: Job, begun: InitialPlan, forecast: IntensityTable) -> IntensityTable:
    """Return what was expected; a place of which nothing was known is at the others' mean."""
    until = looked_ahead(job)
    expected = correct_forecast(forecast.align(job.fleet.locations), begun.actual, job.now, until)
    blank = np.flatnonzero(np.isnan(expected.values).all(axis=0))
    if not len(blank):
        return expected
    unknown = [expected.locations[column] for column in blank]
    return expected.fill(neutral_table(expected, unknown, job.now, until))
