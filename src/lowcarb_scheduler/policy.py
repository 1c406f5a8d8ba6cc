"""Replanning: what strategy and backtest call at every decision.

correction -> value of waiting -> plan -> keep the previous plan unless the new one is worth the change.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import numpy as np

from lowcarb_scheduler.accounting import emissions_g
from lowcarb_scheduler.clock import from_us, to_us
from lowcarb_scheduler.forecasts.correction import ORIGINS, expect
from lowcarb_scheduler.planning.planner import plan
from lowcarb_scheduler.planning.waiting import value_of_waiting

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime

    from lowcarb_scheduler.forecasts.correction import Expectation
    from lowcarb_scheduler.intensity import IntensityTable
    from lowcarb_scheduler.planning.job import Job, Plan

LOOKED_AHEAD: Final = timedelta(days=60)  # at least; what is further away is not planned for
WORTH_CHANGING: Final = 0.001  # part of the expected emissions a new plan must avoid to replace the last
WORTH_WAITING: Final = 0.005  # part a later plan must avoid to be preferred to the soonest


def replan(
    job: Job,
    forecast: IntensityTable,
    history: IntensityTable | None = None,
    past_forecasts: Sequence[IntensityTable] = (),
    previous: Plan | None = None,
    *,
    last_good: Collection[str] = (),
    default: Collection[str] = (),
) -> Plan:
    """Plan the remaining rounds on what is known now, to be planned again when more is known.

    Parameters
    ----------
    job : Job
        The rounds that remain.
    forecast : IntensityTable
        The newest forecast.
    history : IntensityTable, optional
        What really happened; nothing later than ``job.now`` is looked at.
    past_forecasts : sequence of IntensityTable
        Earlier issues, from which the correction is learned.
    previous : Plan, optional
        The plan so far. Its last ``job.rounds`` rounds are kept if they still obey the job's rules and the
        new plan does not avoid more than 0.1 % of their emissions: a plan does not flap.
    last_good, default : collection of str
        Locations whose forecast is the last good one, or stands in for one; the plan's ``rests_on`` says so.

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
        return plan(job, known)  # says why there is none
    until = looked_ahead(job)
    expectation = expect(known, history, job.now, until, past_forecasts, last_good, default)
    expected = expectation.intensity
    hoped = value_of_waiting(job, expected, history)
    best = plan(job, hoped)
    if best.closes_us[-1] > job.opens_from_us + job.rounds * job.round_us:
        # Waiting has to be worth it, too: among plans as good as each other the one that is over first wins.
        soonest = plan(replace(job, patience=0.0, target_finish=None), hoped)
        best = best if _avoids(WORTH_WAITING, best, soonest) else soonest
    kept = None if previous is None else _still_valid(previous, job, hoped, best)
    if kept is not None and not _avoids(WORTH_CHANGING, best, kept):
        best = kept
    certified = np.array_equal(hoped.values, expected.values, equal_nan=True)
    charged = _charged(best, job, expected, best.lower_bound_g if certified else None)
    return replace(charged, rests_on=_grounds(charged, expectation))


def looked_ahead(job: Job) -> datetime:
    """Return until when intensity is expected for a job: its deadline, or less if that is very far away.

    Nothing is known of windows months from now, and steps of minutes until a deadline in a century would fill
    any memory. Twice the time of the rounds back-to-back, and 60 days, are always looked at.
    """
    enough = max(LOOKED_AHEAD, 2 * job.rounds * timedelta(microseconds=job.round_us))
    opens_from = from_us(job.opens_from_us)
    return min(job.finish_by, opens_from + min(enough, job.finish_by - opens_from))


def _avoids(part: float, new: Plan, old: Plan) -> bool:
    """Return whether a plan avoids more than a part of another's emissions."""
    return new.emissions_g < old.emissions_g - part * abs(old.emissions_g)


def _still_valid(previous: Plan, job: Job, hoped: IntensityTable, best: Plan) -> Plan | None:
    """Return the remaining rounds of the previous plan, charged anew; None if they break a rule by now."""
    fleet, rounds = job.fleet, job.rounds
    if len(previous.opens_us) < rounds or previous.seats.shape[1] != job.clients_per_round:
        return None
    opens_us, closes_us = previous.opens_us[-rounds:], previous.closes_us[-rounds:]
    position = np.minimum(np.searchsorted(fleet.ids, previous.fleet.ids), len(fleet) - 1)
    present = fleet.ids[position] == previous.fleet.ids
    seats, starts_us = position[previous.seats[-rounds:]], previous.starts_us[-rounds:]
    ends_us = starts_us + job.durations_us[seats]
    turns = fleet.turns_done + np.bincount(seats.ravel(), minlength=len(fleet))
    last_us = min(max(to_us(best.finish), to_us(previous.finish)), to_us(job.finish_by))
    obeys = (
        present[previous.seats[-rounds:]].all()
        and opens_us[0] >= job.opens_from_us
        and (closes_us - opens_us >= job.round_us).all()
        and (ends_us <= closes_us[:, None]).all()
        and closes_us[-1] <= last_us
        and np.ptp(turns) <= max(np.ptp(best.turns), 1)
    )
    if not obeys:
        return None
    moved = replace(
        best,
        fleet=fleet,
        opens_us=opens_us,
        closes_us=closes_us,
        seats=seats,
        starts_us=starts_us,
        ends_us=ends_us,
    )
    charged = _charged(moved, job, hoped, best.lower_bound_g)
    return None if np.isnan(charged.client_emissions_g).any() else charged


def _charged(planned: Plan, job: Job, intensity: IntensityTable, lower_bound_g: float | None) -> Plan:
    """Return a plan with the emissions it has under another intensity."""
    fleet, seats = planned.fleet, planned.seats
    columns = intensity.columns(fleet.locations)[fleet.location_index]
    grams = emissions_g(
        intensity, columns[seats], fleet.power_watts[seats], planned.starts_us, planned.ends_us
    )
    return replace(
        planned,
        client_emissions_g=grams,
        lower_bound_g=lower_bound_g,
        run_now_emissions_g=job.run_now_g(intensity),
        source=intensity.source,
        signal=intensity.signal,
        synthetic=intensity.synthetic,
        forecast_until=intensity.end,
    )


def _grounds(planned: Plan, expectation: Expectation) -> dict[str, float]:
    """Return where the intensity came from that turns begin in, as parts of all turns."""
    table, fleet = expectation.intensity, planned.fleet
    columns = table.columns(fleet.locations)[fleet.location_index[planned.seats]]
    steps = np.searchsorted(table.edges_us, planned.starts_us, side="right") - 1
    turns = np.bincount(expectation.origin[steps, columns].ravel(), minlength=len(ORIGINS))
    return {ORIGINS[k]: float(turns[k] / turns.sum()) for k in np.flatnonzero(turns)}
