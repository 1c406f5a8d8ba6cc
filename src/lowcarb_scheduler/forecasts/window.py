"""Cleanest window of a given length: the best start of a job that runs once.

The mean over a window that moves along a step function changes linearly until an end of the window meets an
edge of a step. The cleanest window therefore begins or ends at an edge, or begins now.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from lowcarb_scheduler.clock import HOUR_US, MICROSECOND, from_us, to_us

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from lowcarb_scheduler.intensity import IntensityTable

_EQUAL: Final = 1e-9  # relative difference of two means below which it is rounding


@dataclass(frozen=True, slots=True)
class Window:
    """Time window at one location.

    Parameters
    ----------
    start, end : datetime
        Begin and end. Aware, UTC.
    g_per_kwh : float
        Mean intensity in the window [gCO2eq/kWh].
    now_g_per_kwh : float or None
        Mean intensity in a window of the same length that begins now [gCO2eq/kWh]; None if that has a gap.
    """

    start: datetime
    end: datetime
    g_per_kwh: float
    now_g_per_kwh: float | None

    @property
    def saving(self) -> float | None:
        """Saving against a start now, as a fraction; None if that is undefined."""
        if self.now_g_per_kwh is None or self.now_g_per_kwh <= 0:
            return None
        return 1 - self.g_per_kwh / self.now_g_per_kwh


def cleanest_windows(
    table: IntensityTable, duration: timedelta, now: datetime, until: datetime | None = None
) -> dict[str, Window | None]:
    """Find the cleanest window of each location, the earliest among equals.

    Parameters
    ----------
    table : IntensityTable
        Expected intensity [gCO2eq/kWh].
    duration : timedelta
        Length of the window. Positive.
    now : datetime
        Earliest start. Aware.
    until : datetime, optional
        Latest end. Aware. By default the table's end.

    Returns
    -------
    dict
        Window by location; None if every window of this length touches a gap.
    """
    length_us, now_us = duration // MICROSECOND, to_us(now)
    edges = table.edges_us
    last_us = int(edges[-1]) if until is None else min(to_us(until), int(edges[-1]))
    if now_us + length_us > last_us:
        return dict.fromkeys(table.locations)
    # All windows that begin or end at an edge, the first that may begin and the last that may end.
    starts = np.unique(np.concatenate([[now_us], edges, edges - length_us, [last_us - length_us]]))
    starts = starts[(starts >= now_us) & (starts + length_us <= last_us)]
    means = table.integrate(starts, starts + length_us) * (HOUR_US / length_us)  # (starts, L)
    from_now = table.integrate(now_us, now_us + length_us) * (HOUR_US / length_us)
    windows: dict[str, Window | None] = {}
    for column, location in enumerate(table.locations):
        own = means[:, column]
        if np.isnan(own).all():
            windows[location] = None
            continue
        least = float(np.nanmin(own))
        first = int(np.flatnonzero(own <= least + _EQUAL * abs(least))[0])
        start_us, at_once = int(starts[first]), float(from_now[column])
        windows[location] = Window(
            from_us(start_us), from_us(start_us + length_us), float(own[first]),
            None if np.isnan(at_once) else at_once,
        )  # fmt: skip
    return windows
