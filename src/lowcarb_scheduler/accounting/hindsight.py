"""Hindsight: the best plan with a perfect forecast, the emission levels of rounds, and the initial trade-off.

Hindsight plans the same work under the same rules. Each node does as many turns as it really did, with the
mean energy of its turns and the mean time of turns of its kind. The rounds are as many as they were, have the
length that was planned last, open on the run's own grid and end by its target; no round has more clients than
the largest had, or fewer than the smallest. Only hours whose actual intensity is in the ledger can be chosen.
The plan ignores which nodes were connected when, and the rule of balance (its nodes do the run's turns, in
any order), so not every run could have reached it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from math import ceil, isnan, nan
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from lowcarb_scheduler.accounting.emissions import emissions_g, known_sum
from lowcarb_scheduler.accounting.turns import expected_g, fleet_of, fleet_of_columns, stretch_of
from lowcarb_scheduler.clock import HOUR_US, MICROSECOND, from_us, to_us
from lowcarb_scheduler.errors import LowcarbError
from lowcarb_scheduler.events import UNKNOWN_PLACE
from lowcarb_scheduler.forecasts.bias_correction import correct_forecast
from lowcarb_scheduler.intensity import neutral_table
from lowcarb_scheduler.planning.fairness import TurnRange, most_of_one_location
from lowcarb_scheduler.planning.job import JobRules, looked_ahead, start_step_us
from lowcarb_scheduler.planning.pareto import tradeoff
from lowcarb_scheduler.planning.planner import plan

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from lowcarb_scheduler.accounting.replay import InitialPlan, Record, RoundRecord
    from lowcarb_scheduler.events import Planned
    from lowcarb_scheduler.intensity import Floats, IntensityTable, Ints
    from lowcarb_scheduler.planning.fleet import Fleet
    from lowcarb_scheduler.planning.job import Job, Participation, Plan
    from lowcarb_scheduler.planning.pareto import Frontier

_MOST_SLOTS: Final = 300  # staggered starts are planned up to this number of possible openings
_EMPTY: Final = "\x00empty seat"  # no node has such a name: names of nodes are printable


@dataclass(frozen=True, slots=True)
class Rules:
    """Rules of the run, which its hindsight plan obeys too.

    Parameters
    ----------
    grid_from : datetime
        Rounds open on ``grid_from + k * start_step``, and not before.
    finish_by, target_finish : datetime
        The deadline, and the end that patience allows.
    job_rules : JobRules
        Rules of the job that the run was planned with, but for participation.
    """

    grid_from: datetime
    finish_by: datetime
    target_finish: datetime
    job_rules: JobRules

    @classmethod
    def of(cls, record: Record) -> Rules:
        """Return the rules of a run; the deadline of an incomplete run is the end of its last round."""
        settings, length = record.started.settings, record.rounds[-1].length
        grid_from, finish_by = record.started.began_at, record.rounds[-1].closes_at
        target = finish_by
        if record.initial_plan is not None:
            grid_from = record.initial_plan.grid_from
            if record.status == "completed":
                finish_by = record.initial_plan.finish_by
                target = record.initial_plan.target_finish
        # Overruns may have made the run late: its own work must fit into its hindsight plan.
        back_to_back = grid_from + len(record.rounds) * length
        # The turns are given by the fleet, and patience by the target: both would bind a second time.
        job_rules = JobRules.from_settings(
            settings, round_duration=length, patience=None, participation=None, mix_rounds=None, balance=None
        )
        return cls(grid_from, max(finish_by, back_to_back), max(target, back_to_back), job_rules)


@dataclass(frozen=True, slots=True, eq=False)
class Hindsight:
    """Best plan with a perfect forecast.

    Parameters
    ----------
    plan : Plan
        The plan on actual intensity; clients without power stand for empty seats.
    known_until : datetime
        End of the known actual intensity; no later hour can be chosen.
    """

    plan: Plan
    known_until: datetime


def hindsight_of(record: Record) -> Hindsight | None:
    """Return the best plan with a perfect forecast.

    None if no turn was completed, or actual intensity is known for too few hours.
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
    """Return the job that the run has really done."""
    seated = [len(worked.turns) for worked in record.rounds]
    seats, empty = max(seated), max(seated) - min(seated)
    most = max(max(Counter(turn.place for turn in r.turns).values(), default=0) for r in record.rounds)
    share = min(max(rules.job_rules.max_location_share, most / seats), 1.0)  # the run may have relaxed it
    fleet = _fleet(record, rules)
    # A round has a fixed number of seats; clients without power fill those that stayed empty.
    if empty:
        places = ceil(empty / most_of_one_location(share, seats))
        fleet = _with_clients_of_no_power(fleet, empty, places, len(seated) * seats - sum(seated))
    # Equal participation evens turns out: a node that did fewer of them must begin with more.
    fleet = replace(fleet, turns_done=fleet.turns_done.max() - fleet.turns_done)
    return replace(rules.job_rules, max_location_share=share).job(
        fleet, rules.grid_from, rules.finish_by, len(seated), seats, target_finish=rules.target_finish
    )


