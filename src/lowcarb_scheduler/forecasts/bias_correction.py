"""Bias correction of forecasts, and their extension beyond their end.

The expected intensity of an hour comes from the first of these that has a value:

1. *Corrected forecast.* The expected error of the newest issue is added to it. The error is learned from past
   issues, or without any decays from the last known error.
2. *Climatology* (:mod:`lowcarb_scheduler.forecasts.climatology`), with at least three days of history: beyond
   the end of the forecast, in its gaps, and for a location without a forecast.
3. A gap; or, with :func:`without_gaps`, the location's mean of all these values.

The calculation is by the hour, counted from the last hour whose actual intensity is known, because actuals
may arrive late. The forecast keeps its own steps; a correction shifts all steps of an hour alike.

The correction is a form of model output statistics [1]_. Every provider errs in its own way, so no fitted
coefficients are shipped: each call fits them to the issues before the newest and the actual intensity since.
A past issue is evaluated at the age that the newest has now, so that the same is known in both cases.
A ridge regression [2]_ for each lead time is pooled over all locations and, by a Gaussian kernel in the
logarithm of the lead, over neighbouring leads. All predictors are known when a plan is made:

- the mean error of the newest issue over the last 1, 3, 6 and 24 h;
- the mean anomaly of the last 1, 6, 12 and 24 h;
- climatology minus forecast, the part of the climatology due to the day of the week, and the intensity 24 h
  earlier minus forecast.

The prior of the ridge is not zero but *error fading*: the last error, times ``FADING`` per hour of lead. The
prior alone remains where there is no past issue, and with more issues the fit departs from it smoothly.

References
----------
.. [1] H. R. Glahn and D. A. Lowry, "The use of model output statistics (MOS) in objective weather
   forecasting", Journal of Applied Meteorology 11 (1972) 1203-1211.
.. [2] A. E. Hoerl and R. W. Kennard, "Ridge regression: biased estimation for nonorthogonal problems",
   Technometrics 12 (1970) 55-67.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np

from lowcarb_scheduler.clock import HOUR_US, to_us, to_utc
from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.forecasts.climatology import DAY, MOST_DAYS, climatology, expected_level, known_mean
from lowcarb_scheduler.intensity import SHORTEST_STEP_US

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray

    from lowcarb_scheduler.intensity import Floats, IntensityTable, Ints

HISTORY: Final = timedelta(days=MOST_DAYS)  # of actual intensity and past issues that are used
ISSUES_EVERY: Final = timedelta(hours=6)  # of issues closer to each other only the newest is used
ORIGINS: Final = ("unknown", "forecast", "corrected", "climatology", "last good", "default")
_UNKNOWN, _FORECAST, _CORRECTED, _CLIMATOLOGY, _LAST_GOOD, _DEFAULT = range(len(ORIGINS))
_SAMPLES: Final = 4  # per hour; most providers have steps of 15 min or more
_MOST_LEADS: Final = 240  # [h]; no correction further ahead
FADING: Final = 0.95  # fraction of the last error that is expected after an hour more
MOST_ISSUES: Final = 56  # two weeks of past issues, the newest ones
_RIDGE: Final = 100.0  # weight of the prior, in observations of unit variance
_LEAD_WIDTH: Final = 0.3  # standard deviation of the kernel, in the logarithm of the lead
_MOST_SD: Final = 8.0  # limit of an error in scales of its location: an outlier must not rule the fit
_MOST_RMS: Final = 1.5  # limit of the root mean square error in scales; real grids stay below
_LATE_HOURS: Final = (1, 2, 3, 6, 12)  # delays of actuals that are distinguished, behind the newest
_ERROR_HOURS: Final = (1, 3, 6, 24)
_ANOMALY_HOURS: Final = (1, 6, 12, 24)
_PREDICTORS: Final = len(_ERROR_HOURS) + len(_ANOMALY_HOURS) + 3


@dataclass(frozen=True, slots=True)
class Expectation:
    """Expected intensity with the origin of each value.

    Parameters
    ----------
    intensity : IntensityTable
        Expected intensity from now until the deadline [gCO2eq/kWh].
    origin : ndarray of uint8, shape like ``intensity.values``
        Origin of each value, as an index into ``ORIGINS``.
    """

    intensity: IntensityTable
    origin: NDArray[np.uint8]


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
        Newest forecast; its values before ``now`` show its error. Its columns are those of the result.
    history : IntensityTable or None
        Actual intensity. Only the steps of the last 28 days that have ended by ``now`` are used.
    now, until : datetime
        Begin and end of the result. Aware.
    past_forecasts : sequence of IntensityTable
        Issues before the newest, in any order; each counts as issued when it begins.

    Returns
    -------
    IntensityTable
        Expected intensity [gCO2eq/kWh], in the steps of the forecast up to its end and in its median step (at
        most an hour) after that. NaN where neither forecast nor history has a value.

    Raises
    ------
    InputError
        If ``until`` is not after ``now``, one of them has no offset, or forecasts and history measure
        different signals.
    """
    return expect(forecast, history, now, until, past_forecasts).intensity


