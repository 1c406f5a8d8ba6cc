"""Replanning policy of runs and backtests.

A decision corrects the forecast, adds the value of waiting, plans, and keeps the previous plan unless the new
one is worth the change.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Final

import numpy as np

from lowcarb_scheduler.accounting.emissions import emissions_g
from lowcarb_scheduler.clock import to_us
from lowcarb_scheduler.errors import ForecastUnavailableError, LowcarbError, PlanInfeasibleError, one_line
from lowcarb_scheduler.events import UNKNOWN_PLACE
from lowcarb_scheduler.forecasts.bias_correction import ORIGINS, expect, without_gaps
from lowcarb_scheduler.intensity import neutral_table
from lowcarb_scheduler.planning.fairness import TurnRange, decide_turns, location_cap
from lowcarb_scheduler.planning.job import looked_ahead
from lowcarb_scheduler.planning.model import Limits
from lowcarb_scheduler.planning.option_value import WORTH_WAITING, value_of_waiting, without_idle_waits
from lowcarb_scheduler.planning.planner import blocks_of, plan, plan_problem, problem_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from datetime import datetime

    from lowcarb_scheduler.forecasts.bias_correction import Expectation
    from lowcarb_scheduler.intensity import IntensityTable, Ints
    from lowcarb_scheduler.planning.fleet import Fleet
    from lowcarb_scheduler.planning.job import Job, JobRules, Plan
    from lowcarb_scheduler.scheduling.intensity_feed import KnownIntensity
    from lowcarb_scheduler.scheduling.messages import RunLog
    from lowcarb_scheduler.scheduling.schedule import Schedule

WORTH_CHANGING: Final = 0.001  # part of the expected emissions a new plan must avoid to replace the last
# A plan that is made anew at the next news is not proved beyond what a change has to be worth.
_LIMITS: Final = Limits(proven_gap=WORTH_CHANGING / 2)
_ROUNDING: Final = 1e-6  # turns


def replan(
    job: Job,
    forecast: IntensityTable,
    history: IntensityTable | None = None,
    past_forecasts: Sequence[IntensityTable] = (),
    previous: Plan | None = None,
    *,
    last_good: Collection[str] = (),
    default: Collection[str] = (),
    fill_gaps: bool = False,
    is_certain: bool = False,
) -> Plan:
    """Plan the remaining rounds on what is known now, to be planned again when more is known.

    Parameters
    ----------
    job : Job
        Job of the rounds that remain.
    forecast : IntensityTable
        The newest forecast.
    history : IntensityTable, optional
        Actual intensity; values after ``job.now`` are not used.
    past_forecasts : sequence of IntensityTable
        Earlier issues, from which the correction is learned.
    previous : Plan, optional
        The plan so far. Its last ``job.rounds`` rounds are kept if they still obey the job's rules and the
        new plan does not avoid more than 0.1 % of their emissions: a plan does not flap.
    last_good, default : collection of str
        Locations whose forecast is the last good one, or a substitute; see ``Plan.forecast_origin``.
    fill_gaps : bool (default: False)
        Whether hours of which nothing is known have their location's mean, of origin ``default``. Without it
        no turn touches them.
    is_certain : bool (default: False)
        Whether the forecast is what will have happened, as in a file that is replayed. Then no later one can
        be better, and waiting has no value beyond what the forecast shows.

    Returns
    -------
    Plan
        Its emissions are on the corrected expectation. Where there is slack the rounds are chosen with the
        value of waiting, and the plan has no lower bound: it aims at more than today's expectation shows.

    Raises
    ------
    PlanInfeasibleError
        If no plan obeys the job's rules.
    ForecastUnavailableError
        If nothing is known of a location.
    """
    known = forecast.align(job.fleet.locations)
    if job.finish_by <= job.now:
        return plan(job, known)  # raises the error that says why there is none
    until = looked_ahead(job)
    expectation = expect(known, history, job.now, until, past_forecasts, last_good, default)
    # The plan can still change, so a later slot is worth more than its expectation: it gets a bonus.
    hoped = expectation.intensity
    if not is_certain:
        hoped = value_of_waiting(job, hoped, history)
    if fill_gaps:  # after the bonus: no round waits for hours of which nothing is known
        expectation = without_gaps(expectation)
        hoped = hoped.fill(expectation.intensity)
    expected = expectation.intensity
    problem = problem_of(job, hoped, _LIMITS)
    best = plan_problem(job, problem, previous)
    if best.closes_us[-1] > job.opens_from_us + job.rounds * job.round_us:
        # Waiting has to be worth it: among plans that are about as good the one that ends first wins.
        soonest = plan_problem(job, problem.with_patience(0.0))
        best = best if _avoids(WORTH_WAITING, best, soonest) else soonest
    best = _opened_early(best, job, hoped, expected)
    kept = None if previous is None else _still_valid(previous, job, hoped, best)
    if kept is not None and not _avoids(WORTH_CHANGING, best, kept):
        best = _opened_early(kept, job, hoped, expected)  # the value of its waits shrinks as they near
    # With a bonus the plan is optimal for another objective, and its bound holds for that one only.
    certified = np.array_equal(hoped.values, expected.values, equal_nan=True)
    charged = _charged(best, job, expected, best.lower_bound_g if certified else None)
    return replace(charged, forecast_origin=origin_shares(charged, expectation))


def _opened_early(planned: Plan, job: Job, hoped: IntensityTable, expected: IntensityTable) -> Plan:
    """Return a plan without waits that are not worth it, charged as hoped."""
    return _charged(without_idle_waits(planned, job, expected), job, hoped, planned.lower_bound_g)


def _avoids(part: float, new: Plan, old: Plan) -> bool:
    """Return whether a plan avoids more than a part of another's emissions."""
    return new.emissions_g < old.emissions_g - part * abs(old.emissions_g)


