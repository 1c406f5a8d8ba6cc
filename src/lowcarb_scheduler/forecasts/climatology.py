"""Climatology of intensity by hour of the day, for hours beyond the reach of a forecast.

The climatology of a location is a weighted mean of its own last four weeks, in which recent days and the same
day of the week count more. The anomaly of the last half day, the difference from that mean, is expected to
decay exponentially: forecasts of this form are known as damped persistence [1]_.

References
----------
.. [1] H. M. van den Dool, "Empirical Methods in Short-Term Climate Prediction", Oxford University Press
   (2007).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from lowcarb_scheduler.intensity import Floats

DAY: Final = 24  # [h]
MOST_DAYS: Final = 28
LEAST_DAYS: Final = 3
_MEMORY_DAYS: Final = 14.0  # age at which the weight of a day is 1/e
_SAME_WEEKDAY: Final = 4.0  # factor on the weight of the same day of the week
_LEVEL_HOURS: Final = 12  # over which the recent anomaly is averaged
_LEVEL_KEPT: Final = 0.5  # fraction of the recent anomaly that is expected in the first hour
_LEVEL_FADES_HOURS: Final = 72.0  # until 1/e of that fraction


@dataclass(frozen=True, slots=True)
class Climatology:
    """Climatology of coming hours, and anomaly of the past day.

    Parameters
    ----------
    usual : ndarray, shape (hours ahead, L)
        Weighted mean of the same hour of the day [gCO2eq/kWh]; NaN with less than three days of history.
    weekday : ndarray, shape (hours ahead, L)
        Part of ``usual`` that is due to the day of the week [gCO2eq/kWh].
    anomaly : ndarray, shape (24, L)
        Actual intensity of the last day minus the mean over all days [gCO2eq/kWh]; NaN where unknown.
    """

    usual: Floats
    weekday: Floats
    anomaly: Floats


def climatology(hourly: Floats, ahead: int) -> Climatology:
    """Compute the climatology of coming hours.

    Parameters
    ----------
    hourly : ndarray, shape (T, L)
        Actual intensity of the hours up to now, the newest last [gCO2eq/kWh]; NaN where unknown.
    ahead : int
        Number of hours from now on.
    """
    days = min(len(hourly) // DAY, MOST_DAYS)
    if days < LEAST_DAYS:
        unknown = np.full((ahead, hourly.shape[1]), np.nan)
        return Climatology(unknown, unknown, np.full((DAY, hourly.shape[1]), np.nan))
    # Days are counted back from now, so that each row holds 24 hours whatever the time of day is.
    past = hourly[len(hourly) - days * DAY :].reshape(days, -1)  # (days, hours of the day x L)
    coming = np.arange(-(-ahead // DAY))
    age = np.arange(days, 0, -1)  # [d], of the first hour of each row
    weights = np.exp(-age / _MEMORY_DAYS)
    by_weekday = weights * np.where((age + coming[:, None]) % 7 == 0, _SAME_WEEKDAY, 1.0)
    known = ~np.isnan(past)
    enough = known.sum(axis=0) >= LEAST_DAYS
    filled = np.where(known, past, 0.0)  # unknown hours have no weight in the quotient below

    def mean(weights: Floats) -> Floats:
        return np.where(enough, weights @ filled / np.maximum(weights @ known, 1e-12), np.nan)

    any_day = mean(weights)
    usual = mean(by_weekday)
    return Climatology(
        usual.reshape(len(coming) * DAY, -1)[:ahead],
        (usual - any_day).reshape(len(coming) * DAY, -1)[:ahead],
        (past[-1] - any_day).reshape(DAY, -1),
    )


def expected_level(anomaly: Floats, ahead: int) -> Floats:
    """Compute the part of the recent anomaly that is expected to persist.

    Parameters
    ----------
    anomaly : ndarray, shape (24, L)
        Anomaly of a :class:`Climatology` [gCO2eq/kWh].
    ahead : int
        Number of hours from now on.

    Returns
    -------
    ndarray, shape (ahead, L)
        Addition to the climatology [gCO2eq/kWh]; 0 where the anomaly is unknown.
    """
    fading = _LEVEL_KEPT * np.exp(-np.arange(ahead) / _LEVEL_FADES_HOURS)
    level: Floats = fading[:, None] * known_mean(anomaly[-_LEVEL_HOURS:])
    return level


def known_mean(values: Floats, axis: int = 0) -> Floats:
    """Return the mean of the known values along an axis, 0 where all are NaN."""
    known = ~np.isnan(values)
    mean: Floats = np.where(known, values, 0.0).sum(axis=axis) / np.maximum(known.sum(axis=axis), 1)
    return mean
