"""What a place usually emits at an hour of the day: the expectation where no forecast reaches.

Its own last four weeks, the recent days and the same weekday counting for more; and how far the last half day
was above or below that, which fades over some days.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from lowcarb_scheduler.intensity import Floats

DAY: Final = 24  # hours
MOST_DAYS: Final = 28
LEAST_DAYS: Final = 3
_MEMORY_DAYS: Final = 14.0  # a day counts 1/e of one that is so much younger
_SAME_WEEKDAY: Final = 4.0  # how much more the same day of the week counts
_LEVEL_HOURS: Final = 12  # what "recently" means
_LEVEL_KEPT: Final = 0.5  # part of the recent anomaly that is expected to last at first
_LEVEL_FADES_HOURS: Final = 72.0  # until 1/e of it


@dataclass(frozen=True, slots=True)
class Climatology:
    """What is usual at a place.

    Parameters
    ----------
    usual : ndarray, shape (hours ahead, L)
        Weighted mean of the same hour of the day [gCO2eq/kWh]; NaN with less than three days of it.
    weekday : ndarray, shape (hours ahead, L)
        How much of that is owed to the day of the week [gCO2eq/kWh].
    anomaly : ndarray, shape (24, L)
        What happened over the last day less what is usual on any day [gCO2eq/kWh]; NaN where unknown.
    """

    usual: Floats
    weekday: Floats
    anomaly: Floats


def climatology(hourly: Floats, ahead: int) -> Climatology:
    """Return the usual intensity of coming hours, and how unusual the last day was.

    Parameters
    ----------
    hourly : ndarray, shape (T, L)
        What happened in the hours up to now, the newest last [gCO2eq/kWh]; NaN where unknown.
    ahead : int
        How many hours from now on are asked for.

    """
    days = min(len(hourly) // DAY, MOST_DAYS)
    if days < LEAST_DAYS:
        unknown = np.full((ahead, hourly.shape[1]), np.nan)
        return Climatology(unknown, unknown, np.full((DAY, hourly.shape[1]), np.nan))
    past = hourly[len(hourly) - days * DAY :].reshape(days, -1)  # (days, hours of the day x L)
    coming = np.arange(-(-ahead // DAY))
    age = np.arange(days, 0, -1)
    weights = np.exp(-age / _MEMORY_DAYS)
    by_weekday = weights * np.where((age + coming[:, None]) % 7 == 0, _SAME_WEEKDAY, 1.0)
    known = ~np.isnan(past)
    enough = known.sum(axis=0) >= LEAST_DAYS
    filled = np.where(known, past, 0.0)

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
    """Return how much of the recent anomaly is expected to last.

    Parameters
    ----------
    anomaly : ndarray, shape (24, L)
        That of a :class:`Climatology` [gCO2eq/kWh].
    ahead : int
        How many hours from now on are asked for.

    Returns
    -------
    ndarray, shape (ahead, L)
        To be added to what is usual [gCO2eq/kWh]; 0 where the anomaly is unknown.
    """
    fading = _LEVEL_KEPT * np.exp(-np.arange(ahead) / _LEVEL_FADES_HOURS)
    level: Floats = fading[:, None] * known_mean(anomaly[-_LEVEL_HOURS:])
    return level


def known_mean(values: Floats, axis: int = 0) -> Floats:
    """Return the mean of what is known along an axis, 0 where nothing is."""
    known = ~np.isnan(values)
    mean: Floats = np.where(known, values, 0.0).sum(axis=axis) / np.maximum(known.sum(axis=axis), 1)
    return mean