def _still_valid(previous: Plan, job: Job, hoped: IntensityTable, best: Plan) -> Plan | None:
    """Return the remaining rounds of the previous plan, charged anew; None if they break a rule."""
    fleet, rounds = job.fleet, job.rounds
    if len(previous.opens_us) < rounds or previous.seats.shape[1] != job.clients_per_round:
        return None
    opens_us, closes_us = previous.opens_us[-rounds:], previous.closes_us[-rounds:]
    # Ids of a fleet are sorted, so each client of the previous plan is found by bisection, if it is there.
    position = np.minimum(np.searchsorted(fleet.ids, previous.fleet.ids), len(fleet) - 1)
    present = fleet.ids[position] == previous.fleet.ids
    seats, starts_us = position[previous.seats[-rounds:]], previous.starts_us[-rounds:]
    ends_us = starts_us + job.durations_us[seats]
    # The kept plan may end no later than either plan, and never after the deadline.
    last_us = min(max(to_us(best.finish), to_us(previous.finish)), to_us(job.finish_by))
    obeys = (
        present[previous.seats[-rounds:]].all()
        and opens_us[0] >= job.opens_from_us
        and (closes_us - opens_us >= job.round_us).all()
        and (ends_us <= closes_us[:, None]).all()
        and closes_us[-1] <= last_us
        and _keeps_turns(job, seats, best)
        and _fullest(fleet, seats) <= max(location_cap(job), _fullest(fleet, best.seats))
    )
    if not obeys:
        return None
    moved = replace(best, fleet=fleet, opens_us=opens_us, closes_us=closes_us, seats=seats,
                    starts_us=starts_us, ends_us=ends_us)  # fmt: skip
    reach = job.balance_turns
    if reach is not None and moved.imbalance > max(reach, best.imbalance) + _ROUNDING:
        return None
    charged = _charged(moved, job, hoped, best.lower_bound_g)
    return None if np.isnan(charged.client_emissions_g).any() else charged


