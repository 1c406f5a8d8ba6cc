"""From the newest forecast and what really happened to the intensity to be expected.

Each step only where it has something to stand on:

1. *Correction.* What the newest issue is expected to be wrong by is added to it: learned from the issues
   before it, or, with none to learn from, its last error, fading
   (see :mod:`lowcarb_scheduler.forecasts.bias_correction`).
2. *Climatology.* Beyond the forecast's end, in its holes, and for a place without a forecast stands what is
   usual there at that hour, if there are at least three days of history.
3. What remains unknown stays a gap.

All of it happens on hours of the clock, counted from the last hour whose actual intensity is known: actuals
may be late. The forecast's own steps are kept; a correction shifts all steps of an hour alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np

from lowcarb_scheduler.clock import HOUR_US, to_us, to_utc
from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.forecasts.climatology import DAY, MOST_DAYS, climatology, expected_level, known_mean

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from lowcarb_scheduler.intensity import Floats, IntensityTable, Ints

# -- Learning from past issues what the newest forecast will be wrong by ------------------------------------
# Every provider errs in its own way, so nothing fitted is shipped: the corrector learns from the user's own
# archive, at each call anew, from the issues before the newest and what happened since [1]_. Each past
# issue is looked at as of the same age, so that what was known then is what is known now. For each lead
# there is one ridge regression, pooled over all places and, by a kernel, over neighbouring leads. Its
# predictors are all known when a plan is made:
#
# - what the newest issue was wrong by over the last 1, 3, 6 and 24 hours;
# - what is usual at that hour, and what happened the day before, less the forecast;
# - how much of what is usual is owed to the day of the week;
# - how unusual the last 1, 6, 12 and 24 hours were.
#
# The ridge does not draw towards nothing but towards *error fading*: the last error, fading by ``FADING`` an
# hour. That is what is left where there is no past issue to learn from, and the step from one to the other is
# smooth. A place whose actuals come later than those of others is corrected as of the last hour known of it.
#
# References
# ----------
# .. [1] H. R. Glahn and D. A. Lowry, "The use of model output statistics (MOS) in objective weather
#    forecasting", Journal of Applied Meteorology 11 (1972).

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


HISTORY: Final = timedelta(days=MOST_DAYS)  # how far back anything is looked at
ISSUES_EVERY: Final = timedelta(hours=6)  # of issues closer to each other the newest is learned from
ORIGINS: Final = ("unknown", "forecast", "corrected", "climatology", "last good", "default")
_UNKNOWN, _FORECAST, _CORRECTED, _CLIMATOLOGY, _LAST_GOOD, _DEFAULT = range(len(ORIGINS))
_SAMPLES: Final = 4  # an hour
_MOST_LEADS: Final = 240  # hours; a forecast further ahead is not corrected


@dataclass(frozen=True, slots=True)
class Expectation:
    """What is expected, and on what grounds.

    Parameters
    ----------
    intensity : IntensityTable
        From now until the deadline [gCO2eq/kWh].
    origin : ndarray of uint8, shape like ``intensity.values``
        Where each value came from, as its number in ``ORIGINS``.
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
        The newest forecast; what it says of hours before ``now`` shows its error. Its columns are the
        locations of the result.
    history : IntensityTable or None
        What really happened. Only steps that are over by ``now`` are looked at, 28 days of them.
    now, until : datetime
        What the result spans; ``until`` is after ``now``.
    past_forecasts : sequence of IntensityTable
        Issues before the newest, in any order. The correction is learned from them, and from how they turned
        out; each is taken to have been issued about when it begins.

    Returns
    -------
    IntensityTable
        On the forecast's steps while it lasts, on its median step (at most an hour) after. NaN where
        neither forecast nor history knows.

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
    """Return what :func:`correct_forecast` returns, with where each value came from.

    Parameters
    ----------
    forecast, history, now, until, past_forecasts
        As there.
    last_good : collection of str
        Locations whose forecast is not fresh but the last good one.
    default : collection of str
        Locations whose values are no forecast but a stand-in, since nothing is known of them.

    Raises
    ------
    InputError
        As there.
    """
    now, until = to_utc(now, "now"), to_utc(until, "until")
    if until <= now:
        raise InputError("until", "is not after now", "give a later time")
    edges = _edges(forecast, to_us(now), to_us(until))
    raw = forecast.sampled(edges)
    values, origin = raw, np.where(np.isnan(raw), _UNKNOWN, _FORECAST)
    past = (
        None
        if history is None
        else _Past.known(_of_one_signal(history, forecast, "history"), forecast, to_us(now))
    )
    if past is not None:
        hours = (edges[:-1] - past.ends_us) // HOUR_US  # since the last known one
        correction = past.correction(forecast, past_forecasts)
        near = np.minimum(hours, len(correction) - 1)
        shift = np.where((hours < len(correction))[:, None], correction[near], 0.0)
        values = past.bounded(raw + shift, forecast)
        days = climatology(past.hourly, int(hours[-1]) + 1)
        usual = days.usual + expected_level(days.anomaly, len(days.usual))
        origin = np.where((shift != 0) & (origin == _FORECAST), _CORRECTED, origin)
        origin = np.where(np.isnan(values) & ~np.isnan(usual[hours]), _CLIMATOLOGY, origin)
        values = np.where(np.isnan(values), usual[hours], values)
    forecast_or_so = np.isin(origin, (_FORECAST, _CORRECTED))
    for named, label in ((last_good, _LAST_GOOD), (default, _DEFAULT)):
        origin = np.where(np.isin(forecast.locations, list(named)) & forecast_or_so, label, origin)
    return Expectation(forecast.relaid(edges, forecast.locations, values), origin.astype(np.uint8))


