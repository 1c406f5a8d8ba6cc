"""Learning from past issues what the newest forecast will be wrong by.

Every provider errs in its own way, so nothing fitted is shipped: the corrector learns from the user's own
archive, at each call anew, from the issues before the newest and what happened since [1]_. Each past issue is
looked at as of the same age, so that what was known then is what is known now. For each lead there is one
ridge regression, pooled over all places and, by a kernel, over neighbouring leads. Its predictors are all
known when a plan is made:

- what the newest issue was wrong by over the last 1, 3, 6 and 24 hours;
- what is usual at that hour, and what happened the day before, less the forecast;
- how much of what is usual is owed to the day of the week;
- how unusual the last 1, 6, 12 and 24 hours were.

The ridge does not draw towards nothing but towards *error fading*: the last error, fading by ``FADING`` an
hour. That is what is left where there is no past issue to learn from, and the step from one to the other is
smooth. A place whose actuals come later than those of others is corrected as of the last hour known of it.

References
----------
.. [1] H. R. Glahn and D. A. Lowry, "The use of model output statistics (MOS) in objective weather
   forecasting", Journal of Applied Meteorology 11 (1972).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np

from lowcarb_scheduler.forecasts.climatology import DAY, climatology, known_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lowcarb_scheduler.intensity import Floats

FADING: Final = 0.95  # part of a forecast's last error that is expected to be left after an hour
MOST_ISSUES: Final = 56  # that are learned from, the newest
_RIDGE: Final = 100.0  # how many observations the prior counts for
_LEAD_WIDTH: Final = 0.3  # width of the kernel over the logarithm of the lead
_MOST_SD: Final = 8.0  # an error is counted as at most so many standard deviations of its place
_MOST_RMS: Final = 1.5  # and the root mean square of its errors as at most so many; of real grids it is below
_LATE_HOURS: Final = (1, 2, 3, 6, 12)  # as of which a place is looked at that is known less far than others
_ERROR_HOURS: Final = (1, 3, 6, 24)
_ANOMALY_HOURS: Final = (1, 6, 12, 24)
_PREDICTORS: Final = len(_ERROR_HOURS) + len(_ANOMALY_HOURS) + 3


@dataclass(frozen=True, slots=True)
class Issue:
    """A forecast by the hour.

    Parameters
    ----------
    start : int
        Its first hour, counted like the hours of the history.
    values : ndarray, shape (H, L)
        Intensity [gCO2eq/kWh], NaN where unknown.
    """

    start: int
    values: Floats

    def at(self, first: int, count: int) -> Floats:
        """Return the values of some hours, NaN outside the issue; shape (count, L)."""
        hours = np.arange(first, first + count) - self.start
        inside = (hours >= 0) & (hours < len(self.values))
        values = self.values[np.clip(hours, 0, len(self.values) - 1)]
        return np.where(inside[:, None], values, np.nan)


def learned_correction(history: Floats, newest: Issue, past: Sequence[Issue], ahead: int) -> Floats:
    """Return what is to be added to the newest forecast.

    Parameters
    ----------
    history : ndarray, shape (T, L)
        What happened in hours 0 to T - 1 [gCO2eq/kWh]; NaN where unknown. Hour T is the first not known.
    newest : Issue
        The forecast to be corrected.
    past : sequence of Issue
        Issues before it, in the order of their starts.
    ahead : int
        For how many hours from hour T on.

    Returns
    -------
    ndarray, shape (ahead, L)
        [gCO2eq/kWh]; 0 where the forecast has no value or nothing is known.
    """
    correction = _learned(history, newest, past, ahead)
    late = np.isnan(history)[::-1].argmin(axis=0)  # hours; 0 too where nothing is known at all
    for sooner, hours in pairwise((0, *_LATE_HOURS)):
        own = (late > sooner) & (late <= hours)
        if own.any() and len(history) - hours >= DAY:
            correction[:, own] = _learned(history[:-hours], newest, past, ahead + hours)[hours:, own]
    return correction


def _learned(history: Floats, newest: Issue, past: Sequence[Issue], ahead: int) -> Floats:
    """Return what :func:`learned_correction` returns, of places that are all known up to the same hour."""
    age = len(history) - newest.start
    past = [issue for issue in past if issue.start < newest.start and issue.start + age >= DAY][-MOST_ISSUES:]
    latest = _latest_errors(history, past)
    scale = _scale(history, latest)
    gram, moment = np.zeros((ahead, _PREDICTORS, _PREDICTORS)), np.zeros((ahead, _PREDICTORS))
    rows: list[tuple[Floats, Floats]] = []
    for issue in past:
        now = issue.start + age
        known = min(len(history) - now, ahead)
        forecast = issue.at(now, known)
        errors = np.clip((history[now : now + known] - forecast) / scale, -_MOST_SD, _MOST_SD)
        rows.append((_predictors(history[:now], issue, latest, forecast) / scale[:, None], errors))
    for predictors, errors in rows:
        usable = ~np.isnan(errors)
        x = np.where(usable[..., None], predictors, 0.0)
        y = np.where(usable, errors, 0.0)
        gram[: len(x)] += np.matmul(x.transpose(0, 2, 1), x)
        moment[: len(x)] += np.matmul(x.transpose(0, 2, 1), y[..., None])[..., 0]
    leads = np.arange(1, ahead + 1)
    closeness = np.log(leads + 1.0)
    kernel = np.exp(-((closeness[:, None] - closeness) ** 2) / (2 * _LEAD_WIDTH**2))
    prior = np.zeros((ahead, _PREDICTORS))
    prior[:, 0] = FADING**leads
    weights = np.linalg.solve(
        np.tensordot(kernel, gram, 1) + _RIDGE * np.eye(_PREDICTORS),
        (kernel @ moment + _RIDGE * prior)[..., None],
    )
    forecast = newest.at(len(history), ahead)
    correction = np.matmul(_predictors(history, newest, latest, forecast), weights)[..., 0]
    return np.where(np.isnan(forecast), 0.0, correction)


def _predictors(history: Floats, issue: Issue, latest: Floats, forecast: Floats) -> Floats:
    """Return what is known of an issue after the last hour of ``history``; shape (hours ahead, L, P).

    0 where something is not known: a predictor that says nothing.
    """
    now, (ahead, places) = len(history), forecast.shape
    own = history[-DAY:] - issue.at(now - DAY, DAY)
    errors = np.where(np.isnan(own), latest[now - DAY : now], own)
    past = climatology(history, ahead)
    day_before = history[now - DAY + np.arange(ahead) % DAY]
    x = np.empty((ahead, places, _PREDICTORS))
    columns = iter(range(_PREDICTORS))
    for hours in _ERROR_HOURS:
        x[..., next(columns)] = known_mean(errors[-hours:])
    for hours in _ANOMALY_HOURS:
        x[..., next(columns)] = known_mean(past.anomaly[-hours:])
    x[..., next(columns)] = np.nan_to_num(past.usual - forecast)
    x[..., next(columns)] = np.nan_to_num(past.weekday)
    x[..., next(columns)] = np.nan_to_num(day_before - forecast)
    return x


def _latest_errors(history: Floats, issues: Sequence[Issue]) -> Floats:
    """Return actual less forecast for each hour by the newest issue that had begun; shape (T, L)."""
    errors = np.full(history.shape, np.nan)
    for issue in issues:
        first = max(issue.start, 0)
        values = issue.at(first, max(len(history) - first, 0))
        errors[first:] = np.where(np.isnan(values), errors[first:], history[first:] - values)
    return errors


def _scale(history: Floats, errors: Floats) -> Floats:
    """Return what the errors of each place are measured by, that places can be pooled; shape (L,).

    Its standard deviation; but a place that hardly varies, or whose forecast is far off, would outweigh all
    others, so it is at least two thirds of the root mean square of its errors.
    """
    mean = known_mean(history)
    deviation = np.sqrt(known_mean((history - mean) ** 2))
    return np.maximum(deviation, np.sqrt(known_mean(errors**2)) / _MOST_RMS).clip(1e-3)