def _keeps_turns(job: Job, seats: Ints, best: Plan) -> bool:
    """Return whether turns keep a job's bounds, and are as even as those of the new plan after each block."""
    taken = np.bincount(seats.ravel(), minlength=len(job.fleet))
    if isinstance(job.participation, tuple):
        bounds = decide_turns(job)
        if (taken < bounds.least).any() or (taken > bounds.most).any():
            return False
    allowed = 1
    if isinstance(job.participation, TurnRange):
        allowed = job.participation.most - job.participation.least
    return all(
        _unevenness(job.fleet, seats[:rounds]) <= max(allowed, _unevenness(job.fleet, best.seats[:rounds]))
        for rounds in accumulate(blocks_of(job))
    )


def _unevenness(fleet: Fleet, seats: Ints) -> int:
    """Return the difference between the most and the fewest turns of a client, those done before included."""
    return int(np.ptp(fleet.turns_done + np.bincount(seats.ravel(), minlength=len(fleet))))


def _fullest(fleet: Fleet, seats: Ints) -> int:
    """Return the largest number of clients of one location in a round."""
    place, rounds = fleet.location_index[seats], len(seats)
    counts = np.zeros((rounds, len(fleet.locations)), dtype=np.int64)
    np.add.at(counts, (np.arange(rounds)[:, None], place), 1)
    return int(counts.max())


def _charged(planned: Plan, job: Job, intensity: IntensityTable, lower_bound_g: float | None) -> Plan:
    """Return a plan with the emissions it has under another intensity."""
    fleet, seats = planned.fleet, planned.seats
    columns = intensity.columns(fleet.locations)[fleet.location_index]
    grams = emissions_g(
        intensity, columns[seats], fleet.power_watts[seats], planned.starts_us, planned.ends_us
    )
    return replace(
        planned, client_emissions_g=grams, lower_bound_g=lower_bound_g,
        run_now_emissions_g=job.run_now_g(intensity), provenance=intensity.provenance,
        forecast_until=intensity.end,
    )  # fmt: skip


def origin_shares(planned: Plan, expectation: Expectation) -> dict[str, float]:
    """Return the origin of the intensity at the start of each turn, as parts of all turns."""
    table, fleet = expectation.intensity, planned.fleet
    columns = table.columns(fleet.locations)[fleet.location_index[planned.seats]]
    steps = np.searchsorted(table.edges_us, planned.starts_us, side="right") - 1
    turns = np.bincount(expectation.origin[steps, columns].ravel(), minlength=len(ORIGINS))
    return {ORIGINS[k]: float(turns[k] / turns.sum()) for k in np.flatnonzero(turns)}


# -- Decisions of a run --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Decision:
    """Plan of a run; without a forecast its emissions mean nothing."""

    plan: Plan
    on_forecast: bool


def decide(job: Job, known: KnownIntensity, previous: Plan | None, log: RunLog) -> Decision:
    """Plan the remaining rounds; there is always a plan.

    It rests on forecast and history where possible, on the job's grid of openings or else on one that starts
    now; if not, rounds open at once. Each step down is a warning.
    """
    if job.grid_from == job.now:
        previous = None  # without slack nothing is waited for, not even a slot of the previous plan
    forecast = known.forecast
    if forecast is None and known.actual is not None:
        forecast = known.actual.align(())  # only its provenance: the history itself is passed to replan
    if forecast is not None:
        trouble = ""
        for attempt, fill_gaps in _attempts(job, forecast):
            try:
                planned = _replan(attempt, forecast, known, previous, log, fill_gaps)
                if fill_gaps:
                    why = "it ends or has gaps before the deadline, and no history fills them"
                    log.warn("forecast", why, "later rounds are planned with each location's mean")
                _note_bounds(job, planned, log)
                _note_relaxed(planned, log)
                return Decision(planned, on_forecast=True)
            except PlanInfeasibleError as error:
                trouble = error.reason
            except LowcarbError as error:
                trouble = one_line(str(error))  # no fault of planning may stop the training
        log.warn("plan", trouble, "the next round opens at once")
    return at_once(job, log)


