"""The value of waiting: what a job that will be planned again may hope for.

A forecast is an expectation. A job with slack that is planned again at every new forecast will choose among
what then turns out clean, so the hours far ahead are worth more than their mean: the more of them there are
to choose from, the more a location varies, and the less is known yet. Decisions are made on ::

    f'[t, l] = f[t, l] - c ln(x) sd_l (1 - exp(-h / tau)),
    x = max(1, time until the finish / time the remaining rounds take back-to-back)

with h the hours ahead of t and sd_l the standard deviation of the location. Without slack, x = 1, nothing
changes. c and tau were fitted on a replay of real forecasts; the plan's own emissions are to be counted on f.
"""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING, Final

import numpy as np

from lowcarb_scheduler.clock import HOUR_US, to_us

if TYPE_CHECKING:
    from lowcarb_scheduler.intensity import Floats, IntensityTable
    from lowcarb_scheduler.planning.job import Job

WEIGHT: Final = 0.12  # c
FADE_HOURS: Final = 36.0  # tau


def value_of_waiting(
    job: Job, intensity: IntensityTable, weight: float = WEIGHT, fade_hours: float = FADE_HOURS
) -> IntensityTable:
    """Return the intensity on which a job that will be planned again should decide.

    Parameters
    ----------
    job : Job
        The rounds that remain; its patience or target says until when they may be spread.
    intensity : IntensityTable
        What is expected [gCO2eq/kWh].
    weight, fade_hours : float
        c and tau of the formula.

    Returns
    -------
    IntensityTable
        The same steps and locations; the values are no emissions any more.
    """
    edges_us = intensity.edges_us
    middle_us = edges_us[:-1] + np.diff(edges_us) // 2
    ahead_hours = np.maximum(middle_us - to_us(job.now), 0) / HOUR_US
    bonus = weight * log(_slack(job)) * (1.0 - np.exp(-ahead_hours / fade_hours))
    values = intensity.values - bonus[:, None] * _deviation(job, intensity)
    return intensity.relaid(edges_us, intensity.locations, values)


def _slack(job: Job) -> float:
    """Return x: how often the remaining rounds would fit into the time they may take, at least 1."""
    needed_us = job.rounds * job.round_us
    earliest_us = job.opens_from_us + needed_us
    finish_us = to_us(job.finish_by)
    if job.target_finish is not None:
        finish_us = min(to_us(job.target_finish), finish_us)
    else:
        finish_us = earliest_us + int(job.patience * (finish_us - earliest_us))
    return max(1.0, (finish_us - job.opens_from_us) / needed_us)


def _deviation(job: Job, intensity: IntensityTable) -> Floats:
    """Return the standard deviation of each location over what is still ahead [gCO2eq/kWh], shape (L,)."""
    ahead = (intensity.edges_us[1:] > to_us(job.now)) & (intensity.edges_us[:-1] < to_us(job.finish_by))
    hours = np.diff(intensity.edges_us)[ahead, None] / HOUR_US
    values = intensity.values[ahead]
    known = np.isfinite(values)
    weights = np.where(known, hours, 0.0)
    total = np.maximum(weights.sum(axis=0), 1e-300)
    filled = np.where(known, values, 0.0)
    mean = (weights * filled).sum(axis=0) / total
    variance: Floats = (weights * (filled - mean) ** 2).sum(axis=0) / total
    deviation: Floats = np.sqrt(variance)
    return deviation