def _edges(forecast: IntensityTable, now_us: int, until_us: int) -> Ints:
    """Return the steps of the result: the forecast's own, then its median step."""
    step = min(forecast.step // timedelta(microseconds=1), HOUR_US)
    end = max(now_us, int(forecast.edges_us[-1]))
    beyond = np.arange(end + step, until_us, step, dtype=np.int64)
    own = forecast.edges_us[(forecast.edges_us > now_us) & (forecast.edges_us < until_us)]
    # Corrections and climatology change at full hours: they are edges too.
    hours = np.arange(-(-now_us // HOUR_US) * HOUR_US, until_us, HOUR_US, dtype=np.int64)
    return np.unique(np.concatenate([[now_us], own, beyond, hours[hours > now_us], [until_us]]))


@dataclass(frozen=True, slots=True)
class _Past:
    """What happened, by the hour.

    Parameters
    ----------
    begins_us, ends_us : int
        Begin of its first hour, end of its last [µs since 1970 UTC].
    hourly : ndarray, shape (T, L)
        Mean intensity [gCO2eq/kWh], NaN where unknown; in the last hour one place at least is
        known, or it is the 24th.
    """

    begins_us: int
    ends_us: int
    hourly: Floats

    @classmethod
    def known(cls, history: IntensityTable, forecast: IntensityTable, now_us: int) -> _Past | None:
        """Return what is over by now at the places of a forecast; None where nothing is known."""
        now_us = now_us // HOUR_US * HOUR_US
        begins_us = now_us - MOST_DAYS * DAY * HOUR_US
        hourly = _hourly(_ended(history, now_us), begins_us, MOST_DAYS * DAY, forecast.locations)
        hours = np.flatnonzero(~np.isnan(hourly).all(axis=1))
        if not len(hours):
            return None
        last = max(int(hours[-1]) + 1, DAY)  # errors and anomalies are looked at by the day
        return cls(begins_us, begins_us + last * HOUR_US, hourly[:last])

    def correction(self, forecast: IntensityTable, past_forecasts: Sequence[IntensityTable]) -> Floats:
        """Return what is to be added to the hours after the last known one; shape (hours, L)."""
        begin_us = _issued_us(forecast)
        ahead = min(-(-(int(forecast.edges_us[-1]) - self.ends_us) // HOUR_US), _MOST_LEADS)
        if begin_us is None or ahead < 1:
            return np.zeros((1, len(forecast.locations)))
        newest = self._issue(forecast, begin_us, forecast.locations)
        kept: list[Issue] = []
        before_us = begin_us
        issued = [(begin, table) for table in past_forecasts if (begin := _issued_us(table)) is not None]
        for issue_us, table in sorted(issued, key=lambda pair: pair[0], reverse=True):
            if issue_us < before_us and len(kept) < MOST_ISSUES and issue_us > self.begins_us:
                kept.insert(
                    0,
                    self._issue(
                        _of_one_signal(table, forecast, "past forecast"), issue_us, forecast.locations
                    ),
                )
                before_us = issue_us - ISSUES_EVERY // timedelta(microseconds=1) + 1
        return learned_correction(self.hourly, newest, kept, ahead)

    def bounded(self, values: Floats, forecast: IntensityTable) -> Floats:
        """Keep a correction within what its place has emitted or is forecast to emit."""
        seen = np.concatenate([self.hourly, forecast.values])
        known = ~np.isnan(seen)
        low = np.where(known, seen, np.inf).min(axis=0)
        high = np.where(known, seen, -np.inf).max(axis=0)
        return np.clip(values, low, high)

    def _issue(self, table: IntensityTable, begin_us: int, locations: Sequence[str]) -> Issue:
        """Return a forecast by the hour, counted like the history."""
        start = (begin_us - self.begins_us) // HOUR_US
        hours = -(-(int(table.edges_us[-1]) - begin_us) // HOUR_US)
        first_us = self.begins_us + start * HOUR_US
        return Issue(start, _hourly(table, first_us, min(hours, _MOST_LEADS + DAY), locations))


def _of_one_signal(table: IntensityTable, forecast: IntensityTable, what: str) -> IntensityTable:
    """Return the table if it measures what the forecast measures."""
    if table.signal != forecast.signal:
        problem = f"the {what}'s is {table.signal}, the forecast's {forecast.signal}"
        raise InputError("signal", problem, "use one signal in a run")
    return table


def _ended(history: IntensityTable, now_us: int) -> IntensityTable | None:
    """Return the steps that are over: the one that runs is not known yet, whoever may have written it."""
    steps = int(np.searchsorted(history.edges_us, now_us, side="right")) - 1
    if steps < 1:
        return None
    return history.relaid(history.edges_us[: steps + 1], history.locations, history.values[:steps])


def _hourly(table: IntensityTable | None, begins_us: int, hours: int, locations: Sequence[str]) -> Floats:
    """Return means by the hour, of samples every quarter; shape (hours, L), NaN where nothing is known."""
    if table is None:
        return np.full((hours, len(locations)), np.nan)
    quarters = begins_us + np.arange(hours * _SAMPLES + 1, dtype=np.int64) * (HOUR_US // _SAMPLES)
    values = table.sampled(quarters, locations).reshape(hours, _SAMPLES, -1)
    known = ~np.isnan(values)
    count = known.sum(axis=1)
    total = np.where(known, values, 0.0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _issued_us(table: IntensityTable) -> int | None:
    """Return about when a forecast was issued: when most of its places begin; None where it is all gaps."""
    known = ~np.isnan(table.values)
    begins = known.argmax(axis=0)[known.any(axis=0)]
    return int(table.edges_us[int(np.median(begins))]) if len(begins) else None