def without_fine_stagger(job: Job, intensity: IntensityTable) -> Job:
    """Return the job without staggered starts if its grid is so fine that the search would take minutes.

    The plan still obeys the rules of stagger; it may only save a little less.
    """
    slots = (to_us(job.finish_by) - job.opens_from_us) // start_step_us(job, intensity)
    return replace(job, stagger=job.stagger and slots <= _MOST_SLOTS)


def _fleet(record: Record, rules: Rules) -> Fleet:
    """Return the nodes that did turns, with their mean power and time, and the number of turns done."""
    lengths_us: defaultdict[tuple[str, timedelta], list[int]] = defaultdict(list)
    kwh: defaultdict[str, float] = defaultdict(float)
    turns: Counter[str] = Counter()
    kind: dict[str, tuple[str, timedelta]] = {}
    for worked in record.rounds:
        for turn in worked.turns:
            node = worked.connected.get(turn.id)
            planned = worked.length if node is None else node.turn(worked.length)
            kind[turn.id] = turn.place, planned
            lengths_us[kind[turn.id]].append(turn.duration // MICROSECOND)
            kwh[turn.id] += turn.energy_kwh
            turns[turn.id] += 1
    round_us = (rules.job_rules.round_duration or record.rounds[-1].length) // MICROSECOND
    # Times are averaged over turns of a location and planned length: one turn says little of its node.
    mean_us = {of: int(np.clip(round(np.mean(taken)), 1, round_us)) for of, taken in lengths_us.items()}
    ids = sorted(turns)
    durations_us = np.array([mean_us[kind[key]] for key in ids], dtype=np.int64)
    counts = np.array([turns[key] for key in ids], dtype=np.int64)
    watts = np.array([kwh[key] for key in ids]) / counts * 1000 / (durations_us / HOUR_US)
    return fleet_of_columns(ids, [kind[key][0] for key in ids], watts, durations_us, counts)


def _with_clients_of_no_power(fleet: Fleet, clients: int, places: int, turns: int) -> Fleet:
    """Return a fleet with more clients, without power, that do a number of turns together."""
    counts = np.full(clients, turns // clients, dtype=np.int64)
    counts[: turns % clients] += 1
    names = [f"{_EMPTY} {k:09d}" for k in range(clients)]
    return fleet_of_columns(
        [*names, *fleet.ids],
        [*(names[k % places] for k in range(clients)), *(fleet.locations[k] for k in fleet.location_index)],
        np.concatenate([np.zeros(clients), fleet.power_watts]),
        np.concatenate([np.ones(clients, dtype=np.int64), fleet.durations_us]),
        np.concatenate([counts, fleet.turns_done]),
    )


def _with_empty_seats(known: IntensityTable, fleet: Fleet) -> IntensityTable:
    """Return the intensity at a fleet's locations, 0 at those of empty seats."""
    table = known.align(fleet.locations)
    # Not a gap: a window that touches one cannot be planned.
    values = table.values.copy()
    values[:, [k for k, name in enumerate(fleet.locations) if name.startswith(_EMPTY)]] = 0.0
    return table.relaid(table.edges_us, table.locations, values)


# -- Emission levels of a round ----------------------------------------------------------------------------


class EmissionLevels(NamedTuple):
    """Emissions of a round from run-now to realised, one thing changed at a time; input of ``waterfall``.

    Unknown levels are NaN. All but the first use the energy that was really drawn [gCO2eq].

    Parameters
    ----------
    run_now_g : float
        The same work by random clients, at the time of run-now.
    chosen_g : float
        Run-now and what the choice of nodes changes: the mean of its effect at the time of run-now and of its
        effect in the planned windows, so that it does not depend on which of the two is counted first.
    expected_g : float
        By the selected nodes in their planned windows, as expected when the round opened; on actual intensity
        where there was no forecast, so that a missing forecast is no forecast error.
    as_planned_g : float
        The same on actual intensity; in shorter windows if turns were shorter and the rest is unknown.
    realised_g : float
        By the nodes that trained, when they did.
    """

    run_now_g: float
    chosen_g: float
    expected_g: float
    as_planned_g: float
    realised_g: float


def levels_of(worked: RoundRecord, actual: IntensityTable | None) -> EmissionLevels:
    """Return the emission levels of a round, whose figures are those on actual intensity."""
    if actual is None:
        return EmissionLevels(nan, nan, nan, nan, nan)
    run_now, realised = (nan if grams is None else grams for grams in (worked.run_now_g, worked.realised_g))
    kwh = sum(turn.energy_kwh for turn in worked.turns)
    between = _planned_levels(worked, actual, kwh, run_now) if kwh else (0.0, 0.0, 0.0)
    return EmissionLevels(run_now, *between, realised)


def _planned_levels(
    worked: RoundRecord, actual: IntensityTable, kwh: float, run_now_g: float
) -> tuple[float, float, float]:
    """Return the three levels that depend on the plan, for the energy that was drawn."""
    starts_us = np.array([to_us(member.starts_at) for member in worked.members], dtype=np.int64)
    ends_us = np.array([to_us(member.ends_at) for member in worked.members], dtype=np.int64)
    usual_watts = {turn.id: turn.power_watts for turn in worked.turns}
    # The power of a node that has left is known from its turn.
    usual_watts |= {key: node.power_watts for key, node in worked.connected.items()}
    watts = np.array([usual_watts.get(member.id, nan) for member in worked.members])
    planned_kwh = float((watts / 1000 * (ends_us - starts_us)).sum() / HOUR_US)
    if not planned_kwh > 0:
        return nan, nan, nan  # energy without power cannot be shared out among the members
    drawn = kwh / planned_kwh
    columns = actual.columns([member.location or UNKNOWN_PLACE for member in worked.members])
    lengths_us, stretch = ends_us - starts_us, stretch_of(worked.turns, worked.connected, worked.length)

    def within_g(opens_us: Ints, stretch: float) -> float:
        """Return the emissions of the same energy in windows of other lengths."""
        durations_us = np.maximum(np.round(lengths_us * stretch), 1).astype(np.int64)
        power_watts = watts * lengths_us / durations_us
        grams = emissions_g(actual, columns, power_watts, opens_us, opens_us + durations_us)
        return drawn * float(grams.sum())

    # Run-now would have met the same overruns; the plan did not expect them.
    at_once = within_g(np.full(len(starts_us), to_us(worked.run_now_at), dtype=np.int64), stretch)
    # Clients are selected for their planned hours, and may be worse than others at the time of run-now.
    in_time = within_g(starts_us, stretch) - _random_g(worked, actual, starts_us, watts * lengths_us)
    effects = [at_once - run_now_g, *([] if isnan(in_time) else [in_time])]
    chosen = run_now_g + sum(effects) / len(effects)
    as_planned = within_g(starts_us, 1.0)
    if isnan(as_planned) and stretch < 1:  # a run that ends early never learns the end of its last window
        as_planned = within_g(starts_us, stretch)
    expected = as_planned if worked.planned_g is None else drawn * worked.planned_g
    return chosen, expected, as_planned


def _random_g(worked: RoundRecord, actual: IntensityTable, starts_us: Ints, weights: Floats) -> float:
    """Return the emissions of the same work by random clients in the planned windows; NaN where unknown."""
    grams = 0.0
    for start_us in np.unique(starts_us):
        at = from_us(start_us)
        expected = expected_g(worked.connected, worked.turns, actual, at, worked.length)
        part = float(weights[starts_us == start_us].sum() / weights.sum())
        grams += nan if expected is None else part * expected
    return grams


# -- Trade-off at the start of a run -----------------------------------------------------------------------

POINTS: Final = 6  # values of patience


@dataclass(frozen=True, slots=True)
class Outcome:
    """Point beside the front: an end, and its emissions.

    Parameters
    ----------
    name : str
        ``run-now``, ``planned`` or ``realised``.
    finish : datetime
        End of the last round.
    emissions_g : float
        Emissions [gCO2eq].
    is_expected : bool
        Whether run-now is that on the forecast at the start: its actual emissions are not known.
    """

    name: str
    finish: datetime
    emissions_g: float
    is_expected: bool = False


@dataclass(frozen=True, slots=True)
class RunFront:
    """Time-carbon trade-off when the run began, and its outcome.

    The plans use the forecast of that time, corrected by the past that was known. All emissions are of the
    energy that was really drawn: plans are scaled by drawn over planned energy.

    Parameters
    ----------
    frontier : Frontier
        Plans for some values of patience.
    stands : tuple of Outcome
        Run-now: on actual intensity for a completed run, the same as everywhere else, and as expected at the
        start where that is not known. For a completed run also the emissions planned when each round opened,
        and the realised ones; each if it is known.
    first_round : int
        First round of the plans: 2 if the length of a round was not given.
    """

    frontier: Frontier
    stands: tuple[Outcome, ...]
    first_round: int = 1


def front_of(record: Record) -> RunFront | None:
    """Return the time-carbon trade-off when a run began.

    Parameters
    ----------
    record : Record
        The run, with the newest figures of its rounds.

    Returns
    -------
    RunFront or None
        None if no round of the initial plan has closed, or it was made without a forecast.
    """
    begun = record.initial_plan
    if begun is None or begun.forecast is None or begun.planned.basis != "forecast":
        return None
    first = begun.planned.round
    rounds = [worked for worked in record.rounds if worked.number >= first]
    if not rounds:
        return None
    rules, drawn = Rules.of(record), _drawn(rounds)
    try:
        job = _job_at_the_start(record, begun, rules, rounds[0].length, drawn)
        expected = _expected(job, begun, begun.forecast)
        frontier = tradeoff(without_fine_stagger(job, expected), expected, POINTS)
    except LowcarbError:
        return None  # the run relaxed a rule that could not be kept; the front relaxes none
    # Run-now has no waits, but the rounds of the plan.
    back_to_back = rules.grid_from + job.rounds * rounds[0].length
    emissions = {"run-now": (back_to_back, frontier.run_now_emissions_g)}
    run_now_g = None
    if record.status == "completed":
        finish, planned_g = rounds[-1].closes_at, known_sum(worked.planned_g for worked in rounds)
        emissions["planned"] = finish, None if planned_g is None else planned_g * drawn
        emissions["realised"] = finish, known_sum(worked.realised_g for worked in rounds)
        # Beside realised emissions stands the run-now that the saving is computed against, and no other one.
        run_now_g = known_sum(worked.run_now_g for worked in rounds)
        emissions["run-now"] = back_to_back, frontier.run_now_emissions_g if run_now_g is None else run_now_g
    stands = (
        Outcome(name, end, grams, is_expected=name == "run-now" and run_now_g is None)
        for name, (end, grams) in emissions.items()
        if grams is not None
    )
    return RunFront(frontier, tuple(stands), first)


def _drawn(rounds: list[RoundRecord]) -> float:
    """Return drawn over planned energy of rounds; 1 if none was planned."""
    planned_watts_us = 0.0
    for worked in rounds:
        for member in worked.members:
            if (node := worked.connected.get(member.id)) is not None:
                planned_watts_us += node.power_watts * ((member.ends_at - member.starts_at) // MICROSECOND)
    kwh = sum(turn.energy_kwh for worked in rounds for turn in worked.turns)
    return kwh / (planned_watts_us / 1000 / HOUR_US) if planned_watts_us > 0 else 1.0


def _job_at_the_start(
    record: Record, begun: InitialPlan, rules: Rules, length: timedelta, drawn: float
) -> Job:
    """Return the job of the initial plan."""
    windows, fleet = begun.planned.windows, fleet_of(begun.nodes, begun.turns, length)
    job_rules = replace(
        rules.job_rules,
        round_duration=length,
        participation=_participation(record.started.participation, begun.planned),
        bounds_count_done=True,  # bounds are over the whole run, and turns may be done before its plan
    )
    return job_rules.job(
        replace(fleet, power_watts=fleet.power_watts * drawn),
        begun.planned.at,
        begun.finish_by,
        len(windows),
        sum(windows[0].locations.values()),
        grid_from=rules.grid_from,
    )


def _participation(stored: object, planned: Planned) -> Participation:
    if stored == "auto":
        turns = TurnRange(planned.min_turns, planned.max_turns)
        return turns if turns.most - turns.least > 1 else "equal"
    # JSON has no tuples: bounds come back as a list.
    return tuple(map(int, stored)) if isinstance(stored, list) else stored  # type: ignore[return-value]


def _expected(job: Job, begun: InitialPlan, forecast: IntensityTable) -> IntensityTable:
    """Return the expected intensity; a location without any is at the mean of the others."""
    until = looked_ahead(job)
    expected = correct_forecast(forecast.align(job.fleet.locations), begun.actual, job.now, until)
    # The run planned its unknown locations in the same way, so that carbon decided nothing for them.
    blank = np.flatnonzero(np.isnan(expected.values).all(axis=0))
    if not len(blank):
        return expected
    unknown = [expected.locations[column] for column in blank]
    return expected.fill(neutral_table(expected, unknown, job.now, until))
