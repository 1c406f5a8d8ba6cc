"""Option value of waiting: a bonus on far hours for a job that will be planned again.

A forecast is an expectation. A job with slack that is planned again at every new forecast will choose the
hours that then turn out clean, so hours far ahead are worth more than their mean: the more of them there are
to choose from, the more a location varies, and the less is known yet. Decisions are made on ::

    f'[t, l] = f[t, l] - c ln(x) sd_l (1 - exp(-h / tau)),
    x = max(1, time until the finish / time the remaining rounds take back-to-back)

with h the hours from now to t and sd_l the standard deviation of the location over the last four weeks or,
with little history, of its forecast. Without slack, x = 1 and nothing changes. c and tau were fitted on a
replay of real forecasts. Emissions of the plan are charged on f, never on f'.

Hope alone holds no round: it opens in the first window that is, by f, about as clean as the one planned.
"""

from __future__ import annotations

from dataclasses import replace
from math import log
from typing import TYPE_CHECKING, Final

import numpy as np

from lowcarb_scheduler.accounting.emissions import emissions_g
from lowcarb_scheduler.clock import HOUR_US, to_us
from lowcarb_scheduler.planning.job import start_step_us

if TYPE_CHECKING:
    from lowcarb_scheduler.intensity import Floats, IntensityTable
    from lowcarb_scheduler.planning.job import Job, Plan

WEIGHT: Final = 0.12  # c
FADE_HOURS: Final = 36.0  # tau
WORTH_WAITING: Final = 0.005  # part of a round's emissions that a wait has to avoid
_MEMORY_HOURS: Final = 28 * 24
_LEAST_HOURS: Final = 3 * 24  # of history; less would not show a daily cycle


def value_of_waiting(
    job: Job,
    intensity: IntensityTable,
    history: IntensityTable | None = None,
    weight: float = WEIGHT,
    fade_hours: float = FADE_HOURS,
) -> IntensityTable:
    """Return the intensity on which a job that will be planned again decides.

    Parameters
    ----------
    job : Job
        The remaining rounds; its patience or target gives the time that they may take.
    intensity : IntensityTable
        Expected carbon intensity [gCO2eq/kWh].
    history : IntensityTable, optional
        Past intensity [gCO2eq/kWh]; values after ``job.now`` are not used.
    weight, fade_hours : float
        c and tau [h] of the formula.

    Returns
    -------
    IntensityTable
        The same steps and locations; its values rank hours and are no emissions.
    """
    edges_us = intensity.edges_us
    middle_us = edges_us[:-1] + np.diff(edges_us) // 2
    ahead_hours = np.maximum(middle_us - to_us(job.now), 0) / HOUR_US
    bonus = weight * log(_slack(job)) * (1.0 - np.exp(-ahead_hours / fade_hours))
    values = intensity.values - bonus[:, None] * _deviation(job, intensity, history)
    return intensity.relaid(edges_us, intensity.locations, values)


def without_idle_waits(
    planned: Plan, job: Job, expected: IntensityTable, part: float = WORTH_WAITING
) -> Plan:
    """Return a plan whose rounds open as early as costs next to nothing; its emissions are not charged anew.

    Parameters
    ----------
    planned : Plan
        Plan of the job. Clients and order of the rounds stay.
    job : Job
        The job, with the grid of openings.
    expected : IntensityTable
        Expected carbon intensity [gCO2eq/kWh], without the value of waiting.
    part : float
        Part of a round's emissions that a later opening has to avoid.
    """
    fleet, step_us = planned.fleet, start_step_us(job, expected)
    origin_us = to_us(job.grid_from or job.now)
    opens_us, free_us = planned.opens_us.copy(), job.opens_from_us
    for index, planned_us in enumerate(planned.opens_us.tolist()):
        first_us = origin_us - (origin_us - free_us) // step_us * step_us
        earlier_us = np.arange(first_us, planned_us, step_us, dtype=np.int64)
        if len(earlier_us):
            seats = planned.seats[index]
            windows = np.column_stack([
                fleet.location_index[seats], planned.starts_us[index] - planned_us,
                planned.ends_us[index] - planned_us,
            ])  # fmt: skip
            # Hundreds of clients are of a few kinds.
            kinds, kind = np.unique(windows, axis=0, return_inverse=True)
            watts = np.bincount(kind.ravel(), fleet.power_watts[seats])
            at_us = np.append(earlier_us, planned_us)[:, None]
            columns = expected.columns(fleet.locations)[kinds[:, 0]]
            windows_us = at_us + kinds[:, 1], at_us + kinds[:, 2]
            grams = emissions_g(expected, columns, watts, *windows_us).sum(axis=1)
            is_good = grams - grams[-1] <= part * abs(grams[-1])
            is_good[-1] = True  # also where nothing is known of it
            opens_us[index] = at_us[int(np.argmax(is_good)), 0]
        free_us = int(opens_us[index] + planned.closes_us[index] - planned_us)
    shift_us = opens_us - planned.opens_us
    return replace(
        planned, opens_us=opens_us, closes_us=planned.closes_us + shift_us,
        starts_us=planned.starts_us + shift_us[:, None], ends_us=planned.ends_us + shift_us[:, None],
    )  # fmt: skip


def _slack(job: Job) -> float:
    """Return x of the formula: the time for the remaining rounds over the time they need, at least 1."""
    needed_us = job.rounds * job.round_us
    earliest_us = job.opens_from_us + needed_us
    finish_us = to_us(job.finish_by)
    if job.target_finish is not None:
        finish_us = min(to_us(job.target_finish), finish_us)
    else:
        finish_us = earliest_us + int(job.patience * (finish_us - earliest_us))
    return max(1.0, (finish_us - job.opens_from_us) / needed_us)


def _deviation(job: Job, intensity: IntensityTable, history: IntensityTable | None) -> Floats:
    """Return the standard deviation of each location [gCO2eq/kWh], shape (L,)."""
    now_us = to_us(job.now)
    ahead, _ = _spread(intensity, now_us, to_us(job.finish_by))
    if history is None:
        return ahead
    # A step of history is known when it has ended, so the running one is left out.
    over = int(np.searchsorted(history.edges_us, now_us, side="right")) - 1
    until_us = int(history.edges_us[max(over, 0)])
    past, hours = _spread(history.align(intensity.locations), now_us - _MEMORY_HOURS * HOUR_US, until_us)
    return np.where(hours >= _LEAST_HOURS, past, ahead)


def _spread(intensity: IntensityTable, since_us: int, until_us: int) -> tuple[Floats, Floats]:
    """Return the standard deviation of each location between two times, and its hours with a value."""
    inside = (intensity.edges_us[1:] > since_us) & (intensity.edges_us[:-1] < until_us)
    hours = np.diff(intensity.edges_us)[inside, None] / HOUR_US
    values = intensity.values[inside]
    known = np.isfinite(values)
    weights = np.where(known, hours, 0.0)
    total = weights.sum(axis=0)
    filled = np.where(known, values, 0.0)
    mean = (weights * filled).sum(axis=0) / np.maximum(total, 1e-300)
    variance = (weights * (filled - mean) ** 2).sum(axis=0) / np.maximum(total, 1e-300)
    return np.sqrt(variance), total
