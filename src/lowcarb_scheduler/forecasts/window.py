"""The cleanest window of a given length: when a job that runs once should start.

The mean over a window that is moved along a step function changes linearly until one of the window's ends
meets a step, so the cleanest window begins or ends at one, or begins now.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from lowcarb_scheduler.clock import HOUR_US, MICROSECOND, from_us, to_us

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from lowcarb_scheduler.intensity import IntensityTable

_EQUAL: Final = 1e-9  # of a mean: two windows that differ by less differ by rounding


@dataclass(frozen=True, slots=True)
class Window:
    """A window at one location.

    Parameters
    ----------
    start, end : datetime
        When it is. Aware, UTC.
    g_per_kwh : float
        Mean intensity in it [gCO2eq/kWh].
    now_g_per_kwh : float or None
        The same in the window that begins now; None where a gap makes it undefined.
    """

    start: datetime
    end: datetime
    g_per_kwh: float
    now_g_per_kwh: float | None

    @property
    def saving(self) -> float | None:
        """How much less it emits than starting now, as a part of one; None where that is undefined."""
        if self.now_g_per_kwh is None or self.now_g_per_kwh <= 0:
            return None
        return 1 - self.g_per_kwh / self.now_g_per_kwh


def cleanest_windows(
    table: IntensityTable, duration: timedelta, now: datetime, until: datetime | None = None
) -> dict[str, Window | None]:
    """Return the cleanest window of each location, the earliest of equals.

    Parameters
    ----------
    table : IntensityTable
        What is expected [gCO2eq/kWh].
    duration : timedelta
        Length of the window. Positive.
    now : datetime
        The earliest start. Aware.
    until : datetime, optional
        When it has to be over; by default the table's end.

    Returns
    -------
    dict
        By location; None where every window that long touches a gap.
    """
    length_us, now_us = duration // MICROSECOND, to_us(now)
    edges = table.edges_us
    last_us = int(edges[-1]) if until is None else min(to_us(until), int(edges[-1]))
    if now_us + length_us > last_us:
        return dict.fromkeys(table.locations)
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