def _attempts(job: Job, forecast: IntensityTable) -> Iterator[tuple[Job, bool]]:
    """Yield a job, and variants that may have a plan where it has none, each with whether gaps are filled."""
    ahead = None if job.finish_by <= job.now else forecast.slice(job.now, job.finish_by)
    covers = ahead is not None and ahead.end == job.finish_by and not np.isnan(ahead.values).any()
    for fill_gaps in (False,) if covers else (False, True):
        yield job, fill_gaps
        yield replace(job, grid_from=job.now), fill_gaps
        if isinstance(job.participation, tuple | TurnRange):
            yield replace(job, participation="equal"), fill_gaps


def _note_bounds(job: Job, planned: Plan, log: RunLog) -> None:
    """Warn where bounds on turns had to give way."""
    if isinstance(job.participation, tuple):
        least, most = job.participation
        if planned.turns.min() < least or planned.turns.max() > most:
            why = f"participation of {least} to {most} turns cannot be kept by all"
            log.warn("rules", why, "the bounds are relaxed as little as possible")


def _note_relaxed(planned: Plan, log: RunLog) -> None:
    """Warn of each rule that no plan can keep; once, though figures differ from plan to plan."""
    for rule in planned.relaxed:
        why = f"no plan keeps {rule.replace('_', '-')} any more, with the turns done so far"
        log.warn("rules", why, "the rule is relaxed as little as possible")


def _replan(
    job: Job, forecast: IntensityTable, known: KnownIntensity, previous: Plan | None, log: RunLog,
    fill_gaps: bool,
) -> Plan:  # fmt: skip
    """Replan; a location without any intensity is neither preferred nor avoided."""
    try:
        return replan(
            job, forecast, known.actual, known.past_forecasts, previous,
            last_good=known.last_good, fill_gaps=fill_gaps, is_certain=known.is_certain,
        )  # fmt: skip
    except ForecastUnavailableError as error:
        missing = tuple(error.missing)
        if len(missing) == len(job.fleet.locations):
            reason = "no location has a forecast"
            raise PlanInfeasibleError(reason, len(missing), 0, job.finish_by) from None
        fix = "; set lowcarb-locations or lowcarb-default-location" if UNKNOWN_PLACE in missing else ""
        what = f"intensity of {', '.join(missing)}"
        log.warn(what, "nothing is known", f"it is planned with the mean of the others{fix}")
        # The mean of the others: a location without data must not look clean or dirty by accident.
        like = forecast if forecast.locations else known.actual
        neutral = neutral_table(like, missing, job.now, job.finish_by)
        return replan(
            job, forecast.fill(neutral), known.actual, known.past_forecasts, previous,
            last_good=known.last_good, default=missing, fill_gaps=fill_gaps, is_certain=known.is_certain,
        )  # fmt: skip


def at_once(job: Job, log: RunLog) -> Decision:
    """Plan rounds back-to-back from now, choosing only by turns."""
    hurried = replace(
        job, patience=0.0, target_finish=None, stagger=False, grid_from=job.now,
        start_step=job.round_duration,
    )  # fmt: skip
    if isinstance(job.participation, TurnRange):  # without a forecast no location should train more often
        hurried = replace(hurried, participation="equal")
    flat = neutral_table(None, job.fleet.locations, job.now, hurried.finish_by)
    try:
        return Decision(replan(hurried, flat), on_forecast=False)
    except PlanInfeasibleError as error:
        log.warn("rules", error.reason, "turns are shared equally instead")
        lenient = replace(hurried, participation="equal")
        return Decision(replan(lenient, flat), on_forecast=False)


def job_of(
    rules: JobRules, schedule: Schedule, plan_by: datetime, now: datetime, rounds: int, clients: int,
    fleet: Fleet, rounds_done: int | None = None,
) -> Job:  # fmt: skip
    """Return the job of the rounds that remain; without slack it waits for no slot of the grid."""
    back_to_back = now + rounds * schedule.round_duration
    no_slack = rules.patience == 0 or back_to_back >= min(schedule.target_finish, plan_by)
    return replace(rules, round_duration=schedule.round_duration).job(
        fleet, now, plan_by, rounds, clients,
        grid_from=now if no_slack else schedule.grid_from,
        target_finish=schedule.target_finish if rules.patience > 0 else None, rounds_done=rounds_done,
    )  # fmt: skip
