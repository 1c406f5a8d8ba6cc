"""Cells of a heat map or a strip of hours: as few hours each as there is room for."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import numpy as np

from lowcarb_scheduler.clock import EPOCH, HOUR_US, MICROSECOND, to_us

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lowcarb_scheduler.intensity import Floats, IntensityTable, Ints

_STEPS: Final = tuple(timedelta(hours=h) for h in (1, 2, 3, 6, 12, 24, 48, 96, 168, 336, 672))


def edges_of(start: datetime, end: datetime, columns: int) -> Ints:
    """Return edges of cells on whole hours, as few hours each as the columns allow [µs since 1970 UTC]."""
    step = next((s for s in _STEPS if (end - start) / s <= columns - 1), _STEPS[-1])
    first = EPOCH + (start - EPOCH) // step * step
    cells = min(-((first - end) // step), columns)
    return to_us(first) + np.arange(cells + 1, dtype=np.int64) * (step // MICROSECOND)


def means_of(intensity: IntensityTable, places: Sequence[str], edges: Ints) -> Floats:
    """Return the mean intensity in cells, shape (cells, places) [gCO2eq/kWh]; NaN where it is not known."""
    table = intensity.align(places)
    # The first and the last cell may reach beyond the table.
    starts, ends = np.clip(edges[:-1], *table.edges_us[[0, -1]]), np.clip(edges[1:], *table.edges_us[[0, -1]])
    hours = (ends - starts)[:, None] / HOUR_US
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(hours > 0, table.integrate(starts, ends) / hours, np.nan)
