"""Forecasts that anybody could have made: from the past of the same trace, and nothing else.

Each day at 00:00 UTC one issue of four days is made of the hours that were known to be over by then. They
stand in where there are no forecasts: a replay on them is honest, and shows what a planner can do at least.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

import numpy as np

from lowcarb_scheduler.backtest.history import over
from lowcarb_scheduler.clock import HOUR_US, from_us, to_us
from lowcarb_scheduler.forecasts.climatology import DAY, LEAST_DAYS, MOST_DAYS, climatology, expected_level

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from lowcarb_scheduler.intensity import Floats, IntensityTable

REACH_HOURS: Final = 96
_DAY_US: Final = DAY * HOUR_US
_PAST_US: Final = MOST_DAYS * _DAY_US


def _usual(hourly: Floats, ahead: int) -> Floats:
    """Return the usual value of each hour of the day and week, with what lasts of the recent level."""
    past = climatology(hourly, ahead)
    return past.usual + expected_level(past.anomaly, ahead)


def _again(hourly: Floats, ahead: int) -> Floats:
    """Return the last day again and again."""
    return hourly[len(hourly) - DAY + np.arange(ahead) % DAY]


NAIVE: Final[Mapping[str, Callable[[Floats, int], Floats]]] = {"climatology": _usual, "persistence": _again}


def naive_issues(
    actual: IntensityTable, kind: str, actual_delay: timedelta = timedelta(0)
) -> tuple[tuple[datetime, IntensityTable], ...]:
    """Return an issue for each day of a trace but its first three.

    Parameters
    ----------
    actual : IntensityTable
        What happened [gCO2eq/kWh].
    kind : {"climatology", "persistence"}
        What is usual at an hour, of the last four weeks; or the last day again.
    actual_delay : timedelta
        How late the actual intensity of an hour was known.

    Returns
    -------
    tuple of (datetime, IntensityTable)
        When each was made, and what it says of the 96 hours from then on; NaN where the past does not tell.
    """
    forecast = NAIVE[kind]
    first_us, last_us = int(actual.edges_us[0]) + LEAST_DAYS * _DAY_US, int(actual.edges_us[-1])
    issues = []
    for issued_us in range(-(-first_us // _DAY_US) * _DAY_US, last_us, _DAY_US):
        known = over(actual, from_us(issued_us) - actual_delay, from_us(issued_us - _PAST_US))
        if known is None:
            continue
        ends_us = min(to_us(known.end), issued_us) // HOUR_US * HOUR_US
        late = (issued_us - ends_us) // HOUR_US
        hours = ends_us - HOUR_US * np.arange(MOST_DAYS * DAY, 0, -1)
        values = forecast(known.integrate(hours, hours + HOUR_US), late + REACH_HOURS)[late:]
        edges = issued_us + HOUR_US * np.arange(REACH_HOURS + 1)
        if not np.isnan(values).all():
            issues.append((from_us(issued_us), actual.relaid(edges, actual.locations, values)))
    return tuple(issues)
