"""The rule of flwr-lowcarb, the carbon-aware client selection that was published for Flower in 2022.

Re-implemented from its description. A round opens as soon as the one before is over. Each client looks at its
own window of the forecast, which begins now and grows with the turns the client has had: who has had few
looks a short way ahead, sees little improvement to come, and goes soon. Who is above the 80th percentile of
its window now is skipped; of the others those go first that have the least improvement to come. The window
is at most 36 h long; where too few are left, who would have been skipped follows in the same order.

Here it does the same work as every method: everybody takes the same number of turns, so a client that has
had its own is out, and one that owes a turn in every round left goes first.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

import numpy as np

from lowcarb_scheduler.clock import HOUR_US, MICROSECOND, to_us
from lowcarb_scheduler.planning.participation import decide_turns

if TYPE_CHECKING:
    from datetime import datetime

    from lowcarb_scheduler.backtest.instance import Instance
    from lowcarb_scheduler.intensity import IntensityTable, Ints

LONGEST: Final = timedelta(hours=36)
SKIPPED_ABOVE: Final = 80  # percentile of the window


def owed_turns(case: Instance) -> Ints:
    """Return how many turns each client takes in all, shape (C,)."""
    return decide_turns(case.job(case.start, case.setting.rounds)).most


def chosen_by_rule_2022(
    case: Instance, forecast: IntensityTable, now: datetime, taken: Ints, owed: Ints, rounds_left: int
) -> Ints:
    """Return who trains in the round that opens now.

    Parameters
    ----------
    case : Instance
        The job.
    forecast : IntensityTable
        What is expected from now on [gCO2eq/kWh]; where it ends, the windows end.
    now : datetime
        When the round opens.
    taken, owed : ndarray of int64, shape (C,)
        Turns had so far, and in all.
    rounds_left : int
        This one included.

    Returns
    -------
    ndarray of int64, shape (n,)
        Positions in the fleet, in order.
    """
    fleet, setting = case.fleet, case.setting
    length_us = setting.round_duration // MICROSECOND
    opens_us = to_us(now) + HOUR_US * np.arange(LONGEST // timedelta(hours=1))
    columns = forecast.columns(fleet.locations)[fleet.location_index]
    grams = forecast.integrate(opens_us, opens_us + length_us)[:, columns].T  # (C, openings)
    hours = np.maximum(1, np.rint(len(opens_us) * taken / np.maximum(owed, 1)).astype(np.int64))
    now_g = np.nan_to_num(grams[:, 0])  # where nothing is known, now is as good as any time
    to_come, skipped = np.zeros(len(fleet)), np.zeros(len(fleet), dtype=bool)
    for length in np.unique(hours):
        alike = hours == length
        window = np.column_stack([now_g[alike], grams[alike, 1:length]])
        to_come[alike] = now_g[alike] - np.nanmin(window, axis=1)
        percentile = np.nanpercentile if np.isnan(window).any() else np.percentile  # the former is slow
        skipped[alike] = now_g[alike] > percentile(window, SKIPPED_ABOVE, axis=1)
    left = owed - taken
    tie = np.random.default_rng([int(taken.sum()), to_us(case.start) // HOUR_US]).random(len(fleet))
    order = np.lexsort((tie, to_come, skipped, left < rounds_left, left < 1))
    return np.sort(order[: setting.clients_per_round])
