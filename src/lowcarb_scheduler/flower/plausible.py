"""Numbers that a run may wait for, and those that stand for what nobody knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from lowcarb_scheduler.clock import HOUR_US, to_us
from lowcarb_scheduler.forecasts.series import MAX_G_PER_KWH
from lowcarb_scheduler.intensity import IntensityTable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

_SHORTEST_STEP_US: Final = HOUR_US // 60


def without_preference(
    known: IntensityTable | None, locations: Sequence[str], start: datetime, end: datetime
) -> IntensityTable:
    """Return one constant intensity for places of which nothing is known: it favours no place and no time.

    It is the mean of the known places, so that a place nobody forecasts is neither sought nor shunned; 1
    where nothing at all is known.
    """
    finite = np.zeros(0) if known is None else known.values[np.isfinite(known.values)]
    values = np.full((1, len(locations)), finite.mean() if finite.size else 1.0)
    labels = (known.signal, known.source, known.synthetic) if known else ("unknown", "none", False)
    edges = np.array([to_us(start), to_us(end)], dtype=np.int64)
    return IntensityTable(edges, tuple(locations), values, *labels)


def plausible(table: IntensityTable) -> IntensityTable:
    """Return a table with a gap wherever a value cannot be: no hold is based on such a number.

    Steps shorter than a minute are taken together: no grid is metered so finely, and the possible openings of
    rounds follow from the steps. Begin and end stay: what was asked for may begin within a step.
    """
    edges_us = table.edges_us
    if np.diff(edges_us).min() < _SHORTEST_STEP_US:
        first_us, last_us = edges_us[0], edges_us[-1]
        inner_us = np.unique(edges_us // _SHORTEST_STEP_US * _SHORTEST_STEP_US)
        inner_us = inner_us[(inner_us > first_us) & (inner_us < last_us)]
        edges_us = np.concatenate(([first_us], inner_us, [last_us]))
    values = table.sampled(edges_us)
    values = np.where((values >= 0) & (values <= MAX_G_PER_KWH), values, np.nan)
    return table.relaid(edges_us, table.locations, values)
