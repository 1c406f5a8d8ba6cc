"""Replanning: what strategy and backtest call at every decision.

correction -> plan -> keep the previous plan unless the new one is worth the change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from lowcarb_scheduler.accounting import emissions_g
from lowcarb_scheduler.clock import to_us
from lowcarb_scheduler.forecasts.correction import correct_forecast
from lowcarb_scheduler.planning.job import Plan
from lowcarb_scheduler.planning.planner import plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lowcarb_scheduler.intensity import IntensityTable
    from lowcarb_scheduler.planning.job import Job

WORTH_CHANGING: Final = 0.005  # part of the expected emissions a new plan must avoid to replace the last


def replan(
    job: Job,
    forecast: IntensityTable,
    history: IntensityTable | None = None,
    past_forecasts: Sequence[IntensityTable] = (),
    previous: Plan | None = None,
) -> Plan:
    """Plan the remaining rounds on what is known now.

    Parameters
    ----------
    job : Job
        The rounds that remain.
    forecast : IntensityTable
        The newest forecast.
    history : IntensityTable, optional
        What really happened; nothing later than ``job.now`` is looked at.
    past_forecasts : sequence of IntensityTable
        Earlier issues.
    previous : Plan, optional
        The plan so far. Its last ``job.rounds`` rounds are kept if they still obey the job's rules and the
        new plan does not avoid more than 0.5 % of their emissions: a plan does not flap.

    Returns
    -------
    Plan
        Emissions and bound are on the corrected expectation.

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
    expected = correct_forecast(known, history, job.now, job.finish_by, past_forecasts)
    new = plan(job, expected)
    kept = None if previous is None else _still_valid(previous, job, expected, new)
    if kept is None or new.emissions_g < kept.emissions_g - WORTH_CHANGING * abs(kept.emissions_g):
        return new
    return kept


def _still_valid(previous: Plan, job: Job, expected: IntensityTable, new: Plan) -> Plan | None:
    """Return the remaining rounds of the previous plan, priced anew; None if they break a rule by now."""
    fleet, rounds = job.fleet, job.rounds
    if len(previous.opens_us) < rounds or previous.seats.shape[1] != job.clients_per_round:
        return None
    opens, closes = previous.opens_us[-rounds:], previous.closes_us[-rounds:]
    old_seats = previous.seats[-rounds:]
    position = np.searchsorted(fleet.ids, previous.fleet.ids)
    position = np.minimum(position, len(fleet) - 1)
    present = fleet.ids[position] == previous.fleet.ids
    seats = position[old_seats]
    turns = fleet.turns_done + np.bincount(seats.ravel(), minlength=len(fleet))
    starts = previous.starts_us[-rounds:]
    ends = starts + job.durations_us[seats]
    valid = (
        present[old_seats].all()
        and opens[0] >= job.opens_from_us
        and (closes - opens >= job.round_us).all()
        and (ends <= closes[:, None]).all()
        and closes[-1] <= max(to_us(new.finish), to_us(previous.finish))
        and closes[-1] <= to_us(job.finish_by)
        and np.ptp(turns) <= max(np.ptp(new.turns), 1)
    )
    columns = expected.columns(fleet.locations)[fleet.location_index]
    grams = emissions_g(expected, columns[seats], fleet.power_watts[seats], starts, ends)
    if not valid or np.isnan(grams).any():
        return None
    return Plan(
        fleet, opens, closes, seats, starts, ends, grams, new.lower_bound_g, new.run_now_emissions_g,
        expected.source, expected.signal, expected.synthetic, expected.end,
    )  # fmt: skip