def expect(
    forecast: IntensityTable,
    history: IntensityTable | None,
    now: datetime,
    until: datetime,
    past_forecasts: Sequence[IntensityTable] = (),
    last_good: Collection[str] = (),
    default: Collection[str] = (),
) -> Expectation:
    """Return the expected intensity as :func:`correct_forecast` does, with the origin of each value.

    Parameters
    ----------
    forecast, history, now, until, past_forecasts
        As in :func:`correct_forecast`.
    last_good : collection of str
        Locations with a last good forecast in place of a fresh one.
    default : collection of str
        Locations with a neutral value in place of a forecast.

    Raises
    ------
    InputError
        As in :func:`correct_forecast`.
    """
    now, until = to_utc(now, "now"), to_utc(until, "until")
    if until <= now:
        raise InputError("until", "is not after now", "give a later time")
    edges = _edges(forecast, to_us(now), to_us(until))
    raw = forecast.sampled(edges)
    values, origin = raw, np.where(np.isnan(raw), _UNKNOWN, _FORECAST)
    past = None
    if history is not None:
        past = _Past.known(_of_one_signal(history, forecast, "history"), forecast, to_us(now))
    if past is not None:
        hours = (edges[:-1] - past.ends_us) // HOUR_US  # since the last known hour
        correction = past.correction(forecast, past_forecasts)
        near = np.minimum(hours, len(correction) - 1)
        shift = np.where((hours < len(correction))[:, None], correction[near], 0.0)
        # Bounded by what was seen or forecast; fmin and fmax leave gaps out.
        seen = np.concatenate([past.hourly, forecast.values])
        values = np.clip(raw + shift, np.fmin.reduce(seen), np.fmax.reduce(seen))
        # The climatology begins at the last known hour as well; its hours before now are not read.
        days = climatology(past.hourly, int(hours[-1]) + 1)
        usual = days.usual + expected_level(days.anomaly, len(days.usual))
        origin = np.where((shift != 0) & (origin == _FORECAST), _CORRECTED, origin)
        origin = np.where(np.isnan(values) & ~np.isnan(usual[hours]), _CLIMATOLOGY, origin)
        values = np.where(np.isnan(values), usual[hours], values)
    from_forecast = np.isin(origin, (_FORECAST, _CORRECTED))
    for named, label in ((last_good, _LAST_GOOD), (default, _DEFAULT)):
        origin = np.where(np.isin(forecast.locations, list(named)) & from_forecast, label, origin)
    return Expectation(forecast.relaid(edges, forecast.locations, values), origin.astype(np.uint8))


def without_gaps(expectation: Expectation) -> Expectation:
    """Return an expectation whose unknown hours have their location's mean, which favours none of them.

    A location without any value keeps its gaps. The origin of a mean is ``default``.
    """
    table = expectation.intensity
    unknown = np.isnan(table.values)
    hours = np.where(unknown, 0.0, np.diff(table.edges_us)[:, None] / HOUR_US)
    total = hours.sum(axis=0)
    means = (hours * np.nan_to_num(table.values)).sum(axis=0) / np.where(total > 0, total, np.nan)
    filled = unknown & ~np.isnan(means)
    origin = np.where(filled, _DEFAULT, expectation.origin).astype(np.uint8)
    return Expectation(
        table.relaid(table.edges_us, table.locations, np.where(filled, means, table.values)), origin
    )


