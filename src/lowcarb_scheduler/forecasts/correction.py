"""From the newest forecast and what really happened to the intensity to be expected.

Three steps, each only where it has something to stand on:

1. *Error fading.* What the newest issue has been wrong by over the last hours is taken off its next hours,
   fading by ``FADING`` an hour.
2. *Climatology.* Beyond the forecast's end and in its holes stands the location's own mean of that hour of
   the day over the last two weeks, if there are at least three days of it.
3. What remains unknown stays a gap.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

import numpy as np

from lowcarb_scheduler.clock import HOUR_US, to_us
from lowcarb_scheduler.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from lowcarb_scheduler.intensity import Floats, IntensityTable, Ints

FADING: Final = 0.95  # part of a forecast's error that is left after an hour
_ERROR_HOURS: Final = 3  # how far back the newest issue is compared with what happened
_DAY_HOURS: Final = 24
_CLIMATOLOGY_DAYS: Final = 14
_LEAST_DAYS: Final = 3


def correct_forecast(
    forecast: IntensityTable,
    history: IntensityTable | None,
    now: datetime,
    until: datetime,
    past_forecasts: Sequence[IntensityTable] = (),
) -> IntensityTable:
    """Return the expected intensity from now until a deadline.

    Parameters
    ----------
    forecast : IntensityTable
        The newest forecast; what it says of hours before ``now`` shows its error. Its columns are the
        locations of the result.
    history : IntensityTable or None
        What really happened. Only steps that are over by ``now`` are looked at.
    now, until : datetime
        What the result spans; ``until`` is after ``now``.
    past_forecasts : sequence of IntensityTable
        Earlier issues, for a correction learned from them. There is none yet: they change nothing.

    Returns
    -------
    IntensityTable
        On the forecast's steps while it lasts, on its median step (at most an hour) after. NaN where
        neither forecast nor history knows.

    Raises
    ------
    InputError
        If ``until`` is not after ``now``, or forecast and history measure different signals.
    """
    if until <= now:
        raise InputError("until", "is not after now", "give a later time")
    edges = _edges(forecast, to_us(now), to_us(until))
    values = forecast.sampled(edges)
    if history is not None:
        if history.signal != forecast.signal:
            problem = f"the history's is {history.signal}, the forecast's {forecast.signal}"
            raise InputError("signal", problem, "use one signal in a run")
        if past := _ended(history.align(forecast.locations), to_us(now)):
            values = _without_error(values, edges, forecast, past)
            values = np.where(np.isnan(values), _climatology(past, edges, now), values)
    return forecast.relaid(edges, forecast.locations, values)


def _edges(forecast: IntensityTable, now_us: int, until_us: int) -> Ints:
    """Return the steps of the result: the forecast's own, then its median step."""
    step = min(forecast.step // timedelta(microseconds=1), HOUR_US)
    end = max(now_us, int(forecast.edges_us[-1]))
    beyond = np.arange(end + step, until_us, step, dtype=np.int64)
    own = forecast.edges_us[(forecast.edges_us > now_us) & (forecast.edges_us < until_us)]
    # Climatology changes at full hours: they are edges too.
    hours = np.arange(-(-end // HOUR_US) * HOUR_US, until_us, HOUR_US, dtype=np.int64)
    return np.unique(np.concatenate([[now_us], own, beyond, hours[hours > now_us], [until_us]]))


def _ended(history: IntensityTable, now_us: int) -> IntensityTable | None:
    """Return the steps that are over: the one that runs is not known yet, whoever may have written it."""
    steps = int(np.searchsorted(history.edges_us, now_us, side="right")) - 1
    if steps < 1:
        return None
    return history.relaid(history.edges_us[: steps + 1], history.locations, history.values[:steps])


def _without_error(values: Floats, edges: Ints, forecast: IntensityTable, past: IntensityTable) -> Floats:
    """Take off the newest issue's recent error, fading with the hours since it was seen."""
    seen_us = int(past.edges_us[-1])
    starts = seen_us - HOUR_US * np.arange(1, _ERROR_HOURS + 1)
    ends = starts + HOUR_US
    errors = forecast.integrate(starts, ends) - past.integrate(starts, ends)  # (hours, L) [g/kWh]
    known = ~np.isnan(errors)
    mean = np.where(known, errors, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    ahead = (edges[:-1] - seen_us) / HOUR_US
    corrected = values - mean * FADING ** ahead[:, None]
    # A correction alone never turns a positive intensity negative.
    bounded: Floats = np.maximum(corrected, np.minimum(values, 0.0))
    return bounded


def _climatology(past: IntensityTable, edges: Ints, now: datetime) -> Floats:
    """Return each location's mean of the hour of the day over the last two weeks, NaN below three days."""
    last_hour = to_us(now) // HOUR_US * HOUR_US
    starts = last_hour - HOUR_US * np.arange(_CLIMATOLOGY_DAYS * _DAY_HOURS, 0, -1, dtype=np.int64)
    hourly = past.integrate(starts, starts + HOUR_US).reshape(_CLIMATOLOGY_DAYS, _DAY_HOURS, -1)
    known = ~np.isnan(hourly)
    days = known.sum(axis=0)
    mean: Floats = np.where(known, hourly, 0.0).sum(axis=0) / np.maximum(days, 1)
    mean[days < _LEAST_DAYS] = np.nan
    first_hour = int(starts[0]) // HOUR_US
    by_step: Floats = mean[(edges[:-1] // HOUR_US - first_hour) % _DAY_HOURS]
    return by_step