def _edges(forecast: IntensityTable, now_us: int, until_us: int) -> Ints:
    """Return the edges of the result: those of the forecast, then its median step."""
    # At least a minute: steps of a microsecond up to the deadline would exceed any memory.
    step = min(max(forecast.step // timedelta(microseconds=1), SHORTEST_STEP_US), HOUR_US)
    end = max(now_us, int(forecast.edges_us[-1]))
    beyond = np.arange(end + step, until_us, step, dtype=np.int64)
    own = forecast.edges_us[(forecast.edges_us > now_us) & (forecast.edges_us < until_us)]
    # Corrections and climatology change at full hours, which have to be edges, too.
    hours = np.arange(-(-now_us // HOUR_US) * HOUR_US, until_us, HOUR_US, dtype=np.int64)
    return np.unique(np.concatenate([[now_us], own, beyond, hours[hours > now_us], [until_us]]))


@dataclass(frozen=True, slots=True)
class _Past:
    """Actual intensity by the hour.

    Parameters
    ----------
    begins_us, ends_us : int
        Begin of the first hour and end of the last [µs since 1970 UTC].
    hourly : ndarray, shape (T, L)
        Mean intensity [gCO2eq/kWh], NaN where unknown. In the last hour at least one location is known,
        unless that is the 24th.
    """

    begins_us: int
    ends_us: int
    hourly: Floats

    @classmethod
    def known(cls, history: IntensityTable, forecast: IntensityTable, now_us: int) -> _Past | None:
        """Return the hours that have ended by now at the locations of a forecast; None if none is known."""
        now_us = now_us // HOUR_US * HOUR_US
        begins_us = now_us - MOST_DAYS * DAY * HOUR_US
        # The value of the present step is a guess, whatever the file has.
        steps = int(np.searchsorted(history.edges_us, now_us, side="right")) - 1
        if steps < 1:
            return None
        ended = history.relaid(history.edges_us[: steps + 1], history.locations, history.values[:steps])
        hourly = _hourly(ended, begins_us, MOST_DAYS * DAY, forecast.locations)
        hours = np.flatnonzero(~np.isnan(hourly).all(axis=1))
        if not len(hours):
            return None
        last = max(int(hours[-1]) + 1, DAY)  # errors and anomalies need a day of rows
        return cls(begins_us, begins_us + last * HOUR_US, hourly[:last])

    def correction(self, forecast: IntensityTable, past_forecasts: Sequence[IntensityTable]) -> Floats:
        """Return the correction of the hours after the last known one [gCO2eq/kWh]; shape (hours, L)."""
        begin_us = _issued_us(forecast)
        ahead = min(-(-(int(forecast.edges_us[-1]) - self.ends_us) // HOUR_US), _MOST_LEADS)
        if begin_us is None or ahead < 1:
            return np.zeros((1, len(forecast.locations)))
        newest = self._issue(forecast, begin_us, forecast.locations)
        past: list[HourlyIssue] = []
        before_us = begin_us
        issued = [(begin, table) for table in past_forecasts if (begin := _issued_us(table)) is not None]
        for issue_us, table in sorted(issued, key=lambda pair: pair[0], reverse=True):
            if issue_us < before_us and len(past) < MOST_ISSUES and issue_us > self.begins_us:
                own = _of_one_signal(table, forecast, "past forecast")
                past.append(self._issue(own, issue_us, forecast.locations))
                # Issues close together repeat the same errors: the next one is older by ISSUES_EVERY.
                before_us = issue_us - ISSUES_EVERY // timedelta(microseconds=1) + 1
        return learned_correction(self.hourly, newest, past[::-1], ahead)

    def _issue(self, table: IntensityTable, begin_us: int, locations: Sequence[str]) -> HourlyIssue:
        """Return a forecast by the hour, in the hours of the history."""
        start = (begin_us - self.begins_us) // HOUR_US
        hours = -(-(int(table.edges_us[-1]) - begin_us) // HOUR_US)
        first_us = self.begins_us + start * HOUR_US
        return HourlyIssue(start, _hourly(table, first_us, min(hours, _MOST_LEADS + DAY), locations))


def _of_one_signal(table: IntensityTable, forecast: IntensityTable, what: str) -> IntensityTable:
    """Return the table; raise InputError if its signal differs from the forecast's."""
    if table.signal != forecast.signal:
        problem = f"the {what}'s is {table.signal}, the forecast's {forecast.signal}"
        raise InputError("signal", problem, "use one signal in a run")
    return table


def _hourly(table: IntensityTable, begins_us: int, hours: int, locations: Sequence[str]) -> Floats:
    """Return hourly means of quarter-hourly samples [gCO2eq/kWh]; shape (hours, L), NaN if all are gaps."""
    quarters = begins_us + np.arange(hours * _SAMPLES + 1, dtype=np.int64) * (HOUR_US // _SAMPLES)
    values = table.sampled(quarters, locations).reshape(hours, _SAMPLES, -1)
    return np.where(np.isnan(values).all(axis=1), np.nan, known_mean(values, axis=1))


def _issued_us(table: IntensityTable) -> int | None:
    """Return the approximate issue time: the median begin of its locations; None if all values are gaps."""
    known = ~np.isnan(table.values)
    begins = known.argmax(axis=0)[known.any(axis=0)]
    return int(table.edges_us[int(np.median(begins))]) if len(begins) else None


# -- Regression --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HourlyIssue:
    """Issue of a forecast by the hour.

    Parameters
    ----------
    start : int
        Index of its first hour in the history.
    values : ndarray, shape (H, L)
        Intensity [gCO2eq/kWh], NaN where unknown.
    """

    start: int
    values: Floats

    def at(self, first: int, count: int) -> Floats:
        """Return the values of ``count`` hours [gCO2eq/kWh], NaN outside the issue; shape (count, L)."""
        hours = np.arange(first, first + count) - self.start
        inside = (hours >= 0) & (hours < len(self.values))
        values = self.values[np.clip(hours, 0, len(self.values) - 1)]
        return np.where(inside[:, None], values, np.nan)


def learned_correction(
    history: Floats, newest: HourlyIssue, past: Sequence[HourlyIssue], ahead: int
) -> Floats:
    """Compute the correction of the newest forecast.

    Parameters
    ----------
    history : ndarray, shape (T, L)
        Actual intensity of hours 0 to T - 1 [gCO2eq/kWh]; NaN where unknown. Hour T is the first unknown one.
    newest : HourlyIssue
        Forecast to correct.
    past : sequence of HourlyIssue
        Issues before the newest, in the order of their starts.
    ahead : int
        Number of hours from hour T on.

    Returns
    -------
    ndarray, shape (ahead, L)
        Addition to the forecast [gCO2eq/kWh]; 0 where the forecast has no value or nothing is known.
    """
    correction = _learned(history, newest, past, ahead)
    # A location whose actuals are late is corrected as of its own last known hour: with gaps in the newest
    # hours its predictors would be 0, and its correction with them.
    late = np.isnan(history)[::-1].argmin(axis=0)  # [h]; 0, too, if nothing is known at all
    for sooner, hours in pairwise((0, *_LATE_HOURS)):
        own = (late > sooner) & (late <= hours)
        if own.any() and len(history) - hours >= DAY:
            correction[:, own] = _learned(history[:-hours], newest, past, ahead + hours)[hours:, own]
    return correction


def _learned(history: Floats, newest: HourlyIssue, past: Sequence[HourlyIssue], ahead: int) -> Floats:
    """Compute the correction of locations that are known up to the same hour."""
    age = len(history) - newest.start
    past = [issue for issue in past if issue.start < newest.start and issue.start + age >= DAY][-MOST_ISSUES:]
    latest = _latest_errors(history, past)
    scale = _scale(history, latest)
    # X'X and X'y of least squares by lead; each past issue adds an observation a location.
    gram, moment = np.zeros((ahead, _PREDICTORS, _PREDICTORS)), np.zeros((ahead, _PREDICTORS))
    for issue in past:
        now = issue.start + age
        known = min(len(history) - now, ahead)
        forecast = issue.at(now, known)
        errors = np.clip((history[now : now + known] - forecast) / scale, -_MOST_SD, _MOST_SD)
        predictors = _predictors(history[:now], issue, latest, forecast) / scale[:, None]
        usable = ~np.isnan(errors)
        x = np.where(usable[..., None], predictors, 0.0)
        y = np.where(usable, errors, 0.0)
        gram[: len(x)] += np.matmul(x.transpose(0, 2, 1), x)
        moment[: len(x)] += np.matmul(x.transpose(0, 2, 1), y[..., None])[..., 0]
    leads = np.arange(1, ahead + 1)  # [h]
    log_leads = np.log(leads + 1.0)
    kernel = np.exp(-((log_leads[:, None] - log_leads) ** 2) / (2 * _LEAD_WIDTH**2))
    prior = np.zeros((ahead, _PREDICTORS))
    prior[:, 0] = FADING**leads  # on the first predictor, the error of the last hour
    # (K X'X + r I) w = K X'y + r w0, the normal equations of a ridge around the prior w0.
    normal = np.tensordot(kernel, gram, 1) + _RIDGE * np.eye(_PREDICTORS)
    weights = np.linalg.solve(normal, (kernel @ moment + _RIDGE * prior)[..., None])
    # The newest issue is not divided by the scale: the weights are linear, so it cancels.
    forecast = newest.at(len(history), ahead)
    correction = np.matmul(_predictors(history, newest, latest, forecast), weights)[..., 0]
    return np.where(np.isnan(forecast), 0.0, correction)


def _predictors(history: Floats, issue: HourlyIssue, latest: Floats, forecast: Floats) -> Floats:
    """Return the predictors of the hours after ``history`` [gCO2eq/kWh]; shape (hours ahead, L, P).

    An unknown predictor is 0, which adds nothing to the correction.
    """
    now = len(history)
    own = history[-DAY:] - issue.at(now - DAY, DAY)
    errors = np.where(np.isnan(own), latest[now - DAY : now], own)
    past = climatology(history, len(forecast))
    day_before = history[now - DAY + np.arange(len(forecast)) % DAY]
    recent = [known_mean(errors[-hours:]) for hours in _ERROR_HOURS]
    recent += [known_mean(past.anomaly[-hours:]) for hours in _ANOMALY_HOURS]
    by_hour = [past.usual - forecast, past.weekday, day_before - forecast]
    columns = [*(np.broadcast_to(each, forecast.shape) for each in recent), *map(np.nan_to_num, by_hour)]
    return np.stack(columns, axis=-1)


def _latest_errors(history: Floats, issues: Sequence[HourlyIssue]) -> Floats:
    """Return the errors of the newest issue that had begun in each hour [gCO2eq/kWh]; shape (T, L)."""
    errors = np.full(history.shape, np.nan)
    for issue in issues:
        first = max(issue.start, 0)
        values = issue.at(first, max(len(history) - first, 0))
        errors[first:] = np.where(np.isnan(values), errors[first:], history[first:] - values)
    return errors


def _scale(history: Floats, errors: Floats) -> Floats:
    """Return the scale that makes the errors of locations comparable [gCO2eq/kWh]; shape (L,).

    The scale is the standard deviation of a location, and at least two thirds of the root mean square of its
    errors. Otherwise a location that hardly varies, or whose forecast is far off, would dominate the fit.
    """
    mean = known_mean(history)
    deviation = np.sqrt(known_mean((history - mean) ** 2))
    return np.maximum(deviation, np.sqrt(known_mean(errors**2)) / _MOST_RMS).clip(1e-3)
